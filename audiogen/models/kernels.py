"""Group norms of maps whose channels lie last, with the SiLU behind them: what runs on a GPU, for `fused`.

A program has one item and some whole groups of it: a few dozen neighbouring channels, which lie together. It takes all of
their positions at once where those fit its registers; otherwise positions are split among programs, of which a first kernel
makes sums and a second the result. Sums are of float32 and in a fixed order, so that results repeat to the bit.

Shapes: B items, C channels, G groups, S splits of the positions. Of a tile: P positions, W channels, of which WIDTH count
(W is the power of two that is no less), G groups, of which `per` count; N tiles of a split, one after the other.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl
from triton.language import constexpr

JIT = triton.jit(do_not_specialize=["hw", "groups", "cpg", "per", "eps"])   # else each size is compiled anew


@triton.jit
def _members(cpg, WIDTH: constexpr, W: constexpr, G: constexpr):
    """Which channel of a tile is of which of its groups (W, G): a group has cpg channels, seldom a power of two."""
    c = tl.arange(0, W)[:, None]
    return (c // cpg == tl.arange(0, G)[None, :]) & (c < WIDTH)


@triton.jit
def _gather(values, member):
    """Sums over the channels of each group; (W,) -> (G,)"""
    return tl.sum(tl.where(member, values[:, None], 0.0), axis=0)


@triton.jit
def _spread(values, member):
    """What a group has, for each of its channels; (G,) -> (W,)"""
    return tl.sum(tl.where(member, values[None, :], 0.0), axis=1)


@triton.jit
def _affine(weight, bias, block, c, inside, WIDTH: constexpr):
    """Weights and biases of a tile's channels, (W,) each."""
    scale = tl.load(weight + block * WIDTH + c, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + block * WIDTH + c, mask=inside, other=0.0).to(tl.float32)
    return scale, shift


@triton.jit
def _known(stats, item, block, groups, per, g, member):
    """Means and reciprocal deviations that were kept, for each channel, (W,) each."""
    there = stats + item * 2 * groups + block * per + g
    mean = tl.load(there, mask=g < per, other=0.0)
    rstd = tl.load(there + groups, mask=g < per, other=0.0)
    return _spread(mean, member), _spread(rstd, member)


@triton.jit
def _keep(to, mean, rstd, item, block, groups, per, g):
    """Two numbers of each group, to (items, 2, G)."""
    to += item * 2 * groups + block * per + g
    tl.store(to, mean, mask=g < per)
    tl.store(to + groups, rstd, mask=g < per)


@triton.jit
def _pulled(x, dy, at, here, mean, rstd, scale, shift, SILU: constexpr):
    """What was normed and the gradient of what came of it before the SiLU, (P, W) each; beyond the map the latter is 0."""
    v = (tl.load(x + at, mask=here, other=0.0).to(tl.float32) - mean[None, :]) * rstd[None, :]
    dz = tl.load(dy + at, mask=here, other=0.0).to(tl.float32)
    if SILU:
        z = v * scale[None, :] + shift[None, :]
        s = tl.sigmoid(z)
        dz = dz * (s * (1.0 + z * (1.0 - s)))
    return v, dz


@triton.jit
def _shared(plain, times, scale, count, member):
    """The means over a group of its gradients, and of those times what was normed, for each channel, (W,) each."""
    return _spread(_gather(plain * scale, member) / count, member), _spread(_gather(times * scale, member) / count, member)


@triton.jit
def _held(hw, channels, cpg, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr):
    """Of a program that has all positions: its block, item, channels (W,), groups (G,), which of them count, and where."""
    block, item = tl.program_id(0), tl.program_id(1).to(tl.int64)
    p, c, g = tl.arange(0, P)[:, None], tl.arange(0, W), tl.arange(0, G)
    inside, member = c < WIDTH, _members(cpg, WIDTH, W, G)
    here = (p < hw) & inside[None, :]
    return block, item, c, g, inside, member, here, item * hw * channels + block * WIDTH, p * channels + c[None, :]


