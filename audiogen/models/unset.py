"""Building networks whose weights are about to be put in place: nothing is drawn, and nothing imported to draw it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """torch.nn.init leaves tensors as they are."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def unset(device: str = "meta") -> Iterator[None]:
    """Within, modules are built without values on "meta", or with their buffers and arbitrary weights on another device.

    Drawing normal numbers on "meta" makes torch import its compiler, which takes longer than `import torch` itself.
    """
    with torch.device(device), _Undrawn():
        yield
