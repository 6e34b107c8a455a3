"""Changing recordings: by a prompt (SDEdit), in spans and bands, beyond their ends, above their band.

A recording is a wave (C, S) at its own rate, float32 or float64, and is given back so. The channels are items of one batch
that share their noise; where all are equal, one is changed for all. Shapes: C channels, S samples, c x h x w latents.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.audio import resample
from audiogen.diffusion import denoiser as denoisers
from audiogen.diffusion.sampling import Watch, ignore
from audiogen.diffusion.schedule import Grid
from audiogen.edit.places import FADE, Span, check_spans, fade_mask, keep_mask, only_band, regions, upper_edge
from audiogen.errors import SettingsError
from audiogen.pipeline import Pipeline
from audiogen.settings import MAX_DURATION, Settings, check_prompt

SILENT = 1e-4                                                    # peak
GOING_ON = 4.0                                                   # noise, as levels are counted, under which a recording goes on
P = ParamSpec("P")


@dataclass(frozen=True)
class Order:
    """What to paint, and how: as for `generate`, except that the recording decides the duration."""

    prompt: str
    settings: Settings = Settings()
    seed: int = 0
    negative: str | None = None
    say: str | None = None


@dataclass(frozen=True)
class Edited:
    audio: Tensor                                                # (C, S), float32 or as the recording
    sample_rate: int                                             # Hz
    settings: Settings                                           # every one decided
    painted: slice                                               # samples, from the first that was painted to the last


def _once(change: Callable[Concatenate[Pipeline, Tensor, P], Edited]) -> Callable[Concatenate[Pipeline, Tensor, P], Edited]:
    """Of a recording whose channels are all the same, one is changed: a processor's batches are not equal to the last bit."""
    @wraps(change)
    def changed(pipeline: Pipeline, wave: Tensor, *args: P.args, **kwargs: P.kwargs) -> Edited:
        if len(wave) < 2 or not bool((wave == wave[:1]).all()):
            return change(pipeline, wave, *args, **kwargs)
        made = change(pipeline, wave[:1], *args, **kwargs)
        return replace(made, audio=made.audio.repeat(len(wave), 1))

    return changed


@torch.inference_mode()
@_once
def edit(pipeline: Pipeline, wave: Tensor, rate: int, order: Order, strength: float = 0.5, watch: Watch = ignore) -> Edited:
    """Make a recording sound like the prompt (SDEdit: Meng et al. 2022).

    Noise is put on its latents up to a share `strength` of the steps, and taken off again. 0 gives its reconstruction, 1
    what `generate` makes of the seed in one draft. Raises SettingsError for a strength outside 0-1.
    """
    check_share(strength, "strength")
    order = replace(order, prompt=check_prompt(order.prompt))
    fine = resample(wave.float(), rate, pipeline.config.mel.sample_rate)
    settings = _settle(pipeline, fine, order.settings)
    known, levels = _encode(pipeline, fine, settings), pipeline.levels(settings)
    count = len(levels.steps)
    taken = 0 if strength == 0 else max(1, round(strength * count))
    latents = known
    if taken:
        draw = pipeline.noise(settings, [order.seed] * len(wave))
        part, x = _begun(known, draw(), levels, count - taken)
        denoise = pipeline.long(_denoiser(pipeline, order, len(wave), settings), settings)
        latents = pipeline.walk(denoise, part, x, draw, settings, watch)
    sound = _back(pipeline, pipeline.decode(latents), rate, wave.shape[-1])
    return Edited(sound * _gain(sound, wave), rate, settings, slice(wave.shape[-1]))


@torch.inference_mode()
@_once
def inpaint(pipeline: Pipeline, wave: Tensor, rate: int, order: Order, spans: Sequence[Span], band: Span | None = None,
            watch: Watch = ignore) -> Edited:
    """Paint spans of a recording anew, in seconds, and there only a band of Hz, if one is given.

    Outside them the recording's own samples stay; the two cross-fade over 10 ms inside each span. Raises SettingsError for
    spans that lie outside the recording or overlap.
    """
    order = replace(order, prompt=check_prompt(order.prompt))
    seconds = wave.shape[-1] / rate
    if band is not None and not spans:
        spans = [(0.0, seconds)]
    return _paint(pipeline, wave, rate, order, check_spans(spans, seconds), band, watch)


