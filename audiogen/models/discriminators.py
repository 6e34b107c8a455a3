"""Discriminators of waves and of mel images, for the adversarial parts of training the vocoder and the autoencoder.

Each one returns its judgement and the features of its layers. Shapes: B items, S samples, C channels, P period.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Judged = tuple[Tensor, list[Tensor]]                             # judgement (B, ...), features of each layer


def conv2d(c_in: int, c_out: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    """A weight-normed convolution that keeps the size, but for its stride."""
    return weight_norm(nn.Conv2d(c_in, c_out, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2)))


class PeriodDiscriminator(nn.Module):
    """Looks at every P-th sample (Kong et al. 2020: HiFi-GAN)."""

    def __init__(self, period: int, channels: int = 16) -> None:
        super().__init__()
        self.period, c = period, channels
        widths = [1, c, 2 * c, 4 * c, 4 * c]
        self.layers = nn.ModuleList(conv2d(i, o, (5, 1), (3, 1)) for i, o in zip(widths[:-1], widths[1:], strict=True))
        self.out = conv2d(widths[-1], 1, (3, 1))

    def forward(self, wave: Tensor) -> Judged:                   # (B, S)
        x = F.pad(wave, (0, -wave.shape[-1] % self.period)).unflatten(1, (-1, self.period))[:, None]  # (B, 1, S / P, P)
        return run(self.layers, self.out, x)


class SpectrumDiscriminator(nn.Module):
    """Looks at one short-time spectrum, its magnitudes compressed (after Jang et al. 2021: UnivNet)."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int = 16) -> None:
        super().__init__()
        self.n_fft, c = n_fft, channels
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.layers = nn.ModuleList([
            conv2d(2, c, (9, 3), (2, 1)), conv2d(c, c, (9, 3), (2, 1)), conv2d(c, 2 * c, (9, 3), (2, 2)),
            conv2d(2 * c, 2 * c, (5, 3), (2, 1)), conv2d(2 * c, 2 * c, (3, 3))])
        self.out = conv2d(2 * c, 1, (3, 3))

    def forward(self, wave: Tensor) -> Judged:                   # (B, S)
        spectrum = torch.stft(wave.float(), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)  # (B, F, T)
        planes = torch.stack([spectrum.real, spectrum.imag], dim=1)
        power = planes.square().sum(dim=1, keepdim=True) + 1e-7
        return run(self.layers, self.out, planes * power**-0.35)  # magnitude ** 0.3, the phase as it is


class WaveDiscriminator(nn.Module):
    """Several periods and several resolutions at once."""

    def __init__(self, periods: tuple[int, ...] = (2, 3, 5), resolutions: tuple[int, ...] = (256, 512, 1024),
                 channels: int = 16) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [PeriodDiscriminator(p, channels) for p in periods] + [SpectrumDiscriminator(n, channels) for n in resolutions])

    def forward(self, wave: Tensor) -> list[Judged]:
        """wave (B, S) -> a judgement and features of each part"""
        return [part(wave) for part in self.parts]


class ImageDiscriminator(nn.Module):
    """Judges patches of a mel image (after Isola et al. 2017: PatchGAN)."""

    def __init__(self, planes: int = 1, channels: int = 32) -> None:
        super().__init__()
        c = channels
        self.layers = nn.ModuleList([
            conv2d(planes, c, (3, 3), (2, 2)), conv2d(c, 2 * c, (3, 3), (2, 2)), conv2d(2 * c, 4 * c, (3, 3))])
        self.out = conv2d(4 * c, 1, (3, 3))

    def forward(self, image: Tensor) -> list[Judged]:
        """image (B, K, T, M) -> one judgement and its features"""
        return [run(self.layers, self.out, image)]


def run(layers: nn.ModuleList, out: nn.Module, x: Tensor) -> Judged:
    """The verdict of `out` on what `layers` make of x, and their features, for feature matching."""
    features = []
    if x.is_cuda:                                                # else each convolution would turn its maps around and back
        x = x.contiguous(memory_format=torch.channels_last)
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        features.append(x)
    return out(x), features
