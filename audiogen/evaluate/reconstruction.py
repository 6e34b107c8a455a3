"""How far a sound is from its copy: log-mel L1 and multi-resolution STFT distance; S samples, T frames, M bins."""

import torch
from torch import Tensor

from audiogen.config import MelConfig
from audiogen.errors import DataError
from audiogen.mel import Mel

WINDOWS = (512, 1024, 2048)                                      # samples, each with a hop of a quarter
FLOOR = 1e-5                                                     # of a magnitude, before its logarithm


def same_length(a: Tensor, b: Tensor, longest: float = 0.1) -> tuple[Tensor, Tensor]:
    """Both sounds (S,) cut to the shorter; raises DataError if that loses more than `longest` of the longer."""
    short, long = sorted((a.shape[-1], b.shape[-1]))
    if short == 0 or long - short > max(longest * long, 2048):
        raise DataError(f"A copy of {b.shape[-1]} samples is not one of a sound of {a.shape[-1]}.")
    return a[..., :short], b[..., :short]


def log_mel_l1(sound: Tensor, copy: Tensor, mel: Mel) -> float:
    """Mean |ln mel - ln mel'| over frames and bins, in nats; 0 is best. sound and copy (S,) at the mel's rate."""
    sound, copy = same_length(sound, copy)
    with torch.inference_mode():
        a, b = mel(sound[None].float()), mel(copy[None].float())                         # (1, M, T)
        return float((a - b).abs().mean())


def stft_distance(sound: Tensor, copy: Tensor, windows: tuple[int, ...] = WINDOWS) -> float:
    """Spectral convergence plus L1 of log magnitudes (nats), mean over the window lengths; 0 is best.

    sound and copy (S,) at one rate. Yamamoto and others 2020 (Parallel WaveGAN), eqs. 3-6. Unlike a distance of waves it
    forgives another phase.
    """
    sound, copy = same_length(sound, copy)
    total = 0.0
    for n in windows:
        a, b = (_magnitude(x.float(), n) for x in (sound, copy))                         # (n / 2 + 1, T)
        convergence = (a - b).norm() / a.norm().clamp(min=FLOOR)
        total += float(convergence + (a.clamp(min=FLOOR).log() - b.clamp(min=FLOOR).log()).abs().mean())
    return total / len(windows)


def _magnitude(x: Tensor, n: int) -> Tensor:
    taper = torch.hann_window(n)
    spectrum = torch.stft(x, n, n // 4, window=taper, center=True, pad_mode="constant", return_complex=True)
    return spectrum.abs() * 2 / taper.sum()


def judge_mel(sample_rate: int) -> Mel:
    """The mel in which every model is compared, whatever its own: 80 bins up to half the rate, 64 ms windows."""
    n = 1 << round(0.064 * sample_rate).bit_length() - 1
    return Mel(MelConfig(sample_rate=sample_rate, n_fft=n, win_length=n, hop=n // 4, bins=80, fmax=sample_rate / 2))
