"""The stage in which a U-Net learns from its own takes: they are those of `generate`, heard as the ranker hears, and it
does more of what is found fitting, and of nothing else."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import normal as drawn
from sentences import changes, settings
from test_train import assert_same, in_two
from test_train import settings as towers

from audiogen.checkpoint import load_model, read_weights
from audiogen.cli.train import _stages
from audiogen.errors import ConfigError
from audiogen.pipeline import Pipeline
from audiogen.rank import load_ranker
from audiogen.settings import Settings
from audiogen.train.build import build
from audiogen.train.config import TrainConfig, read_config
from audiogen.train.data import prepare
from audiogen.train.examples import Drawer, Examples, normal
from audiogen.train.preference import NOISE, PreferenceStage, Prompts
from audiogen.train.session import Session, run
from audiogen.train.stage import Machine

CAPTIONS = ["a tone", "noise", "clicks", "a tone somewhere"]


@pytest.fixture(scope="module")
def told(encoder: Path) -> list[str]:
    """The settings of a run that ends with this stage."""
    return changes(encoder, "preference.batch=4", "preference.takes=4", "preference.strength=4", "preference.drop=0",
                   "model.defaults.steps=4", "model.defaults.guidance=3", "model.defaults.sampler=dpmpp-2m", "clap.steps=30",
                   "diffusion.steps=150", "diffusion.batch=8", "diffusion.lr=4e-3", "diffusion.ema=0.9",
                   "validate_every=100", "save_every=1000")


@pytest.fixture(scope="module")
def config(told: list[str]) -> TrainConfig:
    return read_config("tiny", None, told)


@pytest.fixture(scope="module")
def trained(data: Path, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a CLAP, and a U-Net that begins to know sounds."""
    out = tmp_path_factory.mktemp("trained") / "run"
    run(Session(data, out, ("clap", "diffusion")), config)
    return out


@pytest.fixture
def stage(trained: Path, config: TrainConfig) -> PreferenceStage:
    made = build("preference", trained, config, Machine("cpu", torch.float32))
    assert isinstance(made, PreferenceStage)
    return made


def unet(stage: PreferenceStage) -> torch.nn.Module:
    return stage.modules["preference"].eval()


