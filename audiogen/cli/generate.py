"""`audiogen generate`: sounds from prompts."""

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiogen.cli import console, options
from audiogen.cli.options import UsageFault
from audiogen.cli.output import Output, targets
from audiogen.errors import SettingsError
from audiogen.recipe import Recipe, recipe_of, stem
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

MAX_COUNT = 1000


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(
        metavar="PROMPT...", help="What should sound; each prompt becomes a file.", show_default=False)] = None,
    like: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Make a sound of audiogen again; other options change it.",
        rich_help_panel=options.SOUND)] = None,
    model: options.Model = None,
    negative: options.Negative = None,
    duration: options.Duration = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    guidance_rescale: options.GuidanceRescale = None,
    sampler: options.Sampler = None,
    karras: options.Karras = None,
    eta: options.Eta = None,
    seed: Annotated[int | None, typer.Option(
        "--seed", "-s", help="Same seed, same sound.", show_default="random, and said",
        rich_help_panel=options.SOUND)] = None,
    count: Annotated[int, typer.Option(
        "--count", "-c", help="Takes of each prompt, with seeds that follow each other.",
        rich_help_panel=options.SOUND)] = 1,
    say: options.Say = None,
    device: options.Device = "auto",
    dtype: options.DType = None,
    offline: options.Offline = False,
    out: Annotated[Path | None, typer.Option(
        "--out", "-o", help="A file (name.wav, .flac, .ogg, .mp3) or a folder.",
        show_default="here, named after prompt and seed", rich_help_panel=options.OUTPUT)] = None,
    format: options.Format = None,
    spectrogram: options.Spectrogram = False,
    play: Annotated[bool, typer.Option("--play", help="Play each sound when it is there.",
        rich_help_panel=options.OUTPUT)] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Generate sounds from text.

    Files are named after prompt and seed, and never replaced unless you say --overwrite. The settings are stored in
    each file: `audiogen info FILE` shows them, `--like FILE` makes the same sound again.
    """
    if not prompts and like is None:
        raise UsageFault("Say what should sound, for example: audiogen generate \"rain on a tin roof\".")
    if not 1 <= count <= MAX_COUNT:
        raise SettingsError(f"A count of {count} is out of range; give 1 to {MAX_COUNT}.")
    changes: dict[str, Any] = options.given(duration=duration, steps=steps, guidance=guidance, rescale=guidance_rescale,
                                            sampler=sampler, karras=karras, eta=eta)
    others: dict[str, Any] = options.given(model=model, dtype=dtype, negative=negative, say=say)
    base = _base(like, seed)
    base = replace(base, settings=replace(base.settings, **changes), **others)
    recipes = [replace(base, prompt=prompt, seed=base.seed + k).check()
               for prompt in prompts or [base.prompt] for k in range(count)]
    files, kind = targets(out, [stem(r.prompt, r.seed) for r in recipes], format, overwrite, spectrogram)
    options.go_offline(offline)
    output = Output(kind, spectrogram, play, quiet, as_json)
    with console.progress(f"loading {base.model}", quiet):
        from audiogen import hub

        pipeline = hub.load(base.model, device, base.dtype)
    for recipe in {r.prompt: r for r in recipes}.values():
        warn_excess(pipeline, recipe)
    _make(pipeline, recipes, files, output)


def _base(like: Path | None, seed: int | None) -> Recipe:
    """What options change: a stored recipe, or nothing but a seed."""
    if like is None:
        return Recipe("", secrets.randbelow(2**31) if seed is None else seed, Settings(), "everyday")
    from audiogen.audio import read_recipe

    base = recipe_of(read_recipe(like), str(like))
    return base if seed is None else replace(base, seed=seed)


def _make(pipeline: "Pipeline", recipes: list[Recipe], files: list[Path], output: Output) -> None:
    """Each sound by itself: so that it is the same, to the last bit, whatever was made beside it."""
    for k, (recipe, path) in enumerate(zip(recipes, files, strict=True)):
        label = "generating" if len(recipes) == 1 else f"generating {k + 1} of {len(recipes)}"
        began = time.perf_counter()
        with console.progress(label, output.quiet) as watch:
            made = pipeline.generate([recipe.prompt], recipe.settings, [recipe.seed], negatives=[recipe.negative],
                                     says=[recipe.say], watch=watch)
        full = replace(recipe, settings=made.settings, dtype=str(pipeline.dtype).removeprefix("torch."))
        tag = {"command": "generate"} | full.as_dict()
        output.deliver(path, made.audio[0], made.sample_rate, tag, time.perf_counter() - began)


def warn_excess(pipeline: "Pipeline", recipe: Recipe) -> None:
    """Say what of a prompt the model's text encoder cannot read."""
    for what, text in (("prompt", recipe.prompt), ("negative prompt", recipe.negative or "")):
        rest = pipeline.model.text.excess(text) if text else ""
        if rest:
            shown = rest if len(rest) <= 80 else rest[:77] + "..."
            console.note(f"Note: the {what} is longer than this model reads; it does not hear: \"{shown}\"")
