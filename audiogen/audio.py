"""Sound files: reading, writing with a recipe inside, resampling. Shapes: C channels, S samples."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
import torchaudio
from torch import Tensor

from audiogen.errors import AudioError

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
TAG = "audiogen "                                                # begins the comment that holds a recipe


def read(path: str | Path, rate: int | None = None, mono: bool = True) -> tuple[Tensor, int]:
    """A sound file as float32 (S,), or (C, S) if not `mono`, and its rate in Hz, resampled to `rate` if that is given.

    Raises AudioError for a file that is not there, not a sound, empty, or holds values that are not finite.
    """
    try:
        data, found = sf.read(str(path), dtype="float32", always_2d=True)                # (S, C)
    except (sf.LibsndfileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from None
    if not len(data):
        raise AudioError(f"{path} holds no samples.")
    wave = torch.from_numpy(np.ascontiguousarray(data.T))       # (C, S)
    if not torch.isfinite(wave).all():
        raise AudioError(f"{path} holds samples that are not finite.")
    wave = wave.mean(dim=0) if mono else wave
    return (wave, found) if rate in (None, found) else (resample(wave, found, rate), rate)   # type: ignore[arg-type, return-value]


def duration(path: str | Path) -> float:
    """Seconds of a sound file, by its head; raises AudioError for one that `read` cannot read, or that is empty."""
    try:
        info = sf.info(str(path))
    except (sf.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from None
    if not info.frames:
        raise AudioError(f"{path} holds no samples.")
    return float(info.frames / info.samplerate)


def _unreadable(path: str | Path, error: Exception) -> AudioError:
    reason = "there is no such file" if not Path(path).exists() else str(error).split(": ")[-1].rstrip(".")
    return AudioError(f"{path} cannot be read as a sound ({reason}).")


def resample(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """(..., S) at `rate` -> (..., S') at `new_rate`, both in Hz"""
    return wave if rate == new_rate else torchaudio.functional.resample(wave, rate, new_rate)


def write(path: str | Path, wave: Tensor, rate: int, recipe: dict[str, Any] | None = None, format: str | None = None) -> None:
    """Write float32 (S,) or (C, S) in [-1, 1] at `rate` Hz, with `recipe` as JSON in the file's comment.

    The format is that of the suffix unless it is named. The file appears under its name only when it is whole. Raises
    AudioError for an unknown format, and OSError where the disk refuses.
    """
    path = Path(path)
    kind = format or path.suffix[1:].lower()
    if kind not in FORMATS:
        raise AudioError(f"{path}: no format '{kind}'; there are {', '.join(FORMATS)}.")
    major, subtype = FORMATS[kind]
    plain = wave.detach().cpu().float().clamp(-1, 1).reshape(-1, wave.shape[-1]).T           # (S, C)
    data = (sixteen_bits(plain) if subtype == "PCM_16" else plain).numpy()
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        with sf.SoundFile(str(part), "w", rate, data.shape[1], subtype, format=major) as file:
            if recipe is not None:
                file.comment = TAG + json.dumps(recipe, ensure_ascii=True, sort_keys=True)
            file.write(data)
        with open(part, "rb") as done:                           # libsndfile does not report a disk that filled up
            os.fsync(done.fileno())
        _check_whole(part, len(data))
        os.replace(part, path)
    except sf.LibsndfileError as error:
        raise _refusal(path, error) from None
    finally:
        part.unlink(missing_ok=True)


def sixteen_bits(wave: Tensor) -> Tensor:
    """float32 in [-1, 1] -> the nearest int16: what `read` gives of a 16-bit file comes back as it was, in every format."""
    return (wave * 32768).round().clamp(-32768, 32767).to(torch.int16)


def _check_whole(path: Path, samples: int) -> None:
    if abs(sf.info(str(path)).frames - samples) > 4096:          # MP3 pads by a frame or two
        raise OSError(28, "No space left on device", str(path))


def _refusal(path: Path, error: Exception) -> Exception:
    """Why a file could not be written, as the operating system says it where it can."""
    try:
        free = os.statvfs(path.parent).f_bavail
    except OSError as cause:
        return AudioError(f"{path} cannot be written: {cause.strerror}.")
    if free == 0:
        return OSError(28, "No space left on device", str(path))
    if not os.access(path.parent, os.W_OK):
        return PermissionError(13, "Permission denied", str(path))
    return AudioError(f"{path} cannot be written ({error}).")


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe stored in a sound by `write`; raises AudioError if there is none."""
    try:
        with sf.SoundFile(str(path)) as file:
            comment = file.comment
    except (sf.LibsndfileError, OSError) as error:
        raise _unreadable(path, error) from None
    try:
        recipe = json.loads(comment[len(TAG):]) if comment.startswith(TAG) else None
    except json.JSONDecodeError:
        recipe = None
    if not isinstance(recipe, dict):
        raise AudioError(f"{path} holds no recipe: it was not made by audiogen, or another program has rewritten it.")
    return recipe
