"""Samplers: pure functions over a denoiser, in the frame x = z + sigma * noise.

A denoiser is any callable (x, sigma) -> z. Levels are 0-dim float64 tensors on the CPU. Sources: Song et al. 2021 (DDIM),
Ho et al. 2020 (DDPM), Liu et al. 2022 (PNDM), Karras et al. 2022 (Euler, Heun), Lu et al. 2022 (DPM-Solver++ 2M), Zhao et
al. 2023 (UniPC, B2).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]                     # (x (B, C, h, w), sigma ()) -> z (B, C, h, w)
Noise = Callable[[], Tensor]                                     # () -> (B, C, h, w) standard normal
Watch = Callable[[int, int], None]                               # (done, total) -> None
Sampler = Callable[..., Tensor]


def ignore(done: int, total: int) -> None:
    """A watch that looks away."""


def sample_euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 0.0, noise: Noise | None = None,
                 clip: float = math.inf, watch: Watch = ignore) -> Tensor:
    """eta 0: Euler's method, which is DDIM; 0 < eta <= 1: DDIM(eta); eta 1: DDPM and the ancestral sampler.

    `clip` bounds the predictions that are stepped towards, though not the direction, as public DDIM does.
    """
    steps = len(sigmas) - 1
    for i, (s, s_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        z = denoise(x, s)
        up = eta * s_next * (1 - (s_next / s) ** 2).clamp(min=0).sqrt()     # noise to put back
        down = (s_next**2 - up**2).sqrt()                                   # level to step down to
        x = z.clamp(-clip, clip) + (x - z) * (down / s)
        if up > 0 and noise is not None:
            x = x + up * noise()
        watch(i + 1, steps)
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: Tensor, *, watch: Watch = ignore) -> Tensor:
    """Heun's method of order 2: two evaluations a step, one in the last."""
    steps = len(sigmas) - 1
    for i, (s, s_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        slope = (x - denoise(x, s)) / s
        ahead = x + (s_next - s) * slope
        if s_next == 0:
            x = ahead
        else:
            x = x + (s_next - s) * (slope + (ahead - denoise(ahead, s_next)) / s_next) / 2
        watch(i + 1, steps)
    return x


def sample_pndm(denoise: Denoise, x: Tensor, sigmas: Tensor, *, watch: Watch = ignore) -> Tensor:
    """Linear multistep of order 4 (PLMS); its first step is done twice, as a trapezoid."""
    steps = len(sigmas) - 1
    slopes: list[Tensor] = []                                    # newest last
    for i, (s, s_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        slopes = [*slopes[-3:], (x - denoise(x, s)) / s]
        if i == 0 and steps > 1:
            ahead = x + (s_next - s) * slopes[0]
            mean = (slopes[0] + (ahead - denoise(ahead, s_next)) / s_next) / 2
        else:
            weights = {1: [1], 2: [-1, 3], 3: [5, -16, 23], 4: [-9, 37, -59, 55]}[len(slopes)]
            mean = sum(w * e for w, e in zip(weights, slopes, strict=True)) / sum(weights)  # type: ignore[assignment]
        x = x + (s_next - s) * mean
        watch(i + 1, steps)
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float = 0.0, noise: Noise | None = None,
                    jumps: Sequence[float] = (), watch: Watch = ignore) -> Tensor:
    """DPM-Solver++ of order 2, multistep; eta 1: of the stochastic equation, which puts noise back at each step."""
    z_last = h_last = None
    steps = len(sigmas) - 1
    for i, (s, s_next) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        z = denoise(x, s)
        h = (s / s_next).log()                                   # step in lambda = -log sigma; inf at the end
        if i and crossed(jumps, sigmas[i - 1], s):
            z_last = None
        if z_last is None or h_last is None or s_next == 0:
            slope = z
        else:
            slope = z + (z - z_last) * h / (2 * h_last)
        back = eta * h if s_next > 0 else torch.zeros_like(h)    # log of how far too low the step goes, to make room for noise
        x = (s_next / s) * (-back).exp() * x - torch.expm1(-h - back) * slope
        if back > 0 and noise is not None:
            x = x + s_next * (-torch.expm1(-2 * back)).sqrt() * noise()
        z_last, h_last = z, h
        watch(i + 1, steps)
    return x


def sample_unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, *, jumps: Sequence[float] = (), watch: Watch = ignore) -> Tensor:
    """UniPC of order 2 with B(h) = expm1(h): each new prediction first corrects the step that led to it."""
    steps = len(sigmas) - 1
    z_old = z_last = x_last = None                               # two predictions ago, one ago, x it was made at
    for i, s_next in enumerate(sigmas[1:]):
        z = denoise(x, sigmas[i])
        if i and crossed(jumps, sigmas[i - 1], sigmas[i]):
            z_old = z_last = x_last = None
        if z_last is not None and x_last is not None:
            x = _correct(x_last, z_old, z_last, z, sigmas[max(i - 2, 0) : i + 1])
        h = (sigmas[i] / s_next).log()                           # step in lambda = -log sigma; inf at the end
        x_last, x = x, (s_next / sigmas[i]) * x - torch.expm1(-h) * z
        if z_last is not None and i < steps - 1:
            r = (sigmas[i] / sigmas[i - 1]).log() / h            # < 0: where the older prediction lies
            x = x - torch.expm1(-h) * (z_last - z) / (2 * r)
        z_old, z_last = z_last, z
        watch(i + 1, steps)
    return x


