"""3 x 3 convolutions with a quarter of the multiplications: F(4 x 4, 3 x 3) of Lavin and Gray (2016), after Winograd.

Each tile of 4 x 4 outputs comes from 6 x 6 inputs. Both are transformed so that the convolution is a product at each of 36
points, which for wide layers costs far more than the transforms. In float32 the error is some 2e-6 of the output.
Shapes: B items, C and O channels in and out, h x w tiles.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TOGETHER = 96                                                    # tiles that are transformed at once, to stay in the cache
FEWEST, NARROWEST = 24, 128                                      # tiles and channels below which the plain way is as quick

_INPUT = torch.tensor([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
                       [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], dtype=torch.float32)
_KERNEL = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
_OUTPUT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
                       dtype=torch.float32)
_BOTH_INPUT, _BOTH_OUTPUT = torch.kron(_INPUT, _INPUT), torch.kron(_OUTPUT, _OUTPUT)          # (36, 36), (16, 36): both axes


def pays(weight: Tensor, size: torch.Size) -> bool:
    """Whether a kernel (O, C, 3, 3) over maps of this size (B, C, H, W) is better convolved by this way, whatever B."""
    out, c, *kernel = weight.shape
    tiles = -(-size[2] // 4) * -(-size[3] // 4)
    return weight.dtype == torch.float32 and kernel == [3, 3] and min(out, c) >= NARROWEST and tiles >= FEWEST


def transformed(weight: Tensor) -> Tensor:
    """A kernel (O, C, 3, 3) -> its values at the points (36, C, O)"""
    points = torch.einsum("xi,yj,ocij->xyco", _KERNEL, _KERNEL, weight.double())
    return points.flatten(0, 1).float().contiguous()


def convolve(x: Tensor, points: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) float32, padded with so many zeros above and below, left and right -> (B, O, H', W'), channels last"""
    (b, c, height, width), (up, left) = x.shape, padding
    height, width = height + 2 * up - 2, width + 2 * left - 2    # of the output
    h, w, o = -(-height // 4), -(-width // 4), points.shape[2]
    around = (0, 0, left, 4 * w + 2 - left - x.shape[3], up, 4 * h + 2 - up - x.shape[2])
    tiles = F.pad(x.permute(0, 2, 3, 1), around).unfold(1, 6, 4).unfold(2, 6, 4)     # (B, h, w, C, 6, 6)
    tiles = tiles.permute(4, 5, 0, 1, 2, 3)
    out = x.new_empty(b, h, 4, w, 4, o)
    rows = max(1, TOGETHER // w)
    for i in range(b):
        for first in range(0, h, rows):
            part = tiles[:, :, i, first : first + rows]          # (6, 6, n, w, C)
            n = part.shape[2] * w
            values = torch.bmm((_BOTH_INPUT @ part.reshape(36, n * c)).view(36, n, c), points)             # (36, n, O)
            done = (_BOTH_OUTPUT @ values.view(36, n * o)).view(4, 4, -1, w, o)
            out[i, first : first + rows] = done.permute(2, 0, 3, 1, 4)
    y = out.view(b, 4 * h, 4 * w, o)[:, :height, :width]
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)
