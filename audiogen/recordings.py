"""Lines of a list that change a recording: what they ask for, and making it. Shapes: C channels, S samples."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiogen import audio
from audiogen.diffusion.sampling import Watch
from audiogen.edit import paint
from audiogen.edit.places import Span, check_spans, read_span
from audiogen.errors import SettingsError
from audiogen.prompts import Row
from audiogen.recipe import Recipe
from audiogen.settings import Settings

if TYPE_CHECKING:
    from audiogen.pipeline import Pipeline

STRENGTH = 0.5                                                   # of a line that names neither strength nor span


@dataclass(frozen=True)
class Change:
    """A recording, and what is made of it: spans or a band are painted anew, or all of it becomes like the prompt."""

    input: str                                                   # as the list has it
    path: Path
    digest: str                                                  # of the file: another recording makes another sound
    strength: float | None = None
    spans: tuple[Span, ...] = ()
    band: Span | None = None                                     # Hz, of what is painted

    @property
    def command(self) -> str:
        return "edit" if self.strength is not None else "inpaint"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest and for a tag."""
        how: dict[str, Any] = {"input": self.input, "input_digest": self.digest}
        if self.strength is not None:
            return how | {"strength": self.strength}
        return how | {"spans": [list(s) for s in self.spans]} | ({"band": list(self.band)} if self.band else {})

    def tag(self, settings: Settings) -> dict[str, Any]:
        """What the file says beside its recipe, of which every setting is decided."""
        return {"command": self.command} | settings.as_dict() | self.as_dict()

    def read(self) -> audio.Recording:
        """The recording; raises AudioError."""
        return audio.read_recording(self.path)

    def make(self, pipeline: "Pipeline", found: audio.Recording, recipe: Recipe, watch: Watch) -> paint.Edited:
        """The recording changed, (C, S) at its own rate; raises AudiogenError."""
        order = paint.Order(recipe.prompt, recipe.settings, recipe.seed, recipe.negative, recipe.say)
        if self.strength is None:
            return paint.inpaint(pipeline, found.wave, found.rate, order, self.spans, self.band, watch)
        return paint.edit(pipeline, found.wave, found.rate, order, self.strength, watch)


def read_change(row: Row, folder: Path) -> Change | None:
    """What a line asks of a recording, whose name is relative to `folder`; None for a line without one.

    Raises SettingsError or AudioError for what cannot be done, naming the column.
    """
    if row.input is None:
        return None
    path = folder / row.input
    try:
        seconds = audio.duration(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise SettingsError(f"the input {path} cannot be read ({error.strerror})") from None
    if row.span is not None or row.band is not None:
        band = None if row.band is None else read_span(row.band, "band", "Hz")
        spans = check_spans([read_span(s) for s in (row.span or "").split(";") if s.strip()], seconds)
        if not spans and band is None:
            raise SettingsError("the span is empty; write BEGIN-END in seconds, as in 2.5-4")
        return Change(row.input, path, digest, spans=tuple(spans), band=band)
    strength = STRENGTH if row.strength is None else row.strength
    paint.check_share(strength, "strength")
    return Change(row.input, path, digest, strength)
