"""The losses of every stage. Shapes: B items, S samples, T frames, M bins, C channels, F frequencies, D width."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from audiogen.models.discriminators import Judged
from audiogen.models.vocos import Parts

WINDOWS = (128, 256, 512, 1024, 2048)                            # samples, of the spectra that waves are compared in
QUIET = 2e-4                                                     # a spectrum's magnitude below which differences do not count
APART = 3                                                        # frames of a spectrum that hear nearly nothing in common
FAINT = 1e-4                                                     # power below which nothing is surprising
Spectra = list[tuple[Tensor, Tensor]]                            # magnitudes (B, F, T) and their logarithms, a pair per window


def edges(x: Tensor, y: Tensor) -> Tensor:
    """How far the differences of neighbours in two images (B, K, T, M) lie apart: it keeps onsets and partials sharp. ()"""
    return F.l1_loss(x.diff(dim=2), y.diff(dim=2)) + F.l1_loss(x.diff(dim=3), y.diff(dim=3))


def spectra(wave: Tensor) -> Spectra:
    """Magnitude spectra of waves (B, S) through several windows, scaled so that noise has one level in all of them."""
    out = []
    for n in WINDOWS:
        if n // 2 >= wave.shape[-1]:
            continue
        window = torch.hann_window(n, device=wave.device)
        s = torch.stft(wave, n, n // 4, window=window, return_complex=True)
        magnitude = (s.real.square() + s.imag.square() + 1e-9).sqrt() / n**0.5
        out.append((magnitude, (magnitude + QUIET).log()))
    return out


def loudness(of: Spectra) -> list[Tensor]:
    """Mean magnitude of each item (B,), for each window."""
    return [m.mean(dim=(1, 2)) + 1e-3 for m, _ in of]


def distance(a: Spectra, b: Spectra, level: list[Tensor]) -> Tensor:
    """Mean distance of spectra: magnitudes relative to `level`, and the length of each frame's log difference. ()"""
    total = torch.zeros((), device=a[0][0].device)
    for (x, log_x), (y, log_y), scale in zip(a, b, level, strict=True):
        frames = ((log_x - log_y).square().mean(dim=1) + 1e-6).sqrt()                  # (B, T)
        total = total + ((x - y).abs().mean(dim=(1, 2)) / scale).mean() + 0.5 * frames.mean()
    return total / len(a)


def energy_distance(real: Spectra, fake: Spectra, other: Spectra) -> Tensor:
    """2 E|x - y| - E|y - y'|: least where two draws y, y' for one mel spread as the recordings do. ()

    Gritsenko et al. 2020. Without the second term, the best draw would be a mean, which sounds like no noise at all.
    """
    level = loudness(real)
    return distance(fake, real, level) + distance(other, real, level) - distance(fake, other, level)


def partial_losses(parts: Parts, wave: Tensor, n_fft: int, hop: int) -> tuple[Tensor, Tensor]:
    """How wrong the frequencies of a vocoder's partials are, and how surprising a recording is to them. (), ()

    The first is 1 - cos of the error of a frame's turn, weighted by how loud it is there. The second takes each frame of the
    recording's spectrum as that of APART frames before, turned, at the level of the partials, and something unforeseen at the
    level of the rest (a negative log likelihood, of long tails): what is a tone and what is noise is learnt from it.
    wave (B, S); the parts (B, F, T) are of its mel.
    """
    s = torch.stft(wave, n_fft, hop, window=torch.hann_window(n_fft, device=wave.device), return_complex=True)
    t = min(s.shape[-1], parts.offset.shape[-1])
    place = torch.arange(s.shape[1], device=wave.device)[:, None]
    advance = 2 * math.pi * hop / n_fft * (place + parts.offset[..., :t])              # (B, F, T)
    turn = s[..., 1:t] * s[..., : t - 1].conj()                  # (B, F, T - 1): frame i + 1 from frame i
    weight = (turn.abs() + 1e-9) ** 0.3                          # of both magnitudes, compressed: high partials count too
    error = 1 - along(turn, advance[..., 1:]) / (turn.abs() + 1e-9)
    ahead = advance[..., 1:].unfold(-1, APART, 1).sum(dim=-1)    # (B, F, T - APART)
    now, then = s[..., APART:t], s[..., : t - APART]
    tone, rest = parts.level[..., APART:t].exp(), (2 * parts.rest[..., APART:t]).exp() + FAINT
    agree = along(now * then.conj() / (then.abs() + 1e-9), ahead)                      # of this frame, in the phase foreseen
    unforeseen = (now.abs().square() + tone.square() - 2 * tone * agree).clamp(min=0)
    return (error * weight).sum() / weight.sum(), (2 * (rest + unforeseen).log() - rest.log()).mean()


def along(z: Tensor, angle: Tensor) -> Tensor:
    """The part of a complex number that lies along an angle."""
    return angle.cos() * z.real + angle.sin() * z.imag


def judge_loss(real: list[Judged], fake: list[Judged]) -> Tensor:
    """The discriminators' loss (Mao et al. 2017: least squares). ()"""
    each = [(r[0].float() - 1).square().mean() + f[0].float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(each).mean()


def fool_loss(fake: list[Judged]) -> Tensor:
    """The generator's loss against the discriminators. ()"""
    return torch.stack([(f[0].float() - 1).square().mean() for f in fake]).mean()


def feature_loss(real: list[Judged], fake: list[Judged]) -> Tensor:
    """Distance of the discriminators' features, relative to their size (Kong et al. 2020). ()"""
    each = []
    for (_, theirs), (_, ours) in zip(real, fake, strict=True):
        pairs = zip(ours, theirs, strict=True)
        each += [F.l1_loss(x.float(), y.detach().float()) / y.detach().float().abs().mean().clamp(min=1e-3) for x, y in pairs]
    return torch.stack(each).mean()


def contrastive_loss(audio: Tensor, text: Tensor, scale: Tensor, fits: Tensor) -> Tensor:
    """Each sound to its texts and back (Radford et al. 2021), in proportion to how well they fit: `fits` (B, K), 0 to 1.

    Every sound has a text that fits; texts without a sound are only those that sounds are told from. audio (B, D) and text
    (K, D) of length 1, scale () -> ()
    """
    scores = scale * audio @ text.T                              # (B, K)
    heard = fits.any(dim=0)
    back = fits.T[heard].float()
    there = F.cross_entropy(scores, fits / fits.sum(dim=1, keepdim=True))
    return (there + F.cross_entropy(scores.T[heard], back / back.sum(dim=1, keepdim=True))) / 2


def velocity(z: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """alpha * noise - sigma' * z in the frame of unit variance (Salimans and Ho 2022). z, noise (B, C, h, w), sigma (B,)"""
    scale = 1 / (1 + sigma.square()).sqrt()
    return (noise - sigma[:, None, None, None] * z) * scale[:, None, None, None]


def diffusion_weight(sigma: Tensor, prediction: str, gamma: float | None) -> Tensor:
    """Weight of each item's squared error: min-SNR (Hang et al. 2023) if a gamma is given. sigma (B,) -> (B,)"""
    if gamma is None:
        return torch.ones_like(sigma)
    snr = sigma**-2
    kept = snr.clamp(max=gamma)
    return kept / snr if prediction == "epsilon" else kept / (snr + 1) if prediction == "v_prediction" else kept
