"""Samplers against diffusers' schedulers on a smooth nonlinear model, and against mathematics.

Each scheduler is built by from_config on a published kind of scheduler JSON, as its users do. The model is float64, so what
differs is the float32 that diffusers keeps its levels in.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from conftest import relative
from torch import Tensor

from audiogen.compat import _schedule
from audiogen.config import ScheduleConfig
from audiogen.diffusion.denoiser import inpaint, to_clean
from audiogen.diffusion.sampling import item_noise, sample
from audiogen.diffusion.schedule import grid
from audiogen.settings import SAMPLERS

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler, "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler, "euler-a": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler, "dpmpp-2m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp-2m-sde": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler}
NOISY = ("ddim", "ddpm", "euler-a", "dpmpp-2m-sde")
OLD = ("ddim", "pndm")                                           # walk t, t - 1000 // n, ...: not always to their next step
DDIM = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195,
        "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
        "timestep_spacing": "leading", "prediction_type": "epsilon"}
PNDM = {"_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}
COUNTS = (1, 2, 3, 7, 10, 20, 50, 200)
WEIGHT = 0.3 * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
START = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def network(x: Tensor, step: Tensor | float) -> Tensor:
    """Any smooth nonlinear function of latents (B, C, h, w) and a training step."""
    step = torch.as_tensor(step, dtype=torch.float64)
    return torch.tanh(torch.einsum("oc,bchw->bohw", WEIGHT, x)) * (0.5 + step / 2000) + 0.6 * x * torch.sin(step / 300 + 1)


def draws(seed: int = 5, dtype: torch.dtype = torch.float64) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(START.shape, generator=generator, dtype=dtype).double()


def theirs(name: str, n: int, published: dict, karras: bool = False, eta: float = 0.0) -> Tensor:
    changes = {"use_karras_sigmas": True} if karras else {"skip_prk_steps": True} if name == "pndm" else {}
    changes |= {"algorithm_type": "sde-dpmsolver++"} if name == "dpmpp-2m-sde" else {}
    scheduler = SCHEDULERS[name].from_config(dict(published), **changes)
    scheduler.set_timesteps(n)
    x = START * float(scheduler.init_noise_sigma)
    given = {"generator": torch.Generator().manual_seed(5)} if name in NOISY else {}
    given |= {"eta": eta} if name == "ddim" else {}
    for step in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, step), step), step, x, **given).prev_sample
    return x


def ours(name: str, n: int, published: dict, karras: bool, path: Path, eta: float = 0.0, seed: int = 5) -> Tensor:
    (path / "scheduler.json").write_text(json.dumps(published))
    config = _schedule(path / "scheduler.json")
    levels = grid(config, name, n, karras)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return to_clean(x, network(x / (1 + sigma**2).sqrt(), levels.step(sigma)), sigma, config.prediction)

    noise = draws(seed, torch.float32 if name == "dpmpp-2m-sde" else torch.float64)                # as theirs draws it
    x = sample(name, denoise, START * levels.initial, levels.sigmas, eta=eta, noise=noise, clip=config.clip)
    return x / float((1 + levels.sigmas[-1] ** 2).sqrt())


def check(name: str, published: dict, path: Path, karras: bool = False, counts: tuple[int, ...] = COUNTS) -> None:
    for n in counts:
        assert relative(ours(name, n, published, karras, path), theirs(name, n, published, karras)) < 2e-5, n


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_diffusers_scheduler(name: str, spacing: str, prediction: str, tmp_path: Path) -> None:
    if name in OLD and spacing == "linspace":
        pytest.skip("their DDIM and PNDM step to t - 1000 // n, which is off this grid: no solver of any equation")
    if name == "pndm" and prediction == "v_prediction":
        pytest.skip("their PNDM averages velocities of different levels; ours averages the slopes they stand for")
    counts = tuple(n for n in COUNTS if 1000 % n == 0) if name in OLD and spacing == "trailing" else COUNTS
    check(name, DDIM | {"timestep_spacing": spacing, "prediction_type": prediction}, tmp_path, counts=counts)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp-2m", "dpmpp-2m-sde", "unipc"])
def test_karras_levels(name: str, spacing: str, prediction: str, tmp_path: Path) -> None:
    check(name, DDIM | {"timestep_spacing": spacing, "prediction_type": prediction}, tmp_path, karras=True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_older_scheduler_json(name: str, tmp_path: Path) -> None:
    """Without timestep_spacing, clip_sample or prediction_type each scheduler has its own defaults."""
    check(name, PNDM, tmp_path, counts=(3, 10, 50))


@pytest.mark.parametrize("changes", [
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}, {"beta_schedule": "squaredcos_cap_v2"},
    {"set_alpha_to_one": True}, {"clip_sample": True}, {"clip_sample": True, "clip_sample_range": 0.7}, {"steps_offset": 0}])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp-2m"])
def test_other_schedules(name: str, changes: dict, tmp_path: Path) -> None:
    check(name, DDIM | changes, tmp_path, counts=(5, 20))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_noise(eta: float, tmp_path: Path) -> None:
    expected = theirs("ddim", 20, DDIM, eta=eta)
    assert relative(ours("ddim", 20, DDIM, False, tmp_path, eta), expected) < 2e-5
    assert relative(ours("ddim", 20, DDIM, False, tmp_path, eta, seed=6), expected) > 1e-2
    assert relative(ours("ddim", 20, DDIM, False, tmp_path, eta / 2), expected) > 1e-2


def test_agreement_can_fail(tmp_path: Path) -> None:
    """Other samplers, counts, spacings or levels are told apart at the tolerance of the comparisons above."""
    expected = theirs("dpmpp-2m", 10, DDIM)
    assert relative(ours("unipc", 10, DDIM, False, tmp_path), expected) > 1e-3
    assert relative(ours("dpmpp-2m", 11, DDIM, False, tmp_path), expected) > 1e-3
    assert relative(ours("dpmpp-2m", 10, DDIM | {"timestep_spacing": "trailing"}, False, tmp_path), expected) > 1e-3
    assert relative(ours("dpmpp-2m", 10, DDIM, True, tmp_path), expected) > 1e-3
    assert relative(ours("dpmpp-2m", 10, DDIM | {"steps_offset": 0}, False, tmp_path), expected) > 1e-3


# Gaussian data of variance S: the denoiser is x S / (S + sigma^2), and the flow from sigma to 0 scales x by
# sqrt(S / (S + sigma^2)).
SPREAD = 0.25


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return x * SPREAD / (SPREAD + sigma**2)


def error(name: str, n: int) -> float:
    """Relative, of a sampler on n levels, spaced evenly in log sigma from 80 to 1e-4, then 0, against the closed form."""
    sigmas = torch.cat([torch.logspace(math.log10(80), -4, n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = math.sqrt(SPREAD / (SPREAD + 80**2))
    return abs(float(sample(name, gaussian, x, sigmas, eta=0.0, noise=draws())) / exact - 1)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp-2m", 2), ("unipc", 3), ("pndm", 2)])
def test_order_of_convergence(name: str, order: int) -> None:
    """UniPC's corrector adds an order to its predictor's 2; PNDM starts and ends on steps of order 2 at best."""
    assert math.log2(error(name, 160) / error(name, 320)) == pytest.approx(order, abs=0.1)
    assert error(name, 320) < 0.02


def error_past_a_jump(name: str, n: int, jumps: tuple[float, ...]) -> float:
    """As `error`, from 80 to 0.1, of a prediction that is three times the Gaussian's from the level 2 on: a closed form, too."""
    low = torch.logspace(math.log10(2), -1, n, dtype=torch.float64)[1:]
    sigmas = torch.cat([torch.logspace(math.log10(80), math.log10(2), n, dtype=torch.float64)[:-1], low.new_tensor([2.0]), low])

    def moved(start: float, end: float, times: int) -> float:    # x(end) / x(start) of dx/dsigma = (x - times * gaussian) / sigma
        return end / start * (end**2 / (SPREAD + end**2) * (SPREAD + start**2) / start**2) ** (-times / 2)

    out = sample(name, lambda x, s: gaussian(x, s) * (3 if s <= 2 else 1), torch.ones(1, 1, 1, 1, dtype=torch.float64), sigmas,
                 eta=0.0, noise=draws(), jumps=jumps)
    return abs(float(out) / (moved(80, 2, 1) * moved(2, 0.1, 3)) - 1)


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc"])
def test_a_multistep_sampler_begins_anew_at_a_jump(name: str) -> None:
    """Order 2 is kept by one that is told where the denoiser jumps, and lost by one that is not, or told of another level."""
    told, untold, mistold = ([error_past_a_jump(name, n, jumps) for n in (640, 2560)] for jumps in ((2.0,), (), (5.0,)))
    assert math.log2(told[0] / told[1]) / 2 == pytest.approx(2, abs=0.1)
    assert math.log2(untold[0] / untold[1]) / 2 < 1.1
    assert told[1] < min(untold[1], mistold[1]) / 4


