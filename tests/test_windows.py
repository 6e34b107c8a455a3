"""Long sounds, loops and timelines: what is made in pieces is what would be made at once, and nothing shows where they meet."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, redraw, relative, tiny
from torch import Tensor

from audiogen.config import MelConfig, VocoderConfig
from audiogen.diffusion.loop import moving_mean, wrapping
from audiogen.diffusion.windows import STREAM, Tiling, along, held, long_noise, overlapped, tile, windowed
from audiogen.errors import SettingsError
from audiogen.models.vocos import Vocos
from audiogen.pipeline import Pipeline
from audiogen.settings import Settings
from audiogen.timeline import Segment, read_timeline, shares
from audiogen.vocode import reach, vocode

FAST = Settings(steps=2, guidance=2.0, sampler="euler")


def short_sighted(name: str = "audioldm2-tiny", seconds: float = 0.64) -> Pipeline:
    """A tiny model whose U-Net takes no more than `seconds` at once."""
    pipe = tiny(name)
    config = replace(pipe.config, defaults=replace(pipe.config.defaults, longest=seconds, window=None))
    return Pipeline(replace(pipe.model, config=config), "cpu", torch.float32)


@pytest.mark.parametrize(("length", "size", "loop"), [
    (16, 16, False), (9, 16, True), (40, 16, False), (41, 16, False), (45, 16, True)])
@pytest.mark.parametrize("scale", [1, 4])
def test_pieces_join_to_the_whole(length: int, size: int, loop: bool, scale: int) -> None:
    x, tiling = normal(2, 3, length, 5), tile(length, size, loop)
    assert relative(overlapped(lambda part, i: part, x, tiling, 2), x) < 1e-6
    longer = x.repeat_interleave(scale, dim=2)
    assert relative(overlapped(lambda part, i: part.repeat_interleave(scale, dim=2), x, tiling, 2, (1, scale)), longer) < 1e-6
    assert relative(overlapped(lambda part, i: part[:, :, ::scale], longer, tiling, 2, (scale, 1)), x) < 1e-6
    assert all(len(tiling.at(i).unique()) == tiling.size == min(size, length) for i in range(len(tiling.starts)))
    if len(tiling.starts) > 1:                                   # neighbours that disagree cross-fade: no step at any join
        steps = overlapped(lambda part, i: torch.full_like(part, i % 2), torch.zeros(1, 1, 400, 1), tile(400, 100), 2).flatten()
        assert steps.diff().abs().max() < 0.05
        assert len(steps.unique()) > 20


def test_one_window_is_plain_generation() -> None:
    pipe, short = tiny("audioldm2-tiny"), short_sighted()
    plain = pipe.generate(["a dog"], FAST, [3], duration=0.64)
    assert torch.equal(short.generate(["a dog"], FAST, [3], duration=0.64).audio, plain.audio)
    twice = pipe.generate(["a dog"], FAST, [3], duration=1.28)   # two windows are something else
    assert relative(short.generate(["a dog"], FAST, [3], duration=1.28).latents, twice.latents) > 1e-2


def test_windows_of_a_pointwise_denoiser_change_nothing() -> None:
    x = normal(1, 2, 50, 4)
    tiling = tile(50, 16)

    def point(x: Tensor, sigma: Tensor) -> Tensor:
        return (x * sigma).tanh()

    def far(x: Tensor, sigma: Tensor) -> Tensor:
        return x - x.mean()

    sigma = torch.tensor(2.0)
    assert relative(windowed([point] * len(tiling.starts), tiling, 2)(x, sigma), point(x, sigma)) < 1e-6
    assert relative(windowed([far] * len(tiling.starts), tiling, 2)(x, sigma), far(x, sigma)) > 1e-2


def test_the_beginning_does_not_depend_on_the_end() -> None:
    short = short_sighted()
    one, two = (short.generate(["a dog"], FAST, [3], duration=d).latents for d in (2.5, 3.5))       # (1, C, t, m)
    assert torch.equal(one[:, :, :24], two[:, :, :24])
    assert relative(one[:, :, 55:62], two[:, :, 55:62]) > 1e-2          # where the shorter one ends
    a, b = (short.generate([f"0-2.5: a dog; 2.5-3.5: {end}"], FAST, [3], timeline=True).latents for end in ("a dog", "thunder"))
    assert torch.equal(a[:, :, :24], b[:, :, :24])
    assert relative(a[:, :, 65:], b[:, :, 65:]) > 1e-3


def test_the_network_never_sees_more_than_its_window() -> None:
    short, seen = short_sighted(), []
    hooks = [net.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[2]))
             for net in (short.model.unet, short.model.autoencoder.decoder, short.model.autoencoder.encoder)]   # type: ignore[union-attr]
    try:
        made = short.generate(["a dog"], FAST, [3], duration=2.0)
        short.encode(made.audio)
    finally:
        for hook in hooks:
            hook.remove()
    assert made.audio.shape == (1, 32_000)
    assert set(seen) == {short.window, short.window * short.config.autoencoder.factor}


@pytest.mark.parametrize("layout", ["time", "frequency"])
def test_noise_of_a_long_sound(layout: str) -> None:
    """Blocks of their own, the first that of a short sound; but what is slow in them stays as it is in the first one's middle."""
    axis, shape = (2, (3, 2000, 5)) if layout == "time" else (3, (3, 5, 2000))
    first = (3, 16, 5) if layout == "time" else (3, 5, 16)
    plain = long_noise([7, 8], first, axis, 16, 8)()
    assert torch.equal(plain[1], torch.randn(first, generator=torch.Generator().manual_seed(8)))
    long = long_noise([7, 8], shape, axis, 16, 8)()
    blocks = [long_noise([(seed + k * STREAM) % 2**63 for seed in (7, 8)], first, axis, 16, 8)() for k in range(125)]
    change = torch.cat(blocks, dim=axis) - long
    assert 0.1 < float(change.std()) < 0.6                       # another draw would be 1.4 away
    assert torch.equal(torch.cat(blocks, dim=axis).narrow(axis, 0, 16), plain)
    assert relative(long.narrow(axis, 16, 16), plain) > 0.9, "the next block is another draw"
    assert float(change.diff(dim=axis).std()) < 0.2, "only what is slow was changed"

    many = held(torch.randn(20_000, 1, 60, generator=torch.Generator().manual_seed(0)), 2, 8, 8)
    assert float((many[..., 20:-10].var(dim=0) - 1).abs().max()) < 0.05

    def means(noise: Tensor) -> Tensor:                          # of 20 frames each
        return noise.movedim(axis, -1).unflatten(-1, (100, 20)).mean(dim=-1)

    assert float(means(long).std(dim=-1).mean()) < 0.3 * float(means(torch.cat(blocks, dim=axis)).std(dim=-1).mean())


