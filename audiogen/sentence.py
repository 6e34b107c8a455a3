"""The default model's text: a sentence encoder's states as context, their mean as film."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from audiogen.config import read_json
from audiogen.diffusion.conditioning import Conditioning, Pair
from audiogen.errors import CheckpointError
from audiogen.models.bert import Bert
from audiogen.models.unset import unset


class Sentence:
    """A sentence encoder and its tokenizer; `limit` tokens, the first and the last of them the tokenizer's own."""

    def __init__(self, tokenizer: Tokenizer, encoder: Bert, limit: int):
        self.tokenizer, self.encoder, self.limit = tokenizer, encoder, limit

    def ids(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text).ids
        return ids if len(ids) <= self.limit else [*ids[: self.limit - 1], ids[-1]]

    def states(self, text: str) -> Conditioning:
        """One sentence: context (1, L, D), film (1, D)"""
        return self.together([text])[0]

    def together(self, texts: list[str]) -> list[Conditioning]:
        """Many sentences, those of one length at once: each as by `states`."""
        device = self.encoder.embeddings.word_embeddings.weight.device
        ids = [self.ids(t) for t in texts]
        out: dict[int, Conditioning] = {}
        for length in sorted({len(i) for i in ids}):
            places = [at for at, i in enumerate(ids) if len(i) == length]
            hidden = self.encoder(torch.tensor([ids[at] for at in places], device=device))           # (B, L, D)
            for at, h in zip(places, hidden, strict=True):
                out[at] = Conditioning((h[None],), (None,), h.mean(dim=0, keepdim=True))
        return [out[at] for at in range(len(texts))]

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        return self.states(prompt), self.states(negative or "") if guided else None

    def excess(self, prompt: str) -> str:
        ids = self.tokenizer.encode(prompt).ids
        return self.tokenizer.decode(ids[self.limit - 1 : -1]) if len(ids) > self.limit else ""

    def tokens(self, prompt: str) -> list[str]:
        return [self.tokenizer.decode([i], skip_special_tokens=True) for i in self.ids(prompt)]


def load_sentence(folder: Path, max_length: int | None, state: dict[str, Tensor], device: str, dtype: torch.dtype) -> Sentence:
    """The encoder with the weights `state`, and the tokenizer in `folder`; raises CheckpointError."""
    data = read_json(folder / "config.json")
    with unset():
        encoder = Bert(data)
    state = {k: v.to(dtype) for k, v in state.items() if not k.endswith("position_ids") and not k.startswith("pooler.")}
    try:
        encoder.load_state_dict(state, assign=True)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:                                   # tokenizers raises plain Exceptions
        raise CheckpointError(f"{folder}: no sentence encoder there ({' '.join(str(error).split())[:200]}).") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Sentence(tokenizer, encoder.to(device).eval().requires_grad_(False), max_length or data["max_position_embeddings"])
