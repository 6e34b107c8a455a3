"""Lists of prompts: .txt (one a line), .csv, .tsv and .jsonl. One bad line spoils no other."""

import csv
import difflib
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from audiogen.errors import DataError, SettingsError
from audiogen.recipe import MAX_SEED, Recipe, safe_id, slug
from audiogen.settings import Settings

KINDS = ("txt", "csv", "tsv", "jsonl")
COLUMNS = ("prompt", "id", "seed", "negative", "say", "duration", "steps", "guidance", "sampler", "count",
           "loop", "timeline", "candidates", "input", "strength", "span", "band", "extend", "before", "upscale")
MAX_COUNT = 1000
MAX_CANDIDATES = 100
YES, NO = ("yes", "true", "1"), ("no", "false", "0")
Cells = dict[str, Any]                                           # a line's values by column; None: left empty


@dataclass(frozen=True)
class Row:
    """A line that can be made."""

    line: int                                                    # of the file, from 1
    id: str
    named: bool                                                  # the list gave the id
    prompt: str
    seed: int | None = None
    negative: str | None = None
    say: str | None = None
    count: int = 1
    candidates: int | None = None                                # takes of which the best is kept
    recording: dict[str, Any] = field(default_factory=dict)      # what the line says of one: `input`, `span`, `upscale`, ...
    settings: dict[str, Any] = field(default_factory=dict)       # those that the line gives


@dataclass(frozen=True)
class Fault:
    """A line that cannot, and why."""

    line: int
    id: str
    message: str
    prompt: str | None = None


@dataclass(frozen=True)
class Listing:
    """A list of prompts as it was read."""

    rows: list[Row]
    faults: list[Fault]
    unused: tuple[str, ...] = ()                                 # columns that mean nothing here


def read_list(source: str, kind: str | None = None, count: int = 1) -> Listing:
    """The lines of a file, or of standard input if `source` is "-"; `kind` is that of the suffix unless it is given.

    `count` takes are made of a line that does not say how many. Raises DataError for a list that cannot be read at all:
    no such file, no column of prompts, nothing in it.
    """
    where = "standard input" if source == "-" else source
    data = _read_bytes(source)
    text = data.decode("utf-8-sig", errors="surrogateescape")
    guess = Path(source).suffix[1:].lower() if source != "-" else "jsonl" if text.lstrip().startswith("{") else "txt"
    kind = kind or guess
    if kind not in KINDS:
        raise DataError(f"{where}: '{kind}' is no kind of list; there are {', '.join(KINDS)} (say --list-format).")
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise DataError(f"{where} holds no prompts.")
    unused: Counter[str] = Counter()
    found: Iterator[tuple[int, Cells | str]]
    if kind == "txt":
        found = ((i, {"prompt": line}) for i, line in enumerate(lines, 1))
    elif kind == "jsonl":
        found = _json_lines(lines, unused)
    else:
        found = _table(lines, "," if kind == "csv" else "\t", where, unused)
    listing = replace(_unique(found, count), unused=tuple(unused))
    if not listing.rows and not listing.faults:
        raise DataError(f"{where} holds no prompts.")
    return listing


def _read_bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    path = Path(source)
    if not path.exists():
        raise DataError(f"There is no list of prompts '{source}'.")
    if path.is_dir():
        raise DataError(f"{source} is a folder; give a list of prompts (.txt, .csv, .tsv or .jsonl).")
    return path.read_bytes()


def _json_lines(lines: list[str], unused: Counter[str]) -> Iterator[tuple[int, Cells | str]]:
    """Each line's object, or what is wrong with it."""
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield i, f"this is not JSON ({getattr(error, 'msg', 'too deep')})"
            continue
        if not isinstance(data, dict):
            yield i, "a line must be an object like {\"prompt\": \"rain\"}"
            continue
        unused.update(k for k in data if k not in COLUMNS)
        close = difflib.get_close_matches("prompt", data, n=1)
        if "prompt" not in data:
            yield i, "there is no \"prompt\" in it" + (f" (but \"{close[0]}\")" if close else "")
        else:
            yield i, {k: v for k, v in data.items() if k in COLUMNS}


def _table(lines: list[str], delimiter: str, where: str, unused: Counter[str]) -> Iterator[tuple[int, Cells | str]]:
    """Each row under the names of the first; a quoted cell may run over lines."""
    _, head, at = _row(lines, 0, delimiter)
    names = [name.strip().lower() for name in head or []]
    if "prompt" not in names:
        close = difflib.get_close_matches("prompt", names, n=1)
        hint = f"did you mean it by '{close[0]}'?" if close else f"found: {', '.join(names)[:100]}."
        raise DataError(f"{where}: its first line must name the columns, and one of them 'prompt'; {hint}")
    twice = [name for name, n in Counter(names).items() if n > 1 and name in COLUMNS]
    if twice:
        raise DataError(f"{where}: its first line names the column '{twice[0]}' twice.")
    unused.update(name for name in names if name not in COLUMNS)
    while at < len(lines):
        line = at + 1
        fault, cells, at = _row(lines, at, delimiter)
        if fault:
            yield line, fault
        elif cells and len(cells) > len(names):
            yield line, f"{len(cells)} values under {len(names)} columns (put a prompt with '{delimiter}' in quotes)"
        elif cells:
            yield line, {k: v if v.strip() else None for k, v in zip(names, cells, strict=False) if k in COLUMNS}


