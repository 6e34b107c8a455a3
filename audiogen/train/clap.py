"""CLAP: sounds and their captions meet in one space. Its text tower conditions the U-Net; both towers score and rank."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b
from itertools import zip_longest

import torch
from torch import Tensor, nn

from audiogen.config import ClapConfig, ModelConfig
from audiogen.distributed import gather, world
from audiogen.mel import silence
from audiogen.models.clap import Clap
from audiogen.train.augment import coloured, hidden
from audiogen.train.config import ClapStageConfig
from audiogen.train.examples import BESIDE, Examples
from audiogen.train.losses import contrastive_loss
from audiogen.train.stage import Losses, Machine, Stage, Weights

HOTTEST = 100.0                                                  # of the contrast's scale (Radford et al. 2021)
TOWER = "text/text_encoder/model"                                # weights of the text tower


class ClapStage(Stage):
    """Contrastive training of an audio tower with a text tower, or with a frozen encoder's captions (Wu et al. 2023).

    `embed` makes film (B, W) of captions, by `tower` if that is trained too. Captions are read, and compared, on the way: no
    graph can hold that.
    """

    name = "clap"
    config: ClapStageConfig

    def __init__(self, model: ModelConfig, config: ClapStageConfig, machine: Machine, clap: Clap,
                 embed: Callable[[list[str]], Tensor], tower: nn.Module | None = None) -> None:
        super().__init__(model, config, machine, {"clap": clap} | ({} if tower is None else {"text": tower}))
        self.config, self.embed = config, embed

    def losses(self, examples: Examples) -> Losses:
        net, c, keys = self.modules["clap"], self.config, examples.keys(self.machine.device)
        image, floor = self.image(examples.wave)[:, :1], silence(self.model.mel)                     # (B, 1, T, M)
        if c.colour:
            image = coloured(image, keys, c.colour / self.model.mel.std, floor)
        if c.hidden:
            image = hidden(image, keys, c.hidden, floor)
        with self.machine.autocast():
            audio, text = net(image, self.embed(examples.captions))                                  # (B, D), (K, D)
        scale = net.scale.exp().clamp(max=HOTTEST)               # type: ignore[operator, union-attr]
        # negatives of every process: each sees the whole loss, and the gradients of its own part, which are then averaged
        scale = torch.lerp(scale.detach(), scale, 1 / world())
        loss = contrastive_loss(gather(audio), gather(text), scale, self.fits(examples))
        self.backward(loss * world())
        return {"loss": loss}

    def fits(self, examples: Examples) -> Tensor:
        """How well all processes' texts fit their sounds: 1 of one caption, else what share of their labels is the same. (B, K)

        An empty caption is like no other, and an empty label says nothing.
        """
        device = self.machine.device
        marks = [mark(t) for t in examples.captions]
        captions = [m or -1 - seed for m, seed in zip_longest(marks, examples.seeds, fillvalue=0)]
        labels = [[mark(t) for t in (*text.split(BESIDE), "")[:2]] for text in examples.labels or [""] * len(captions)]
        of, what = torch.tensor(captions, device=device), torch.tensor(labels, device=device)                # (K,), (K, 2)
        n = len(examples.wave)
        own, mine, texts, theirs = gather(of[:n]), gather(what[:n]), gather(of), gather(what)
        both = ((mine[:, None, :, None] == theirs[:, None]) & (theirs[:, None] != 0)).sum(dim=(2, 3))       # (B, K)
        either = (mine != 0).sum(dim=1)[:, None] + (theirs != 0).sum(dim=1) - both
        return torch.maximum((own[:, None] == texts).float(), both / either.clamp(min=1))

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """How often a sound's own caption is the nearest."""
        with ExitStack() as stack:
            for name in self.modules:
                stack.enter_context(self.averaged(name))
            audio, text = self.modules["clap"](self.image(examples.wave)[:, :1], self.embed(examples.captions))
        best = [examples.captions[int(i)] for i in (audio @ text.T).argmax(dim=1)]
        right = sum(a == b for a, b in zip(best, examples.captions, strict=True))
        return {"right": right / len(best)}

    def weights(self) -> Weights:
        return super().weights() | ({TOWER: self.average["text"]} if "text" in self.modules else {})

    def describe(self, config: ModelConfig) -> ModelConfig:
        return replace(config, clap=shape(self.model, self.settings))          # type: ignore[arg-type]


def mark(text: str) -> int:
    """A number by which texts are compared; 0 of an empty one."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest()) if text else 0


def shape(model: ModelConfig, config: ClapStageConfig) -> ClapConfig:
    """Of a model's own CLAP if it has one, else of a new one; it will hear as much at once as it learns from."""
    known = model.clap or ClapConfig(config.channels, config.blocks, config.embedding)
    return replace(known, seconds=config.seconds)
