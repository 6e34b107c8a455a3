"""Prompts to Conditioning, by the recipe of each published family.

Each prompt is encoded alone, together with what it is guided away from: an item's sound must not depend on its batch, and
AudioLDM 2's GPT-2 counts positions. Shapes: L tokens, D width; every Conditioning here has a batch of 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import TextConfig, read_json
from audiogen.diffusion.conditioning import Conditioning, Pair
from audiogen.encoders import ReadWeights, architecture, empty_cache, load_tokenizer, load_transformer
from audiogen.errors import CheckpointError, SettingsError
from audiogen.sentence import load_sentence

M = TypeVar("M", bound=nn.Module)


class TextEncoder(Protocol):
    """A prompt, and what it is guided away from, as the U-Net takes them."""

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        """(conditional, unconditional or None); raises SettingsError for what the encoder cannot take."""
        ...

    def excess(self, prompt: str) -> str:
        """The end of the prompt that the encoder cannot take in; "" if it takes all."""
        ...

    def tokens(self, prompt: str) -> list[str]:
        """The prompt's tokens, one per position of the first context that attends to words."""
        ...


@dataclass(frozen=True)
class Part:
    """A tokenizer, and the encoder that reads it."""

    tokenizer: Any
    encoder: Any
    limit: int                                                   # tokens

    def ids(self, text: str, limit: int | None = None, pad: bool = False) -> tuple[Tensor, Tensor]:
        """Token numbers and their mask, both (1, L), cut to the limit and, on request, padded to it."""
        limit = limit or self.limit
        out = self.tokenizer(text, truncation=True, max_length=limit, padding="max_length" if pad else False, return_tensors="pt")
        device = next(self.encoder.parameters()).device
        return out["input_ids"].to(device), out["attention_mask"].to(device)

    def excess(self, text: str) -> str:
        """The end of a text that does not fit the limit; "" if it all fits."""
        ids = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        return self.tokenizer.decode(ids[self.limit - 1 :], skip_special_tokens=True).strip() if len(ids) > self.limit else ""

    def words(self, text: str) -> list[str]:
        ids, _ = self.ids(text)
        return [self.tokenizer.decode([int(i)]).strip() for i in ids[0]]


class Clap:
    """AudioLDM and MusicLDM: CLAP's text embedding, of length 1, as film."""

    def __init__(self, part: Part):
        self.part = part

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:        # (1, L) -> (1, D)
        return F.normalize(self.part.encoder(ids, attention_mask=mask).text_embeds, dim=-1)

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        film = self.embed(*self.part.ids(prompt))
        if not guided:
            return Conditioning(film=film), None
        ids = self.part.ids(negative or "", limit=film.shape[1])  # the published pipelines cut it to the embedding's width
        return Conditioning(film=film), Conditioning(film=self.embed(*ids))

    def excess(self, prompt: str) -> str:
        return self.part.excess(prompt)

    def tokens(self, prompt: str) -> list[str]:
        return []


class Clip:
    """Stable Diffusion's layout: the last hidden states of CLIP, padded to its length."""

    def __init__(self, part: Part):
        self.part = part

    def states(self, text: str) -> Conditioning:
        ids, _ = self.part.ids(text, pad=True)
        return Conditioning((self.part.encoder(ids)[0],), (None,))

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        return self.states(prompt), self.states(negative or "") if guided else None

    def excess(self, prompt: str) -> str:
        return self.part.excess(prompt)

    def tokens(self, prompt: str) -> list[str]:
        return self.part.words(prompt)


