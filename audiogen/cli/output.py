"""Where sounds go and how a command announces them; shared by the commands that make some."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiogen.cli import console
from audiogen.cli.options import FORMATS, check_format, prepare_folder
from audiogen.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

PLAYERS = (("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"), ("mpv", "--no-video", "--really-quiet"),
           ("pw-play",), ("paplay",), ("afplay",), ("play", "-q"), ("aplay", "-q"))

ATTENTION = "-attention.png"                                     # beside NAME.wav: NAME-attention.png


@dataclass(frozen=True)
class Output:
    """What a command does with each sound that it made."""

    format: str
    spectrogram: bool = False
    play: bool = False
    quiet: bool = False
    as_json: bool = False
    attention: bool = False                                      # whoever makes the sound draws it
    subtype: str | None = None                                   # of the samples of a recording that is changed
    overwrite: bool = False

    @property
    def pictures(self) -> tuple[str, ...]:
        """The ends of the names of the pictures beside a sound."""
        return (".png",) * self.spectrogram + (ATTENTION,) * self.attention

    def deliver(self, path: Path, wave: "Tensor", rate: int, recipe: dict[str, Any], took: float) -> None:
        """Write a sound (S,) or (C, S) and its picture, say so in a closing line or in JSON, and play it if asked."""
        from audiogen import audio

        if path.exists() and not self.overwrite:                 # it was not there when this command began
            [path] = _step_aside([path], False, self.pictures)
        audio.write(path, wave, rate, recipe, self.format, self.subtype)
        picture = path.with_suffix(".png") if self.spectrogram else None
        if picture is not None:
            from audiogen.plot import write_spectrogram

            mono = wave if wave.ndim == 1 else wave.mean(0)      # (S,)
            write_spectrogram(picture, mono.numpy(), rate, str(recipe.get("prompt", "")))
        seconds = wave.shape[-1] / rate
        if self.as_json:
            named = {"file": str(path)} | ({"spectrogram": str(picture)} if picture else {})
            named |= {"attention": str(beside(path, ATTENTION))} if self.attention else {}
            facts = {"sample_rate": rate, "seconds": round(seconds, 6), "took": round(took, 3)}
            console.say_json(named | recipe | facts)
        elif not self.quiet:
            seed = f", seed {recipe['seed']}" if "seed" in recipe else ""
            console.say(f"{path}: {seconds:.2f} s of sound, made in {took:.1f} s{seed}")
        if self.play:
            play(path)


def beside(file: Path, end: str) -> Path:
    """A file beside a sound: its name without the suffix, and `end`."""
    return file.with_name(f"{file.stem}{end}")


def targets(out: Path | None, stems: list[str], format: str | None, overwrite: bool,
            pictures: Sequence[str] = ()) -> tuple[list[Path], str]:
    """The files that sounds of these names go to, and their format; none is there, nor its `pictures` (the ends of their
    names), unless `overwrite`.

    `out` is a file if it ends like a sound, else a folder (made if need be). Names of our own step aside for files that
    exist; a file that was asked for does not. Raises SettingsError, or OSError for a folder that cannot be written.
    """
    kind = check_format(format) if format else None
    suffix = out.suffix[1:].lower() if out is not None and not out.is_dir() else ""
    if out is None or suffix not in FORMATS:
        folder = out or Path()
        if suffix and not suffix.isdecimal():
            raise SettingsError(f"'{out}' is no {', '.join(FORMATS)} file; name a folder without a dot.")
        prepare_folder(folder)
        return _step_aside([folder / f"{stem}.{kind or 'wav'}" for stem in stems], overwrite, pictures), kind or "wav"
    if kind not in (None, suffix):
        raise SettingsError(f"'{out}' ends in .{suffix}, but --format asks for {kind}.")
    prepare_folder(out.parent)
    files = [out] + [out.with_stem(f"{out.stem}-{k}") for k in range(2, len(stems) + 1)]
    there = next((p for file in files for p in _paths(file, pictures) if p.exists()), None)
    if there is not None and not overwrite:
        raise SettingsError(f"{there} is there already; --overwrite replaces it.")
    return files, suffix


def _paths(file: Path, pictures: Sequence[str]) -> list[Path]:
    return [file, *(beside(file, end) for end in pictures)]


def _step_aside(files: list[Path], overwrite: bool, pictures: Sequence[str]) -> list[Path]:
    """Each file, or FILE-2, FILE-3, ... where that name is taken, on the disk or by another of them."""
    taken: set[str] = set()
    chosen = []
    for file in files:
        names = (file.with_stem(f"{file.stem}-{k}") if k > 1 else file for k in range(1, 10**6))
        free = next(n for n in names if str(n).casefold() not in taken
                    and (overwrite or not any(p.exists() for p in _paths(n, pictures))))
        taken.add(str(free).casefold())
        chosen.append(free)
    return chosen


def play(path: Path) -> None:
    """Play a sound with whatever player is installed, or say that there is none."""
    for program, *arguments in PLAYERS:
        if shutil.which(program):
            subprocess.run([program, *arguments, str(path.resolve())], stdin=subprocess.DEVNULL, check=False)
            return
    console.note(f"No player found for {path}: install ffmpeg (its ffplay) or sox.")
