"""The sentence encoder of a trained U-Net: other wordings of a label come to mean what its plain caption means to the U-Net.

A U-Net meets each of many wordings seldom, and a label's own captions often. Here it stays as it is, and tells what it reads:
its queries, heard once as it denoises clips, look at a wording's states and at those of the plain caption as the encoder had
them, and the encoder learns to give the same answers (a distillation: Hinton et al. 2015). No sound is made on the way, so
this takes a processor's hour where the U-Net would take a GPU's day. Shapes: B items, L tokens, D width, N queries.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import ModelConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.diffusion.schedule import NoiseSchedule
from audiogen.errors import DataError
from audiogen.models.clap import Clap
from audiogen.models.unet import Attention, ResBlock, UNet
from audiogen.sentence import Sentence
from audiogen.train.captions import Captions
from audiogen.train.config import WordingStageConfig
from audiogen.train.examples import Drawer, Examples, normal, uniform
from audiogen.train.stage import Losses, Machine, Stage, Weights

TEXT = "text/model"                                              # weights of the sentence encoder
LEVELS = 4                                                       # of noise, at which the U-Net's queries are heard
KEPT = 64                                                        # queries of each label and layer
OTHERS = 4                                                       # of so many queries, one is another label's
LIKE = 4                                                         # groups of captions of like lengths, that a batch is taken in
SHOWN = 32                                                       # held-out wordings for each item of a validation
PLAIN = 0.3                                                      # of captions that mean themselves, those that are plain ones


class Wordings:
    """Draws captions and what they mean: of a wording the plain caption of its label, of a clip's own caption itself.

    Some wordings are held out, and drawn if `held`; the plain caption is the most frequent one of a label's clips.
    """

    def __init__(self, drawer: Drawer, config: WordingStageConfig, held: bool = False) -> None:
        self.drawer, self.config, self.held = drawer, config, held
        counts: dict[str, Counter[str]] = {}
        for clip in drawer.clips:
            counts.setdefault(clip.label, Counter()).update(clip.captions)
        self.captions = {label: sorted(c) for label, c in sorted(counts.items()) if label in drawer.words}
        self.plain = {label: min(counts[label], key=lambda c: (-counts[label][c], c)) for label in self.captions}
        every = ((label, w) for label in self.captions for w in drawer.words[label] if w != self.plain[label])
        self.words: dict[str, list[str]] = {}
        for label, word in every:
            if held == (random.Random(word).random() < config.held_out):
                self.words.setdefault(label, []).append(word)
        if not self.words and not held:
            raise DataError("No label of this data has other wordings in data.words: there is nothing for this stage to learn.")
        if len(set(self.plain.values())) < 2:                    # nothing to measure by how far apart they are
            raise DataError("All labels with wordings in data.words have the same caption: there is nothing to tell apart.")
        self.labels = sorted(self.words)

    def batch(self, step: int, items: range, seconds: float) -> Examples:
        """Captions number `items` of step `step`, without sounds; `seconds` means nothing."""
        if self.held:
            items = range(items.start * SHOWN, items.stop * SHOWN)
        rngs = [random.Random(f"{self.drawer.seed}:{step}:{i}") for i in items]
        drawn = [self.held_out(r) if self.held else self.draw(r) for r in rngs]
        captions, meant, labels = (list(x) for x in zip(*drawn, strict=True))
        return Examples(torch.empty(len(drawn), 0), captions, [r.getrandbits(62) for r in rngs], labels, meant=meant)

    def held_out(self, rng: random.Random) -> tuple[str, str, str]:
        """A wording that was not trained, its meaning and its label."""
        label = rng.choice(self.labels)
        return rng.choice(self.words[label]), self.plain[label], label

    def draw(self, rng: random.Random) -> tuple[str, str, str]:
        """A caption, its meaning and its (first) label."""
        data, dice, label = self.drawer.config, rng.random(), rng.choice(self.labels)
        if dice < self.config.drop:
            return "", "", label
        caption, meaning = self.one(label, rng)
        if dice < self.config.drop + data.mix + data.join:
            other = self.one(rng.choice(self.labels), rng)
            between = rng.choice((" and ", " with ", " while ") if dice < self.config.drop + data.mix else
                                 (" followed by ", ", then ", " and then "))
            caption, meaning = f"{caption}{between}{other[0]}", f"{meaning}{between}{other[1]}"
        elif rng.random() < self.drawer.framed:
            caption = self.drawer.framed_by(caption, rng)
        return caption, meaning, label

    def one(self, label: str, rng: random.Random) -> tuple[str, str]:
        """A label's caption and its meaning."""
        if rng.random() < self.drawer.config.words_rate:
            return rng.choice(self.words[label]), self.plain[label]
        own = self.plain[label] if rng.random() < PLAIN else rng.choice(self.captions[label])
        return own, own


