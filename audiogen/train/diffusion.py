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
from audiogen.train.examples import Examples, normal, uniform
from audiogen.train.losses import diffusion_weight, velocity
from audiogen.train.stage import Inputs, Losses, Machine, RecordedStage

TOKENS = 32                                                      # captions of a graph are filled up to a multiple of it


class DiffusionStage(RecordedStage):
    name = "diffusion"
    config: DiffusionStageConfig

    def __init__(self, model: ModelConfig, config: DiffusionStageConfig, machine: Machine, unet: nn.Module,
                 autoencoder: nn.Module, encode: Callable[[list[str]], list[Conditioning]], fresh: bool = True) -> None:
        unet = unet.to(memory_format=torch.channels_last)        # type: ignore[call-overload]
        if fresh:
            start_quietly(unet)
        if config.dropout:
            leave_out(unet, config.dropout)
        super().__init__(model, config, machine, {"diffusion": unet})
        self.config = config
        self.captions = Captions(encode, machine.device, TOKENS if machine.records else 1)
        self.autoencoder = autoencoder.to(machine.device).eval().requires_grad_(False)
        self.sigmas = NoiseSchedule.of(model.schedule).sigmas.float().to(machine.device)

    @torch.no_grad()
    def latents(self, wave: Tensor) -> Tensor:
        """Waves (B, S) -> latents of the diffusion's frame (B, C, h, w)"""
        c = self.model.autoencoder
        with self.machine.autocast():
            mean = self.autoencoder.encode(self.image(wave)).mean            # type: ignore[operator]
        return (mean.float() - c.shift) * c.scale

    def inputs(self, examples: Examples) -> Inputs:
        dice = uniform(examples.keys(), 2)                       # (B, 2): the step; whether the text is dropped
        captions = ["" if float(d[1]) < self.config.drop else c for d, c in zip(dice, examples.captions, strict=True)]
        if self.config.dropout:
            torch.manual_seed(examples.seeds[0])                 # of what is left out
        told = torch.tensor([bool(c) for c in captions])
        blurred = self.config.text_noise or self.config.text_drop
        return self.given(examples, captions, dice[:, 0]) | ({"told": told.to(self.machine.device)} if blurred else {})

    def given(self, examples: Examples, captions: list[str], when: Tensor) -> Inputs:
        """Examples with these captions, at the training steps `when` (B,) in [0, 1)."""
        device, text = self.machine.device, self.captions(captions)
        named = {"film": text.film, **{f"context{i}": c for i, c in enumerate(text.contexts)},
                 **{f"mask{i}": m for i, m in enumerate(text.masks)}}
        sound = {"wave": examples.wave} if examples.latents is None else {"latents": examples.latents}
        return {k: v.to(device, non_blocking=True) for k, v in {**sound, "when": when, "keys": examples.keys(device)}.items()} \
            | {k: v for k, v in named.items() if v is not None}

    def compute(self, inputs: Inputs) -> Losses:
        loss = self.loss(self.modules["diffusion"], inputs)
        self.backward(loss)
        return {"loss": loss}

    def loss(self, unet: nn.Module, inputs: Inputs) -> Tensor:
        """||prediction - target||^2. ()"""
        schedule, when, keys = self.model.schedule, inputs["when"], inputs["keys"]
        contexts = tuple(v for k, v in inputs.items() if k.startswith("context"))
        text = Conditioning(contexts, tuple(inputs.get(f"mask{i}") for i in range(len(contexts))), inputs.get("film"))
        z = inputs["latents"] if "latents" in inputs else self.latents(inputs["wave"])
        if (n := self.config.levels) > 1 and unet.training:      # evenly spaced, each with noise of its own
            text, z = text.map(lambda x: x.repeat(n, *[1] * (x.dim() - 1))), z.repeat(n, 1, 1, 1)
            when = torch.cat([(when + i / n) % 1 for i in range(n)])
            keys = torch.cat([keys + i for i in range(n)])
        if "told" in inputs:
            text = blur(text, keys, inputs["told"].repeat(len(keys) // len(inputs["told"])), self.config)
        t = (when * schedule.steps).long()
        sigma = self.sigmas[t]                                   # (B,)
        x, target = noised(z, normal(keys, *z.shape[1:]), sigma, schedule.prediction)
        out = predicted(unet, x, t, text, self.machine)
        weight = diffusion_weight(sigma, schedule.prediction, self.config.min_snr)
        return (weight * (out - target).square().mean(dim=(1, 2, 3))).mean()

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        n = len(examples.captions)
        even = (torch.arange(n) + 0.5) / n                       # every part of the schedule
        with self.averaged("diffusion") as net:
            return {"loss": float(self.loss(net, self.given(examples, examples.captions, even)))}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {"unet": self.average["diffusion"]}


def noised(z: Tensor, noise: Tensor, sigma: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
    """Latents under noise of the level sigma (B,), in the frame of unit variance, and what a U-Net shall say of them.

    All (B, C, h, w).
    """
    level = sigma[:, None, None, None]
    x = ((z + level * noise) / (1 + level.square()).sqrt()).contiguous(memory_format=torch.channels_last)
    return x, {"epsilon": noise, "v_prediction": velocity(z, noise, sigma), "sample": z}[prediction]


def predicted(unet: nn.Module, x: Tensor, t: Tensor, text: Conditioning, machine: Machine) -> Tensor:
    """What a U-Net says of x (B, C, h, w) at the training steps t (B,), in float32."""
    # the fused attention's backward is slow on a CPU for so few positions
    fused = [] if x.device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    with machine.autocast(), sdpa_kernel([*fused, SDPBackend.MATH]):
        return unet(x, t.float(), text).float()


def blur(text: Conditioning, keys: Tensor, told: Tensor, config: DiffusionStageConfig) -> Conditioning:
    """Captions with noise of up to config.text_noise of their size and some tokens unseen, but for those not `told`.

    What is learnt of a wording holds for what lies around it then, where wordings lie that no caption had. keys, told (B,)
    """
    share = uniform(keys, 1, salt=4)[:, 0] * config.text_noise * told                  # (B,)

    def noisy(x: Tensor, salt: int) -> Tensor:                   # (B, ..., D)
        size = x.square().mean(dim=-1, keepdim=True).sqrt()
        return x + share.view(-1, *[1] * (x.dim() - 1)) * size * normal(keys, *x.shape[1:], salt=salt)

    contexts, masks = [], []
    for i, (context, mask) in enumerate(zip(text.contexts, text.masks, strict=True)):
        seen = uniform(keys, context.shape[1], salt=8 + i) >= config.text_drop         # (B, L)
        seen[:, 0] = True                                        # attention to nothing is no number
        seen |= ~told[:, None]
        contexts.append(noisy(context, 16 + i))
        masks.append(seen if mask is None else mask & seen)
    return Conditioning(tuple(contexts), tuple(masks), None if text.film is None else noisy(text.film, 5))


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

