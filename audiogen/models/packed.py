"""Products by matrices in the blocks that the CPU's library (oneDNN) computes with: quick on the processors of any maker.

Shapes: N rows, D and D' columns in and out.
"""

import torch
from torch import Tensor

ROWS = 2048                                                      # that packed matrices are laid out for; others fit too


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
