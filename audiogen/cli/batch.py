"""`audiogen batch`: a list of prompts to a folder of sounds."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audiogen.cli import console, options, takes
from audiogen.errors import SettingsError
from audiogen.prompts import Fault, Listing, read_list
from audiogen.recipe import Recipe
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.batch import Item, Plan

LIST = "The list"                                                # a heading of help


@options.filled(options.wanted)
def batch(
    source: Annotated[str, typer.Argument(
        metavar="FILE", help="A list of prompts: .txt, .csv, .tsv or .jsonl; - is stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="For sounds and manifest.jsonl.",
                                      rich_help_panel=LIST)],
    list_format: Annotated[str | None, typer.Option(
        help="txt, csv, tsv or jsonl.", show_default="by the name; of stdin, txt or jsonl",
        rich_help_panel=LIST)] = None,
    count: Annotated[int, typer.Option("--count", "-c", help="Takes of a line that does not say.",
        rich_help_panel=LIST)] = 1,
    seed: Annotated[int, typer.Option(
        "--seed", "-s", help="A line without a seed draws its own from this and its id.", rich_help_panel=LIST)] = 0,
    duration: options.Duration = None,
    drafts: options.Drafts = None,
    loop: takes.Loop = None,
    candidates: takes.Candidates = 1,
    ranker: takes.RankerName = None,
    batch_size: Annotated[str, typer.Option(
        help="Sounds that a GPU makes at once, all of one length: a number, or auto (16); halved where memory runs out.",
        rich_help_panel=options.NUMERICS)] = "auto",
    overwrite: Annotated[bool, typer.Option(
        "--overwrite", help="Make again what lies in the folder and was made with other settings.",
        rich_help_panel=options.OUTPUT)] = False,
    wanted: options.Wanted = options.NOTHING,
) -> None:
    """Generate a sound for every line of a list. Stopped at any moment and run again, it goes on where it was.

    A .txt has a prompt a line; the others have a column `prompt` and may have `id`, `seed`,
    `negative`, `say`, `duration`, `steps`, `guidance`, `sampler`, `loop`, `timeline` (yes where the prompt is one),
    `candidates` and `count`; options stand in for what a line leaves out. manifest.jsonl in the folder records each sound
    once: id, file, prompt, seed, settings and seconds, or the error. Bad lines are reported with their numbers, the others
    are made, and the exit code is 1.

    With an `input` (a sound file, relative to the list) a line changes that recording, in one way: `span` ("2.5-4; 6-7")
    or `band` ("2000-8000", in Hz) is painted anew; it goes on for `extend` seconds, or begins `before` as many; its missing
    upper band is painted (`upscale`: yes, or the Hz where that begins; the prompt may be empty); or all of it becomes like
    the prompt, by `strength` (0.5).

    A sound that was made with other settings is an error, unless you say --overwrite. Sounds without an id are known by
    what their line says: a line that comes in changes no other sound.
    """
    base = wanted.change(Recipe("-", seed, Settings(), "everyday"), duration=duration, drafts=drafts, loop=loop).check()
    takes.Takes(candidates, ranker=ranker if candidates > 1 else None).check()
    size = _size(batch_size)
    kind = options.check_format(wanted.format) if wanted.format else "wav"
    if not 1 <= count <= 1000:
        raise SettingsError(f"A count of {count} is out of range; give 1 to 1000.")
    options.set_hub(wanted.offline, wanted.quiet)
    read = partial(read_list, source, list_format and list_format.lower().removeprefix("."), count)
    from audiogen import batch as work
    from audiogen import distributed, hub

    where, folder = ("standard input", Path()) if source == "-" else (source, Path(source).parent)
    expand = partial(work.expand, suffix=kind, folder=folder, candidates=candidates, ranker=ranker)
    show = Show(where, overwrite, wanted.spectrogram, wanted.quiet or distributed.rank() > 0, wanted.as_json)
    with distributed.joined(hub.pick_device(wanted.device), timedelta(days=30)) as own_device:
        failed = _run(read, expand, base, out, size, own_device, show)
    if failed and distributed.rank() == 0:                       # torchrun stops all at the first that fails
        raise typer.Exit(1)


def _size(text: str) -> int | None:
    """A batch size, None for "auto"; raises SettingsError."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise SettingsError(f"A batch size of '{text}' cannot be; give auto, or 1 to 4096.")
    return int(text)


@dataclass(frozen=True)
class Show:
    """What a batch may do, and what it says."""

    source: str
    overwrite: bool
    spectrogram: bool
    quiet: bool
    as_json: bool


def _run(read: Callable[[], Listing], expand: Callable[[Listing, Recipe], "tuple[list[Item], list[Fault]]"], base: Recipe,
         out: Path, size: int | None, device: str, show: Show) -> int:
    """Make the list; returns how many of its sounds and lines failed."""
    from audiogen import batch as work
    from audiogen import distributed, manifest
    from audiogen.checkpoint import read_usable_config

    def prepare() -> "Plan":
        listing = read()
        if listing.unused:
            console.note(f"Note: columns without a meaning here: {', '.join(listing.unused)}.", show.quiet)
        config = read_usable_config(options.fetch(base.model, show.quiet))
        full = replace(base, settings=base.settings.with_defaults(config.defaults))
        items, faults = expand(listing, full)
        options.prepare_folder(out)
        stack.enter_context(manifest.locked(out))
        for fault in faults:
            console.note(f"{show.source}, line {fault.line}: {fault.message}.")
        return work.plan(out, items, faults, size or work.AUTO_SIZES[device.split(":")[0]], show.overwrite)

    with ExitStack() as stack:
        plan = distributed.first(prepare)
        if plan.done:
            console.note(f"{len(plan.done)} of {len(plan.items)} are there already.", show.quiet)
        _make(plan, base, out, device, show)
        entries = distributed.first(lambda: work.finish(out, plan))
    failed = sum("error" in entry for entry in entries)
    made = len(entries) - failed
    if not show.quiet and not show.as_json:
        told = f", {failed} failed" if failed else ""
        console.say(f"{out / manifest.NAME}: {made} sound{'s' * (made != 1)}{told}")
    return failed


def _make(plan: "Plan", base: Recipe, out: Path, device: str, show: Show) -> None:
    """This process's share of the groups, one group after another."""
    from audiogen import batch as work
    from audiogen import distributed, hub, manifest

    groups = plan.groups()[distributed.rank() :: distributed.world()]
    if not groups:
        return
    with console.progress(f"loading {base.model}", show.quiet):
        pipeline = hub.load(base.model, device, base.dtype)
    options.note_format(pipeline, show.quiet)
    total = sum(item.id not in plan.done for group in groups for item in group)

    def tell(entry: dict[str, Any]) -> None:
        if "error" in entry:
            console.note(f"'{entry['id']}' was not made: {entry['error']}.")
        elif show.as_json:
            console.say_json(entry)

    path = manifest.part(out, distributed.rank(), distributed.world())
    with (manifest.Appender(path) as appender,
          console.progress("making", show.quiet, count=True) as watch):
        worker = work.Worker(pipeline, out, plan, appender,
                             lambda items: watch(items, total), tell, show.spectrogram)
        for group in groups:
            worker.make(group)
