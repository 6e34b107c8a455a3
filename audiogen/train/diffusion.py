"""The U-Net: noise the latents by the fixed schedule, ask for the noise (or velocity) back, sometimes without the text."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from audiogen.config import ModelConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.diffusion.schedule import NoiseSchedule
from audiogen.train.captions import Captions
from audiogen.train.config import DiffusionStageConfig
from audiogen.train.convolution import hasten
from audiogen.train.examples import Examples
from audiogen.train.losses import diffusion_weight, velocity
from audiogen.train.stage import Losses, Machine, Stage


class DiffusionStage(Stage):
    name = "diffusion"
    config: DiffusionStageConfig

    def __init__(self, model: ModelConfig, config: DiffusionStageConfig, machine: Machine, unet: nn.Module,
                 autoencoder: nn.Module, encode: Callable[[list[str]], list[Conditioning]], fresh: bool = True) -> None:
        unet = unet.to(memory_format=torch.channels_last)        # type: ignore[call-overload]
        if fresh:
            start_quietly(unet)
        if config.dropout:
            leave_out(unet, config.dropout)
        if machine.device == "cpu":
            hasten(unet)
        super().__init__(model, config, machine, {"diffusion": unet})
        self.config = config
        self.captions = Captions(encode, machine.device)
        self.autoencoder = autoencoder.to(machine.device).eval().requires_grad_(False)
        self.sigmas = NoiseSchedule.of(model.schedule).sigmas.float().to(machine.device)

    @torch.no_grad()
    def latents(self, wave: Tensor) -> Tensor:
        """Waves (B, S) -> latents of the diffusion's frame (B, C, h, w)"""
        c = self.model.autoencoder
        with self.machine.autocast():
            mean = self.autoencoder.encode(self.image(wave)).mean            # type: ignore[operator]
        return (mean.float() - c.shift) * c.scale

    def losses(self, examples: Examples) -> Losses:
        dice = examples.uniform(2)                               # (B, 2): the step; whether the text is dropped
        captions = ["" if float(d[1]) < self.config.drop else c for d, c in zip(dice, examples.captions, strict=True)]
        if self.config.dropout:
            torch.manual_seed(examples.seeds[0])                 # of what is left out
        loss = self.loss(self.modules["diffusion"], examples, captions, dice[:, 0])
        self.backward(loss)
        return {"loss": loss}

    def loss(self, unet: nn.Module, examples: Examples, captions: list[str], when: Tensor) -> Tensor:
        """||prediction - target||^2 at the training steps `when` (B,) in [0, 1). ()"""
        schedule = self.model.schedule
        z = self.latents(examples.wave) if examples.latents is None else examples.latents.to(self.machine.device)
        noise = examples.normal(*z.shape[1:], device=self.machine.device)
        t = (when * schedule.steps).long().to(z.device)
        sigma = self.sigmas[t]                                   # (B,)
        scale = (1 / (1 + sigma.square()).sqrt())[:, None, None, None]
        x = (scale * (z + sigma[:, None, None, None] * noise)).contiguous(memory_format=torch.channels_last)
        # the fused attention's backward is slow on a CPU for so few positions
        fused = [] if x.device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        with self.machine.autocast(), sdpa_kernel([*fused, SDPBackend.MATH]):
            out = unet(x, t.float(), self.captions(captions)).float()
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


def leave_out(unet: nn.Module, share: float) -> None:
    """Dropout before the second convolution of each ResBlock while it is trained, as in Ho et al. 2020."""
    def hook(conv: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return F.dropout(inputs[0], share, conv.training)

    for name, module in unet.named_modules():
        if name.endswith("conv2"):
            module.register_forward_pre_hook(hook)


def start_quietly(unet: nn.Module) -> None:
    """Zero the last layer of each residual path: the network begins as an identity, which trains sooner."""
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")) or name == "conv_out":
            nn.init.zeros_(module.weight)                        # type: ignore[arg-type]
            nn.init.zeros_(module.bias)                          # type: ignore[arg-type]

