"""The U-Net as a denoiser, denoise(x, sigma) -> z: guidance, prediction types and inpainting build one."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.diffusion.sampling import Denoise
from audiogen.models.recorded import Recorded
from audiogen.models.unet import Attended, UNet


@dataclass(frozen=True)
class Denoiser:
    """Best guess of the clean latents, by classifier-free guidance (Ho and Salimans 2022).

    `step` maps a level to a training step. At the levels in `interval`, its lower end left out, guidance acts; elsewhere
    the conditional prediction stands alone (Kynkäänniemi et al. 2024), at half the work. Of what it adds, the part that
    `spared` takes is left out: guidance exaggerates the steady colour of a sound more than its events. `rescale` pulls the
    guided prediction's spread back to that of the conditional one (Lin et al. 2024, eq. 15-16).
    """

    unet: UNet | Recorded
    step: Callable[[Tensor], Tensor]                             # sigma () -> training step ()
    alone: Attended                                              # batch B: the conditional one
    both: Attended | None = None                                 # batch 2 B: unconditional half, then conditional
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, math.inf)
    rescale: float = 0.0
    spared: Callable[[Tensor], Tensor] | None = None             # (B, C, h, w) -> alike
    prediction: str = "epsilon"

    @classmethod
    def guided(cls, unet: UNet | Recorded, step: Callable[[Tensor], Tensor], cond: Conditioning,
               uncond: Conditioning | None, guidance: float, interval: tuple[float, float] | None = None, rescale: float = 0.0,
               spared: Callable[[Tensor], Tensor] | None = None, prediction: str = "epsilon") -> "Denoiser":
        """The denoiser of `cond`, guided away from `uncond` if that is given."""
        both = None if uncond is None else Attended(collate([uncond, cond]))
        return cls(unet, step, Attended(cond), both, guidance, interval or (0.0, math.inf), rescale, spared, prediction)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x (B, C, h, w) float32 in the frame z + sigma * noise, sigma () -> z (B, C, h, w) float32"""
        scale = 1 / (1 + sigma**2).sqrt()                        # to the unit-variance frame of training
        x_in = (x * scale).to(self.unet.dtype)
        low, high = self.interval
        if self.both is None or self.guidance == 1.0 or not low < float(sigma) <= high:
            out = self._ask(x_in, sigma, self.alone)
        else:
            without, with_ = self._ask(torch.cat([x_in, x_in]), sigma, self.both).chunk(2)
            out = without + self.guidance * (with_ - without)
            if self.spared is not None:
                out = out - (self.guidance - 1) * self.spared(with_ - without)
            if self.rescale:
                out = torch.lerp(out, out * (_spread(with_) / _spread(out)), self.rescale)
        return to_clean(x, out, sigma, self.prediction)

    def _ask(self, x: Tensor, sigma: Tensor, text: Attended) -> Tensor:
        """x (B, C, h, w) as the U-Net takes it -> its prediction (B, C, h, w) float32"""
        # a number that is filled in, not a tensor that is moved: a GPU's queue would have to run empty for that
        step = torch.full((len(x),), float(self.step(sigma)), dtype=torch.float32, device=x.device)
        return self.unet(x, step, text).float()


def to_clean(x: Tensor, out: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """The clean latents that a prediction stands for: x = z + sigma * noise (B, C, h, w), out alike, sigma () -> z"""
    if prediction == "epsilon":
        return x - sigma * out
    if prediction == "v_prediction":                             # Salimans and Ho 2022
        return x / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * out
    return out


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each item: (B, C, h, w) -> (B, 1, 1, 1)"""
    return x.std(dim=(1, 2, 3), keepdim=True)


def inpaint(denoise: Denoise, known: Tensor, keep: Tensor) -> Denoise:
    """Hold the latents `known` (B, C, h, w) where `keep` (B, 1, h, w) is 1; paint the rest."""
    return lambda x, sigma: torch.lerp(denoise(x, sigma), known, keep)
