"""Linear layers, convolutions and group norms as the U-Net uses them, and `pack`, which makes them quick on a CPU.

A packed matrix lies in the blocks that the CPU's library (oneDNN) computes with, where otherwise it is sorted anew in every
call, and what follows the product (a sum, a product, a GELU) is done in the same pass. The numbers are the same to rounding,
and depend on nothing but the input. A packed network can only infer: its matrices are gone. Shapes: N any number of rows.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.models import winograd
from audiogen.models.packed import Matrices, multiply, packs, reorder

TINY = 128                                                       # positions up to which a convolution is best one product
SMALL = 1024                                                     # positions below which group norms are slow, channels last


class Linear(nn.Linear):
    """A linear layer that adds; (N, D) -> (N, D')."""

    packed: Tensor | None = None

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:              # type: ignore[override]
        """(N, D) -> (N, D'), with `plus` (N, D') added if it is given"""
        if self.packed is not None:
            return multiply(x, self.packed, self.bias, plus)
        y = F.linear(x, self.weight.flatten(1), self.bias)
        return y if plus is None else plus + y

    def pack(self) -> None:
        """Replace the weights by packed ones."""
        self.packed = reorder(self.weight.flatten(1))
        self.weight = gone(self.weight)


class Pointwise(Linear):
    """A linear layer published as a 1 x 1 convolution: its weight is (D', D, 1, 1)."""

    def __init__(self, dim: int, out: int):
        super().__init__(dim, out)
        self.weight = nn.Parameter(self.weight[:, :, None, None])


class GEGLU(nn.Module):
    """Half of a linear layer's output times the GELU of the other half (Shazeer 2020)."""

    packed: tuple[Tensor, Tensor] | None = None                  # what is gated, the gate

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner * 2)

    def forward(self, x: Tensor) -> Tensor:                      # (N, D) -> (N, inner)
        if self.packed is not None:
            first, second = self.proj.bias.chunk(2)
            gate = multiply(x, self.packed[1], second, gelu=True)
            return multiply(x, self.packed[0], first, times=gate)
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)

    def pack(self) -> None:
        first, second = self.proj.weight.chunk(2)
        self.packed = reorder(first), reorder(second)
        self.proj.weight = gone(self.proj.weight)


class Conv2d(nn.Conv2d):
    """A convolution that adds; (B, C, h, w) -> (B, C', h', w')."""

    packed = False                                               # in the layout, and by the way, that is quickest
    points: Matrices | None = None                               # the kernel as Winograd's way needs it
    matrix: Tensor | None = None                                 # the kernel as one product needs it

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:              # type: ignore[override]
        """(B, C, h, w) -> (B, C', h', w'), with `plus` (B, C', h', w') added if it is given"""
        if self.packed and self.stride == (1, 1) and winograd.pays(self.weight, x.shape):
            self.points = winograd.transformed(self.weight) if self.points is None else self.points
            y = winograd.convolve(x, self.points, self.out_channels, self.bias, self.padding)    # type: ignore[arg-type]
        elif self.packed and x.dtype == torch.float32 and x.shape[2] * x.shape[3] <= TINY and self.groups == 1:
            return self.product(x, plus)
        elif self.packed:                                        # PyTorch itself would leave small maps to a slower way
            x = x.contiguous(memory_format=torch.channels_last)
            y = torch.mkldnn_convolution(x, self.weight, self.bias, self.padding, self.stride,    # type: ignore[arg-type]
                                         self.dilation, self.groups)
        else:
            y = super().forward(x)
        return y if plus is None else plus + y

    def product(self, x: Tensor, plus: Tensor | None) -> Tensor:
        """One product: what an output hears of x (B, C, h, w) is a row."""
        assert not isinstance(self.padding, str)
        (kh, kw), (sh, sw), (up, left) = self.kernel_size, self.stride, self.padding
        if self.matrix is None:
            self.matrix = reorder(self.weight.permute(0, 2, 3, 1).flatten(1))
        heard = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, up, up)).unfold(1, kh, sh).unfold(2, kw, sw)
        b, h, w, c, *_ = heard.shape                             # (B, h', w', C, kh, kw)
        rows = heard.permute(0, 1, 2, 4, 5, 3).reshape(b * h * w, kh * kw * c)
        added = None if plus is None else plus.permute(0, 2, 3, 1).reshape(len(rows), -1)
        return multiply(rows, self.matrix, self.bias, added).view(b, h, w, -1).permute(0, 3, 1, 2)

    def pack(self) -> None:
        """Lay the weights out anew, if need be.

        The library's own blocks are left alone: they fit one size of map, and for another take it ten times as long.
        """
        if self.weight.dtype != torch.float32:
            weight = self.weight.detach().contiguous(memory_format=torch.channels_last)
            self.weight = nn.Parameter(weight, requires_grad=False)
        self.packed = True


