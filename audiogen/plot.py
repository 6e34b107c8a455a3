"""Pictures of sounds: a spectrogram with its waveform as PNG, and a page of them with players."""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audiogen.errors import AudioError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Array = NDArray[Any]

WIDTH, WAVE, HEIGHT = 800, 48, 288                               # pixels: the picture's plane, its two parts
LEFT, RIGHT, TOP, GAP, BOTTOM = 64, 20, 34, 6, 40                # pixels around and between
PANEL, NAME = 72, 24                                             # pixels of a word's map, and of the line above it
RANGE = 80.0                                                     # dB from the brightest to black
QUIETEST = -40.0                                                 # dB of a full-scale sine: a peak below it stays dark

INK, PALE, PAPER = (40, 40, 48), (140, 140, 150), (255, 255, 255)
COLOURS = np.array([                                             # from silence to the peak, evenly lighter
    (6, 4, 18), (27, 14, 61), (66, 18, 102), (108, 28, 110), (152, 42, 104), (194, 60, 88),
    (228, 88, 62), (246, 128, 36), (252, 174, 42), (250, 220, 96), (254, 252, 210)], np.float64)


def mel(hertz: Array | float) -> Array:
    """Hz -> mels (O'Shaughnessy 1987)"""
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz) / 700))


def hertz(mels: Array | float) -> Array:
    """Mels -> Hz, the inverse of `mel`"""
    return np.asarray(700 * (10 ** (np.asarray(mels) / 2595) - 1))


