"""Sounds longer than the window of a network, made of overlapping pieces of its size (MultiDiffusion: Bar-Tal et al. 2023).

Lengths are in latent frames along one axis; positions wrap around at the end, which only a loop makes use of.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.diffusion.sampling import Denoise, Noise, item_noise

STREAM = 0x9E3779B97F4A7C15                                      # odd: distance between the seeds of a long sound's blocks


@dataclass(frozen=True)
class Tiling:
    """Pieces of `size` frames that cover `length` frames, each frame by one or more of them."""

    length: int
    size: int
    starts: tuple[int, ...]

    def at(self, i: int) -> Tensor:
        """The frames of piece i. (size,)"""
        return (self.starts[i] + torch.arange(self.size)) % self.length

    def weight(self, i: int) -> Tensor:
        """What piece i counts at each of its frames, above 0: it fades where its neighbours overlap it. (size,)"""
        n, weight = len(self.starts), torch.ones(self.size)
        loop = self.starts[-1] + self.size > self.length
        if i > 0 or loop:
            weight *= _rise(self.size - (self.starts[i] - self.starts[i - 1]) % self.length, self.size)
        if i < n - 1 or loop:
            weight *= _rise(self.size - (self.starts[(i + 1) % n] - self.starts[i]) % self.length, self.size).flip(0)
        return weight


def _rise(overlap: int, size: int) -> Tensor:
    """From just above 0 to 1 over `overlap` frames, as a squared sine, then 1. (size,)"""
    return (math.pi / 2 * ((torch.arange(size) + 0.5) / max(overlap, 1)).clamp(max=1)).sin().square()


def tile(length: int, size: int, loop: bool = False) -> Tiling:
    """Pieces that overlap by half; one piece where that is enough. Those of a loop go on over its end."""
    if length <= size:
        return Tiling(length, length, (0,))
    stride = max(1, size // 2)
    if loop:
        n = math.ceil(length / stride)
        return Tiling(length, size, tuple(i * length // n for i in range(n)))
    return Tiling(length, size, (*range(0, length - size, stride), length - size))


def overlapped(f: Callable[[Tensor, int], Tensor], x: Tensor, tiling: Tiling, axis: int,
               scale: tuple[int, int] = (1, 1)) -> Tensor:
    """Apply f(part, i) to each piece i of x along `axis`, one at a time, and cross-fade the results.

    `scale` is how many positions of x, and of the result, a frame of the tiling has.
    """
    if len(tiling.starts) == 1:
        return f(x, 0)
    total = share = None
    for i in range(len(tiling.starts)):
        part = f(x.index_select(axis, moved(_positions(tiling.at(i), scale[0]), x)), i)
        at = moved(_positions(tiling.at(i), scale[1]), part)
        weight = moved(tiling.weight(i).repeat_interleave(scale[1]).to(part.dtype), part)
        if total is None or share is None:
            total = part.new_zeros([*part.shape[:axis], tiling.length * scale[1], *part.shape[axis + 1 :]])
            share = part.new_zeros(tiling.length * scale[1])
        total.index_add_(axis, at, part * along(weight, axis, part.ndim))
        share.index_add_(0, at, weight)
    assert total is not None and share is not None  # noqa: PT018
    return total / along(share, axis, total.ndim)


def moved(values: Tensor, x: Tensor) -> Tensor:
    """A few values of the CPU's, where x lies; a CUDA device goes on with what it does meanwhile."""
    return values.to(x.device, non_blocking=x.is_cuda)


def _positions(frames: Tensor, scale: int) -> Tensor:
    """(n,) -> (n * scale,)"""
    return (frames[:, None] * scale + torch.arange(scale)).flatten()


def along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """values (n,) shaped to lie along `axis` of a tensor of `ndim` axes."""
    return values.view([-1 if i == axis else 1 for i in range(ndim)])


def windowed(pieces: Sequence[Denoise], tiling: Tiling, axis: int) -> Denoise:
    """Denoise each piece of a long x by the denoiser of its own; what they say of the same frames is cross-faded."""
    return lambda x, sigma: overlapped(lambda part, i: pieces[i](part, sigma), x, tiling, axis)


def mixed(parts: Sequence[tuple[Denoise, Tensor]], axis: int) -> Denoise:
    """Several denoisers, each with its share (n,) of the frames along `axis`; the shares of a frame add up to 1."""
    heard = [(denoise, share) for denoise, share in parts if share.any()]
    if len(heard) == 1:
        return heard[0][0]
    return lambda x, sigma: sum(d(x, sigma) * along(moved(share.to(x.dtype), x), axis, x.ndim) for d, share in heard)   # type: ignore[return-value]


def long_noise(seeds: list[int], shape: tuple[int, ...], axis: int, size: int, slow: int | None) -> Noise:
    """Draws (B, *shape) in blocks of `size` along `axis` (of the draw), each with its own generator.

    Of a draw of several blocks, what changes more slowly than in `slow` frames, if that is given, stays as it is in the middle
    of the first.
    """
    length = shape[axis - 1]
    if length <= size:
        return item_noise(seeds, shape)
    block = (*shape[: axis - 1], size, *shape[axis:])
    draws = [item_noise([(seed + k * STREAM) % 2**63 for seed in seeds], block) for k in range(math.ceil(length / size))]

    def whole() -> Tensor:
        noise = torch.cat([draw() for draw in draws], dim=axis)
        return (noise if slow is None else held(noise, axis, size // 2, slow)).narrow(axis, 0, length)

    return whole


def held(noise: Tensor, axis: int, at: int, slow: int) -> Tensor:
    """Noise whose slow part is everywhere that of frame `at`: else rain would stop and swell, as some of what was learnt does.

    What is slow is the average over `slow` frames, taken twice. Each value's variance stays 1.
    """
    n = 2 * (slow // 2) + 1
    average = noise.movedim(axis, -1)
    shape = average.shape
    average = average.reshape(1, -1, shape[-1])
    for _ in range(2):
        average = F.avg_pool1d(average, n, 1, n // 2, count_include_pad=False)
    average = average.view(shape).movedim(-1, axis)
    power = (2 * n**2 + 1) / (3 * n**3)                          # of the average: the sum of its squared weights
    missing = 2 / n - power                                      # what noise loses without it, by its weight 1 / n at the middle
    return noise - average + average.narrow(axis, at, 1) * (missing / power) ** 0.5
