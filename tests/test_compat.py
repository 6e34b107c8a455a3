"""Published folders as configurations: what is read, and what is refused rather than guessed."""

import json
import math
import shutil
from pathlib import Path

import pytest
from conftest import CHECKPOINTS, TINY

from audiogen.compat import is_published, read_config
from audiogen.config import ModelConfig
from audiogen.errors import AudiogenError, CheckpointError, ConfigError


def edited(name: str, file: str, to: Path, **changes: object) -> Path:
    """A copy of a checkpoint's JSON files, with one of them changed; a value of ... removes its key."""
    folder = to / name
    shutil.copytree(CHECKPOINTS / name, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.pt", "tokenizer.json"))
    data = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    return folder


@pytest.mark.parametrize(("name", "family", "kind", "transformers", "film"), [
    ("audioldm-tiny", "audioldm", "clap", (None,), 32), ("musicldm-tiny", "musicldm", "clap", (None,), 32),
    ("audioldm2-tiny", "audioldm2", "audioldm2", (None, 0, 1), None),
    ("audioldm2-speech-tiny", "audioldm2-speech", "audioldm2-speech", (None, 0), None),
    ("auffusion-tiny", "auffusion", "auffusion", (0,), None)])
def test_each_family(name: str, family: str, kind: str, transformers: tuple, film: int | None) -> None:
    config = read_config(CHECKPOINTS / name)
    assert (config.family, config.text.kind, config.unet.transformers, config.unet.film_dim) == (family, kind, transformers, film)
    assert config.mel.hop == math.prod(config.vocoder.rates)
    assert config.autoencoder.latent_channels == config.unet.in_channels
    assert len(config.unet.attention) == len(config.unet.heads) == len(config.unet.channels)
    assert (config.mel.layout == "frequency") == (family == "auffusion") == config.vocoder.exact


def test_both_widths_of_audioldm2(tmp_path: Path) -> None:
    """The base model lists null and two widths for a level, the large one null and T5's width twice."""
    widths = [[None, 24, 32, 32]] * 4
    unet = read_config(edited("audioldm2-tiny", "unet/config.json", tmp_path, cross_attention_dim=widths,
                              transformer_layers_per_block=2)).unet
    assert unet.transformers == (None, 0, 1, 1)
    assert unet.context_dims == (24, 32)
    assert unet.depth == 2


def test_auffusion_without_adapters_is_stable_diffusions_layout(tmp_path: Path) -> None:
    folder = edited("auffusion-tiny", "model_index.json", tmp_path)
    (folder / "condition_config.json").unlink()
    config = read_config(folder)
    assert (config.family, config.text.kind, config.text.parts) == ("auffusion", "clip", ("text_encoder",))


def test_heads_by_either_name(tmp_path: Path) -> None:
    folder = edited("auffusion-tiny", "unet/config.json", tmp_path, num_attention_heads=4)
    assert read_config(folder).unet.heads == (4,) * 4
    assert read_config(CHECKPOINTS / "auffusion-tiny").unet.heads == (2,) * 4


@pytest.mark.parametrize(("name", "file", "changes", "message"), [
    ("audioldm-tiny", "unet/config.json", {"novelty": 1}, "unknown key 'novelty'"),
    ("audioldm-tiny", "unet/config.json", {"act_fn": "gelu"}, "act_fn 'gelu' is not supported, only 'silu'"),
    ("audioldm-tiny", "unet/config.json", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
    ("audioldm-tiny", "unet/config.json", {"block_out_channels": ...}, "lacks 'block_out_channels'"),
    ("audioldm-tiny", "vae/config.json", {"latents_mean": [1.0]}, "latents_mean"),
    ("audioldm-tiny", "vae/config.json", {"latent_channels": ...}, "lacks 'latent_channels'"),
    ("audioldm-tiny", "vocoder/config.json", {"upsample_rates": ...}, "lacks 'upsample_rates'"),
    ("auffusion-tiny", "vocoder/config.json", {"resblock": "2"}, "resblock '2'"),
    ("audioldm-tiny", "scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas is not supported"),
    ("audioldm-tiny", "scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "'sigmoid' is not one of 'linear'"),
    ("audioldm-tiny", "scheduler/scheduler_config.json", {"prediction_type": "flow"}, "'flow' is not one of 'epsilon'"),
    ("audioldm2-tiny", "unet/config.json", {"cross_attention_dim": [[None, 24, 32]] * 3 + [[None, 24, 40]]}, "level to level")])
def test_what_is_not_understood_is_refused(name: str, file: str, changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config(edited(name, file, tmp_path, **changes))


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="StableAudioPipeline"):
        read_config(edited("audioldm-tiny", "model_index.json", tmp_path, _class_name="StableAudioPipeline"))


def test_scheduler_without_a_spacing(tmp_path: Path) -> None:
    folder = edited("audioldm-tiny", "scheduler/scheduler_config.json", tmp_path, timestep_spacing=..., set_alpha_to_one=...)
    schedule = read_config(folder).schedule
    assert schedule.spacing is None
    assert schedule.final_zero is None


@pytest.mark.parametrize("name", TINY)
def test_a_missing_or_broken_json_is_one_sentence(name: str, tmp_path: Path) -> None:
    files = [f.relative_to(CHECKPOINTS / name) for f in (CHECKPOINTS / name).rglob("*config.json")
             if f.parent.name in ("unet", "vae", "vocoder", "scheduler")]
    assert len(files) == 4
    for file in files:
        folder = edited(name, str(file), tmp_path / file.parent.name)
        (folder / file).write_text("{")
        with pytest.raises(AudiogenError, match="not JSON"):
            read_config(folder)
        (folder / file).unlink()
        with pytest.raises(AudiogenError, match="cannot be read"):
            read_config(folder)


def test_is_published(tmp_path: Path) -> None:
    assert all(is_published(CHECKPOINTS / name) for name in TINY)
    assert not is_published(tmp_path)
    assert isinstance(read_config(CHECKPOINTS / "musicldm-tiny"), ModelConfig)
