"""HiFi-GAN against transformers' SpeechT5HifiGan, and Auffusion's weight-normed names against torch's own weight norm."""

import pytest
import torch
from conftest import CHECKPOINTS, normal, redraw, relative, tiny
from torch.nn.utils.parametrizations import weight_norm
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from audiogen.checkpoint import load_weights
from audiogen.compat import rename_vocoder
from audiogen.config import VocoderConfig
from audiogen.errors import CheckpointError
from audiogen.models.hifigan import HifiGan, length
from audiogen.models.layers import pack


def both(normalize: bool, slope: float) -> tuple[SpeechT5HifiGan, HifiGan]:
    theirs = SpeechT5HifiGanConfig(
        model_in_dim=12, upsample_initial_channel=16, upsample_rates=[5, 4], upsample_kernel_sizes=[16, 8],
        resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 3], [1, 3]], normalize_before=normalize,
        leaky_relu_slope=slope)
    reference = redraw(SpeechT5HifiGan(theirs), std=0.2)
    reference.mean.copy_(normal(12))
    reference.scale.copy_(normal(12).exp())
    ours = HifiGan(VocoderConfig(bins=12, channels=16, rates=(5, 4), kernels=(16, 8), resblock_kernels=(3, 7),
                                 resblock_dilations=((1, 3), (1, 3)), slope=slope, normalize=normalize)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("slope", [0.1, 0.3])
@torch.no_grad()
def test_wave(normalize: bool, slope: float) -> None:
    reference, ours = both(normalize, slope)
    mel = normal(2, 12, 37)
    expected = reference(mel.transpose(1, 2))
    assert relative(ours(mel), expected) < 1e-5
    assert relative(ours(mel.flip(1)), expected) > 1e-2          # the test can fail
    assert expected.shape[-1] == length(ours.config, 37)
    pack(ours)
    assert relative(ours(mel), expected) < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 50])
@torch.no_grad()
def test_length_is_told_before(frames: int) -> None:
    plain, exact = (HifiGan(VocoderConfig(bins=4, channels=32, kernels=(16, 15, 8, 4, 4), exact=e)) for e in (False, True))
    assert plain(normal(1, 4, frames)).shape[-1] == length(plain.config, frames)
    assert exact(normal(1, 4, frames)).shape[-1] == length(exact.config, frames)


@torch.no_grad()
def test_exact_means_hop_times_frames() -> None:
    config = VocoderConfig(bins=4, channels=32, rates=(5, 4, 2, 2, 2), kernels=(11, 8, 4, 4, 4), exact=True)
    assert HifiGan(config)(normal(1, 4, 30)).shape == (1, 30 * 160)


@torch.no_grad()
def test_weight_norm_is_multiplied_out() -> None:
    """Auffusion publishes ups.*, weight_g and weight_v: the same waves as torch's weight norm of them."""
    plain = redraw(HifiGan(VocoderConfig(bins=12, channels=16, rates=(5, 4), kernels=(11, 8), exact=True)), std=0.2)
    state, stored = plain.state_dict(), {}
    for key, value in state.items():
        name = key.replace("upsampler.", "ups.")
        if key in ("mean", "scale"):
            continue
        if key.endswith("weight"):
            stored[f"{name}_v"] = value * 1.7                    # direction only: its length must not count
            stored[f"{name}_g"] = normal(value.shape[0], 1, 1, seed=len(stored)).abs() + 0.1
        else:
            stored[name] = value
    normed = HifiGan(plain.config)
    for name, module in normed.named_modules():
        if isinstance(module, torch.nn.Conv1d | torch.nn.ConvTranspose1d):
            weight_norm(module)
            old = name.replace("upsampler.", "ups.")
            module.parametrizations.weight.original0.copy_(stored[f"{old}.weight_g"])
            module.parametrizations.weight.original1.copy_(stored[f"{old}.weight_v"])
            module.bias.copy_(stored[f"{old}.bias"])
    merged = HifiGan(plain.config)
    renamed = rename_vocoder({"generator": stored})
    load_weights(merged, {"mean": torch.zeros(12), "scale": torch.ones(12)} | renamed, "vocoder.pt")
    mel = normal(1, 12, 20)
    assert relative(merged(mel), normed(mel)) < 1e-5
    assert relative(plain(mel), normed(mel)) > 1e-2              # the lengths do count
    with pytest.raises(CheckpointError, match="1 missing"):
        load_weights(merged, {"mean": torch.zeros(12), "scale": torch.ones(12)} | rename_vocoder(
            {k: v for k, v in stored.items() if k != "conv_pre.bias"}), "vocoder.pt")


def test_auffusions_file_holds_weight_norm() -> None:
    state = torch.load(CHECKPOINTS / "auffusion-tiny/vocoder/vocoder.pt", weights_only=True)
    assert any(k.endswith("weight_g") for k in state.get("generator", state))
    assert length(tiny("auffusion-tiny").config.vocoder, 64) == 64 * 160
