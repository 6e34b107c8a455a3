"""The denoising U-Net of every family: AudioLDM (film), AudioLDM 2 (two contexts), Stable Diffusion (one context).

Ronneberger et al. 2015, Ho et al. 2020, Rombach et al. 2022. Parameter names are the published ones, so weights load as
they lie. Shapes: B items, C channels, h x w latent rows and columns, N = h w positions, L tokens, D width.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import UNetConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.layers import GEGLU, Conv2d, GroupNorm, LayerNorm, Linear, Pointwise

KeysValues = tuple[Tensor, Tensor]                               # (B, heads, L, d) each


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_time: int, groups: int):
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = Linear(c_time, c_out)
        self.norm2 = GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:         # (B, C, h, w), (B, D) -> (B, C', h, w)
        y = self.conv1(self.norm1(x, silu=True))
        y = y + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        x = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.conv2(self.norm2(y, silu=True), plus=x)


class Attention(nn.Module):
    """Multi-head attention over itself (context None) or over a context.

    `edit`, if set, maps the attention probabilities (B, heads, N, L) to those that are used (prompt-to-prompt).
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None):
        super().__init__()
        self.heads = heads
        self.edit: Callable[[Tensor], Tensor] | None = None
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(context_dim or dim, dim, bias=False)
        self.to_v = Linear(context_dim or dim, dim, bias=False)
        self.to_out = nn.ModuleList([Linear(dim, dim)])

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, N, D) -> (B, heads, N, d)

    def keys_values(self, context: Tensor) -> KeysValues:
        """What a context (B, L, D) is to this layer: the same at every step of a sampler."""
        return self.split(self.to_k(context)), self.split(self.to_v(context))

    def forward(self, x: Tensor, known: KeysValues | None = None, mask: Tensor | None = None,
                plus: Tensor | None = None) -> Tensor:
        q = self.split(self.to_q(x))                             # (B, heads, N, d)
        k, v = self.keys_values(x) if known is None else known   # (B, heads, L, d)
        mask = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L)
        if self.edit is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            out = self.edit(scores.softmax(dim=-1)) @ v
        return self.to_out[0](out.transpose(1, 2).flatten(2), plus)                  # (B, N, D)


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, dim * 4), nn.Identity(), Linear(dim * 4, dim))

    def forward(self, x: Tensor, plus: Tensor) -> Tensor:        # (B, N, D)
        return self.net[2](self.net[0](x), plus)                 # type: ignore[operator]


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, context_dim: int | None):
        super().__init__()
        self.norm1, self.attn1 = LayerNorm(dim), Attention(dim, heads, None)
        self.norm2, self.attn2 = LayerNorm(dim), Attention(dim, heads, context_dim)
        self.norm3, self.ff = LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, known: KeysValues | None, mask: Tensor | None) -> Tensor:
        x = self.attn1(self.norm1(x), plus=x)
        x = self.attn2(self.norm2(x), known, mask, plus=x)
        return self.ff(self.norm3(x), plus=x)                    # (B, N, D)


class Transformer(nn.Module):
    """Transformer blocks over the positions of a feature map; `target` is the context that they look at."""

    def __init__(self, dim: int, heads: int, target: int | None, config: UNetConfig):
        super().__init__()
        linear = config.linear_projection
        context_dim = None if target is None else config.context_dims[target]
        self.target = target
        self.norm = GroupNorm(config.groups, dim, eps=1e-6)
        self.proj_in = Linear(dim, dim) if linear else Pointwise(dim, dim)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(dim, heads, context_dim) for _ in range(config.depth))
        self.proj_out = Linear(dim, dim) if linear else Pointwise(dim, dim)

    def forward(self, x: Tensor, known: list[KeysValues] | None, mask: Tensor | None) -> Tensor:
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))                    # (B, N, C)
        for i, block in enumerate(self.transformer_blocks):
            y = block(y, None if known is None else known[i], mask)
        y = self.proj_out(y, plus=x.flatten(2).transpose(1, 2))
        return y.transpose(1, 2).unflatten(2, x.shape[-2:])      # (B, C, h, w)


class Resample(nn.Module):
    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Level(nn.Module):
    """One resolution: ResBlocks, each followed by a transformer per entry of config.transformers."""

    def __init__(self, widths: list[tuple[int, int]], heads: int | None, c_time: int, config: UNetConfig,
                 attended: int | None = None):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(i, o, c_time, config.groups) for i, o in widths)
        self.per_block = len(config.transformers) if heads else 0
        if heads:
            self.attentions = nn.ModuleList(
                Transformer(o, heads, target, config) for _, o in widths[:attended] for target in config.transformers)

    def attend(self, x: Tensor, j: int, context: "Attended") -> Tensor:
        """The transformers after ResBlock j."""
        for k in range(self.per_block):
            layer = self.attentions[j * self.per_block + k]
            x = layer(x, context.known(layer), context.mask(layer))  # type: ignore[arg-type]
        return x


