"""The vocoder: spectra and mel of its wave, an energy distance where it has noise, and adversaries of waves."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiogen.config import ModelConfig
from audiogen.mel import from_image
from audiogen.models.discriminators import WaveDiscriminator
from audiogen.models.vocos import Parts, Vocos
from audiogen.train.config import VocoderStageConfig
from audiogen.train.examples import Examples, normal, uniform
from audiogen.train.losses import (
    distance,
    energy_distance,
    feature_loss,
    fool_loss,
    judge_loss,
    loudness,
    partial_losses,
    spectra,
)
from audiogen.train.stage import AdversarialStage, Inputs, Losses, Machine

EDGE = 3                                                         # frames at either end that know too little of their neighbours


class VocoderStage(AdversarialStage):
    """`autoencoder`, if given, is the source of some of the mels (config.decoded): it learns along, with its encoder fixed."""

    name = "vocoder"
    config: VocoderStageConfig

    def __init__(self, model: ModelConfig, config: VocoderStageConfig, machine: Machine, vocoder: nn.Module,
                 autoencoder: nn.Module | None = None) -> None:
        modules: dict[str, nn.Module] = {"vocoder": vocoder}
        if config.decoded and autoencoder is not None:
            autoencoder.encoder.requires_grad_(False)            # type: ignore[union-attr]
            modules["autoencoder"] = autoencoder
        if config.adversarial:
            modules["judge"] = WaveDiscriminator(config.periods, config.resolutions, config.discriminator)
        super().__init__(model, config, machine, modules)
        self.config = config
        self.noisy = isinstance(vocoder, Vocos) and bool(model.vocoder.noise)

    def compute(self, inputs: Inputs) -> Losses:
        c, wave, keys = self.config, inputs["wave"], inputs["keys"]
        mel, decoded = self.source(wave, keys)                   # (B, M, T)
        frames = mel.shape[-1]
        wave = wave[:, : frames * self.model.mel.hop]
        twice = c.energy > 0 and self.noisy                      # two draws of its noise for each mel
        with self.machine.autocast():
            out, parts = self.speak(mel.repeat(2, 1, 1) if twice else mel, keys, 2 if twice else 1)
        out = out[:, : wave.shape[-1]].float()
        fake = out[: len(wave)]
        own = self.mel(out)[..., EDGE:-EDGE]
        asked = self.mel(wave)[..., EDGE : own.shape[-1] + EDGE].repeat(len(out) // len(wave), 1, 1)
        told: Losses = {"mel": F.l1_loss(own, asked)}
        loss = c.mel * told["mel"]
        if c.energy:
            real = spectra(wave)
            told["spectra"] = (energy_distance(real, spectra(fake), spectra(out[len(wave) :])) if twice
                               else distance(spectra(fake), real, loudness(real)))
            loss = loss + c.energy * told["spectra"]
        if parts is not None:
            own = Parts(*(x[: len(wave)] for x in (parts.spectrum, parts.rest, parts.level, parts.offset)))
            told["frequency"], told["surprise"] = partial_losses(own, wave, self.model.vocoder.n_fft, self.model.mel.hop)
            loss = loss + told["frequency"] + c.surprise * told["surprise"]
        if decoded is not None:
            told["decoded"] = decoded
            loss = loss + 0.5 * decoded
        if self.phase:
            loss = loss + self.contest(wave, fake, told)
        self.backward(loss)
        return {"loss": loss, **told}

    def source(self, wave: Tensor, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mels (B, M, T) of waves, the last of them as the autoencoder gives them back; and how far off it is."""
        mel = self.mel(wave)
        n = round(self.config.decoded * len(wave)) if "autoencoder" in self.modules else 0
        if not n:
            return mel, None
        net = self.modules["autoencoder"]
        image = self.image(wave[-n:])
        with self.machine.autocast():
            with torch.no_grad():
                code = net.encode(image)                         # type: ignore[operator]
                noise = normal(keys[-n:], *code.mean.shape[1:])
                z = code.mean + noise * (0.5 * code.logvar).exp()
            back = net.decode(z).float()                         # type: ignore[operator]
        given = from_image(back, self.model.mel)                 # (n, M, T')
        return torch.cat([mel[:-n, :, : given.shape[-1]], given]), F.l1_loss(back, image)

    def speak(self, mel: Tensor, keys: Tensor, times: int) -> tuple[Tensor, Parts | None]:
        """The vocoder's waves, where its noise begins drawn for each item; and what they are made of, if it has partials."""
        net = self.modules["vocoder"]
        if not isinstance(net, Vocos):
            return net(mel), None
        parts = net.parts(mel, torch.cat([uniform(keys, salt=2 + i) for i in range(times)]))
        return net.invert(parts.whole(net.turn(parts))), parts if self.model.vocoder.partials else None

    def contest(self, wave: Tensor, fake: Tensor, told: Losses) -> Tensor:
        """The judges' own backward, and the generator's loss against them."""
        judge = self.modules["judge"]
        with self.machine.autocast():
            both, n = judge(torch.cat([wave, fake.detach()])), len(wave)
            real = [(out[:n], [f[:n] for f in features]) for out, features in both]
            told["judge"] = judge_loss(real, [(out[n:], []) for out, _ in both])
            judge.requires_grad_(False)
            seen = judge(fake)
            judge.requires_grad_(True)
        self.backward(told["judge"])
        told["fool"], told["features"] = fool_loss(seen), feature_loss(real, seen)
        return self.config.adversarial * told["fool"] + self.config.features * told["features"]

    @torch.no_grad()
    def evaluate(self, examples: Examples) -> dict[str, float]:
        wave = examples.wave.to(self.machine.device)
        mel = self.mel(wave)
        with self.averaged("vocoder") as net:
            out = net(mel)[:, : wave.shape[-1]]
        own, real = self.mel(out), spectra(wave[:, : out.shape[-1]])
        return {"mel": float(F.l1_loss(own, mel[..., : own.shape[-1]])),
                "spectra": float(distance(spectra(out), real, loudness(real)))}

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The vocoder's, and the autoencoder's if its decoder learnt along."""
        return {k: self.average[k] for k in self.average}
