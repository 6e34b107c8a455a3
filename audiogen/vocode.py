"""Mels to waves by pieces: memory that does not grow with the duration, and loops without a seam."""

import math

import torch
from torch import Tensor

from audiogen.models.hifigan import HifiGan
from audiogen.models.vocos import TAPE, Vocos

PIECE = 2048                                                     # mel frames at a time


def vocode(vocoder: HifiGan | Vocos, mel: Tensor, hop: int, loop: bool = False, piece: int = PIECE) -> Tensor:
    """ln mel (B, M, T) -> wave (B, S), the same as at once; of a loop, one whose end meets its beginning: S = T * hop"""
    frames = mel.shape[-1]
    if frames <= piece and not loop:
        return vocoder(mel)
    context = reach(vocoder, hop)
    waves = []
    for a in range(0, frames, piece):
        b = min(a + piece, frames)
        first, last = (a - context, b + context) if loop else (max(a - context, 0), min(b + context, frames))
        at = torch.arange(first, last)                           # frames of the piece and around it
        part = mel[..., at.to(mel.device) % frames]
        if isinstance(vocoder, Vocos):
            wave = vocoder(part, noise=vocoder.noise(first, last, frames)) if loop else vocoder(part, at=at % TAPE)
        else:
            wave = vocoder(part)
        end = None if b == frames and not loop else (b - first) * hop
        waves.append(wave[:, (a - first) * hop : end])
    return torch.cat(waves, dim=1)


def reach(vocoder: HifiGan | Vocos, hop: int) -> int:
    """How many mel frames away a sample may still hear."""
    c = vocoder.config
    if isinstance(vocoder, Vocos):
        return 3 + 3 * c.layers + math.ceil(c.n_fft / hop)
    frames, samples = 3.0, 1                                     # samples: of this level, in a frame
    for rate, kernel in zip(c.rates, c.kernels, strict=True):
        frames += kernel / rate / samples
        samples *= rate
        widest = max((k - 1) // 2 * (sum(d) + len(d)) for k, d in zip(c.resblock_kernels, c.resblock_dilations, strict=True))
        frames += widest / samples
    return math.ceil(frames + 3 / samples) + 1
