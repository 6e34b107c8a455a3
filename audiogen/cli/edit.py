"""`audiogen edit`, `inpaint`, `extend`, `upscale`: recordings that are changed, in their own rate and channels."""

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiogen.cli import console, options
from audiogen.cli.generate import Play, Seed
from audiogen.cli.output import Output, targets
from audiogen.cli.takes import Candidates, KeepAll, RankerName, Takes, order
from audiogen.prompts import check_candidates
from audiogen.recipe import Recipe, slug
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.audio import Recording
    from audiogen.diffusion.sampling import Watch
    from audiogen.edit.changes import Change
    from audiogen.edit.paint import Edited
    from audiogen.pipeline import Pipeline

RECORDING = "The recording"
Input = Annotated[Path, typer.Argument(metavar="IN", help="A recording: any rate, any number of channels.", show_default=False)]
Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What should sound.", show_default=False)]
Out = Annotated[Path | None, typer.Option(
    "--out", "-o", help="A file (name.wav, .flac, .ogg, .mp3) or a folder.", show_default="here, named after what it is made of",
    rich_help_panel=options.OUTPUT)]


@dataclass(frozen=True)
class How:
    """The options that all these commands share."""

    recipe: Recipe                                               # without its prompt
    device: str
    offline: bool
    out: Path | None
    format: str | None
    overwrite: bool
    output: Output
    takes: Takes = Takes()


@options.filled(options.wanted)
def _how(seed: Seed = None, out: Out = None, play: Play = False, overwrite: options.Overwrite = False,
         wanted: options.Wanted = options.NOTHING) -> How:
    recipe = Recipe("-", secrets.randbelow(2**31) if seed is None else seed, Settings(), "everyday")
    output = Output("", wanted.spectrogram, play, wanted.quiet, wanted.as_json, overwrite=overwrite)
    return How(wanted.change(recipe).check(), wanted.device, wanted.offline, out, wanted.format, overwrite, output)


shared = options.filled(_how)


@shared
def _several(candidates: Candidates = 1, keep_all: KeepAll = False, ranker: RankerName = None,
             how: How = options.NOTHING) -> How:
    return replace(how, takes=Takes(candidates, keep_all, ranker).check())


changing = options.filled(_several)


@changing
def edit(
    source: Input,
    prompt: Prompt,
    strength: Annotated[float, typer.Option(
        help="0 keeps the recording (through the model), 1 ignores it.", rich_help_panel=RECORDING)] = 0.5,
    how: How = options.NOTHING,
) -> None:
    """Make a recording sound like a prompt, its course kept: a style transfer (SDEdit)."""
    from audiogen.edit.changes import Edit

    _run(Edit(strength), source, prompt, how)


@changing
def inpaint(
    source: Input,
    prompt: Prompt,
    span: Annotated[list[str] | None, typer.Option(
        help="Seconds to paint anew, as 2.5-4; may be repeated.", show_default="all, with --band",
        rich_help_panel=RECORDING)] = None,
    band: Annotated[str | None, typer.Option(
        help="Paint only these Hz, as 2000-8000.", show_default="all", rich_help_panel=RECORDING)] = None,
    how: How = options.NOTHING,
) -> None:
    """Paint spans of a recording anew; everywhere else its own samples stay.

    The prompt is all that sounds in a span: name what goes on behind it too, as in "a dog barks in the rain".
    """
    if not span and band is None:
        raise options.UsageFault("Say what to paint, for example --span 2.5-4 or --band 2000-8000.")
    from audiogen.edit.changes import Inpaint
    from audiogen.edit.places import read_span

    spans = tuple(read_span(s) for s in span or [])
    _run(Inpaint(spans, None if band is None else read_span(band, "band", "Hz")), source, prompt, how)


@changing
def extend(
    source: Input,
    prompt: Prompt,
    seconds: Annotated[float, typer.Option(help="How long it goes on after its end.", show_default="0",
                                           rich_help_panel=RECORDING)] = 0.0,
    before: Annotated[float, typer.Option(help="How many seconds earlier it begins.", show_default="0",
                                          rich_help_panel=RECORDING)] = 0.0,
    how: How = options.NOTHING,
) -> None:
    """Continue a recording beyond its end, or let it begin earlier; its own samples stay."""
    if not seconds and not before:
        raise options.UsageFault("Say how long it goes on, for example --seconds 8, or --before 2.")
    from audiogen.edit.changes import Extend

    _run(Extend(seconds, before), source, prompt, how)


@changing
def upscale(
    source: Input,
    prompt: Annotated[str, typer.Argument(metavar="[PROMPT]", help="What sounds there: say it, and it fits better.",
                                          show_default=False)] = "",
    cutoff: Annotated[float | None, typer.Option(
        help="Hz above which to paint.", show_default="where the recording ends", rich_help_panel=RECORDING)] = None,
    how: How = options.NOTHING,
) -> None:
    """Paint the upper band that a dull recording lacks (super-resolution)."""
    from audiogen.edit.changes import Upscale

    _run(Upscale(cutoff), source, prompt, how)


def _run(change: "Change", source: Path, prompt: str, how: How) -> None:
    """Read the recording, change it, write what came out with the recipe of it."""
    from audiogen import audio

    check_candidates(how.takes.candidates, prompt)
    recipe = replace(how.recipe, prompt=prompt).check(change.bare)
    found = audio.read_recording(source)
    change.check(found.wave.shape[-1] / found.rate)
    files = how.takes.files(recipe)
    names = [f"{slug(source.stem) or 'sound'}-{change.command}-{r.seed}" for r in files]
    paths, kind = targets(how.out, names, how.format, how.overwrite, how.output.pictures)
    pipeline = options.load(recipe.model, how.device, recipe.dtype, how.offline, how.output.quiet)
    told = change.as_dict() | {"input": str(source)}
    if change.command != "upscale":
        _warn_above(pipeline, found, told.get("band"))
    output = replace(how.output, format=kind, subtype=found.subtype)

    def make(recipe: Recipe, watch: "Watch") -> "Edited":
        return change.make(pipeline, found.wave, found.rate, order(recipe), watch)

    began = time.perf_counter()
    with console.progress(change.command, how.output.quiet) as watch:
        made, kept = how.takes.choose(make, pipeline, recipe, watch)
    for path, (k, more) in zip(paths, kept, strict=True):
        full = replace(recipe, seed=recipe.seed + k, settings=made[k].settings,
                       dtype=str(pipeline.dtype).removeprefix("torch."))
        output.deliver(path, made[k].audio, made[k].sample_rate, told | full.as_dict() | more, time.perf_counter() - began)


def _warn_above(pipeline: "Pipeline", found: "Recording", band: list[float] | None) -> None:
    """Say what the model cannot give back of a recording where it paints, in `band` Hz or all of them."""
    from audiogen.edit.places import upper_edge

    mel = pipeline.config.mel
    top = min(mel.fmax, mel.sample_rate / 2)                     # Hz
    if band is not None and band[1] <= top:
        return
    if found.rate > 2.2 * top and upper_edge(found.wave, found.rate) > 1.1 * top:
        console.note(f"Note: this model reaches {top:.0f} Hz; above that, what it paints is silent, where the recording is not.")
