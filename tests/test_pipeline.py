"""Pipelines: an item's sound is its own, lengths are exact, and diffusers' pipelines of other sizes sound the same."""

import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from conftest import CHECKPOINTS, TINY, normal, redraw, relative, tiny
from diffusers.pipelines.audioldm2 import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
from transformers import (
    AutoTokenizer,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTextConfig,
    CLIPTextModel,
    GPT2Config,
    GPT2LMHeadModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

from audiogen.audio import loudness
from audiogen.checkpoint import load_model
from audiogen.errors import SettingsError
from audiogen.pipeline import Pipeline
from audiogen.settings import Settings

PROMPTS = ["A dog", "Heavy rain falls on a metal roof while thunder rolls and a man speaks far away", "Birds sing in a garden"]
NEGATIVES = [None, "low quality", "noise, hiss, and a hum of fifty hertz"]
SEEDS = [5, 6, 7]


@pytest.mark.parametrize("name", TINY)
def test_a_sound_does_not_depend_on_its_batch(name: str) -> None:
    pipe = tiny(name)
    says = ["hello there", "the rain has stopped and the birds are back", "yes"] if "speech" in name else [None] * 3
    given = {"steps": 3, "guidance": 3.0, "duration": 0.64, "sampler": "dpmpp-2m"}
    pipe = pipe if name != "auffusion-tiny" else narrow(pipe)

    def given_to(order: list[int]) -> tuple[list[str], list[str | None], list[str | None]]:
        return [PROMPTS[i] for i in order], [NEGATIVES[i] for i in order], [says[i] for i in order]

    def make(order: list[int]) -> torch.Tensor:
        prompts, negatives, words = given_to(order)
        return pipe.generate(prompts, seeds=[SEEDS[i] for i in order], negatives=negatives, says=words, **given).audio

    def at_once(order: list[int]) -> torch.Tensor:
        """As on a GPU: one batch for the U-Net."""
        settings = pipe.settle(Settings(**given))                # type: ignore[arg-type]
        levels = pipe.levels(settings)
        denoise = pipe.denoiser(*given_to(order), settings, levels)
        return pipe.finish(pipe.long(denoise, settings), levels, settings, [SEEDS[i] for i in order]).audio

    together, turned, batch = make([0, 1, 2]), make([2, 0]), at_once([2, 0, 1])
    for i in range(3):
        alone = make([i])[0]
        assert torch.equal(together[i], alone)
        assert relative(together[(i + 1) % 3], alone) > 1e-2
        assert relative(batch[[2, 0, 1].index(i)], alone) < 1e-4
        if i != 1:
            assert torch.equal(turned[[2, 0].index(i)], alone)


def test_levels_are_even() -> None:
    """Loud sounds come at one loudness, those with a sharp peak at one peak; a sound alone is as loud as in company."""
    t = torch.arange(2 * 16_000) / 16_000
    sine, noise = 0.1 * torch.sin(2 * torch.pi * 997 * t), torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    click = torch.where(t % 0.5 < 2e-3, noise, 1e-4 * noise)
    assert abs(loudness(sine, 16_000) - (-23.01)) < 0.1          # the standard: -3.01 LUFS at full scale
    assert abs(loudness(sine[:3200], 16_000) - loudness(sine, 16_000) + 3.01) < 0.1          # half of a block
    assert loudness(0 * sine, 16_000) == -float("inf")
    pipe = tiny("audioldm2-tiny")

    def levelled(peak: float | None, at_most: float | None) -> torch.Tensor:
        config = replace(pipe.config, defaults=replace(pipe.config.defaults, peak=peak, loudness=at_most))
        sounds = torch.stack([sine, click, 5 * noise, 0 * sine])
        out = Pipeline(replace(pipe.model, config=config), "cpu", torch.float32).level(sounds, faded=True)
        alone = Pipeline(replace(pipe.model, config=config), "cpu", torch.float32).level(sounds[1:2], faded=True)
        assert torch.equal(out[1], alone[0])
        return out

    out, loud = levelled(0.8, -23.0), levelled(0.8, None)
    torch.testing.assert_close(loud.abs().amax(dim=1), torch.tensor([0.8, 0.8, 0.8, 0.0]))
    for i in (0, 2):
        assert abs(loudness(out[i], 16_000) - (-23.0)) < 0.2
        assert loudness(loud[i], 16_000) > -16
    torch.testing.assert_close(out[1], loud[1])                  # its peak allows no more
    assert loudness(out[1], 16_000) < -25
    assert torch.equal(levelled(None, None)[2], 5 * noise)
    assert not out[3].any()


def narrow(pipe: Pipeline) -> Pipeline:
    """The same model without its window of 10.24 s, which takes long."""
    config = replace(pipe.config, defaults=replace(pipe.config.defaults, window=None))
    return Pipeline(replace(pipe.model, config=config), "cpu", torch.float32)


def test_same_seed_same_sound_and_other_seed_another() -> None:
    pipe, given = tiny("audioldm-tiny"), {"steps": 2, "duration": 0.3}
    first = pipe.generate(["a dog"], seeds=[4], **given)
    assert torch.equal(pipe.generate(["a dog"], seeds=[4], **given).audio, first.audio)
    assert relative(pipe.generate(["a dog"], seeds=[5], **given).audio, first.audio) > 0.1
    start = torch.randn(first.latents.shape[1:], generator=torch.Generator("cpu").manual_seed(4))
    one = pipe.generate(["a dog"], seeds=[4], sampler="euler", steps=1, duration=0.3, guidance=1.0).latents[0]
    assert float(torch.corrcoef(torch.stack([start.flatten(), one.flatten()]))[0, 1]) > 0.5    # its noise is that draw


@pytest.mark.parametrize("name", ["audioldm-tiny", "auffusion-tiny"])
@pytest.mark.parametrize("duration", [0.01, 0.5, 0.777, 1.283])
def test_duration_to_the_sample(name: str, duration: float) -> None:
    pipe = narrow(tiny(name))
    made = pipe.generate(["rain"], duration=duration, steps=1)
    assert made.audio.shape == (1, int(duration * 16_000))
    assert made.audio.dtype == torch.float32
    assert made.audio.abs().max() <= 1


def test_auffusion_makes_its_whole_window() -> None:
    pipe = tiny("auffusion-tiny")
    assert pipe.latent_shape(pipe_settings(pipe, 2.0)) == (4, 32, 128)
    assert pipe.latent_shape(pipe_settings(pipe, 20.0))[2] >= 250
    assert tiny("audioldm-tiny").latent_shape(pipe_settings(tiny("audioldm-tiny"), 1.28)) == (4, 32, 4)


def pipe_settings(pipe: Pipeline, duration: float) -> Settings:
    return Settings(duration=duration).with_defaults(pipe.config.defaults)


def test_one_seed_and_several_takes() -> None:
    pipe, given = tiny("audioldm-tiny"), {"steps": 1, "duration": 0.2}
    made = pipe.generate(["a dog", "rain"], seed=4, count=2, **given)
    assert made.seeds == [4, 5, 4, 5]
    for wave, prompt, seed in zip(made.audio, ("a dog", "a dog", "rain", "rain"), made.seeds, strict=True):
        assert relative(wave, pipe.generate(prompt, seed=seed, **given).audio[0]) < 1e-4
    assert relative(made.audio[0], made.audio[1]) > 0.1
    assert pipe.generate(["a dog"], negatives=["hiss"], count=2, **given).seeds == [0, 1]
    assert torch.equal(pipe.generate("rain", negatives="hiss", **given).audio,
                       pipe.generate(["rain"], negatives=["hiss"], **given).audio)


def test_what_makes_no_sense_is_refused() -> None:
    pipe = tiny("audioldm-tiny")
    for given in ({"seed": 1, "seeds": [1]}, {"count": 0}, {"seed": -1}, {"seed": 2**63 - 1, "count": 2}):
        with pytest.raises(SettingsError):
            pipe.generate(["a"], steps=1, duration=0.1, **given)
    for prompts, given in ([["a", " "], {}], [["a"], {"seeds": [1, 2]}], [["a"], {"steps": 0}], [["a"], {"duration": -1.0}],
                           [["a"], {"negatives": []}]):
        with pytest.raises(SettingsError):
            pipe.generate(prompts, **given)


def small_parts(seed: int) -> dict:
    """The networks that both pipelines have, of sizes unlike the checkpoints'."""
    torch.manual_seed(seed)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1)
    vae = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(8, 12, 16), layers_per_block=2, latent_channels=6, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7)
    vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(
        model_in_dim=32, upsample_initial_channel=16, upsample_rates=[5, 4, 4, 2], upsample_kernel_sizes=[15, 8, 8, 4],
        resblock_kernel_sizes=[3, 5], resblock_dilation_sizes=[[1, 3], [1, 2]], normalize_before=True))
    return {"scheduler": scheduler, "vae": redraw(vae, seed, 0.25), "vocoder": redraw(vocoder, seed + 1, 0.25)}


