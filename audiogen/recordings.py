"""Lines of a list that change a recording: what they ask for. Shapes: C channels, S samples."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiogen import audio
from audiogen.diffusion.sampling import Watch
from audiogen.edit.changes import Change, Edit, Extend, Inpaint, Upscale
from audiogen.edit.paint import Edited, Order
from audiogen.edit.places import read_span
from audiogen.errors import SettingsError
from audiogen.prompts import Row
from audiogen.recipe import Recipe
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

KINDS = (Edit, Inpaint, Extend, Upscale)
ASKED_BY: dict[str, type[Change]] = {
    "strength": Edit, "span": Inpaint, "band": Inpaint, "extend": Extend, "before": Extend, "upscale": Upscale}


@dataclass(frozen=True)
class Task:
    """A recording, and what is done to it."""

    input: str                                                   # as the list has it
    path: Path
    digest: str                                                  # of the file: another recording makes another sound
    change: Change

    def as_dict(self) -> dict[str, Any]:
        """For a manifest and for a tag."""
        return {"input": self.input, "input_digest": self.digest} | self.change.as_dict()

    def tag(self, settings: Settings) -> dict[str, Any]:
        """What the file says beside its recipe, of which every setting is decided."""
        return settings.as_dict() | self.as_dict()

    def read(self) -> audio.Recording:
        """The recording; raises AudioError."""
        return audio.read_recording(self.path)

    def make(self, pipeline: "Pipeline", found: audio.Recording, recipe: Recipe, watch: Watch) -> Edited:
        """The recording changed, (C, S) at its own rate; raises AudiogenError."""
        order = Order(recipe.prompt, recipe.settings, recipe.seed, recipe.negative, recipe.say)
        return self.change.make(pipeline, found.wave, found.rate, order, watch)


def read_task(row: Row, folder: Path) -> Task | None:
    """What a line asks of a recording, whose name is relative to `folder`; None for a line without one.

    Raises SettingsError or AudioError for what cannot be done, naming the column.
    """
    cells = dict(row.recording)
    name = cells.pop("input", None)
    if name is None:
        if cells:
            raise SettingsError(f"{next(iter(cells))} is of a recording: name it in the column input")
        return None
    if "duration" in row.settings:
        raise SettingsError("duration is that of the input: leave one of the two empty")
    for column in ("loop", "timeline"):
        if row.settings.get(column):
            raise SettingsError(f"{column} is for sounds without an input: leave one of the two empty")
    change, path = _change(cells), folder / name
    try:
        seconds = audio.duration(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise SettingsError(f"the input {path} cannot be read ({error.strerror})") from None
    change.check(seconds)
    return Task(name, path, digest, change)


def _change(cells: dict[str, Any]) -> Change:
    """The one change that the cells ask for; without any, an edit. Raises SettingsError."""
    asked = {ASKED_BY[column]: column for column in cells}
    if len(asked) > 1:
        (one, column), (two, other) = list(asked.items())[:2]
        raise SettingsError(f"{column} asks for `{one.command}` and {other} for `{two.command}`: leave one of the two empty")
    kind = next(iter(asked), Edit)
    if kind is Inpaint:
        band = None if "band" not in cells else read_span(cells["band"], "band", "Hz")
        return Inpaint(tuple(sorted(read_span(s) for s in cells.get("span", "").split(";") if s.strip())), band)
    if kind is Extend:
        return Extend(cells.get("extend", 0.0), cells.get("before", 0.0))
    if kind is Upscale:
        return Upscale(None if cells["upscale"] is True else cells["upscale"])
    return Edit(**cells)
