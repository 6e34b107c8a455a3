"""Where a GPU's time goes: the kernels of a run by kind, and how near each kind comes to the machine's best product."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Options, Row, duration, matmul_peak, speed
from benchmarks.spent import ATTENTION, REST, watched

NAMES = {                                                        # parts of kernels' names; the first kind that fits counts
    ATTENTION: ("flash", "fmha", "attention", "sdpa"), "convolutions": ("conv", "fprop", "cudnn"),
    "norms": ("norm", "moments", "whole"), "matrix products": ("gemm", "nvjet", "cutlass", "addmm")}


def kind_of(name: str) -> str:
    """The kind of work that a kernel of this name does."""
    return next((kind for kind, parts in NAMES.items() if any(part in name.lower() for part in parts)), REST)


@torch.inference_mode()
def kernels(network: nn.Module, plain: Callable[[], Tensor], run: Callable[[], Tensor], options: Options,
            dtype: torch.dtype) -> list[Row]:
    """Kinds of kernels in one `run`, which does what `plain` does with the network; on a CPU, operations for kernels."""
    cuda = options.device.startswith("cuda")
    with watched(network) as counted:                            # operations, not times: a GPU is still at work then
        plain()
    run()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda, acc_events=True) as seen:
        run()
        if cuda:
            torch.cuda.synchronize()
    spent = {kind: 0.0 for kind in (*NAMES, REST)}               # seconds
    for event in seen.key_averages():
        if event.device_type == (DeviceType.CUDA if cuda else DeviceType.CPU):
            spent[kind_of(event.key)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    out = []
    for kind, seconds in spent.items():
        note = f"{100 * seconds / sum(spent.values()):.0f} %"
        if kind in counted and counted[kind].work and seconds:
            rate = counted[kind].work / seconds / 1e9
            note += f"; {speed(rate)}, {rate / matmul_peak(options, dtype):.2f} of the best product"
        out.append(Row(kind, duration(seconds), note=note))
    return out