UNET = {"in_channels": 6, "out_channels": 6, "block_out_channels": (8, 16, 24), "norm_num_groups": 4,
        "attention_head_dim": (2, 4, 3),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2}
CLAP_TEXT = {"vocab_size": 1000, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
             "projection_dim": 40, "pad_token_id": 1}


def check(pipeline: diffusers.DiffusionPipeline, folder: Path) -> None:
    """Save, load and compare: two prompts, guided and not, at durations that need rounding."""
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    ours = Pipeline(load_model(folder), "cpu", torch.float32)
    for prompt, negative, guidance, duration, steps in (
            (" A cat,  asleep\n purrs", "loud hum", 4.0, 0.61, 5), ("Wind", None, 1.0, 0.3, 3)):
        theirs = pipeline(prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance,
                          audio_length_in_s=duration, generator=torch.Generator("cpu").manual_seed(8)).audios[0]
        given = {"steps": steps, "guidance": guidance, "duration": duration, "sampler": "ddim", "seeds": [8],
                 "negatives": [negative]}
        made = ours.generate([prompt], **given).audio[0].numpy()
        assert made.shape == theirs.shape
        assert np.abs(theirs).max() > 1e-3
        assert relative(made, theirs) < 1e-4
        assert relative(ours.generate([prompt.replace(" a", " the") + " softly"], **given).audio[0].numpy(), theirs) > 1e-3


