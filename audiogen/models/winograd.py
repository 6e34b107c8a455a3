"""Convolutions with a quarter or half of the multiplications: F(4 x 4, 3 x 3) and F(4, 4) of Lavin and Gray (2016).

A tile of outputs comes from a tile of inputs. Both are transformed so that the convolution is a product at each of a few points
(Winograd 1980), which for wide layers costs far more than the transforms. In float32 the error is some 1e-6 of the output.
Shapes: B items, C and O channels in and out, h x w tiles of a map, S x T outputs of a tile (of series: S samples),
P points, J groups of taps.
"""

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.models.packed import Matrices, matrices, mkl, side_by_side

TILE = 4                                                         # outputs of a tile along each axis
POINTS: dict[int, list[float]] = {2: [0, 1, -1], 4: [0, 1, -1, 2, -2]}                # for so many outputs along an axis
TAPS = 4                                                         # of a kernel over time that are taken at once
TOGETHER = 96                                                  # tiles of maps that are transformed at once; the cache holds them
FLOATS = 2**18                                                   # ... of time: channels times tiles
FEWEST, NARROWEST = 24, 128                                      # tiles, channels of maps below which the plain way is as quick
WIDE = 384 * 256                                                 # channels in times out, the same where small products are slow
WIDE_IN_TIME = 256 * 256                                         # ... of series, on any processor