def _correct(x: Tensor, z_old: Tensor | None, z: Tensor, z_new: Tensor, sigmas: Tensor) -> Tensor:
    """Redo the step sigmas[-2] -> sigmas[-1] from x, now that the prediction z_new at its end is known."""
    h = (sigmas[-2] / sigmas[-1]).log()
    e = torch.expm1(-h)
    step = (sigmas[-1] / sigmas[-2]) * x - e * z
    if z_old is None:
        return step - e * (z_new - z) / 2
    r = (sigmas[-2] / sigmas[-3]).log() / h
    phi_1 = (e / -h - 1) / e
    phi_2 = ((e / -h - 1) / -h - 0.5) * 2 / e
    rho_new = (phi_2 - r * phi_1) / (1 - r)                      # solves [[1, 1], [r, 1]] rho = phi
    rho_old = phi_1 - rho_new
    return step - e * (rho_old * (z_old - z) / r + rho_new * (z_new - z))


def crossed(jumps: Sequence[float], above: Tensor, below: Tensor) -> bool:
    """Whether a denoiser that changes abruptly at the levels `jumps`, from each of them down, does so between two levels."""
    return any(below <= level < above for level in jumps)


def item_noise(seeds: list[int], shape: tuple[int, ...]) -> Noise:
    """Draws of noise (B, *shape), each item's from its own CPU generator: the same on every device, in every batch."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    return lambda: torch.stack([torch.randn(shape, generator=g) for g in generators])


def sample(name: str, denoise: Denoise, x: Tensor, sigmas: Tensor, *, eta: float, noise: Noise, clip: float | None = None,
           jumps: Sequence[float] = (), watch: Watch = ignore) -> Tensor:
    """Run the sampler that the command line calls `name` (one of audiogen.settings.SAMPLERS).

    `eta` counts for "ddim" only, `clip` (of a checkpoint's scheduler) for "ddim" and "ddpm". At the levels `jumps` the
    denoiser changes abruptly; the multistep samplers begin anew there, as what they remember would lead them astray.
    """
    bound = math.inf if clip is None else clip
    if name == "ddim":
        return sample_euler(denoise, x, sigmas, eta=eta, noise=noise, clip=bound, watch=watch)
    if name == "ddpm":
        return sample_euler(lambda x, s: denoise(x, s).clamp(-bound, bound), x, sigmas, eta=1.0, noise=noise, watch=watch)
    if name in ("euler", "euler-a"):
        return sample_euler(denoise, x, sigmas, eta=float(name == "euler-a"), noise=noise, watch=watch)
    if name.startswith("dpmpp-2m"):
        return sample_dpmpp_2m(denoise, x, sigmas, eta=float(name == "dpmpp-2m-sde"), noise=noise, jumps=jumps, watch=watch)
    if name == "unipc":
        return sample_unipc(denoise, x, sigmas, jumps=jumps, watch=watch)
    samplers: dict[str, Sampler] = {"pndm": sample_pndm, "heun": sample_heun}
    return samplers[name](denoise, x, sigmas, watch=watch)