class Conv1d(nn.Conv1d):
    """A convolution over time of what a leaky ReLU leaves; (B, C, S) -> (B, C', S)."""

    packed = False                                               # for series whose channels lie last in memory
    points: list[Matrices] | None = None                         # the kernel as Winograd's way needs it

    def __init__(self, channels: int, out: int, kernel: int, dilation: int, slope: float):
        super().__init__(channels, out, kernel, dilation=dilation, padding=(kernel - 1) // 2 * dilation)
        self.slope = slope

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:              # type: ignore[override]
        """(B, C, S) -> (B, C', S), with `plus` (B, C', S) added if it is given"""
        if self.points is not None:
            assert self.bias is not None
            return winograd.convolve_in_time(x, self.points, self.bias, self.kernel_size[0], self.dilation[0], self.slope, plus)
        x = F.leaky_relu(x, self.slope)
        if self.packed:                                          # as a map of one row: series go by a slower way
            around, apart = (0, int(self.padding[0])), (1, self.dilation[0])
            y = F.conv2d(x[:, :, None], self.weight[:, :, None], self.bias, 1, around, apart)[:, :, 0]
        else:
            y = super().forward(x)
        return y if plus is None else y.add_(plus)

    def pack(self) -> None:
        """Lay the weights out anew, or replace them by their values at Winograd's points."""
        if winograd.pays_in_time(self.weight):
            self.points = winograd.transformed_in_time(self.weight)
            self.weight = gone(self.weight)
        else:
            self.weight = nn.Parameter(channels_last(self.weight.detach()), requires_grad=False)
        self.packed = True


class ConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution over time of what a leaky ReLU leaves; (B, C, S) -> (B, C', S')."""

    packed = False                                               # for series whose channels lie last in memory

    def __init__(self, channels: int, out: int, kernel: int, stride: int, padding: int, extra: int, slope: float):
        super().__init__(channels, out, kernel, stride, padding, extra)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:                      # type: ignore[override]
        x = F.leaky_relu(x, self.slope)
        if not self.packed:
            return super().forward(x)
        stride, less, extra = (1, self.stride[0]), (0, int(self.padding[0])), (0, self.output_padding[0])
        return F.conv_transpose2d(x[:, :, None], self.weight[:, :, None], self.bias, stride, less, extra)[:, :, 0]

    def pack(self) -> None:
        """Lay the weights out anew."""
        self.weight = nn.Parameter(channels_last(self.weight.detach()), requires_grad=False)
        self.packed = True


def channels_last(x: Tensor) -> Tensor:
    """The same (B, C, S), each position's channels side by side in memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


class GroupNorm(nn.GroupNorm):
    """One that is quick where channels come last, too: on a CPU's small maps, and on a GPU; (B, C, h, w) -> the same."""

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:                      # type: ignore[override]
        """(B, C, h, w) -> the same, with the SiLU of it if `silu`"""
        if x.device.type == "cuda" and self.affine:
            norm = fused(x, self.num_groups)
            if norm is not None:
                return norm(x, self.num_groups, self.weight, self.bias, self.eps, silu)
        y = self.plain(x)
        return F.silu(y) if silu else y

    def plain(self, x: Tensor) -> Tensor:                        # (B, C, h, w)
        last = x.device.type == "cpu" and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        if last and x.shape[2] * x.shape[3] < SMALL:
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        return super().forward(x)


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


def fused(x: Tensor, groups: int) -> Callable[..., Tensor] | None:
    """The kernel for a GPU's map (B, C, h, w) in these groups, or None where there is none."""
    if not _triton():
        return None                                              # and it is imported late, as that takes a while
    from audiogen.models import fused as norms
    return norms.group_norm if norms.fits(x, groups) and norms.works(x.device, x.dtype) else None


class LayerNorm(nn.LayerNorm):
    """One that stays in the input's dtype where autocast would write float32, though it is computed in it; (N, D) -> the same."""

    def forward(self, x: Tensor) -> Tensor:                      # (N, D)
        if x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled("cuda"):
            with torch.autocast("cuda", enabled=False):
                return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        return super().forward(x)


def gone(weight: Tensor) -> nn.Parameter:
    """What stays of a parameter that was packed: its format."""
    return nn.Parameter(weight.new_empty(0), requires_grad=False)


def pack(network: nn.Module) -> None:
    """Pack, once, every layer of a network that lies on the CPU and will only infer, where the library has its format."""
    if not packs(next(network.parameters()).dtype):
        return
    for module in network.modules():
        if isinstance(module, Linear | GEGLU | Conv1d | ConvTranspose1d | Conv2d):
            module.pack()
