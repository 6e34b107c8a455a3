"""Captions as the U-Net sees them, each encoded once and kept where the U-Net is.

Shapes: B captions, L tokens, D width; a table holds the rows of all captions one after another.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from audiogen.diffusion.conditioning import Conditioning

MOST = 2**30                                                     # bytes of encodings that are kept


class Table:
    """Sequences of rows (L_i, D) in one tensor that grows by doubling."""

    def __init__(self) -> None:
        self.rows = torch.empty(0, 0)                            # (capacity, D)
        self.ends = [0]                                          # sequence i is rows ends[i] to ends[i + 1]

    @property
    def size(self) -> int:
        """Bytes of what was added."""
        return self.ends[-1] * self.rows.shape[1] * self.rows.element_size()

    def add(self, sequences: list[Tensor]) -> None:
        """Append sequences (L_i, D)."""
        new = torch.cat(sequences)
        used = self.ends[-1]
        if used + len(new) > len(self.rows):
            larger = new.new_empty(2 * (used + len(new)), new.shape[1])
            if used:
                larger[:used] = self.rows[:used]
            self.rows = larger
        self.rows[used : used + len(new)] = new
        for s in sequences:
            self.ends.append(self.ends[-1] + len(s))

    def take(self, items: list[int], unit: int = 1) -> tuple[Tensor, Tensor | None]:
        """Sequences by number: (B, L, D), L a multiple of `unit`, and the mask (B, L) of their own rows if some are shorter."""
        starts = torch.tensor([self.ends[i] for i in items])
        lengths = torch.tensor([self.ends[i + 1] - self.ends[i] for i in items])
        place = torch.arange(-(-int(lengths.max()) // unit) * unit)                    # (L,)
        own = place < lengths[:, None]                           # (B, L)
        at = torch.where(own, starts[:, None] + place, 0).to(self.rows.device)
        mask = None if bool(own.all()) else own.to(self.rows.device)
        rows = self.rows[at]
        return (rows if mask is None else rows * mask[..., None]), mask


class Captions:
    """A batch of captions to its Conditioning, the same as of their own encodings collated.

    `encode` makes one Conditioning, of a batch of 1, for each caption it is given. Contexts are filled up, and masked, to a
    multiple of `unit` tokens. All are forgotten when they are more than `most` bytes.
    """

    def __init__(self, encode: Callable[[list[str]], list[Conditioning]], device: str, unit: int = 1, most: int = MOST) -> None:
        self.encode, self.device, self.unit, self.most = encode, device, unit, most
        self.forget()

    def forget(self) -> None:
        self.numbers: dict[str, int] = {}
        self.contexts: list[Table] = []
        self.film: Table | None = None

    def __call__(self, captions: list[str]) -> Conditioning:
        if sum(t.size for t in (*self.contexts, self.film) if t is not None) > self.most:
            self.forget()
        if new := [c for c in dict.fromkeys(captions) if c not in self.numbers]:
            self.learn(new)
        items = [self.numbers[c] for c in captions]
        taken = [table.take(items, self.unit) for table in self.contexts]
        film = self.film.take(items)[0][:, 0] if self.film is not None else None
        return Conditioning(tuple(c for c, _ in taken), tuple(m for _, m in taken), film)

    @torch.no_grad()
    def learn(self, captions: list[str]) -> None:
        """Encode captions that are not known yet."""
        made = [c.to(self.device, torch.float32) for c in self.encode(captions)]
        if not self.numbers:
            self.contexts = [Table() for _ in made[0].contexts]
            self.film = None if made[0].film is None else Table()
        for i, table in enumerate(self.contexts):                # what is masked is seen by nobody: it is left out
            table.add([c.contexts[i][0] if (m := c.masks[i]) is None else c.contexts[i][0][m[0]] for c in made])
        if self.film is not None:
            self.film.add([c.film for c in made if c.film is not None])
        for caption in captions:
            self.numbers[caption] = len(self.numbers)
