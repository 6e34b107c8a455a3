"""The U-Net from recordings: what is kept and for how long, what goes without, and, on a GPU, that it sounds as the plain one."""

from collections.abc import Callable

import pytest
import torch
from conftest import CHECKPOINTS, normal, redraw, relative
from torch import Tensor

from audiogen.checkpoint import load_model
from audiogen.config import ScheduleConfig, UNetConfig
from audiogen.diffusion.attention_edit import Watched, weighted
from audiogen.diffusion.conditioning import Conditioning
from audiogen.diffusion.denoiser import Denoiser
from audiogen.diffusion.loop import wrapping
from audiogen.diffusion.sampling import sample
from audiogen.diffusion.schedule import grid
from audiogen.models.recorded import KEPT, Recorded
from audiogen.models.unet import Attended, UNet
from audiogen.pipeline import Pipeline

CONFIG = UNetConfig(4, 4, (8, 16), (True, True), (2, 2), 1, transformers=(None, 0, 1), context_dims=(12, 10), film_dim=6,
                    groups=4)
LEVELS = grid(ScheduleConfig(), "unipc", 5, True)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are a GPU's")


@pytest.fixture
def unet() -> UNet:
    return redraw(UNet(CONFIG), std=0.2).requires_grad_(False)   # type: ignore[return-value]


