"""A list of prompts to a folder of sounds and a manifest; stopped at any moment, it goes on where it was.

What is made depends on the list and the settings alone: items are grouped in the order of the whole list, and a group
of which one sound is missing is made again whole, so that even rounding is the same as if nothing had happened.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiogen import audio, manifest, rank
from audiogen.diffusion.sampling import Watch
from audiogen.errors import AudiogenError, DataError, out_of_memory
from audiogen.manifest import Entry
from audiogen.prompts import Fault, Listing, check_candidates, clause, takes
from audiogen.recipe import Recipe, derive_seed
from audiogen.recordings import KINDS, Task, read_task
from audiogen.settings import Settings
from audiogen.timeline import duration_of, read_timeline

if TYPE_CHECKING:
    from torch import Tensor

    from audiogen.edit.paint import Edited
    from audiogen.pipeline import Generation, Pipeline

AUTO_SIZES = {"cpu": 1, "mps": 4, "cuda": 16}                    # alone on a CPU: as fast, and exact to the last bit
NOT_COMPARED = ("dtype", "audiogen")                             # of a recipe: these may differ when a batch goes on
OF_SOME = ("input", "input_digest", *(f.name for kind in KINDS for f in fields(kind)), "candidates", "ranker")    # of an entry


@dataclass(frozen=True)
class Item:
    """One sound to be made."""

    id: str
    file: str                                                    # relative to the folder
    line: int                                                    # of the list
    recipe: Recipe                                               # for a task: without a duration
    task: Task | None = None                                     # of a recording that is changed
    candidates: int = 1
    ranker: str | None = None                                    # of candidates; None: the model's own

    @property
    def alone(self) -> bool:
        """Whether it is made by itself, whatever the size of a batch."""
        return self.task is not None or self.candidates > 1

    def as_dict(self) -> Entry:
        recipe = {k: v for k, v in self.recipe.as_dict().items() if k not in NOT_COMPARED}
        task = self.task.as_dict() if self.task else {}
        best = {"candidates": self.candidates} | ({"ranker": self.ranker} if self.ranker else {}) if self.candidates > 1 else {}
        return {"id": self.id, "file": self.file} | recipe | task | best


@dataclass(frozen=True)
class Made:
    """The sounds of some items, and what is to be said of them."""

    waves: "Sequence[Tensor]"                                    # (S,) or (C, S) each
    sample_rate: int
    tag: dict[str, Any] = field(default_factory=dict)            # in the file
    entry: Entry = field(default_factory=dict)                   # in the manifest
    subtype: str | None = None                                   # of the recording that was changed
    drafts: Sequence[int] = ()                                   # which of its drafts each is, if there were several


@dataclass(frozen=True)
class Plan:
    """The items of a list that are to be made, in groups, and what is known of the others."""

    items: list[Item]
    faults: list[Fault]
    done: dict[str, Entry]                                       # of items that need not be made
    others: list[Entry]                                          # of earlier lists, for sounds that stay in the folder
    size: int                                                    # of a group, at most

    def groups(self) -> list[list[Item]]:
        """Groups of items with the same settings, in the order of their first; those with something left to make."""
        buckets: dict[Hashable, list[list[Item]]] = {}
        ordered: list[list[Item]] = []
        for item in self.items:
            chunks = buckets.setdefault(item.id if item.alone else item.recipe.settings, [])
            if not chunks or len(chunks[-1]) == self.size:
                chunks.append([])
                ordered.append(chunks[-1])
            chunks[-1].append(item)
        return [group for group in ordered if any(item.id not in self.done for item in group)]

    def limits(self) -> dict[Settings, int]:
        """How many items of these settings memory allowed at once, as far as earlier runs found out."""
        limits: dict[Settings, int] = {}
        for item in self.items:
            if item.id in self.done:
                size = int(self.done[item.id].get("batch_limit", self.size))
                limits[item.recipe.settings] = min(size, limits.get(item.recipe.settings, self.size))
        return limits


def expand(listing: Listing, base: Recipe, suffix: str, folder: Path = Path(), candidates: int = 1,
           ranker: str | None = None) -> tuple[list[Item], list[Fault]]:
    """The items of a list, what a line leaves out taken from `base`; and the lines that cannot be made.

    Recordings are looked for in `folder`.
    """
    items: list[Item] = []
    faults = list(listing.faults)
    for row in listing.rows:
        seed = derive_seed(base.seed, row.id) if row.seed is None else row.seed
        settings = replace(base.settings, **row.settings)
        try:
            task = read_task(row, folder)
            if task is not None:
                settings = replace(settings, duration=None, loop=False, drafts=1)
            elif settings.timeline:
                seconds = row.settings.get("duration") or duration_of(read_timeline(row.prompt))
                settings = replace(settings, duration=seconds, drafts=1)
            several = candidates if row.candidates is None else row.candidates
            check_candidates(several, row.prompt)
            bare = task is not None and task.change.bare
            recipe = replace(base, prompt=row.prompt, settings=settings, negative=row.negative or base.negative,
                             say=row.say or base.say)
            recipes = [replace(recipe, seed=seed + k * several).check(bare) for k in range(row.count)]
            items += [Item(name, f"{stem}.{suffix}", row.line, own, task, several, ranker)
                      for own, (name, stem) in zip(recipes, takes(row), strict=True)]
        except AudiogenError as error:
            faults.append(Fault(row.line, f"bad-{row.id}", clause(str(error)), row.prompt))
    return items, faults


def plan(folder: Path, items: list[Item], faults: list[Fault], size: int, overwrite: bool = False) -> Plan:
    """What is left to make in `folder`, whose manifest and half files are tidied.

    Raises DataError where a sound would be replaced that was made with other settings, or not by this batch.
    """
    entries = manifest.gather(folder)
    done: dict[str, Entry] = {}
    changed: list[str] = []
    for item in items:
        entry, path = entries.get(item.id), folder / item.file
        made = entry is not None and "error" not in entry
        if entry is not None and made:
            old = entry.get("file")
            now = item.as_dict()
            old_new = [(k, entry.get(k, v), v) for k, v in now.items() if k not in OF_SOME]
            old_new += [(k, entry.get(k), now.get(k)) for k in OF_SOME]
            difference = next((f"{k} {before}, now {after}" for k, before, after in old_new if before != after), None)
            if difference and isinstance(old, str) and (folder / old).exists():
                changed.append(f"'{item.id}' ({difference})")
            elif not difference and path.exists() and path.stat().st_size:
                done[item.id] = entry
        elif path.exists() and not _is_of(path, item):
            changed.append(f"{item.file} (not of this batch)")
    if changed and not overwrite:
        sounds = "a sound" if len(changed) == 1 else f"{len(changed)} sounds"
        raise DataError(f"{folder} holds {sounds} that this would make otherwise, first "
                        f"{changed[0]}; choose another folder, or --overwrite.")
    ids = {item.id for item in items}
    others = [e for name, e in entries.items() if name not in ids and "error" not in e]
    _tidy(folder, items)
    return Plan(items, faults, done, others, size)


def _is_of(path: Path, item: Item) -> bool:
    """Whether a sound without an entry is this item's, written just before a batch was killed."""
    try:
        return audio.read_recipe(path).get("id") == item.id
    except AudiogenError:
        return False


