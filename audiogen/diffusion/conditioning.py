"""What text becomes: everything that the U-Net may look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Context sequences for cross-attention, their masks, and one global embedding."""

    contexts: tuple[Tensor, ...] = ()                            # (B, L_i, D_i) each
    masks: tuple[Tensor | None, ...] = ()                        # (B, L_i) bool, True = attend
    film: Tensor | None = None                                   # (B, D)

    def map(self, f: Callable[[Tensor], Tensor]) -> "Conditioning":
        """Apply `f` to each tensor."""
        return Conditioning(
            tuple(f(c) for c in self.contexts),
            tuple(None if m is None else f(m) for m in self.masks),
            None if self.film is None else f(self.film),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Conditioning":
        """Move all; convert all but the masks."""
        return self.map(lambda x: x.to(device) if x.dtype == torch.bool else x.to(device, dtype))


Pair = tuple[Conditioning, Conditioning | None]                 # of a prompt, and of what it is guided away from


def collate(parts: Sequence[Conditioning]) -> Conditioning:
    """One batch of all the items of `parts`; shorter contexts are padded with zeros that are masked."""
    first = parts[0]
    joined = [_join([p.contexts[i] for p in parts], [p.masks[i] for p in parts]) for i in range(len(first.contexts))]
    film = None if first.film is None else torch.cat([p.film for p in parts if p.film is not None])
    return Conditioning(tuple(c for c, _ in joined), tuple(m for _, m in joined), film)


def _join(contexts: list[Tensor], masks: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
    """Contexts (B_i, L_i, D) as one (B, L, D), and the mask (B, L) that it needs, if any."""
    length = max(c.shape[1] for c in contexts)
    if all(m is None and c.shape[1] == length for c, m in zip(contexts, masks, strict=True)):
        return torch.cat(contexts), None
    full = [torch.ones(c.shape[:2], dtype=torch.bool, device=c.device) if m is None else m
            for c, m in zip(contexts, masks, strict=True)]
    return (torch.cat([F.pad(c, (0, 0, 0, length - c.shape[1])) for c in contexts]),
            torch.cat([F.pad(m, (0, length - m.shape[1])) for m in full]))
