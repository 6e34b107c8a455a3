"""The U-Net learns from its own takes: of several sounds of a caption, to do as in those that the model's CLAP finds fitting.

Reinforcement on the forward process (Zheng et al. 2025): takes are put under noise again, and the U-Net's departure d from what
it was before is drawn towards the residual e = target - prediction of then, by how much better than the caption's others a take
is; away from it where it is worse. Takes are made by the U-Net of now as `generate` makes them, so nothing is learnt of what it
no longer does. Shapes: B captions, n takes of each, N = B n.
"""

import copy
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import ModelConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.diffusion.denoiser import Denoiser
from audiogen.diffusion.sampling import sample
from audiogen.diffusion.schedule import NoiseSchedule, grid
from audiogen.evaluate.embed import RunClap
from audiogen.mel import from_image
from audiogen.models.clap import Clap
from audiogen.settings import Settings
from audiogen.sizes import Sizes
from audiogen.train.captions import Captions
from audiogen.train.config import PreferenceStageConfig
from audiogen.train.diffusion import noised, predicted
from audiogen.train.examples import Drawer, Examples, normal, uniform
from audiogen.train.stage import Losses, Machine, Stage, Weights
from audiogen.vocode import vocode

NOISE = 64                                                       # salts of a sampler's noise, from this one on


class Prompts:
    """Draws captions without their sounds, as often as the Drawer would."""

    def __init__(self, drawer: Drawer) -> None:
        self.drawer = drawer

    def batch(self, step: int, items: range, seconds: float) -> Examples:
        """Captions number `items` of step `step`; `seconds` means nothing."""
        captions, labels, seeds = [], [], []
        for rng in (self.drawer.dice(step, i) for i in items):
            clip = self.drawer.pick(rng)
            caption = self.drawer.caption(clip, rng)
            captions.append(self.drawer.framed_by(caption, rng) if rng.random() < self.drawer.framed else caption)
            labels.append(clip.label)
            seeds.append(rng.getrandbits(62))
        return Examples(torch.empty(len(seeds), 0), captions, seeds, labels)


