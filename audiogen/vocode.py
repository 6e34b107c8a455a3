"""Mels to waves by pieces: memory that does not grow with the duration, and loops without a seam."""

import math

import torch
from torch import Tensor

from audiogen.models.hifigan import HifiGan
from audiogen.models.partials import closed
from audiogen.models.vocos import ROUNDS, TAPE, Parts, Vocos

PIECE = 2048                                                     # mel frames at a time


def vocode(vocoder: HifiGan | Vocos, mel: Tensor, hop: int, loop: bool = False, piece: int = PIECE) -> Tensor:
    """ln mel (B, M, T) -> wave (B, S), the same as at once; of a loop, one whose end meets its beginning: S = T * hop"""
    frames = mel.shape[-1]
    if frames <= piece and not loop:
        return vocoder(mel)
    if isinstance(vocoder, Vocos):
        return around(vocoder, mel, piece) if loop else by_spectra(vocoder, mel, piece)
    context = reach(vocoder, hop)
    waves = []
    for a in range(0, frames, piece):
        b = min(a + piece, frames)
        first, last = (a - context, b + context) if loop else (max(a - context, 0), min(b + context, frames))
        at = torch.arange(first, last)                           # frames of the piece and around it
        wave = vocoder(mel[..., at.to(mel.device) % frames])
        end = None if b == frames and not loop else (b - first) * hop
        waves.append(wave[:, (a - first) * hop : end])
    return torch.cat(waves, dim=1)


def by_spectra(vocoder: Vocos, mel: Tensor, piece: int) -> Tensor:
    """`vocode` by a Vocos: the phases of its partials go on from piece to piece."""
    frames, hop, context, edge = mel.shape[-1], vocoder.hop, reach(vocoder, vocoder.hop), overlap(vocoder)
    waves, before = [], None
    for a in range(0, frames, piece):
        b = min(a + piece, frames)
        first, last = max(a - context, 0), min(b + context, frames)                    # that the network sees
        low, high = max(a - edge, first), min(b + edge, last)    # whose spectra overlap with the piece
        parts = vocoder.parts(mel[..., first:last], at=torch.arange(first, last) % TAPE).frames(slice(low - first, high - first))
        phasors = vocoder.turn(parts, before)
        before = phasors[..., b - edge - 1 - low] if b > edge else None                # where the next piece goes on
        wave = vocoder.invert(vocoder.tuned(parts, phasors, mel[..., low:high]))
        waves.append(wave[:, (a - low) * hop : (b - low) * hop])
    return torch.cat(waves, dim=1)


def around(vocoder: Vocos, mel: Tensor, piece: int) -> Tensor:
    """`vocode` of a loop by a Vocos."""
    frames, hop, context, edge = mel.shape[-1], vocoder.hop, reach(vocoder, vocoder.hop), overlap(vocoder)
    each: list[Parts] = []
    for a in range(0, frames, piece):
        b = min(a + piece, frames)
        at = torch.arange(a - context, b + context, device=mel.device) % frames
        noise = vocoder.noise(a - context, b + context, frames)
        each.append(vocoder.parts(mel[..., at], noise=noise).frames(slice(context, context + b - a)))
    whole = Parts(*(torch.cat([getattr(p, name) for p in each], dim=-1) for name in ("spectrum", "rest", "level", "offset")))
    phasors = closed(whole.level, whole.offset, hop / vocoder.config.n_fft)            # (B, F, T)
    at = torch.arange(-edge, frames + edge, device=mel.device) % frames
    wave = vocoder.invert(vocoder.tuned(whole.frames(at), phasors[..., at], mel[..., at]))
    return wave[:, edge * hop : (edge + frames) * hop]


def overlap(vocoder: Vocos) -> int:
    """How many frames away a frame's spectrum still reaches into a frame's samples."""
    n, rounds = vocoder.config.n_fft, ROUNDS if vocoder.config.partials else 0
    return math.ceil(n / vocoder.hop) + rounds * math.ceil((n + vocoder.framing.n_fft) / 2 / vocoder.hop)


def reach(vocoder: HifiGan | Vocos, hop: int) -> int:
    """How many mel frames away a sample may still hear."""
    c = vocoder.config
    if isinstance(vocoder, Vocos):
        return 3 + 3 * c.layers + overlap(vocoder)
    frames, samples = 3.0, 1                                     # samples: of this level, in a frame
    for rate, kernel in zip(c.rates, c.kernels, strict=True):
        frames += kernel / rate / samples
        samples *= rate
        widest = max((k - 1) // 2 * (sum(d) + len(d)) for k, d in zip(c.resblock_kernels, c.resblock_dilations, strict=True))
        frames += widest / samples
    return math.ceil(frames + 3 / samples) + 1
