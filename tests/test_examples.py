"""What batches are made of: noise that needs no generator, playing speed, captions in a table, batches drawn ahead."""

import math
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from clips import RATE, folder

from audiogen.config import UNetConfig
from audiogen.diffusion.conditioning import Conditioning, collate
from audiogen.models.unet import UNet
from audiogen.train.ahead import ahead
from audiogen.train.captions import Captions
from audiogen.train.config import DataConfig
from audiogen.train.data import prepare
from audiogen.train.diffusion import leave_out
from audiogen.train.examples import Drawer, endless, normal, played, smooth, steady, uniform


def test_noise_is_normal_and_each_items_own() -> None:
    """Moments of a million numbers within five standard errors; no correlation with neighbours, in place or in seed."""
    n = 250_000
    x = normal(torch.tensor([1, 2, 3, 2**61 + 12345]), n).double()
    error = 1 / math.sqrt(n)
    assert x.mean(dim=1).abs().max() < 5 * error
    assert (x.square().mean(dim=1) - 1).abs().max() < 5 * math.sqrt(2) * error
    assert (x**4).mean(dim=1).sub(3).abs().max() < 5 * math.sqrt(96) * error
    assert (x[:, 1:] * x[:, :-1]).mean(dim=1).abs().max() < 5 * error
    assert (x[0] * x[1]).mean().abs() < 5 * error
    assert 4 < x.abs().max() < 5.8
    assert torch.equal(normal(torch.tensor([3, 1]), 7, 2)[0], normal(torch.tensor([3]), 7, 2)[0])
    assert not torch.equal(normal(torch.tensor([3]), 7), normal(torch.tensor([3]), 7, salt=1))


def test_uniform_numbers_fill_their_range() -> None:
    u = uniform(torch.tensor([5, 6]), 100_000)
    assert u.min() >= 0 and u.max() < 1                          # noqa: PT018
    counts = torch.histc(u, 20, 0, 1)
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(10_000)


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_played_faster_is_higher_and_shorter(speed: float) -> None:
    t = np.arange(RATE) / RATE
    wave = np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    out = played(wave, speed)
    ratio = len(wave) / len(out)
    assert abs(ratio / speed - 1) < 0.02
    peak = np.abs(np.fft.rfft(out * np.hanning(len(out)))).argmax() * RATE / len(out)
    assert abs(peak - 1000 * ratio) < 2
    assert abs(np.abs(out[1000:-1000]).max() - 1) < 0.02


def test_lengths_that_are_quick_to_transform() -> None:
    for n in (1, 63, 64, 1000, 16_001, 40_960, 99_991):
        m = smooth(n)
        assert n <= m <= n * 1.02 + 1
        odd = m // (m & -m)                                      # what is left without the powers of 2
        assert odd < 128


def conditioning(caption: str) -> Conditioning:
    """Context of a length that depends on the caption, a masked one, and film."""
    g = torch.Generator().manual_seed(len(caption))
    mask = torch.tensor([[True] * (len(caption) % 3 + 1) + [False] * 2])
    return Conditioning((torch.randn(1, 1 + len(caption) % 4, 6, generator=g), torch.randn(1, mask.shape[1], 5, generator=g)),
                        (None, mask), torch.randn(1, 7, generator=g))


def test_a_table_of_captions_equals_their_encodings_collated() -> None:
    asked: list[str] = []

    def encode(captions: list[str]) -> list[Conditioning]:
        asked.extend(captions)
        return [conditioning(c) for c in captions]

    captions = Captions(encode, "cpu")
    for batch in (["a", "bb", "a", "cccc"], ["cccc", "dd d", "a"], ["bb", "bb"]):
        out, wanted = captions(batch), collate([conditioning(c) for c in batch])
        for i in (0, 1):
            length = out.contexts[i].shape[1]
            full = torch.ones(wanted.contexts[i].shape[:2], dtype=torch.bool)
            theirs = full if (m := wanted.masks[i]) is None else m
            ours = torch.ones(out.contexts[i].shape[:2], dtype=torch.bool) if (m := out.masks[i]) is None else m
            assert torch.equal(ours, theirs[:, :length])
            assert not theirs[:, length:].any()                  # only what is masked for all was left out
            assert torch.equal(out.contexts[i][ours], wanted.contexts[i][theirs])
        assert out.film is not None
        assert torch.equal(out.film, wanted.film)
    assert asked == ["a", "bb", "cccc", "dd d"]
    out, filled = captions(["a", "cccc"]), Captions(encode, "cpu", unit=16)(["a", "cccc"])
    for context, mask, x in zip(filled.contexts, filled.masks, out.contexts, strict=True):
        assert context.shape[1] == 16
        assert mask is not None
        assert torch.equal(context[:, : x.shape[1]], x)
        assert not mask[:, x.shape[1] :].any()
    asked[4:] = []
    few = Captions(encode, "cpu", most=400)                      # bytes; "cccc" alone has (1 x 6 + 2 x 5 + 7) x 4 = 92
    few(["a", "bb", "dd d", "e" * 7])
    few(["a"])                                                   # too many are known: it is encoded again
    few(["a"])
    assert asked[4:] == ["a", "bb", "dd d", "e" * 7, "a"]


