"""How near a number of steps comes to the sound that infinitely many would make, on a trained network."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from audiogen.settings import Settings
from benchmarks.measure import Options, Row, relative, table

EXACT = ("ddim", 1000, False)
# sampler, steps, and whether on Karras' levels
SEVERAL = (("unipc", 20, True), ("unipc", 25, True), ("unipc", 25, False), ("unipc", 35, True), ("ddim", 200, False))
PROMPTS = ["heavy rain", "a violin melody", "a woman talking", "a crowd applauding"]


def distances(options: Options) -> list[Row]:
    """Relative distance of the latents to those of 1000 steps of DDIM, for the default model's U-Net on a published schedule.

    The default model is the trained one that is here; its schedule is AudioLDM 2's with the published spacing, guided by 3.5 at
    every level.
    """
    from audiogen.hub import load

    pipeline = load("everyday", options.device, "float32")
    schedule = replace(pipeline.config.schedule, spacing=None, offset=1, final_zero=False)
    pipeline.config = replace(pipeline.config, schedule=schedule,
                              defaults=replace(pipeline.config.defaults, interval=None))
    seconds = 0.32 if options.quick else 0.64

    def latents(sampler: str, steps: int, karras: bool) -> Tensor:
        settings = pipeline.settle(Settings(sampler=sampler, steps=steps, karras=karras, duration=seconds, guidance=3.5))
        levels, draw = pipeline.levels(settings), pipeline.noise(settings, range(len(PROMPTS)))
        nothing = [None] * len(PROMPTS)
        denoise = pipeline.denoiser(PROMPTS, nothing, nothing, settings, levels)
        # all at once, which `generate` does on a GPU only: the same but for roundings, and sooner
        return pipeline.walk(denoise, levels, draw() * levels.initial, draw, settings)

    exact = latents("ddim", 20, False) if options.quick else latents(*EXACT)
    return [Row(f"{sampler}, {steps} steps{', Karras' * karras}", f"{steps} evaluations",
                error=relative(latents(sampler, steps, karras), exact))
            for sampler, steps, karras in SEVERAL[:: 3 if options.quick else 1]]


def sections(options: Options) -> dict[str, Callable[[], str]]:
    """Each part of the report, by the names of --only."""
    def steps() -> str:
        note = ("Latents against those of 1000 DDIM steps: the default model's U-Net, AudioLDM 2's schedule and published grid, "
                f"guidance 3.5, {len(PROMPTS)} prompts.")
        with torch.inference_mode():
            return table("Samplers and steps", note, distances(options))

    return {"steps": steps}
