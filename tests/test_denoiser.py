"""The denoiser: guidance, its rescaling, and the kinds of prediction."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, redraw, relative
from torch import Tensor

from audiogen.config import ScheduleConfig, UNetConfig
from audiogen.diffusion.conditioning import Conditioning
from audiogen.diffusion.denoiser import Denoiser, inpaint, to_clean
from audiogen.diffusion.loop import moving_mean
from audiogen.diffusion.schedule import NoiseSchedule
from audiogen.models.unet import UNet

SCHEDULE = NoiseSchedule.of(ScheduleConfig())
SIGMA = torch.tensor(2.0, dtype=torch.float64)
X = 2 * normal(2, 4, 8, 8, seed=3)
COND = Conditioning((normal(2, 5, 12),), (None,))
AWAY = Conditioning((normal(2, 3, 12, seed=1),), (None,))


@pytest.fixture(scope="module")
def unet() -> UNet:
    return redraw(UNet(UNetConfig(4, 4, (8, 16), (True, True), (2, 2), 1, context_dims=(12,), groups=4)), std=0.2)


def denoise(unet: UNet, uncond: Conditioning | None, guidance: float, **given: object) -> Tensor:
    with torch.no_grad():
        return Denoiser.guided(unet, SCHEDULE.step, COND, uncond, guidance, **given)(X, SIGMA)     # type: ignore[arg-type]


def test_without_guidance_the_condition_alone_counts(unet: UNet) -> None:
    alone = denoise(unet, None, 7.0)
    assert relative(denoise(unet, AWAY, 1.0 + 1e-7), alone) < 1e-5
    assert relative(denoise(unet, AWAY, 3.0), alone) > 1e-2
    with torch.no_grad():
        step = SCHEDULE.step(SIGMA).float().expand(2)
        assert relative(X - SIGMA * unet(X / (1 + SIGMA**2).sqrt().float(), step, COND), alone) < 1e-5


@pytest.mark.parametrize("guidance", [0.5, 2.0, 9.0])
def test_equal_conditions_cannot_be_guided_apart(unet: UNet, guidance: float) -> None:
    assert relative(denoise(unet, COND, guidance), denoise(unet, None, 1.0)) < 1e-5


def test_guidance_is_linear(unet: UNet) -> None:
    two, three, four = (denoise(unet, AWAY, g) for g in (2.0, 3.0, 4.0))
    assert relative((two + four) / 2, three) < 1e-5


def test_guidance_acts_within_its_interval_alone(unet: UNet) -> None:
    alone, guided = denoise(unet, None, 1.0), denoise(unet, AWAY, 3.0)
    for interval in ((1.0, 3.0), (1.0, 2.0)):
        assert torch.equal(denoise(unet, AWAY, 3.0, interval=interval), guided)
    for interval in ((2.5, 9.0), (0.0, 1.5), (2.0, 9.0)):         # at its upper end, not at its lower
        outside = denoise(unet, AWAY, 3.0, interval=interval)
        assert torch.equal(outside, alone)
        assert relative(outside, guided) > 1e-2


def test_rescaling_keeps_the_conditional_spread(unet: UNet) -> None:
    def spread(z: Tensor) -> Tensor:                             # of the prediction that z stands for
        return ((X - z) / SIGMA).std(dim=(1, 2, 3))

    alone, guided = denoise(unet, None, 1.0), denoise(unet, AWAY, 8.0)
    assert torch.allclose(spread(denoise(unet, AWAY, 8.0, rescale=1.0)), spread(alone), rtol=1e-4)
    assert not torch.allclose(spread(guided), spread(alone), rtol=1e-2)
    half = denoise(unet, AWAY, 8.0, rescale=0.5)
    assert relative(half, (guided + denoise(unet, AWAY, 8.0, rescale=1.0)) / 2) < 1e-5


@pytest.mark.parametrize("axis", [2, 3])
def test_slow_guidance_acts_less_on_what_lasts(unet: UNet, axis: int) -> None:
    """What guidance adds is its lasting part, of which a share counts, and the rest."""
    def spared(x: Tensor) -> Tensor:
        return 0.6 * moving_mean(x, 5, axis, around=False)

    alone, guided = denoise(unet, None, 1.0), denoise(unet, AWAY, 3.0)
    slower = denoise(unet, AWAY, 3.0, spared=spared)
    assert relative(slower, guided - spared(guided - alone)) < 1e-5
    assert relative(slower, guided) > 1e-3
    none = denoise(unet, AWAY, 3.0, spared=lambda x: x)
    assert relative(none, alone) < 1e-5


def test_predictions_of_one_model_agree() -> None:
    """Noise, velocity and clean latents that say the same give the same clean latents."""
    x, z = X.double(), normal(2, 4, 8, 8, seed=9).double()
    noise = (x - z) / SIGMA
    a, s = 1 / (1 + SIGMA**2).sqrt(), SIGMA / (1 + SIGMA**2).sqrt()
    for prediction, out in (("epsilon", noise), ("v_prediction", a * noise - s * z), ("sample", z)):
        assert relative(to_clean(x, out, SIGMA, prediction), z) < 1e-12, prediction
    assert relative(to_clean(x, noise, SIGMA, "v_prediction"), z) > 0.1


def test_a_velocity_model_is_read_as_one(unet: UNet) -> None:
    plain = Denoiser.guided(unet, SCHEDULE.step, COND, AWAY, 3.0)
    with torch.no_grad():
        noise = (X - plain(X, SIGMA)) / SIGMA                    # the network's guided output itself
        got = replace(plain, prediction="v_prediction")(X, SIGMA)
    assert relative(got, X / (1 + SIGMA**2) - SIGMA / (1 + SIGMA**2).sqrt() * noise) < 1e-5


def test_inpainting_takes_what_is_known() -> None:
    keep = torch.zeros(1, 1, 8, 8)
    keep[..., 5:] = 1
    out = inpaint(lambda x, sigma: x * 0, X, keep)(X, SIGMA)
    assert torch.equal(out[..., 5:], X[..., 5:])
    assert out[..., :5].abs().max() == 0
