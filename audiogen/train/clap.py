"""CLAP: sounds and their captions meet in one space. Its text tower conditions the U-Net; both towers score and rank."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from hashlib import blake2b

import torch
from torch import Tensor, nn

from audiogen.config import ClapConfig, ModelConfig
from audiogen.distributed import gather, world
from audiogen.models.clap import Clap
from audiogen.train.config import ClapStageConfig
from audiogen.train.examples import Examples
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

    def __init__(self, model: ModelConfig, config: ClapStageConfig, machine: Machine, clap: Clap,
                 embed: Callable[[list[str]], Tensor], tower: nn.Module | None = None) -> None:
        super().__init__(model, config, machine, {"clap": clap} | ({} if tower is None else {"text": tower}))
        self.embed = embed

    def losses(self, examples: Examples) -> Losses:
        net = self.modules["clap"]
        with self.machine.autocast():
            audio, text = net(self.image(examples.wave)[:, :1], self.embed(examples.captions))
        scale = net.scale.exp().clamp(max=HOTTEST)               # type: ignore[operator, union-attr]
        # negatives of every process: each sees the whole loss, and the gradients of its own part, which are then averaged
        scale = torch.lerp(scale.detach(), scale, 1 / world())
        audio, text = gather(audio), gather(text)
        same = self.equal(examples.captions) | self.equal(examples.labels or examples.captions)
        loss = contrastive_loss(audio, text, scale, same | torch.eye(len(same), dtype=torch.bool, device=same.device))
        self.backward(loss * world())
        return {"loss": loss}

    def equal(self, texts: list[str]) -> Tensor:
        """Which of all processes' texts are the same; an empty one is like no other. (B, B) bool"""
        marks = [int.from_bytes(blake2b(t.encode(), digest_size=7).digest()) if t else 0 for t in texts]
        own = gather(torch.tensor(marks, device=self.machine.device))
        return (own[:, None] == own) & (own != 0)

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


def shape(model: ModelConfig, config: ClapStageConfig) -> ClapConfig:
    """Of a model's own CLAP if it has one, else of a new one; it will hear as much at once as it learns from."""
    known = model.clap or ClapConfig(config.channels, config.blocks, config.embedding)
    return replace(known, seconds=config.seconds)