class WordingStage(Stage):
    """`sentence` is the encoder before, and the teacher; `unet`, and a CLAP over the same encoder, are fixed.

    Its captions are read on the way: no graph can hold that.
    """

    name = "wording"
    config: WordingStageConfig

    def __init__(self, model: ModelConfig, config: WordingStageConfig, machine: Machine, learner: nn.Module, sentence: Sentence,
                 encode: Callable[[list[str]], list[Conditioning]], unet: UNet, clap: Clap | None) -> None:
        learner.embeddings.requires_grad_(False)                 # type: ignore[union-attr]
        super().__init__(model, config, machine, {"text": learner})
        self.config, self.sentence, self.captions = config, sentence, Captions(encode, machine.device)
        self.unet, self.clap = unet.to(machine.device), None if clap is None else clap.text.to(machine.device)
        self.layers = [layer for _, layer in unet.cross_attentions()]
        through = [m.time_emb_proj.weight for m in unet.modules() if isinstance(m, ResBlock)]
        self.through = torch.cat([w[:, w.shape[1] // 2 :] for w in through])           # (sum of C, 4 C0): what film goes through
        self.mask = sentence.tokenizer.token_to_id("[MASK]")
        self.queries: list[Tensor] = []                          # (labels, KEPT, heads, d) of each layer

    @torch.no_grad()
    def listen(self, drawer: Drawer, wordings: Wordings, autoencoder: nn.Module) -> None:
        """Hear the U-Net's queries: of one clip of each label, at evenly spaced levels of noise."""
        self.labels = {label: i for i, label in enumerate(wordings.plain)}
        sigmas, c = NoiseSchedule.of(self.model.schedule).sigmas.float(), self.model.autoencoder
        kept: list[list[Tensor]] = [[] for _ in self.layers]
        for label, plain in wordings.plain.items():
            rng = random.Random(f"{drawer.seed}:{label}")
            clip = rng.choice([clip for clip in drawer.clips if clip.label == label])
            wave = drawer.arrange(clip, round(self.config.seconds * drawer.dataset.rate), rng)
            z = (autoencoder.encode(self.image(torch.from_numpy(wave)[None])).mean - c.shift) * c.scale  # type: ignore[operator]
            keys = torch.tensor([rng.getrandbits(62)], device=z.device)
            with asked(self.layers) as queries:
                for i in range(LEVELS):
                    t = (len(sigmas) * (2 * i + 1)) // (2 * LEVELS)
                    x = (z + sigmas[t] * normal(keys + i, *z.shape[1:])) / (1 + sigmas[t] ** 2).sqrt()
                    self.unet(x, torch.full((1,), float(t), device=z.device), self.captions([plain]))
            for k, each in zip(kept, map(torch.cat, queries), strict=True):
                k.append(each[uniform(keys, KEPT)[0].mul(len(each)).long()].half())
        self.queries = [torch.stack(k) for k in kept]
        means = self.captions(list(wordings.plain.values()))
        some = torch.arange(len(self.labels), device=self.queries[0].device)[None].expand(len(self.labels), -1)
        self.apart = [a.var(dim=0).mean() for a in self.answers(means, [q[:, 0][some] for q in self.queries])]
        self.signs = self.filmed(film_of(means))                 # (labels, sum of C)
        self.film_apart = self.signs.var(dim=0).mean()

    def answers(self, text: Conditioning, queries: list[Tensor]) -> list[Tensor]:
        """What each layer's queries (B, N, heads, d) find in the text: (B, N, C)"""
        out = []
        for layer, q in zip(self.layers, queries, strict=True):
            k, v = layer.keys_values(text.contexts[0])
            mask = None if text.masks[0] is None else text.masks[0][:, None, None]
            found = F.scaled_dot_product_attention(q.float().transpose(1, 2), k, v, attn_mask=mask)
            out.append(layer.to_out[0](found.transpose(1, 2).flatten(2), None))
        return out

    def filmed(self, film: Tensor) -> Tensor:
        """Film (B, D) as the ResBlocks get it (B, sum of C)"""
        return F.silu(self.unet.class_embedding(film)) @ self.through.T

    def drawn(self, labels: list[str], keys: Tensor) -> list[Tensor]:
        """Queries for items of these labels, by their keys (B,): some of their own label, some of others."""
        n = self.config.queries
        own = torch.tensor([self.labels[x] for x in labels], device=keys.device)[:, None]
        other = uniform(keys, n, salt=2).mul(len(self.labels)).long()
        row = torch.where(torch.arange(n, device=keys.device) % OTHERS == OTHERS - 1, other, own)
        at = uniform(keys, n, salt=3).mul(KEPT).long()
        return [q[row, at] for q in self.queries]

    def read(self, encoder: nn.Module, captions: list[str], keys: Tensor | None = None) -> Conditioning:
        """Captions through an encoder; with some of their tokens hidden, if there are keys (B,)."""
        ids = [torch.tensor(self.sentence.ids(c)) for c in captions]
        x = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(self.machine.device)   # (B, L)
        lengths = torch.tensor([len(i) for i in ids], device=x.device)
        place = torch.arange(x.shape[1], device=x.device)
        own = place < lengths[:, None]
        if keys is not None and self.mask is not None:
            words = (place > 0) & (place < lengths[:, None] - 1)
            x = torch.where(words & (uniform(keys, x.shape[1], salt=4) < self.config.hide), self.mask, x)
        with self.machine.autocast():
            hidden = encoder(x, own)
        hidden = hidden.float()
        return Conditioning((hidden,), (own,), (hidden * own[..., None]).sum(dim=1) / lengths[:, None])

    def apartness(self, text: Conditioning, meant: list[str], labels: list[str], keys: Tensor) -> dict[str, Tensor]:
        """How far captions are from what they mean, as shares of how far labels' plain captions are from each other. ()"""
        target, queries = self.captions(meant), self.drawn(labels, keys)
        films = film_of(text), film_of(target)
        pairs = zip(self.answers(text, queries), self.answers(target, queries), self.apart, strict=True)
        told = {"attention": torch.stack([(a - b).square().mean() / apart for a, b, apart in pairs]).mean(),
                "film": (self.filmed(films[0]) - self.filmed(films[1])).square().mean() / self.film_apart}
        if self.clap is not None:
            told["clap"] = 1 - F.cosine_similarity(self.clap(films[0]), self.clap(films[1]), dim=-1).mean()
        return told

    def losses(self, examples: Examples) -> Losses:
        labelled, meanings = told_of(examples)
        n, keys = len(examples.captions), examples.keys(self.machine.device)
        order = sorted(range(n), key=lambda i: len(self.sentence.ids(examples.captions[i])))
        total: Losses = {}
        for first in range(0, n, -(-n // LIKE)):
            some = order[first : first + -(-n // LIKE)]
            captions, meant, labels = ([x[i] for i in some] for x in (examples.captions, meanings, labelled))
            text = self.read(self.modules["text"], captions, keys[some])
            told = self.apartness(text, meant, labels, keys[some])
            told = {"loss": torch.stack(list(told.values())).sum(), **told}
            self.backward(told["loss"] * len(some) / n)
            for k, v in told.items():
                total[k] = total.get(k, 0.0) + v.detach() * len(some) / n
        return total

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """`apartness` of wordings that were held out, and how often their own label's plain caption is the nearest."""
        labels, meant = told_of(examples)
        with self.averaged("text") as net:
            text = self.read(net, examples.captions)
        told = self.apartness(text, meant, labels, examples.keys(self.machine.device))
        nearest = torch.cdist(self.filmed(film_of(text)), self.signs).argmin(dim=1)
        right = [self.labels[x] == int(i) for x, i in zip(labels, nearest, strict=True)]
        return {"loss": float(torch.stack(list(told.values())).sum()), **{k: float(v) for k, v in told.items()},
                "right": sum(right) / len(right)}

    def weights(self) -> Weights:
        return {TEXT: self.average["text"]}


@contextmanager
def asked(layers: list[Attention]) -> Iterator[list[list[Tensor]]]:
    """Within, the queries (N, heads, d) of each call of each layer are noted, for batches of 1."""
    found: list[list[Tensor]] = [[] for _ in layers]

    def note(i: int, layer: Attention, inputs: tuple[Tensor, ...]) -> None:
        found[i].append(layer.split(layer.to_q(inputs[0])).transpose(1, 2)[0])

    hooks = [layer.register_forward_pre_hook(partial(note, i)) for i, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def film_of(text: Conditioning) -> Tensor:
    """(B, D)"""
    assert text.film is not None
    return text.film


def told_of(examples: Examples) -> tuple[list[str], list[str]]:
    """Labels and meanings of examples that `Wordings` drew."""
    return examples.labels or [], examples.meant or []
