"""Configurations: frozen dataclasses, read strictly. Defaults live here and nowhere else.

`ModelConfig` is JSON beside the weights; training configurations (audiogen.train.config) are TOML written by people;
both pass the same strict reader, and so does `--set a.b=value`.
"""

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from audiogen.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class MelConfig:
    """A log-mel spectrogram, its framing and the scale in which the autoencoder sees it."""

    sample_rate: int = 16_000                     # Hz
    n_fft: int = 1024                             # samples
    win_length: int = 1024                        # samples
    hop: int = 160                                # samples
    bins: int = 64
    fmin: float = 0.0                             # Hz
    fmax: float = 8000.0                          # Hz
    center: bool = True                           # frame k is centred on sample k * hop; False: HiFi-GAN's framing
    mean: float = 0.0                             # the autoencoder sees (ln mel - mean) / std
    std: float = 1.0
    clip: float | None = None                     # ... clamped to [-clip, clip]
    layout: Literal["time", "frequency"] = "time"  # (B, K, T, M), or (B, K, M, T) with the highest band first


@dataclass(frozen=True)
class AutoencoderConfig:
    """kind "kl" is the published AutoencoderKL; "compact" is this project's own, made for a CPU."""

    kind: Literal["kl", "compact"] = "kl"
    in_channels: int = 1                          # K: planes of the mel image (Auffusion repeats the mel three times)
    latent_channels: int = 8
    channels: tuple[int, ...] = (128, 256, 512)
    layers: int = 2                               # ResBlocks a level
    groups: int = 32
    scale: float = 1.0                            # latents of the diffusion = (encoder's - shift) * scale
    shift: float = 0.0

    @property
    def factor(self) -> int:
        """Mel frames (and bins) per latent one."""
        return 8 if self.kind == "compact" else 2 ** (len(self.channels) - 1)


@dataclass(frozen=True)
class UNetConfig:
    in_channels: int = 8
    out_channels: int = 8
    channels: tuple[int, ...] = (128, 256, 384, 640)             # per level, outermost first
    attention: tuple[bool, ...] = (False, True, True, True)      # per level: transformers after its ResBlocks?
    heads: tuple[int, ...] = (8, 8, 8, 8)                        # per level: the number of heads
    layers_per_block: int = 2
    depth: int = 1                                               # blocks per transformer
    transformers: tuple[int | None, ...] = (0,)                  # the context that each one attends to; None: itself
    context_dims: tuple[int, ...] = (768,)                       # width of context i
    film_dim: int | None = None                                  # width of the global embedding
    linear_projection: bool = False
    groups: int = 32


@dataclass(frozen=True)
class ScheduleConfig:
    """The forward process, and the grid of steps that the checkpoint's own sampler walks."""

    steps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    spacing: Literal["leading", "trailing", "linspace"] | None = "leading"     # None: what each public scheduler has by itself
    offset: int = 1                                              # added to each step of a "leading" grid
    final_zero: bool | None = False                              # DDIM ends on no noise, not on that of step 0; None: alike
    clip: float | None = None                                    # DDIM and DDPM bound their predictions by it
    sampler: str = "ddim"                                        # of the published pipeline


@dataclass(frozen=True)
class VocoderConfig:
    """kind "hifigan" is the published HiFi-GAN; "vocos" predicts a spectrogram's magnitude and phase."""

    kind: Literal["hifigan", "vocos"] = "hifigan"
    bins: int = 64
    channels: int = 1024                                         # hifigan: before upsampling; vocos: throughout
    rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    kernels: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    slope: float = 0.1                                           # of the leaky rectifiers inside
    normalize: bool = False                                      # the mel is normalised by stored mean and scale
    exact: bool = False                                          # hop * T samples, as Auffusion's; else the published few more
    layers: int = 8                                              # vocos: ConvNeXt blocks
    n_fft: int = 640                                             # vocos: samples of the inverse transform
    noise: int = 0                                               # vocos: channels of noise beside the mel
    partials: bool = False                                       # vocos: tones whose phases go on from frame to frame


