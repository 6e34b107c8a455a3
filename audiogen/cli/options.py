"""Options that several commands share, and what they mean."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiogen.cli import console
from audiogen.errors import AudiogenError, SettingsError
from audiogen.memory import keep_freed
from audiogen.recipe import Recipe

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

FORMATS = ("wav", "flac", "ogg", "mp3")
THE_MODELS = "the model's"
SOUND, NUMERICS, OUTPUT = "The sound", "How it is computed", "Output"    # headings of help

Model = Annotated[str | None, typer.Option(
    "--model", "-m", help="A short name (see `audiogen models`), a hub name like cvssp/audioldm2, or a folder.",
    show_default="everyday", rich_help_panel=SOUND)]
Negative = Annotated[str | None, typer.Option(help="What it should not sound like.", rich_help_panel=SOUND)]
Duration = Annotated[float | None, typer.Option(
    "--duration", "-d", help="Seconds, cut to the exact sample.", show_default=THE_MODELS, rich_help_panel=SOUND)]
Steps = Annotated[int | None, typer.Option(
    "--steps", "-n", help="Sampling steps: more are slower and a little better.", show_default=THE_MODELS,
    rich_help_panel=SOUND)]
Guidance = Annotated[float | None, typer.Option(
    "--guidance", "-g", help="How strictly to follow the prompt; 1 is no guidance, and up to twice as fast.",
    show_default=THE_MODELS, rich_help_panel=SOUND)]
GuidanceInterval = Annotated[str | None, typer.Option(
    metavar="LOW-HIGH", help="Noise levels between which guidance acts, like 0.3-8; elsewhere it is saved.",
    show_default=THE_MODELS, rich_help_panel=SOUND)]
GuidanceRescale = Annotated[float | None, typer.Option(
    help="0-1: tames the loudness that strong guidance brings.", show_default="0", rich_help_panel=SOUND)]
GuidanceSlow = Annotated[float | None, typer.Option(
    help="0-1: share of the guidance that acts on what hardly changes within 0.4 s, the sound's colour; 1 is all of it.",
    show_default=THE_MODELS, rich_help_panel=SOUND)]
Sampler = Annotated[str | None, typer.Option(
    help="ddim, ddpm, pndm, euler, euler-a, heun, dpmpp-2m, dpmpp-2m-sde or unipc.", show_default=THE_MODELS,
    rich_help_panel=SOUND)]
Karras = Annotated[bool | None, typer.Option(
    "--karras/--no-karras", help="Space the noise levels as Karras et al. do.", show_default="the model's, with its own sampler",
    rich_help_panel=SOUND)]
Eta = Annotated[float | None, typer.Option(
    help="0-1: noise that ddim puts back at each step.", show_default="0", rich_help_panel=SOUND)]
Drafts = Annotated[int | None, typer.Option(
    help="Beginnings to try, until one fits the prompt; 1 is the quickest.", show_default=THE_MODELS, rich_help_panel=SOUND)]
Say = Annotated[str | None, typer.Option(help="The words to speak, for models of speech.", rich_help_panel=SOUND)]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=NUMERICS)]
DType = Annotated[str | None, typer.Option(
    help="auto, float32, bfloat16 or float16.", show_default="auto", rich_help_panel=NUMERICS)]
Offline = Annotated[bool, typer.Option("--offline", help="Use only models that are here; ask no network.",
    rich_help_panel=NUMERICS)]

Format = Annotated[str | None, typer.Option(
    "--format", "-f", help="wav, flac, ogg or mp3.", show_default="by the name, or wav", rich_help_panel=OUTPUT)]
Spectrogram = Annotated[bool, typer.Option("--spectrogram", help="Also draw a picture (PNG) beside each sound.",
    rich_help_panel=OUTPUT)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but warnings and errors.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="A JSON object a line on stdout, for scripts.",
    rich_help_panel=OUTPUT)]
NOTHING: Any = None                                              # `filled` fills it in


def filled(read: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a command whose last parameter is replaced by the options of `read`, and receives what that makes of them."""
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        *own, last = inspect.signature(command).parameters.values()
        common = list(inspect.signature(read).parameters.values())

        def run(**given: Any) -> Any:
            mine = {p.name: given.pop(p.name) for p in own}
            return command(**mine, **{last.name: read(**given)})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature([*own, *common])   # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
        return run

    return decorate


