"""Text to sound: the whole way from prompts to waves.

Shapes: B items, S samples, T mel frames, M bins, t x m (or m x t) latents of C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.checkpoint import Model
from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.diffusion.denoiser import Denoiser
from audiogen.diffusion.sampling import Watch, ignore, item_noise, sample
from audiogen.diffusion.schedule import grid
from audiogen.errors import AudiogenError, SettingsError
from audiogen.mel import Mel, from_image, to_image
from audiogen.models.hifigan import HifiGan
from audiogen.settings import Settings, check_prompt
from audiogen.text import AudioLdm2Speech, Pair


@dataclass(frozen=True)
class Generation:
    """Sounds, and what made them."""

    audio: Tensor                                                # (B, S) float32 in [-1, 1], on the CPU
    sample_rate: int                                             # Hz
    latents: Tensor                                              # (B, C, h, w) float32, on the CPU
    settings: Settings
    seeds: list[int]


class Pipeline:
    """A loaded model that generates."""

    def __init__(self, model: Model, device: str, dtype: torch.dtype):
        self.model, self.config = model, model.config
        self.device, self.dtype = device, dtype

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str], settings: Settings | None = None, seeds: Sequence[int] | None = None, *,
                 negatives: Sequence[str | None] | None = None, says: Sequence[str | None] | None = None,
                 watch: Watch = ignore, **changes: float | int | str | bool) -> Generation:
        """Sounds for `prompts`, one each.

        Each item's noise comes from its own seed (0 where none is given), so its sound is the same in any batch. `changes`
        are fields of Settings. Raises SettingsError for what makes no sense.
        """
        settings = replace(settings or Settings(), **changes).check().with_defaults(self.config.defaults)   # type: ignore[arg-type]
        seeds = list(seeds) if seeds is not None else [0] * len(prompts)
        negatives = list(negatives) if negatives is not None else [None] * len(prompts)
        says = list(says) if says is not None else [None] * len(prompts)
        if not len(prompts) == len(seeds) == len(negatives) == len(says):
            raise SettingsError(f"{len(prompts)} prompts need as many seeds, negatives and words, not "
                                f"{len(seeds)}, {len(negatives)} and {len(says)}.")
        guided = settings.guidance > 1                           # type: ignore[operator]
        cond, uncond = self.condition([check_prompt(p) for p in prompts], negatives, says, guided)
        latents = self.sample(cond, uncond, settings, seeds, watch)
        audio = self.decode(latents)[:, : self.samples(settings)]
        return Generation(audio, self.config.mel.sample_rate, latents.cpu(), settings, seeds)

    def condition(self, prompts: Sequence[str], negatives: Sequence[str | None], says: Sequence[str | None],
                  guided: bool) -> tuple[Conditioning, Conditioning | None]:
        """Each prompt encoded alone, then as one batch: (conditional, unconditional or None)."""
        known: dict[tuple[str, str | None, str | None], Pair] = {}
        for key in zip(prompts, negatives, says, strict=True):
            if key not in known:
                known[key] = self._encode(*key, guided)
        pairs = [known[key] for key in zip(prompts, negatives, says, strict=True)]
        cond = collate([c for c, _ in pairs]).to(self.device, self.dtype)
        away = [u for _, u in pairs if u is not None]
        return cond, collate(away).to(self.device, self.dtype) if away else None

    def _encode(self, prompt: str, negative: str | None, say: str | None, guided: bool) -> Pair:
        text = self.model.text
        if isinstance(text, AudioLdm2Speech):
            return text.encode(prompt, negative, guided, say)
        if say is not None:
            raise SettingsError(f"The model '{self.model.name}' does not speak words; leave out what to say.")
        return text.encode(prompt, negative, guided)

    def sample(self, cond: Conditioning, uncond: Conditioning | None, settings: Settings, seeds: Sequence[int],
               watch: Watch = ignore) -> Tensor:
        """Latents (B, C, h, w) in the frame of the diffusion; raises AudiogenError if they are not finite."""
        assert settings.sampler is not None and settings.steps is not None and settings.guidance is not None  # noqa: PT018
        levels = grid(self.config.schedule, settings.sampler, settings.steps, settings.karras)
        denoiser = Denoiser.guided(self.model.unet, levels.step, cond, uncond, settings.guidance, settings.rescale,
                                   self.config.schedule.prediction)
        draw = item_noise(list(seeds), self.latent_shape(settings))
        x = draw().to(self.device) * levels.initial
        x = sample(settings.sampler, denoiser, x, levels.sigmas, eta=settings.eta, noise=lambda: draw().to(self.device),
                   clip=self.config.schedule.clip, watch=watch)
        x = x / float((1 + levels.sigmas[-1] ** 2).sqrt())       # where a grid ends above zero, the published frame
        if not torch.isfinite(x).all():
            raise AudiogenError(f"The latents are not finite under {str(self.dtype).removeprefix('torch.')}: "
                                "use --dtype float32 (or bfloat16).")
        return x

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> waves (B, S) float32 in [-1, 1], on the CPU"""
        c = self.config.autoencoder
        image = self.model.autoencoder.decode((latents / c.scale + c.shift).to(self.device, self.dtype)).float()
        return self.model.vocoder(from_image(image, self.config.mel)).float().cpu()

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Waves (B, S) at the model's rate -> the means of their latents (B, C, h, w), in the frame of the diffusion.

        The waves are padded with silence to whole latent frames.
        """
        c, mel = self.config.autoencoder, self.config.mel
        step = mel.hop * c.factor
        wave = F.pad(wave, (0, -wave.shape[-1] % step)).to(self.device)
        image = to_image(Mel(mel).to(self.device)(wave), mel, c.in_channels).to(self.dtype)
        return (self.model.autoencoder.encode(image).mean.float() - c.shift) * c.scale

    def reconstruct(self, wave: Tensor) -> Tensor:
        """Waves (B, S) at the model's rate through autoencoder and vocoder, without any diffusion: (B, S)"""
        return self.decode(self.encode(wave))[:, : wave.shape[-1]]

    def samples(self, settings: Settings) -> int:
        """S: samples of a sound of this duration."""
        return int(settings.duration * self.config.mel.sample_rate)      # type: ignore[operator]

    def latent_shape(self, settings: Settings) -> tuple[int, int, int]:
        """(C, h, w) of one item: enough frames for the duration, in the layout of the model."""
        mel, factor = self.config.mel, self.config.autoencoder.factor
        seconds = max(settings.duration or 0, self.config.defaults.window or 0)
        frames = math.ceil(int(seconds / (mel.hop / mel.sample_rate)) / factor) * factor      # as the published pipelines count
        while self._wave_length(frames) < self.samples(settings):              # type: ignore[operator]
            frames += factor
        t, m = max(frames, factor) // factor, mel.bins // factor
        return (self.config.unet.in_channels, *((t, m) if mel.layout == "time" else (m, t)))

    def _wave_length(self, frames: int) -> int:
        vocoder = self.model.vocoder
        return vocoder.length(frames) if isinstance(vocoder, HifiGan) else frames * self.config.mel.hop