@dataclass(frozen=True)
class ClapConfig:
    """What `audiogen train` adds to a model so that it can hear how well a sound fits a sentence."""

    channels: tuple[int, ...] = (64, 128, 256)                   # of the audio tower, at 1/4, 1/8, ... of the mel
    layers: int = 2                                              # ResBlocks a level
    embedding: int = 256                                         # width of the space that sounds and sentences meet in
    seconds: float = 2.56                                        # of sound that are heard at once


@dataclass(frozen=True)
class TextConfig:
    """Which published recipe turns prompts into a Conditioning; audiogen.text knows each of them.

    `parts` names the folders (inside the checkpoint) of encoders and tokenizers, in the recipe's order.
    """

    kind: Literal["clap", "audioldm2", "audioldm2-speech", "clip", "auffusion", "sentence"] = "clap"
    parts: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    adapters: tuple[str, ...] = ()                               # auffusion's
    max_length: int | None = None                                # tokens; None: the tokenizer's own limit


@dataclass(frozen=True)
class DefaultsConfig:
    """What `generate` uses unless it is told otherwise."""

    steps: int = 25                                              # nearly as near to endless ones as 200 of DDIM
    guidance: float = 3.5
    interval: tuple[float, float] | None = None                  # noise levels between which guidance acts; None: at all
    slow: float = 1.0                                            # share of guidance that acts on what hardly changes
    sampler: str = "unipc"
    karras: bool = True                                          # of that sampler: one that is named has its own grid
    duration: float = 10.24                                      # seconds
    window: float | None = None                                  # seconds that are always made, then cut (Auffusion's image)
    longest: float = 10.24                                       # seconds that the U-Net learnt; longer sounds take windows
    peak: float | None = None                                    # sounds are brought to this level; None: left as they come
    loudness: float | None = None                                # LUFS, at most: louder ones are brought down to it
    fade: float = 0.0                                            # seconds, at both ends of a sound
    drafts: int = 1                                              # beginnings that are tried, at most, for the model's CLAP
    fits: float = 1.0                                            # its score from which a draft is good enough


@dataclass(frozen=True)
class ModelConfig:
    family: str = "audiogen"
    licence: str = "unknown"
    mel: MelConfig = field(default_factory=MelConfig)
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    clap: ClapConfig | None = None                               # None: the model has no CLAP of its own
    defaults: DefaultsConfig = field(default_factory=DefaultsConfig)


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Read `data` (of JSON or TOML) into the frozen dataclass `cls`.

    Raises ConfigError for an unknown key (with a guess at what was meant) and for a value of the wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table of settings, found {data!r}.")
    known = typing.get_type_hints(cls)
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}."
            raise ConfigError(f"{where}: unknown key '{key}', {hint}")
    return cls(**{key: _read(known[key], value, f"{where}.{key}") for key, value in data.items()})


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`; lists become tuples, whole numbers pass as floats."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, value, where)                     # type: ignore[arg-type]
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _read(next(a for a in args if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}.")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, found {len(value)}.")
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {kind.__name__}, found {value!r}.")
    return value


def override(config: T, assignments: list[str], where: str = "--set") -> T:
    """`config` with each "a.b=value" applied; values are TOML (so strings may go unquoted)."""
    import tomllib

    data = dataclasses.asdict(config)                            # type: ignore[call-overload]
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{where} {text}: write KEY=VALUE.")
        try:
            parsed = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            parsed = value
        table, keys = data, path.strip().split(".")
        for key in keys[:-1]:
            if not isinstance(table.get(key), dict):
                raise ConfigError(f"{where}: no table '{key}' in '{path}'.")
            table = table[key]
        table[keys[-1]] = parsed
    return from_dict(type(config), data, where)


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises ConfigError with the line of a fault."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not JSON (line {error.lineno}: {error.msg}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}).") from None


def to_json(config: Any) -> str:
    """A configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
