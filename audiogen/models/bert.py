"""The sentence encoder of the default model: BERT (Devlin et al. 2019), under its published parameter names.

transformers has the same network; importing it takes longer than making a sound with the default model does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Embeddings(nn.Module):
    def __init__(self, words: int, positions: int, types: int, dim: int, eps: float):
        super().__init__()
        self.word_embeddings = nn.Embedding(words, dim)
        self.position_embeddings = nn.Embedding(positions, dim)
        self.token_type_embeddings = nn.Embedding(types, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, ids: Tensor) -> Tensor:                    # (B, L) -> (B, L, D)
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.word_embeddings(ids) + self.position_embeddings(positions) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(x)


class Layer(nn.Module):
    """Self-attention, then a feed-forward network, each normalised after its residual."""

    def __init__(self, dim: int, heads: int, inner: int, eps: float):
        super().__init__()
        self.heads = heads
        three = {name: nn.Linear(dim, dim) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict(three),
            "output": nn.ModuleDict({"dense": nn.Linear(dim, dim), "LayerNorm": nn.LayerNorm(dim, eps=eps)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, inner)})
        self.output = nn.ModuleDict({"dense": nn.Linear(inner, dim), "LayerNorm": nn.LayerNorm(dim, eps=eps)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, L, D), (B, 1, 1, L)
        q, k, v = (self.attention["self"][n](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)   # type: ignore[index]
                   for n in ("query", "key", "value"))           # (B, heads, L, d)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        x = self.attention["output"]["LayerNorm"](x + self.attention["output"]["dense"](y))       # type: ignore[index]
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + y)


class Bert(nn.Module):
    """Token numbers of sentences to their last hidden states; `config` is BERT's config.json."""

    def __init__(self, config: dict):
        super().__init__()
        dim, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = Embeddings(config["vocab_size"], config["max_position_embeddings"], config["type_vocab_size"], dim, eps)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = [Layer(dim, heads, inner, eps) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(self.layers)})

    def forward(self, ids: Tensor, own: Tensor | None = None) -> Tensor:
        """(B, L) whole numbers, and which of them are the sentence's own (B, L), if not all -> (B, L, D)"""
        x, mask = self.embeddings(ids), None if own is None else own[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        return x
