"""The U-Net: noise the latents by the fixed schedule, ask for the noise (or velocity) back, sometimes without the text."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from audiogen.config import ModelConfig
from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.diffusion.schedule import NoiseSchedule
from audiogen.train.config import DiffusionStageConfig
from audiogen.train.examples import Examples
from audiogen.train.losses import diffusion_weight, velocity
from audiogen.train.stage import Losses, Machine, Stage

KNOWN = 20_000                                                   # captions whose encodings are kept


class DiffusionStage(Stage):
    name = "diffusion"
    config: DiffusionStageConfig

    def __init__(self, model: ModelConfig, config: DiffusionStageConfig, machine: Machine, unet: nn.Module,
                 autoencoder: nn.Module, encode: Callable[[str], Conditioning], fresh: bool = True) -> None:
        unet = unet.to(memory_format=torch.channels_last)        # type: ignore[call-overload]
        if fresh:
            start_quietly(unet)
        super().__init__(model, config, machine, {"diffusion": unet})
        self.config, self.encode = config, encode
        self.autoencoder = autoencoder.to(machine.device).eval().requires_grad_(False)
        self.sigmas = NoiseSchedule.of(model.schedule).sigmas.float().to(machine.device)
        self.known: dict[str, Conditioning] = {}

    @torch.no_grad()
    def latents(self, wave: Tensor) -> Tensor:
        """Waves (B, S) -> latents of the diffusion's frame (B, C, h, w)"""
        c = self.model.autoencoder
        with self.machine.autocast():
            mean = self.autoencoder.encode(self.image(wave)).mean            # type: ignore[operator]
        return (mean.float() - c.shift) * c.scale

    def condition(self, captions: list[str]) -> Conditioning:
        """The text encoder's view of each caption, kept for the next time."""
        for text in captions:
            if text not in self.known:
                if len(self.known) >= KNOWN:
                    self.known.clear()
                with torch.no_grad():
                    self.known[text] = self.encode(text).to("cpu", torch.float32)
        return collate([self.known[t] for t in captions]).to(self.machine.device, torch.float32)

    def losses(self, examples: Examples) -> Losses:
        dice = examples.uniform(2)                               # (B, 2): the step; whether the text is dropped
        captions = ["" if float(d[1]) < self.config.drop else c for d, c in zip(dice, examples.captions, strict=True)]
        loss = self.loss(self.modules["diffusion"], examples, captions, dice[:, 0])
        self.backward(loss)
        return {"loss": loss}

    def loss(self, unet: nn.Module, examples: Examples, captions: list[str], when: Tensor) -> Tensor:
        """||prediction - target||^2 at the training steps `when` (B,) in [0, 1). ()"""
        schedule = self.model.schedule
        z = self.latents(examples.wave) if examples.latents is None else examples.latents.to(self.machine.device)
        noise = examples.normal(*z.shape[1:]).to(z.device)
        t = (when * schedule.steps).long().to(z.device)
        sigma = self.sigmas[t]                                   # (B,)
        scale = (1 / (1 + sigma.square()).sqrt())[:, None, None, None]
        x = (scale * (z + sigma[:, None, None, None] * noise)).contiguous(memory_format=torch.channels_last)
        # the fused attention's backward is slow on a CPU for so few positions
        fused = [] if x.device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        with self.machine.autocast(), sdpa_kernel([*fused, SDPBackend.MATH]):
            out = unet(x, t.float(), self.condition(captions)).float()
        target = {"epsilon": noise, "v_prediction": velocity(z, noise, sigma), "sample": z}[schedule.prediction]
        weight = diffusion_weight(sigma, schedule.prediction, self.config.min_snr)
        return (weight * (out - target).square().mean(dim=(1, 2, 3))).mean()

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        n = len(examples.captions)
        even = (torch.arange(n) + 0.5) / n                       # every part of the schedule
        with self.averaged("diffusion") as net:
            return {"loss": float(self.loss(net, examples, examples.captions, even))}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {"unet": self.average["diffusion"]}


def start_quietly(unet: nn.Module) -> None:
    """Zero the last layer of each residual path: the network begins as an identity, which trains sooner."""
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) or name == "conv_out":
            nn.init.zeros_(module.weight)                        # type: ignore[arg-type]
            nn.init.zeros_(module.bias)                          # type: ignore[arg-type]

