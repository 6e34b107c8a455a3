"""Checkpoints on disk: reading weights strictly and safely, loading a model, saving one.

This project's folder: config.json (ModelConfig), unet / autoencoder / vocoder / clap.safetensors, text/ (encoder and tokenizer).
Weights may be stored in 8 bits: an int8 tensor NAME with a float scale per row in NAME.scale.
"""


import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiogen import compat
from audiogen.config import AutoencoderConfig, ClapConfig, MelConfig, ModelConfig, VocoderConfig, from_dict, read_json, to_json
from audiogen.errors import CheckpointError
from audiogen.files import INDEX, WEIGHTS
from audiogen.models.autoencoder import Autoencoder
from audiogen.models.clap import Clap
from audiogen.models.compact import CompactAutoencoder
from audiogen.models.hifigan import HifiGan
from audiogen.models.layers import pack
from audiogen.models.unet import UNet
from audiogen.models.unset import unset
from audiogen.models.vocos import Vocos
from audiogen.text import TextEncoder, load_text_encoder

SCALE = ".scale"                                                 # suffix of an 8-bit weight's scales
TOGETHER = 16                                                    # tensors of a map, which goes with the last of them
SMALL = 2**16                                                    # numbers up to which a tensor is copied, so as not to hold a map


@dataclass
class Model:
    """The networks of a checkpoint, to infer with; each is read when it is first asked for."""

    config: ModelConfig
    readers: dict[str, Callable[[], Any]]
    name: str
    folder: Path

    @cached_property
    def text(self) -> TextEncoder:
        return self.readers["text"]()

    @cached_property
    def unet(self) -> UNet:
        return self.readers["unet"]()

    @cached_property
    def autoencoder(self) -> Autoencoder | CompactAutoencoder:
        return self.readers["autoencoder"]()

    @cached_property
    def vocoder(self) -> HifiGan | Vocos:
        return self.readers["vocoder"]()

    @cached_property
    def clap(self) -> Clap | None:
        """The CLAP beside the text encoder, where there is one."""
        return self.readers["clap"]() if "clap" in self.readers else None

    def read(self) -> None:
        """Read what every sound needs but the text encoder, if it is not yet read; raises CheckpointError."""
        for name in self.readers.keys() - {"text", "clap"}:
            getattr(self, name)

    def forget_text(self) -> None:
        """Let the text encoder's memory go; it is read again if it is asked for."""
        self.__dict__.pop("text", None)


def load_model(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """The checkpoint in `folder`, its networks packed where that is quicker; the vocoder stays in float32, where waves need it.

    Reading its networks raises CheckpointError with what is missing, unexpected or of the wrong shape; ConfigError at once.
    """
    config, parts = read_usable_config(folder), locate(folder)
    text_folder = folder if compat.is_published(folder) else folder / "text"

    def part(name: str, dtype: torch.dtype) -> Any:
        network = load_part(name, config, parts[name], device, dtype)
        if device == "cpu":
            pack(network)
        elif device.startswith("cuda") and name == "unet":       # whose transformers give maps with the channels last
            network.to(memory_format=torch.channels_last)
        return network

    readers: dict[str, Callable[[], Any]] = {
        "text": partial(load_text_encoder, text_folder, config.text, partial(read_folder, dtype=dtype), device, dtype)}
    for name in parts:
        readers[name] = partial(part, name, torch.float32 if name in ("vocoder", "clap") else dtype)
    return Model(config, readers, folder.name, folder)


def read_model_config(folder: Path) -> ModelConfig:
    """The configuration of a checkpoint of any layout."""
    if compat.is_published(folder):
        return compat.read_config(folder)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} holds no model: neither config.json nor model_index.json is there.")
    return from_dict(ModelConfig, read_json(folder / "config.json"), f"{folder}/config.json")


def read_usable_config(folder: Path) -> ModelConfig:
    """The configuration to generate with: by default one draft, where there is no CLAP (in a run: not yet) to choose."""
    config = read_model_config(folder)
    return config if "clap" in locate(folder) else replace(config, defaults=replace(config.defaults, drafts=1))


def locate(folder: Path) -> dict[str, Path]:
    """Where the weights of each network lie: a file, or a published folder; that of a CLAP only where there is one."""
    if compat.is_published(folder):
        return {"unet": folder / "unet", "autoencoder": folder / "vae", "vocoder": folder / "vocoder"}
    own = {part: folder / f"{part}.safetensors" for part in ("unet", "autoencoder", "vocoder", "clap")}
    return {part: path for part, path in own.items() if part != "clap" or path.exists()}


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder | CompactAutoencoder:
    """The autoencoder of this kind, its weights drawn at random."""
    return Autoencoder(config) if config.kind == "kl" else CompactAutoencoder(config)


def build_vocoder(config: VocoderConfig, mel: MelConfig) -> HifiGan | Vocos:
    """The vocoder of this kind, its weights drawn at random."""
    return HifiGan(config) if config.kind == "hifigan" else Vocos(config, mel)


