"""The sounds of a folder, with their captions where it says them, and the pairs of two folders."""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from audiogen import audio
from audiogen.errors import AudioError, DataError
from audiogen.evaluate.metrics import Array
from audiogen.train.data import listed

SILENCE = 1e-4                                                   # of the peak: -80 dB


@dataclass(frozen=True)
class Clip:
    """name: its path inside the folder without suffix, by which clips of two folders pair."""

    name: str
    path: Path
    caption: str | None = None
    split: str = ""                                              # of a dataset: "train", "valid", "test"


def read(path: Path, rate: int | None = None) -> tuple[Array, int]:
    """The sound (S,) float32, mixed to mono, at `rate` or its own, and that rate; raises AudioError."""
    sound, rate = audio.read(path, rate=rate, mono=True)
    return np.asarray(sound, np.float32).reshape(-1), rate


def silent(sound: Array) -> bool:
    """Whether a sound (S,) is empty, or nowhere loud enough to be heard."""
    return len(sound) == 0 or float(np.abs(sound).max()) < SILENCE


def find_clips(folder: Path) -> list[Clip]:
    """Every sound that the folder names (by the rules of a dataset), by name.

    Its caption is the first that metadata gives, else the prompt stored in the sound, else the text beside it or its
    sub-folder's name. Raises DataError for no folder, no sound, a path outside or a doubled name.
    """
    clips: dict[str, Clip] = {}
    told = any((folder / name).exists() for name in ("metadata.csv", "metadata.jsonl"))
    for row in listed(folder):
        path = folder / row.name
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):      # links may lead elsewhere
            raise DataError(f"{folder}: {row.name} lies outside of the folder.")
        name = PurePosixPath(row.name).with_suffix("").as_posix()
        if name in clips:
            raise DataError(f"{path} and {clips[name].path} have one name; keep one of them.")
        first = row.captions[0] if row.captions else None
        clips[name] = Clip(name, path, first if told else _prompt(path) or first, row.split)
    if not clips:
        raise DataError(f"{folder} holds no sound.")
    return [clips[name] for name in sorted(clips)]


def _prompt(path: Path) -> str | None:
    """The prompt stored in a generated sound."""
    try:
        return audio.read_recipe(path).get("prompt")
    except AudioError:                                           # no recipe; or no sound, as reading it will say
        return None


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