def test_takes_are_what_generate_makes(stage: PreferenceStage, trained: Path) -> None:
    keys = torch.tensor([3, 1 << 60, 5, 7])
    z = stage.takes(unet(stage), CAPTIONS, keys)
    pipeline = Pipeline(load_model(trained), "cpu", torch.float32)
    s = pipeline.settle(Settings(duration=0.32))
    denoise = pipeline.denoiser(CAPTIONS, [None] * 4, [None] * 4, s, pipeline.levels(s))
    made = pipeline.finish(denoise, pipeline.levels(s), s, [0] * 4, draw=lambda: normal(keys, *z.shape[1:], salt=NOISE))
    torch.testing.assert_close(z, made.latents, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(z, stage.takes(unet(stage), CAPTIONS[::-1], keys), atol=1e-2), "of other captions"

    ranker = load_ranker(None, pipeline)
    expected = torch.tensor([ranker.score(c, w, 16_000) for c, w in zip(CAPTIONS, made.audio, strict=True)])
    heard = stage.scores(z, CAPTIONS)
    torch.testing.assert_close(heard, expected.float(), rtol=1e-3, atol=2e-3)
    assert not torch.allclose(heard, stage.scores(z, CAPTIONS[::-1]), atol=2e-2)


def test_a_long_take_is_heard_in_windows(stage: PreferenceStage) -> None:
    z = drawn(2, 16, 12, 8, seed=1)                              # 0.96 s: three times what the CLAP hears at once
    parts = [stage.scores(z[:, :, a : a + 4], CAPTIONS[:2]) for a in (0, 4, 8)]
    whole = stage.scores(z, CAPTIONS[:2])
    assert float((whole - torch.stack(parts).mean(dim=0)).abs().max()) < 0.2
    assert not torch.allclose(whole, parts[0], atol=1e-3)


def test_the_departure_is_a_share_of_the_residual(stage: PreferenceStage) -> None:
    """Where the U-Net is what it was, the loss is that of the residual itself, by how much better a take is."""
    z, keys = drawn(4, 16, 4, 8, seed=2), torch.arange(4)
    whole = stage.departure(unet(stage), z, CAPTIONS, torch.ones(4), keys)
    half = stage.departure(unet(stage), z, CAPTIONS, torch.tensor([0.5, -0.5, 0.5, -0.5]), keys)
    torch.testing.assert_close(half, whole / 4)
    equal = stage.departure(unet(stage), z, CAPTIONS, torch.zeros(4), keys)
    assert float(equal.detach()) < 1e-9, "nothing is learnt of equal takes"
    assert float(whole.detach()) > 0.1


def test_what_is_untold_is_held(trained: Path, config: TrainConfig, encoder: Path) -> None:
    without = build("preference", trained, settings(encoder, "preference.drop=1"), Machine("cpu", torch.float32))
    assert isinstance(without, PreferenceStage)
    loss = without.departure(unet(without), drawn(4, 16, 4, 8, seed=2), CAPTIONS, torch.ones(4), torch.arange(4))
    assert float(loss.detach()) < 1e-9


@pytest.mark.parametrize("sign", [1, -1])
def test_it_does_more_of_what_is_found_fitting(stage: PreferenceStage, monkeypatch: pytest.MonkeyPatch, sign: int) -> None:
    """Someone who likes a channel of the latents high, or low, gets that."""
    def liking(z: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return sign * z[:, 3].mean(dim=(1, 2))                   # of equal noise, so that few takes tell

    def liked() -> float:
        return float(liking(stage.takes(unet(stage), CAPTIONS * 8, torch.arange(32) + 10**6), CAPTIONS * 8).mean())

    before = liked()
    monkeypatch.setattr(stage, "scores", liking)
    for step in range(25):
        drawn_at = [100 * step + 10 * i for i in range(4)]
        stage.step([lambda seeds=drawn_at: Examples(torch.empty(4, 0), CAPTIONS, seeds)], lr=4e-3)       # type: ignore[misc]
    assert liked() - before > 0.08, "by chance it moves to either side"


def test_captions_are_drawn_as_often_as_with_their_sounds(data: Path, config: TrainConfig, tmp_path: Path) -> None:
    dataset, _ = prepare(data, tmp_path / "cache", 16_000)
    drawer = Drawer(dataset, dataset.clips, config.data, "0:preference")
    prompts = Prompts(drawer)
    ours, theirs = prompts.batch(1, range(400), 0.3), drawer.batch(1, range(400), 0.01)
    for caption in sorted(set(theirs.captions)):
        assert abs(ours.captions.count(caption) - theirs.captions.count(caption)) < 60, caption
    assert set(ours.captions) == set(theirs.captions)
    assert prompts.batch(1, range(100, 140), 0.3).seeds == ours.seeds[100:140], "whoever draws them"


def test_nothing_but_the_unet_changes(trained: Path, data: Path, config: TrainConfig, tmp_path: Path) -> None:
    run(Session(data, tmp_path / "run", ("preference",), init=trained), config)
    for part in ("autoencoder", "vocoder", "clap", "text/model"):
        assert_same(*(read_weights(x / f"{part}.safetensors") for x in (trained, tmp_path / "run")))
    before, after = (read_weights(x / "unet.safetensors") for x in (trained, tmp_path / "run"))
    assert not all(torch.equal(before[k], after[k]) for k in before)


def test_two_processes_equal_one(trained: Path, data: Path, told: list[str], tmp_path: Path) -> None:
    for name in ("two", "one", "half"):                          # each goes on from the same networks
        shutil.copytree(trained, tmp_path / name, ignore=shutil.ignore_patterns("state", "cache", "log.jsonl", "train.toml"))
    in_two(tmp_path, data, "preference", told)
    for name, more in (("one", []), ("half", ["preference.batch=2"])):
        run(Session(data, tmp_path / name, ("preference",)), read_config("tiny", None, [*told, *more]))
    learnt = (read_weights(tmp_path / n / "unet.safetensors") for n in ("two", "one", "half"))
    two, one, half = (torch.cat([v.flatten().double() for _, v in sorted(weights.items())]) for weights in learnt)
    assert float((two - one).norm()) < 0.1 * float((half - one).norm()), "rounding, not another batch"


def test_who_cannot_hear_cannot_choose(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train one with --stage clap first"):
        run(Session(data, tmp_path / "run", ("preference",)), towers())


def test_it_runs_where_it_is_named(config: TrainConfig) -> None:
    assert "preference" not in _stages("all", config)
    assert _stages("preference,clap", config) == ("clap", "preference")
