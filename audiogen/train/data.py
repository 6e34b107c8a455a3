"""A folder of sounds as a dataset: what is in it, what is wrong with it, and its samples in one file.

A folder has metadata.csv or metadata.jsonl (file_name, text, and if wanted captions with | between, label, split, license),
or sounds with .txt files of the same name, or one sub-folder per label; or it is a set of WebDataset .tar shards.
"""

import csv
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from audiogen.audio import read
from audiogen.errors import AudioError, DataError

SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".oga", ".aiff", ".aif"}
SHORTEST = 0.05                                                  # seconds
SILENT = 1e-4                                                    # peak
CLIPPED = 0.02                                                   # share of samples at full scale
LONGEST_CAPTION = 2000                                           # characters
FAULTS = {"broken": "cannot be read", "missing": "are not there", "outside": "lie outside the folder", "silent": "are silent",
          "short": f"are shorter than {SHORTEST} s", "clipped": "are clipped", "uncaptioned": "have no caption",
          "wordy": f"have a caption of more than {LONGEST_CAPTION} characters", "doubled": "are the same sound as another"}
Watch = Callable[[int, int], None]                               # (done, total) -> None
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Clip:
    """A sound that is listed; `start` and `length` (samples) say where it lies among the dataset's samples."""

    name: str                                                    # relative to the folder
    captions: tuple[str, ...]
    label: str = ""
    split: str = ""                                              # train, valid, test or not said
    licence: str = ""
    start: int = 0
    length: int = 0


@dataclass
class Report:
    """What was found: clips that can be used, and names of the others under each fault."""

    clips: list[Clip] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    rate: int = 16_000                                           # Hz, of the lengths

    @property
    def hours(self) -> float:
        return sum(c.length for c in self.clips) / self.rate / 3600

    @property
    def left_out(self) -> int:
        return sum(len(names) for fault, names in self.faults.items() if fault != "clipped")

    def histogram(self) -> list[tuple[str, int]]:
        """Clips by length."""
        edges = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
        counts = Counter(int(np.searchsorted(edges, c.length / self.rate)) for c in self.clips)
        between = [f"{a:g} - {b:g} s" for a, b in zip(edges[:-1], edges[1:], strict=True)]
        names = [f"under {edges[0]:g} s", *between, f"over {edges[-1]:g} s"]
        return [(name, counts[i]) for i, name in enumerate(names)]

    def licences(self) -> list[tuple[str, int]]:
        """Clips by licence, most first."""
        return Counter(c.licence or "not stated" for c in self.clips).most_common()


@dataclass(frozen=True)
class Dataset:
    """Clips, and their samples one after another: int16 (S,) on disk, mapped into memory."""

    clips: list[Clip]
    samples: Array
    rate: int

    def wave(self, clip: Clip) -> Array:
        """float32 (S,) in [-1, 1]"""
        return self.samples[clip.start : clip.start + clip.length].astype(np.float32) / 32767


def listed(folder: Path) -> list[Clip]:
    """The clips that a folder names, unread. Raises DataError for a folder without any, or metadata that cannot be read."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of sounds.")
    if (folder / "metadata.csv").exists() or (folder / "metadata.jsonl").exists():
        path = folder / "metadata.csv" if (folder / "metadata.csv").exists() else folder / "metadata.jsonl"
        return [_row(row, path, i) for i, row in enumerate(_rows(path), 1)]
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SOUNDS and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder} holds no sounds ({', '.join(sorted(SOUNDS))}) and no metadata.csv.")
    clips = []
    for path in files:
        name, text = path.relative_to(folder).as_posix(), path.with_suffix(".txt")
        if text.exists():
            lines = [x.strip() for x in _text(text).splitlines() if x.strip()]
            clips.append(Clip(name, tuple(lines)))
        else:
            label = path.parent.name if path.parent != folder else ""
            clips.append(Clip(name, (re.sub(r"[_\-]+", " ", label),) if label else (), label))
    return clips


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of metadata.csv or metadata.jsonl."""
    text = _text(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines())
        if "file_name" not in (reader.fieldnames or ()):
            raise DataError(f"{path}: no column 'file_name' (there are: {', '.join(reader.fieldnames or ['none'])}).")
        yield from reader
        return
    for i, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {i}: not JSON ({error.msg}).") from None
        if not isinstance(row, dict) or "file_name" not in row:
            raise DataError(f"{path}, line {i}: no 'file_name' there.")
        yield row


