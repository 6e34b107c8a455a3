"""The sounds of a folder, with their captions where it says them, and the pairs of two folders."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from audiogen import audio
from audiogen.errors import DataError
from audiogen.evaluate.metrics import Array

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SILENCE = 1e-4                                                   # of the peak: -80 dB


@dataclass(frozen=True)
class Clip:
    """name: its path inside the folder without suffix, by which clips of two folders pair."""

    name: str
    path: Path
    caption: str | None = None


def read(path: Path, rate: int | None = None) -> tuple[Array, int]:
    """The sound (S,) float32, mixed to mono, at `rate` or its own, and that rate; raises AudioError."""
    sound, rate = audio.read(path, rate=rate, mono=True)
    return np.asarray(sound, np.float32).reshape(-1), rate


def silent(sound: Array) -> bool:
    return len(sound) == 0 or float(np.abs(sound).max()) < SILENCE


def find_clips(folder: Path) -> list[Clip]:
    """Every sound in the folder and below it, by name. Raises DataError for no folder, no sound or a doubled name."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of sounds.")
    captions = dict(_captions(folder))
    clips: dict[str, Clip] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        inside = path.relative_to(folder)
        name = inside.with_suffix("").as_posix()
        if name in clips:
            raise DataError(f"{path} and {clips[name].path} have one name; keep one of them.")
        clips[name] = Clip(name, path, captions.get(inside.as_posix(), _beside(path)))
    if not clips:
        raise DataError(f"{folder} holds no sound ({', '.join(SUFFIXES)}).")
    return list(clips.values())


def pair(generated: list[Clip], reference: list[Clip]) -> list[tuple[Clip, Clip]]:
    """The clips of one name; a caption known on one side only counts for both."""
    known = {clip.name: clip for clip in reference}
    pairs = [(clip, known[clip.name]) for clip in generated if clip.name in known]
    return [(replace(a, caption=a.caption or b.caption), b) for a, b in pairs]


def _beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip() or None if text.is_file() else None


def _captions(folder: Path) -> Iterator[tuple[str, str]]:
    """(file name, caption) of metadata.csv and metadata.jsonl, of this folder or of a manifest of generated sounds."""
    for name in ("metadata.csv", "metadata.jsonl", "manifest.jsonl"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file)) if name.endswith("csv") else [json.loads(s) for s in file if s.strip()]
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}).") from None
        for row in rows:
            file_name, text = row.get("file_name") or row.get("file"), row.get("text") or row.get("prompt")
            if file_name and text:
                yield str(file_name), str(text)
