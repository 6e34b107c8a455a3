"""Sounds that repeat without a seam: networks, and means over time, whose time axis is a circle."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.diffusion.sampling import Denoise


@contextmanager
def wrapping(module: nn.Module, axis: int) -> Iterator[None]:
    """Within, the padded convolutions of `module` see the other end along `axis` (2 or 3) where they saw zeros.

    Rotating the input then rotates the output, by as much as the module's strides divide. Attention needs no change:
    it knows no positions.
    """
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and not isinstance(m.padding, str) and m.padding[axis - 2]]
    paddings = [conv.padding for conv in convs]
    hooks = []
    try:
        for conv in convs:
            n = int(conv.padding[axis - 2])
            conv.padding = (0, conv.padding[1]) if axis == 2 else (conv.padding[0], 0)           # type: ignore[assignment]
            hooks.append(conv.register_forward_pre_hook(lambda _, inputs, n=n: wrap(inputs[0], n, axis)))   # type: ignore[misc]
        yield
    finally:
        for conv, padding in zip(convs, paddings, strict=True):
            conv.padding = padding
        for hook in hooks:
            hook.remove()


def wrap(x: Tensor, n: int, axis: int) -> Tensor:
    """n frames of the end before the beginning, and n of the beginning after the end, along `axis`."""
    length = x.shape[axis]
    return torch.cat([x.narrow(axis, length - n, n), x, x.narrow(axis, 0, n)], dim=axis)


def moving_mean(x: Tensor, frames: int, axis: int, around: bool) -> Tensor:
    """The mean of the `frames` (an odd number) around each one along `axis` (2 or 3), of those there are at the ends; over
    the seam of what goes `around`. (B, C, h, w) -> alike"""
    half = frames // 2
    kernel, padding = ((frames, 1), (half, 0)) if axis == 2 else ((1, frames), (0, half))
    if around:
        return F.avg_pool2d(wrap(x, half, axis), kernel, 1)
    return F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)


def circular(denoise: Denoise, network: nn.Module, axis: int) -> Denoise:
    """The denoiser while `network`, which it runs, takes its time axis for a circle."""
    def around(x: Tensor, sigma: Tensor) -> Tensor:
        with wrapping(network, axis):
            return denoise(x, sigma)

    return around