@torch.inference_mode()
@_once
def extend(pipeline: Pipeline, wave: Tensor, rate: int, order: Order, after: float = 0.0, before: float = 0.0,
           watch: Watch = ignore) -> Edited:
    """Continue a recording by `after` seconds, and let it begin `before` seconds earlier; its own samples stay.

    What is added begins as the recording, mirrored at its end, under noise that leaves little but level and texture: they go
    on. The model hears it as loud as what it learnt from. Raises SettingsError if there is nothing to add.
    """
    order = replace(order, prompt=check_prompt(order.prompt))
    check_added(after, before)
    left, right, own = round(before * rate), round(after * rate), wave.shape[-1]
    around = [_mirrored(wave.flip(-1), left).flip(-1), wave, _mirrored(wave, right)]
    fade = min(FADE, own / rate / 4)
    spans = [(0.0, left / rate + fade)] * bool(left) + [((left + own) / rate - fade, (left + own + right) / rate)] * bool(right)
    near = math.ceil(pipeline.window * pipeline.step / pipeline.config.mel.sample_rate * rate)
    ends = torch.cat([wave[:, : near * bool(left)], wave[:, max(0, own - near * bool(right)) :]], dim=-1)
    return _paint(pipeline, torch.cat(around, dim=-1), rate, order, spans, None, watch, GOING_ON, _loudness(pipeline, ends))


@torch.inference_mode()
@_once
def upscale(pipeline: Pipeline, wave: Tensor, rate: int, order: Order, cutoff: float | None = None,
            watch: Watch = ignore) -> Edited:
    """Paint what a dull recording lacks above `cutoff` Hz (where it ends, if that is not given), up to the model's band.

    The result has the model's rate where the recording's is lower. Without a prompt there is no guidance. Raises
    SettingsError where there is nothing to add.
    """
    mel = pipeline.config.mel
    if cutoff is None and not wave.any():
        raise SettingsError("The recording is silent: it does not show where its band ends; say the cutoff, in Hz.")
    cutoff = upper_edge(wave, rate) if cutoff is None else cutoff
    top = min(mel.fmax, mel.sample_rate / 2)
    if not 0 < cutoff < 0.95 * top:
        raise SettingsError(f"Above {cutoff:.0f} Hz this model, which reaches {top:.0f} Hz, has nothing to add; "
                            "a lower cutoff paints the recording over.")
    if not order.prompt.strip():
        order = replace(order, prompt="", negative=None, settings=replace(order.settings, guidance=1.0))
    fine = max(rate, mel.sample_rate)
    wave = resample(wave, rate, fine)
    return _paint(pipeline, wave, fine, order, [(0.0, wave.shape[-1] / fine)], (cutoff, fine / 2), watch)


def check_share(value: float, name: str) -> None:
    """Raises SettingsError for a value outside 0-1."""
    if not 0 <= value <= 1:
        raise SettingsError(f"A {name} of {value:g} is out of range; give 0 to 1.")


def check_added(after: float, before: float) -> None:
    """Raises SettingsError for seconds that cannot be added to a recording."""
    if min(after, before) < 0 or not 0 < after + before <= MAX_DURATION:
        raise SettingsError(f"A recording cannot be extended by {before:g} s before and {after:g} s after it; give above 0 and "
                            f"at most {MAX_DURATION:g} in all.")


def _paint(pipeline: Pipeline, wave: Tensor, rate: int, order: Order, spans: Sequence[Span], band: Span | None,
           watch: Watch, under: float = math.inf, gain: float = 1.0) -> Edited:
    """The recording with what is painted in its spans and band; the model hears the spans and what is around them.

    It hears them `gain` times as loud, and begins from what is in the spans `under` noise of that level, or from noise alone.
    """
    model, step = pipeline.config.mel.sample_rate, pipeline.step
    fine = gain * resample(wave.float(), rate, model)            # (C, S')
    settings = _settle(pipeline, fine, order.settings)
    grain = model // math.gcd(model, step * rate)                # latent frames that are whole samples of the recording
    parts = regions(spans, math.ceil(fine.shape[-1] / step), pipeline.window, model / step, grain)
    mask, result = fade_mask(spans, wave.shape[-1], rate), wave.clone()
    for k, (a, b) in enumerate(parts):
        def tell(done: int, total: int, k: int = k) -> None:
            watch(k * total + done, len(parts) * total)

        begin, end = a * step / model, b * step / model          # seconds
        inside = [(s - begin, e - begin) for s, e in spans if begin <= s < end]
        part, place = fine[:, a * step : b * step], slice(round(begin * rate), min(round(end * rate), wave.shape[-1]))
        latents = _fill(pipeline, part, order, settings, a, inside, band, tell, under)
        heard, sound = (_back(pipeline, x, rate, place.stop - place.start) / gain for x in (part, pipeline.decode(latents)))
        sound = sound * _restored(sound, heard, mask[place] == 0)
        change = sound * _gain(sound * (mask[place] > 0), wave) - wave[:, place]
        result[:, place] += mask[place] * (change if band is None else only_band(change, rate, band))
    touched = mask.nonzero().flatten()
    painted = slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0)
    return Edited(result, rate, settings, painted)


