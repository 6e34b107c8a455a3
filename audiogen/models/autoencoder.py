"""The variational autoencoder of the published checkpoints (Kingma and Welling 2014; Esser et al. 2021; Rombach et al. 2022).

Parameter names are the published ones. Shapes: B items, K planes, H x W mel image, C latent channels, h x w latents.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import AutoencoderConfig
from audiogen.models.layers import Conv2d, GroupNorm, Linear


@dataclass(frozen=True)
class Gaussian:
    """What an encoder says of latents: independent normal distributions."""

    mean: Tensor                                                 # (B, C, h, w)
    logvar: Tensor                                               # (B, C, h, w)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw (B, C, h, w), its noise from a CPU generator if one is given."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + noise.to(self.mean.device) * (0.5 * self.logvar).exp()

    def kl(self) -> Tensor:
        """Kullback-Leibler divergence from the standard normal, in nats a latent value: ()"""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).mean()


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps=1e-6)
        self.conv1 = Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = GroupNorm(groups, c_out, eps=1e-6)
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:                      # (B, C, H, W) -> (B, C', H, W)
        y = self.conv1(self.norm1(x, silu=True))
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.conv2(self.norm2(y, silu=True), plus=x)


class SelfAttention(nn.Module):
    """One head over all positions."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:                      # (B, C, h, w)
        y = self.group_norm(x).flatten(2).transpose(1, 2)[:, None]  # (B, 1, N, C)
        y = F.scaled_dot_product_attention(self.to_q(y), self.to_k(y), self.to_v(y))
        return x + self.to_out[0](y)[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))                 # the published padding: right and below only


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    def __init__(self, c_in: int, c_out: int, layers: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(c_in if j == 0 else c_out, c_out, groups) for j in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        for sampler in [*getattr(self, "downsamplers", []), *getattr(self, "upsamplers", [])]:
            x = sampler(x)
        return x


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([SelfAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, last = config.channels, len(config.channels) - 1
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, out in enumerate(widths):
            level = Level(widths[max(i - 1, 0)], out, config.layers, config.groups)
            if i < last:
                level.downsamplers = nn.ModuleList([Downsample(out)])
            self.down_blocks.append(level)
        self.mid_block = Middle(widths[-1], config.groups)
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:                      # (B, K, H, W) -> (B, 2 C, h, w)
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        widths, last = config.channels[::-1], len(config.channels) - 1
        self.conv_in = Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], config.groups)
        self.up_blocks = nn.ModuleList()
        for i, out in enumerate(widths):
            level = Level(widths[max(i - 1, 0)], out, config.layers + 1, config.groups)
            if i < last:
                level.upsamplers = nn.ModuleList([Upsample(out)])
            self.up_blocks.append(level)
        self.conv_norm_out = GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = Conv2d(widths[-1], config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:                      # (B, C, h, w) -> (B, K, H, W)
        x = self.mid_block(self.conv_in(z))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class Autoencoder(nn.Module):
    """The published AutoencoderKL; latents are the encoder's own, before ModelConfig's scale."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = Conv2d(2 * c, 2 * c, 1)
        self.post_quant_conv = Conv2d(c, c, 1)

    def encode(self, image: Tensor) -> Gaussian:
        """mel image (B, K, H, W), H and W multiples of the factor -> latents (B, C, h, w)"""
        mean, logvar = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """latents (B, C, h, w) -> mel image (B, K, H, W)"""
        return self.decoder(self.post_quant_conv(z))
