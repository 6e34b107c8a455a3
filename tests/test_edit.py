"""Recordings that are changed: what is kept is kept to the sample, and the ends of each scale are what they say."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, relative, tiny
from torch import Tensor

from audiogen.audio import resample
from audiogen.config import MelConfig
from audiogen.edit import paint
from audiogen.edit.paint import Order, edit, extend, inpaint, upscale
from audiogen.edit.places import check_spans, fade_mask, keep_mask, middles, only_band, read_span, regions, upper_edge
from audiogen.errors import SettingsError
from audiogen.pipeline import Pipeline
from audiogen.settings import Settings

FAST = Settings(steps=3, guidance=2.0, sampler="ddim")
ORDER = Order("a dog barks", FAST, seed=3)


def recording(samples: int, channels: int = 1, seed: int = 0) -> Tensor:
    return normal(channels, samples, seed=seed) * 0.1


def model(name: str) -> Pipeline:
    """A tiny model, without the window of 10.24 s that takes long."""
    pipe = tiny(name)
    config = replace(pipe.config, defaults=replace(pipe.config.defaults, window=None))
    return Pipeline(replace(pipe.model, config=config), "cpu", torch.float32)


def changed(a: Tensor, b: Tensor) -> Tensor:
    """Samples at which two recordings differ."""
    return (a != b).any(dim=0).nonzero().flatten()


@pytest.mark.parametrize("name", ["audioldm2-tiny", "audioldm-tiny"])
def test_strength_0_is_the_reconstruction_and_1_a_generation(name: str) -> None:
    pipe, wave = tiny(name), recording(16_000)
    none, whole = (edit(pipe, wave, 16_000, ORDER, s).audio for s in (0.0, 1.0))
    assert relative(none, pipe.reconstruct(wave)) < 1e-4
    plain = pipe.generate(["a dog barks"], FAST, [3], duration=1.0).audio
    assert relative(whole, plain) < 1e-5
    other = edit(pipe, recording(16_000, seed=1), 16_000, ORDER, 1.0).audio
    assert torch.equal(other, whole)                             # it ignores the input
    half = edit(pipe, wave, 16_000, ORDER, 0.4).audio
    assert relative(half, none) > 1e-3
    assert relative(half, whole) > 1e-3
    assert relative(edit(pipe, recording(16_000, seed=1), 16_000, ORDER, 0.4).audio, half) > 1e-3


def test_edit_keeps_length_rate_and_channels() -> None:
    pipe, wave = tiny("audioldm2-tiny"), recording(30_001, 2)
    wave[1] = wave[0]
    out = edit(pipe, wave, 44_100, ORDER, 0.5)
    assert out.audio.shape == wave.shape
    assert out.sample_rate == 44_100
    assert torch.equal(out.audio[0], out.audio[1])               # equal channels stay equal
    assert out.audio.is_inference()                              # no gradients are kept
    wave[1] = recording(30_001, seed=5)[0]
    out = edit(pipe, wave, 44_100, ORDER, 0.5)
    assert relative(out.audio[0], out.audio[1]) > 1e-3
    with pytest.raises(SettingsError, match="strength of 1.5 is out of range"):
        edit(pipe, wave, 44_100, ORDER, 1.5)


@pytest.mark.parametrize(("name", "rate"), [("audioldm2-tiny", 48_000), ("auffusion-tiny", 16_000)])
def test_inpainting_keeps_the_samples_outside(name: str, rate: int) -> None:
    pipe, wave = model(name), recording(rate, 2)
    assert torch.equal(inpaint(pipe, wave, rate, ORDER, []).audio, wave) # everything kept
    out = inpaint(pipe, wave, rate, ORDER, [(0.8, 1.0), (0.3, 0.5)])
    assert out.audio.shape == wave.shape
    where = changed(out.audio, wave) / rate
    inside = ((where >= 0.3) & (where <= 0.5)) | (where >= 0.8)
    assert inside.all()
    assert len(where) > 0.39 * rate                              # and everything inside is painted
    middle = slice(int(0.35 * rate), int(0.45 * rate))
    assert relative(out.audio[:, middle], wave[:, middle]) > 0.1
    again = inpaint(pipe, wave, rate, Order("rain", FAST, 3), [(0.8, 1.0), (0.3, 0.5)])
    assert relative(again.audio[:, middle], out.audio[:, middle]) > 1e-3 or name == "auffusion-tiny"


def test_kept_latents_stay_and_painted_ones_know_them() -> None:
    """The denoiser holds what is known: through every step, so that what is painted follows from it."""
    pipe = tiny("audioldm2-tiny")
    a, b = recording(16_000), recording(16_000, seed=1)
    b[:, 6000:12_000] = a[:, 6000:12_000]                        # the same where it will be painted
    one, two = (inpaint(pipe, w, 16_000, ORDER, [(0.4, 0.7)]).audio[:, 7000:10_000] for w in (a, b))
    assert relative(one, two) > 1e-3
    assert torch.equal(one, inpaint(pipe, a, 16_000, ORDER, [(0.4, 0.7)]).audio[:, 7000:10_000])


@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny"])
def test_a_band_leaves_the_other_frequencies(name: str) -> None:
    pipe, wave = model(name), recording(44_100)
    out = inpaint(pipe, wave, 44_100, ORDER, [(0.25, 0.75)], (2000, 5000))
    change = out.audio - wave
    where = change[0].nonzero().flatten() / 44_100
    assert where.min() >= 0.25
    assert where.max() <= 0.75
    spectrum = torch.fft.rfft(change[0] * torch.hann_window(44_100)).abs()
    assert spectrum[2100:4900].mean() > 100 * spectrum[6000:].mean()
    assert spectrum[2100:4900].mean() > 100 * spectrum[:1500].mean()
    everywhere = inpaint(pipe, wave, 44_100, ORDER, [], (2000, 5000))      # a band alone: from beginning to end
    assert len(changed(everywhere.audio, wave)) > 44_000


def test_extend_keeps_what_was_there() -> None:
    pipe, wave = tiny("audioldm2-tiny"), recording(24_000, 2)
    out = extend(pipe, wave, 48_000, ORDER, after=0.5, before=0.25)
    assert out.audio.shape == (2, 60_000)
    own = changed(out.audio[:, 12_000:36_000], wave)
    assert set(own.tolist()) <= {*range(480), *range(24_000 - 480, 24_000)}   # but for the cross-fades
    assert out.audio[:, :12_000].abs().min(dim=0).values.max() > 1e-3
    after = extend(pipe, wave, 48_000, ORDER, after=0.5)
    assert torch.equal(after.audio[:, :23_500], wave[:, :23_500])
    mirrored = wave.flip(-1)[:, 1000:20_000]                     # only the encoder sees the mirrored sound
    assert relative(after.audio[:, 25_000:44_000], mirrored) > 0.5
    for given in ({"after": 0}, {"after": -1}, {"after": 5000}):
        with pytest.raises(SettingsError, match="cannot be extended"):
            extend(pipe, wave, 48_000, ORDER, **given)


def test_a_wave_goes_there_and_back() -> None:
    wave = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert paint._mirrored(wave, 8).tolist() == [[3, 2, 1, 1, 2, 3, 3, 2], [6, 5, 4, 4, 5, 6, 6, 5]]
    assert paint._mirrored(wave, 0).shape == (2, 0)
    assert paint._mirrored(wave[:, :1], 3).tolist() == [[1, 1, 1], [4, 4, 4]]


def test_what_is_added_begins_as_the_recording_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the noise is slight it is the mirrored recording, as the networks give it back; under all noise it is not."""
    pipe, wave = tiny("audioldm2-tiny"), recording(16_000)
    whole = pipe.reconstruct(torch.cat([wave.flip(-1)[:, -8000:], wave, wave.flip(-1)], dim=1))
    far = {}
    for under in (0.0, 6.0, float("inf")):
        monkeypatch.setattr(paint, "GOING_ON", under)
        out = extend(pipe, wave, 16_000, ORDER, after=1.0, before=0.5).audio
        assert torch.equal(out[:, 8200:23_800], wave[:, 200:15_800])
        far[under] = max(relative(out[:, a:b], whole[:, a:b]) for a, b in ((0, 7000), (25_000, 40_000)))
    assert far[0.0] < 0.7
    assert min(far[6.0], far[float("inf")]) > 0.95