def vocoders() -> list[tuple[object, int]]:
    vocos = Vocos(VocoderConfig("vocos", bins=16, channels=24, layers=2, n_fft=640, noise=16), MelConfig(bins=16))
    return [(tiny("audioldm2-tiny").model.vocoder, 16), (tiny("auffusion-tiny").model.vocoder, 256), (redraw(vocos), 16)]


@pytest.mark.parametrize("i", range(3))
def test_vocoding_by_pieces_is_vocoding_at_once(i: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder, bins = vocoders()[i]
    mel = normal(1, bins, 160) - 5
    with torch.no_grad():
        whole = vocoder(mel)                                     # type: ignore[operator]
        assert relative(vocode(vocoder, mel, 160, piece=37), whole) < 1e-5                # type: ignore[arg-type]
        assert relative(vocode(vocoder, mel, 160), whole) == 0                            # type: ignore[arg-type]
        looped = vocode(vocoder, mel, 160, loop=True, piece=37)                           # type: ignore[arg-type]
        assert looped.shape == (1, 160 * 160)
        middle = slice(70 * 160, 90 * 160)
        assert relative(looped[:, middle], whole[:, middle]) < 1e-5
        assert relative(looped[:, :160], whole[:, :160]) > 1e-3
        monkeypatch.setattr("audiogen.vocode.reach", lambda vocoder, hop: 1)
        assert relative(vocode(vocoder, mel, 160, piece=37), whole) > 1e-4                # type: ignore[arg-type]


def test_reach_is_no_longer_than_it_has_to_be() -> None:
    for vocoder, bins in vocoders():
        n = reach(vocoder, 160)                                  # type: ignore[arg-type]
        assert 5 < n < 60
        mel = torch.full((1, bins, 4 * n), -5.0)
        other = mel.clone()
        other[:, :, 2 * n] += 3
        with torch.no_grad():
            change = (vocoder(mel) - vocoder(other)).abs()[0]    # type: ignore[operator]
        heard = (change > 1e-5 * change.max()).nonzero().flatten() / 160               # more than rounding
        assert heard.min() >= n
        assert heard.max() <= 3 * n + 1
        assert heard.max() - heard.min() > n / 3


@pytest.mark.parametrize("slow", [1.0, 0.4])
@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny"])
def test_a_loop_may_begin_anywhere(name: str, slow: float) -> None:
    """Rotating the noise by as much as the U-Net can turn rotates latents and sound, which have no beginning."""
    pipe = short_sighted(name, 10.24)
    settings = pipe.settle(replace(FAST, duration=1.0, loop=True, slow=slow))
    levels, draw = pipe.levels(settings), pipe.noise(settings, [3])
    assert pipe.samples(settings) % (pipe.step * pipe.turn) == 0

    def make(turned: int, loop: bool) -> tuple[Tensor, Tensor]:
        denoise = pipe.long(pipe.denoiser(["a dog"], [None], [None], settings, levels), replace(settings, loop=loop))
        made = pipe.finish(denoise, levels, settings, [3], draw=lambda: noise.roll(turned, pipe.axis))
        return made.latents.roll(-turned, pipe.axis), made.audio.roll(-turned * pipe.step, 1)

    with torch.inference_mode():
        noise = draw()
        latents, audio = make(0, True)
        turned, heard = make(pipe.turn, True)
        assert relative(turned, latents) < 1e-5
        assert relative(heard, audio) < 1e-4
        straight = make(0, False)[0]
        assert relative(make(pipe.turn, False)[0], straight) > 1e-4          # zeros at the ends are a beginning


@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny"])
@pytest.mark.parametrize("duration", [1.0, 2.0])
def test_a_loop_has_no_seam(name: str, duration: float) -> None:
    pipe = short_sighted(name, 1.28)
    made = pipe.generate(["a dog"], FAST, [3], duration=duration, loop=True)
    wave = made.audio[0]
    assert made.settings.duration == len(wave) / 16_000
    assert len(wave) % (pipe.step * pipe.turn) == 0
    elsewhere = [jump(wave, k) for k in range(640, len(wave), 640)]
    assert jump(wave, 0) <= max(elsewhere)
    spectra = [spectral_step(wave, k) for k in range(0, len(wave), 640)]
    assert spectra[0] <= max(spectra[1:])
    rising = wave + torch.linspace(0, 3, len(wave))              # one whose end is elsewhere than its beginning
    assert jump(rising, 0) > max(jump(rising, k) for k in range(640, len(wave), 640))


@pytest.mark.parametrize("axis", [2, 3])
def test_a_moving_mean(axis: int) -> None:
    x = normal(2, 3, 8, 8)
    lines, mean = x.transpose(axis, 3), moving_mean(x, 5, axis, around=False).transpose(axis, 3)
    for i in range(8):                                           # of the frames there are
        assert torch.allclose(mean[..., i], lines[..., max(0, i - 2) : i + 3].mean(dim=-1), atol=1e-6)
    ring = moving_mean(x, 5, axis, around=True)
    assert torch.allclose(ring, sum(x.roll(k, axis) for k in range(-2, 3)) / 5, atol=1e-6)
    assert torch.allclose(ring.transpose(axis, 3)[..., 2:-2], mean[..., 2:-2], atol=1e-6)
    assert not torch.allclose(ring.transpose(axis, 3)[..., :2], mean[..., :2], atol=1e-2)


@pytest.mark.parametrize("name", ["audioldm2-tiny", "auffusion-tiny"])
def test_what_lasts_goes_round_in_a_loop_of_one_window_alone(name: str) -> None:
    pipe = short_sighted(name, 1.28)
    for seconds, loop, around in ((1.0, True, True), (1.0, False, False), (2.56, True, False)):
        settings = pipe.settle(replace(FAST, duration=seconds, loop=loop, slow=0.4))
        x = normal(1, *pipe.latent_shape(settings))
        expected = moving_mean(x, 1 + 2 * round(0.2 * 16_000 / pipe.step), pipe.axis, around)      # 0.4 s, about its middle
        spared = pipe.spared(settings)
        assert spared is not None
        assert torch.equal(spared(x), 0.6 * expected)
        assert pipe.spared(replace(settings, slow=1.0)) is None


def jumps(wave: Tensor) -> Tensor:
    return torch.cat([wave, wave[:1]]).diff().abs()


def jump(wave: Tensor, at: int) -> float:
    """The largest step between samples around `at`, of the wave repeated."""
    return float(jumps(wave.roll(32 - at))[:64].max())


def spectral_step(wave: Tensor, at: int) -> float:
    """Distance between the log spectra of 32 ms before and after `at`, of the wave repeated."""
    around = wave.roll(512 - at)[:1024].view(2, 512) * torch.hann_window(512)
    before, after = (torch.fft.rfft(around).abs() + 1e-5).log()
    return float((before - after).square().mean().sqrt())


def test_wrapping_leaves_the_network_as_it_was() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 3, stride=2, padding=1))
    x = normal(1, 1, 16, 8)
    with torch.no_grad():
        before = net(x)
        with wrapping(net, 2):
            inside = net(x)
            assert relative(net(x.roll(2, 2)).roll(-1, 2), inside) < 1e-6
        with pytest.raises((RuntimeError, IndexError)), wrapping(net, 2):      # an error inside leaves nothing behind either
            net(x[:, :, :0])
        assert torch.equal(net(x), before)
        assert relative(net(x.roll(2, 2)).roll(-1, 2), before) > 1e-2
        assert relative(inside, before) > 1e-2
        assert torch.equal(inside[:, :, 2:-2], before[:, :, 2:-2])


