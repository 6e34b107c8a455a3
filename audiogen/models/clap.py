"""CLAP: sounds and sentences in one space (Elizalde et al. 2022; Wu et al. 2023), beside a model's text encoder.

Shapes: B items, T mel frames, M bins, C channels, D of the space that sounds and texts meet in.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import ClapConfig
from audiogen.models.compact import ResBlock
from audiogen.models.layers import Conv2d, GroupNorm

GROUPS = 16                                                      # of the norms: channels are multiples of it
STRIDE = 4                                                       # mel frames and bins of the first level


class AudioTower(nn.Module):
    """Scaled log-mel images to embeddings: convolutions at 1/4, 1/8, ... of the mel, then attention to the frames that matter."""

    def __init__(self, config: ClapConfig, bins: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(1, config.channels[0], STRIDE, stride=STRIDE)]
        for i, c in enumerate(config.channels):
            if i:
                layers.append(Conv2d(config.channels[i - 1], c, 4, stride=2, padding=1))
            layers += [ResBlock(c, GROUPS) for _ in range(config.layers)]
        last = config.channels[-1]
        self.body = nn.Sequential(*layers, GroupNorm(GROUPS, last), nn.SiLU())
        rows = bins // STRIDE // 2 ** (len(config.channels) - 1)
        self.join = nn.Linear(last * rows, 2 * config.embedding)
        self.weight, self.out = nn.Linear(2 * config.embedding, 1), nn.Linear(2 * config.embedding, config.embedding)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 1, T, M) -> embeddings of length 1 (B, D)"""
        x = self.body(image)                                     # (B, C, t, m)
        x = F.gelu(self.join(x.transpose(1, 2).flatten(2)))      # (B, t, 2 D)
        x = (self.weight(x).softmax(dim=1) * x).sum(dim=1)
        return F.normalize(self.out(x).float(), dim=-1)


class Clap(nn.Module):
    """The audio tower, and what brings the text encoder's embeddings into its space: a projection, if a `width` is given."""

    def __init__(self, config: ClapConfig, bins: int, width: int | None) -> None:
        super().__init__()
        self.audio = AudioTower(config, bins)
        self.text = nn.Identity() if width is None else nn.Linear(width, config.embedding)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))                    # log of the contrast's inverse temperature

    def forward(self, image: Tensor, film: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 1, T, M), the text encoder's film (B, W) -> embeddings of length 1 (B, D) of the sounds and of the texts"""
        return self.audio(image), F.normalize(self.text(film).float(), dim=-1)
