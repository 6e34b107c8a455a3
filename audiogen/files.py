"""Which files a model consists of, in the layouts that are read: what is fetched from a hub, and whether all of it is here."""

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin",
           "condition_adapter.pt", "vocoder.pt")                 # of a part: the first that is there is read
INDEX = ".index.json"                                            # after a name of these: weights in several shards
SMALL = (".json", ".txt", ".model")
PUBLISHED = ("model_index.json", "condition_config.json")        # either marks a published folder
WEIGHED = re.compile(r"unet|vae|vocoder|language_model|projection_model|(text_encoder|condition_adapter)(_\d+)?")
PARTS = re.compile(WEIGHED.pattern + r"|scheduler|feature_extractor|tokenizer(_\d+)?")
OWN = ("unet.safetensors", "autoencoder.safetensors", "vocoder.safetensors")     # this project's own layout


def packaged(name: str) -> Path | None:
    """The folder of a model that comes with the package (in an installation or in a checkout), if it does."""
    here = Path(__file__).resolve().parent
    folders = (here / "checkpoints" / name, here.parent / "checkpoints" / name)
    return next((f for f in folders if (f / "config.json").exists()), None)


def needed(names: Iterable[str]) -> list[str]:
    """Those files of a repository that a model is read from; the small ones first."""
    folders: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        folders.setdefault("" if path.parent == PurePosixPath() else str(path.parent), set()).add(path.name)
    top = folders.get("", set())
    chosen = []
    for folder, files in folders.items():
        if not top.intersection(PUBLISHED):
            kept = files if folder.split("/")[0] in ("", "text") else set()
            kept = {f for f in kept if f.endswith((*SMALL, ".safetensors"))}
        else:
            kept = {f for f in files if f.endswith(SMALL)} if folder == "" or PARTS.fullmatch(folder) else set()
            kept |= _weights(files) if WEIGHED.fullmatch(folder) else set()
        chosen += [f"{folder}/{f}".removeprefix("/") for f in kept]
    return sorted(chosen, key=lambda f: (not f.endswith(SMALL), f))


def _weights(files: set[str]) -> set[str]:
    """Of a part's files those with the weights that are read."""
    stored = next((w for w in WEIGHTS if w in files or w + INDEX in files), None)
    if stored is None or stored in files:
        return {stored} if stored else set()
    stem, _, suffix = stored.rpartition(".")
    return {f for f in files if re.fullmatch(rf"{re.escape(stem)}-\d+-of-\d+\.{suffix}", f)}


def is_whole(folder: Path) -> bool:
    """Whether every part of a model that was fetched lies in its folder with its weights."""
    if (folder / "condition_config.json").exists():
        entries = _json(folder / "condition_config.json")
        parts = {"unet", "vae", "vocoder"} | {e[k] for e in entries for k in ("text_encoder_name", "condition_adapter_name")}
    elif (folder / "model_index.json").exists():
        parts = {k for k, v in _json(folder / "model_index.json").items() if isinstance(v, list) and None not in v}
        parts = {p for p in parts if WEIGHED.fullmatch(p)} | {"unet", "vae", "vocoder"}
    else:
        told = _json(folder / "config.json") if (folder / "config.json").exists() else {}
        own = (*OWN, "clap.safetensors") if told.get("clap") else OWN
        return bool(told) and all((folder / name).exists() for name in own) and _has_weights(folder / "text")
    return all(_has_weights(folder / p) for p in parts)          # the small files are fetched before any weights


def _has_weights(folder: Path) -> bool:
    """Whether the weights of a part, or of all parts within it, are there."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return True
        if (folder / (name + INDEX)).exists():
            shards = set(_json(folder / (name + INDEX))["weight_map"].values())
            return all((folder / shard).exists() for shard in shards)
    inner = [f for f in folder.iterdir() if f.is_dir() and (f / "config.json").exists()] if folder.is_dir() else []
    return bool(inner) and all(_has_weights(f) for f in inner)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