@pytest.mark.parametrize("peak", [0.8, None])
def test_a_recording_goes_on_as_loud_as_it_is(peak: float | None) -> None:
    """What is added to a sound a hundred times as quiet is the same, a hundred times as quiet: if the model has a level."""
    pipe, wave = tiny("audioldm2-tiny"), recording(16_000)
    config = replace(pipe.config, defaults=replace(pipe.config.defaults, peak=peak, window=None))
    pipe = Pipeline(replace(pipe.model, config=config), "cpu", torch.float32)
    loud, quiet = (extend(pipe, c * wave, 16_000, ORDER, after=0.5).audio[:, 16_000:] / c for c in (1.0, 0.01))
    assert (relative(loud, quiet) < 1e-3) == (peak is not None)
    silence = extend(pipe, 0 * wave, 16_000, ORDER, after=0.5).audio[:, 16_000:]
    assert torch.isfinite(silence).all()
    assert float(silence.abs().max()) > 1e-4                     # and what begins as silence is not made silent


def test_upscaling_keeps_the_lower_band() -> None:
    pipe = tiny("audioldm2-tiny")
    dull = only_band(recording(16_000), 16_000, (0, 3000))
    out = upscale(pipe, dull, 16_000, Order("", FAST, 3))
    change = torch.fft.rfft(out.audio[0] - dull[0]).abs()
    cut = upper_edge(dull, 16_000)
    assert 2800 < cut < 3100
    assert change[: int(cut) - 10].max() < 1e-3 * change[int(cut * 1.1) :].max()
    from_low = upscale(pipe, resample(dull, 16_000, 8000), 8000, ORDER)
    assert from_low.sample_rate == 16_000
    assert from_low.audio.shape == (1, 16_000)
    with pytest.raises(SettingsError, match="has nothing to add"):
        upscale(pipe, recording(16_000), 16_000, ORDER)
    assert upscale(pipe, recording(16_000), 16_000, ORDER, cutoff=4000).audio.shape == (1, 16_000)


