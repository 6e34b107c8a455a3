"""CLAP's audio tower, for contrastive training with a text tower (Elizalde et al. 2022; Wu et al. 2023).

Shapes: B items, T mel frames, M bins, W width, D of the space that sounds and texts meet in.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 8                                                        # mel frames and bins


class AudioTower(nn.Module):
    """Scaled log-mel images to embeddings: patches of 8 x 8, a transformer over time, and attention to what matters."""

    def __init__(self, bins: int, width: int, layers: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width // 4, PATCH, stride=PATCH)
        self.join = nn.Linear(width // 4 * (bins // PATCH), width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.weight, self.out = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, embedding)
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))                    # log of the contrast's inverse temperature

    def forward(self, image: Tensor) -> Tensor:
        """image (B, 1, T, M) -> embeddings of length 1 (B, D)"""
        x = F.gelu(self.patch(image))                            # (B, W / 4, T / 8, M / 8)
        x = self.join(x.permute(0, 2, 1, 3).flatten(2))          # (B, T / 8, W)
        x = self.norm(self.layers(x + positions(x)))
        x = (self.weight(x).softmax(dim=1) * x).sum(dim=1)       # (B, W)
        return F.normalize(self.out(x).float(), dim=-1)


def positions(x: Tensor) -> Tensor:
    """Sines and cosines of the place in time (Vaswani et al. 2017). x (B, L, W) -> (L, W)"""
    n, width = x.shape[1], x.shape[2]
    at = torch.arange(n, device=x.device)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10_000) / width))
    return torch.stack([(at * rate).sin(), (at * rate).cos()], dim=-1).flatten(1)[:, :width].to(x.dtype)
