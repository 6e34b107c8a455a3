"""A vocoder that predicts a short-time spectrum and inverts it (after Siuzdak 2023: Vocos), with noise as a part.

Three things are added, so that little training suffices, and textures and tones are possible at all. The mel itself, spread
over the frequencies, is the first guess of the magnitudes: the network predicts corrections. Beside the spectrum whose
phases it predicts, it sets the level of a noise spectrum: rain cannot be made by a deterministic function of a mel. And
it sets level and frequency of partials, whose phases go on (audiogen.models.partials): a held tone is no such function either.

Shapes: B items, M bins, T frames, F frequencies, C channels.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import MelConfig, VocoderConfig
from audiogen.mel import Mel
from audiogen.models.partials import turned

MEAN, STD = -5.5, 3.0                                            # of log-mels of sounds at usual levels
TAPE = 4096                                                      # frames of the looped noise
FOLLOW = 0.5                                                     # how much of the noise's own mel is evened out at first
CEILING = 6.0                                                    # of log magnitudes: just above a full-scale sine's
SHY = -1.5                                                       # of partials' log magnitudes at first, beside the mel's
ROUNDS, FAR = 3, 3.0                                             # of `tuned`: rounds, and nats a round at most


@dataclass(frozen=True)
class Parts:
    """What a wave's spectrum is made of."""

    spectrum: Tensor                                             # (B, F, T) complex: all but the partials
    rest: Tensor                                                 # (B, F, T) its log magnitude, as expected
    level: Tensor                                                # (B, F, T) log magnitude of the partials; (B, 0, T): none
    offset: Tensor                                               # the same: how far they lie from each frequency, in frequencies

    def frames(self, at: slice | Tensor) -> "Parts":
        """Some of the frames."""
        return Parts(*(x[..., at] for x in (self.spectrum, self.rest, self.level, self.offset)))

    def whole(self, phasors: Tensor) -> Tensor:
        """The spectrum with partials of these phases (B, F, T), or (B, 0, T). (B, F, T) complex"""
        return self.spectrum + self.level.exp() * phasors if phasors.shape[1] else self.spectrum