def test_diffusers_audioldm_pipeline(tmp_path: Path) -> None:
    unet = diffusers.UNet2DConditionModel(
        **UNET, cross_attention_dim=(8, 16, 24), class_embed_type="simple_projection", class_embeddings_concat=True,
        projection_class_embeddings_input_dim=40)
    pipeline = diffusers.AudioLDMPipeline(
        **small_parts(1), unet=redraw(unet, 3, 0.2),
        tokenizer=AutoTokenizer.from_pretrained(CHECKPOINTS / "audioldm-tiny/tokenizer"),
        text_encoder=redraw(ClapTextModelWithProjection(ClapTextConfig(**CLAP_TEXT)), 4, 1.0))
    check(pipeline, tmp_path)


@pytest.mark.parametrize("widths", [(None, 28, 36), (None, 28, 36, 36)])
def test_diffusers_audioldm2_pipeline(widths: tuple, tmp_path: Path) -> None:
    """With GPT-2 inside its language model, which is what diffusers can run under transformers 5."""
    audio = {"patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
             "num_mel_bins": 16,
             "spec_size": 64, "projection_dim": 40, "num_hidden_layers": 2}
    clap = ClapModel(ClapConfig(text_config=CLAP_TEXT, audio_config=audio, projection_dim=40))
    t5 = T5EncoderModel(T5Config(vocab_size=1000, d_model=36, d_kv=6, d_ff=50, num_layers=2, num_heads=4))
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=200, n_positions=128, n_embd=28, n_layer=2, n_head=4))
    gpt2.config.max_new_tokens = 8
    unet = AudioLDM2UNet2DConditionModel(**UNET, cross_attention_dim=(widths,) * 3)
    projection = AudioLDM2ProjectionModel(text_encoder_dim=40, text_encoder_1_dim=36, langauge_model_dim=28)
    names = {part: AutoTokenizer.from_pretrained(CHECKPOINTS / "audioldm2-tiny" / part) for part in ("tokenizer", "tokenizer_2")}
    pipeline = diffusers.AudioLDM2Pipeline(
        **small_parts(2), **names, text_encoder=redraw(clap, 4, 1.0), text_encoder_2=redraw(t5, 5, 0.2),
        language_model=redraw(gpt2, 6, 0.2), projection_model=redraw(projection, 7, 0.2),
        unet=redraw(unet, 3, 0.1), feature_extractor=ClapFeatureExtractor(feature_size=16))
    check(pipeline, tmp_path)


@pytest.mark.parametrize(("sampler", "kind", "more"), [
    ("pndm", diffusers.PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    ("ddim", diffusers.DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "prediction_type": "v_prediction"})])
def test_auffusion_in_the_layout_of_stable_diffusion(sampler: str, kind: type, more: dict, tmp_path: Path) -> None:
    """Its latents are those of diffusers' StableDiffusionPipeline; the vocoder is the tiny checkpoint's."""
    cross, plain = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
    unet = diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        attention_head_dim=(2, 4), cross_attention_dim=20, down_block_types=(cross[0], plain[0]),
        up_block_types=(plain[1], cross[1]))
    vae = diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(4,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=1000, hidden_size=20, intermediate_size=30, num_hidden_layers=2,
                                        num_attention_heads=4, max_position_embeddings=77))
    schedule = kind(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, **more)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=redraw(vae, 1, 0.5), unet=redraw(unet, 2, 0.25), text_encoder=redraw(text, 3, 0.3), scheduler=schedule,
        tokenizer=AutoTokenizer.from_pretrained(CHECKPOINTS / "auffusion-tiny/text_encoder_0"), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    shutil.copytree(CHECKPOINTS / "auffusion-tiny/vocoder", tmp_path / "vocoder")
    ours = narrow(Pipeline(load_model(tmp_path), "cpu", torch.float32))
    for prompt, negative, guidance in (("rain " * 90, "a  hum", 7.5), ("A bell", None, 1.0)):        # longer than 77 tokens
        given = {"steps": 3, "guidance": guidance, "duration": 0.32, "sampler": sampler, "seeds": [8], "negatives": [negative]}
        theirs = pipeline(prompt, negative_prompt=negative, num_inference_steps=3, guidance_scale=guidance, height=256, width=32,
                          generator=torch.Generator("cpu").manual_seed(8), output_type="latent").images
        assert relative(ours.generate([prompt], **given).latents, theirs) < 1e-4
        assert relative(ours.generate(["Not " + prompt], **given).latents, theirs) > 1e-2


def test_decode_is_the_same_for_each_item() -> None:
    pipe = tiny("musicldm-tiny")
    z = normal(3, *pipe.latent_shape(pipe_settings(pipe, 0.32)))
    with torch.inference_mode():
        assert relative(pipe.decode(z)[1:2], pipe.decode(z[1:2])) < 1e-5