class Tape:
    """A recorder for the CPU: what it plays is the work itself, done anew from the tensors that a recording would read."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1

        def play() -> Tensor:
            self.played += 1
            return work()

        return play


def text(seed: int, length: int, count: int = 2, masked: bool = True) -> Conditioning:
    """A context of fixed length without a mask, one of `length` tokens of which the first item has all but one, and film."""
    mask = torch.ones(count, length, dtype=torch.bool)
    mask[0, -1] = False
    return Conditioning((normal(count, 8, 12, seed=seed), normal(count, length, 10, seed=seed + 1)),
                        (None, mask if masked else None), normal(count, 6, seed=seed + 2))


def generation(unet: UNet | Recorded, seed: int, length: int, device: str = "cpu", masked: bool = True) -> Tensor:
    """Five steps, guided at some levels, so that two kinds of call take turns. (2, 4, 16, 8)"""
    cond, away = (text(s, length, masked=masked).to(device, torch.float32) for s in (seed, 100))
    denoise = Denoiser.guided(unet, LEVELS.step, cond, away, 3.0, interval=(0.5, 5.0))
    x = normal(2, 4, 16, 8, seed=9).to(device) * LEVELS.initial
    with torch.inference_mode():
        return sample("unipc", denoise, x, LEVELS.sigmas, eta=0.0, noise=lambda: x).cpu()


@pytest.mark.parametrize("masked", [True, False])
def test_each_prompt_is_heard_from_one_recording(unet: UNet, masked: bool) -> None:
    tape = Tape()
    recorded = Recorded(unet, tape)
    made = {}
    for seed, length in ((10, 11), (20, 5), (10, 11), (30, 14)):             # longer, then shorter than the one before
        made[seed] = generation(recorded, seed, length, masked=masked)
        assert relative(made[seed], generation(unet, seed, length, masked=masked)) < 1e-5
    assert relative(made[20], made[10]) > 1e-2, "prompts make a difference"
    assert (tape.recorded, tape.played) == (2, 20), "guided and not, for all texts"
    generation(recorded, 10, 17, masked=masked)
    assert tape.recorded == 4, "a text for which there is no room"


def test_a_text_is_copied_once(unet: UNet) -> None:
    recorded, same = Recorded(unet, Tape()), Attended(text(10, 11))
    x, step = normal(2, 4, 16, 8), torch.tensor([481.0, 3.0])

    def ask(attended: Attended) -> Tensor:
        return recorded(x, step, attended)

    before = ask(same)
    (take,) = recorded.takes.values()
    with torch.inference_mode():
        for layer in recorded.layers:
            for keys, values in take.text.known(layer) or ():
                keys.zero_()
                values.zero_()
    assert relative(ask(same), before) > 1e-3, "what was spoilt is read"
    assert torch.equal(ask(Attended(text(10, 11))), before), "another text, though of equal numbers, is copied"


def test_the_latest_kinds_are_kept(unet: UNet) -> None:
    tape = Tape()
    recorded, cond = Recorded(unet, tape), Attended(text(10, 8))

    def ask(width: int) -> None:
        recorded(normal(2, 4, 8, width), torch.ones(2), cond)

    for i in range(KEPT):
        ask(2 + 2 * i)
    ask(2)                                                       # the oldest, used again
    assert tape.recorded == KEPT
    ask(100)
    assert len(recorded.takes) == KEPT
    ask(2)
    assert tape.recorded == KEPT + 1
    ask(4)                                                       # that which was not used for the longest time
    assert tape.recorded == KEPT + 2


def test_who_reaches_into_the_network_gets_it_as_it_is(unet: UNet) -> None:
    tape = Tape()
    recorded, x, step, cond = Recorded(unet, tape), normal(2, 4, 16, 8), torch.ones(2), Attended(text(10, 11))
    with torch.inference_mode():
        plain = recorded(x, step, cond)
        with wrapping(unet, 2):
            around = recorded(x, step, cond)
            assert torch.equal(around, unet(x, step, cond))
        assert relative(around, plain) > 1e-3
        sigma = torch.tensor(2.0, dtype=torch.float64)

        def denoise(net: UNet | Recorded) -> Denoiser:
            return Denoiser(net, LEVELS.step, cond)

        calls = tape.played
        weights = torch.full((2, 11), 1.5)
        heavy, same = (weighted(denoise(net), unet, 1, weights)(x, sigma) for net in (recorded, unet))
        assert torch.equal(heavy, same)
        watched = Watched(denoise(recorded), unet, 1)
        watched(x, sigma)
        assert watched.count > 0
        assert tape.played == calls == 1
        assert relative(recorded(x, step, cond), plain) == 0
        assert tape.played == 2


def test_a_cpu_has_no_recordings() -> None:
    pipeline = Pipeline(load_model(CHECKPOINTS / "audioldm2-tiny"), "cpu", torch.float32)
    pipeline.generate("rain", duration=0.32, steps=2)
    assert "_recorded" not in vars(pipeline)


@GPU
@pytest.mark.parametrize("masked", [True, False])
def test_a_recorded_generation_is_the_plain_one(unet: UNet, masked: bool) -> None:
    unet.to("cuda", memory_format=torch.channels_last)
    recorded, made = Recorded(unet), {}
    for seed, length in ((10, 11), (20, 5), (10, 11), (30, 14)):
        made[seed] = generation(recorded, seed, length, "cuda", masked)
        assert relative(made[seed], generation(unet, seed, length, "cuda", masked)) < 2e-3   # convolutions may round to TF32
    assert relative(made[20], made[10]) > 1e-2
    assert len(recorded.takes) == 2


@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_on_a_gpu_records_all_but_loops(dtype: torch.dtype) -> None:
    model = load_model(CHECKPOINTS / "audioldm2-tiny", "cuda", dtype)
    quick, plain = Pipeline(model, "cuda", dtype), Pipeline(model, "cuda", dtype)
    vars(plain)["_recorded"] = model.unet
    given = {"duration": 1.28, "steps": 5, "seeds": [3]}
    bound = 2e-3 if dtype == torch.float32 else 3e-2
    made = {}
    for prompt in ("rain on a roof", "a dog"):
        made[prompt] = quick.generate(prompt, **given).latents   # type: ignore[arg-type]
        assert relative(made[prompt], plain.generate(prompt, **given).latents) < bound       # type: ignore[arg-type]
    count = len(quick._recorded.takes)
    assert count >= 1
    looped = [p.generate("rain on a roof", loop=True, **given).latents for p in (quick, plain)]        # type: ignore[arg-type]
    assert torch.equal(*looped)
    assert len(quick._recorded.takes) == count
    long = [p.generate("rain on a roof", **{**given, "duration": 30.0}).latents for p in (quick, plain)]     # type: ignore[arg-type]
    assert relative(long[0], long[1]) < bound, "pieces of a long sound come from one recording"
