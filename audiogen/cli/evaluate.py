"""`audiogen evaluate`: figures of a folder of sounds against another, or of a model against held-out recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audiogen.cli import console
from audiogen.errors import SettingsError

if TYPE_CHECKING:
    from audiogen.evaluate.embed import Embedder
    from audiogen.evaluate.report import Report
    from audiogen.settings import Settings

Rows = list[tuple[str, list[tuple[str, Path]]]]


def evaluate(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Sounds to judge.", show_default=False)] = None,
    reference: Annotated[Path | None, typer.Option(help="Recordings to judge them by; files of one name pair.")] = None,
    model: Annotated[str | None, typer.Option(help="Judge a model instead: a name, a hub name or a folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Recordings with captions, for --model.")] = None,
    embedder: Annotated[list[str] | None, typer.Option(
        help="Who listens: yamnet, or clap:NAME (a CLAP's folder or hub name). May be repeated.",
        show_default="yamnet")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.json, index.html and pictures.")] = Path(
        "evaluation"),
    count: Annotated[int, typer.Option(min=2, help="Recordings of --data, of its test split if it has one.")] = 100,
    codec_only: Annotated[bool, typer.Option("--codec-only", help="Of a model, only its VAE and vocoder.")] = False,
    duration: Annotated[float | None, typer.Option(help="Seconds of each generated sound.", show_default="the model's")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.", show_default="the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance.", show_default="the model's")] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of recordings, of the sounds and of the subsets.")] = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Rows of the page of pictures.")] = 24,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a table.")] = False,
) -> None:
    """Measure how near sounds are to recordings: Fréchet distance, KL, inception score, CLAP score, reconstruction.

    Every figure names the network that listened and how many sounds it heard; compare only figures with the same of both.
    """
    folders, of_model = (folder is not None and reference is not None), (model is not None and data is not None)
    if folders == of_model:
        raise SettingsError("Give FOLDER --reference FOLDER to compare sounds, or --model NAME --data FOLDER to judge a model.")
    from audiogen.evaluate.embed import load_embedder
    from audiogen.evaluate.report import write_report

    listeners = [load_embedder(name, "cpu") for name in dict.fromkeys(embedder or ["yamnet"])]
    if folder is not None and reference is not None:
        report, rows = _folders(folder, reference, listeners, seed, pictures)
    else:
        from audiogen.settings import Settings

        settings = Settings(duration=duration, steps=steps, guidance=guidance).check()
        report, rows = _model(str(model), Path(str(data)), listeners, out, settings, count, seed, pictures,
                              None if codec_only else device)
    with console.progress("drawing") as watch:
        write_report(report, out, rows, watch)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        _show(report, out)


def _folders(folder: Path, reference: Path, listeners: "list[Embedder]", seed: int, pictures: int) -> "tuple[Report, Rows]":
    from audiogen.evaluate.clips import find_clips, pair
    from audiogen.evaluate.report import evaluate

    made, real = find_clips(folder), find_clips(reference)
    with console.progress("listening") as watch:
        report = evaluate(made, real, listeners, seed, watch)
    report.sets["generated"]["folder"], report.sets["reference"]["folder"] = str(folder), str(reference)
    pairs = pair(made, real)[:pictures]
    if pairs:
        return report, [(a.caption or a.name, [("generated", a.path), ("reference", b.path)]) for a, b in pairs]
    return report, [(c.caption or c.name, [("generated", c.path)]) for c in made[:pictures]]


def _model(model: str, data: Path, listeners: "list[Embedder]", out: Path, settings: "Settings", count: int, seed: int,
           pictures: int, device: str | None) -> "tuple[Report, Rows]":
    """Without a device, only the codec."""
    from audiogen import hub
    from audiogen.evaluate.clips import find_clips, held_out
    from audiogen.evaluate.model import Codec, evaluate_model

    clips = held_out(find_clips(data), count, seed)
    with console.progress("loading"):
        codec = Codec.load(hub.resolve(model))
        pipeline = hub.load(model, device) if device is not None else None
    with console.progress("listening") as watch:
        report, sets = evaluate_model(codec, pipeline, clips, listeners, out, settings, seed, watch)
    report.sets["reference"]["folder"] = str(data)
    names = [name for name in ("reference", "reconstructed", "generated") if name in sets]
    return report, [(c.caption or c.name, [(name, sets[name][i].path) for name in names])
                    for i, c in enumerate(clips[:pictures])]


def _show(report: "Report", out: Path) -> None:
    """The figures as a table, the notes and where the report lies."""
    from rich.table import Table

    table = Table("figure", "value", "better", "of", box=None, pad_edge=False, header_style="bold")
    table.columns[1].justify = "right"
    for figure in report.figures:
        table.add_row(figure.name, f"{figure.value:.3f}", figure.better, figure.n, style=None)
    console.out.print(table)
    for note in report.notes:
        console.out.print(note, style="dim", highlight=False)
    console.out.print(f"{out / 'report.json'}, {out / 'index.html'}", highlight=False)