class Adapter(nn.Module):
    """Auffusion's way from an encoder's width to the U-Net's."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.proj, self.norm = nn.Linear(dim, out), nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:                      # (1, L, D) -> (1, L, D')
        return self.norm(self.proj(x))


class Auffusion:
    """Auffusion: each encoder's states, padded with zeros to a fixed length, then adapted, one after another."""

    LENGTH = 77                                                  # positions, whatever the encoder's own limit

    def __init__(self, parts: list[Part], adapters: list[Adapter]):
        self.parts, self.adapters = parts, adapters

    def states(self, text: str) -> Tensor:                       # -> (1, 77 * encoders, D)
        adapted = []
        for part, adapter in zip(self.parts, self.adapters, strict=True):
            ids, mask = part.ids(text)
            hidden = part.encoder(ids, attention_mask=mask).last_hidden_state[:, : self.LENGTH]      # (1, L, D)
            adapted.append(adapter(F.pad(hidden, (0, 0, 0, self.LENGTH - hidden.shape[1]))))
        return torch.cat(adapted, dim=1)

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        states = self.states(prompt)
        if not guided:
            return Conditioning((states,), (None,)), None
        away = self.states(negative) if negative is not None else torch.zeros_like(states)
        return Conditioning((states,), (None,)), Conditioning((away,), (None,))

    def excess(self, prompt: str) -> str:
        return self.parts[0].excess(prompt)

    def tokens(self, prompt: str) -> list[str]:
        return self.parts[0].words(prompt)