def _row(lines: list[str], at: int, delimiter: str) -> tuple[str, list[str], int]:
    """(what is wrong or "", cells, index of the next line) of the row that begins in line `at`."""
    used = 0

    def feed() -> Iterator[str]:
        nonlocal used
        for line in lines[at:]:
            used += 1
            yield line.rstrip("\r") + "\n"

    try:
        cells = next(csv.reader(feed(), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        reason = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        return reason, [], at + 1
    return "", cells, at + used


def _unique(found: Iterator[tuple[int, Cells | str]], count: int) -> Listing:
    """Rows and faults, every id once: rows without one are named by what they ask for.

    A row that asks for the same as an earlier one gets its number too, so a line that comes in changes no other's id.
    """
    seen: dict[str, int] = {}                                    # an id or file, without case -> its line
    asked: Counter[str] = Counter()
    rows: list[Row] = []
    faults: list[Fault] = []
    for line, cells in found:
        digest = _digest(cells)
        asked[digest] += 1
        own = digest if asked[digest] == 1 else f"{digest}-{asked[digest]}"
        try:
            if isinstance(cells, str):
                raise SettingsError(cells)
            row = _parse(line, cells, own, count)
            names = {name.casefold(): name for take in takes(row) for name in take}
            for key, name in names.items():
                if key in seen:
                    raise SettingsError(f"the id '{name}' stands in line {seen[key]} already (capitals do not count)")
            seen.update(dict.fromkeys(names, line))
            rows.append(row)
        except SettingsError as error:
            prompt = cells.get("prompt") if isinstance(cells, dict) else None
            faults.append(Fault(line, f"bad-{own}", clause(str(error)), _readable(prompt) if isinstance(prompt, str) else None))
    return Listing(rows, faults)


def check_candidates(count: int, prompt: str = "-") -> None:
    """Raises SettingsError for a number of candidates that cannot be, and without a prompt to judge them by."""
    if not 1 <= count <= MAX_CANDIDATES:
        raise SettingsError(f"{count} candidates are out of range; give 1 to {MAX_CANDIDATES}.")
    if count > 1 and not prompt.strip():
        raise SettingsError("Candidates are judged by the prompt; say what should sound, or make one.")


def clause(sentence: str) -> str:
    """A sentence as it stands after "line 7: "."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def takes(row: Row) -> list[tuple[str, str]]:
    """(id, file without suffix) of a row's sounds: its own id, and ID-2, ID-3, ... for further takes."""
    ids = [row.id] + [f"{row.id}-{k}" for k in range(2, row.count + 1)]
    return [(name, safe_id(name) if row.named else f"{slug(row.prompt) or 'sound'}-{name}") for name in ids]


def _digest(cells: Cells | str) -> str:
    full = cells if isinstance(cells, str) else {k: v for k, v in cells.items() if v is not None}
    text = json.dumps(full, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=5).hexdigest()


def _parse(line: int, cells: Cells, own: str, takes: int) -> Row:
    """The row of these cells; raises SettingsError for what cannot be meant."""
    prompt, negative, say = (_text(cells, name) for name in ("prompt", "negative", "say"))
    seed, count = _number(cells, "seed", int), _number(cells, "count", int)
    count = takes if count is None else count
    if not 1 <= count <= MAX_COUNT:
        raise SettingsError(f"a count of {count} is out of range; give 1 to {MAX_COUNT}")
    settings = {"duration": _number(cells, "duration", float), "steps": _number(cells, "steps", int),
                "guidance": _number(cells, "guidance", float), "sampler": _text(cells, "sampler"), "loop": _yes(cells, "loop"),
                "timeline": _yes(cells, "timeline")}
    given = {k: v for k, v in settings.items() if v is not None}
    name = cells.get("id")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if name is not None and not isinstance(name, str):
        raise SettingsError(f"the id {name!r} is neither text nor a whole number")
    name = name.strip() if name else None
    candidates, recording = _number(cells, "candidates", int), _recording(cells)
    recipe = Recipe(prompt or "", seed or 0, Settings(**given), "", negative=negative, say=say).check("upscale" in recording)
    if seed is not None and seed + count * (candidates or 1) - 1 > MAX_SEED:
        raise SettingsError("the seeds of its takes are out of range")
    if name and (len(name) > 1000 or not _readable(name) == name):
        raise SettingsError("its id is longer than 1000 characters, or not readable text")
    return Row(line, name or own, bool(name), recipe.prompt, seed, negative, say, count, candidates, recording, given)


def _recording(cells: Cells) -> dict[str, Any]:
    """The cells that are of a recording, without empty ones; what they mean together is for recordings.py to say."""
    found = {k: _text(cells, k) or None for k in ("input", "span", "band")}
    found |= {k: _number(cells, k, float) for k in ("strength", "extend", "before")} | {"upscale": _upscale(cells)}
    return {k: found[k] for k in COLUMNS if found.get(k) is not None}


def _upscale(cells: Cells) -> Any:
    """True, or the Hz above which; None for no."""
    for read in (_yes, partial(_number, kind=float)):
        try:
            return read(cells, "upscale") or None
        except SettingsError:
            continue
    raise SettingsError(f"upscale must be yes, or the Hz above which to paint, not {json.dumps(cells['upscale'])[:40]}")


def _text(cells: Cells, name: str) -> str | None:
    value = cells.get(name)
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"the {name} must be text, not {json.dumps(value)[:40]}")
    return value.strip() if value else value


def _yes(cells: Cells, name: str) -> bool | None:
    """The cell as yes or no, None if it is empty."""
    value = cells.get(name)
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in YES + NO:
        raise SettingsError(f"{name} must be yes or no, not {json.dumps(value)[:40]}")
    return word in YES


def _number(cells: Cells, name: str, kind: type) -> Any:
    """The cell as a number of this kind, None if it is empty."""
    value = cells.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return kind(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{name} must be {what}, not {json.dumps(value)[:40]}") from None


def _readable(text: str) -> str:
    """`text` as it can be printed and stored."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