def test_batches_drawn_by_processes_are_the_same(tmp_path: Path) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 6), tmp_path / "cache", RATE)
    drawer = Drawer(dataset, dataset.clips, DataConfig(mix=0.3, speed=(0.9, 1.1)), "3:test")
    keys = [(step, range(step % 2, 3), 0.3) for step in range(6)]
    with ahead(drawer, iter(keys), 0) as here, ahead(drawer, iter(keys), 2) as there:
        both = list(zip(here, there, strict=True))
    assert len(both) == len(keys)
    for a, b in both:
        assert torch.equal(a.wave, b.wave)
        assert (a.captions, a.seeds) == (b.captions, b.seeds)
    endless = ((step, range(2), 0.3) for step in count())
    with ahead(drawer, endless, 2) as there:                     # as many as are asked for, and then the processes end
        assert [len(x.captions) for x in islice(there, 3)] == [2, 2, 2]


def test_dropout_only_while_training() -> None:
    unet = UNet(UNetConfig(in_channels=2, out_channels=2, channels=(8, 16), attention=(False, False), heads=(1, 1), groups=4,
                           layers_per_block=1, transformers=(None,), context_dims=()))
    x, step = torch.randn(1, 2, 8, 8), torch.tensor([3.0])
    plain = unet.eval()(x, step, Conditioning())
    leave_out(unet, 0.5)
    assert torch.equal(unet.eval()(x, step, Conditioning()), plain)
    first, second = (unet.train()(x, step, Conditioning()) for _ in range(2))
    assert not torch.allclose(first, plain)
    assert not torch.allclose(first, second)


def test_what_is_steady_goes_on_and_a_bark_does_not() -> None:
    rng = np.random.default_rng(0)
    rain = rng.standard_normal(24_000).astype(np.float32)
    bark = rain * (np.arange(24_000) < 8000)
    assert steady(rain, 16_000)
    assert not steady(bark, 16_000)
    assert not steady(rain[:4000], 16_000), "too short to know"
    long = endless(rain, 100_000, 5000, 4000)
    assert len(long) == 100_000
    power = np.square(long.reshape(-1, 400)).mean(axis=1)
    assert power.min() > 0.7
    assert power.max() < 1.4
    assert np.array_equal(long[:11_000], rain[9000:20_000]), "from where it begins on"
    assert np.array_equal(long[20_000:40_000], long[:20_000]), "again after all but the seam"
    saw = endless(np.arange(24_000, dtype=np.float32), 100_000, 0, 4000)
    assert np.abs(np.diff(saw)).max() < 0.02 * np.abs(np.diff(np.resize(np.arange(24_000), 100_000))).max()


@pytest.mark.parametrize("again", [0.75, 0.0])
def test_a_short_steady_clip_fills_the_example_if_clips_may_happen_again(again: float, tmp_path: Path) -> None:
    rain = 0.3 * np.random.default_rng(1).standard_normal(16_000).astype(np.float32)
    soundfile.write(tmp_path / "rain.wav", rain, 16_000)
    (tmp_path / "rain.txt").write_text("rain")
    dataset, _ = prepare(tmp_path, tmp_path / "cache", 16_000)
    drawer = Drawer(dataset, dataset.clips, DataConfig(again=again), "x")
    waves = drawer.batch(0, range(20), 5.0).wave
    quiet = (waves.view(20, -1, 1600).square().mean(dim=2) < 1e-4).float().mean()
    assert float(quiet) == 0 if again else float(quiet) > 0.5
