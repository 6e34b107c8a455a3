"""Waves to log-mel spectrograms, and their form as the autoencoder's image.

Shapes: B items, S samples, T frames, M bins, K planes.
"""

import math

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from audiogen.config import MelConfig

FLOOR = 1e-5                                                     # of a mel magnitude, before its logarithm
PIECE = 4096                                                     # frames whose spectra are in memory at once


class Mel(nn.Module):
    """Natural-log mel magnitudes on Slaney's scale and norm, as HiFi-GAN takes them."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hann_window(config.win_length), persistent=False)
        self.register_buffer("filters", torchaudio.functional.melscale_fbanks(
            config.n_fft // 2 + 1, config.fmin, config.fmax, config.bins, config.sample_rate,
            norm="slaney", mel_scale="slaney"), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave (B, S) -> ln mel (B, M, S // hop), each value at least ln 1e-5"""
        c = self.config
        pad = c.n_fft // 2 if c.center else (c.n_fft - c.hop) // 2
        mode = "reflect" if wave.shape[-1] > pad else "constant"  # too short a wave has nothing to reflect
        wave = F.pad(wave[:, None], (pad, pad), mode=mode)[:, 0]
        frames = (wave.shape[-1] - 2 * pad) // c.hop
        mels = []
        for a in range(0, max(frames, 1), PIECE):                # a spectrum is much larger than its mel
            b = min(a + PIECE, frames)
            piece = wave if b - a == frames else wave[:, a * c.hop : (b - 1) * c.hop + c.n_fft]
            spectrum = torch.stft(piece, c.n_fft, c.hop, c.win_length, self.window, center=False, return_complex=True)
            magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-9).sqrt()[..., : b - a]   # (B, F, T)
            mels.append(torch.matmul(self.filters.T, magnitude).clamp(min=FLOOR).log())
        return torch.cat(mels, dim=-1)


def to_image(mel: Tensor, config: MelConfig, planes: int) -> Tensor:
    """ln mel (B, M, T) -> the autoencoder's input, (B, K, T, M) or, by frequency, (B, K, M, T)"""
    image = (mel - config.mean) / config.std
    if config.clip is not None:
        image = image.clamp(-config.clip, config.clip)
    image = image.flip(1) if config.layout == "frequency" else image.transpose(1, 2)
    return image[:, None].expand(-1, planes, -1, -1)


def silence(config: MelConfig) -> float:
    """What silence is in the autoencoder's image."""
    value = (math.log(FLOOR) - config.mean) / config.std
    return value if config.clip is None else min(max(value, -config.clip), config.clip)


def from_image(image: Tensor, config: MelConfig) -> Tensor:
    """The autoencoder's output -> ln mel (B, M, T); of several planes the first counts, as in Auffusion."""
    plane = image[:, 0]
    if config.clip is not None:
        plane = plane.clamp(-config.clip, config.clip)
    plane = plane.flip(1) if config.layout == "frequency" else plane.transpose(1, 2)
    return plane * config.std + config.mean