@JIT
def whole(x, y, weight, bias, stats, hw, channels, groups, cpg, per, eps,
          SILU: constexpr, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr):
    """Grid (blocks of channels, B): y, and the means and reciprocal deviations to stats (B, 2, G)."""
    block, item, c, g, inside, member, here, start, at = _held(hw, channels, cpg, WIDTH, W, G, P)
    v = tl.load(x + start + at, mask=here, other=0.0).to(tl.float32)
    count = (hw * cpg).to(tl.float32)
    mean = _gather(tl.sum(v, axis=0), member) / count
    v = tl.where(here, v - _spread(mean, member)[None, :], 0.0)
    rstd = 1.0 / tl.sqrt(_gather(tl.sum(v * v, axis=0), member) / count + eps)
    _keep(stats, mean, rstd, item, block, groups, per, g)
    scale, shift = _affine(weight, bias, block, c, inside, WIDTH)
    scale = scale * _spread(rstd, member)
    z = v * scale[None, :] + shift[None, :]
    if SILU:
        z = z * tl.sigmoid(z)
    tl.store(y + start + at, z.to(y.dtype.element_ty), mask=here)


@JIT
def moments(x, part, hw, channels, groups, cpg, per,
            WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr, N: constexpr, S: constexpr):
    """Grid (blocks of channels, B, S): mean and sum of squared distances to it, of a split, to part (B, S, 2, G).

    Sums are of distances to the first tile's mean of each channel: squares of a mean far from 0 would drown the variance.
    """
    block, item, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, c, g = tl.arange(0, P)[:, None], tl.arange(0, W), tl.arange(0, G)
    inside, member = c < WIDTH, _members(cpg, WIDTH, W, G)
    x += item * hw * channels + block * WIDTH
    first = split * (N * P)
    end = tl.minimum(first + N * P, hw)
    held = (end - first).to(tl.float32)
    v = tl.load(x + (first + p) * channels + c[None, :], mask=(first + p < end) & inside[None, :], other=0.0).to(tl.float32)
    near = tl.sum(v, axis=0) / tl.minimum(end - first, P).to(tl.float32)
    ones, squares = tl.zeros((P, W), tl.float32), tl.zeros((P, W), tl.float32)
    for i in range(N):
        q = first + i * P + p
        here = (q < hw) & inside[None, :]
        v = tl.load(x + q * channels + c[None, :], mask=here, other=0.0).to(tl.float32)
        v = tl.where(here, v - near[None, :], 0.0)
        ones += v
        squares += v * v
    off = tl.sum(ones, axis=0) / held
    squared = tl.maximum(tl.sum(squares, axis=0) - held * off * off, 0.0)
    mean = _gather(near + off, member) / cpg
    away = tl.where(inside, near + off - _spread(mean, member), 0.0)
    squared = _gather(squared + held * away * away, member)
    _keep(part, mean, squared, item * tl.num_programs(2) + split, block, groups, per, g)


@JIT
def normed(x, y, weight, bias, part, stats, hw, channels, groups, cpg, per, eps,
           SILU: constexpr, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr, N: constexpr, S: constexpr):
    """Grid (blocks of channels, B, S): y and stats as `whole`, from the part (B, S, 2, G) of each split."""
    block, item, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, c, g, s = tl.arange(0, P)[:, None], tl.arange(0, W), tl.arange(0, G), tl.arange(0, S)[:, None]
    inside, member = c < WIDTH, _members(cpg, WIDTH, W, G)
    splits = tl.num_programs(2)                                  # S is the power of two that is no less
    there = part + (item * splits + s) * 2 * groups + block * per + g[None, :]       # (S, G)
    known = (s < splits) & (g[None, :] < per)
    means = tl.load(there, mask=known, other=0.0)
    squared = tl.load(there + groups, mask=known, other=0.0)
    held = tl.minimum(tl.maximum(hw - s * (N * P), 0), N * P).to(tl.float32)         # (S, 1)
    mean = tl.sum(means * held, axis=0) / hw
    away = means - mean[None, :]
    rstd = 1.0 / tl.sqrt(tl.sum(squared + away * away * (held * cpg), axis=0) / (hw * cpg).to(tl.float32) + eps)
    if split == 0:
        _keep(stats, mean, rstd, item, block, groups, per, g)
    middle = _spread(mean, member)
    scale, shift = _affine(weight, bias, block, c, inside, WIDTH)
    scale = scale * _spread(rstd, member)
    start = item * hw * channels + block * WIDTH
    for i in range(N):
        q = split * (N * P) + i * P + p
        here, at = (q < hw) & inside[None, :], q * channels + c[None, :]
        v = tl.load(x + start + at, mask=here, other=0.0).to(tl.float32)
        z = (v - middle[None, :]) * scale[None, :] + shift[None, :]
        if SILU:
            z = z * tl.sigmoid(z)
        tl.store(y + start + at, z.to(y.dtype.element_ty), mask=here)


