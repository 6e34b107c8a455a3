"""`audiogen train`: a model of one's own from a folder of sounds."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiogen.cli import console, options
from audiogen.errors import ConfigError, SettingsError
from audiogen.memory import keep_freed

if TYPE_CHECKING:
    from audiogen.train.config import TrainConfig
    from audiogen.train.data import Report
    from audiogen.train.loop import Told

SHOWN = 5                                                        # names of each kind of fault


def train(
    data: Annotated[Path, typer.Argument(
        help="A folder of sounds with captions, or of WebDataset .tar shards.", show_default=False)],
    out: Annotated[Path | None, typer.Option(
        "--out", "-o", metavar="RUN", help="The run's folder; it is a model at any time.", show_default=False,
        rich_help_panel=options.OUTPUT)] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every sound and say what is wrong; train nothing.")] = False,
    preset: Annotated[str | None, typer.Option(
        help="tiny (minutes), small (a laptop's night), everyday, or base (a GPU).", show_default="small")] = None,
    stage: Annotated[str | None, typer.Option(
        help="autoencoder, vocoder, clap, diffusion, wording or preference; several with commas; or all (but preference).",
        show_default="all; of a resumed run those that it was begun with")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Settings over the preset's.")] = None,
    assign: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="One setting, like diffusion.lr=1e-4; may be repeated.", show_default=False)] = None,
    init: Annotated[str | None, typer.Option(metavar="MODEL", help="Fine-tune: start from this model's weights.")] = None,
    text: Annotated[str | None, typer.Option(
        metavar="ENCODER", help="A sentence encoder's folder or package, instead of a text tower trained here.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last save.")] = False,
    cache: Annotated[int | None, typer.Option(
        metavar="N", help="Draw and encode N examples once, for the U-Net.", show_default="0: always new ones")] = None,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train a model on a folder of sounds: autoencoder, vocoder, CLAP and U-Net, in this order or one by one.

    Beside a sentence encoder (--text), and with a file of what labels may also be called (--set data.words=FILE), a last stage
    teaches the encoder what those wordings mean to the U-Net. Where it is asked for, the U-Net then learns from its own takes
    which of them the CLAP finds fitting (--stage preference).

    Captions come from metadata.csv or .jsonl (file_name, text), from .txt files beside the sounds, or from the names of
    sub-folders. Ctrl-C saves and stops; --resume goes on. `audiogen generate --model RUN` works at any time.
    """
    if check:
        _check(data, quiet, as_json)
        return
    if out is None:
        raise SettingsError("Say where the run goes: --out RUN.")
    from audiogen.distributed import rank
    from audiogen.hub import pick_device, resolve
    from audiogen.train.session import Session, run

    settings = _settings(out, preset, config, assign or [], text, cache, resume)
    settings = replace(settings, stages=_stages(stage or ",".join(settings.stages) or "all", settings))
    shown = rank() == 0 and not quiet
    with ExitStack() as stack:
        reading = stack.enter_context(console.progress("reading", not shown, count=True))
        show = Show(stack, not shown, as_json)
        keep_freed()
        run(Session(data, out, settings.stages, resolve(init) if init else None, resume, pick_device(device),
                    reading=reading, found=lambda report: show.found(report), watch=show.told,
                    sample=lambda step: _sample(out, settings, step)), settings)
    console.note(f"Done: audiogen generate \"{settings.prompts[0] if settings.prompts else 'rain'}\" --model {out}", not shown)


class Show:
    """What a run tells: a bar with its losses on a terminal, a line now and then elsewhere."""

    def __init__(self, stack: ExitStack, quiet: bool, as_json: bool) -> None:
        self.stack, self.quiet, self.as_json = stack, quiet, as_json
        self.stage = ""
        self.bar: console.Show = lambda done, total: None
        self.inner = stack.enter_context(ExitStack())

    def found(self, report: "Report") -> None:
        console.note(f"{len(report.clips)} sounds, {report.hours:.2f} hours; {report.left_out} left out"
                     f"{' (see --check)' if report.left_out else ''}.", self.quiet)

    def told(self, told: "Told") -> None:
        if self.as_json:
            console.say_json({"stage": told.stage, "step": told.step, **told.figures})
        if self.quiet:
            return
        import sys

        figures = "  ".join(f"{k} {v:.4g}" for k, v in told.figures.items())
        if sys.stderr.isatty():
            if told.stage != self.stage:
                self.inner.close()
                self.stage, self.bar = told.stage, self.inner.enter_context(console.progress(told.stage, count=True))
            self.bar(told.step, told.steps)
        console.note(f"{told.stage} {told.step}/{told.steps}  {figures}  {told.left / 60:.0f} min left")


