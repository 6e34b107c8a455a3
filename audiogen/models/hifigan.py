"""The HiFi-GAN generator (Kong et al. 2020), as AudioLDM and Auffusion publish it.

Parameter names are those of the AudioLDM folders (transformers' SpeechT5HifiGan); audiogen.compat renames Auffusion's.
"""

import torch
from torch import Tensor, nn

from audiogen.config import VocoderConfig
from audiogen.models.layers import Conv1d, ConvTranspose1d, channels_last


class ResBlock(nn.Module):
    """Pairs of dilated and plain convolutions around a residual path."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], slope: float):
        super().__init__()
        self.convs1 = nn.ModuleList(Conv1d(channels, channels, kernel, d, slope) for d in dilations)
        self.convs2 = nn.ModuleList(Conv1d(channels, channels, kernel, 1, slope) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:                      # (B, C, S)
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = plain(dilated(x), x)
        return x


class HifiGan(nn.Module):
    mean: Tensor
    scale: Tensor

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config = config
        self.conv_pre = nn.Conv1d(config.bins, config.channels, 7, padding=3)
        self.upsampler, self.resblocks = nn.ModuleList(), nn.ModuleList()
        c = config.channels
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            odd = (kernel - rate) % 2 if config.exact else 0     # where the published one runs a little long
            self.upsampler.append(ConvTranspose1d(c, c // 2, kernel, rate, (kernel - rate) // 2 + odd, odd, config.slope))
            c //= 2
            for size, dilations in zip(config.resblock_kernels, config.resblock_dilations, strict=True):
                self.resblocks.append(ResBlock(c, size, dilations, config.slope))
        self.conv_post = Conv1d(c, 1, 7, 1, 0.01)                # the published slope here, whatever the config's
        self.register_buffer("mean", torch.zeros(config.bins))
        self.register_buffer("scale", torch.ones(config.bins))

    def forward(self, mel: Tensor) -> Tensor:
        """natural-log mel (B, M, T) -> wave (B, S) in [-1, 1], S = hop * T, or a few samples more if not `exact`"""
        if self.config.normalize:
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        x = self.conv_pre(mel)
        x = channels_last(x) if self.conv_post.packed else x
        branches = len(self.config.resblock_kernels)
        for i, up in enumerate(self.upsampler):
            x = up(x)                                            # (B, C / 2, rate * S)
            x = sum(block(x) for block in self.resblocks[i * branches : (i + 1) * branches]) / branches  # type: ignore[assignment]
        return torch.tanh(self.conv_post(x))[:, 0]


def length(config: VocoderConfig, frames: int) -> int:
    """Samples that a HifiGan makes of that many mel frames."""
    for rate, kernel in zip(config.rates, config.kernels, strict=True):
        odd = (kernel - rate) % 2 if config.exact else 0
        frames = (frames - 1) * rate - 2 * ((kernel - rate) // 2 + odd) + kernel + odd
    return frames
