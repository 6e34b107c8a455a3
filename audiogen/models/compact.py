"""A small mel autoencoder for CPUs: factor 8 in time and in frequency, wide only where the map is small.

An encoder of patches (a 4 x 4 stride first) and a decoder of pixel shuffles do nearly all of their work at 1/4 and
1/8 of the resolution; at equal reconstruction it costs about a tenth of the published AutoencoderKL.
"""

from torch import Tensor, nn

from audiogen.config import AutoencoderConfig
from audiogen.models.autoencoder import Gaussian
from audiogen.models.layers import Conv2d, GroupNorm

SHUFFLED = (48, 16)                                              # channels at 1/2 and at full resolution


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions with their norms before them, and a residual path. (B, C, H, W) -> (B, C, H, W)"""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(groups, channels), Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(groups, channels), Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, silu=True))
        return self.conv2(self.norm2(h, silu=True), plus=x)


class CompactAutoencoder(nn.Module):
    """Scaled log-mel image (B, 1, T, M) <-> latents (B, C, T / 8, M / 8). T and M must be multiples of 8.

    config.channels are the encoder's widths at 1/4 and 1/8 and the decoder's at 1/8 and 1/4.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        quarter, eighth, wide, middle = config.channels
        half, full = SHUFFLED
        z, k = config.latent_channels, config.in_channels

        def blocks(channels: int, n: int) -> list[nn.Module]:
            return [ResBlock(channels, config.groups) for _ in range(n)]

        def double(c_in: int, c_out: int) -> list[nn.Module]:     # twice as long and as high
            return [Conv2d(c_in, 4 * c_out, 3, padding=1), nn.PixelShuffle(2)]

        self.encoder = nn.Sequential(
            Conv2d(k, quarter, 4, stride=4), *blocks(quarter, config.layers),                 # (B, ., T/4, M/4)
            Conv2d(quarter, eighth, 4, stride=2, padding=1), *blocks(eighth, config.layers),  # (B, ., T/8, M/8)
            GroupNorm(config.groups, eighth), nn.SiLU(), Conv2d(eighth, 2 * z, 3, padding=1))
        self.decoder = nn.Sequential(
            Conv2d(z, wide, 3, padding=1), *blocks(wide, config.layers + 1),                  # (B, ., T/8, M/8)
            *double(wide, middle), *blocks(middle, config.layers + 1),                           # (B, ., T/4, M/4)
            *double(middle, half), *blocks(half, 1),                                             # (B, ., T/2, M/2)
            GroupNorm(config.groups, half), nn.SiLU(), *double(half, full),                   # (B, ., T, M)
            nn.SiLU(), Conv2d(full, k, 3, padding=1))

    def encode(self, x: Tensor) -> Gaussian:
        """x (B, K, T, M) -> distribution of the latents (B, C, T/8, M/8)"""
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-20, 10))

    def decode(self, z: Tensor) -> Tensor:
        """z (B, C, t, m) -> (B, K, 8 t, 8 m)"""
        return self.decoder(z)
