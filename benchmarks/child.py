"""One clip in a process of its own, so that its time and memory are its own: `python -m benchmarks.child WHOSE FOLDER ...`."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PROMPT = "rain on a tin roof"


def theirs(folder: Path, dtype: str, device: str, steps: int, seconds: float) -> tuple[float, float, Any]:
    """(seconds to load, imports included, seconds to generate, wave) by diffusers' pipeline."""
    begin = time.perf_counter()
    import torch
    from diffusers import AudioLDM2Pipeline

    pipeline = AudioLDM2Pipeline.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).to(device)
    loaded = time.perf_counter()
    pipeline.set_progress_bar_config(disable=True)
    wave = pipeline(PROMPT, num_inference_steps=steps, guidance_scale=3.5, audio_length_in_s=seconds,
                    generator=torch.Generator("cpu").manual_seed(0)).audios[0]
    return loaded - begin, time.perf_counter() - loaded, wave


def ours(folder: Path, dtype: str, device: str, steps: int | None, seconds: float,
         sampler: str | None = None) -> tuple[float, float, Any]:
    """The same by this project; None is its default."""
    begin = time.perf_counter()
    from audiogen.hub import load
    from audiogen.memory import keep_freed

    keep_freed()                                                 # as the command does
    pipeline = load(str(folder), device, dtype, once=True)
    loaded = time.perf_counter()
    given = {k: v for k, v in (("steps", steps), ("sampler", sampler)) if v is not None}
    wave = pipeline.generate([PROMPT], guidance=3.5, duration=seconds, seeds=[0], **given).audio[0].numpy()
    return loaded - begin, time.perf_counter() - loaded, wave


def main() -> None:
    import numpy as np

    task = json.loads(sys.argv[1])
    os.environ["OMP_NUM_THREADS"] = str(task["threads"])
    make = theirs if task["whose"] == "diffusers" else ours
    given = {k: task[k] for k in ("dtype", "device", "steps", "seconds", "sampler") if k in task}
    load, generate, wave = make(Path(task["folder"]), **given)
    np.save(task["out"], np.asarray(wave, dtype=np.float32))
    print(json.dumps({"load": load, "generate": generate}))


if __name__ == "__main__":
    main()
