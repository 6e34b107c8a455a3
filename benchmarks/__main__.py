"""`python -m benchmarks`: measure, and write RESULTS.md."""

import argparse
import time
from pathlib import Path

import torch

from benchmarks import commands, gpu, networks, steps
from benchmarks.measure import Options, machine

FOLDER = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that were asked for; all of them take 11 to 15 minutes on two cores."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", action="append", metavar="PART",
                        help="audioldm2, audioldm-s, auffusion (U-Nets), spent, decode, training, steps, command, clip, "
                             "defaults or gpu")
    parser.add_argument("--quick", action="store_true", help="small networks, one run each: that it works, not how fast")
    parser.add_argument("--full", action="store_true", help="the clip at defaults is 10.24 s long, not 2.56 s: minutes more")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median is taken (3)")
    parser.add_argument("--threads", type=int, help="of the CPU (all)")
    parser.add_argument("--out", type=Path, help="the report (benchmarks/RESULTS.md, of a GPU benchmarks/RESULTS-cuda.md)")
    given = parser.parse_args(arguments)
    out = given.out or FOLDER / ("RESULTS.md" if given.device == "cpu" else "RESULTS-cuda.md")
    if given.threads:
        torch.set_num_threads(given.threads)
    options = Options(given.device, given.quick, 1 if given.quick else given.repeats, given.full)
    parts = networks.sections(options) | steps.sections(options) | commands.sections(options) | gpu.sections(options)
    chosen = given.only or list(parts)
    unknown = sorted(set(chosen) - parts.keys())
    if unknown:
        parser.error(f"no part '{unknown[0]}'; there are {', '.join(parts)}")
    report = ["# Timings", "", "Written by `python -m benchmarks`; not edited. Weights are random, sizes the published ones.",
              "Runs take turns and medians are given; a ratio is the first line's time over the line's own (larger is faster),",
              "an error the norm of the difference of the outputs over the first line's norm. GFLOP/s count the operations of",
              "the plain way: Winograd's convolutions do with fewer.", "", *machine(options), ""]
    for name in chosen:
        begin = time.perf_counter()
        report.append(parts[name]())
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        out.write_text("\n".join(report), encoding="utf-8")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
