"""Drafts: the beginnings of a sound, of which the one that fits its prompt goes on.

What a sound will be is settled early: of two sounds of one prompt, the CLAP of the default model tells that which a tagger
hears right from the other by the second guess that is guided as well as by the whole sound (0.55 and 0.56 of such pairs), for
less than half of the work; by the first it cannot (0.51).

Shapes: B items, C channels, h x w latents, T mel frames, M bins, W numbers of a text encoder's film.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.diffusion.sampling import Denoise
from audiogen.diffusion.schedule import Grid
from audiogen.diffusion.windows import tile
from audiogen.models.clap import Clap

DRAFTED = 5.5                                                    # noise level whose guesses are compared, or the next below it


def beginning(levels: Grid) -> Grid:
    """The steps of a draft: the last of them asks for the guess that is compared."""
    below = int((levels.sigmas > DRAFTED).sum())
    return levels.head(min(below + 1, len(levels.steps)))


def kept(denoise: Denoise, guesses: list[Tensor]) -> Denoise:
    """A denoiser whose answers are kept in `guesses`."""
    def ask(x: Tensor, sigma: Tensor) -> Tensor:
        guesses.append(denoise(x, sigma))
        return guesses[-1]

    return ask


def known(denoise: Denoise, guesses: list[Tensor]) -> Denoise:
    """A denoiser whose first answers are known: a sampler that asks the same again is led to the same place for nothing."""
    left = iter(guesses)

    def ask(x: Tensor, sigma: Tensor) -> Tensor:
        guess = next(left, None)
        return denoise(x, sigma) if guess is None else guess

    return ask


def choose(begin: Callable[[int], list[Tensor]], score: Callable[[Tensor], Tensor], count: int,
           enough: float) -> tuple[list[int], list[Tensor]]:
    """Which draft of each of B sounds goes on, and the guesses (B, C, h, w) that led to it.

    `begin(k)` gives the guesses of every sound's draft k, whose last ones `score` judges (B,). Of a sound's drafts up to the
    first that scores `enough`, or of all `count`, the best goes on.
    """
    begun = begin(0)
    best = score(begun[-1])                                      # (B,)
    which = [0] * len(best)
    for k in range(1, count):
        if bool((best >= enough).all()):
            break
        guesses = begin(k)
        new = score(guesses[-1])
        better = (new > best) & (best < enough)
        best = torch.where(better, new, best)
        which = [k if b else old for b, old in zip(better, which, strict=True)]
        here = better.to(begun[0].device)[:, None, None, None]   # (B, 1, 1, 1)
        begun = [torch.where(here, a, b) for a, b in zip(guesses, begun, strict=True)]
    return which, begun


def fit(clap: Clap, image: Tensor, film: Tensor, window: int, silence: float) -> Tensor:
    """How well scaled log-mels (B, 1, T, M) fit the texts of `film` (B, W): cosines (B,), float32 on the CPU.

    They are heard in windows of as many frames as the CLAP learnt, which overlap by half; a shorter one ends in silence.
    """
    image = F.pad(image, (0, 0, 0, max(0, window - image.shape[2])), value=silence)
    pieces = tile(image.shape[2], window)
    heard = torch.stack([clap.audio(image[:, :, a : a + pieces.size].float()) for a in pieces.starts]).mean(dim=0)   # (B, D)
    return F.cosine_similarity(heard, clap.text(film.float())).cpu()
