"""`audiogen generate`: sounds from prompts."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiogen.cli import console, options, takes
from audiogen.cli.options import UsageFault
from audiogen.cli.output import Output, targets
from audiogen.errors import SettingsError
from audiogen.recipe import Recipe, recipe_of, stem
from audiogen.settings import Settings
from audiogen.timeline import read_timeline
from audiogen.words import read_weights

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

MAX_COUNT = 1000
Seed = Annotated[int | None, typer.Option(
    "--seed", "-s", help="Same seed, same sound.", show_default="random, and said", rich_help_panel=options.SOUND)]
Play = Annotated[bool, typer.Option("--play", help="Play each sound when it is there.", rich_help_panel=options.OUTPUT)]
Out = Annotated[Path | None, typer.Option(
    "--out", "-o", help="A file (name.wav, .flac, .ogg, .mp3) or a folder.", show_default="here, named after prompt and seed",
    rich_help_panel=options.OUTPUT)]


@options.filled(options.wanted)
def generate(
    prompts: Annotated[list[str] | None, typer.Argument(
        metavar="PROMPT...", help="What should sound; each prompt becomes a file.", show_default=False)] = None,
    like: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Make a sound of audiogen again; other options change it.",
        rich_help_panel=options.SOUND)] = None,
    duration: options.Duration = None,
    seed: Seed = None,
    count: Annotated[int, typer.Option(
        "--count", "-c", help="Takes of each prompt, with seeds that follow each other.",
        rich_help_panel=options.SOUND)] = 1,
    drafts: options.Drafts = None,
    loop: takes.Loop = None,
    timeline: takes.Timeline = None,
    candidates: takes.Candidates = 1,
    keep_all: takes.KeepAll = False,
    ranker: takes.RankerName = None,
    swap: takes.Swap = None,
    variation_of: takes.VariationOf = None,
    amount: takes.Amount = 0.2,
    out: Out = None,
    show_attention: takes.ShowAttention = False,
    play: Play = False,
    overwrite: options.Overwrite = False,
    wanted: options.Wanted = options.NOTHING,
) -> None:
    """Generate sounds from text.

    Files are named after prompt and seed, and never replaced unless you say --overwrite. The settings are stored in
    each file: `audiogen info FILE` shows them, `--like FILE` makes the same sound again.
    """
    prompts = _prompts(prompts, timeline, like, variation_of)
    if not 1 <= count <= MAX_COUNT:
        raise SettingsError(f"A count of {count} is out of range; give 1 to {MAX_COUNT}.")
    base = _base(like or variation_of, secrets.randbelow(2**31) if seed is None and variation_of is not None else seed)
    neighbour = None if variation_of is None else _base(variation_of, None)
    each = takes.Takes(candidates, keep_all, ranker, swap, neighbour, amount, show_attention).check()
    base = wanted.change(base, duration=duration, drafts=drafts, loop=loop, timeline=True if timeline is not None else None)
    base = base if drafts is None else replace(base, draft=None)
    recipes = [replace(base.of(base.seed + k * candidates), prompt=prompt).check()
               for prompt in prompts or [base.prompt] for k in range(count)]
    told = [each.files(recipe) for recipe in recipes]
    output = Output("", wanted.spectrogram, play, wanted.quiet, wanted.as_json, show_attention, overwrite=overwrite)
    files, kind = targets(out, [stem(r.prompt, r.seed) for some in told for r in some], wanted.format, overwrite,
                          output.pictures)
    once = len({r.prompt for r in recipes}) == 1 and timeline is None
    pipeline = options.load(base.model, wanted.device, base.dtype, wanted.offline, wanted.quiet, once)
    for recipe in {r.prompt: r for r in recipes}.values():
        warn_excess(pipeline, recipe)
    for k, (recipe, some) in enumerate(zip(recipes, told, strict=True)):       # each by itself, so that it is the same,
        label = "generating" if len(recipes) == 1 else f"generating {k + 1} of {len(recipes)}"   # to the last bit, in any list
        each.make(pipeline, recipe, files[k * len(some) : (k + 1) * len(some)], replace(output, format=kind), label)


def _prompts(prompts: list[str] | None, timeline: str | None, like: Path | None, neighbour: Path | None) -> list[str] | None:
    """The prompts or the timeline that was given; None where a file tells."""
    if timeline is not None and prompts:
        raise UsageFault("Give prompts or a --timeline, not both.")
    if like is not None and neighbour is not None:
        raise UsageFault("Give --like or --variation-of, not both.")
    if not prompts and timeline is None and like is None and neighbour is None:
        raise UsageFault("Say what should sound, for example: audiogen generate \"rain on a tin roof\".")
    return [timeline] if timeline is not None else prompts


def _base(like: Path | None, seed: int | None) -> Recipe:
    """What options change: a stored recipe, or nothing but a seed."""
    if like is None:
        return Recipe("", secrets.randbelow(2**31) if seed is None else seed, Settings(), "everyday")
    from audiogen.audio import read_recipe

    base = recipe_of(read_recipe(like), str(like))
    return base if seed is None else base.of(seed)


def warn_excess(pipeline: "Pipeline", recipe: Recipe) -> None:
    """Say what of a prompt the model's text encoder cannot read."""
    prompts = [s.prompt for s in read_timeline(recipe.prompt)] if recipe.settings.timeline else [recipe.prompt]
    for what, text in (*(("prompt", read_weights(p).prompt) for p in prompts), ("negative prompt", recipe.negative or "")):
        rest = pipeline.model.text.excess(text) if text else ""
        if rest:
            shown = rest if len(rest) <= 80 else rest[:77] + "..."
            console.note(f"Note: the {what} is longer than this model reads; it does not hear: \"{shown}\"")
