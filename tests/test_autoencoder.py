"""The autoencoder against diffusers' AutoencoderKL of the same weights."""

import pytest
import torch
from conftest import normal, redraw, relative
from diffusers import AutoencoderKL

from audiogen.compat import rename_autoencoder
from audiogen.config import AutoencoderConfig
from audiogen.models.autoencoder import Autoencoder, Gaussian


def both(planes: int, channels: tuple[int, ...], layers: int) -> tuple[AutoencoderKL, Autoencoder]:
    n = len(channels)
    reference = redraw(AutoencoderKL(
        in_channels=planes, out_channels=planes, block_out_channels=channels, layers_per_block=layers, latent_channels=4,
        norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n), std=0.1)
    ours = Autoencoder(AutoencoderConfig("kl", planes, 4, channels, layers, 4)).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours                                       # type: ignore[return-value]


SHAPES = [(1, (8, 16, 24), 2, (32, 16)), (3, (8, 8, 16, 16), 1, (16, 40))]


@pytest.mark.parametrize(("planes", "channels", "layers", "size"), SHAPES)
@torch.no_grad()
def test_encode_and_decode(planes: int, channels: tuple, layers: int, size: tuple[int, int]) -> None:
    reference, ours = both(planes, channels, layers)
    image = normal(2, planes, *size)
    expected, got = reference.encode(image).latent_dist, ours.encode(image)
    assert relative(got.mean, expected.mean) < 1e-5
    assert relative(got.logvar, expected.logvar) < 1e-5
    z = normal(*expected.mean.shape, seed=1)
    assert z.shape[-1] * ours.config.factor == size[-1]
    wave = reference.decode(z).sample
    assert relative(ours.decode(z), wave) < 1e-5
    assert relative(ours.decode(z.flip(-1)), wave) > 1e-2        # the test can fail
    assert relative(ours.encode(image.flip(-1)).mean, expected.mean) > 1e-2


@pytest.mark.parametrize("convolutions", [False, True])
@torch.no_grad()
def test_older_names_of_the_attention(convolutions: bool) -> None:
    """Folders of 2022 and 2023 say query, key, value and proj_attn, some of them as 1x1 convolutions."""
    reference, ours = both(*SHAPES[0][:3])
    old = {}
    for key, value in reference.state_dict().items():
        if ".attentions." in key:
            for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
                key = key.replace(f".{new}.", f".{name}.")
            value = value[:, :, None, None] if convolutions and value.dim() == 2 else value
        old[key] = value
    assert old.keys() != reference.state_dict().keys()
    again = Autoencoder(ours.config).eval()
    again.load_state_dict(rename_autoencoder(old))
    z = normal(1, 4, 8, 4)
    assert torch.equal(again.decode(z), ours.decode(z))
    image = normal(1, 1, 32, 16)
    assert torch.equal(again.encode(image).mean, ours.encode(image).mean)


def test_gaussian_draws_and_divergence() -> None:
    n = 40_000
    gaussian = Gaussian(torch.full((1, 1, 1, n), 2.0), torch.full((1, 1, 1, n), 0.5).log())
    draw = gaussian.sample(torch.Generator().manual_seed(0))
    assert float(draw.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(draw.var()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(draw, gaussian.sample(torch.Generator().manual_seed(0)))
    mean, logvar = torch.tensor(2.0), torch.tensor(0.5).log()
    q, p = torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    assert float(gaussian.kl()) == pytest.approx(float(torch.distributions.kl_divergence(q, p)), rel=1e-5)
    assert float(Gaussian(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)).kl()) == 0.0
