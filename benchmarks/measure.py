"""Taking turns, machine facts and rows: what every figure of the report is made of."""

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from audiogen.models.packed import multiplies, multiply, packs, reorder


@dataclass(frozen=True)
class Options:
    """How everything is measured."""

    device: str = "cpu"
    quick: bool = False                                          # small networks and few runs: a check, not a measurement
    repeats: int = 3
    full: bool = False                                           # the clip at defaults at its whole length


@dataclass(frozen=True)
class Timed:
    seconds: float                                               # median
    runs: int
    output: Tensor | None
    work: float                                                  # operations of the reference, if they were counted


@dataclass(frozen=True)
class Row:
    """One line of a table; `ratio` is the reference's figure over this one's."""

    name: str
    figure: str
    ratio: float | None = None
    error: float | None = None                                   # of the outputs, relative, in norm
    note: str = ""


def alternate(runs: dict[str, Callable[[], Tensor]], options: Options, count: bool = True) -> dict[str, Timed]:
    """Each run in turn, round after round (so that a slow minute slows them all): medians and last outputs.

    The first round is not timed; in it the operations of the first run, the reference, are counted on request.
    """
    clock = _clock(options)
    times: dict[str, list[float]] = {name: [] for name in runs}
    outputs: dict[str, Tensor] = {}
    work = 0.0
    for i in range(options.repeats + 1):
        for name, run in runs.items():
            gc.collect()
            _finish(options.device)
            begin = clock()
            if count and not outputs:
                out, work = operations(run)
            else:
                out = run()
            _finish(options.device)
            if i:
                times[name].append(clock() - begin)
            outputs[name] = out.detach().float().cpu()
    return {name: Timed(statistics.median(t), len(t), outputs[name], work) for name, t in times.items()}


def _clock(options: Options) -> Callable[[], float]:
    """The processor's seconds where one thread computes, so that other processes count little; else the wall's."""
    return time.process_time if options.device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def formats(options: Options) -> list[str]:
    """The number formats in which there is something to measure: in others the machine is slower than in float32."""
    quick = options.quick or multiplies(torch.bfloat16, options.device)      # a check is short anyhow
    return ["float32", "bfloat16"] if quick else ["float32"]


def operations(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """A run's output, and its operations in products, convolutions and attention."""
    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    uncounted = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}      # by PyTorch before 2.15
    with FlopCounterMode(display=False, custom_mapping=uncounted) as counted:
        out = run()
    return out, float(counted.get_total_flops())


def rows(timed: dict[str, Timed], options: Options) -> list[Row]:
    """Rows of runs that were timed together; the first is the reference. Rates count its operations for each."""
    first, *_ = timed.values()
    out = []
    for i, (name, t) in enumerate(timed.items()):
        error = relative(t.output, first.output) if i and t.output is not None and first.output is not None else None
        note = f"median of {t.runs}"
        if t.work:
            rate = t.work / t.seconds / 1e9
            peak = matmul_peak(options, torch.bfloat16 if "bfloat16" in name else torch.float32)
            note += f"; {speed(rate)}, {rate / peak:.2f} of the best product"
        out.append(Row(name, duration(t.seconds), first.seconds / t.seconds, error, note))
    return out


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of the reference b."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.2 else f"{1000 * seconds:.1f} ms"


def speed(gigaflops: float) -> str:
    return f"{gigaflops / 1000:.0f} TFLOP/s" if gigaflops >= 10_000 else f"{gigaflops:.0f} GFLOP/s"


def table(title: str, note: str, lines: list[Row]) -> str:
    """A section of the report."""
    out = [f"## {title}", "", note, "", "| | figure | ratio | relative error | |", "|---|---|---|---|---|"]
    for r in lines:
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}x"
        error = "" if r.error is None else f"{r.error:.1e}"
        out.append(f"| {r.name} | {r.figure} | {ratio} | {error} | {r.note} |")
    return "\n".join(out) + "\n"


def machine(options: Options) -> list[str]:
    """What the figures were taken on; no name of the host."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = found[0] if found else model
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "diffusers", "transformers"))
    peaks = ", ".join(f"{speed(matmul_peak(options, getattr(torch, name)))} {name}" for name in formats(options))
    peaks += "" if multiplies(torch.bfloat16, options.device) else "; no instructions for bfloat16"
    size = side(options)
    vectors = torch.backends.cpu.get_cpu_capability()
    busy = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    threads = torch.get_num_threads()
    clock = "networks in seconds of the processor (one thread)" if threads == 1 else "seconds of the wall"
    out = [f"- CPU: {model}, {os.cpu_count()} cores, {threads} threads, {vectors}; {clock}; load average {busy} at the start",
           f"- Python {platform.python_version()}, {versions}", f"- best matrix product ({size} x {size} x {size}): {peaks}"]
    if options.device.startswith("cuda"):
        out.insert(0, f"- GPU: {torch.cuda.get_device_name()}")
    return out


def side(options: Options) -> int:
    """Rows and columns of the matrices by whose product machines are judged: enough to keep all of one busy."""
    return 256 if options.quick else 8192 if options.device.startswith("cuda") else 2048


@cache
def matmul_peak(options: Options, dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest of a few products, on a CPU by either library: torch's own is slow on some makers' processors."""
    n = side(options)
    a, b = (torch.randn(n, n, device=options.device).to(dtype) for _ in range(2))
    ways: list[Callable[[], Tensor]] = [lambda: a @ b]
    if options.device == "cpu" and packs(dtype):
        packed = reorder(b)
        ways.append(lambda: multiply(a, packed, None))
    best, clock = float("inf"), _clock(options)
    for way in ways * 6:
        _finish(options.device)
        begin = clock()
        way()
        _finish(options.device)
        best = min(best, clock() - begin)
    return 2 * n**3 / best / 1e9
