"""A sound told in time: "0-6: rain on leaves; 4-9: thunder; 9-20: birds after the rain"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from audiogen.errors import SettingsError

PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)\s*:\s*(\S.*?)\s*", re.DOTALL)
FADE = 0.5                                                       # seconds from one prompt to the next


@dataclass(frozen=True)
class Segment:
    """What sounds from `begin` to `end`, in seconds."""

    begin: float
    end: float
    prompt: str


def read_timeline(text: str) -> list[Segment]:
    """The segments of a timeline, by their beginnings; they may overlap, and all time must be told.

    Raises SettingsError with the place in the text that cannot be understood.
    """
    segments, at = [], 0
    for part in text.split(";"):
        where = f"'{' '.join(part.split())[:60]}' (character {at + len(part) - len(part.lstrip()) + 1} of the timeline)"
        at += len(part) + 1
        if not part.strip():
            continue
        match = PART.fullmatch(part)
        if match is None:
            raise SettingsError(f"{where} is no part of a timeline; write BEGIN-END: PROMPT in seconds, as in \"0-6: rain; "
                                "6-9: thunder\".")
        segment = Segment(float(match[1]), float(match[2]), " ".join(match[3].split()))
        if segment.end <= segment.begin:
            raise SettingsError(f"{where} ends before it begins.")
        segments.append(segment)
    if not segments:
        raise SettingsError("The timeline is empty; write \"0-6: rain; 6-9: thunder\".")
    segments.sort(key=lambda s: s.begin)
    told = 0.0
    for segment in segments:
        if segment.begin > told:
            raise SettingsError(f"The timeline says nothing from {told:g} to {segment.begin:g} s; "
                                "let a part go on, or begin earlier.")
        told = max(told, segment.end)
    return segments


def duration_of(segments: Sequence[Segment]) -> float:
    """Seconds."""
    return max(s.end for s in segments)


def shares(segments: Sequence[Segment], frames: int, rate: float) -> list[list[float]]:
    """Each segment's share of each frame, `rate` of them a second: they add up to 1 and fade over half a second."""
    last = duration_of(segments)
    times = [(k + 0.5) / rate for k in range(frames)]
    raw = []
    for s in segments:
        begin = -1e9 if s.begin <= 0 else s.begin
        end = 1e9 if s.end >= last else s.end                    # what sounds last goes on to the end of the last frame
        raw.append([_step((t - begin) / FADE + 0.5) * _step((end - t) / FADE + 0.5) for t in times])
    totals = [sum(column) for column in zip(*raw, strict=True)]
    return [[value / total for value, total in zip(row, totals, strict=True)] for row in raw]


def _step(x: float) -> float:
    """From 0 at 0 to 1 at 1, smoothly."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)
