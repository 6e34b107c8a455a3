"""Published folders (AudioLDM, MusicLDM, AudioLDM 2, Auffusion) as ModelConfigs; the only place that knows their JSON.

Weights keep their names, so what is translated is configuration, strictly: a setting that this project's networks do not
have is an error, not a guess.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    read_json,
)
from audiogen.errors import CheckpointError, ConfigError
from audiogen.files import PUBLISHED

LN_FLOOR, LN_CEILING = math.log(1e-5), math.log(200)             # Auffusion's range of ln mel
DEFAULTS = {                                                     # guidance and duration of the public pipelines
    "audioldm": DefaultsConfig(guidance=2.5, duration=5.12, longest=20.48),      # beyond which the public ones turn to noise
    "musicldm": DefaultsConfig(guidance=2.0, duration=10.24, longest=20.48),
    "audioldm2": DefaultsConfig(guidance=3.5, duration=10.24, longest=20.48),
    "auffusion": DefaultsConfig(guidance=7.5, duration=10.0, window=10.24, longest=20.48),
}

# Settings of the published U-Nets that have one value here, and those that say nothing about the network.
UNET_FIXED: dict[str, Any] = {
    "act_fn": "silu", "addition_embed_type": None, "attention_type": "default", "center_input_sample": False,
    "class_embeddings_concat": (True, False), "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_norm": None,
    "downsample_padding": 1, "dropout": 0.0, "dual_cross_attention": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "num_class_embeds": None,
    "only_cross_attention": False, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default", "reverse_transformer_layers_per_block": None, "time_cond_proj_dim": None,
    "time_embedding_act_fn": None, "time_embedding_dim": None, "time_embedding_type": "positional",
    "timestep_post_act": None, "class_embed_type": (None, "simple_projection")}
UNET_IDLE = {"sample_size", "upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim",
             "up_block_types", "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step",
             "use_ema_warmup"}
UNET_READ = {"in_channels", "out_channels", "block_out_channels", "down_block_types", "layers_per_block",
             "transformer_layers_per_block", "attention_head_dim", "num_attention_heads", "cross_attention_dim",
             "projection_class_embeddings_input_dim", "use_linear_projection", "norm_num_groups"}
VAE_FIXED: dict[str, Any] = {"act_fn": "silu", "latents_mean": None, "latents_std": None, "mid_block_add_attention": True,
                             "use_post_quant_conv": True, "use_quant_conv": True}
VAE_IDLE = {"down_block_types", "up_block_types", "sample_size", "force_upcast"}
VAE_READ = {"in_channels", "out_channels", "block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups",
            "scaling_factor", "shift_factor"}


def is_published(folder: Path) -> bool:
    """Is this a folder in a published layout (rather than in this project's own)?"""
    return any((folder / name).exists() for name in PUBLISHED)


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a published folder; raises CheckpointError or ConfigError for one that is not understood."""
    try:
        return _read_config(folder)
    except KeyError as error:
        raise ConfigError(f"{folder}: one of its JSON files lacks {error}; this layout is not one that is read here.") from None


def _read_config(folder: Path) -> ModelConfig:
    family = _family(folder)
    vae = _checked(folder / "vae/config.json", VAE_FIXED, VAE_IDLE, VAE_READ)
    vocoder = _vocoder(folder, family)
    return ModelConfig(
        family=family,
        mel=_mel(family, vocoder),
        text=_text(folder, family),
        autoencoder=AutoencoderConfig(
            in_channels=vae["in_channels"], latent_channels=vae["latent_channels"], channels=tuple(vae["block_out_channels"]),
            layers=vae["layers_per_block"], groups=vae["norm_num_groups"], scale=vae.get("scaling_factor", 0.18215),
            shift=vae.get("shift_factor") or 0.0),
        unet=_unet(folder / "unet/config.json"),
        schedule=_schedule(folder / "scheduler/scheduler_config.json"),
        vocoder=vocoder,
        defaults=DEFAULTS["audioldm2" if family == "audioldm2-speech" else family],
    )


def _family(folder: Path) -> str:
    if (folder / "condition_config.json").exists():
        return "auffusion"
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    families = {"AudioLDMPipeline": "audioldm", "MusicLDMPipeline": "musicldm", "AudioLDM2Pipeline": "audioldm2",
                "StableDiffusionPipeline": "auffusion"}
    if name not in families or not (folder / "vocoder").is_dir():
        raise CheckpointError(f"{folder}: a {name} is not a kind of model read here ({', '.join(families)}, with a vocoder).")
    if families[name] == "audioldm2" and "VitsModel" in index.get("text_encoder_2", []):
        return "audioldm2-speech"
    return families[name]


def _checked(path: Path, fixed: dict[str, Any], idle: set[str], read: set[str]) -> dict[str, Any]:
    """The JSON at `path`; raises ConfigError for keys that are unknown or have a value that is not supported."""
    data = {k: v for k, v in read_json(path).items() if not k.startswith("_")}
    unknown = sorted(data.keys() - fixed.keys() - idle - read)
    if unknown:
        raise ConfigError(f"{path}: unknown key '{unknown[0]}'; this layout is not one that is read here.")
    for key, expected in fixed.items():
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if key in data and data[key] not in allowed:
            raise ConfigError(f"{path}: {key} {data[key]!r} is not supported, only {' or '.join(map(repr, allowed))}.")
    return data


def _unet(path: Path) -> UNetConfig:
    data = _checked(path, UNET_FIXED, UNET_IDLE, UNET_READ)
    channels = tuple(data["block_out_channels"])
    heads = data.get("num_attention_heads") or data.get("attention_head_dim") or 8      # the published name means their number
    film = data.get("projection_class_embeddings_input_dim") if data.get("class_embed_type") else None
    widths = data.get("cross_attention_dim")
    if isinstance(widths, list) and isinstance(widths[0], list):                        # AudioLDM 2: a list per level
        if any(w != widths[0] for w in widths):
            raise ConfigError(f"{path}: cross_attention_dim differs from level to level, which is not supported.")
        transformers = tuple(None if w is None else int(i > 1) for i, w in enumerate(widths[0]))
        by_context = {int(i > 1): w for i, w in enumerate(widths[0]) if w is not None}
        dims = tuple(by_context[i] for i in sorted(by_context))
    elif film is not None:                                                              # AudioLDM: itself, twice
        transformers, dims = (None,), ()
    else:
        transformers, dims = (0,), (widths[0] if isinstance(widths, list) else widths,)
    depth = data.get("transformer_layers_per_block", 1)
    return UNetConfig(
        in_channels=data["in_channels"], out_channels=data["out_channels"], channels=channels,
        attention=tuple("CrossAttn" in name for name in data["down_block_types"]),
        heads=tuple(heads) if isinstance(heads, list) else (heads,) * len(channels),
        layers_per_block=data["layers_per_block"], depth=depth[0] if isinstance(depth, list) else depth,
        transformers=transformers, context_dims=dims, film_dim=film,
        linear_projection=data.get("use_linear_projection", False), groups=data["norm_num_groups"])


def _schedule(path: Path) -> ScheduleConfig:
    data = read_json(path)
    sampler = {"PNDMScheduler": "pndm", "DDPMScheduler": "ddpm", "DPMSolverMultistepScheduler": "dpmpp-2m"}
    for key in ("trained_betas", "thresholding", "rescale_betas_zero_snr"):
        if data.get(key):
            raise ConfigError(f"{path}: {key} is not supported.")
    return from_dict(ScheduleConfig, dict(
        steps=data["num_train_timesteps"], beta_start=data["beta_start"], beta_end=data["beta_end"],
        betas=data["beta_schedule"], prediction=data.get("prediction_type", "epsilon"),
        spacing=data.get("timestep_spacing"), offset=data.get("steps_offset", 0),
        clip=data.get("clip_sample_range", 1.0) if data.get("clip_sample", True) else None,       # the public defaults
        final_zero=data.get("set_alpha_to_one"), sampler=sampler.get(data["_class_name"], "ddim")), str(path))


def _vocoder(folder: Path, family: str) -> VocoderConfig:
    path = folder / "vocoder/config.json"
    data = read_json(path)
    if data.get("resblock", "1") != "1":
        raise ConfigError(f"{path}: resblock {data['resblock']!r} is not supported, only '1'.")
    return VocoderConfig(
        bins=data["num_mels" if family == "auffusion" else "model_in_dim"], channels=data["upsample_initial_channel"],
        rates=tuple(data["upsample_rates"]), kernels=tuple(data["upsample_kernel_sizes"]),
        resblock_kernels=tuple(data["resblock_kernel_sizes"]),
        resblock_dilations=tuple(tuple(d) for d in data["resblock_dilation_sizes"]),
        slope=data.get("leaky_relu_slope", 0.1), normalize=data.get("normalize_before", False), exact=family == "auffusion")


def _mel(family: str, vocoder: VocoderConfig) -> MelConfig:
    hop = math.prod(vocoder.rates)
    if family == "auffusion":
        return MelConfig(n_fft=2048, hop=hop, bins=vocoder.bins, center=False, mean=(LN_CEILING + LN_FLOOR) / 2,
                         std=(LN_CEILING - LN_FLOOR) / 2, clip=1.0, layout="frequency")
    return MelConfig(hop=hop, bins=vocoder.bins)


def _text(folder: Path, family: str) -> TextConfig:
    if family == "auffusion" and (folder / "condition_config.json").exists():
        entries = read_json(folder / "condition_config.json")
        names = tuple(e["text_encoder_name"] for e in entries)
        adapters = tuple(e["condition_adapter_name"] for e in entries)
        return TextConfig("auffusion", parts=names, tokenizers=names, adapters=adapters)
    if family == "auffusion":
        return TextConfig("clip")
    if family in ("audioldm2", "audioldm2-speech"):
        kind: Any = family
        return TextConfig(kind, parts=("text_encoder", "text_encoder_2"), tokenizers=("tokenizer", "tokenizer_2"))
    return TextConfig("clap")


def rename_vocoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Auffusion's vocoder.pt under the names of models.hifigan, its weight norm multiplied out."""
    state = state.get("generator", state)                        # type: ignore[assignment]
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.replace("ups.", "upsampler.")
        if key.endswith("weight_g"):
            v = state[key[:-1] + "v"]
            norm = torch.linalg.vector_norm(v.flatten(1).double(), dim=1).to(v.dtype)
            out[name[: -len("_g")]] = v * (value.flatten() / norm)[:, None, None]
        elif not key.endswith("weight_v"):
            out[name] = value
    return out


def rename_autoencoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Older folders' names of the middle attention (query, key, value, proj_attn), and 1x1 convolutions, as today's."""
    names = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    out = {}
    for key, value in state.items():
        if ".attentions." in key:
            for old, new in names.items():
                key = key.replace(old, new)
            value = value.flatten(1) if value.dim() == 4 else value
        out[key] = value
    return out
