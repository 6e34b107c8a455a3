"""Evaluate a model on held-out recordings: what it makes of their captions, and of the recordings themselves."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiogen import audio
from audiogen.checkpoint import load_part, locate, read_model_config
from audiogen.config import ModelConfig
from audiogen.errors import CheckpointError
from audiogen.evaluate.clips import Clip, read
from audiogen.evaluate.embed import Embedder
from audiogen.evaluate.reconstruction import judge_mel, log_mel_l1, stft_distance
from audiogen.evaluate.report import Report, Watch, compare, hear
from audiogen.mel import Mel, from_image, to_image
from audiogen.models.autoencoder import Autoencoder
from audiogen.models.compact import CompactAutoencoder
from audiogen.models.hifigan import HifiGan
from audiogen.models.vocos import Vocos
from audiogen.pipeline import Pipeline
from audiogen.recipe import Recipe, derive_seed
from audiogen.settings import Settings


@dataclass(frozen=True)
class Codec:
    """The way from a wave to a mel to latents and back; a run in which one part is not trained yet lacks it."""

    config: ModelConfig
    autoencoder: Autoencoder | CompactAutoencoder | None
    vocoder: HifiGan | Vocos | None

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """The parts that are there; raises CheckpointError if neither is."""
        config, places = read_model_config(folder), locate(folder)
        parts = {name: load_part(name, config, places[name]) for name in ("autoencoder", "vocoder") if places[name].exists()}
        if not parts:
            raise CheckpointError(f"{folder} holds neither an autoencoder nor a vocoder to evaluate.")
        return cls(config, parts.get("autoencoder"), parts.get("vocoder"))

    @torch.inference_mode()
    def copy_mel(self, mel: Tensor) -> Tensor:
        """ln mel (1, M, T) through the autoencoder; T a multiple of its factor"""
        assert self.autoencoder is not None
        image = to_image(mel, self.config.mel, self.config.autoencoder.in_channels)
        return from_image(self.autoencoder.decode(self.autoencoder.encode(image).mean), self.config.mel)

    @torch.inference_mode()
    def wave(self, mel: Tensor, samples: int) -> Tensor:
        """ln mel (1, M, T) -> wave (samples,)"""
        assert self.vocoder is not None
        return self.vocoder(mel)[0, :samples]


def reconstruct(report: Report, clips: list[Clip], codec: Codec, out: Path, watch: Watch) -> list[Clip]:
    """Add the reconstruction figures of each part, and write the copies by the last part there is; [] without a vocoder.

    A copy goes through the latents' mean. Its length is the recording's.
    """
    config, rate = codec.config.mel, codec.config.mel.sample_rate
    mel, judge = Mel(config), judge_mel(rate)
    figures: dict[str, list[float]] = {}
    copies = []
    for i, clip in enumerate(clips):
        sound = torch.from_numpy(read(clip.path, rate)[0])       # (S,)
        block = config.hop * codec.config.autoencoder.factor
        padded = torch.nn.functional.pad(sound, (0, -len(sound) % block))
        with torch.inference_mode():
            true = mel(padded[None])                             # (1, M, T)
        waves: dict[str, Tensor] = {}
        if codec.vocoder is not None:
            waves["vocoder"] = codec.wave(true, len(sound))
        if codec.autoencoder is not None:
            copied = codec.copy_mel(true)
            frames = max(1, len(sound) // config.hop)
            figures.setdefault("Log-mel L1, VAE (the model's mel)", []).append(
                float((copied - true)[..., :frames].abs().mean()))
            if codec.vocoder is not None:
                waves["VAE + vocoder"] = codec.wave(copied, len(sound))
        for what, wave in waves.items():
            figures.setdefault(f"Log-mel L1, {what} (80 bins, 64 ms)", []).append(log_mel_l1(sound, wave, judge))
            figures.setdefault(f"STFT distance, {what} (512, 1024, 2048)", []).append(stft_distance(sound, wave))
        if waves:
            path = _place(out, clip)
            audio.write(path, list(waves.values())[-1], rate)
            copies.append(Clip(clip.name, path, clip.caption))
        watch(i + 1, len(clips))
    for name, values in figures.items():
        report.add(name, float(np.mean(values)), "lower", f"{len(values)} recordings at {rate} Hz")
    return copies


def generate(pipeline: Pipeline, clips: list[Clip], out: Path, settings: Settings, seed: int, watch: Watch) -> list[Clip]:
    """A sound for the caption of every clip, of a seed that follows from its name, with its recipe inside."""
    made = []
    for i, clip in enumerate(clips):
        recipe = Recipe(str(clip.caption), derive_seed(seed, clip.name), settings, pipeline.model.name).check()
        result = pipeline.generate([recipe.prompt], settings, [recipe.seed])
        path = _place(out, clip)
        audio.write(path, result.audio[0], result.sample_rate, replace(recipe, settings=result.settings).as_dict())
        made.append(Clip(clip.name, path, recipe.prompt))
        watch(i + 1, len(clips))
    return made


def _place(out: Path, clip: Clip) -> Path:
    path = out / f"{clip.name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def evaluate_model(codec: Codec, pipeline: Pipeline | None, clips: list[Clip], embedders: list[Embedder], out: Path,
                   settings: Settings, seed: int, watch: Watch) -> tuple[Report, dict[str, list[Clip]]]:
    """Every figure of a model on `clips`, and the sets of sounds by their names; sounds are written under `out`.

    Without a pipeline only the codec is evaluated. `watch` counts sounds read, made and heard.
    """
    report, sets = Report(), {"reference": clips}
    total, done = len(clips) * (1 + (pipeline is not None) + len(embedders) * (2 + (pipeline is not None))), 0

    def step(i: int, _: int) -> None:
        watch(done + i, total)

    copies = reconstruct(report, clips, codec, out / "reconstructed", step)
    done += len(clips)
    if copies:
        sets["reconstructed"] = copies
    if pipeline is not None:
        sets["generated"] = generate(pipeline, clips, out / "generated", settings, seed, step)
        done += len(clips)
        decided = settings.with_defaults(pipeline.config.defaults)
        slow = f" ({decided.slow:g} of it for what is slow)" if decided.slow != 1 else ""
        report.note(f"Generated by {pipeline.model.name}: {decided.duration:g} s, {decided.steps} steps of "
                    f"{decided.sampler}, guidance {decided.guidance:g}{slow}, drafts {decided.drafts} at most, seed {seed}.")
    for embedder in embedders:
        heard = {}
        for name, each in sets.items():
            heard[name] = hear(each, embedder, step)
            done += len(each)
        for name in [n for n in sets if n != "reference"]:
            compare(report, heard[name], heard["reference"], embedder, label=name, seed=seed)
    return report, sets
