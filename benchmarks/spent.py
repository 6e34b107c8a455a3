"""Where the time of a network's run goes: in which kind of layer, and how near each comes to the machine's best product."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.models.layers import GEGLU
from benchmarks.measure import Options, Row, duration, matmul_peak, speed

GATED = 2                                                        # products of a layer that gates itself
ATTENTION, REST = "attention", "all else"
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolutions": (nn.Conv2d,), "matrix products": (nn.Linear, GEGLU), "norms": (nn.GroupNorm, nn.LayerNorm)}


@dataclass
class Spent:
    seconds: float = 0.0
    work: float = 0.0                                            # floating point operations, of products alone


def work(module: nn.Module, out: Tensor) -> float:
    """Operations of a layer, of which this is the output."""
    if isinstance(module, nn.Conv2d):
        return 2.0 * out.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    if isinstance(module, GEGLU):
        return 2.0 * out.numel() * GATED * module.proj.in_features
    return 2.0 * out.numel() * module.in_features if isinstance(module, nn.Linear) else 0.0


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, Spent]]:
    """Within, runs of a network on the CPU are timed by kind; layers within layers count once, as the outer one."""
    spent = {kind: Spent() for kind in (*KINDS, ATTENTION)}
    within: list[float] = []                                     # when the layers began that have not ended
    own = F.scaled_dot_product_attention

    def begin(module: nn.Module, given: Any) -> None:
        within.append(time.perf_counter())

    def attend(q: Tensor, k: Tensor, *given: Any, **more: Any) -> Tensor:
        started = time.perf_counter()
        out = own(q, k, *given, **more)
        spent[ATTENTION].seconds += time.perf_counter() - started
        spent[ATTENTION].work += 4.0 * q.numel() * k.shape[-2]
        return out

    def end(kind: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, out: Tensor) -> None:
            started = within.pop()
            if not within:
                spent[kind].seconds += time.perf_counter() - started
                spent[kind].work += work(module, out)
        return note

    with ExitStack() as stack:
        for module in network.modules():
            for kind, types in KINDS.items():
                if isinstance(module, types):
                    stack.callback(module.register_forward_pre_hook(begin).remove)
                    stack.callback(module.register_forward_hook(end(kind)).remove)
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attend))
        yield spent


@torch.inference_mode()
def shares(runs: dict[str, tuple[nn.Module, Callable[[], Tensor]]], options: Options) -> list[Row]:
    """Kinds of layers of each run, the first of which is the reference; the median of some runs, by their whole time."""
    told: dict[str, dict[str, Spent]] = {}
    for name, (network, run) in runs.items():
        tries = []
        for _ in range(options.repeats):
            with watched(network) as spent:
                started = time.perf_counter()
                run()
                whole = time.perf_counter() - started
            spent[REST] = Spent(whole - sum(s.seconds for s in spent.values()))
            tries.append((whole, spent))
        told[name] = sorted(tries, key=lambda t: t[0])[len(tries) // 2][1]
    first, *_ = told.values()
    out = []
    for kind in first:
        for name, spent in told.items():
            s, whole = spent[kind], sum(x.seconds for x in spent.values())
            note = f"{100 * s.seconds / whole:.0f} % of the step"
            if s.work:
                peak = matmul_peak(options, torch.bfloat16 if "bfloat16" in name else torch.float32)
                rate = s.work / s.seconds / 1e9
                note += f"; {speed(rate)}, {rate / peak:.2f} of the best product"
            out.append(Row(f"{kind}: {name}", duration(s.seconds), first[kind].seconds / s.seconds, note=note))
    return out