def spectrogram(audio: Array, sample_rate: int, columns: int, rows: int) -> Array:
    """Power in dB of a full-scale sine on a mel axis, (rows, columns), highest frequency first; audio (S,).

    A row is the mean of its band, so noise of an even spectrum looks even; a column is the loudest of its frames.
    """
    n = 1 << round(np.log2(sample_rate * 0.046))                 # samples of the window, near 46 ms
    hop = max(1, min(len(audio) // columns, n // 2))
    taper = np.hanning(n + 1)[:-1].astype(np.float32)
    padded = np.pad(np.asarray(audio, np.float32), (n // 2, n // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n)[::hop]
    power = np.empty((len(frames), n // 2 + 1), np.float32)
    for at in range(0, len(frames), 512):                        # a block at a time: hours of sound fit in memory
        power[at:at + 512] = np.square(np.abs(np.fft.rfft(frames[at:at + 512] * taper)) * 2 / taper.sum())
    place = np.linspace(0, len(power), columns + 1)              # columns show the loudest of their frames
    start = np.minimum(place[:-1].astype(int), len(power) - 1)
    power = np.maximum.reduceat(power, start, axis=0) if len(power) >= columns else power[start]
    centres = hertz(np.linspace(0, mel(sample_rate / 2), rows + 2))                # (rows + 2,)
    bins = np.linspace(0, sample_rate / 2, n // 2 + 1)
    reach = np.maximum((centres[2:] - centres[:-2]) / 2, bins[1])[:, None]         # no narrower than the transform
    weight = np.maximum(0, 1 - np.abs(bins - centres[1:-1, None]) / reach)         # (rows, n / 2 + 1)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.asarray(10 * np.log10(power @ weight.T.astype(np.float32) + 1e-12).T[::-1])


def colour(level: Array) -> Array:
    """level (h, w) from 0 to 1 -> (h, w, 3) bytes"""
    table = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(COLOURS)), COLOURS[:, i])
                      for i in range(3)], axis=1).round().astype(np.uint8)
    return np.asarray(table[(level.clip(0, 1) * 255).astype(np.uint8)])


def envelope(audio: Array, columns: int, rows: int) -> Array:
    """The waveform between -1 and 1, from the least to the greatest sample of each column; (rows, columns, 3) bytes."""
    place = np.minimum((np.arange(columns) * len(audio) / columns).astype(int), len(audio) - 1)
    high, low = np.maximum.reduceat(audio, place), np.minimum.reduceat(audio, place)
    y = np.linspace(1, -1, rows)[:, None]
    half = 1 / (rows - 1)
    inside = (y <= high + half) & (y >= low - half)
    return np.where(inside[..., None], np.array((84, 44, 120)), np.array((246, 244, 250))).astype(np.uint8)


def write_spectrogram(path: Path, audio: Array, sample_rate: int, title: str = "") -> None:
    """Write a PNG of mono `audio` (S,) in [-1, 1]: its waveform over its mel-spaced spectrogram, with axes.

    The brightest colour is the loudest place of the sound and black is 80 dB under it, except that near-silence
    stays dark. Written beside and moved. Raises AudioError for no samples, or a path that cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    audio = np.nan_to_num(np.asarray(audio, np.float32))
    if audio.ndim != 1 or len(audio) == 0:
        raise AudioError(f"{path}: a picture needs a mono sound of one sample or more, found shape {audio.shape}.")
    decibels = spectrogram(audio, sample_rate, WIDTH, HEIGHT)
    peak = max(float(decibels.max()), QUIETEST)
    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + WAVE + GAP + HEIGHT + BOTTOM), PAPER)
    canvas.paste(Image.fromarray(envelope(audio.clip(-1, 1), WIDTH, WAVE)), (LEFT, TOP))
    canvas.paste(Image.fromarray(colour((decibels - peak) / RANGE + 1)), (LEFT, TOP + WAVE + GAP))
    draw = ImageDraw.Draw(canvas)
    small, large = ImageFont.load_default(12), ImageFont.load_default(15)
    _axes(draw, small, len(audio) / sample_rate, sample_rate)
    draw.text((LEFT, TOP - 10), _fit(draw, title or Path(path).stem, large), INK, large, anchor="ls")
    draw.text((LEFT + WIDTH, TOP + WAVE + GAP + HEIGHT + 34), _loudest(decibels), PALE, small, anchor="rs")
    _save(canvas, Path(path))


def write_attention(path: Path, maps: Sequence[tuple[str, Array]], middles: Array, audio: Array, sample_rate: int,
                    frames: float, title: str = "") -> None:
    """Write a PNG of words' cross-attention maps (m, t), low bands first, under the waveform of the sound (S,).

    The sound ends after `frames` of the t columns; `middles` (M,) are the model's mel bands in Hz. Each map has all the
    colours from its least to its greatest value; the two stand beside the word. Raises AudioError as `write_spectrogram`.
    """
    from PIL import Image, ImageDraw, ImageFont

    audio, top = np.nan_to_num(np.asarray(audio, np.float32)), TOP + WAVE + GAP
    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, top + len(maps) * (NAME + PANEL) + BOTTOM), PAPER)
    canvas.paste(Image.fromarray(envelope(audio.clip(-1, 1), WIDTH, WAVE)), (LEFT, TOP))
    draw = ImageDraw.Draw(canvas)
    small, large = ImageFont.load_default(12), ImageFont.load_default(15)
    draw.text((LEFT, TOP - 10), _fit(draw, title or Path(path).stem, large), INK, large, anchor="ls")
    for k, (word, part) in enumerate(maps):
        least, most = float(part.min()), float(part.max())
        y = top + k * (NAME + PANEL) + NAME
        level = Image.fromarray(np.asarray((part[::-1] - least) / max(most - least, 1e-12), np.float32))
        whole = level.resize((WIDTH, PANEL), Image.Resampling.BILINEAR, box=(0, 0, min(frames, part.shape[1]), part.shape[0]))
        canvas.paste(Image.fromarray(colour(np.asarray(whole))), (LEFT, y))
        draw.text((LEFT, y - 6), _fit(draw, word, large), INK, large, anchor="ls")
        draw.text((LEFT + WIDTH, y - 6), f"{least:.2%} to {most:.2%} of the attention", PALE, small, anchor="rs")
        for f in (250, 1000, 4000):
            if f < middles[-1]:
                at = y + PANEL * (1 - float(np.interp(f, middles, np.arange(len(middles)) + 0.5)) / len(middles))
                draw.line((LEFT - 5, at, LEFT - 1, at), PALE)
                draw.text((LEFT - 8, at), f"{f // 1000} kHz" if f >= 1000 else f"{f} Hz", INK, small, anchor="rm")
    _time(draw, small, len(audio) / sample_rate, top + len(maps) * (NAME + PANEL))
    _save(canvas, Path(path))


def _save(canvas: "Image", path: Path) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        canvas.save(beside, format="PNG", compress_level=4)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise AudioError(f"{path}: the picture cannot be written ({error.strerror or error}).") from None


def _axes(draw: "ImageDraw", font: "FreeTypeFont | ImageFont", seconds: float, sample_rate: int) -> None:
    """Ticks and names: time below, frequency on the left."""
    top, bottom = TOP + WAVE + GAP, TOP + WAVE + GAP + HEIGHT
    rows = mel(sample_rate / 2)
    for f in (125, 250, 500, 1000, 2000, 4000, 8000, 16_000):
        y = bottom - float(mel(f) / rows) * HEIGHT
        if f <= sample_rate / 2 and (f >= 250 or sample_rate < 12_000):
            draw.line((LEFT - 5, y, LEFT - 1, y), PALE)
            draw.text((LEFT - 8, y), f"{f // 1000} kHz" if f >= 1000 else f"{f} Hz", INK, font, anchor="rm")
    _time(draw, font, seconds, bottom)
    draw.rectangle((LEFT - 1, top - 1, LEFT + WIDTH, bottom), outline=PALE)


def _time(draw: "ImageDraw", font: "FreeTypeFont | ImageFont", seconds: float, bottom: int) -> None:
    """Ticks of seconds under a plane that ends at `bottom`."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 1e9) if seconds / s <= 10)
    digits = max(0, -int(np.floor(np.log10(step)))) if step < 1 else 0
    for k in range(int(seconds / step + 1e-6) + 1):
        x = LEFT + k * step / seconds * WIDTH
        draw.line((x, bottom, x, bottom + 4), PALE)
        draw.text((x, bottom + 8), f"{k * step:.{digits}f}", INK, font, anchor="mt")
    draw.text((LEFT, bottom + 34), "seconds", PALE, font, anchor="ls")


def _loudest(decibels: Array) -> str:
    peak = float(decibels.max())
    return f"peak {peak:.0f} dB" if peak > -100 else "silence"


def _fit(draw: "ImageDraw", text: str, font: "FreeTypeFont | ImageFont") -> str:
    """`text` on one line, cut at the picture's width."""
    text = " ".join(text.split())
    while draw.textlength(text, font=font) > WIDTH:
        text = text[:-2].rstrip("…") + "…"
    return text


@dataclass(frozen=True)
class Sound:
    """One sound on a page: paths are relative to the page's folder."""

    caption: str
    audio: str
    picture: str


_STYLE = """body{font:15px/1.45 system-ui,sans-serif;color:#28282f;background:#faf9fc;margin:2rem auto;max-width:1500px;
padding:0 1rem}h1{font-size:1.5rem}section{background:#fff;border:1px solid #e4e2ea;border-radius:8px;margin:1rem 0;
padding:.8rem 1rem}h2{font-size:1.05rem;margin:.1rem 0 .6rem}.row{display:flex;flex-wrap:wrap;gap:1rem}
figure{flex:1 1 420px;margin:0;min-width:280px}figcaption{color:#66646f;font-size:.85rem;margin-bottom:.2rem}
img{width:100%;height:auto}audio{width:100%;height:34px}table{border-collapse:collapse}td,th{padding:.15rem 1rem
.15rem 0;text-align:left;border-bottom:1px solid #eceaf1}td.n{text-align:right;font-variant-numeric:tabular-nums}"""


def write_page(path: Path, title: str, rows: Sequence[tuple[str, Sequence[Sound]]], head: str = "") -> None:
    """Write a page of sounds to look at and listen to: each row is a heading and its sounds side by side.

    `head` is HTML put under the title as it is; everything else is escaped. No script, no font, nothing from elsewhere.
    """
    from urllib.parse import quote

    parts = []
    for heading, sounds in rows:
        figures = "".join(
            f'<figure><figcaption>{html.escape(s.caption)}</figcaption>'
            f'<img loading="lazy" src="{quote(s.picture)}" alt="spectrogram: {html.escape(s.caption)}">'
            f'<audio controls preload="none" src="{quote(s.audio)}"></audio></figure>' for s in sounds)
        parts.append(f'<section><h2>{html.escape(heading)}</h2><div class="row">{figures}</div></section>')
    page = (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
            f'<h1>{html.escape(title)}</h1>{head}{"".join(parts)}</html>\n')
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)