def _settings(out: Path, preset: str | None, config: Path | None, assign: list[str], text: str | None, cache: int | None,
              resume: bool) -> "TrainConfig":
    """The preset, the file, the assignments; a resumed run's own settings where none are given."""
    from audiogen.train.config import read_config

    changes = list(assign) + ([f"text={text}", "model.text.kind=sentence"] if text else [])
    changes += [f"diffusion.cache={cache}"] if cache is not None else []
    if resume and not (out / "train.toml").exists():
        raise ConfigError(f"{out} holds no run to resume.")
    if resume and preset is None and config is None:
        config = out / "train.toml"
    if text:
        from audiogen.config import read_json
        from audiogen.train.session import sentence_encoder

        width = read_json(sentence_encoder(text) / "config.json").get("hidden_size")
        changes += ["model.unet.transformers=[0]", f"model.unet.context_dims=[{width}]", f"model.unet.film_dim={width}"]
    return read_config(preset or "small", config, changes)


def _stages(names: str, settings: "TrainConfig") -> tuple[str, ...]:
    """The stages to train, in order; raises ConfigError for an unknown one."""
    from audiogen.train.config import ASKED, STAGES

    wanted = tuple(n.strip() for n in names.split(","))
    if names == "all":                                           # wordings are for a sentence encoder, and have a file
        worded = settings.model.text.kind == "sentence" and settings.data.words
        wanted = tuple(s for s in STAGES if s not in ASKED and (s != "wording" or worded))
    for name in wanted:
        if name not in STAGES:
            raise ConfigError(f"No stage '{name}'; there are {', '.join(STAGES)} and all.")
    return tuple(s for s in STAGES if s in wanted)


def _sample(run: Path, settings: "TrainConfig", step: int) -> None:
    """Sounds and pictures of the fixed prompts, by the run as it is."""
    from audiogen.audio import write
    from audiogen.hub import load
    from audiogen.plot import write_spectrogram

    home = run / "samples"
    home.mkdir(exist_ok=True)
    pipeline = load(str(run), "cpu", "float32")
    made = pipeline.generate(list(settings.prompts), seeds=list(range(len(settings.prompts))))
    for i, (prompt, wave) in enumerate(zip(settings.prompts, made.audio, strict=True)):
        path = home / f"{step:07d}-{i}.wav"
        write(path, wave, made.sample_rate)
        write_spectrogram(path.with_suffix(".png"), wave.numpy(), made.sample_rate, prompt)


def _check(data: Path, quiet: bool, as_json: bool) -> None:
    """Read all, and say what was found."""
    from audiogen.train.data import FAULTS, inspect

    with console.progress("reading", quiet, count=True) as watch:
        report = inspect(data, watch=watch)
    if as_json:
        found: dict[str, Any] = {"clips": len(report.clips), "hours": report.hours, "faults": report.faults,
                                 "lengths": dict(report.histogram()), "licences": dict(report.licences())}
        console.say_json(found)
        return
    console.say(f"{len(report.clips)} sounds can be used, {report.hours:.2f} hours; {report.left_out} cannot.")
    for fault, names in report.faults.items():
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        console.say(f"{len(names)} {FAULTS[fault]}: {', '.join(names[:SHOWN])}{more}")
    console.table(("length", "sounds"), [(name, str(n)) for name, n in report.histogram() if n], right=(1,))
    console.table(("licence", "sounds"), [(name, str(n)) for name, n in report.licences()], right=(1,))
