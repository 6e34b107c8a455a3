"""Lines of a list that change a recording: what they ask for, and making it. Shapes: C channels, S samples."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiogen import audio
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
    """A recording, and what is made of it: spans are painted anew, or all of it becomes like the prompt."""

    input: str                                                   # as the list has it
    path: Path
    digest: str                                                  # of the file: another recording makes another sound
    strength: float | None = None
    spans: tuple[Span, ...] = ()

    @property
    def command(self) -> str:
        return "inpaint" if self.spans else "edit"

    def as_dict(self) -> dict[str, Any]:
        """For a manifest and for a tag."""
        how = {"spans": [list(s) for s in self.spans]} if self.spans else {"strength": self.strength}
        return {"input": self.input, "input_digest": self.digest, **how}

    def tag(self, settings: Settings) -> dict[str, Any]:
        """What the file says beside its recipe, of which every setting is decided."""
        return {"command": self.command} | settings.as_dict() | self.as_dict()

    def make(self, pipeline: "Pipeline", recipe: Recipe, watch: Callable[[int, int], None]) -> paint.Edited:
        """The recording changed, (C, S) at its own rate; raises AudiogenError."""
        wave, rate = audio.read(self.path, mono=False)
        order = paint.Order(recipe.prompt, recipe.settings, recipe.seed, recipe.negative, recipe.say)
        if self.spans:
            return paint.inpaint(pipeline, wave, rate, order, self.spans, watch=watch)
        assert self.strength is not None
        return paint.edit(pipeline, wave, rate, order, self.strength, watch)


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
    if row.span is not None:
        spans = check_spans([read_span(s) for s in row.span.split(";") if s.strip()], seconds)
        if not spans:
            raise SettingsError("the span is empty; write BEGIN-END in seconds, as in 2.5-4")
        return Change(row.input, path, digest, spans=tuple(spans))
    strength = STRENGTH if row.strength is None else row.strength
    paint.check_share(strength, "strength")
    return Change(row.input, path, digest, strength)
