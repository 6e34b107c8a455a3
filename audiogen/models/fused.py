"""Group norms of maps whose channels lie last, with the SiLU behind them, in one go on a GPU.

PyTorch's own wants the channels first: a map is copied, normed, passed through the SiLU, and copied back. Here it is read
once, or twice where it is large, and written once. Only x, the means and the deviations are kept for the backward pass.
Needs Triton, and is imported late. Shapes: B items, C channels, G groups, h x w positions.
"""

import warnings
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiogen.models import kernels

WHOLE = 16_384                                                   # values of a tile up to which a program holds all positions
TILE = 4096                                                      # values of a tile otherwise
WIDE = 32                                                        # positions above which narrower tiles are held, and more of them
CHANNELS = 4096                                                  # of a group at most
ITEMS = 65_535                                                   # of a grid's second side at most
PROGRAMS, SPLITS = 2048, 32                                      # programs that keep a GPU busy; splits at most


class Tiling(NamedTuple):
    """How a map is divided among programs."""

    grid: tuple[int, ...]                                        # blocks of channels, B, and, unless a program has all, splits
    numbers: tuple[int, ...]                                     # hw, C, G, channels a group, groups a block
    shape: dict[str, int]                                        # of a tile; warps


@cache
def tiling(items: int, channels: int, hw: int, groups: int) -> Tiling:
    """The division of a map (B, C, h, w) into tiles, a plain rule of its sizes."""
    cpg = channels // groups

    def block(wanted: int) -> tuple[int, int]:                   # groups: rows of 16 bytes if can be, not much wider than wanted
        fitting = [n for n in range(1, groups + 1) if groups % n == 0 and (n == 1 or n * cpg <= 256)]
        per = min(fitting, key=lambda n: (n * cpg % 8 != 0, max(wanted - n * cpg, 0), n))
        return per, _power(per * cpg)

    positions = max(_power(hw), 2)
    per, w = block(32 if hw > WIDE else 48)
    if positions * w <= WHOLE:
        grid: tuple[int, ...] = (groups // per, items)
        shape = {"P": positions, "num_warps": min(max(positions * w // 1024, 1), 16)}
    else:
        per, w = block(48)
        p, n = max(TILE // w, 2), 1                              # each program has n tiles of p positions
        while (splits := -(-hw // (n * p))) > 2 and (splits > SPLITS or items * (groups // per) * splits > PROGRAMS):
            n *= 2
        grid = groups // per, items, splits
        shape = {"P": p, "N": n, "S": _power(splits), "num_warps": 8}
    return Tiling(grid, (hw, channels, groups, cpg, per), {**shape, "WIDTH": per * cpg, "W": w, "G": max(_power(per), 2)})


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        b, c, h, w = x.shape
        tiles = tiling(b, c, h * w, groups)
        grid, numbers, shape = tiles
        y, stats = torch.empty_like(x), x.new_empty((b, 2, groups), dtype=torch.float32)
        with torch.cuda.device_of(x):
            if len(grid) == 2:
                kernels.whole[grid](x, y, weight, bias, stats, *numbers, eps, SILU=silu, **shape)
            else:
                part = x.new_empty((b, grid[2], 2, groups), dtype=torch.float32)
                kernels.moments[grid](x, part, *numbers, **shape)
                kernels.normed[grid](x, y, weight, bias, part, stats, *numbers, eps, SILU=silu, **shape)
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.tiles, ctx.silu = tiles, silu
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, stats = ctx.saved_tensors
        grid, numbers, shape = ctx.tiles
        dy, dx = dy.contiguous(memory_format=torch.channels_last), torch.empty_like(x)
        splits = 1 if len(grid) == 2 else grid[2]
        sums = x.new_empty((2, len(x) * splits, x.shape[1]), dtype=torch.float32)
        with torch.cuda.device_of(x):
            if len(grid) == 2:
                kernels.whole_back[grid](x, dy, dx, weight, bias, stats, sums, *numbers, SILU=ctx.silu, **shape)
            else:
                kernels.sums_back[grid](x, dy, weight, bias, stats, sums, *numbers, SILU=ctx.silu, **shape)
                kernels.back[grid](x, dy, dx, weight, bias, stats, sums, *numbers, SILU=ctx.silu, **shape)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return dx, None, None, None, None, None
        dbias, dweight = sums.sum(dim=1)
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None, None


def fits(x: Tensor, groups: int) -> bool:
    """Are these kernels for such a map (B, C, h, w), whatever device it is on?"""
    return (x.ndim == 4 and x.numel() > 0 and x.is_contiguous(memory_format=torch.channels_last) and len(x) <= ITEMS
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and x.shape[1] // groups <= CHANNELS
            and x[0].numel() < 2**30)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
    """F.group_norm and, if `silu`, F.silu; x (B, C, h, w) channels last, weight and bias (C,) -> the same as x

    Computed in float32 and rounded once, whatever the dtypes, which autocast leaves alone; differentiable once.
    """
    return _GroupNorm.apply(x, weight, bias, groups, eps, silu)


@cache
def works(device: torch.device, dtype: torch.dtype) -> bool:
    """Can Triton compile for this GPU? It needs a C compiler, and a GPU that is not too old."""
    x = torch.zeros((1, 8, 4, 4), device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    one = torch.ones(8, device=device)
    try:
        group_norm(x, 2, one, one, 1e-5, True)
    except Exception as error:                                   # of whatever kind: of the compiler, the driver, Triton
        warnings.warn(f"Slower group norms, as Triton does not work here: {error}", stacklevel=2)
        return False
    return True


def _power(n: int) -> int:
    """The power of two that is no less than n."""
    return 1 << (n - 1).bit_length()