@pytest.mark.parametrize("name", ["ddpm", "euler-a", "dpmpp-2m-sde"])
def test_ancestral_samplers_keep_the_distribution(name: str) -> None:
    """Many draws, walked down with fresh noise, have the data's mean and variance."""
    sigmas = torch.cat([torch.logspace(math.log10(20), -2, 200, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, 100, 200)
    x = 20 * torch.randn(shape, generator=generator, dtype=torch.float64)
    out = sample(name, gaussian, x, sigmas, eta=0.0,
                 noise=lambda: torch.randn(shape, generator=generator, dtype=torch.float64))
    assert float(out.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(out.var()) == pytest.approx(SPREAD, rel=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_steps_are_finite_and_watched(name: str, n: int) -> None:
    levels = grid(ScheduleConfig(), name, n)
    seen: list[tuple[int, int]] = []
    out = sample(name, gaussian, START * levels.initial, levels.sigmas, eta=0.0, noise=draws(),
                 watch=lambda done, total: seen.append((done, total)))
    assert torch.isfinite(out).all()
    assert seen == [(i + 1, n) for i in range(n)]


def test_one_step_to_zero_is_the_prediction() -> None:
    sigmas = torch.tensor([5.0, 0.0], dtype=torch.float64)
    for name in SAMPLERS:
        out = sample(name, gaussian, START, sigmas, eta=0.0, noise=draws())
        assert relative(out, gaussian(START, sigmas[0])) < 1e-12, name


def test_noise_belongs_to_the_item() -> None:
    both, alone = item_noise([3, 8], (2, 5)), item_noise([8], (2, 5))
    first, second = both(), both()
    assert torch.equal(first[1], alone()[0])
    assert torch.equal(second[1], alone()[0])
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[0], torch.randn(2, 5, generator=torch.Generator("cpu").manual_seed(3)))


def test_inpainting_holds_what_is_known() -> None:
    keep = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    keep[..., :3] = 1
    known = draws(9)()
    levels = grid(ScheduleConfig(), "dpmpp-2m", 10)
    out = sample("dpmpp-2m", inpaint(gaussian, known, keep), START * levels.initial, levels.sigmas, eta=0.0, noise=draws())
    assert torch.allclose(out[..., :3], known[..., :3])
    assert relative(out[..., 3:], known[..., 3:]) > 0.1
