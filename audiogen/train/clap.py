"""CLAP: sounds and their captions meet in one space. Its text tower conditions the U-Net; both towers score and rank."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import ModelConfig
from audiogen.distributed import gather, world
from audiogen.models.clap import AudioTower
from audiogen.train.config import ClapStageConfig
from audiogen.train.examples import Examples
from audiogen.train.losses import contrastive_loss
from audiogen.train.stage import Losses, Machine, Stage

HOTTEST = 100.0                                                  # of the contrast's scale (Radford et al. 2021)


class ClapStage(Stage):
    """Contrastive training of an audio and a text tower (Radford et al. 2021; Wu et al. 2023)."""

    name = "clap"

    def __init__(self, model: ModelConfig, config: ClapStageConfig, machine: Machine, tower: nn.Module, tokenizer: Any) -> None:
        audio = AudioTower(model.mel.bins, config.width, config.layers, config.heads, config.embedding)
        super().__init__(model, config, machine, {"audio": audio, "text": tower})
        self.tokenizer = tokenizer

    def embed(self, captions: list[str], tower: nn.Module) -> Tensor:
        """Captions -> embeddings of length 1 (B, D)"""
        batch = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.machine.device)
        out = tower(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).text_embeds
        return F.normalize(out.float(), dim=-1)

    def losses(self, examples: Examples) -> Losses:
        image = self.image(examples.wave)[:, :1]
        net = self.modules["audio"]
        with self.machine.autocast():
            audio, text = net(image), self.embed(examples.captions, self.modules["text"])
        scale = net.scale.exp().clamp(max=HOTTEST)               # type: ignore[operator, union-attr]
        # negatives of every process: each sees the whole loss, and the gradients of its own part, which are then averaged
        scale = torch.lerp(scale.detach(), scale, 1 / world())
        audio, text = gather(audio), gather(text)
        loss = contrastive_loss(audio, text, scale, equal(text.detach()))
        self.backward(loss * world())
        return {"loss": loss}

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """How often a sound's own caption is the nearest."""
        with self.averaged("audio") as net, self.averaged("text") as tower:
            scores = net(self.image(examples.wave)[:, :1]) @ self.embed(examples.captions, tower).T
        best = [examples.captions[int(i)] for i in scores.argmax(dim=1)]
        right = sum(a == b for a, b in zip(best, examples.captions, strict=True))
        return {"right": right / len(best)}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {"clap": self.average["audio"], "text/text_encoder/model": self.average["text"]}


def equal(text: Tensor) -> Tensor:
    """Which embeddings (B, D) are of the same caption. (B, B) bool"""
    return text @ text.T > 1 - 1e-5