class Attended:
    """A Conditioning as the transformers see it: keys and values are projected once, however many steps use them."""

    def __init__(self, cond: Conditioning, known: dict[int, list[KeysValues]] | None = None):
        self.cond = cond
        self._known = {} if known is None else known             # by id of the layer

    def known(self, layer: Transformer) -> list[KeysValues] | None:
        if layer.target is None:
            return None
        if id(layer) not in self._known:
            context = self.cond.contexts[layer.target]           # (B, L, D)
            self._known[id(layer)] = [block.attn2.keys_values(context) for block in layer.transformer_blocks]  # type: ignore[union-attr, operator]
        return self._known[id(layer)]

    def mask(self, layer: Transformer) -> Tensor | None:
        return None if layer.target is None else self.cond.masks[layer.target]


class UNet(nn.Module):
    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        c0, c_time = config.channels[0], config.channels[0] * 4
        self.time_embedding = nn.ModuleDict({"linear_1": Linear(c0, c_time), "linear_2": Linear(c_time, c_time)})
        if config.film_dim:
            self.class_embedding = Linear(config.film_dim, c_time)
            c_time *= 2                                          # film stands beside the time embedding
        self.conv_in = Conv2d(config.in_channels, c0, 3, padding=1)

        heads = [n if on else None for n, on in zip(config.heads, config.attention, strict=True)]
        last = len(config.channels) - 1
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, c = [c0], c0
        for i, out in enumerate(config.channels):
            widths = [(c if j == 0 else out, out) for j in range(config.layers_per_block)]
            level = Level(widths, heads[i], c_time, config)
            skips += [out] * config.layers_per_block
            if i < last:
                level.downsamplers = nn.ModuleList([Resample(out, stride=2)])
                skips.append(out)
            self.down_blocks.append(level)
            c = out
        self.mid_block = Level([(c, c), (c, c)], config.heads[-1], c_time, config, attended=1)
        for i, out in reversed(list(enumerate(config.channels))):
            widths = [((c if j == 0 else out) + skips.pop(), out) for j in range(config.layers_per_block + 1)]
            level = Level(widths, heads[i], c_time, config)
            if i > 0:
                level.upsamplers = nn.ModuleList([Resample(out, stride=1)])
            self.up_blocks.append(level)
            c = out
        self.conv_norm_out = GroupNorm(config.groups, c0, eps=1e-5)
        self.conv_out = Conv2d(c0, config.out_channels, 3, padding=1)

    @property
    def dtype(self) -> torch.dtype:
        return self.conv_in.weight.dtype

    def forward(self, x: Tensor, step: Tensor, cond: Conditioning | Attended) -> Tensor:
        """Predict noise (or velocity, as trained).

        x (B, C, h, w) noisy latents of unit-variance frame, step (B,) training steps, which may be fractional -> (B, C, h, w)
        """
        context = cond if isinstance(cond, Attended) else Attended(cond)
        emb = timestep_embedding(step, self.config.channels[0]).to(x.dtype)          # (B, C0)
        emb = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](emb)))
        if self.config.film_dim:
            emb = torch.cat([emb, self.class_embedding(context.cond.film)], dim=-1)  # (B, 2 * 4 C0)

        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            for j, resnet in enumerate(level.resnets):           # type: ignore[arg-type]
                x = level.attend(resnet(x, emb), j, context)     # type: ignore[operator]
                skips.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)                     # type: ignore[index, operator]
                skips.append(x)

        first, second = self.mid_block.resnets
        x = second(self.mid_block.attend(first(x, emb), 0, context), emb)

        for level in self.up_blocks:
            for j, resnet in enumerate(level.resnets):           # type: ignore[arg-type]
                x = level.attend(resnet(torch.cat([x, skips.pop()], dim=1), emb), j, context)  # type: ignore[operator]
            if hasattr(level, "upsamplers"):
                x = F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest")
                x = level.upsamplers[0](x)                       # type: ignore[index, operator]
        return self.conv_out(self.conv_norm_out(x, silu=True))

    def cross_attentions(self) -> Iterator[tuple[str, Attention]]:
        """Name and layer of each attention that looks at a context of the text."""
        for name, module in self.named_modules():
            if isinstance(module, Transformer) and module.target is not None:
                for i, block in enumerate(module.transformer_blocks):
                    yield f"{name}.{i}", block.attn2             # type: ignore[misc]


def timestep_embedding(step: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of step at dim // 2 frequencies from 1 down to 1 / 10,000. step (B,) -> (B, dim)"""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=step.device) / (dim // 2))
    angles = step[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