def _fill(pipeline: Pipeline, part: Tensor, order: Order, whole: Settings, at: int, spans: Sequence[Span], band: Span | None,
          watch: Watch, under: float) -> Tensor:
    """Latents of a part (C, S') of a recording, which begins at its latent frame `at`, with the spans painted."""
    settings = _settle(pipeline, part, whole)
    known, shape = _encode(pipeline, part, settings), pipeline.latent_shape(settings)
    keep = keep_mask(spans, band, shape, pipeline.config.mel, pipeline.config.autoencoder.factor).to(known)
    levels, seeds, frames = pipeline.levels(settings), [order.seed] * len(part), shape[pipeline.axis - 1]
    hold = int((1 - keep).amax(dim=(0, 1, 5 - pipeline.axis)).sum()) > pipeline.window           # else what is there leads
    draw = pipeline.noise(settings, seeds, hold)
    if settings.duration != whole.duration:                      # the noise of a place is that of the seed there
        assert whole.duration is not None
        beyond = frames * pipeline.step / pipeline.config.mel.sample_rate
        long = pipeline.noise(replace(whole, duration=whole.duration + beyond), seeds, hold)
        draw = lambda: long().narrow(pipeline.axis, at, frames)  # noqa: E731
    noise = draw()
    levels, x = _begun(known, noise, levels, min(int((levels.sigmas > under).sum()), len(levels.steps) - 1))
    x = torch.lerp(x, known + noise * float(levels.sigmas[0]), keep)
    denoise = pipeline.long(_denoiser(pipeline, order, len(part), settings), settings)
    return pipeline.walk(denoisers.inpaint(denoise, known, keep), levels, x, draw, settings, watch)


def _begun(known: Tensor, noise: Tensor, levels: Grid, skipped: int) -> tuple[Grid, Tensor]:
    """The levels without the first ones, and x to walk them from: what is known under noise; on all levels noise alone."""
    if not skipped:
        return levels, noise * levels.initial
    levels = levels.part(skipped)
    return levels, known + noise * float(levels.sigmas[0])


def _settle(pipeline: Pipeline, wave: Tensor, settings: Settings) -> Settings:
    """Settings for the duration of a wave (C, S) at the model's rate."""
    seconds = wave.shape[-1] / pipeline.config.mel.sample_rate
    return pipeline.settle(replace(settings, duration=seconds, loop=False, timeline=False, drafts=1))


def _encode(pipeline: Pipeline, wave: Tensor, settings: Settings) -> Tensor:
    """The latents (C, c, h, w) of a wave (C, S) at the model's rate, as many as `generate` would make."""
    samples = pipeline.latent_shape(settings)[pipeline.axis - 1] * pipeline.step
    return pipeline.encode(F.pad(wave, (0, samples - wave.shape[-1])))


def _denoiser(pipeline: Pipeline, order: Order, channels: int, settings: Settings) -> denoisers.Denoise:
    return pipeline.denoiser([order.prompt] * channels, [order.negative] * channels, [order.say] * channels, settings,
                             pipeline.levels(settings))


def _back(pipeline: Pipeline, wave: Tensor, rate: int, samples: int) -> Tensor:
    """Waves (C, S') at the model's rate as (C, S) of so many samples at `rate`."""
    wave = resample(wave, pipeline.config.mel.sample_rate, rate)
    return F.pad(wave, (0, max(0, samples - wave.shape[-1])))[:, :samples]


def _gain(sound: Tensor, wave: Tensor) -> float:
    """What keeps a sound (C, S) from clipping: within full scale, or as loud as a wave that goes beyond it."""
    return min(1.0, max(1.0, float(wave.abs().max())) / max(float(sound.abs().max()), 1e-9))


def _loudness(pipeline: Pipeline, wave: Tensor) -> float:
    """How many times as loud a wave (C, S) has the peak of what the model learnt from, if that is known."""
    peak, own = pipeline.config.defaults.peak, float(wave.abs().max())
    return peak / own if peak is not None and own > SILENT else 1.0


def _restored(sound: Tensor, wave: Tensor, kept: Tensor) -> float:
    """What makes up for the loudness that a wave (C, S) lost or gained in the networks, as the samples kept (S,) tell.

    1 where that is more than 6 dB: it is not known then what they made of it.
    """
    before, after = (float(x[:, kept].double().norm()) for x in (wave, sound))
    return before / after if 0.5 * after < before < 2 * after else 1.0


def _mirrored(wave: Tensor, samples: int) -> Tensor:
    """What goes on after the end of a wave (C, S): it backwards, forwards, backwards, ... (C, samples)"""
    n = wave.shape[-1]
    at = torch.arange(samples) % (2 * n)
    return wave[:, torch.maximum(n - 1 - at, at - n)]
