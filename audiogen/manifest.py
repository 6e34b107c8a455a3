"""manifest.jsonl: what became of each item of a batch, one JSON object a line.

A line is appended and brought to the disk when its file is whole. Several processes append to parts of their own
(.manifest-RANK.jsonl), which are joined when all are done, or when the batch is run again.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from audiogen.errors import DataError

try:
    import fcntl
except ImportError:                                              # Windows: two batches at once go unnoticed
    fcntl = None                                                 # type: ignore[assignment]

NAME = "manifest.jsonl"
Entry = dict[str, Any]


class Appender:
    """Appends entries to a manifest; each is on the disk when `add` returns, or not in the file at all."""

    def __init__(self, path: Path):
        self.path = path
        self.file: IO[bytes] = open(path, "ab", buffering=0)     # noqa: SIM115

    def add(self, entry: Entry) -> None:
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        end = self.file.seek(0, os.SEEK_END)
        try:
            written = self.file.write(line)
            if written != len(line):                             # a disk that fills up may take a part
                raise OSError(28, "No space left on device", str(self.path))
            os.fsync(self.file.fileno())
        except OSError as error:
            self.file.truncate(end)
            error.filename = error.filename or str(self.path)
            raise

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


def part(folder: Path, rank: int, world: int) -> Path:
    """Where this process appends."""
    return folder / (NAME if world == 1 else f".manifest-{rank}.jsonl")


def gather(folder: Path) -> dict[str, Entry]:
    """Every entry in `folder` by its id, a later one in place of an earlier; what a killed run left is put in order.

    Raises DataError for a manifest that something else has written.
    """
    parts = sorted(folder.glob(".manifest-*.jsonl"))
    entries: dict[str, Entry] = {}
    for path in (folder / NAME, *parts):
        entries.update(_read(path) if path.exists() else {})
    store(folder, list(entries.values()))
    for path in parts:
        path.unlink()
    return entries


def store(folder: Path, entries: Sequence[Entry]) -> None:
    """Make the manifest hold exactly these entries; nothing is touched if it does."""
    path = folder / NAME
    data = b"".join((json.dumps(entry, ensure_ascii=False) + "\n").encode() for entry in entries)
    if data == (path.read_bytes() if path.exists() else b""):
        return
    beside = folder / f".{NAME}.part"
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync(folder)


def sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, so that power cut now loses none of them."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):                                  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, Entry]:
    """The entries of one file, without a last line that was torn off."""
    *lines, torn = path.read_bytes().split(b"\n")                # a whole file ends with a newline: nothing is torn
    entries: dict[str, Entry] = {}
    for i, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            entries[entry["id"]] = entry
        except (ValueError, KeyError, TypeError):
            if i == len(lines) and not torn:
                break                                            # blocks of zeros, where power went
            raise DataError(f"{path}: line {i} is no entry of a batch; remove it, or choose another folder.") from None
    return entries


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else works in `folder` meanwhile; the lock dies with the process. Raises DataError if somebody does."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DataError(f"Another batch is at work in {folder}: wait until it has ended, "
                                "or choose another folder.") from None
        yield                                                    # a file system without locks is taken as it is
    finally:
        with suppress(OSError):
            os.close(handle)
