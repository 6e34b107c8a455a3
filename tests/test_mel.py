"""Log-mel spectrograms against their formula, written out with numpy; and the autoencoder's image of them."""

import math

import numpy as np
import pytest
import torch
from conftest import normal, relative

from audiogen.config import MelConfig
from audiogen.mel import Mel, from_image, to_image


def slaney(hz: float) -> float:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


def hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def by_hand(wave: np.ndarray, c: MelConfig) -> np.ndarray:
    """ln mel (M, T) of a wave (S,), frame by frame and filter by filter."""
    pad = c.n_fft // 2 if c.center else (c.n_fft - c.hop) // 2
    padded = np.pad(wave.astype(np.float64), pad, mode="reflect")
    window = np.zeros(c.n_fft)
    start = (c.n_fft - c.win_length) // 2
    window[start : start + c.win_length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(c.win_length) / c.win_length)
    frames = [padded[k * c.hop : k * c.hop + c.n_fft] * window for k in range(len(wave) // c.hop)]
    magnitude = np.sqrt(np.abs(np.fft.rfft(np.array(frames))) ** 2 + 1e-9)           # (T, F)
    edges = [hertz(m) for m in np.linspace(slaney(c.fmin), slaney(c.fmax), c.bins + 2)]
    at = np.arange(c.n_fft // 2 + 1) * c.sample_rate / c.n_fft
    filters = np.array([np.clip(np.minimum((at - lo) / (mid - lo), (hi - at) / (hi - mid)), 0, None) * 2 / (hi - lo)
                        for lo, mid, hi in zip(edges, edges[1:], edges[2:], strict=False)])
    return np.log(np.maximum(filters @ magnitude.T, 1e-5))


@pytest.mark.parametrize("config", [
    MelConfig(), MelConfig(center=False), MelConfig(n_fft=2048, hop=160, bins=256, center=False),
    MelConfig(sample_rate=48_000, n_fft=1024, hop=480, bins=32, fmin=50.0, fmax=14_000.0), MelConfig(win_length=640)])
def test_the_formula(config: MelConfig) -> None:
    wave = 0.3 * normal(16 * config.hop + 5)
    got = Mel(config)(wave[None])[0]
    assert got.shape == (config.bins, 16)
    assert np.abs(got.numpy() - by_hand(wave.numpy(), config)).max() < 2e-3
    assert np.abs(Mel(config)(1.01 * wave[None])[0].numpy() - by_hand(wave.numpy(), config)).max() > 5e-3    # it can fail


def test_a_long_wave_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (MelConfig(), MelConfig(center=False)):
        wave, c = 0.3 * normal(2, 50 * config.hop + 7), config
        whole = Mel(c)(wave)
        monkeypatch.setattr("audiogen.mel.PIECE", 7)
        assert relative(Mel(c)(wave), whole) < 1e-6
        cut = Mel(c)(wave[:, 7 * c.hop : 14 * c.hop])            # without what lies around it a piece is another
        assert relative(cut, whole[..., 7:14]) > 1e-3
        monkeypatch.undo()


def test_a_tone_lies_in_its_band() -> None:
    c = MelConfig()
    wave = torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / c.sample_rate)
    mel = Mel(c)(wave[None])[0, :, 50]
    step = slaney(c.fmax) / (c.bins + 1)
    assert int(mel.argmax()) == round(slaney(440) / step) - 1


def test_silence_is_the_floor_and_short_waves_pass() -> None:
    mel = Mel(MelConfig())
    assert torch.allclose(mel(torch.zeros(2, 1600)), torch.tensor(1e-5).log())
    assert mel(normal(1, 330)).shape == (1, 64, 2)
    assert mel(normal(1, 100)).shape == (1, 64, 0)


@pytest.mark.parametrize("layout", ["time", "frequency"])
def test_image_and_back(layout: str) -> None:
    c = MelConfig(bins=6, mean=-3.0, std=2.5, layout=layout)                          # type: ignore[arg-type]
    mel = normal(2, 6, 9)
    image = to_image(mel, c, planes=3)
    assert image.shape == ((2, 3, 9, 6) if layout == "time" else (2, 3, 6, 9))
    assert torch.equal(image[:, 0], image[:, 2])
    assert torch.allclose(from_image(image, c), mel, atol=1e-6)


def test_a_frequency_image_has_the_highest_band_first() -> None:
    mel = torch.zeros(1, 4, 5)
    mel[0, 3] = 1                                                # the highest band
    assert to_image(mel, MelConfig(bins=4, layout="frequency"), 1)[0, 0, 0].tolist() == [1] * 5
    assert to_image(mel, MelConfig(bins=4), 1)[0, 0, :, 3].tolist() == [1] * 5


def test_clipping_both_ways() -> None:
    c = MelConfig(bins=1, mean=1.0, std=2.0, clip=1.0)
    assert to_image(torch.tensor([[[9.0, 1.0, -9.0]]]), c, 1).flatten().tolist() == [1, 0, -1]
    assert from_image(torch.tensor([7.0, 0.5, -7.0])[None, None, :, None], c).flatten().tolist() == [3, 2, -1]
