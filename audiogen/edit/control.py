"""Sounds that share what others have: their structure (prompt-to-prompt), their prompts, their noise.

Shapes: B items, C channels, h x w latents, t x m latent frames and bands, L tokens.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from audiogen.diffusion.attention_edit import Watched, shared
from audiogen.diffusion.sampling import Denoise, Noise, Watch, ignore
from audiogen.edit.paint import Order, check_share
from audiogen.errors import SettingsError
from audiogen.pipeline import Generation, Pipeline
from audiogen.settings import Settings, check_prompt
from audiogen.text import word_context
from audiogen.words import align, read_weights, tokens_of_words


@torch.inference_mode()
def swap(pipeline: Pipeline, order: Order, other: str, cross: float = 0.8, inner: float = 0.4,
         watch: Watch = ignore) -> Generation:
    """Two sounds of one structure: the prompt's own, and that of another prompt which attends where the first does.

    For a share `cross` of the steps the words that both have, and those exchanged for each other, attend alike; for a
    share `inner` the positions do (Hertz et al. 2022: 0.8 and 0.4). Raises SettingsError for prompts without a common word.
    """
    check_share(cross, "share of steps")
    check_share(inner, "share of steps")
    prompts = [check_prompt(order.prompt), check_prompt(other)]
    settings = pipeline.settle(_untimed(order.settings, "A word swap"))
    levels, text = pipeline.levels(settings), pipeline.model.text
    plain = [read_weights(p).prompt for p in prompts]
    tokens = [text.tokens(p) for p in plain]
    lengths = (max(map(len, tokens)),) * 2
    context = word_context(text)
    if context is not None:                                      # as long as the text encoder pads them
        cond, _ = pipeline.condition(plain, [None] * 2, [order.say] * 2, guided=False)
        lengths = (cond.contexts[context].shape[1],) * 2
    matrix = torch.tensor(align(plain[0], plain[1], tokens[0], tokens[1], lengths))          # also without a use
    maps = {} if context is None else {context: matrix}
    denoise = pipeline.denoiser(prompts, [order.negative] * 2, [order.say] * 2, settings, levels)
    led = shared(denoise, pipeline.model.unet, maps, *(_level(levels.sigmas, part) for part in (cross, inner)))
    return pipeline.finish(pipeline.long(led, settings), levels, settings, [order.seed] * 2, watch)


def _level(sigmas: Tensor, part: float) -> float:
    """The level at which this part of the steps is done; steps above it are among them."""
    return float(sigmas[round(part * (len(sigmas) - 1))])


@torch.inference_mode()
def blend(pipeline: Pipeline, order: Order, other: str, at: float = 0.5, other_seed: int | None = None,
          watch: Watch = ignore) -> Generation:
    """A sound between two prompts: 0 is the first, 1 the second; what the model predicts for each is interpolated.

    So is their noise, if the second has a seed of its own. Raises SettingsError for an `at` outside 0-1.
    """
    check_share(at, "place between two prompts")
    settings = pipeline.settle(_untimed(order.settings, "A blend"))
    levels = pipeline.levels(settings)
    one, two = (pipeline.long(pipeline.denoiser([check_prompt(p)], [order.negative], [order.say], settings, levels), settings)
                for p in (order.prompt, other))
    draw = pipeline.noise(settings, [order.seed])
    if other_seed is not None:
        draw = between(draw, pipeline.noise(settings, [other_seed]), at)
    return pipeline.finish(_mean(one, two, at), levels, settings, [order.seed], watch, draw)


def _mean(one: Denoise, two: Denoise, at: float) -> Denoise:
    if at in (0, 1):
        return two if at else one
    return lambda x, sigma: torch.lerp(one(x, sigma), two(x, sigma), at)


@torch.inference_mode()
def vary(pipeline: Pipeline, order: Order, toward: int, amount: float = 0.2, watch: Watch = ignore) -> Generation:
    """A neighbour of the sound that the order makes: its noise turned by `amount` towards that of another seed.

    0 is the sound itself, 1 that of the other seed. Raises SettingsError for an amount outside 0-1.
    """
    check_share(amount, "amount")
    settings = pipeline.settle(_untimed(order.settings, "A variation"))
    levels = pipeline.levels(settings)
    denoise = pipeline.denoiser([check_prompt(order.prompt)], [order.negative], [order.say], settings, levels)
    draw = between(pipeline.noise(settings, [order.seed]), pipeline.noise(settings, [toward]), amount)
    return pipeline.finish(pipeline.long(denoise, settings), levels, settings, [order.seed], watch, draw)


def between(one: Noise, two: Noise, at: float) -> Noise:
    """Noise between two draws, as normal as they are: on the arc, for their straight line would be quieter."""
    if at in (0, 1):
        return two if at else one
    return lambda: math.cos(at * math.pi / 2) * one() + math.sin(at * math.pi / 2) * two()


@dataclass(frozen=True)
class WordMap:
    """Where in a sound a word of its prompt was attended to."""

    word: str
    map: Tensor                                                  # (m, t), low bands first: its part of all attention, 0-1


@torch.inference_mode()
def attention(pipeline: Pipeline, order: Order, watch: Watch = ignore) -> tuple[Generation, list[WordMap]]:
    """A sound, just as `generate` makes it of one draft, and the cross-attention map of each word of its prompt.

    A word has the attention of all its tokens; that of punctuation, of tokens without a word and of padding is left out.
    Raises SettingsError for a model that sees a prompt as a whole, and for a sound that is longer than its window.
    """
    context, text = word_context(pipeline.model.text), pipeline.model.text
    if context is None:
        raise SettingsError(f"The model '{pipeline.model.name}' sees a prompt as a whole: no word has an attention of its own.")
    settings = pipeline.settle(_untimed(order.settings, "A picture of attention"))
    if pipeline.latent_shape(settings)[pipeline.axis - 1] > pipeline.window:
        seconds = pipeline.window * pipeline.step / pipeline.config.mel.sample_rate
        raise SettingsError(f"Attention can be shown for sounds of one window, up to {seconds:g} s; lower --duration.")
    prompt = check_prompt(order.prompt)
    levels, plain = pipeline.levels(settings), read_weights(prompt).prompt
    words = tokens_of_words(text.tokens(plain), plain)
    if not words:
        raise SettingsError(f"The prompt '{plain}' holds no words, whose attention could be shown.")
    watched = Watched(pipeline.denoiser([prompt], [order.negative], [order.say], settings, levels), pipeline.model.unet, context)
    made = pipeline.finish(pipeline.long(watched, settings), levels, settings, [order.seed], watch)
    maps = watched.maps()                                        # (h, w, L)
    maps = maps.transpose(0, 1) if pipeline.config.mel.layout == "time" else maps.flip(0)          # (m, t, L)
    return made, [WordMap(word, maps[..., tokens].sum(dim=-1)) for word, tokens in words]


def _untimed(settings: Settings, what: str) -> Settings:
    if settings.timeline:
        raise SettingsError(f"{what} is of a plain prompt; a timeline cannot be used here.")
    return replace(settings, drafts=1)
