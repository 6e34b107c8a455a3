"""The U-Net against diffusers' of the same weights, for each family's shape, with controls that show the test can fail."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, redraw, relative
from diffusers import UNet2DConditionModel
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel
from torch import Tensor

from audiogen.config import UNetConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.models.unet import Attended, Attention, UNet, timestep_embedding

CHANNELS = (16, 32, 32, 48)
DOWN = ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3
UP = ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",)
STEP = torch.tensor([17, 903])


def both(reference: torch.nn.Module, config: UNetConfig) -> tuple[torch.nn.Module, UNet]:
    """The reference with new weights, and our U-Net with the same."""
    redraw(reference)
    ours = UNet(config).eval()
    ours.load_state_dict(reference.state_dict())                 # strict: the published names are ours
    return reference, ours


@torch.no_grad()
def compare(reference: torch.nn.Module, ours: UNet, cond: Conditioning, size: tuple[int, int], **given: Tensor) -> Tensor:
    """Assert equal outputs on random latents, and that another step is told apart; returns the reference's output."""
    x = normal(2, ours.config.in_channels, *size, seed=1)
    expected = reference(x, STEP, **given).sample
    assert relative(ours(x, STEP, cond), expected) < 1e-5
    assert relative(ours(x, STEP + 1, cond), expected) > 1e-4
    return expected


def stable_diffusion(linear: bool = False) -> tuple[torch.nn.Module, UNet]:
    """One context everywhere but at the last level."""
    reference = UNet2DConditionModel(in_channels=4, out_channels=4, block_out_channels=CHANNELS, cross_attention_dim=24,
                                     attention_head_dim=4, norm_num_groups=8, use_linear_projection=linear)
    return both(reference, UNetConfig(4, 4, CHANNELS, (True, True, True, False), (4,) * 4, context_dims=(24,), groups=8,
                                      linear_projection=linear))


def audioldm() -> tuple[torch.nn.Module, UNet]:
    """Film, and self-attention twice."""
    reference = UNet2DConditionModel(
        in_channels=8, out_channels=8, block_out_channels=CHANNELS, down_block_types=DOWN, up_block_types=UP,
        cross_attention_dim=CHANNELS, attention_head_dim=(2, 4, 4, 8), norm_num_groups=8, layers_per_block=1,
        class_embed_type="simple_projection", projection_class_embeddings_input_dim=24, class_embeddings_concat=True)
    return both(reference, UNetConfig(8, 8, CHANNELS, (False, True, True, True), (2, 4, 4, 8), 1, transformers=(None,),
                                      context_dims=(), film_dim=24, groups=8))


def audioldm2(widths: tuple, transformers: tuple, depth: int = 1) -> tuple[torch.nn.Module, UNet]:
    """Two contexts: the language model's states of width 20, T5's of width 28."""
    reference = AudioLDM2UNet2DConditionModel(
        in_channels=8, out_channels=8, block_out_channels=CHANNELS, down_block_types=DOWN, up_block_types=UP,
        cross_attention_dim=(widths,) * 4, attention_head_dim=(2, 4, 4, 8), norm_num_groups=8, layers_per_block=1,
        transformer_layers_per_block=depth)
    return both(reference, UNetConfig(8, 8, CHANNELS, (False, True, True, True), (2, 4, 4, 8), 1, depth,
                                      transformers=transformers, context_dims=(20, 28), groups=8))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("size", [(16, 32), (18, 27)])
def test_stable_diffusion(linear: bool, size: tuple[int, int]) -> None:
    context = normal(2, 7, 24)
    reference, ours = stable_diffusion(linear)
    expected = compare(reference, ours, Conditioning((context,), (None,)), size, encoder_hidden_states=context)
    with torch.no_grad():
        x = normal(2, 4, *size, seed=1)
        assert relative(ours(x, STEP, Conditioning((context.flip(0),), (None,))), expected) > 1e-4
        wrong = UNet(replace(ours.config, heads=(2,) * 4))
        wrong.load_state_dict(ours.state_dict())
        assert relative(wrong(x, STEP, Conditioning((context,), (None,))), expected) > 1e-4