def _row(row: dict[str, Any], path: Path, i: int) -> Clip:
    def of(key: str) -> str:
        return str(row.get(key) or "").strip()

    if not of("file_name"):
        raise DataError(f"{path}, row {i}: its file_name is empty.")
    more = [c.strip() for c in of("captions").split("|")]
    return Clip(of("file_name"), tuple(dict.fromkeys(c for c in (of("text"), *more) if c)), of("label"), of("split"),
                of("license") or of("licence"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None


def ignore(done: int, total: int) -> None:
    """A watch that looks away."""


def inspect(source: Path, rate: int = 16_000, sink: Callable[[Array], object] | None = None, watch: Watch = ignore) -> Report:
    """Read every sound of a folder (or its shards) and say what can be used.

    `sink` takes each usable clip's samples, int16 (S,), in order. Clipped sounds are told of, and used all the same.
    Raises DataError where there is nothing to read.
    """
    report = Report(rate=rate)
    seen: dict[bytes, str] = {}
    for i, (clip, wave, total) in enumerate(sounds(source, rate)):
        fault = _fault(clip, wave, rate)
        data = b"" if isinstance(wave, str) else (np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes()
        if not fault and seen.setdefault(hashlib.blake2b(data).digest(), clip.name) != clip.name:
            fault = "doubled"
        if fault:
            report.faults.setdefault(fault, []).append(clip.name)
        if not fault or fault == "clipped":
            start = report.clips[-1].start + report.clips[-1].length if report.clips else 0
            report.clips.append(replace(clip, start=start, length=len(data) // 2))
            if sink is not None:
                sink(np.frombuffer(data, np.int16))
        watch(i + 1, total)
    return report


def sounds(source: Path, rate: int) -> Iterator[tuple[Clip, Array | str, int]]:
    """Each listed clip, its wave (S,) float32 or the fault that kept it from being read, and the number of all."""
    shards = sorted(source.glob("*.tar")) if source.is_dir() else []
    if shards:
        yield from _sharded(shards, rate)
        return
    clips, root = listed(source), source.resolve()

    def load(clip: Clip) -> Array | str:
        path = (source / clip.name).resolve()
        if not path.is_relative_to(root):
            return "outside"
        try:
            return read(path, rate)[0].numpy() if path.is_file() else "missing"
        except (AudioError, RuntimeError):
            return "broken"

    with ThreadPoolExecutor(min(16, os.cpu_count() or 4)) as pool:
        for i in range(0, len(clips), 64):                       # a few at a time: waves are large
            some = clips[i : i + 64]
            for clip, wave in zip(some, pool.map(load, some), strict=True):
                yield clip, wave, len(clips)


def _sharded(shards: list[Path], rate: int) -> Iterator[tuple[Clip, Array | str, int]]:
    """The samples of WebDataset shards: KEY.flac (or another format) beside KEY.txt or KEY.json."""
    try:
        import webdataset
    except ImportError:
        raise DataError("Tar shards are read by the package webdataset: pip install 'audiogen[train]'.") from None
    urls = [f"file:{p.resolve()}" for p in shards]
    for item in webdataset.WebDataset(urls, shardshuffle=False, handler=webdataset.warn_and_continue):
        suffix = next((k for k in item if f".{k}" in SOUNDS), None)
        if suffix is None:
            continue
        row = json.loads(item["json"]) if "json" in item else {"text": item.get("txt", b"").decode("utf-8", "replace")}
        with tempfile.NamedTemporaryFile(suffix=f".{suffix}") as file:
            file.write(item[suffix])
            file.flush()
            try:
                wave: Array | str = read(file.name, rate)[0].numpy()
            except (AudioError, RuntimeError):
                wave = "broken"
        yield _row({**row, "file_name": f"{item['__key__']}.{suffix}"}, shards[0].parent, 0), wave, 0


def _fault(clip: Clip, wave: Array | str, rate: int) -> str | None:
    if isinstance(wave, str):
        return wave
    peak = float(np.abs(wave).max())
    if len(wave) < SHORTEST * rate:
        return "short"
    if peak < SILENT:
        return "silent"
    if not clip.captions:
        return "uncaptioned"
    if max(map(len, clip.captions)) > LONGEST_CAPTION:
        return "wordy"
    return "clipped" if float((np.abs(wave) >= 0.999).mean()) > CLIPPED else None


def prepare(source: Path, cache: Path, rate: int, watch: Watch = ignore) -> tuple[Dataset, Report]:
    """The dataset of a folder: checked and decoded once, then kept in `cache` and taken from there while the folder is the same.

    Raises DataError where nothing can be trained on, naming the commonest fault.
    """
    mark = _fingerprint(source, rate)
    index, samples = cache / "index.json", cache / "samples.i16"
    if index.exists() and samples.exists():
        kept = json.loads(index.read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            clips = [Clip(**{**c, "captions": tuple(c["captions"])}) for c in kept["clips"]]
            return Dataset(clips, np.memmap(samples, np.int16, "r"), rate), Report(clips, kept["faults"], rate)
    cache.mkdir(parents=True, exist_ok=True)
    part = cache / ".samples.part"
    try:
        with open(part, "wb") as file:
            report = inspect(source, rate, lambda x: file.write(x.tobytes()), watch)
        if not report.clips:
            worst = max(report.faults.items(), key=lambda f: len(f[1]))
            raise DataError(f"{source} holds nothing to train on: {len(worst[1])} sounds {FAULTS[worst[0]]} "
                            f"(first: {worst[1][0]}).")
        os.replace(part, samples)
    finally:
        part.unlink(missing_ok=True)
    data = {"mark": mark, "clips": [asdict(c) for c in report.clips], "faults": report.faults}
    text = index.with_suffix(".part")
    text.write_text(json.dumps(data), encoding="utf-8")
    os.replace(text, index)
    return Dataset(report.clips, np.memmap(samples, np.int16, "r"), rate), report


def _fingerprint(source: Path, rate: int) -> str:
    """Changes whenever a file of the folder does: names, sizes and times."""
    if not source.is_dir():
        raise DataError(f"{source} is not a folder of sounds.")
    digest = hashlib.blake2b(str(rate).encode())
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        stat = path.stat()
        digest.update(f"{path.relative_to(source)}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def split(dataset: Dataset, held_out: float) -> tuple[list[Clip], list[Clip]]:
    """Clips to train on and clips to validate on: as they say, or a share by the hash of their names (at least one)."""
    if any(c.split for c in dataset.clips):
        valid = [c for c in dataset.clips if c.split in ("valid", "validation", "val")]
        train = [c for c in dataset.clips if c.split in ("train", "")]
    else:
        def place(clip: Clip) -> float:
            return int.from_bytes(hashlib.blake2b(clip.name.encode(), digest_size=6).digest()) / 2**48

        ranked = sorted(dataset.clips, key=place)
        n = min(max(1, round(len(ranked) * held_out)), len(ranked) - 1) if held_out else 0
        held = {c.name for c in ranked[:n]}
        valid = [c for c in dataset.clips if c.name in held]
        train = [c for c in dataset.clips if c.name not in held]
    if not train:
        raise DataError("No clip is left to train on: all are held out for validation or testing.")
    return train, valid
