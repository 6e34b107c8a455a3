"""The published networks at their published sizes, weights drawn at random, as the peers' modules and as folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)
from transformers.utils import logging

logging.set_verbosity_error()
diffusers_logging.set_verbosity_error()

FAMILIES = ("audioldm2", "audioldm-s", "auffusion")
LATENTS = {"audioldm2": (8, 256, 16), "audioldm-s": (8, 256, 16), "auffusion": (4, 32, 128)}     # of 10.24 s
TOKENIZERS = Path(__file__).resolve().parent.parent / "tests/checkpoints/audioldm2-tiny"
BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",), "layers_per_block": 2, "attention_head_dim": 8}


def unet(family: str, quick: bool) -> nn.Module:
    """The U-Net of AudioLDM 2 (base), AudioLDM-s-full or Auffusion (which has Stable Diffusion 1.5's)."""
    channels = (64, 64, 64, 64) if quick else (320, 640, 1280, 1280) if family == "auffusion" else (128, 256, 384, 640)
    if family == "audioldm2":
        return AudioLDM2UNet2DConditionModel(
            in_channels=8, out_channels=8, block_out_channels=channels, cross_attention_dim=[[None, 768, 1024]] * 4, **BLOCKS)
    if family == "audioldm-s":
        return UNet2DConditionModel(
            in_channels=8, out_channels=8, block_out_channels=channels, cross_attention_dim=channels,
            class_embed_type="simple_projection", class_embeddings_concat=True, projection_class_embeddings_input_dim=512,
            **BLOCKS)
    sides = {"down_block_types": BLOCKS["down_block_types"][::-1], "up_block_types": BLOCKS["up_block_types"][::-1]}
    return UNet2DConditionModel(block_out_channels=channels, cross_attention_dim=768, **(BLOCKS | sides))


def autoencoder(quick: bool) -> nn.Module:
    """AudioLDM's and AudioLDM 2's."""
    return AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(32, 32, 32) if quick else (128, 256, 512), layers_per_block=2,
        latent_channels=8, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.4110932946205139)


def vocoder(quick: bool) -> nn.Module:
    """AudioLDM's and AudioLDM 2's HiFi-GAN."""
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(
        model_in_dim=64, upsample_initial_channel=64 if quick else 1024, upsample_rates=[5, 4, 2, 2, 2],
        upsample_kernel_sizes=[16, 16, 8, 4, 4], normalize_before=False))


def drawn(build: Any, *args: Any, seed: int = 0) -> Any:
    """A module with weights of unit gain, in evaluation mode."""
    with torch.device("meta"):
        module = build(*args)
    if next(module.buffers(), None) is None:
        module.to_empty(device="cpu")                            # the library's own, slower draw is left out
    else:
        module = build(*args)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                p.normal_(0, p[0].numel() ** -0.5, generator=generator)
            else:
                p.fill_(float(name.endswith("weight")))
    return module.eval().requires_grad_(False)


def write_audioldm2(folder: Path, quick: bool) -> None:
    """A published AudioLDM 2 folder of base size (4.4 GB in float32), readable by both sides.

    Its language model is a GPT2LMHeadModel, which is what diffusers runs under transformers 5. The tokenizers are small ones.
    """
    logging.disable_progress_bar()
    width, layers = (48, 1) if quick else (768, 12)
    clap = ClapConfig(
        text_config={"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 12,
                     "intermediate_size": 4 * width},
        audio_config={"patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 32} if quick
        else {"patch_embeds_hidden_size": 128, "depths": [2, 2, 12, 2], "hidden_size": 1024}, projection_dim=512)
    t5 = T5Config(vocab_size=2000 if quick else 32128, d_model=1024, d_kv=64, d_ff=64 if quick else 2816, num_heads=16,
                  num_layers=1 if quick else 24, feed_forward_proj="gated-gelu")
    gpt2 = GPT2Config(n_layer=1 if quick else 12, vocab_size=2000 if quick else 50257)
    gpt2.max_new_tokens = 8
    parts = {"text_encoder": (ClapModel, clap), "text_encoder_2": (T5EncoderModel, t5), "language_model": (GPT2LMHeadModel, gpt2),
             "vae": (autoencoder, quick), "vocoder": (vocoder, quick), "unet": (unet, "audioldm2", quick),
             "projection_model": (lambda: AudioLDM2ProjectionModel(512, 1024, 768),)}
    index: dict[str, Any] = {"_class_name": "AudioLDM2Pipeline", "_diffusers_version": "0.36.0"}
    for name, (build, *args) in parts.items():
        module = drawn(build, *args)
        module.save_pretrained(folder / name)
        home = type(module).__module__.split(".")[0]
        index[name] = ["audioldm2" if "AudioLDM2" in type(module).__name__ else home, type(module).__name__]
        del module
    ClapFeatureExtractor().save_pretrained(folder / "feature_extractor")
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(TOKENIZERS / name, folder / name)
    index |= {"feature_extractor": ["transformers", "ClapFeatureExtractor"], "tokenizer": ["transformers", "RobertaTokenizer"],
              "tokenizer_2": ["transformers", "T5Tokenizer"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
