"""The vocoder by spectra: exact inversion, length, noise that is the same in every batch, levels right before any training."""

import dataclasses

import pytest
import torch

from audiogen.config import MelConfig, VocoderConfig
from audiogen.mel import Mel
from audiogen.models.vocos import TAPE, Vocos, spread
from audiogen.vocode import vocode

MEL = MelConfig()
CONFIG = VocoderConfig(kind="vocos", bins=64, channels=32, layers=1, n_fft=640, noise=64)


@pytest.fixture(scope="module")
def vocoder() -> Vocos:
    torch.manual_seed(0)
    return Vocos(CONFIG, MEL).eval()


@pytest.mark.parametrize("center", [True, False])
def test_a_spectrum_becomes_its_own_wave(center: bool) -> None:
    vocoder = Vocos(CONFIG, dataclasses.replace(MEL, center=center))
    wave = torch.randn(1, 40 * 160, generator=torch.Generator().manual_seed(0))
    pad = 320 if center else 240
    framed = torch.nn.functional.pad(wave, (pad, pad))
    spectrum = torch.stft(framed, 640, 160, window=torch.hann_window(640), center=False, return_complex=True)[..., :40]
    back = vocoder.invert(spectrum * vocoder.sign)
    inner = slice(320, -640)                                     # the very last frames have no neighbours
    assert back.shape == wave.shape
    assert float((back - wave)[:, inner].abs().max()) < 1e-4
    assert float((vocoder.invert(spectrum) - wave)[:, inner].abs().max()) > 0.1        # without the frames' middle as origin


def test_hop_samples_a_frame_in_any_batch_the_same(vocoder: Vocos) -> None:
    mel = torch.randn(3, 64, 50, generator=torch.Generator().manual_seed(1)) - 5
    with torch.no_grad():
        together, alone = vocoder(mel), vocoder(mel[1:2])
    assert together.shape == (3, 50 * 160)
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_noise_begins_where_it_is_told(vocoder: Vocos) -> None:
    mel = torch.full((2, 64, 40), -4.0)
    with torch.no_grad():
        same = vocoder(mel, torch.tensor([0.25, 0.25]))
        other = vocoder(mel, torch.tensor([0.25, 0.75]))
    assert torch.equal(same[0], same[1])
    assert float((other[0] - other[1]).abs().mean()) > 0.1 * float(other.abs().mean())


def test_noise_has_the_level_that_the_mel_asks_for(vocoder: Vocos) -> None:
    wave = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(2))
    mel = Mel(MEL)(wave)
    quiet = Vocos(CONFIG, MEL).eval()
    with torch.no_grad():
        quiet.head.weight.zero_()
        quiet.head.bias[: quiet.frequencies] = -20               # noise alone, untrained
        out = quiet(mel)
    error = (Mel(MEL)(out) - mel)[..., 8:-8]
    assert abs(float(error.mean())) < 0.25, "the mean level, in nats"
    louder = (Mel(MEL)(2 * out) - mel)[..., 8:-8]
    assert abs(float(louder.mean())) > 0.5


def test_noise_of_a_loop_has_no_seam(vocoder: Vocos) -> None:
    """Where the noise's end meets its beginning it is as loud, as even and as steady as elsewhere."""
    def heard(wrapped: bool) -> tuple[float, float, float]:
        """(level at the seam, steps between samples there, spectral change across it), each over that elsewhere."""
        level, steps, change = [], [], []
        for frames in range(60, 100):
            mel = torch.full((1, 64, frames), -4.0)
            if wrapped:
                wave = vocode(vocoder, mel, 160, loop=True)[0]
            else:                                                # the tape cut off, its ends put together
                at = torch.arange(-20, frames + 20) % frames
                parts = vocoder.parts(mel[..., at], at=at)
                wave = vocoder.invert(parts.spectrum)[0, 20 * 160 : -20 * 160]
            assert len(wave) == frames * 160
            turned = wave.roll(len(wave) // 2)                   # the seam in the middle
            seam, rest = turned[len(wave) // 2 - 160 :][:320], torch.cat([turned[1600:3200], turned[-3200:-1600]])
            level.append(seam.square().mean() / rest.square().mean())
            steps.append(seam.diff().square().mean() / rest.diff().square().mean())
            bands = [torch.fft.rfft(turned[len(wave) // 2 + shift :][:320]).abs().square().view(-1)[:160].view(20, 8).sum(dim=1)
                     for shift in (-320, 0, -2320, -2000)]
            change.append((bands[0] / bands[1]).log().abs().mean() / (bands[2] / bands[3]).log().abs().mean())
        return tuple(float(torch.stack(values).mean()) for values in (level, steps, change))

    with torch.no_grad():
        level, steps, change = heard(wrapped=True)
        assert 0.8 < level < 1.25
        assert 0.8 < steps < 1.25
        assert change < 1.25
        cut, _, _ = heard(wrapped=False)
        assert cut < 0.8                                         # frames that do not belong together are quieter


def test_noise_of_a_circle_as_long_as_the_tape_is_the_tape(vocoder: Vocos) -> None:
    mel, spectrum = vocoder.noise(TAPE - 3, TAPE + 3, TAPE)
    at = torch.arange(TAPE - 3, TAPE + 3) % TAPE
    assert torch.allclose(mel, vocoder.noise_mel[:, at], atol=1e-4)
    assert torch.allclose(spectrum, vocoder.noise_spectrum[:, at], atol=1e-3)
    assert not torch.allclose(vocoder.noise(997, 1003, 1000)[1], vocoder.noise_spectrum[:, 997:1003], atol=1e-1)
    assert torch.allclose(vocoder.noise(500, 506, 1000)[1], vocoder.noise_spectrum[:, 500:506], atol=1e-3)


def test_without_noise_there_is_none() -> None:
    plain = Vocos(dataclasses.replace(CONFIG, noise=0), MEL)
    mel = torch.full((1, 64, 30), -4.0)
    assert torch.equal(plain(mel, torch.tensor([0.0])), plain(mel, torch.tensor([0.5])))


def test_spread_is_an_interpolation() -> None:
    matrix = spread(CONFIG, MEL)
    assert matrix.shape == (321, 64)
    assert torch.allclose(matrix.sum(dim=1), torch.ones(321))
    assert float(matrix.min()) >= 0
    flat = Mel(MEL)(torch.nn.functional.pad(torch.ones(1, 1), (8000, 7999)))[0, :, 50]  # a click: every magnitude is 1
    vocoder = Vocos(CONFIG, MEL)
    assert float((matrix @ flat + vocoder.flat)[8:300].abs().max()) < 0.2
