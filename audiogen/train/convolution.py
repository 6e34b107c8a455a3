"""Convolutions that learn quickly on a CPU: two ways beside the library's, for layers and maps where they cost less.

Winograd's way (models/winograd) takes a quarter of the multiplications, forth and back. Where it does not pay, the gradient of
the weights is one product, for which the library takes seven times as long on small maps. Shapes: B items, C channels in, O
channels out, H x W positions, h x w tiles of a map, S x T outputs of a tile, P points.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from audiogen.models.layers import Conv2d
from audiogen.models.winograd import TILES, Tile

NARROWEST, FEWEST = 64, 24                                       # channels, tiles below which points do not pay


def tile_for(size: torch.Size) -> Tile:
    """For maps (B, C, H, W): larger ones save more, if they are filled."""
    return TILES[4 if size[2] > 2 else 2, 4 if size[3] > 2 else 2]


class ByPoints(torch.autograd.Function):
    """A 3 x 3 convolution, padded by 1, at Winograd's points. (B, C, H, W), (O, C, 3, 3), (O,) -> (B, O, H, W)

    Forth it is three matrices with a product at each point between them; back it is the same, transposed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:        # type: ignore[override]
        (b, c, height, width), o, tile = x.shape, len(weight), tile_for(x.shape)
        (h, w), (s, t) = tile.along(height, width), tile.size
        heard = each(tile.inputs, cut(x, h, w, s, t))                                # (B h w, P, C)
        points = (tile.kernels @ weight.permute(2, 3, 1, 0).reshape(9, c * o)).view(-1, c, o)
        values = by_point(heard, points)                                             # (B h w, P, O)
        values[:, t + 3] += bias                                 # the point 1, 1, whose value is a term of every output
        tiles = each(tile.outputs, values).view(b, h, w, s, t, o)
        ctx.save_for_backward(heard, points)
        return tiles.transpose(2, 3).reshape(b, s * h, t * w, o)[:, :height, :width].permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:    # type: ignore[override]
        heard, points = ctx.saved_tensors
        (b, o, height, width), c, tile = grad.shape, points.shape[1], tile_for(grad.shape)
        (h, w), (s, t) = tile.along(height, width), tile.size
        tiles = grad.permute(0, 2, 3, 1)
        if (s * h, t * w) != (height, width):
            tiles = F.pad(tiles, (0, 0, 0, t * w - width, 0, s * h - height))
        tiles = tiles.reshape(b, h, s, w, t, o).transpose(2, 3).reshape(-1, s * t, o)
        there = each(tile.outputs.T, tiles)                                          # (B h w, P, O)
        of_points = torch.bmm(heard.permute(1, 2, 0), there.transpose(0, 1))         # (P, C, O)
        by_weight = (tile.kernels.T @ of_points.view(len(points), -1)).view(3, 3, c, o).permute(3, 2, 0, 1)
        by_input = None
        if ctx.needs_input_grad[0]:
            told = each(tile.inputs.T, by_point(there, points.transpose(1, 2))).view(b, h, w, s + 2, t + 2, c)
            by_input = joined(told)[:, :height, :width].permute(0, 3, 1, 2)
        return by_input, by_weight, grad.sum(dim=(0, 2, 3))


def each(matrix: Tensor, tiles: Tensor) -> Tensor:
    """A matrix (P, Q) times every tile: small products, of what the cache holds. (N, Q, C) -> (N, P, C)"""
    return torch.bmm(matrix.expand(len(tiles), *matrix.shape), tiles)


def by_point(tiles: Tensor, matrices: Tensor) -> Tensor:
    """Tiles (N, P, C), at each point times its matrix (P, C, O). (N, P, O)"""
    n, p, _ = tiles.shape
    out = tiles.new_empty(n, p, matrices.shape[2])
    torch.bmm(tiles.transpose(0, 1), matrices, out=out.transpose(0, 1))
    return out


