"""The sounds of a folder, with their captions where it says them, and the pairs of two folders."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiogen import audio
from audiogen.errors import AudioError, DataError
from audiogen.evaluate.metrics import Array

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SILENCE = 1e-4                                                   # of the peak: -80 dB


@dataclass(frozen=True)
class Clip:
    """name: its path inside the folder without suffix, by which clips of two folders pair."""

    name: str
    path: Path
    caption: str | None = None
    split: str | None = None                                     # of a dataset: "train", "valid", "test"


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
    rows = _rows(folder)
    clips: dict[str, Clip] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        inside = path.relative_to(folder)
        name = inside.with_suffix("").as_posix()
        if name in clips:
            raise DataError(f"{path} and {clips[name].path} have one name; keep one of them.")
        row = rows.get(inside.as_posix(), {})
        caption = row.get("text") or row.get("prompt") or _beside(path)
        clips[name] = Clip(name, path, caption, row.get("split"))
    if not clips:
        raise DataError(f"{folder} holds no sound ({', '.join(SUFFIXES)}).")
    return list(clips.values())


def pair(generated: list[Clip], reference: list[Clip]) -> list[tuple[Clip, Clip]]:
    """The clips of one name; a caption known on one side only counts for both."""
    known = {clip.name: clip for clip in reference}
    pairs = [(clip, known[clip.name]) for clip in generated if clip.name in known]
    return [(replace(a, caption=a.caption or b.caption), b) for a, b in pairs]


def held_out(clips: list[Clip], count: int, seed: int = 0) -> list[Clip]:
    """`count` clips with captions that no training saw: of the split "test", else "valid", else of all; by name."""
    said = [clip for clip in clips if clip.caption]
    if not said:
        raise DataError("None of the sounds has a caption (metadata.csv with file_name and text, or NAME.txt beside).")
    chosen = next((some for split in ("test", "valid") if (some := [c for c in said if c.split == split])), said)
    if len(chosen) <= count:
        return chosen
    places = np.random.default_rng(seed).choice(len(chosen), count, replace=False)
    return [chosen[i] for i in sorted(places)]


def _beside(path: Path) -> str | None:
    """The text file of the sound's name, or the prompt stored in the sound."""
    text = path.with_suffix(".txt")
    if text.is_file():
        return text.read_text(encoding="utf-8", errors="replace").strip() or None
    try:
        return audio.read_recipe(path).get("prompt")
    except AudioError:                                           # no recipe, or no sound: reading it will say
        return None


def _rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What the folder's metadata.csv, metadata.jsonl or manifest.jsonl says of each file name."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("manifest.jsonl", "metadata.jsonl", "metadata.csv"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file)) if name.endswith("csv") else [json.loads(s) for s in file if s.strip()]
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}).") from None
        for row in rows:
            if isinstance(row, dict) and (file_name := row.get("file_name") or row.get("file")):
                found[str(file_name)] = row
    return found
