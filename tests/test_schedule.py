"""Noise levels and grids, against their formulas and diffusers' timesteps."""

import math

import diffusers
import pytest
import torch

from audiogen.config import ScheduleConfig
from audiogen.diffusion.schedule import CLOSER, NoiseSchedule, grid
from audiogen.errors import ConfigError
from audiogen.settings import SAMPLERS


@pytest.mark.parametrize(("betas", "start", "end"), [("linear", 1e-4, 0.02), ("scaled_linear", 0.0015, 0.0195),
                                                     ("squaredcos_cap_v2", 1e-4, 0.02)])
def test_levels_are_those_of_the_public_schedules(betas: str, start: float, end: float) -> None:
    theirs = diffusers.DDPMScheduler(beta_schedule=betas, beta_start=start, beta_end=end).alphas_cumprod.double()
    sigmas = NoiseSchedule.of(ScheduleConfig(betas=betas, beta_start=start, beta_end=end)).sigmas   # type: ignore[arg-type]
    below_one = slice(None, 990)                                 # alpha_bar near 0 has few digits in float32
    assert torch.allclose(1 / (1 + sigmas**2)[below_one], theirs[below_one], rtol=2e-4)
    assert (sigmas.diff() > 0).all()
    assert sigmas.dtype == torch.float64


def test_step_is_the_inverse_of_sigma() -> None:
    schedule = NoiseSchedule.of(ScheduleConfig())
    steps = torch.tensor([0.0, 0.25, 17.0, 500.5, 998.75, 999.0], dtype=torch.float64)
    assert torch.allclose(schedule.step(schedule.sigma(steps)), steps, atol=1e-9)
    assert torch.allclose(schedule.sigma(torch.arange(1000, dtype=torch.float64)), schedule.sigmas)
    beyond = torch.tensor([1e-9, 1e9], dtype=torch.float64)
    assert schedule.step(beyond).tolist() == [0, 999]


@pytest.mark.parametrize(("spacing", "n", "expected"), [
    ("leading", 4, [751, 501, 251, 1]), ("trailing", 4, [999, 749, 499, 249]), ("linspace", 4, [999, 666, 333, 0]),
    ("leading", 3, [667, 334, 1]), ("leading", 1, [1]), ("trailing", 1, [999])])
def test_steps_of_each_spacing(spacing: str, n: int, expected: list[int]) -> None:
    levels = grid(ScheduleConfig(spacing=spacing), "ddim", n)    # type: ignore[arg-type]
    assert levels.steps.tolist() == expected
    assert torch.allclose(levels.sigmas[:-1], levels.schedule.sigmas[expected])


def test_without_a_spacing_each_sampler_has_its_own() -> None:
    bare = ScheduleConfig(spacing=None, final_zero=None)
    assert grid(bare, "ddim", 4).steps.tolist() == [751, 501, 251, 1]
    assert grid(bare, "heun", 4).steps.tolist() == [999, 666, 333, 0]
    assert float(grid(bare, "ddim", 4).sigmas[-1]) == 0.0
    assert float(grid(bare, "pndm", 4).sigmas[-1]) > 0.0


@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_descend_to_the_end(name: str, karras: bool) -> None:
    for n in (1, 2, 5, 998):
        levels = grid(ScheduleConfig(), name, n, karras)
        assert len(levels.sigmas) == n + 1
        assert (levels.sigmas.diff() < 0).all()
        assert levels.steps.min() >= 0
        assert levels.steps.max() <= 999


def test_ddim_ends_on_the_first_level_unless_told() -> None:
    assert float(grid(ScheduleConfig(), "ddim", 5).sigmas[-1]) == float(NoiseSchedule.of(ScheduleConfig()).sigmas[0])
    assert float(grid(ScheduleConfig(final_zero=True), "ddim", 5).sigmas[-1]) == 0.0
    assert float(grid(ScheduleConfig(), "euler", 5).sigmas[-1]) == 0.0


def test_karras_levels_are_even_in_the_seventh_root() -> None:
    levels = grid(ScheduleConfig(spacing="trailing"), "euler", 12, karras=True)
    roots = levels.sigmas[:-1] ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(11))


def test_the_network_is_asked_at_the_grids_own_steps() -> None:
    levels = grid(ScheduleConfig(), "ddim", 5)
    assert [float(levels.step(s)) for s in levels.sigmas[:-1]] == levels.steps.tolist()
    between = (levels.sigmas[0] + levels.sigmas[1]) / 2
    assert float(levels.steps[1]) < float(levels.step(between)) < float(levels.steps[0])


def test_part_of_a_grid_starts_from_its_own_level() -> None:
    levels = grid(ScheduleConfig(), "dpmpp-2m", 10)
    part = levels.part(4)
    assert torch.equal(part.sigmas, levels.sigmas[4:])
    assert torch.equal(part.steps, levels.steps[4:])
    assert part.initial == pytest.approx(float((1 + levels.sigmas[4] ** 2).sqrt()))


@pytest.mark.parametrize("name", ["unipc", "dpmpp-2m", "ddim", "heun"])
def test_levels_lie_on_the_ends_of_an_interval(name: str) -> None:
    for n in (4, 10, 990):
        levels = grid(ScheduleConfig(), name, n, karras=True, interval=(0.3, 8.0))
        assert {0.3, 8.0} <= set(levels.sigmas.tolist())
        at = torch.tensor(8.0, dtype=torch.float64)
        assert float(levels.step(at)) == pytest.approx(float(levels.schedule.step(at)), abs=0.5)
    for n in (1, 2, 3, 4, 990):                                  # however few or many, and close to each other or to the ends
        for interval in ((0.3, 8.0), (2.0, 2.1), (0.06, 10.0)):
            sigmas = grid(ScheduleConfig(), name, n, karras=True, interval=interval).sigmas
            assert (sigmas.diff() < 0).all()
            assert torch.equal(sigmas[[0, -1]], grid(ScheduleConfig(), name, n, karras=True).sigmas[[0, -1]])


def test_levels_are_closer_where_guidance_acts() -> None:
    sigmas = grid(ScheduleConfig(), "unipc", 900, karras=True, interval=(0.3, 8.0)).sigmas[:-1]
    even = sigmas ** (1 / 7)                                     # Karras' levels are even so
    apart = -even.diff()
    within, *outside = apart[(sigmas[:-1] < 8.1) & (sigmas[1:] > 0.29)], apart[sigmas[1:] > 8.1], apart[sigmas[:-1] < 0.29]
    for part in (within, *outside):
        assert part[1:-1].std() / part.mean() < 1e-6
        assert float(part.mean() / within.mean()) == pytest.approx(1 if part is within else CLOSER, rel=0.02)


@pytest.mark.parametrize("karras", [True, False])
def test_an_interval_beyond_the_grid_changes_nothing(karras: bool) -> None:
    plain = grid(ScheduleConfig(), "unipc", 9, karras)
    for interval in ((0.0, math.inf), (1e-4, 500.0), (200.0, 500.0)):
        torch.testing.assert_close(grid(ScheduleConfig(), "unipc", 9, karras, interval).sigmas, plain.sigmas, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "most"), [("ddim", 1000), ("dpmpp-2m", 998), ("unipc", 998)])
def test_more_steps_than_were_trained(name: str, most: int) -> None:
    assert len(grid(ScheduleConfig(), name, most).steps) == most
    with pytest.raises(ConfigError, match=f"more than the {most}"):
        grid(ScheduleConfig(), name, most + 1)
