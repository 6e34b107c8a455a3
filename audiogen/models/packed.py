"""Products by matrices in the blocks that the CPU's library (oneDNN) computes with: quick on the processors of any maker.

Many small ones are quicker by the library that torch's own products use (MKL), but not on every processor.
Shapes: N rows, D and D' columns in and out, P products side by side.
"""

import platform
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

ROWS = 2048                                                      # that packed matrices are laid out for; others fit too


def multiplies(dtype: torch.dtype, device: str = "cpu") -> bool:
    """Has the device instructions for products in this format? A CPU without them is many times slower than in float32."""
    if dtype != torch.bfloat16:
        return dtype == torch.float32 or device.startswith("cuda")
    return torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_avx512_bf16_supported()


def packs(dtype: torch.dtype) -> bool:
    """Has the library its format here, for matrices of this kind?"""
    return torch.backends.mkldnn.is_available() and multiplies(dtype)


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, plus: Tensor | None = None, times: Tensor | None = None,
             gelu: bool = False) -> Tensor:
    """x (N, D) by a packed matrix, and one thing more in the same pass. (N, D')"""
    x, op = x.contiguous(), torch.ops.mkldnn._linear_pointwise
    if plus is not None:
        return op.binary(x, plus.contiguous(), packed, bias, "add")
    if times is not None:
        return op.binary(x, times, packed, bias, "mul")
    return op(x, packed, bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def reorder(weight: Tensor) -> Tensor:
    """A matrix (D', D) in the library's blocks."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)


@cache
def mkl() -> bool:
    """Are torch's own products quick here? What is computed by which library depends on the processor alone, not on clocks.

    That library leaves AVX-512 unused on other makers' processors: where they have none, it is as quick there.
    """
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    intel = "intel" in str(known.get("cpu_name", platform.processor())).lower()
    return torch.backends.mkl.is_available() and (intel or torch.backends.cpu.get_cpu_capability() == "AVX2")


Matrices = Tensor | list[Tensor]                                 # (P, D, D'), or each of them packed


def matrices(weights: Tensor) -> Matrices:
    """Matrices (P, D, D') as `side_by_side` multiplies by them."""
    return weights if mkl() else [reorder(w.T) for w in weights]


def side_by_side(xs: Sequence[Tensor], by: Sequence[Matrices]) -> Tensor:
    """P products at once, each of as many summands: xs (P, N, D) by as many `matrices`, together (P, N, D')"""
    if isinstance(by[0], Tensor):
        total = torch.bmm(xs[0], by[0])
        for x, weights in zip(xs[1:], by[1:], strict=True):
            total.baddbmm_(x, weights)                           # type: ignore[arg-type]
        return total
    each = []
    for p in range(len(by[0])):
        total = multiply(xs[0][p], by[0][p], None)
        for x, packed in zip(xs[1:], by[1:], strict=True):
            total = multiply(x[p], packed[p], None, total)
        each.append(total)
    return torch.stack(each)