class ConvNeXt(nn.Module):
    """A depthwise convolution in time, then a two-layer network at each frame. (B, T, C) -> (B, T, C)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1 / 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(h))))


class Vocos(nn.Module):
    """Natural-log mel (B, M, T) -> wave (B, T * hop).

    The noise is a piece of one fixed tape of white noise: in training mode a random piece for each item, in eval mode its
    beginning, so that the same mel gives the same wave in any batch. The network sees the noise's own mel (config.noise
    is then its bins, or 0 for a vocoder without noise), so the sum can have exactly the mel that is asked for.
    """

    window: Tensor
    spread: Tensor
    noise_mel: Tensor
    noise_spectrum: Tensor
    sign: Tensor

    def __init__(self, config: VocoderConfig, mel: MelConfig) -> None:
        super().__init__()
        self.config, self.hop, self.center = config, mel.hop, mel.center
        c, n = config.channels, config.n_fft
        self.frequencies = f = n // 2 + 1
        self.stem = nn.Conv1d(config.bins + config.noise, c, 7, padding=3)
        self.norm_in = nn.LayerNorm(c)
        self.blocks = nn.ModuleList(ConvNeXt(c) for _ in range(config.layers))
        self.norm_out = nn.LayerNorm(c)
        # log magnitude, phase, log gain of the noise; and log magnitude and offset of the partials
        self.head = nn.Linear(c, (5 if config.partials else 3) * f)
        with torch.no_grad():
            self.head.weight[:f] *= 0.3
            self.head.weight[2 * f :] *= 0.1
            self.head.bias[:f] = -2.0
            self.head.bias[2 * f :] = 0.0
            self.head.bias[3 * f : 4 * f] = SHY
        sign = 1 - 2 * (torch.arange(f) % 2)                     # phases relative to each frame's middle
        self.register_buffer("sign", sign[:, None], persistent=False)
        self.register_buffer("window", torch.hann_window(n), persistent=False)
        self.register_buffer("spread", spread(config, mel), persistent=False)
        self.flat = math.log(mel.sample_rate / mel.n_fft)        # a flat magnitude spectrum of 1 has this much less mel
        self.loud = math.log(float(self.window.square().sum())) / 2                  # of the noise's magnitudes, root mean square
        self.framing = replace(mel, mean=0.0, std=1.0)
        self.ear = Mel(self.framing)
        noise_mel, noise_spectrum = self.noise(0, TAPE, TAPE)
        self.register_buffer("noise_mel", noise_mel, persistent=False)
        self.register_buffer("noise_spectrum", noise_spectrum, persistent=False)

    def noise(self, first: int, last: int, period: int) -> tuple[Tensor, Tensor]:
        """Frames first to last of the noise on a circle of `period` frames, where its end meets its beginning.

        Its mel (M, n) and its spectrum (F, n), on the CPU. What no frame of the circle's end hears is the tape's own.
        """
        n, hop = self.config.n_fft, self.hop
        wave = torch.randn(TAPE * hop, generator=torch.Generator().manual_seed(0))
        around = 8 * self.framing.n_fft // hop                   # frames: further than any of them hears
        at = torch.arange((first - around) * hop, (last + around) * hop) % (period * hop) % len(wave)
        piece, inner = wave[at][None], slice(around, around + last - first)
        pad = (n // 2, n // 2) if self.center else ((n - hop) // 2,) * 2
        spectrum = torch.stft(F.pad(piece, pad), n, hop, window=torch.hann_window(n), center=False, return_complex=True)
        sign = 1 - 2 * (torch.arange(self.frequencies) % 2)[:, None]
        return self.ear(piece)[0, :, inner], spectrum[0, :, inner] * sign

    def forward(self, mel: Tensor, begin: Tensor | None = None) -> Tensor:
        """mel (B, M, T) -> (B, T * hop); begin (B,) in [0, 1) is where on the tape each item's noise begins"""
        parts = self.parts(mel, begin)
        return self.invert(self.tuned(parts, self.turn(parts), mel))

    def parts(self, mel: Tensor, begin: Tensor | None = None, at: Tensor | None = None,
              noise: tuple[Tensor, Tensor] | None = None) -> Parts:
        """What a mel (B, M, T) asks for.

        begin as for `forward`; or at (T,) names the tape's frame for each of T; or `noise` brings the frames themselves:
        mel (M, T) and spectrum (F, T).
        """
        b, _, t = mel.shape
        mel = mel.float()
        if begin is None:
            begin = torch.rand(b, device=mel.device) if self.training else torch.zeros(b, device=mel.device)
        if at is None:
            at = ((begin[:, None] * TAPE).long() + torch.arange(t, device=mel.device)) % TAPE    # (B, T)
        at = at.to(mel.device).expand(b, t)
        own = self.noise_mel[:, at].transpose(0, 1) if noise is None else noise[0].to(mel).expand(b, -1, -1)     # (B, M, T)
        x = torch.cat([(mel - MEAN) / STD, own[:, : self.config.noise] - self.noise_mel.mean()], dim=1)
        x = self.norm_in(self.stem(x).transpose(1, 2))           # (B, T, C)
        for block in self.blocks:
            x = block(x)
        out = self.head(self.norm_out(x)).float().transpose(1, 2)                      # (B, 3 F or 5 F, T)
        magnitude, phase, gain, *partials = out.split(self.frequencies, dim=1)         # (B, F, T)
        asked = self.spread @ mel + self.flat
        rest = (asked + magnitude).clamp(max=CEILING)
        spectrum = torch.polar(rest.exp(), phase)
        if self.config.noise:
            centre = self.noise_mel.mean(dim=1)[:, None]
            gain = (self.spread @ (mel - centre - FOLLOW * (own - centre)) + gain).clamp(max=CEILING)
            white = self.noise_spectrum[:, at].transpose(0, 1) if noise is None else noise[1].to(mel.device)       # (B, F, T)
            spectrum = spectrum + gain.exp() * white
            rest = torch.logaddexp(2 * rest, 2 * (gain + self.loud)) / 2
        level, offset = partials or (gain[:, :0], gain[:, :0])
        return Parts(spectrum, rest, (asked[:, : level.shape[1]] + level).clamp(max=CEILING), offset)

    def turn(self, parts: Parts, before: Tensor | None = None) -> Tensor:
        """The phasors of the partials, which go on from those `before` (B, F). (B, F, T)"""
        return turned(parts.level, parts.offset, self.hop / self.config.n_fft, before)

    def tuned(self, parts: Parts, phasors: Tensor, mel: Tensor) -> Tensor:
        """The spectrum (B, F, T) of parts with phasors (B, F, T), its tones as loud as the mel (B, M, T) asks.

        What the network says of a mel comes near it, not to it: of a tone one hears that, so it is brought there by what the
        wave's own mel lacks. Noise is not: a decoded mel has less texture than a recording, and rain that followed it would hiss.
        """
        spectrum = parts.whole(phasors)
        if not self.config.partials:
            return spectrum
        tonal = torch.sigmoid(2 * (parts.level - parts.rest))    # (B, F, T) the partials' share of the power
        for _ in range(ROUNDS):
            missing = (mel - self.ear(self.invert(spectrum))).clamp(-FAR, FAR)         # (B, M, T) nats
            spectrum = spectrum * (tonal * (self.spread @ missing)).exp()
        return spectrum

    def invert(self, spectrum: Tensor) -> Tensor:
        """Overlap-add of the frames' inverse transforms, phases relative to each frame's middle. (B, F, T) -> (B, T * hop)"""
        n, t = self.config.n_fft, spectrum.shape[-1]
        frames = torch.fft.irfft(spectrum * self.sign, n=n, dim=1) * self.window[:, None]      # (B, n, T)
        total = self.overlap(frames)
        weight = self.overlap(self.window.square()[None, :, None].expand(1, -1, t))
        first = n // 2 if self.center else (n - self.hop) // 2
        return (total / weight.clamp(min=1e-2))[:, first : first + t * self.hop]

    def overlap(self, frames: Tensor) -> Tensor:
        """(B, n, T) -> (B, (T - 1) * hop + n)"""
        n, t = self.config.n_fft, frames.shape[-1]
        return F.fold(frames, (1, (t - 1) * self.hop + n), (1, n), stride=(1, self.hop))[:, 0, 0]


def spread(config: VocoderConfig, mel: MelConfig) -> Tensor:
    """Linear interpolation from the mel bands' middles to the inverse transform's frequencies. (F, M)"""
    from torchaudio.functional import melscale_fbanks

    fine = 16 * mel.n_fft                                        # a fine grid, on which each filter's middle is its peak
    filters = melscale_fbanks(fine // 2 + 1, mel.fmin, mel.fmax, mel.bins, mel.sample_rate, "slaney", "slaney")
    middle = filters.argmax(dim=0) * (mel.sample_rate / fine)    # (M,) Hz
    hz = torch.linspace(0, mel.sample_rate / 2, config.n_fft // 2 + 1).clamp(middle[0], middle[-1])     # (F,)
    above = torch.searchsorted(middle, hz).clamp(1, mel.bins - 1)
    part = (hz - middle[above - 1]) / (middle[above] - middle[above - 1])
    eye = torch.eye(mel.bins)
    return torch.lerp(eye[above - 1], eye[above], part[:, None])
