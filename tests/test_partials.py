"""Partials that go on from frame to frame: a held tone is a tone, in pieces, in loops and in any batch."""

import math

import pytest
import torch
from torch import Tensor

from audiogen.config import MelConfig, VocoderConfig
from audiogen.models.partials import closed, turned
from audiogen.models.vocos import Parts, Vocos
from audiogen.train.losses import partial_losses
from audiogen.vocode import vocode

N, HOP, RATE = 640, 160, 16_000
CONFIG = VocoderConfig(kind="vocos", bins=64, channels=32, layers=1, n_fft=N, noise=64, partials=True)


def tone(hz: float, frames: int = 100) -> tuple[Tensor, Tensor]:
    """The level and the offset (1, F, T) that a tone of this frequency has in a Hann window's spectrum."""
    place = torch.arange(N // 2 + 1)
    away = hz * N / RATE - place                                 # (F,) in frequencies
    level = torch.where(away.abs() < 1.5, (math.pi * away / 3).cos().clamp(min=1e-3).log(), torch.tensor(-9.0))
    return level[None, :, None].expand(1, -1, frames), away.clamp(-2, 2)[None, :, None].expand(1, -1, frames)


def purity(wave: Tensor, hz: float) -> float:
    """Share of a wave's power that is within 3 Hz of a frequency."""
    power = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs().square()
    at = torch.arange(len(power)) * RATE / len(wave)
    return float(power[(at - hz).abs() < 3].sum() / power.sum())


@pytest.fixture(scope="module")
def vocoder() -> Vocos:
    torch.manual_seed(0)
    return Vocos(CONFIG, MelConfig()).eval()


@pytest.mark.parametrize("hz", [200.0, 437.0, 1010.3, 3333.0])
def test_a_held_tone_is_a_tone(vocoder: Vocos, hz: float) -> None:
    level, offset = tone(hz)
    out = vocoder.invert(level.exp() * turned(level, offset, HOP / N))[0, 800:-800]
    assert purity(out, hz) > 0.99
    still = vocoder.invert(level.exp() * torch.ones_like(level, dtype=torch.cfloat))[0, 800:-800]
    assert hz % 100 == 0 or purity(still, hz) < 0.5, "phases that stand still make tones of the hop's multiples only"


def test_frequencies_around_a_peak_stay_together() -> None:
    """However little their offsets agree: the loudest decides, and neighbours never drift apart."""
    level, offset = tone(437.0, 2000)
    wrong = offset + 0.05 * torch.randn(1, N // 2 + 1, 1, generator=torch.Generator().manual_seed(0))
    peak = round(437.0 * N / RATE)
    phasors = turned(level, wrong, HOP / N)[0, peak - 1 : peak + 2]                    # (3, T)
    assert float((phasors * phasors[1].conj()).angle().abs().max()) < 0.5
    alone = (2 * math.pi * HOP / N * wrong[0, peak - 1 : peak + 2].cumsum(dim=-1))     # without being held together
    assert float((alone - alone[1]).abs().max()) > 3


def test_they_go_on_from_where_they_were() -> None:
    g = torch.Generator().manual_seed(1)
    level, offset = torch.randn(2, 33, 40, generator=g), torch.randn(2, 33, 40, generator=g)
    whole = turned(level, offset, 0.25)
    first = turned(level[..., :17], offset[..., :17], 0.25)
    rest = turned(level[..., 17:], offset[..., 17:], 0.25, first[..., -1])
    assert torch.allclose(torch.cat([first, rest], dim=-1), whole, atol=1e-5)
    assert not torch.allclose(turned(level[..., 17:], offset[..., 17:], 0.25), whole[..., 17:], atol=0.1)
    assert torch.allclose(whole.abs(), torch.ones_like(level), atol=1e-5)
    assert torch.allclose(turned(level[1:], offset[1:], 0.25), whole[1:], atol=1e-5), "alone as in a batch"


def test_a_tone_is_as_loud_as_asked_and_noise_as_it_was(vocoder: Vocos) -> None:
    level, offset = tone(437.0)
    phasors, noise = turned(level, offset, HOP / N), vocoder.noise_spectrum[None, :, :100]
    swell = 0.7 * torch.sin(torch.arange(100) / 8)               # nats, that the level is off by
    faint, loud = torch.full_like(level, -12.0), torch.full_like(level, -1.0)
    right, wrong = (Parts((faint - vocoder.loud).exp() * noise, faint, level + by, offset) for by in (0.0, swell))
    asked = vocoder.ear(vocoder.invert(right.whole(phasors)))    # (1, M, T)
    band = asked.mean(dim=(0, 2)).argmax()

    def far(spectrum: Tensor) -> float:
        return float((vocoder.ear(vocoder.invert(spectrum)) - asked)[0, band, 8:-8].abs().mean())

    assert far(wrong.whole(phasors)) > 0.3
    assert far(vocoder.tuned(wrong, phasors, asked)) < 0.05
    hiss = Parts((loud - vocoder.loud).exp() * noise, loud, faint, offset)
    assert far(hiss.spectrum) > 0.3
    assert float((vocoder.tuned(hiss, phasors, asked) / hiss.whole(phasors) - 1).abs().max()) < 1e-3


def test_pieces_are_the_whole(vocoder: Vocos) -> None:
    mel = torch.randn(1, 64, 150, generator=torch.Generator().manual_seed(2)) - 5
    with torch.no_grad():
        whole = vocoder(mel)
        assert torch.allclose(vocode(vocoder, mel, HOP, piece=40), whole, atol=1e-4)
        assert torch.allclose(vocode(vocoder, mel, HOP, piece=3), whole, atol=1e-4)


@pytest.mark.parametrize("hz", [437.4, 1010.5])
def test_a_tone_that_loops_has_no_seam(vocoder: Vocos, hz: float) -> None:
    level, offset = tone(hz)
    phasors, at = closed(level, offset, HOP / N), torch.arange(-4, 104) % 100

    def twice(phasors: Tensor) -> Tensor:
        wave = vocoder.invert((level.exp() * phasors)[..., at])[0, 4 * HOP : 104 * HOP]
        return torch.cat([wave, wave])[8000:24_000]              # the seam in the middle

    assert purity(twice(phasors), hz) > 0.99
    assert purity(twice(turned(level, offset, HOP / N)), hz) < 0.9, "unless its phases meet"


def test_a_rotated_loop_is_the_loop_rotated(vocoder: Vocos) -> None:
    mel = torch.randn(1, 64, 90, generator=torch.Generator().manual_seed(3)) - 5
    with torch.no_grad():
        parts = vocoder.parts(mel)
        level, offset = parts.level, parts.offset
    there = closed(level.roll(20, -1), offset.roll(20, -1), HOP / N)
    assert torch.allclose(there, closed(level, offset, HOP / N).roll(20, -1), atol=1e-4)
    assert not torch.allclose(turned(level.roll(20, -1), offset.roll(20, -1), HOP / N),
                              turned(level, offset, HOP / N).roll(20, -1), atol=0.1)


@pytest.mark.parametrize("hz", [437.0, 1010.3])
def test_losses_of_a_tone_and_of_noise(hz: float) -> None:
    """The first is least at the tone's frequency; the second wants a tone as partials and noise as noise."""
    sine = torch.sin(2 * math.pi * hz * torch.arange(16_000) / RATE)[None]
    noise = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    _, offset = tone(hz, 101)
    near = ((torch.arange(N // 2 + 1) - hz * N / RATE).abs() < 2)[:, None]
    offset = torch.where(near, offset, 0.0)

    def losses(wave: Tensor, share: float, detune: float = 0.0) -> tuple[float, float]:
        log = (torch.stft(wave, N, HOP, window=torch.hann_window(N), return_complex=True).abs() + 1e-3).log()
        tonal = torch.where(near | (wave is noise), share, 0.01)
        level, rest = log + tonal.log() / 2, log + (1 - tonal).log() / 2
        return tuple(map(float, partial_losses(Parts(log + 0j, rest, level, offset + detune), wave, N, HOP)))    # type: ignore[return-value]

    right, sharp, flat = (losses(sine, 0.9, by)[0] for by in (0.0, 0.3, -0.3))
    assert right < min(sharp, flat)
    assert losses(sine, 0.9)[1] < losses(sine, 0.1)[1]
    assert losses(noise, 0.9)[1] > losses(noise, 0.1)[1]


def test_a_vocoder_without_partials_is_as_it_was(vocoder: Vocos) -> None:
    """The head's first rows mean the same; partials that are silent add nothing."""
    plain = Vocos(VocoderConfig(**(vars(CONFIG) | {"partials": False})), MelConfig()).eval()
    state = vocoder.state_dict()
    rows = 3 * plain.frequencies
    plain.load_state_dict(state | {k: state[k][:rows] for k in ("head.weight", "head.bias")})
    mute = Vocos(CONFIG, MelConfig()).eval()
    mute.load_state_dict(state)
    mel = torch.randn(1, 64, 50, generator=torch.Generator().manual_seed(4)) - 5
    with torch.no_grad():
        mute.head.bias[rows : rows + plain.frequencies] = -60
        assert torch.allclose(mute(mel), plain(mel), atol=1e-5)
        assert not torch.allclose(vocoder(mel), plain(mel), atol=1e-2)