@JIT
def whole_back(x, dy, dx, weight, bias, stats, sums, hw, channels, groups, cpg, per,
               SILU: constexpr, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr):
    """Grid (blocks of channels, B): dx, and the item's share of dbias and dweight to sums (2, B, C)."""
    block, item, c, g, inside, member, here, start, at = _held(hw, channels, cpg, WIDTH, W, G, P)
    mean, rstd = _known(stats, item, block, groups, per, g, member)
    scale, shift = _affine(weight, bias, block, c, inside, WIDTH)
    v, dz = _pulled(x + start, dy + start, at, here, mean, rstd, scale, shift, SILU)
    plain, times = tl.sum(dz, axis=0), tl.sum(dz * v, axis=0)
    to = sums + item * channels + block * WIDTH + c
    tl.store(to, plain, mask=inside)
    tl.store(to + tl.num_programs(1).to(tl.int64) * channels, times, mask=inside)
    a, b = _shared(plain, times, scale, (hw * cpg).to(tl.float32), member)
    d = (dz * scale[None, :] - a[None, :] - v * b[None, :]) * rstd[None, :]
    tl.store(dx + start + at, d.to(dx.dtype.element_ty), mask=here)


@JIT
def sums_back(x, dy, weight, bias, stats, sums, hw, channels, groups, cpg, per,
              SILU: constexpr, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr, N: constexpr, S: constexpr):
    """Grid (blocks of channels, B, S): the split's share of dbias and dweight, to sums (2, B, S, C)."""
    block, item, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, c, g = tl.arange(0, P)[:, None], tl.arange(0, W), tl.arange(0, G)
    inside, member = c < WIDTH, _members(cpg, WIDTH, W, G)
    mean, rstd = _known(stats, item, block, groups, per, g, member)
    scale, shift = _affine(weight, bias, block, c, inside, WIDTH)
    start = item * hw * channels + block * WIDTH
    plain, times = tl.zeros((P, W), tl.float32), tl.zeros((P, W), tl.float32)
    for i in range(N):
        q = split * (N * P) + i * P + p
        here, at = (q < hw) & inside[None, :], q * channels + c[None, :]
        v, dz = _pulled(x + start, dy + start, at, here, mean, rstd, scale, shift, SILU)
        plain += dz
        times += dz * v
    shares = tl.num_programs(1).to(tl.int64) * tl.num_programs(2)
    to = sums + (item * tl.num_programs(2) + split) * channels + block * WIDTH + c
    tl.store(to, tl.sum(plain, axis=0), mask=inside)
    tl.store(to + shares * channels, tl.sum(times, axis=0), mask=inside)


@JIT
def back(x, dy, dx, weight, bias, stats, sums, hw, channels, groups, cpg, per,
         SILU: constexpr, WIDTH: constexpr, W: constexpr, G: constexpr, P: constexpr, N: constexpr, S: constexpr):
    """Grid (blocks of channels, B, S): dx, from the sums (2, B, S, C) of every split."""
    block, item, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    p, c, g, s = tl.arange(0, P)[:, None], tl.arange(0, W), tl.arange(0, G), tl.arange(0, S)[:, None]
    inside, member = c < WIDTH, _members(cpg, WIDTH, W, G)
    mean, rstd = _known(stats, item, block, groups, per, g, member)
    scale, shift = _affine(weight, bias, block, c, inside, WIDTH)
    splits = tl.num_programs(2)
    shares = sums + (item * splits + s) * channels + block * WIDTH + c[None, :]      # (S, W)
    known = (s < splits) & inside[None, :]
    plain = tl.sum(tl.load(shares, mask=known, other=0.0), axis=0)
    times = tl.sum(tl.load(shares + tl.num_programs(1).to(tl.int64) * splits * channels, mask=known, other=0.0), axis=0)
    a, b = _shared(plain, times, scale, (hw * cpg).to(tl.float32), member)
    start = item * hw * channels + block * WIDTH
    for i in range(N):
        q = split * (N * P) + i * P + p
        here, at = (q < hw) & inside[None, :], q * channels + c[None, :]
        v, dz = _pulled(x + start, dy + start, at, here, mean, rstd, scale, shift, SILU)
        d = (dz * scale[None, :] - a[None, :] - v * b[None, :]) * rstd[None, :]
        tl.store(dx + start + at, d.to(dx.dtype.element_ty), mask=here)