def test_what_is_painted_does_not_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A painted sound beyond full scale becomes quieter as a whole; what is kept stays as it is."""
    pipe, wave = model("audioldm2-tiny"), recording(16_000)
    quiet = inpaint(pipe, wave, 16_000, ORDER, [(0.4, 0.7)]).audio
    decode = Pipeline.decode
    monkeypatch.setattr(Pipeline, "decode", lambda self, latents, loop=False: 100 * decode(self, latents, loop))
    for ceiling, kept in ((1.0, wave), (2.0, wave * 2 / wave.abs().max())):
        loud = inpaint(pipe, kept, 16_000, ORDER, [(0.4, 0.7)]).audio
        assert 0.9 * ceiling < float(loud[:, 6600:11_000].abs().max()) <= ceiling
        assert torch.equal(loud[:, :6400], kept[:, :6400])
        whole = edit(pipe, kept, 16_000, ORDER, 1.0).audio
        assert abs(float(whole.abs().max()) - ceiling) < 1e-5
    loud = inpaint(pipe, wave, 16_000, ORDER, [(0.4, 0.7)]).audio
    middle = slice(6600, 11_000)
    shape = loud[:, middle] / loud[:, middle].norm()             # not cut off: the same sound at another level
    assert relative(shape, quiet[:, middle] / quiet[:, middle].norm()) < 1e-3


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize(("factor", "same"), [(1.0, True), (0.7, True), (1.6, True), (0.3, False), (3.0, False)])
def test_what_the_networks_lose_is_made_up_for(rate: int, factor: float, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that give back what they hear, but for its loudness, give back the recording, in the band that they have."""
    pipe, wave = model("audioldm2-tiny"), 0.3 * recording(rate)
    heard = resample(wave, rate, 16_000)
    monkeypatch.setattr(Pipeline, "decode", lambda self, latents, loop=False: factor * heard)
    out = inpaint(pipe, wave, rate, ORDER, [(0.4, 0.7)]).audio
    middle = slice(int(0.45 * rate), int(0.65 * rate))
    expected = resample(heard, 16_000, rate)[:, middle]
    assert (relative(out[:, middle], expected) < 1e-2) == same
    assert same or abs(relative(out[:, middle], expected) - abs(factor - 1)) < 1e-2


@pytest.mark.parametrize(("spans", "frames", "expected"), [
    ([(4.0, 4.8)], 100, [(36, 52)]),                             # one window of 16, the span in its middle
    ([(0.1, 0.8)], 100, [(0, 16)]), ([(9.5, 10.0)], 100, [(84, 100)]),       # at the ends the other side is heard
    ([(4.0, 6.0)], 100, [(36, 64)]),                             # a long span: a quarter of a window on each side
    ([(1.0, 1.8), (7.0, 7.8)], 100, [(6, 22), (66, 82)]),
    ([(1.0, 1.8), (2.5, 3.1)], 100, [(6, 36)]),                  # neighbours are heard together
    ([(0.1, 0.2)], 9, [(0, 9)]), ([], 100, [])])
def test_what_is_heard_around_spans(spans: list[tuple[float, float]], frames: int, expected: list[tuple[int, int]]) -> None:
    assert regions(spans, frames, 16, 10.0) == expected
    for begin, end in regions(spans, frames, 16, 10.0, grain=5):
        assert begin % 5 == 0
        assert 0 <= begin < end <= frames


def short_sighted(seconds: float = 0.64) -> Pipeline:
    """A tiny model whose U-Net takes no more than `seconds` at once."""
    pipe = model("audioldm2-tiny")
    config = replace(pipe.config, defaults=replace(pipe.config.defaults, longest=seconds))
    return Pipeline(replace(pipe.model, config=config), "cpu", torch.float32)