@pytest.mark.parametrize("size", [(16, 32), (13, 10)])
def test_audioldm(size: tuple[int, int]) -> None:
    film = normal(2, 24)
    reference, ours = audioldm()
    expected = compare(reference, ours, Conditioning(film=film), size, encoder_hidden_states=None, class_labels=film)
    with torch.no_grad():
        assert relative(ours(normal(2, 8, *size, seed=1), STEP, Conditioning(film=film.flip(0))), expected) > 1e-4


@pytest.mark.parametrize(("widths", "transformers", "depth"), [
    ((None, 20, 28), (None, 0, 1), 1),
    ((None, 20, 28, 28), (None, 0, 1, 1), 2)])
@pytest.mark.parametrize("size", [(16, 16), (19, 8)])
def test_audioldm2(widths: tuple, transformers: tuple, depth: int, size: tuple[int, int]) -> None:
    first, second = normal(2, 8, 20), normal(2, 11, 28)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 6:] = False
    reference, ours = audioldm2(widths, transformers, depth)
    expected = compare(reference, ours, Conditioning((first, second), (None, mask)), size, encoder_hidden_states=first,
                       encoder_hidden_states_1=second, encoder_attention_mask_1=mask.float())
    with torch.no_grad():
        x = normal(2, 8, *size, seed=1)
        assert relative(ours(x, STEP, Conditioning((first, second), (None, None))), expected) > 1e-4
        assert relative(ours(x, STEP, Conditioning((first, second), (mask[:, :8], mask))), expected) > 1e-4


def test_what_is_masked_does_not_count() -> None:
    first, second, mask = normal(2, 8, 20), normal(2, 11, 28), torch.ones(2, 11, dtype=torch.bool)
    mask[:, 6:] = False
    _, ours = audioldm2((None, 20, 28), (None, 0, 1))
    x = normal(2, 8, 16, 8, seed=1)
    with torch.no_grad():
        padded = ours(x, STEP, Conditioning((first, second), (None, mask)))
        assert relative(padded, ours(x, STEP, Conditioning((first, second[:, :6]), (None, None)))) < 1e-6


def test_keys_and_values_once_or_each_time() -> None:
    _, ours = stable_diffusion()
    x, context = normal(2, 4, 8, 8, seed=1), Conditioning((normal(2, 7, 24),), (None,))
    with torch.no_grad():
        kept = Attended(context)
        ours(x, STEP, kept)                                      # fills it
        assert torch.equal(ours(x, STEP, kept), ours(x, STEP, context))


def test_cross_attentions_are_those_that_look_at_a_context() -> None:
    _, ours = audioldm2((None, 20, 28), (None, 0, 1))
    layers = dict(ours.cross_attentions())
    assert len(layers) == 2 * (3 + 1 + 6)                        # two of three transformers after each block that attends
    assert {layer.to_k.in_features for layer in layers.values()} == {20, 28}
    assert not list(audioldm()[1].cross_attentions())


def test_an_edit_sees_the_probabilities() -> None:
    layer = redraw(Attention(32, 4, 24), std=0.3)
    x, mask = normal(2, 9, 32), torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    known = layer.keys_values(normal(2, 5, 24, seed=1))
    with torch.no_grad():
        plain, seen = layer(x, known, mask), []
        layer.edit = lambda p: seen.append(p) or p
        assert torch.allclose(layer(x, known, mask), plain, atol=1e-6)
        assert seen[0].shape == (2, 4, 9, 5)
        assert seen[0][0, :, :, 3:].abs().max() == 0
        layer.edit = lambda p: p.flip(-1)
        assert relative(layer(x, known, mask), plain) > 1e-2


def test_timestep_embedding_between_steps() -> None:
    emb = timestep_embedding(torch.tensor([3.0, 3.5]), 8)
    assert torch.allclose(emb[:, 0], torch.tensor([3.0, 3.5]).cos())
    assert torch.allclose(emb[:, 5], (torch.tensor([3.0, 3.5]) / 10).sin())
