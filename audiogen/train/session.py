"""A run from folder to model: the data made ready, the run folder laid out as a model, then each stage in turn."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from audiogen import compat
from audiogen.checkpoint import (
    build_autoencoder,
    build_vocoder,
    load_part,
    locate,
    read_model_config,
    read_weights,
    save_config,
    save_weights,
)
from audiogen.config import ModelConfig
from audiogen.distributed import joined, rank, wait, world
from audiogen.errors import AudiogenError, CheckpointError, ConfigError
from audiogen.models.unet import UNet
from audiogen.train import state as states
from audiogen.train.ahead import Draws, workers
from audiogen.train.build import build, wordings
from audiogen.train.clap import ClapStage
from audiogen.train.config import TrainConfig, to_toml
from audiogen.train.data import Report, Watch, prepare, split
from audiogen.train.diffusion import DiffusionStage
from audiogen.train.examples import Crowd, Drawer
from audiogen.train.kept import keep
from audiogen.train.loop import Told, train
from audiogen.train.preference import PreferenceStage, Prompts
from audiogen.train.stage import Machine
from audiogen.train.tower import new_tower
from audiogen.train.wording import WordingStage

FREE = {"save_every", "save_minutes", "log_every", "validate_every", "sample_every", "workers", "stages", "prompts", "steps",
        "minutes", "model"}


def ignore(done: int, total: int) -> None:
    """A watch that looks away."""


@dataclass(frozen=True)
class Session:
    """What a run needs to know beside its configuration."""

    data: Path
    run: Path
    stages: tuple[str, ...]                                      # some of STAGES, in order
    init: Path | None = None                                     # a model whose weights are the start
    resume: bool = False
    device: str = "cpu"
    reading: Watch = ignore                                      # while the data is read, or latents are encoded
    found: Callable[[Report], None] = lambda report: None
    watch: Callable[[Told], None] = lambda told: None
    sample: Callable[[int], None] | None = None                  # makes sounds with the run as it is


def run(session: Session, config: TrainConfig) -> None:
    """Train the stages of `session`; the run folder is a model from the beginning on.

    Raises AudiogenError: DataError for data that cannot be used, ConfigError where a resumed run had other settings.
    """
    here = session.run
    if session.device == "cuda":
        torch.set_float32_matmul_precision("high")               # what is not autocast is multiplied in TF32
    with joined(session.device) as device:
        if rank() == 0:
            _claim(here, session, config)
        wait()
        model = _first_model(session, config)
        if rank() == 0:
            prepare(session.data, here / "cache", model.mel.sample_rate, session.reading)
        wait()
        dataset, report = prepare(session.data, here / "cache", model.mel.sample_rate)
        session.found(report)
        clips, others = split(dataset, config.data.held_out)
        if rank() == 0:
            _lay_out(session, config, model, [c for clip in clips for c in clip.captions])
        wait()
        for name in session.stages:
            drawer = Drawer(dataset, clips, config.data, f"{config.seed}:{name}")
            other = Drawer(dataset, others, replace(config.data, mix=0.0, join=0.0), f"held-out:{name}") if others else None
            draws: Draws = drawer
            held: Draws | None = other
            stage = build(name, here, config, Machine.of(device, config.precision), fresh=session.init is None)
            if isinstance(stage, ClapStage):
                draws = Crowd(drawer, stage.config.others)
            elif isinstance(stage, WordingStage):
                draws, held = wordings(stage, here, drawer)
            elif isinstance(stage, PreferenceStage):
                draws, held = Prompts(drawer), None if other is None else Prompts(other)
            elif isinstance(stage, DiffusionStage) and stage.config.cache:
                draws = keep(stage, Drawer(dataset, clips, config.data, "kept"), here / "cache", session.reading,
                             workers(config.workers, device))
            if config.stage(name).batch % world():
                raise ConfigError(f"{name}.batch: {config.stage(name).batch} examples cannot be shared by {world()} processes.")
            train(stage, draws, held, config, here, resume=session.resume, watch=session.watch,
                  sample=session.sample if name == "diffusion" else None)
            wait()


def _claim(run: Path, session: Session, config: TrainConfig) -> None:
    """Make or reopen the run folder; raises ConfigError where it holds another run."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AudiogenError(f"{run} cannot be written to ({error.strerror}); choose another --out.") from None
    begun = any(states.saves(run, s) for s in session.stages)
    if begun and not session.resume:
        raise ConfigError(f"{run} holds a run already: go on with --resume, or choose another --out.")
    known = run / "train.toml"
    if session.resume and known.exists():
        _same(known, config)
    known.write_text(to_toml(config), encoding="utf-8")