def test_a_timeline_of_one_part_is_its_prompt() -> None:
    pipe = tiny("audioldm2-tiny")
    plain = pipe.generate(["a dog"], FAST, [3], duration=1.28)
    told = pipe.generate([" 0 - 1.28 :  a dog ;"], FAST, [3], timeline=True)
    assert torch.equal(told.audio, plain.audio)
    assert told.settings.duration == 1.28
    both = pipe.generate(["0-0.6: a dog; 0.6-1.28: a dog"], FAST, [3], timeline=True)    # of equal parts too
    assert relative(both.audio, plain.audio) < 1e-4
    other = pipe.generate(["0-0.6: a dog; 0.6-1.28: thunder"], FAST, [3], timeline=True)
    assert relative(other.latents, plain.latents) > 1e-3


def test_timelines_in_a_batch() -> None:
    pipe = tiny("audioldm2-tiny")
    texts = ["0-0.5: a dog; 0.5-1: thunder", "0-1: rain"]
    together = pipe.generate(texts, FAST, [3, 4], timeline=True).audio
    for i, text in enumerate(texts):
        assert relative(together[i], pipe.generate([text], FAST, [3 + i], timeline=True).audio[0]) < 1e-5
    with pytest.raises(SettingsError, match="several lengths"):
        pipe.generate(["0-1: rain", "0-2: rain"], FAST, timeline=True)


