"""`audiogen evaluate`: figures of a folder of sounds against another, or of a model against held-out recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiogen.cli import console, options
from audiogen.errors import SettingsError
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.evaluate.embed import Embedder
    from audiogen.evaluate.report import Report

WHAT = "What is judged"
Rows = list[tuple[str, list[tuple[str, Path]]]]


def evaluate(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Sounds to judge.", show_default=False)] = None,
    reference: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="Recordings to judge them by; files of one name pair.", rich_help_panel=WHAT)] = None,
    model: Annotated[str | None, typer.Option(
        "--model", "-m", help="Judge a model instead: a short name, a hub name or a folder.", rich_help_panel=WHAT)] = None,
    data: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="Recordings with captions, for --model: a dataset as `train` takes it.",
        rich_help_panel=WHAT)] = None,
    count: Annotated[int, typer.Option(
        "--count", "-c", min=2, help="Recordings of --data, of its split \"test\" if it has one.", rich_help_panel=WHAT)] = 100,
    codec_only: Annotated[bool, typer.Option(
        "--codec-only", help="Of a model, only autoencoder and vocoder.", rich_help_panel=WHAT)] = False,
    embedder: Annotated[list[str] | None, typer.Option(
        "--embedder", "-e", help="Who listens: yamnet, or clap:NAME (a CLAP's folder or hub name). May be repeated.",
        show_default="yamnet", rich_help_panel=WHAT)] = None,
    duration: options.Duration = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: Annotated[int, typer.Option(
        "--seed", "-s", help="Of the sounds, and of whatever is drawn.", rich_help_panel=options.SOUND)] = 0,
    device: options.Device = "auto",
    offline: options.Offline = False,
    out: Annotated[Path, typer.Option(
        "--out", "-o", metavar="FOLDER", help="For report.json, index.html and pictures.",
        rich_help_panel=options.OUTPUT)] = Path("evaluation"),
    pictures: Annotated[int, typer.Option(
        min=0, help="Rows of the page of pictures, spread over all.", rich_help_panel=options.OUTPUT)] = 24,
    quiet: options.Quiet = False,
    as_json: Annotated[bool, typer.Option(
        "--json", help="Print report.json in place of the table.", rich_help_panel=options.OUTPUT)] = False,
) -> None:
    """Measure how near sounds are to recordings: Fréchet distance, KL, inception score, CLAP score, reconstruction.

    Each figure names the network that listened and the number of sounds: compare it only with figures of the same of both.
    """
    folders, of_model = (folder is not None and reference is not None), (model is not None and data is not None)
    if folders == of_model:
        raise SettingsError("Give FOLDER --reference FOLDER to judge sounds, or --model NAME --data FOLDER to judge a model.")
    settings = Settings(duration=duration, steps=steps, guidance=guidance).check()
    options.prepare_folder(out)
    options.set_hub(offline)
    from audiogen.evaluate.embed import load_embedder
    from audiogen.evaluate.report import write_report

    with console.progress("loading", quiet):
        listeners = [load_embedder(name) for name in dict.fromkeys(embedder or ["yamnet"])]
    if folder is not None and reference is not None:
        report, rows = _folders(folder, reference, listeners, seed, quiet)
    else:
        report, rows = _model(str(model), Path(str(data)), listeners, out, settings, count, seed,
                              None if codec_only else device, quiet)
    with console.progress("drawing", quiet, count=True) as watch:
        shown = min(pictures, len(rows))
        write_report(report, out, [rows[i * len(rows) // shown] for i in range(shown)], watch)
    if as_json:
        console.say(report.to_json())
    elif not quiet:
        _show(report, out)


def _folders(folder: Path, reference: Path, listeners: "list[Embedder]", seed: int, quiet: bool) -> "tuple[Report, Rows]":
    from audiogen.evaluate.clips import find_clips, pair
    from audiogen.evaluate.report import evaluate

    made, real = find_clips(folder), find_clips(reference)
    with console.progress("listening", quiet) as watch:
        report = evaluate(made, real, listeners, seed, watch)
    report.sets["generated"]["folder"], report.sets["reference"]["folder"] = str(folder), str(reference)
    pairs = pair(made, real)
    if pairs:
        return report, [(a.caption or a.name, [("generated", a.path), ("reference", b.path)]) for a, b in pairs]
    return report, [(c.caption or c.name, [("generated", c.path)]) for c in made]


def _model(model: str, data: Path, listeners: "list[Embedder]", out: Path, settings: Settings, count: int, seed: int,
           device: str | None, quiet: bool) -> "tuple[Report, Rows]":
    """Without a device, only the codec."""
    from audiogen import hub
    from audiogen.evaluate.clips import find_clips, held_out
    from audiogen.evaluate.model import Codec, evaluate_model

    clips = held_out(find_clips(data), count, seed)
    with console.progress(f"loading {model}", quiet):
        codec = Codec.load(hub.resolve(model))
        pipeline = hub.load(model, device) if device is not None else None
    with console.progress("listening", quiet) as watch:
        report, sets = evaluate_model(codec, pipeline, clips, listeners, out, settings, seed, watch)
    report.sets["reference"]["folder"] = str(data)
    names = [name for name in ("reference", "reconstructed", "generated") if name in sets]
    return report, [(c.caption or c.name, [(name, sets[name][i].path) for name in names]) for i, c in enumerate(clips)]


def _show(report: "Report", out: Path) -> None:
    """The figures as a table, the notes and where the report lies."""
    rows = [(f.name, f"{f.value:.3f}", f.better, f.n) for f in report.figures]
    console.table(("Figure", "Value", "Better", "Of"), rows, right=(1,))
    for text in report.notes:
        console.say(text)
    console.say(f"{out / 'report.json'}, {out / 'index.html'}")
