"""Text to sound: the whole way from prompts to waves.

Shapes: B items, S samples, T mel frames, M bins, t x m (or m x t) latents of C channels.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen import drafts
from audiogen.audio import loudness
from audiogen.checkpoint import Model
from audiogen.diffusion.attention_edit import weighted
from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.diffusion.denoiser import Denoiser
from audiogen.diffusion.loop import circular, wrapping
from audiogen.diffusion.sampling import Denoise, Noise, Watch, ignore, sample
from audiogen.diffusion.schedule import Grid, grid
from audiogen.diffusion.windows import long_noise, mixed, overlapped, tile, windowed
from audiogen.errors import AudiogenError, SettingsError
from audiogen.mel import Mel, from_image, silence, to_image
from audiogen.models.recorded import Recorded
from audiogen.recipe import draft_seed, items
from audiogen.settings import Settings, check_prompt
from audiogen.sizes import Sizes
from audiogen.text import AudioLdm2Speech, Pair, word_context
from audiogen.timeline import duration_of, read_timeline, shares
from audiogen.vocode import vocode
from audiogen.words import Weighted, read_weights, token_weights

Texts = list[str | None]                                         # of items: what to keep away from, what to say
LATEST = 16                                                      # texts whose encodings are kept


@dataclass(frozen=True)
class Generation:
    """Sounds, and what made them."""

    audio: Tensor                                                # (B, S) float32 in [-1, 1], on the CPU
    sample_rate: int                                             # Hz
    latents: Tensor                                              # (B, C, h, w) float32, on the CPU
    settings: Settings
    seeds: list[int]
    drafts: list[int] = field(default_factory=list)              # which of its drafts each is, of a plain prompt


class Pipeline(Sizes):
    """A model that generates. If it is used `once`, for a prompt or two, its text encoder's memory is given back."""

    def __init__(self, model: Model, device: str, dtype: torch.dtype, once: bool = False):
        super().__init__(model.config)
        self.model = model
        self.device, self.dtype, self.once = device, dtype, once
        self._encoded: dict[tuple[str, str | None, str | None, bool], Pair] = {}         # the latest texts

    @torch.inference_mode()
    def generate(self, prompts: Sequence[str] | str, settings: Settings | None = None, seeds: Sequence[int] | None = None, *,
                 seed: int = 0, count: int = 1, negatives: Sequence[str | None] | str | None = None,
                 says: Sequence[str | None] | str | None = None, chosen: Sequence[int] | None = None, watch: Watch = ignore,
                 **changes: float | int | str | bool) -> Generation:
        """Sounds for `prompts`, `count` takes of each, one after another.

        Each item's noise comes from its own seed, so its sound is the same in any batch: the takes of a prompt have `seed`,
        `seed` + 1, ..., unless `seeds` names that of each item. `chosen` says which draft of each is to go on, where that
        is known. `changes` are fields of Settings. Raises SettingsError for what makes no sense.
        """
        settings = replace(settings or Settings(), **changes).check()                      # type: ignore[arg-type]
        prompts, negatives, says, seeds = items(prompts, negatives, says, seeds, seed, count)
        if settings.timeline:
            return self._in_time(prompts, settings, seeds, negatives, says, watch)
        settings = self.settle(settings)
        levels, prompts = self.levels(settings), [check_prompt(p) for p in prompts]
        # a CPU adds up in an order that depends on the size of a product: there each is made as if it were alone
        size = 1 if self.device == "cpu" else len(prompts)
        made, parts = [], len(prompts) // size
        for i in range(parts):
            some = slice(i * size, (i + 1) * size)
            texts = prompts[some], negatives[some], says[some]
            denoise = self.long(self.denoiser(*texts, settings, levels), settings)
            which: list[int] = list(chosen[some]) if chosen else []
            begun: list[Tensor] = []
            if not chosen and (settings.drafts or 1) > 1:
                which, begun = self._choose(denoise, levels, settings, texts, seeds[some])
            noise = [draft_seed(seed, k) for seed, k in zip(seeds[some], which or [0] * size, strict=True)]
            one = self.finish(drafts.known(denoise, begun), levels, settings, noise, part(watch, i, parts))
            made.append(replace(one, seeds=seeds[some], drafts=which))
        return joined(made)

    def _choose(self, denoise: Denoise, levels: Grid, settings: Settings, texts: tuple[list[str], Texts, Texts],
                seeds: Sequence[int]) -> tuple[list[int], list[Tensor]]:
        """Which draft of each sound goes on, and the guesses (B, C, h, w) that led to it."""
        plain, guided = [read_weights(prompt).prompt for prompt in texts[0]], (settings.guidance or 1) > 1
        film = self.condition(plain, texts[1], texts[2], guided)[0].film                   # (B, W)
        clap, shape, mel = self.model.clap, self.config.clap, self.config.mel
        if clap is None or shape is None or film is None:
            raise SettingsError(f"The model '{self.model.name}' has no CLAP of its own to choose among drafts: use --drafts 1.")
        window = round(shape.seconds * mel.sample_rate / mel.hop)

        def begin(k: int) -> list[Tensor]:
            guesses: list[Tensor] = []
            draw = self.noise(settings, [draft_seed(seed, k) for seed in seeds])
            self.walk(drafts.kept(denoise, guesses), drafts.beginning(levels), draw() * levels.initial, draw, settings)
            return guesses

        def fit(guess: Tensor) -> Tensor:
            return drafts.fit(clap, self._image(guess, settings.loop), film, window, silence(mel))

        assert settings.drafts is not None
        return drafts.choose(begin, fit, settings.drafts, self.config.defaults.fits)

    def _in_time(self, prompts: Sequence[str], settings: Settings, seeds: list[int], negatives: list[str | None],
                 says: list[str | None], watch: Watch) -> Generation:
        """Timelines, one at a time."""
        told = [read_timeline(p) for p in prompts]
        ends = {duration_of(segments) for segments in told}
        if len(ends) > 1:
            raise SettingsError("Timelines of several lengths cannot be made at once; make them one by one.")
        settings = self.settle(replace(settings, duration=settings.duration or ends.pop(), drafts=1).check())
        levels, made = self.levels(settings), []
        for i, segments in enumerate(told):
            parts = [self.denoiser([s.prompt], [negatives[i]], [says[i]], settings, levels) for s in segments]
            frames = self.latent_shape(settings)[self.axis - 1]
            rows = shares(segments, frames, self.config.mel.sample_rate / self.step)
            denoise = self.long(parts, settings, torch.tensor(rows))
            made.append(self.finish(denoise, levels, settings, [seeds[i]], part(watch, i, len(told))))
        return joined(made)

    def settle(self, settings: Settings) -> Settings:
        """Every setting decided; the duration of a loop is that of whole latents, which the networks can turn around."""
        settings = settings.check().with_defaults(self.config.defaults)
        return replace(settings, duration=self.samples(settings) / self.config.mel.sample_rate) if settings.loop else settings

    def levels(self, settings: Settings) -> Grid:
        """The noise levels of settings that are settled."""
        assert settings.sampler is not None and settings.steps is not None  # noqa: PT018
        return grid(self.config.schedule, settings.sampler, settings.steps, bool(settings.karras), settings.guided)

    def noise(self, settings: Settings, seeds: Sequence[int], hold: bool = True) -> Noise:
        """Draws of noise (B, C, h, w) on the device, each item's from its own seed.

        Over more than a window, what is slower than a second is held, so that a texture lasts; unless a recording leads it.
        """
        second = max(1, round(self.config.mel.sample_rate / self.step)) if hold else None
        draw = long_noise(list(seeds), self.latent_shape(settings), self.axis, self.window, second)
        return lambda: draw().to(self.device)

    def denoiser(self, prompts: Sequence[str], negatives: Sequence[str | None], says: Sequence[str | None], settings: Settings,
                 levels: Grid) -> Denoise:
        """The denoiser of prompts, their weights obeyed, for latents of one window."""
        assert settings.guidance is not None
        told = [read_weights(p) for p in prompts]
        cond, uncond = self.condition([t.prompt for t in told], negatives, says, settings.guidance > 1)
        context, weights = self._weights(told, cond)
        if self.once:
            self.model.forget_text()
        unet = self._recorded if self.device.startswith("cuda") else self.model.unet
        denoise: Denoise = Denoiser.guided(unet, levels.step, cond, uncond, settings.guidance, settings.interval,
                                           settings.rescale, self.spared(settings), self.config.schedule.prediction)
        return denoise if weights is None else weighted(denoise, self.model.unet, context, weights)

    @cached_property
    def _recorded(self) -> Recorded:
        """The U-Net for a GPU, with the recordings of earlier calls."""
        return Recorded(self.model.unet)

    def _weights(self, told: Sequence[Weighted], cond: Conditioning) -> tuple[int, Tensor | None]:
        """Which context has the words of prompts, and how much each of its positions counts (B, L); None if all count alike."""
        if all(weight == 1 for t in told for *_, weight in t.places):
            return 0, None
        context = word_context(self.model.text)
        if context is None:
            raise SettingsError(f"The model '{self.model.name}' sees a prompt as a whole, so its words cannot have weights.")
        weights = torch.ones(cond.contexts[context].shape[:2])   # (B, L)
        for i, t in enumerate(told):
            row = token_weights(t, self.model.text.tokens(t.prompt))[: weights.shape[1]]
            weights[i, : len(row)] = torch.tensor(row)
        return context, weights

    def long(self, denoise: Denoise | Sequence[Denoise], settings: Settings, rows: Tensor | None = None) -> Denoise:
        """A denoiser for the whole duration of one for a window, or of several that share the frames as `rows` (n, T) say."""
        tiling = tile(self.latent_shape(settings)[self.axis - 1], self.window, settings.loop)
        pieces = []
        for i in range(len(tiling.starts)):
            if rows is None or callable(denoise):
                assert callable(denoise)
                pieces.append(denoise)
            else:
                pieces.append(mixed(list(zip(denoise, rows[:, tiling.at(i)], strict=True)), self.axis))
        whole = windowed(pieces, tiling, self.axis)
        return circular(whole, self.model.unet, self.axis) if settings.loop and len(pieces) == 1 else whole

    def finish(self, denoise: Denoise, levels: Grid, settings: Settings, seeds: Sequence[int], watch: Watch = ignore,
               draw: Noise | None = None) -> Generation:
        """Sounds from noise (that of the seeds, or `draw`), by a denoiser of the whole duration."""
        draw = draw or self.noise(settings, seeds)
        latents = self.walk(denoise, levels, draw() * levels.initial, draw, settings, watch)
        audio = self.decode(latents, settings.loop)[:, : self.samples(settings)]
        audio = self.level(audio, faded=not settings.loop)
        return Generation(audio, self.config.mel.sample_rate, latents.cpu(), settings, list(seeds))

    def level(self, audio: Tensor, faded: bool) -> Tensor:
        """Sounds (B, S) with their ends faded, then at the peak, but no louder than the model's defaults ask for."""
        c, rate = self.config.defaults, self.config.mel.sample_rate
        n = min(int(c.fade * rate), audio.shape[1] // 2)
        if n and faded:
            ramp = torch.linspace(0, 1, n)
            audio = torch.cat([audio[:, :n] * ramp, audio[:, n:-n], audio[:, -n:] * ramp.flip(0)], dim=1)
        if c.peak is not None:
            audio = audio * (c.peak / audio.abs().amax(dim=1, keepdim=True).clamp(min=1e-4))
        if c.loudness is not None:
            over = [max(0.0, loudness(sound, rate) - c.loudness) for sound in audio]         # dB
            audio = audio * torch.tensor([10 ** (-x / 20) for x in over])[:, None]
        return audio

    def condition(self, prompts: Sequence[str], negatives: Sequence[str | None], says: Sequence[str | None],
                  guided: bool) -> tuple[Conditioning, Conditioning | None]:
        """Each prompt encoded alone, then as one batch: (conditional, unconditional or None)."""
        keys = [(*key, guided) for key in zip(prompts, negatives, says, strict=True)]
        fresh = {key: self._encoded.get(key) or self._encode(*key) for key in dict.fromkeys(keys)}
        self._encoded = dict([*self._encoded.items(), *fresh.items()][-LATEST:])
        pairs = [fresh[key] for key in keys]
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

    def walk(self, denoise: Denoise, levels: Grid, x: Tensor, draw: Noise, settings: Settings, watch: Watch = ignore) -> Tensor:
        """Latents (B, C, h, w) in the frame of the diffusion, from x on the first of `levels`.

        Raises AudiogenError if they are not finite.
        """
        assert settings.sampler is not None
        self.model.read()                                        # what is broken is said before the long part
        x = sample(settings.sampler, denoise, x, levels.sigmas, eta=settings.eta, noise=draw,
                   clip=self.config.schedule.clip, jumps=settings.guided or (), watch=watch)
        x = x / float((1 + levels.sigmas[-1] ** 2).sqrt())       # where a grid ends above zero, the published frame
        if not torch.isfinite(x).all():
            raise AudiogenError(f"The latents are not finite under {str(self.dtype).removeprefix('torch.')}: "
                                "use --dtype float32 (or bfloat16).")
        return x

    @torch.inference_mode()
    def decode(self, latents: Tensor, loop: bool = False) -> Tensor:
        """Latents (B, C, h, w) -> waves (B, S) float32 in [-1, 1], on the CPU; those of a loop wrap around in time"""
        image = self._image(latents, loop)
        return vocode(self.model.vocoder, from_image(image, self.config.mel), self.config.mel.hop, loop).float().cpu()

    def _image(self, latents: Tensor, loop: bool) -> Tensor:
        """Latents (B, C, h, w) -> the autoencoder's images, float32"""
        c, autoencoder = self.config.autoencoder, self.model.autoencoder
        tiling = tile(latents.shape[self.axis], self.window, loop)

        def decoded(z: Tensor, _: int) -> Tensor:
            return autoencoder.decode(z.to(self.device, self.dtype)).float()

        with wrapping(autoencoder, self.axis) if loop and len(tiling.starts) == 1 else nullcontext():
            return overlapped(decoded, latents / c.scale + c.shift, tiling, self.axis, (1, c.factor))

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """Waves (B, S) at the model's rate -> the means of their latents (B, C, h, w), in the frame of the diffusion.

        The waves are padded with silence to whole latent frames.
        """
        c, mel = self.config.autoencoder, self.config.mel
        wave = F.pad(wave, (0, -wave.shape[-1] % self.step)).to(self.device)
        image = to_image(Mel(mel).to(self.device)(wave), mel, c.in_channels).to(self.dtype)

        def encoded(part: Tensor, _: int) -> Tensor:
            return self.model.autoencoder.encode(part).mean.float()

        tiling = tile(wave.shape[-1] // self.step, self.window)
        return (overlapped(encoded, image, tiling, self.axis, (c.factor, 1)) - c.shift) * c.scale

    def reconstruct(self, wave: Tensor) -> Tensor:
        """Waves (B, S) at the model's rate through autoencoder and vocoder, without any diffusion: (B, S)"""
        return self.decode(self.encode(wave))[:, : wave.shape[-1]]


def part(watch: Watch, i: int, n: int) -> Watch:
    """What watches part i of n, made one after another."""
    return lambda done, total: watch(i * total + done, n * total)


def joined(made: Sequence[Generation]) -> Generation:
    """Sounds of the same settings as one batch."""
    return Generation(torch.cat([g.audio for g in made]), made[0].sample_rate, torch.cat([g.latents for g in made]),
                      made[0].settings, [seed for g in made for seed in g.seeds], [k for g in made for k in g.drafts])
