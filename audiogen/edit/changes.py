"""What is done to a recording, as a command or a line of a list asks for it: checked, told, and made.

Shapes: C channels, S samples.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from audiogen.diffusion.sampling import Watch, ignore
from audiogen.edit import paint
from audiogen.edit.paint import Edited, Order
from audiogen.edit.places import Span, check_spans
from audiogen.errors import SettingsError
from audiogen.pipeline import Pipeline


@dataclass(frozen=True)
class Change(ABC):
    """One of the ways to change a recording; its fields are the options of the command of that name."""

    command: ClassVar[str]
    bare: ClassVar[bool] = False                                 # it does without a prompt

    @abstractmethod
    def check(self, seconds: float) -> None:
        """Raises SettingsError for what cannot be done to a recording of so many seconds."""

    @abstractmethod
    def make(self, pipeline: Pipeline, wave: Tensor, rate: int, order: Order, watch: Watch = ignore) -> Edited:
        """The recording (C, S) changed, at its own rate; raises AudiogenError."""

    def as_dict(self) -> dict[str, Any]:
        """For a manifest and for a tag: as JSON gives it back, without what was not given."""
        told = json.loads(json.dumps({"command": self.command} | asdict(self)))
        return {k: v for k, v in told.items() if v is not None}


@dataclass(frozen=True)
class Edit(Change):
    """All of it becomes like the prompt."""

    command = "edit"
    strength: float = 0.5

    def check(self, seconds: float) -> None:
        paint.check_share(self.strength, "strength")

    def make(self, pipeline: Pipeline, wave: Tensor, rate: int, order: Order, watch: Watch = ignore) -> Edited:
        return paint.edit(pipeline, wave, rate, order, self.strength, watch)


@dataclass(frozen=True)
class Inpaint(Change):
    """Spans of seconds, a band of Hz, or that band within the spans are painted anew."""

    command = "inpaint"
    spans: tuple[Span, ...] = ()
    band: Span | None = None

    def check(self, seconds: float) -> None:
        if not self.spans and self.band is None:
            raise SettingsError("Nothing is to be painted; give a span in seconds, as 2.5-4, or a band in Hz, as 2000-8000.")
        check_spans(self.spans, seconds)

    def make(self, pipeline: Pipeline, wave: Tensor, rate: int, order: Order, watch: Watch = ignore) -> Edited:
        return paint.inpaint(pipeline, wave, rate, order, self.spans, self.band, watch)


@dataclass(frozen=True)
class Extend(Change):
    """It goes on after its end, begins earlier, or both: seconds that are added."""

    command = "extend"
    after: float = 0.0
    before: float = 0.0

    def check(self, seconds: float) -> None:
        paint.check_added(self.after, self.before)

    def make(self, pipeline: Pipeline, wave: Tensor, rate: int, order: Order, watch: Watch = ignore) -> Edited:
        return paint.extend(pipeline, wave, rate, order, self.after, self.before, watch)


@dataclass(frozen=True)
class Upscale(Change):
    """What it lacks above a cutoff in Hz, or above where it ends, is painted."""

    command = "upscale"
    bare = True
    cutoff: float | None = None

    def check(self, seconds: float) -> None:
        if self.cutoff is not None and not self.cutoff > 0:
            raise SettingsError(f"A cutoff of {self.cutoff:g} Hz cannot be; give the Hz above which to paint, as 4000.")

    def make(self, pipeline: Pipeline, wave: Tensor, rate: int, order: Order, watch: Watch = ignore) -> Edited:
        return paint.upscale(pipeline, wave, rate, order, self.cutoff, watch)
