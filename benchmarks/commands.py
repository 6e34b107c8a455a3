"""Whole commands and whole clips, each in a process of its own: seconds, and the most memory that it held."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiogen.compat import DEFAULTS as COMPAT
from benchmarks import published
from benchmarks.measure import Options, Row, duration, formats, relative, table

DEFAULT_STEPS, SHARED_STEPS = 200, 5                             # diffusers'; where both do as many
ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ("a dog barking", "rain on a tin roof", "a church bell ringing", "footsteps on gravel", "a car engine idling",
           "birds singing", "a violin", "a creaking door", "ocean waves")      # those that the model does well, and others


@dataclass(frozen=True)
class Finished:
    seconds: float                                               # from the start of the process to its end
    gigabytes: float                                             # its largest resident set
    printed: str


def spend(*command: str) -> Finished:
    """Run a command to its end; raises RuntimeError with what it said if it fails.

    Python may keep what it compiles, as it does for a user: without that, every start compiles all modules anew.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained, text=True, cwd=ROOT, env=kept)
        most = 0.0
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.02)
        took = time.perf_counter() - begin
        said.seek(0)
        complained.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {complained.read()[-2000:]}")
        return Finished(took, most, said.read())


def held(pid: int) -> float:
    """The most memory that a process has held so far, in GB (of Linux; rusage would count what this process held, too)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), 0.0)


@cache
def folder(quick: bool) -> tuple[tempfile.TemporaryDirectory, Path]:
    """A published AudioLDM 2 folder that lives as long as this process."""
    home = tempfile.TemporaryDirectory(prefix="audiogen-bench-")
    published.write_audioldm2(Path(home.name), quick)
    return home, Path(home.name)


def clip(options: Options, whose: str, dtype: str, steps: int | None,
         **more: Any) -> tuple[Finished, dict[str, float], torch.Tensor]:
    """One clip of AudioLDM 2 in a new process: (the process, seconds to load and to generate, wave)."""
    _compiled(whose)
    with tempfile.TemporaryDirectory() as out:
        task = {"whose": whose, "folder": str(folder(options.quick)[1]), "dtype": dtype, "device": options.device, "steps": steps,
                "seconds": 0.64 if options.quick else 10.24, "threads": torch.get_num_threads(), "out": f"{out}/wave.npy", **more}
        done = spend(sys.executable, "-m", "benchmarks.child", json.dumps(task))
        return done, json.loads(done.printed.splitlines()[-1]), torch.from_numpy(np.load(f"{out}/wave.npy"))


@cache
def _compiled(whose: str) -> None:
    """See that Python has compiled what a side imports, as it has for a user after the first start."""
    imported = {
        "diffusers": "from diffusers import AudioLDM2Pipeline",
        "audiogen": "import audiogen.pipeline; from transformers import "
                    "AutoTokenizer, ClapTextModelWithProjection, GPT2Model, T5EncoderModel"}
    spend(sys.executable, "-c", imported[whose])


def clips(options: Options) -> str:
    """Load, generate and memory, at equal steps."""
    steps = 2 if options.quick else SHARED_STEPS
    ddim = {"sampler": "ddim"}
    sides: tuple[tuple[str, dict[str, str]], ...] = (("diffusers", {}), ("audiogen", ddim))
    kinds = {f"{whose}, {dtype}": (whose, dtype, more) for dtype in formats(options) for whose, more in sides}
    weights = sum(f.stat().st_size for f in folder(options.quick)[1].rglob("*.safetensors")) / 1e9
    done = {name: clip(options, whose, dtype, steps, **more) for name, (whose, dtype, more) in kinds.items()}
    (first_process, first, reference), *_ = done.values()
    load, make, whole, memory = [], [], [], []
    for name, (process, took, wave) in done.items():
        load.append(Row(name, duration(took["load"]), first["load"] / took["load"]))
        make.append(Row(name, duration(took["generate"]), first["generate"] / took["generate"],
                        None if wave is reference else relative(wave, reference)))
        share = process.gigabytes / (weights / 2)
        whole.append(Row(name, duration(process.seconds), first_process.seconds / process.seconds))
        memory.append(Row(name, f"{process.gigabytes:.2f} GB", note=f"{share:.2f} of the weights in bfloat16"))
    note = f"AudioLDM 2, base size ({weights:.1f} GB in float32), one process each, its imports included."
    long = f"10.24 s clip, {steps} DDIM steps on both sides"
    return "\n".join((table("Load from disk", note, load),
                      table(f"A {long}", "The text included, and what is read after it; loading not.", make),
                      table(f"The whole process of a {long}", "From its start to its end.", whole),
                      table("Peak memory of a whole process", "Resident, mapped weights included.", memory)))


def defaults(options: Options) -> str:
    """A clip as each side makes it when it is told nothing: once, because 200 steps take minutes."""
    theirs = 2 if options.quick else DEFAULT_STEPS
    seconds = 0.64 if options.quick else 10.24 if options.full else 2.56
    _, first, _ = clip(options, "diffusers", "float32", theirs, seconds=seconds)
    made = {dtype: clip(options, "audiogen", dtype, 2 if options.quick else None, seconds=seconds)[1]["generate"]
            for dtype in formats(options)}
    return table(f"A {seconds:g} s clip at defaults", "AudioLDM 2, one run each, the text included.", [
        Row(f"diffusers: {theirs} DDIM steps, float32", duration(first["generate"]), 1.0),
        *(Row(f"audiogen: {COMPAT['audioldm2'].steps} steps of {COMPAT['audioldm2'].sampler}, --dtype {dtype}", duration(took),
              first["generate"] / took)
          for dtype, took in made.items())])


def command(options: Options) -> str:
    """The command as a user meets it, with the default model."""
    from audiogen.files import packaged
    from audiogen.hub import DEFAULT

    tiny = options.quick or packaged(DEFAULT) is None
    model = str(ROOT / "tests/checkpoints/audioldm-tiny") if tiny else DEFAULT
    length, lines = ("0.5", 2) if options.quick else ("5", 8)
    start = [sys.executable, "-m", "audiogen"]
    with tempfile.TemporaryDirectory() as out:
        prompts = Path(out, "prompts.txt")
        prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS[:lines]))
        spend(*start, "generate", "a dog barking", "-m", model, "-d", length, "-o", f"{out}/first.wav")     # compiles
        helped = [spend(*start, "--help").seconds for _ in range(options.repeats)]
        made = [spend(*start, "generate", "rain on a tin roof", "-m", model, "-d", length, "-o", f"{out}/{i}.wav")
                for i in range(options.repeats)]
        batch = spend(*start, "batch", str(prompts), "-m", model, "-d", length, "-o", f"{out}/batch")
        count = len(list(Path(out, "batch").rglob("*.wav")))
    warm = _warm(model, float(length), options)
    shown = "the tiny test model" if tiny else f"the default model, {DEFAULT}"
    note = "From the start of the process to its end, the files written; not the first start."
    return table(f"The command, with {shown}", note, [
        Row("`audiogen --help`", duration(sorted(helped)[len(helped) // 2])),
        Row(f"`audiogen generate`, {length} s clip, cold", duration(sorted(m.seconds for m in made)[len(made) // 2]),
            note=f"{max(m.gigabytes for m in made):.2f} GB at most"),
        Row(f"generate, {length} s clip, loaded and warm", duration(warm[len(warm) // 2]),
            note=f"in Python; {duration(warm[0])} to {duration(warm[-1])}, median of {len(warm)} prompts"),
        Row(f"`audiogen batch`, {lines} prompts of {length} s", f"{60 * count / batch.seconds:.0f} clips a minute",
            note=f"start-up included; {batch.gigabytes:.2f} GB at most")])


def _warm(model: str, seconds: float, options: Options) -> list[float]:
    """Seconds that each of some prompts takes, sorted."""
    from audiogen.hub import load

    pipeline = load(model, options.device)
    pipeline.generate(["a bell"], duration=seconds)
    times = []
    for prompt in PROMPTS[: 2 if options.quick else None]:
        begin = time.perf_counter()
        pipeline.generate([prompt], duration=seconds, seed=1)
        times.append(time.perf_counter() - begin)
    return sorted(times)


def sections(options: Options) -> dict[str, Callable[[], str]]:
    """Each part of the report, by the names of --only."""
    return {"command": lambda: command(options), "clip": lambda: clips(options), "defaults": lambda: defaults(options)}
