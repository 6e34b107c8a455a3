"""Prompt-to-prompt (Hertz et al. 2022): control of a sound through the attention of the U-Net.

Each function takes a denoiser and builds one. Shapes: B items (twice as many rows under guidance, the conditional ones
last), N positions, L tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.diffusion.sampling import Denoise
from audiogen.models.unet import Attention, KeysValues, Transformer, TransformerBlock, UNet

Edit = Callable[[Tensor], Tensor]                                # probabilities (B, heads, N, L) -> the same
MOST = 1024                                                      # positions up to which self-attention is shared, as published


def cross(unet: UNet) -> Iterator[tuple[int, Attention]]:
    """Each attention that looks at a context, and which one."""
    for module in unet.modules():
        if isinstance(module, Transformer) and module.target is not None:
            for block in module.transformer_blocks:
                assert isinstance(block, TransformerBlock)
                yield module.target, block.attn2


def inner(unet: UNet) -> Iterator[Attention]:
    """Each attention of positions to each other."""
    crossing = {id(layer) for _, layer in cross(unet)}
    return (m for m in unet.modules() if isinstance(m, Attention) and id(m) not in crossing)


@contextmanager
def edited(layer: Attention, edit: Edit) -> Iterator[None]:
    """Within, `layer` attends as `edit` says, after what is edited already."""
    before = layer.edit
    layer.edit = edit if before is None else lambda p: edit(before(p))
    try:
        yield
    finally:
        layer.edit = before


def weighted(denoise: Denoise, unet: UNet, context: int, weights: Tensor) -> Denoise:
    """Attention to each token of a context times its weight (B, L), in the conditional rows; not normalised, as published."""
    def scale(p: Tensor) -> Tensor:
        full = p.new_ones(p.shape[0], p.shape[-1])               # (B or 2 B, L)
        full[-len(weights) :, : weights.shape[1]] = weights.to(p)
        return p * full[:, None, None, :]

    def weigh(x: Tensor, sigma: Tensor) -> Tensor:
        with ExitStack() as stack:
            for target, layer in cross(unet):
                if target == context:
                    stack.enter_context(edited(layer, scale))
            return denoise(x, sigma)

    return weigh


def shared(denoise: Denoise, unet: UNet, maps: Mapping[int, Tensor], cross_until: float, self_until: float) -> Denoise:
    """The denoiser of two items of which the second attends where the first does, down to a level of noise.

    `maps` holds for a context which tokens of the first prompt (L) stand where those of the second (L') do: (L, L'),
    columns of zeros for tokens that attend by themselves. Self-attention is shared, on small maps, down to `self_until`.
    """
    def follow(matrix: Tensor) -> Edit:
        def edit(p: Tensor) -> Tensor:
            more = p.shape[-1] - matrix.shape[1]                 # what is guided away from may be longer
            m = F.pad(matrix, (0, more, 0, more)).to(p)
            own = 1 - m.sum(dim=0).clamp(max=1)                  # (L',)
            return torch.cat([p[:-1], (p[-2] @ m + p[-1] * own)[None]])
        return edit

    def copy(p: Tensor) -> Tensor:
        return torch.cat([p[:-1], p[-2:-1]]) if p.shape[-1] <= MOST else p

    def lead(x: Tensor, sigma: Tensor) -> Tensor:
        with ExitStack() as stack:
            if sigma > cross_until:
                for target, layer in cross(unet):
                    if target in maps:
                        stack.enter_context(edited(layer, follow(maps[target])))
            if sigma > self_until:
                for layer in inner(unet):
                    stack.enter_context(edited(layer, copy))
            return denoise(x, sigma)

    return lead


class Watched:
    """A denoiser that remembers how much each position attended to each token, on the mean over layers, heads and steps.

    It looks on from outside the layers: what is denoised is the same to the last bit.
    """

    def __init__(self, denoise: Denoise, unet: UNet, context: int):
        self.denoise, self.unet, self.context = denoise, unet, context
        self.total: Tensor | None = None                         # (h, w, L)
        self.count = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        layers = [layer for target, layer in cross(self.unet) if target == self.context]
        hooks = [layer.register_forward_pre_hook(lambda layer, inputs: self._remember(x.shape[-2:], layer, *inputs))
                 for layer in layers]
        try:
            return self.denoise(x, sigma)
        finally:
            for hook in hooks:
                hook.remove()

    def _remember(self, size: Sequence[int], layer: Attention, x: Tensor, known: KeysValues, mask: Tensor | None) -> None:
        """The map of a layer at positions x (B or 2 B, N, D), of the last item: the conditional one."""
        q, k = layer.split(layer.to_q(x[-1:])), known[0][-1:]    # (1, heads, N, d), (1, heads, L, d)
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[-1], -torch.inf)
        h, w = size
        while h * w > x.shape[1]:                                # the layer's map: halved some times, rounded up
            h, w = -(-h // 2), -(-w // 2)
        maps = scores.softmax(dim=-1)[0].mean(dim=0).T.unflatten(1, (h, w))      # (L, h', w')
        maps = F.interpolate(maps[None], size=tuple(size), mode="bilinear")[0].permute(1, 2, 0).cpu()
        self.total = maps if self.total is None else self.total + maps
        self.count += 1

    def maps(self) -> Tensor:
        """(h, w, L): what part of its attention each latent position gave each token; 1 over all tokens."""
        assert self.total is not None
        return self.total / self.count
