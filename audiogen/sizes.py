"""How long and how large sounds, mels and latents of a model are."""

import math
from collections.abc import Callable

from torch import Tensor

from audiogen.config import ModelConfig
from audiogen.diffusion.loop import moving_mean
from audiogen.models.hifigan import length
from audiogen.settings import Settings

MOMENT = 0.4                                                     # seconds: what stays as long is steady


class Sizes:
    """Of a model with this configuration."""

    def __init__(self, config: ModelConfig):
        self.config = config

    @property
    def axis(self) -> int:
        """Of latents and images (B, C, h, w), the one that is time."""
        return 2 if self.config.mel.layout == "time" else 3

    @property
    def step(self) -> int:
        """Samples of a latent frame."""
        return self.config.mel.hop * self.config.autoencoder.factor

    @property
    def turn(self) -> int:
        """Latent frames by which the U-Net can turn a loop around: those of one frame of its smallest map."""
        return 2 ** (len(self.config.unet.channels) - 1)

    def spared(self, settings: Settings) -> Callable[[Tensor], Tensor] | None:
        """Takes what guidance leaves out of what it adds to latents (B, C, h, w): all but a share `slow` of what hardly changes.

        That is their mean over MOMENT, and over the seam of a loop of one window. None: it leaves out nothing.
        """
        assert settings.slow is not None
        share = 1 - settings.slow
        if not share:
            return None
        frames = 2 * round(MOMENT / 2 * self.config.mel.sample_rate / self.step) + 1
        around = settings.loop and self.latent_shape(settings)[self.axis - 1] <= self.window
        return lambda x: share * moving_mean(x, frames, self.axis, around)

    @property
    def window(self) -> int:
        """Latent frames that the U-Net takes at once, at most."""
        seconds = max(self.config.defaults.longest, self.config.defaults.window or 0)
        return max(1, math.ceil(round(seconds * self.config.mel.sample_rate / self.step / self.turn, 3))) * self.turn

    def samples(self, settings: Settings) -> int:
        """S: samples of a sound of this duration, or of the loop that is nearest to it."""
        count = settings.duration * self.config.mel.sample_rate                  # type: ignore[operator]
        if settings.loop:
            return max(1, round(count / (self.step * self.turn))) * self.step * self.turn
        return int(count)

    def latent_shape(self, settings: Settings) -> tuple[int, int, int]:
        """(C, h, w) of one item: enough frames for the duration, in the layout of the model."""
        mel, factor = self.config.mel, self.config.autoencoder.factor
        seconds = max(settings.duration or 0, self.config.defaults.window or 0)
        frames = math.ceil(int(seconds / (mel.hop / mel.sample_rate)) / factor) * factor      # as the published pipelines count
        while self.wave_length(frames) < self.samples(settings):
            frames += factor
        t, m = max(frames, factor) // factor, mel.bins // factor
        if settings.loop:
            t = self.samples(settings) // self.step
        return (self.config.unet.in_channels, *((t, m) if mel.layout == "time" else (m, t)))

    def wave_length(self, frames: int) -> int:
        """Samples that the vocoder makes of that many mel frames."""
        vocoder = self.config.vocoder
        return length(vocoder, frames) if vocoder.kind == "hifigan" else frames * self.config.mel.hop