class Projection(nn.Module):
    """AudioLDM 2: two encoders' states in the language model's width, each between a start and an end embedding."""

    def __init__(self, dims: tuple[int, int], out: int, positions: int | None):
        super().__init__()
        self.projection, self.projection_1 = nn.Linear(dims[0], out), nn.Linear(dims[1], out)
        for name in ("sos_embed", "eos_embed", "sos_embed_1", "eos_embed_1"):
            setattr(self, name, nn.Parameter(torch.ones(out)))
        if positions is not None:
            self.learnable_positional_embedding = nn.Parameter(torch.zeros(1, dims[1], positions))

    def forward(self, first: Tensor, second: Tensor, second_mask: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 1, D), (1, L, D'), (1, L) -> embeddings (1, L + 5, out) and their mask (1, L + 5)"""
        if hasattr(self, "learnable_positional_embedding"):
            second = second + self.learnable_positional_embedding.transpose(1, 2)
        a, b = self.projection(first), self.projection_1(second)
        edges = [getattr(self, n)[None, None] for n in ("sos_embed", "eos_embed", "sos_embed_1", "eos_embed_1")]
        one = second_mask.new_ones((1, 1))
        return (torch.cat([edges[0], a, edges[1], edges[2], b, edges[3]], dim=1),
                torch.cat([one, one, one, one, second_mask, one], dim=1))


class AudioLdm2:
    """AudioLDM 2: CLAP and T5 (or VITS) through a GPT-2 that imagines eight states; these, and T5's own, are attended to."""

    def __init__(self, clap: Clap, second: Part, projection: Projection, language_model: Any):
        self.clap, self.second = clap, second
        self.projection, self.language_model = projection, language_model

    def imagine(self, film: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """CLAP (1, D), T5 (1, L, D') and its mask (1, L) -> the language model's new states (1, 8, D'')"""
        x, seen = self.projection(film[:, None], states, mask)
        new: list[Tensor] = []
        past = empty_cache()
        for _ in range(getattr(self.language_model.config, "max_new_tokens", None) or 8):
            out = self.language_model(None, past, inputs_embeds=x, attention_mask=seen, use_cache=True)
            x = out.last_hidden_state[:, -1:]
            seen = torch.cat([seen, seen.new_ones((1, 1))], dim=1)
            new.append(x)
        return torch.cat(new, dim=1)

    def encode(self, prompt: str, negative: str | None, guided: bool) -> Pair:
        ids, mask = self.second.ids(prompt)
        states = self.second.encoder(ids, attention_mask=mask)[0]          # (1, L, D)
        film = self.clap.embed(*self.clap.part.ids(prompt))
        cond = Conditioning((self.imagine(film, states, mask), states), (None, mask.bool()))
        if not guided:
            return cond, None
        ids, mask = self.second.ids(negative or "", limit=ids.shape[1], pad=True)
        away = self.second.encoder(ids, attention_mask=mask)[0]
        film = self.clap.embed(*self.clap.part.ids(negative or ""))
        return cond, Conditioning((self.imagine(film, away, mask), away), (None, mask.bool()))

    def excess(self, prompt: str) -> str:
        return self.second.excess(prompt)

    def tokens(self, prompt: str) -> list[str]:
        return self.second.words(prompt)


class AudioLdm2Speech(AudioLdm2):
    """AudioLDM 2's speech models: VITS reads what is said; only the language model's states are attended to."""

    END = 182                                                    # the phoneme that ends a sentence

    def encode(self, prompt: str, negative: str | None, guided: bool, say: str | None = None) -> Pair:
        if not say:
            raise SettingsError("This model speaks: give the words with --say \"...\" beside the prompt.")
        film = self.clap.embed(*self.clap.part.ids(prompt))
        ids, mask = self.second.ids(say, pad=True)
        ends = (ids[0] == 0).nonzero().flatten()
        if len(ends):
            ids[0, ends[0]], mask[0, ends[0]] = self.END, 1
        states = self.second.encoder(ids, attention_mask=mask, padding_mask=mask.unsqueeze(-1).to(film.dtype))[0]
        cond = Conditioning((self.imagine(film, states, mask),), (None,))
        if not guided:
            return cond, None
        film = self.clap.embed(*self.clap.part.ids(negative or ""))
        return cond, Conditioning((self.imagine(film, torch.zeros_like(states), torch.zeros_like(mask)),), (None,))


def load_text_encoder(folder: Path, config: TextConfig, read: ReadWeights, device: str, dtype: torch.dtype) -> TextEncoder:
    """The text encoder in a checkpoint's folder; raises CheckpointError for what does not fit."""
    def module(name: str, cls: str) -> Any:
        return load_transformer(folder / name, cls, read).to(device, dtype).eval()

    def part(i: int, cls: str) -> Part:
        tokenizer, encoder = load_tokenizer(folder / config.tokenizers[i]), module(config.parts[i], cls)
        limits = [config.max_length, tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None)]
        limit = min(n for n in limits if n is not None)
        return Part(tokenizer, encoder, limit if limit < 10**6 else 512)

    if config.kind == "clap":
        return Clap(part(0, "ClapTextModelWithProjection"))
    if config.kind == "clip":
        return Clip(part(0, "CLIPTextModel"))
    if config.kind == "sentence":
        where = folder / config.parts[0]
        return load_sentence(where, config.max_length, read(where), device, dtype)
    if config.kind == "auffusion":
        encoders = [part(i, architecture(folder / name)) for i, name in enumerate(config.parts)]
        adapters = [_load_adapter(folder / name, read).to(device, dtype) for name in config.adapters]
        return Auffusion(encoders, adapters)
    speech = config.kind == "audioldm2-speech"
    second = part(1, "VitsModel" if speech else "T5EncoderModel")
    if speech:
        second = Part(second.tokenizer, second.encoder.text_encoder, second.tokenizer.model_max_length)
    kind = AudioLdm2Speech if speech else AudioLdm2
    projection = _load_projection(folder / "projection_model", read).to(device, dtype)
    return kind(Clap(part(0, "ClapTextModelWithProjection")), second, projection, module("language_model", "GPT2Model"))


def _fit(module: M, state: dict[str, Tensor], where: Path) -> M:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{where}: {' '.join(str(error).split())}") from None
    return module.eval()


def _load_adapter(folder: Path, read: ReadWeights) -> Adapter:
    state = read(folder)
    if "proj.weight" not in state:
        raise CheckpointError(f"{folder}: no proj.weight among its {len(state)} weights.")
    out, dim = state["proj.weight"].shape
    return _fit(Adapter(dim, out), state, folder)


def _load_projection(folder: Path, read: ReadWeights) -> Projection:
    data = read_json(folder / "config.json")
    positions = data.get("max_seq_length") if data.get("use_learned_position_embedding") else None
    module = Projection((data["text_encoder_dim"], data["text_encoder_1_dim"]), data["langauge_model_dim"], positions)
    return _fit(module, read(folder), folder)


def word_context(text: TextEncoder) -> int | None:
    """Which context of a model's conditioning has a position for each token of the prompt, if one has."""
    if isinstance(text, AudioLdm2Speech) or not text.tokens("a"):
        return None
    return 1 if isinstance(text, AudioLdm2) else 0