def _tidy(folder: Path, items: Sequence[Item]) -> None:
    """Remove the half files that killed processes left of these items."""
    names = {item.file[:80] for item in items} | {f"{Path(item.file).stem}.png" for item in items}
    for path in folder.glob(".*.part"):
        match = re.fullmatch(r"\.(.+?)(\.\d+)?\.part", path.name)
        if match and match[1] in names:
            path.unlink(missing_ok=True)


def finish(folder: Path, plan: Plan) -> list[Entry]:
    """Put the manifest in the order of the list, with the lines that could not be made; returns the list's entries."""
    entries = manifest.gather(folder)
    lines = {item.id: item.line for item in plan.items} | {fault.id: fault.line for fault in plan.faults}
    for fault in plan.faults:
        said = {"id": fault.id, "line": fault.line, "prompt": fault.prompt, "error": fault.message}
        entries[fault.id] = {k: v for k, v in said.items() if v is not None}
    listed = [entries[name] for name in sorted(lines, key=lambda name: lines[name]) if name in entries]
    manifest.store(folder, plan.others + listed)
    return listed


class Worker:
    """Makes one process's share of a plan."""

    def __init__(self, pipeline: "Pipeline", folder: Path, plan: Plan, out: manifest.Appender,
                 watch: Callable[[float], None], tell: Callable[[Entry], None], spectrogram: bool = False):
        self.pipeline, self.folder, self.plan, self.out = pipeline, folder, plan, out
        self.spectrogram, self.watch, self.tell = spectrogram, watch, tell
        self.limits = plan.limits()
        self.ranker: rank.Ranker | None = None                   # loaded when it is needed
        self.made = 0

    def make(self, group: list[Item]) -> None:
        """Make a group in parts that fit into memory, halving them where they do not; write what is missing of it."""
        settings, at = group[0].recipe.settings, 0
        while at < len(group):
            size = self.limits.get(settings, self.plan.size)
            some = group[at : at + size]
            missing = [item for item in some if item.id not in self.plan.done]
            if not missing:
                at += size
                continue
            found = self._generate(some)
            if isinstance(found, MemoryError) and size > 1:
                self.limits[settings] = max(1, min(size, len(some)) // 2)
                continue
            if isinstance(found, Exception) and len(some) > 1:   # one of them cannot be made: find out which
                for item in missing:
                    self._write([item], [item], self._generate([item]), size)
            else:
                self._write(some, missing, found, size)
            at += size

    def _generate(self, items: list[Item]) -> "Made | Exception":
        """Their sounds, or why there are none; MemoryError for any way to run out of memory."""
        def watch(done: int, total: int) -> None:
            self.watch(self.made + len(items) * done / total * 0.95)             # decoding is the rest

        recipes = [item.recipe for item in items]
        try:
            if items[0].alone:
                return self._alone(items[0], watch)
            found = self.pipeline.generate(
                [r.prompt for r in recipes], recipes[0].settings, [r.seed for r in recipes],
                negatives=[r.negative for r in recipes], says=[r.say for r in recipes], watch=watch)
            return Made(list(found.audio), found.sample_rate, drafts=found.drafts)
        except AudiogenError as error:
            return error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        _free_memory()
        return MemoryError("memory ran out; lower its duration")

    def _alone(self, item: Item, watch: Watch) -> Made:
        """The recording changed, or the take that fits its prompt best, as the single commands make them."""
        task = item.task
        source = None if task is None else task.read()

        def make(recipe: Recipe, watch: Watch) -> "Generation | Edited":
            if task is not None and source is not None:
                return task.make(self.pipeline, source, recipe, watch)
            return self.pipeline.generate([recipe.prompt], recipe.settings, [recipe.seed], negatives=[recipe.negative],
                                          says=[recipe.say], watch=watch)

        tag: dict[str, Any] = {}
        entry: Entry = {}
        if item.candidates == 1:
            take = make(item.recipe, watch)
        else:
            self.ranker = self.ranker or rank.load_ranker(item.ranker, self.pipeline)
            found, scores = rank.candidates(make, self.ranker, item.recipe, item.candidates, watch)
            k = rank.best(scores)
            take, told = found[k], {"score": round(scores[k], 6), "candidates": item.candidates}
            tag, entry = told | {"seed": item.recipe.seed + k, "ranker": self.ranker.name}, told | {"kept": item.recipe.seed + k}
        if task is None or source is None:
            return Made([take.audio[0]], take.sample_rate, tag, entry, drafts=getattr(take, "drafts", ()))
        return Made([take.audio], take.sample_rate, task.tag(take.settings) | tag, entry, source.subtype)

    def _write(self, items: list[Item], missing: list[Item], found: "Made | Exception", size: int) -> None:
        for item in missing:
            if isinstance(found, Exception):
                entry = item.as_dict() | {"error": str(found).rstrip(".")}
            else:
                entry = item.as_dict() | self._store(item, found, items.index(item))
                entry |= {"batch_limit": size} if size < self.plan.size else {}      # for a run that goes on after this
            self.out.add(entry)
            self.made += 1
            self.watch(self.made)
            self.tell(entry)

    def _store(self, item: Item, found: Made, index: int) -> dict[str, Any]:
        path, wave = self.folder / item.file, found.waves[index]  # (S,) or (C, S)
        if self.spectrogram:
            from audiogen.plot import write_spectrogram

            mono = wave if wave.ndim == 1 else wave.mean(0)      # (S,)
            write_spectrogram(path.with_suffix(".png"), mono.numpy(), found.sample_rate, item.recipe.prompt)
        dtype = str(self.pipeline.dtype).removeprefix("torch.")
        recipe = {"command": "generate", "id": item.id} | item.recipe.as_dict() | {"dtype": dtype} | found.tag
        draft = {"draft": found.drafts[index]} if found.drafts else {}
        audio.write(path, wave, found.sample_rate, recipe | draft, subtype=found.subtype)
        manifest.sync(self.folder)
        return {"sample_rate": found.sample_rate, "seconds": round(wave.shape[-1] / found.sample_rate, 6)} | draft | found.entry


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
