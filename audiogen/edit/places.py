"""Parts of a recording in time and in frequency: spans as people write them, the masks they become, and the cross-fades.

Shapes: C channels, S samples, h x w latents.
"""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from audiogen.config import MelConfig
from audiogen.errors import SettingsError

FADE = 0.01                                                      # seconds from a recording to what is painted into it
SLOPE = 0.05                                                     # of a band's edge: width over frequency
Span = tuple[float, float]                                       # begin, end: seconds, or Hz


def read_span(text: str, what: str = "span", unit: str = "seconds") -> Span:
    """"2.5-4" as numbers; raises SettingsError."""
    match = re.fullmatch(r"\s*(\d*\.?\d+|\d+\.)\s*-\s*(\d*\.?\d+|\d+\.)\s*", text)
    if match is None:
        example = "2.5-4" if what == "span" else "2000-8000"
        raise SettingsError(f"'{text}' is no {what}; write BEGIN-END in {unit}, as in {example}.")
    begin, end = float(match[1]), float(match[2])
    if end <= begin:
        raise SettingsError(f"The {what} '{text}' ends before it begins.")
    return begin, end


def check_spans(spans: Sequence[Span], seconds: float) -> list[Span]:
    """The spans in order. Raises SettingsError for one outside a recording of `seconds`, and for two that overlap."""
    for begin, end in spans:
        if not 0 <= begin < end <= seconds + 0.005:              # as the length is usually shown
            raise SettingsError(f"The span {begin:g}-{end:g} s lies outside the recording, which has 0-{seconds:.2f} s.")
    ordered = sorted(spans)
    for (a, b), (c, d) in zip(ordered, ordered[1:], strict=False):
        if c < b:
            raise SettingsError(f"The spans {a:g}-{b:g} and {c:g}-{d:g} s overlap; write them as one.")
    return ordered


def regions(spans: Sequence[Span], frames: int, window: int, per_second: float, grain: int = 1) -> list[tuple[int, int]]:
    """Latent frames [begin, end) of a recording that hold its spans and what a model should hear around them.

    One window, where half of it is enough for the span; a longer span has a quarter of one on each side. Those that meet
    are one. Each begins at a multiple of `grain`.
    """
    found: list[tuple[int, int]] = []
    for begin, end in spans:
        a, b = int(begin * per_second), math.ceil(end * per_second)
        size = max(window, b - a + 2 * (window // 4))
        a = max(0, min(a - (size - (b - a)) // 2, frames - size))            # at the ends it hears more of the other side
        b = min(a + size, frames)
        a -= a % grain
        if found and a <= found[-1][1]:
            a, b = found[-1][0], max(b, found.pop()[1])
        found.append((a, b))
    return found


def fade_mask(spans: Sequence[Span], samples: int, rate: int) -> Tensor:
    """1 inside the spans, 0 outside, rising within their edges where the recording goes on beyond them. (S,)"""
    mask = torch.zeros(samples)
    for begin, end in spans:
        a, b = round(begin * rate), min(round(end * rate), samples)
        n = max(1, min(round(FADE * rate), (b - a) // 2))
        rise = (math.pi / 2 * (torch.arange(n) + 0.5) / n).sin().square()
        mask[a:b] = 1
        if a > 0:
            mask[a : a + n] = rise[: b - a]
        if b < samples:
            mask[max(b - n, a) : b] *= rise.flip(0)[-(b - a) :]
    return mask


def only_band(wave: Tensor, rate: int, band: Span) -> Tensor:
    """The part of a wave (C, S) within a band of Hz, whose edges slope inwards."""
    low, high = band
    samples = wave.shape[-1]
    spectrum = torch.fft.rfft(wave, 2 * samples)                 # twice: the filter must not wrap around
    hz = torch.fft.rfftfreq(2 * samples, 1 / rate)
    gain = torch.ones_like(hz)
    if low > 0:
        gain = gain * _ramp((hz - low) / (SLOPE * low))
    if high < rate / 2:
        gain = gain * _ramp((high - hz) / (SLOPE * high))
    return torch.fft.irfft(spectrum * gain, 2 * samples)[..., :samples]


def _ramp(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, a squared sine between."""
    return (math.pi / 2 * x.clamp(0, 1)).sin().square()


def keep_mask(spans: Sequence[Span], band: Span | None, shape: tuple[int, int, int], mel: MelConfig, factor: int) -> Tensor:
    """1 where the latents of `shape` (C, h, w) are kept, 0 where they touch a span (and the band, if any). (1, 1, h, w)"""
    time_first = mel.layout == "time"
    frames, rows = (shape[1], shape[2]) if time_first else (shape[2], shape[1])
    per_second = mel.sample_rate / (mel.hop * factor)
    painted = torch.zeros(frames)
    for begin, end in spans:
        painted[int(begin * per_second) : math.ceil(end * per_second)] = 1
    heard = torch.ones(rows)
    if band is not None:
        middle = middles(mel)
        inside = ((middle >= band[0]) & (middle <= band[1])).float()
        heard = inside.unflatten(0, (rows, factor)).amax(dim=1)  # (m,)
        if not heard.any():
            raise SettingsError(f"The model has nothing between {band[0]:g} and {band[1]:g} Hz; it hears "
                                f"{mel.fmin:g}-{mel.fmax:g} Hz.")
        heard = heard if time_first else heard.flip(0)
    mask = painted[:, None] * heard                              # (t, m)
    return 1 - (mask if time_first else mask.T)[None, None]


def middles(mel: MelConfig) -> Tensor:
    """The frequency, in Hz, at the middle of each mel filter. (M,)"""
    fine = 16 * mel.n_fft
    filters = melscale_fbanks(fine // 2 + 1, mel.fmin, mel.fmax, mel.bins, mel.sample_rate, "slaney", "slaney")
    return filters.argmax(dim=0) * (mel.sample_rate / fine)


def upper_edge(wave: Tensor, rate: int, floor: float = 60.0) -> float:
    """The highest frequency, in Hz, at which a recording (C, S) is not `floor` dB under its loudest."""
    n = min(2048, wave.shape[-1])
    taper = torch.hann_window(n)
    frames = wave.unfold(-1, n, max(n // 2, 1))                  # (C, frames, n)
    power = torch.zeros(n // 2 + 1, dtype=wave.dtype)
    for some in frames.split(1024, dim=1):                       # memory does not grow with the duration
        power += torch.fft.rfft(some * taper).abs().square().sum(dim=(0, 1))
    loud = torch.nonzero(power > power.max() * 10 ** (-floor / 10)).flatten()
    return float(loud[-1]) * rate / n if len(loud) else 0.0