def test_a_span_is_painted_by_what_is_around_it() -> None:
    """The work, and what is painted, do not depend on how long the recording is, nor on what is far away."""
    pipe, seen = short_sighted(), []
    wave, rate = recording(6 * 44_100, 2), 44_100
    hook = pipe.model.unet.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[2]))
    try:
        one = inpaint(pipe, wave, rate, ORDER, [(3.0, 3.2)]).audio
    finally:
        hook.remove()
    assert seen == [pipe.window] * FAST.steps                    # type: ignore[operator]
    other = wave.clone()
    other[:, :rate], other[:, -rate:] = recording(rate, 2, 1), 0
    two = inpaint(pipe, other, rate, ORDER, [(3.0, 3.2)]).audio
    span = slice(3 * rate, round(3.2 * rate))
    assert torch.equal(one[:, span], two[:, span])
    other[:, round(2.9 * rate) : 3 * rate] = 0                   # what is near is heard
    assert relative(inpaint(pipe, other, rate, ORDER, [(3.0, 3.2)]).audio[:, span], one[:, span]) > 1e-3
    longer = inpaint(pipe, torch.cat([wave, wave], dim=1), rate, ORDER, [(3.0, 3.2), (9.0, 9.2)]).audio
    assert torch.equal(longer[:, span], one[:, span])            # nor on other spans, which have noise of their own
    again = slice(9 * rate, round(9.2 * rate))
    assert relative(longer[:, again], longer[:, span]) > 1e-2
    assert torch.equal(longer[:, span.stop : again.start], torch.cat([wave, wave], dim=1)[:, span.stop : again.start])


@pytest.mark.parametrize(("spans", "message"), [
    ([(0.5, 2.5)], r"span 0.5-2.5 s lies outside the recording, which has 0-2.00 s"),
    ([(-1.0, 1.0)], "lies outside"),
    ([(0.0, 1.0), (0.9, 1.5)], r"spans 0-1 and 0.9-1.5 s overlap")])
def test_spans_that_cannot_be(spans: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_spans(spans, 2.0)
    assert check_spans([(1.0, 2.0), (0.0, 1.0)], 2.0) == [(0.0, 1.0), (1.0, 2.0)]


@pytest.mark.parametrize("text", ["3", "a-b", "4-2", "2-2", "-1-2", "1-2-3", ""])
def test_spans_that_cannot_be_read(text: str) -> None:
    with pytest.raises(SettingsError, match="span"):
        read_span(text)
    assert read_span(" .5 - 4") == (0.5, 4.0)


def test_fades_lie_inside_their_spans() -> None:
    mask = fade_mask([(0.0, 0.1), (0.5, 0.505), (0.9, 1.0)], 1000, 1000)
    assert mask[0] == 1                                          # no fade where the recording begins, or ends
    assert mask[-1] == 1
    assert mask[100:500].abs().max() == 0
    assert 0 < mask[99] < 0.1
    assert 0.9 < mask[90] < 1
    assert 0 < mask[502] <= 1
    assert mask[505:900].abs().max() == 0
    assert mask.diff().abs().max() < 0.9


@pytest.mark.parametrize("layout", ["time", "frequency"])
def test_masks_lie_where_the_model_hears(layout: str) -> None:
    mel = MelConfig(bins=16, layout=layout)                      # type: ignore[arg-type]
    shape = (4, 25, 4) if layout == "time" else (4, 4, 25)
    keep = keep_mask([(0.2, 0.4)], (2000.0, 8000.0), shape, mel, 4)[0, 0]
    keep = keep if layout == "time" else keep.flip(0).T          # (t, m), low bands first
    assert (1 - keep).nonzero()[:, 0].unique().tolist() == list(range(5, 10))
    low = [i for i in range(4) if (middles(mel).view(4, 4)[i] < 2000).all()]
    assert keep[7].tolist() == [1.0 if i in low else 0.0 for i in range(4)]
    assert 0 < len(low) < 4
    with pytest.raises(SettingsError, match="nothing between 9000 and 9500 Hz"):
        keep_mask([(0.2, 0.4)], (9000.0, 9500.0), shape, mel, 4)


def test_a_band_of_a_wave() -> None:
    t = torch.arange(16_000) / 16_000
    low, high = torch.sin(2 * torch.pi * 500 * t), torch.sin(2 * torch.pi * 4000 * t)
    got = only_band((low + high)[None], 16_000, (2000, 8000))[0]
    middle = slice(1000, 15_000)
    assert relative(got[middle], high[middle]) < 0.01
    assert relative(only_band((low + high)[None], 16_000, (0, 8000)), (low + high)[None]) < 1e-5
    assert relative(got[middle], low[middle]) > 1
