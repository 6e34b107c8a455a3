"""The forward process as noise levels, and the grids of levels that samplers walk.

A level sigma is the noise-to-signal ratio: in the frame x = z + sigma * noise, z unit-variance latents (Karras et al. 2022).
Everything here is float64 on the CPU: a level is a number, and a comparison with it must not wait for a GPU.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from audiogen.config import ScheduleConfig
from audiogen.errors import ConfigError

CLOSER = 2.5                                                     # levels where guidance acts, to those elsewhere


@dataclass(frozen=True)
class NoiseSchedule:
    sigmas: Tensor                                               # (steps,) ascending levels of training steps 0, 1, ...

    @classmethod
    def of(cls, config: ScheduleConfig) -> "NoiseSchedule":
        """The schedule of a checkpoint (Ho et al. 2020; Rombach et al. 2022; Nichol and Dhariwal 2021)."""
        n = config.steps
        if config.betas == "scaled_linear":
            betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, n, dtype=torch.float64) ** 2
        elif config.betas == "linear":
            betas = torch.linspace(config.beta_start, config.beta_end, n, dtype=torch.float64)
        else:                                                    # squared cosine
            t = torch.arange(n + 1, dtype=torch.float64) / n
            alpha_bar = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
            betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        return cls(((1 - alpha_bar) / alpha_bar).sqrt())

    def sigma(self, step: Tensor) -> Tensor:
        """Level at a training step, log-linear between whole steps. (n,) -> (n,)"""
        low = step.floor().long().clamp(0, len(self.sigmas) - 1)
        high = (low + 1).clamp(max=len(self.sigmas) - 1)
        return torch.lerp(self.sigmas[low].log(), self.sigmas[high].log(), step - low).exp()

    def step(self, sigma: Tensor) -> Tensor:
        """Training step, fractional, whose level is sigma: the inverse of `sigma`. (n,) or () -> the same"""
        logs = self.sigmas.log()
        high = torch.searchsorted(logs, sigma.log()).clamp(1, len(logs) - 1)
        low = high - 1
        return (low + (sigma.log() - logs[low]) / (logs[high] - logs[low])).clamp(0, len(logs) - 1)


@dataclass(frozen=True)
class Grid:
    """The levels that a sampler walks, and the training step at which the U-Net is asked about each."""

    sigmas: Tensor                                               # (n + 1,) descending
    steps: Tensor                                                # (n,) training steps of sigmas[:-1]
    initial: float                                               # x starts as this times standard normal noise
    schedule: NoiseSchedule

    def step(self, sigma: Tensor) -> Tensor:
        """Training step for a level: the grid's own, or (between its levels) the schedule's. () -> ()"""
        at = torch.nonzero(self.sigmas[:-1] == sigma).flatten()
        return self.steps[at[0]] if len(at) else self.schedule.step(sigma)

    def head(self, n: int) -> "Grid":
        """The grid's first n steps, for a sampler that stops there."""
        return Grid(self.sigmas[: n + 1], self.steps[:n], self.initial, self.schedule)

    def part(self, start: int) -> "Grid":
        """The grid without its first `start` levels, for a sampler that starts from a noised input."""
        return Grid(self.sigmas[start:], self.steps[start:], float((1 + self.sigmas[start] ** 2).sqrt()), self.schedule)


def grid(config: ScheduleConfig, sampler: str, n: int, karras: bool = False,
         interval: tuple[float, float] | None = None) -> Grid:
    """The grid of n levels on which diffusers' scheduler of this kind would run a checkpoint with this config.

    Where guidance acts in an interval of levels alone, some of Karras' levels lie on its ends, for the denoiser changes
    abruptly there, and they lie CLOSER to each other within, as what is guided changes faster.
    """
    schedule = NoiseSchedule.of(config)
    multistep = sampler in ("dpmpp-2m", "dpmpp-2m-sde", "unipc")
    most = config.steps - 2 * multistep                          # these divide by the distance of levels: no two may be equal
    if n > most:
        raise ConfigError(f"{n} steps are more than the {most} that the model knows; lower --steps.")
    old = sampler in ("ddim", "ddpm", "pndm")
    spacing = config.spacing or ("leading" if old else "linspace")
    steps = _spaced(config, spacing, n, multistep, fractional=sampler in ("euler", "euler-a", "heun"))
    low, high = steps.floor().long(), steps.ceil().long()
    sigmas = torch.lerp(schedule.sigmas[low], schedule.sigmas[high], steps - low)
    if karras:
        ends = (schedule.sigmas[-1], schedule.sigmas[0]) if multistep else (sigmas[0], sigmas[-1])
        ramp = torch.linspace(0, 1, n, dtype=torch.float64)
        top, bottom = (float(x) ** (1 / 7) for x in ends)
        if interval is not None and n > 3:                       # fewer have no room for both ends
            ramp = _crowded(n, *(min(max((top - x ** (1 / 7)) / (top - bottom), 0.0), 1.0) for x in reversed(interval)))
        sigmas = (top + ramp * (bottom - top)) ** 7              # Karras et al. 2022, eq. 5
        for end in interval or ():                               # and not beside it
            sigmas = torch.where((sigmas / end - 1).abs() < 1e-9, end, sigmas)
        steps = schedule.step(sigmas)
        steps = steps.round() if multistep else steps
    ends_at_zero = sampler == "ddim" if config.final_zero is None else config.final_zero
    last = float(schedule.sigmas[0]) if sampler in ("ddim", "pndm") and not ends_at_zero else 0.0
    plain = sampler in ("euler", "euler-a", "heun") and spacing != "leading"
    initial = float(sigmas[0]) if plain else float((1 + sigmas[0] ** 2).sqrt())
    return Grid(torch.cat([sigmas, torch.tensor([last], dtype=torch.float64)]), steps, initial, schedule)


def _crowded(n: int, begin: float, end: float) -> Tensor:
    """n points from 0 to 1, even but CLOSER between `begin` and `end`, of which there are two if n allows. (n,)"""
    more = (CLOSER - 1) * (end - begin)
    first, last = (round(x / (1 + more) * (n - 1)) for x in (begin, end + more))
    first, last = max(first, int(begin > 0)), min(last, n - 1 - int(end < 1))
    if first >= last:
        return torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.from_numpy(np.interp(np.arange(n), [0, first, last, n - 1], [0.0, begin, end, 1.0]))


def _spaced(config: ScheduleConfig, spacing: str, n: int, multistep: bool, fractional: bool) -> Tensor:
    """n descending training steps (Lin et al. 2024, table 2). Multistep solvers leave out the last of n + 1."""
    m = n + 1 if multistep else n
    if spacing == "leading":
        steps = torch.arange(m, dtype=torch.float64) * (config.steps // m) + config.offset
    elif spacing == "trailing":
        return torch.arange(config.steps, 0, -config.steps / n, dtype=torch.float64)[:n].round() - 1
    else:
        steps = torch.linspace(0, config.steps - 1, m, dtype=torch.float64)
        steps = steps if fractional else steps.round()
    return steps.flip(0)[:n].clamp(max=config.steps - 1)
