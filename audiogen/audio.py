"""Sound files: reading, writing with a recipe inside, resampling. Shapes: C channels, S samples."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from audiogen.errors import AudioError

FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}
BITS = {"PCM_16": 16, "PCM_24": 24, "PCM_32": 32}                # of samples that are stored as integers
FINE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")                   # what holds more than 16 bits
WIDE = ("PCM_32", "DOUBLE")                                      # and what float32 does not hold
LOUDEST = 1e6                                                    # full scales; beyond them a spectrum is not finite
BLOCK = 0.4                                                      # seconds, of which the shortest sound's loudness is told
TAG = "audiogen "                                                # begins the comment that holds a recipe


@dataclass(frozen=True)
class Recording:
    """A sound file with every sample as it lies there."""

    wave: Tensor                                                 # (C, S) float32, or float64 where the file holds more
    rate: int                                                    # Hz
    subtype: str                                                 # how the file stores samples, as libsndfile calls it


def read(path: str | Path, rate: int | None = None, mono: bool = True) -> tuple[Tensor, int]:
    """A sound file as float32 (S,), or (C, S) if not `mono`, and its rate in Hz, resampled to `rate` if that is given.

    Raises AudioError for a file that is not there, not a sound, empty, or holds what no sound has: values not finite.
    """
    found = read_recording(path)
    wave = found.wave.float()
    wave = wave.mean(dim=0) if mono else wave
    return (wave, found.rate) if rate is None else (resample(wave, found.rate, rate), rate)


def read_recording(path: str | Path) -> Recording:
    """All channels of a sound file, exactly; raises AudioError as `read` does."""
    try:
        with sf.SoundFile(str(path)) as file:
            rate, subtype = file.samplerate, file.subtype
            data = file.read(dtype="float64" if subtype in WIDE else "float32", always_2d=True)      # (S, C)
    except (sf.LibsndfileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from None
    if not len(data):
        raise AudioError(f"{path} holds no samples.")
    wave = torch.from_numpy(np.ascontiguousarray(data.T))       # (C, S)
    if not (wave.abs() < LOUDEST).all():                         # nor is what is no number
        raise AudioError(f"{path} holds samples that are not finite, or far beyond full scale; export it again.")
    return Recording(wave, rate, subtype)


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
    if not Path(path).exists():
        return AudioError(f"{path} cannot be read as a sound (there is no such file).")
    reason = str(error).split(": ")[-1].rstrip(".")
    return AudioError(f"{path} cannot be read as a sound ({reason}); give a .wav, .flac, .ogg, .opus, .mp3 or .aiff file.")


def resample(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """(..., S) at `rate` -> (..., S') at `new_rate`, both in Hz"""
    return wave if rate == new_rate else torchaudio.functional.resample(wave, rate, new_rate)


def loudness(wave: Tensor, rate: int) -> float:
    """How loud a wave (S,) at `rate` Hz is as a whole, its pauses left out, in LUFS (ITU-R BS.1770-4); -inf: silence."""
    wave = F.pad(wave.float(), (0, max(0, round(BLOCK * rate) - len(wave))))
    level = float(torchaudio.functional.loudness(wave[None], rate))
    return -math.inf if math.isnan(level) else level


def write(path: str | Path, wave: Tensor, rate: int, recipe: dict[str, Any] | None = None, format: str | None = None,
          subtype: str | None = None) -> None:
    """Write floats (S,) or (C, S) in [-1, 1] at `rate` Hz, with `recipe` as JSON in the file's comment.

    The format is that of the suffix unless it is named; `subtype` is that of the recording which was changed: what holds
    more than 16 bits is kept where the format can. The file appears under its name only when it is whole. Raises
    AudioError for an unknown format, and OSError where the disk refuses.
    """
    path = Path(path)
    kind = format or path.suffix[1:].lower()
    if kind not in FORMATS:
        raise AudioError(f"{path}: no format '{kind}'; there are {', '.join(FORMATS)}.")
    major, stored = FORMATS[kind]
    if subtype in FINE and kind in ("wav", "flac"):
        stored = subtype if kind == "wav" else "PCM_24"
    data = _samples(wave.detach().cpu().reshape(-1, wave.shape[-1]).T, stored).numpy()       # (S, C)
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        with sf.SoundFile(str(part), "w", rate, data.shape[1], stored, format=major) as file:
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


def _samples(wave: Tensor, stored: str) -> Tensor:
    """What libsndfile is to be given of floats, so that it changes none: beyond full scale only floats can go."""
    if stored in BITS:
        return integers(wave, BITS[stored])
    wave = wave.double() if stored == "DOUBLE" else wave.float()
    return wave if stored in FINE else wave.clamp(-1, 1)


def integers(wave: Tensor, bits: int) -> Tensor:
    """Floats in [-1, 1] -> the nearest int16, or the nearest of 24 or 32 bits at the top of an int32.

    So what was read of a file comes back as it was, in every format; libsndfile's own rounding differs between them.
    """
    full = 2 ** (bits - 1)
    whole = (wave.double() * full).round().clamp(-full, full - 1)
    return whole.to(torch.int16) if bits == 16 else (whole * 2 ** (32 - bits)).to(torch.int32)


def _check_whole(path: Path, samples: int) -> None:
    if abs(sf.info(str(path)).frames - samples) > 4096:          # MP3 pads by a frame or two
        raise OSError(28, "No space left on device", str(path))


def _refusal(path: Path, error: Exception) -> Exception:
    """Why a file could not be written, as the operating system says it where it can."""
    try:
        disk = os.statvfs(path.parent)
    except OSError as cause:
        return AudioError(f"{path} cannot be written: {cause.strerror}.")
    if disk.f_blocks and not disk.f_bavail:                      # what is no disk has no blocks
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