def build_clap(config: ModelConfig, shape: ClapConfig) -> Clap:
    """A CLAP beside the model's text encoder, its weights drawn at random; a sentence encoder's film is projected."""
    return Clap(shape, config.mel.bins, config.unet.film_dim if config.text.kind == "sentence" else None)


def load_part(part: str, config: ModelConfig, where: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The network `part` ("unet", "autoencoder", "vocoder" or "clap") with the weights at `where`, in evaluation mode."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet(config.unet),
        "autoencoder": lambda: build_autoencoder(config.autoencoder),
        "vocoder": lambda: build_vocoder(config.vocoder, config.mel),
        "clap": lambda: build_clap(config, config.clap or ClapConfig())}
    state = read_folder(where, dtype) if where.is_dir() else read_weights(where, dtype)
    if part == "autoencoder":
        state = compat.rename_autoencoder(state)
    if part == "vocoder" and config.vocoder.exact:
        plain = {"mean": torch.zeros(config.vocoder.bins), "scale": torch.ones(config.vocoder.bins)}
        state = plain | compat.rename_vocoder(state)
    own_buffers = part == "vocoder" and config.vocoder.kind == "vocos"       # windows and such, that no file holds
    with unset("cpu" if own_buffers else "meta"):                # weights are put in place, not drawn and copied over
        module = builders[part]()
    load_weights(module, {k: v.to(dtype) for k, v in state.items()}, str(where))
    return module.to(device).eval().requires_grad_(False)


def load_weights(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put `state` in place in `module`; raises CheckpointError that counts and names what does not fit."""
    own = module.state_dict()
    wrong = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    faults = {"missing": own.keys() - state.keys(), "unexpected": state.keys() - own.keys(), "of the wrong shape": wrong}
    told = [f"{len(v)} {kind} (first: {min(v)})" for kind, v in faults.items() if v]
    if told:
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: weights {'; '.join(told)}.")
    module.load_state_dict(state, assign=True)


def read_folder(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The weights in a published folder, whichever of the usual files holds them."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return read_weights(folder / name, dtype)
        index = folder / (name + INDEX)
        if index.exists():                                       # in several shards
            shards = sorted(set(read_json(index)["weight_map"].values()))
            return {k: v for shard in shards for k, v in read_weights(folder / Path(shard).name, dtype).items()}
    raise CheckpointError(f"{folder}: no weights there (looked for {', '.join(WEIGHTS)}).")


def read_weights(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A state dictionary from .safetensors or a pickle of tensors (nothing else is unpickled); raises CheckpointError.

    Tensors are mapped, not copied; of a .safetensors those with another format than `dtype` are converted at once.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is not there.")
    try:
        if path.suffix == ".safetensors":
            return dequantise(_read_safetensors(path, dtype))
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None
    except Exception as error:                                   # safetensors raises a class of its own
        if type(error).__name__ != "SafetensorError":
            raise
        raise _unreadable(path, error) from None


def _read_safetensors(path: Path, dtype: torch.dtype | None) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    half = dtype if dtype in (torch.bfloat16, torch.float16) else None
    state = {}
    for i in range(0, len(keys), TOGETHER):
        with safe_open(path, framework="pt") as file:
            for key in keys[i : i + TOGETHER]:
                value = file.get_tensor(key)
                if half and value.dtype == torch.float32 and not key.endswith(SCALE):
                    value = value.to(half)
                state[key] = value if value.numel() > SMALL else value.clone()
    return state


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return CheckpointError(f"{path} cannot be read as weights ({reason}); it may be cut short: fetch it again.")


def quantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in 8 bits with a scale per row, all else in 16: a quarter of float32's size."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.dim() < 2 or not value.is_floating_point() or value.numel() < 1024:
            out[key] = value.half() if value.is_floating_point() else value
            continue
        rows = value.float().flatten(1)
        scale = rows.abs().amax(dim=1).clamp(min=1e-8) / 127
        out[key] = (rows / scale[:, None]).round().to(torch.int8).view(value.shape)
        out[key + SCALE] = scale
    return out


def dequantise(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantise`, in float32; other weights pass unchanged."""
    if not any(k.endswith(SCALE) and k[: -len(SCALE)] in state for k in state):
        return state
    out = {}
    for key, value in state.items():
        if key.endswith(SCALE) and key[: -len(SCALE)] in state:
            continue
        scale = state.get(key + SCALE)
        if scale is not None:                                    # multiplied in place, so never where the file is mapped
            value = value.to(torch.float32, copy=True).mul_(scale.view(-1, *[1] * (value.dim() - 1)))
        out[key] = value.float() if value.dtype == torch.float16 else value
    return out


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a .safetensors beside `path`, then move it there: never half a file under the final name."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({k: v.contiguous() for k, v in state.items()}, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_config(folder: Path, config: ModelConfig) -> None:
    """Write the config.json of a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / ".config.json.part"
    part.write_text(to_json(config), encoding="utf-8")
    os.replace(part, folder / "config.json")


def checkpoint_bytes(folder: Path) -> int:
    """Size of a checkpoint on disk."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