def _same(known: Path, config: TrainConfig) -> None:
    """Raises ConfigError if a run's settings were others, but for its length and what is told of it."""
    import tomllib

    before = tomllib.loads(known.read_text(encoding="utf-8"))
    now = tomllib.loads(to_toml(config))
    for key, value in now.items():
        if isinstance(value, dict) and key not in before:        # a stage that the run's version did not have
            continue
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        for sub, x in pairs:
            old = before.get(key, {}).get(sub) if sub else before.get(key)
            if (sub or key) not in FREE and old != x:
                name = f"{key}.{sub}" if sub else key
                raise ConfigError(f"{known.parent} was begun with {name} = {old}, not {x}: resume with its own settings, or "
                                  "choose another --out.")


def _first_model(session: Session, config: TrainConfig) -> ModelConfig:
    """The run's model configuration: its own if it has one, else that of --init, else the settings'."""
    if (session.run / "config.json").exists():
        return read_model_config(session.run)
    return read_model_config(session.init) if session.init is not None else config.model


def _lay_out(session: Session, config: TrainConfig, model: ModelConfig, captions: list[str]) -> None:
    """Make the run folder a whole model: configuration, text encoder, and weights for what has none yet."""
    run = session.run
    if not (run / "text").exists():
        _lay_out_text(session, config, model, sorted(set(captions)))
    where = locate(session.init) if session.init is not None else {}
    torch.manual_seed(config.seed)
    makers: dict[str, Callable[[], nn.Module]] = {
        "autoencoder": lambda: build_autoencoder(model.autoencoder), "unet": lambda: UNet(model.unet),
        "vocoder": lambda: build_vocoder(model.vocoder, model.mel)}
    for part, make in makers.items():
        if not (run / f"{part}.safetensors").exists():
            module = load_part(part, model, where[part]) if part in where else make()
            save_weights(run / f"{part}.safetensors", module.state_dict())
    if "clap" in where and not (run / "clap.safetensors").exists():
        save_weights(run / "clap.safetensors", read_weights(where["clap"]))
    if not (run / "config.json").exists():
        save_config(run, model)


def _lay_out_text(session: Session, config: TrainConfig, model: ModelConfig, captions: list[str]) -> None:
    """The run's text folder: of --init, a sentence encoder's, or a new tower."""
    part = session.run / ".text.part"
    shutil.rmtree(part, ignore_errors=True)
    if session.init is not None:
        home = session.init if compat.is_published(session.init) else session.init / "text"
        names = {*model.text.parts, *model.text.tokenizers, *model.text.adapters, "projection_model", "language_model"}
        for name in sorted(n for n in names if (home / n).is_dir()):
            shutil.copytree(home / name, part / name, copy_function=shutil.copyfile)
    elif model.text.kind == "sentence":
        home = sentence_encoder(config.text)
        for name in {*model.text.parts, *model.text.tokenizers}:
            shutil.copytree(home, part / name, copy_function=shutil.copyfile)
    else:
        torch.manual_seed(config.seed)
        part.mkdir(parents=True)
        tower = new_tower(captions, config.clap, part)
        save_weights(part / "text_encoder" / "model.safetensors", tower.state_dict())
    part.replace(session.run / "text")


def sentence_encoder(name: str) -> Path:
    """The folder of a sentence encoder: a path, or that inside an installed package; raises CheckpointError."""
    if Path(name).is_dir():
        homes = [Path(name)]
    else:
        spec = find_spec(name) if name.isidentifier() else None
        homes = [Path(p) for p in spec.submodule_search_locations or []] if spec is not None else []
    for home in homes:
        for path in sorted(home.rglob("config.json")):
            if (path.parent / "tokenizer.json").exists():
                return path.parent
    raise CheckpointError(f"No sentence encoder '{name}': give a folder with config.json and tokenizer.json, or install that "
                          "package.")