def transforms(outputs: int, taps: int, points: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices of inputs (P, P), of kernels (P, taps) and of outputs (outputs, P), for these points and infinity, in float64.

    A tile has outputs + taps - 1 inputs, and needs as many points.

    Toom and Cook's product of polynomials, transposed: it is what correlates.
    """
    count = len(points) + 1

    def values(length: int) -> Tensor:                           # of a polynomial at the points; at infinity its last term
        at = torch.tensor(points, dtype=torch.float64)[:, None] ** torch.arange(length)
        return torch.cat([at, F.one_hot(torch.tensor([length - 1]), length).double()])

    inputs, kernels = torch.linalg.inv(values(count)).T, values(taps)
    size = inputs.abs().amax(dim=1, keepdim=True)                # both sides of like size: less is lost to rounding
    return inputs / size, kernels * size, values(outputs).T


class Tile(NamedTuple):
    """S x T outputs, which hear S + 2 by T + 2 inputs, and the matrices from inputs to points and from there to outputs."""

    size: tuple[int, int]
    inputs: Tensor                                               # (P, P)
    kernels: Tensor                                              # (P, 9)
    outputs: Tensor                                              # (S T, P)

    @classmethod
    def of(cls, s: int, t: int) -> "Tile":
        one, other = (transforms(n, 3, POINTS[n]) for n in (s, t))
        return cls((s, t), *(torch.kron(a, b).float() for a, b in zip(one, other, strict=True)))

    def along(self, height: int, width: int) -> tuple[int, int]:
        """Tiles along both axes of a map."""
        return -(-height // self.size[0]), -(-width // self.size[1])


TILES = {(s, t): Tile.of(s, t) for s, t in product(POINTS, POINTS)}
_SQUARE = TILES[TILE, TILE]
# (7, 7), (7, 4), (4, 7)
_TIME_INPUTS, _TIME_KERNELS, _TIME_OUTPUTS = (m.float() for m in transforms(TILE, TAPS, [0, 1, -1, 2, -2, 0.5]))


def pays(weight: Tensor, size: torch.Size) -> bool:
    """Whether a kernel (O, C, 3, 3) over maps of this size (B, C, H, W) is better convolved by this way, whatever B."""
    out, c, *kernel = weight.shape
    tiles = -(-size[2] // TILE) * -(-size[3] // TILE)
    wide = min(out, c) >= NARROWEST and (mkl() or out * c >= WIDE)
    return weight.dtype == torch.float32 and kernel == [3, 3] and wide and tiles >= FEWEST


def transformed(weight: Tensor) -> Matrices:
    """A kernel (O, C, 3, 3) -> its values at the 36 points, for `convolve`"""
    o, c, *_ = weight.shape
    return matrices((_SQUARE.kernels @ weight.permute(2, 3, 1, 0).reshape(9, c * o)).view(36, c, o))


def convolve(x: Tensor, points: Matrices, o: int, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) float32, padded with so many zeros above and below, left and right -> (B, O, H', W'), channels last"""
    (b, c, height, width), (up, left) = x.shape, padding
    height, width = height + 2 * up - 2, width + 2 * left - 2    # of the output
    h, w = -(-height // TILE), -(-width // TILE)
    around = (0, 0, left, TILE * w + 2 - left - x.shape[3], up, TILE * h + 2 - up - x.shape[2])
    tiles = F.pad(x.permute(0, 2, 3, 1), around).unfold(1, 6, TILE).unfold(2, 6, TILE)            # (B, h, w, C, 6, 6)
    tiles = tiles.permute(4, 5, 0, 1, 2, 3)
    out = x.new_empty(b, h, TILE, w, TILE, o)
    rows = max(1, TOGETHER // w)
    for i in range(b):
        for first in range(0, h, rows):
            part = tiles[:, :, i, first : first + rows]          # (6, 6, n, w, C)
            n = part.shape[2] * w
            values = side_by_side([(_SQUARE.inputs @ part.reshape(36, n * c)).view(36, n, c)], [points])      # (36, n, O)
            done = (_SQUARE.outputs @ values.view(36, n * o)).view(TILE, TILE, -1, w, o)
            out[i, first : first + rows] = done.permute(2, 0, 3, 1, 4)
    y = out.view(b, TILE * h, TILE * w, o)[:, :height, :width]
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)


def pays_in_time(weight: Tensor) -> bool:
    """Whether a kernel (O, C, K) over time is better convolved by this way."""
    return weight.dtype == torch.float32 and weight.shape[0] * weight.shape[1] >= WIDE_IN_TIME


def transformed_in_time(weight: Tensor) -> list[Matrices]:
    """A kernel (O, C, K) over time -> for each of J groups of TAPS taps its values at the 7 points, for `convolve_in_time`"""
    o, c, _ = weight.shape
    groups = F.pad(weight, (0, -weight.shape[2] % TAPS)).permute(2, 1, 0).reshape(-1, TAPS, c * o)
    return [matrices(points.view(-1, c, o)) for points in _TIME_KERNELS @ groups]


def convolve_in_time(x: Tensor, points: list[Matrices], bias: Tensor, taps: int, dilation: int, slope: float,
                     plus: Tensor | None = None) -> Tensor:
    """x (B, C, S) float32 -> (B, O, S): its leaky ReLU, padded with zeros on both sides, convolved, and `plus` (B, O, S) added.

    All have the channels last in memory. Samples that are `dilation` apart belong together: that many interleaved series are
    convolved side by side. A group of taps hears the tile that many tiles later, so all groups share the transformed inputs.
    """
    (b, c, length), groups, p, o, d = x.shape, len(points), len(_TIME_INPUTS), len(bias), dilation
    x, before = x.transpose(1, 2), (taps - 1) // 2 * d           # (B, S, C)
    out = x.new_empty(b, length, o)
    step = max(1, FLOATS // max(c, o) // d)                      # tiles of each series at once
    for i in range(b):
        for begin in range(0, length, step * TILE * d):
            end = min(length, begin + step * TILE * d)
            n = -(-(end - begin) // (TILE * d))
            first, last = begin - before, begin - before + ((n + groups - 2) * TILE + p) * d
            part = F.leaky_relu(x[i, max(first, 0) : last], slope)
            if first < 0 or last > length:
                part = F.pad(part, (0, 0, max(-first, 0), max(last - length, 0)))
            tiles = part.as_strided((p, n + groups - 1, d, c), (d * c, TILE * d * c, c, 1))
            there = (_TIME_INPUTS @ tiles.reshape(p, -1)).view(p, -1, c)                      # (7, (n + J - 1) d, C)
            values = side_by_side([there[:, j * d : (j + n) * d] for j in range(groups)], points)     # (7, n d, O)
            done = (_TIME_OUTPUTS @ values.view(p, -1)).view(TILE, n, d, o).transpose(0, 1).reshape(-1, o)[: end - begin]
            if plus is not None:
                done += plus[i, :, begin:end].T
            torch.add(done, bias, out=out[i, begin:end])
    return out.transpose(1, 2)
