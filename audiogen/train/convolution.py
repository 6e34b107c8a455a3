"""Convolutions whose weights' gradients are quick on a CPU where the maps are small.

The library's own takes seven times as long as the product that it is, for the maps of a U-Net's lower levels. Shapes: B items,
C channels in, O channels out, h x w positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from audiogen.models.layers import Conv2d


class Convolution(torch.autograd.Function):
    """A 3 x 3 convolution, padded by 1. (B, C, h, w), (O, C, 3, 3), (O,) -> (B, O, h, w)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:        # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:           # type: ignore[override]
        x, weight = ctx.saved_tensors
        around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))                    # (B, h + 2, w + 2, C)
        patches = around.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)   # (B, h, w, 3, 3, C)
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)                                # (B h w, O)
        by_weight = (rows.T @ patches.reshape(len(rows), -1)).view(-1, 3, 3, x.shape[1]).permute(0, 3, 1, 2)
        by_input = conv2d_input(x.shape, weight, grad, padding=1)                    # type: ignore[no-untyped-call]
        return by_input, by_weight, rows.sum(dim=0)


def convolve(layer: Conv2d, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """What the layer makes of x (B, C, h, w), by the way whose gradient is quicker; both give the same."""
    if x.shape[0] * x.shape[2] * x.shape[3] >= 9 * x.shape[1]:   # many positions: the library's way is the quicker one
        return Conv2d.forward(layer, x, plus)
    assert layer.bias is not None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
    y: Tensor = Convolution.apply(x.to(dtype), layer.weight.to(dtype), layer.bias.to(dtype))      # type: ignore[no-untyped-call]
    return y if plus is None else plus + y


def hasten(network: nn.Module) -> None:
    """Give the plain 3 x 3 convolutions of a network that is trained on the CPU the quicker gradient."""
    for module in network.modules():
        if isinstance(module, Conv2d) and module.kernel_size == (3, 3) and module.stride == (1, 1) and module.padding == (1, 1):
            module.forward = convolve.__get__(module)            # type: ignore[method-assign]