@dataclass(frozen=True)
class Wanted:
    """What the options say that all commands that make sounds share; those of a recipe only where they were given."""

    settings: dict[str, Any]                                     # fields of Settings
    others: dict[str, Any]                                       # fields of Recipe
    device: str
    offline: bool
    format: str | None
    spectrogram: bool
    quiet: bool
    as_json: bool

    def change(self, recipe: Recipe, **settings: Any) -> Recipe:
        """The recipe with what was given; and with `settings` that are not None."""
        return replace(recipe, settings=replace(recipe.settings, **self.settings, **given(**settings)), **self.others)


def wanted(
    model: Model = None, negative: Negative = None, steps: Steps = None, guidance: Guidance = None,
    guidance_interval: GuidanceInterval = None, guidance_rescale: GuidanceRescale = None,
    guidance_slow: GuidanceSlow = None, sampler: Sampler = None, karras: Karras = None, eta: Eta = None, say: Say = None,
    device: Device = "auto", dtype: DType = None, offline: Offline = False, format: Format = None,
    spectrogram: Spectrogram = False, quiet: Quiet = False, as_json: Json = False,
) -> Wanted:
    """The options of `Wanted`, for `filled`."""
    settings = given(steps=steps, guidance=guidance, interval=interval(guidance_interval), rescale=guidance_rescale,
                     slow=guidance_slow, sampler=sampler, karras=karras, eta=eta)
    others = given(model=model, dtype=dtype, negative=negative, say=say)
    return Wanted(settings, others, device, offline, format, spectrogram, quiet, as_json)


def interval(text: str | None) -> tuple[float, float] | None:
    """"0.3-8" as two numbers; raises SettingsError."""
    if text is None:
        return None
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise SettingsError(f"--guidance-interval '{text}' is not two noise levels; write it like 0.3-8.") from None


class UsageFault(AudiogenError):
    """A command line that makes no sense, beyond what Typer finds."""

    exit_code = 2


def check_format(name: str) -> str:
    """The name of a sound format without case or dot; raises SettingsError."""
    plain = name.lower().removeprefix(".")
    if plain not in FORMATS:
        raise SettingsError(f"No sound format '{name}'; there are {', '.join(FORMATS)}.")
    return plain


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def set_hub(offline: bool, quiet: bool = False) -> None:
    """Forbid the hub's library to use the network, or to show its progress, before it is imported."""
    os.environ.update({"HF_HUB_OFFLINE": "1"} if offline else {})
    os.environ.update({"HF_HUB_DISABLE_PROGRESS_BARS": "1"} if quiet else {})


def fetch(model: str, quiet: bool) -> Path:
    """The folder of a model; what has to be fetched is said."""
    from audiogen import hub

    return hub.resolve(model, lambda repo, size: console.note(f"Fetching {repo}, once: {size:.1f} GB.", quiet))


def load(model: str, device: str, dtype: str, offline: bool, quiet: bool, once: bool = True) -> "Pipeline":
    """The model, fetched first if it is not here; each with its own progress. `once` as for `audiogen.load`."""
    set_hub(offline, quiet)
    from audiogen import hub

    if device not in ("auto", "cpu"):
        hub.pick_device(device)                                  # that it is absent is said before anything is fetched
    fetch(model, quiet)
    keep_freed()
    with console.progress(f"loading {model}", quiet):
        pipeline = hub.load(model, device, dtype, once)
    note_format(pipeline, quiet)
    return pipeline


def note_format(pipeline: "Pipeline", quiet: bool) -> None:
    """Say what bfloat16 costs where the processor has no instructions for it."""
    import torch

    from audiogen.models.packed import multiplies

    if pipeline.device == "cpu" and pipeline.dtype == torch.bfloat16 and not multiplies(torch.bfloat16):
        console.note("This CPU has no instructions for bfloat16: it takes less memory here, and longer than float32.", quiet)


def prepare_folder(folder: Path) -> Path:
    """Make the folder if it is not there; raises OSError or SettingsError if nothing can be written in it."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file, where a folder is needed.")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(13, "Permission denied", str(folder))
    return folder