def test_shares_add_up_and_overlap() -> None:
    segments = [Segment(0, 6, "rain"), Segment(4, 9, "thunder"), Segment(9, 20, "birds")]
    rows = torch.tensor(shares(segments, 500, 25.0))             # (3, T)
    assert relative(rows.sum(0), torch.ones(500)) < 1e-6
    assert rows[:, 0].tolist() == [1, 0, 0]
    assert rows[:, 499].tolist() == [0, 0, 1]
    assert rows[:, 125].tolist() == [0.5, 0.5, 0]                # 5 s: two at once
    assert rows[:, 190].tolist() == [0, 1, 0]
    assert rows.diff(dim=1).abs().max() < 0.2                    # no step


@pytest.mark.parametrize(("text", "message"), [
    ("0-6 rain", r"'0-6 rain' \(character 1 of the timeline\)"),
    ("0-6: rain; six-9: thunder", r"'six-9: thunder' \(character 12 of the timeline\)"),
    ("0-6: rain; 9-7: thunder", "ends before it begins"),
    ("0-6: rain;\n7-9: thunder", "says nothing from 6 to 7 s"),
    ("1-6: rain", "says nothing from 0 to 1 s"),
    ("0-6:", "is no part of a timeline"),
    (" ; ", "timeline is empty")])
def test_timelines_that_cannot_be_understood(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_timeline(text)


def test_timelines_that_can() -> None:
    told = read_timeline("4-9: thunder: far; 0-6.5:rain on\n leaves;")
    assert told == [Segment(0, 6.5, "rain on leaves"), Segment(4, 9, "thunder: far")]


def test_tiling_of_a_loop_goes_over_its_end() -> None:
    tiling = tile(40, 16, loop=True)
    assert tiling == Tiling(40, 16, (0, 8, 16, 24, 32))
    assert tiling.at(4).tolist() == [*range(32, 40), *range(8)]
    total = torch.zeros(40)
    for i in range(5):
        total.index_add_(0, tiling.at(i), tiling.weight(i))
    assert relative(total, torch.ones(40)) < 1e-6
    assert along(torch.arange(3), 1, 4).shape == (1, 3, 1, 1)
