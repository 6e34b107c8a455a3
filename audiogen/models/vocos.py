"""A vocoder that predicts a short-time spectrum and inverts it (after Siuzdak 2023: Vocos), with noise as a part.

Two things are added, so that little training suffices and textures are possible at all. The mel itself, spread over the
frequencies, is the first guess of the magnitudes: the network predicts corrections. And beside the partials, whose
phases it predicts, it sets the level of a noise spectrum: rain cannot be made by a deterministic function of a mel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import MelConfig, VocoderConfig

MEAN, STD = -5.5, 3.0                                            # of log-mels of sounds at usual levels
TAPE = 1024                                                      # frames of the noise that is repeated at inference
CEILING = 6.0                                                    # of log magnitudes: just above a full-scale sine's


class ConvNeXt(nn.Module):
    """A depthwise convolution in time, then a two-layer network at each frame. (B, T, C) -> (B, T, C)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1 / 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(h))))


class Vocos(nn.Module):
    """Natural-log mel (B, M, T) -> wave (B, T * hop).

    In training mode the noise is drawn anew at each call; in eval mode it is one fixed tape, so that the same mel gives
    the same wave in any batch.
    """

    window: Tensor
    spread: Tensor
    tape: Tensor

    def __init__(self, config: VocoderConfig, mel: MelConfig) -> None:
        super().__init__()
        self.config, self.hop, self.center = config, mel.hop, mel.center
        c, n = config.channels, config.n_fft
        self.frequencies = n // 2 + 1
        self.stem = nn.Conv1d(config.bins + config.noise, c, 7, padding=3)
        self.norm_in = nn.LayerNorm(c)
        self.blocks = nn.ModuleList(ConvNeXt(c) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(c)
        self.head = nn.Linear(c, 3 * self.frequencies)           # log magnitude, phase, log level of the noise
        level = math.log(sum(torch.hann_window(mel.win_length).square().tolist()) ** 0.5)
        with torch.no_grad():
            self.head.weight[: self.frequencies] *= 0.3
            self.head.weight[2 * self.frequencies :] *= 0.3
            self.head.bias[: self.frequencies] = -1.0
            self.head.bias[2 * self.frequencies :] = 0.5 * math.log(1.5 * n) - level - 0.2   # the mel's level as white noise
        self.register_buffer("window", torch.hann_window(n), persistent=False)
        self.register_buffer("spread", spread(config, mel), persistent=False)
        tape = torch.randn(config.noise + 2 * self.frequencies, TAPE, generator=torch.Generator().manual_seed(0))
        self.register_buffer("tape", tape, persistent=False)
        # a flat magnitude spectrum of 1 gives n_fft / sample_rate in each band
        self.flat = math.log(mel.sample_rate / mel.n_fft)

    def forward(self, mel: Tensor) -> Tensor:
        b, _, t = mel.shape
        f, k = self.frequencies, self.config.noise
        if self.training:
            noise = torch.randn(b, k + 2 * f, t, device=mel.device)
        else:
            noise = self.tape.repeat(1, t // TAPE + 1)[None, :, :t].expand(b, -1, -1)
        x = torch.cat([(mel - MEAN) / STD, noise[:, :k].to(mel.dtype)], dim=1)
        x = self.norm_in(self.stem(x).transpose(1, 2))           # (B, T, C)
        for block in self.blocks:
            x = block(x)
        out = self.head(self.norm_out(x)).float().transpose(1, 2)                      # (B, 3 F, T)
        magnitude, phase, level = out.split(f, dim=1)            # (B, F, T)
        guess = self.spread @ mel.float() + self.flat
        white = torch.complex(noise[:, k : k + f], noise[:, k + f :]) * math.sqrt(0.5)
        spectrum = torch.polar((guess + magnitude).clamp(max=CEILING).exp(), phase)
        return self.invert(spectrum + (guess + level).clamp(max=CEILING).exp() * white)

    def invert(self, spectrum: Tensor) -> Tensor:
        """Overlap-add of the frames' inverse transforms, phases relative to each frame's middle. (B, F, T) -> (B, T * hop)"""
        n, t = self.config.n_fft, spectrum.shape[-1]
        sign = 1 - 2 * (torch.arange(self.frequencies, device=spectrum.device) % 2)
        frames = torch.fft.irfft(spectrum * sign[:, None], n=n, dim=1) * self.window[:, None]      # (B, n, T)
        total = self.overlap(frames)
        weight = self.overlap(self.window.square()[None, :, None].expand(1, -1, t))
        first = n // 2 if self.center else (n - self.hop) // 2
        return (total / weight.clamp(min=1e-2))[:, first : first + t * self.hop]

    def overlap(self, frames: Tensor) -> Tensor:
        """(B, n, T) -> (B, (T - 1) * hop + n)"""
        n, t = self.config.n_fft, frames.shape[-1]
        return F.fold(frames, (1, (t - 1) * self.hop + n), (1, n), stride=(1, self.hop))[:, 0, 0]


def spread(config: VocoderConfig, mel: MelConfig) -> Tensor:
    """Linear interpolation from the mel bands' middles to the inverse transform's frequencies. (F, M)"""
    from torchaudio.functional import melscale_fbanks

    fine = 16 * mel.n_fft                                        # a fine grid, on which each filter's middle is its peak
    filters = melscale_fbanks(fine // 2 + 1, mel.fmin, mel.fmax, mel.bins, mel.sample_rate, "slaney", "slaney")
    middle = filters.argmax(dim=0) * (mel.sample_rate / fine)    # (M,) Hz
    hz = torch.linspace(0, mel.sample_rate / 2, config.n_fft // 2 + 1).clamp(middle[0], middle[-1])     # (F,)
    above = torch.searchsorted(middle, hz).clamp(1, mel.bins - 1)
    part = (hz - middle[above - 1]) / (middle[above] - middle[above - 1])
    eye = torch.eye(mel.bins)
    return torch.lerp(eye[above - 1], eye[above], part[:, None])