class PreferenceStage(Stage):
    """`unet` learns; the others are fixed. Takes are made on the way: no graph can hold that."""

    name = "preference"
    config: PreferenceStageConfig

    def __init__(self, model: ModelConfig, config: PreferenceStageConfig, machine: Machine, unet: nn.Module,
                 autoencoder: nn.Module, vocoder: nn.Module, clap: Clap,
                 encode: Callable[[list[str]], list[Conditioning]]) -> None:
        unet = unet.to(memory_format=torch.channels_last)        # type: ignore[call-overload]
        self.before = copy.deepcopy(unet).to(machine.device).eval().requires_grad_(False)
        super().__init__(model, config, machine, {"preference": unet})
        self.config, self.captions = config, Captions(encode, machine.device)
        for module in (autoencoder, vocoder, clap):
            module.to(machine.device).eval().requires_grad_(False)
        self.autoencoder, self.vocoder, self.clap = autoencoder, vocoder, clap
        self.sizes, self.sampling = Sizes(model), Settings(duration=config.seconds).with_defaults(model.defaults)
        assert self.sampling.sampler is not None and self.sampling.steps is not None  # noqa: PT018
        self.levels = grid(model.schedule, self.sampling.sampler, self.sampling.steps, bool(self.sampling.karras),
                           self.sampling.guided)
        self.sigmas = NoiseSchedule.of(model.schedule).sigmas.float().to(machine.device)

    @torch.no_grad()
    def takes(self, unet: nn.Module, captions: list[str], keys: Tensor) -> Tensor:
        """Latents (N, C, h, w) for captions (N,), from noise of the keys (N,)."""
        s, text = self.sampling, self.captions(captions)
        assert s.sampler is not None and s.guidance is not None  # noqa: PT018
        none = self.captions([""] * len(captions)) if s.guidance > 1 else None
        denoise = Denoiser.guided(unet, self.levels.step, text, none, s.guidance, s.interval, s.rescale,             # type: ignore[arg-type]
                                  self.sizes.spared(s), self.model.schedule.prediction)
        draws = (normal(keys, *self.sizes.latent_shape(s), salt=salt) for salt in count(NOISE))
        x = next(draws) * self.levels.initial
        with self.machine.autocast():
            z = sample(s.sampler, denoise, x, self.levels.sigmas, eta=s.eta, noise=draws.__next__, clip=self.model.schedule.clip,
                       jumps=s.guided or ())
        return z / float((1 + self.levels.sigmas[-1] ** 2).sqrt())

    @torch.no_grad()
    def scores(self, z: Tensor, captions: list[str]) -> Tensor:
        """How well takes (N, C, h, w) fit their captions (N,) as the CLAP hears them, in windows that overlap by half. (N,)"""
        c, assumed = self.model.autoencoder, self.model.clap
        assert assumed is not None
        with self.machine.autocast():
            image = self.autoencoder.decode(z / c.scale + c.shift).float()   # type: ignore[operator]
        wave = vocode(self.vocoder, from_image(image, self.model.mel), self.model.mel.hop).float()   # type: ignore[arg-type]
        wave = wave * (RunClap.peak / wave.abs().amax(dim=1, keepdim=True).clamp(min=1e-3))
        size = round(assumed.seconds * self.model.mel.sample_rate)
        pieces = F.pad(wave, (0, max(0, size - wave.shape[1]))).unfold(1, size, size // 2)   # (N, n, size)
        film = self.captions(captions).film
        assert film is not None
        with self.machine.autocast():
            heard = self.clap.audio(self.image(pieces.flatten(0, 1))[:, :1]).float()
            told = F.normalize(self.clap.text(film).float(), dim=-1)         # (N, D)
        return (F.normalize(heard.view(*pieces.shape[:2], -1).mean(dim=1), dim=-1) * told).sum(dim=-1)

    def several(self, examples: Examples) -> tuple[list[str], Tensor]:
        """The caption (N,) and the key (N,) of each take."""
        each = torch.arange(self.config.takes, device=self.machine.device)
        keys = examples.keys(self.machine.device)[:, None] + each                      # (B, n)
        return [c for c in examples.captions for _ in each], keys.flatten()

    def losses(self, examples: Examples) -> Losses:
        unet, (captions, keys) = self.modules["preference"], self.several(examples)
        z = self.takes(unet.eval(), captions, keys)
        scores = self.scores(z, captions).view(-1, self.config.takes)        # (B, n)
        better = ((scores - scores.mean(dim=1, keepdim=True)) / self.config.apart).clamp(-1, 1).flatten()            # (N,)
        loss = self.departure(unet.train(), z, captions, better, keys)
        self.backward(loss)
        return {"loss": loss, "score": scores.mean(), "best": scores.amax(dim=1).mean()}

    def departure(self, unet: nn.Module, z: Tensor, captions: list[str], better: Tensor, keys: Tensor) -> Tensor:
        """||d - strength better e||^2 of takes z (N, C, h, w), at evenly spaced training steps. ()

        Some captions go untold: what the text is guided away from is held where it is.
        """
        schedule, c = self.model.schedule, self.config
        dice = uniform(keys, 2)                                  # (N, 2)
        untold = (dice[:, 1] < c.drop).tolist()
        text = self.captions(["" if u else x for u, x in zip(untold, captions, strict=True)])
        better = better.where(dice[:, 1] >= c.drop, 0.0)
        text = text.map(lambda x: x.repeat(c.levels, *[1] * (x.dim() - 1)))
        when = torch.cat([(dice[:, 0] + i / c.levels) % 1 for i in range(c.levels)])
        noise = torch.cat([normal(keys, *z.shape[1:], salt=2 + i) for i in range(c.levels)])
        t = (when * schedule.steps).long()
        x, target = noised(z.repeat(c.levels, 1, 1, 1), noise, self.sigmas[t], schedule.prediction)
        with torch.no_grad():
            before = predicted(self.before, x, t, text, self.machine)
        wanted = c.strength * better.repeat(c.levels)[:, None, None, None] * (target - before)
        return (predicted(unet, x, t, text, self.machine) - before - wanted).square().mean()

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        """How well takes of held-out clips' captions fit, by the averaged weights."""
        captions, keys = self.several(examples)
        with self.averaged("preference") as unet:
            return {"score": float(self.scores(self.takes(unet, captions, keys), captions).mean())}

    def state(self) -> dict[str, Any]:
        return super().state() | {"before": self.before.state_dict()}        # the run's folder has only what it became

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.before.load_state_dict(state["before"])

    def weights(self) -> Weights:
        return {"unet": self.average["preference"]}