def cut(x: Tensor, h: int, w: int, s: int, t: int) -> Tensor:
    """What each of h x w tiles hears of maps (B, C, H, W), zeros around them. (B h w, (S + 2) (T + 2), C)"""
    b, c, height, width = x.shape
    around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, t * w + 1 - width, 1, s * h + 1 - height))
    tiles = around.unfold(1, s + 2, s).unfold(2, t + 2, t)       # (B, h, w, C, S + 2, T + 2)
    return tiles.permute(0, 1, 2, 4, 5, 3).reshape(b * h * w, -1, c)


def joined(tiles: Tensor) -> Tensor:
    """The maps (B, S h, T w, C) of which tiles (B, h, w, S + 2, T + 2, C) were cut; what several have of a position is added."""
    b, h, w, s, t, c = tiles.shape
    s, t = s - 2, t - 2
    out = tiles.new_zeros(b, s * h, t * w, c)
    at = out.view(b, h, s, w, t, c).transpose(2, 3)              # (B, h, w, S, T, C)
    for (i, y, from_i, from_y), (j, x, from_j, from_x) in product(overlaps(s), overlaps(t)):
        at[:, i, j, y, x] += tiles[:, from_i, from_j, from_y, from_x]
    return out


def overlaps(outputs: int) -> list[tuple[slice, slice, slice, slice]]:
    """Along an axis: of which tiles which outputs lie where which tiles have which of their inputs."""
    every, first, last = slice(None), slice(0, 1), slice(outputs - 1, None)
    return [(every, every, every, slice(1, 1 + outputs)),
            (slice(None, -1), last, slice(1, None), first), (slice(1, None), first, slice(None, -1), slice(1 + outputs, None))]


class ByProduct(torch.autograd.Function):
    """A 3 x 3 convolution, padded by 1, whose weights' gradient is one product. Shapes as above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:        # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:           # type: ignore[override]
        x, weight = ctx.saved_tensors
        around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))                    # (B, H + 2, W + 2, C)
        patches = around.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)   # (B, H, W, 3, 3, C)
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)                                # (B H W, O)
        by_weight = (rows.T @ patches.reshape(len(rows), -1)).view(-1, 3, 3, x.shape[1]).permute(0, 3, 1, 2)
        by_input = conv2d_input(x.shape, weight, grad, padding=1)                    # type: ignore[no-untyped-call]
        return by_input, by_weight, rows.sum(dim=0)


def pays(weight: Tensor, size: torch.Size) -> bool:
    """Whether a kernel (O, C, 3, 3) learns more quickly from maps (B, C, H, W) by points than in any other way."""
    (b, _, height, width), tile = size, tile_for(size)
    tiles, outputs = b * tile.along(height, width)[0] * tile.along(height, width)[1], tile.size[0] * tile.size[1]
    filled = 3 * b * height * width >= 2 * tiles * outputs       # no more than a third of the tiles lies outside the maps
    return min(weight.shape[:2]) >= NARROWEST and tiles >= FEWEST and filled


def convolve(layer: Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """What the layer makes of x (B, C, H, W), by the way that learns most quickly; all give the same."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
    if dtype == torch.float32 and pays(layer.weight, x.shape):
        way: type[torch.autograd.Function] = ByPoints
    elif x.shape[0] * x.shape[2] * x.shape[3] < 9 * x.shape[1]:  # few positions
        way = ByProduct
    else:
        return Conv2d.forward(layer, x, plus)
    assert layer.bias is not None
    y: Tensor = way.apply(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))             # type: ignore[no-untyped-call]
    return y if plus is None else plus + y


def hasten(network: nn.Module) -> None:
    """Give the plain 3 x 3 convolutions of a network that is trained on the CPU the quickest gradients."""
    for module in network.modules():
        if isinstance(module, Conv2d) and module.kernel_size == (3, 3) and module.stride == (1, 1) and module.padding == (1, 1):
            module.forward = convolve.__get__(module)            # type: ignore[method-assign]
