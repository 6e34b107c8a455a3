"""The variational autoencoder on log-mel images: reconstruction, KL, and an adversary of patches if wanted."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from audiogen.config import ModelConfig
from audiogen.models.discriminators import ImageDiscriminator
from audiogen.train.config import AutoencoderStageConfig
from audiogen.train.examples import Examples, normal
from audiogen.train.losses import edges, feature_loss, fool_loss, judge_loss
from audiogen.train.stage import AdversarialStage, Inputs, Losses, Machine


class AutoencoderStage(AdversarialStage):
    name = "autoencoder"
    config: AutoencoderStageConfig

    def __init__(self, model: ModelConfig, config: AutoencoderStageConfig, machine: Machine, autoencoder: nn.Module) -> None:
        modules: dict[str, nn.Module] = {"autoencoder": autoencoder}
        if config.adversarial:
            modules["judge"] = ImageDiscriminator(model.autoencoder.in_channels)
        super().__init__(model, config, machine, modules)
        self.config = config
        self.count = torch.zeros(3, dtype=torch.float64, device=machine.device)       # of latents: number, sum, sum of squares

    def compute(self, inputs: Inputs) -> Losses:
        c, net = self.config, self.modules["autoencoder"]
        x = self.image(inputs["wave"])                           # (B, K, T, M)
        with self.machine.autocast():
            code = net.encode(x)                                 # type: ignore[operator]
            noise = normal(inputs["keys"], *code.mean.shape[1:])
            y = net.decode(code.mean + noise * (0.5 * code.logvar).exp()).float()      # type: ignore[operator]
        mean, logvar = code.mean.float(), code.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        told: Losses = {"l1": F.l1_loss(y, x), "kl": kl, "edges": edges(y, x)}
        loss = told["l1"] + c.square * F.mse_loss(y, x) + c.edges * told["edges"] + c.kl * kl
        if self.phase:
            judge = self.modules["judge"]
            with self.machine.autocast():
                real, fake = judge(x), judge(y.detach())
                told["judge"] = judge_loss(real, fake)
                judge.requires_grad_(False)
                seen = judge(y)
                judge.requires_grad_(True)
            self.backward(told["judge"])
            loss = loss + c.adversarial * fool_loss(seen) + c.features * feature_loss(real, seen)
        self.backward(loss)
        z = mean.detach().double()
        self.count += torch.stack([torch.full_like(z[0, 0, 0, 0], z.numel()), z.sum(), z.square().sum()])
        self.count *= 0.99                                       # of late: the encoder still moves
        return {"loss": loss, **told}

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        x = self.image(examples.wave)
        with self.averaged("autoencoder") as net:
            y = net.decode(net.encode(x).mean)                   # type: ignore[operator]
        return {"l1": float(F.l1_loss(y, x)) * self.model.mel.std}

    def describe(self, config: ModelConfig) -> ModelConfig:
        """With the shift and scale that give the latents mean 0 and deviation 1."""
        n, total, squares = self.count.tolist()
        if not n:
            return config
        mean = total / n
        deviation = max(squares / n - mean**2, 1e-12) ** 0.5
        return replace(config, autoencoder=replace(config.autoencoder, shift=mean, scale=1 / deviation))

    def state(self) -> dict[str, object]:
        return {**super().state(), "count": self.count}

    def restore(self, state: dict[str, object]) -> None:
        super().restore(state)
        self.count.copy_(state["count"])                         # type: ignore[arg-type]
