"""A model's own CLAP: its loss, its training over a sentence encoder, and what comes of it."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clips import NAMES, RATE, sound
from conftest import normal
from sentences import STEPS, settings
from test_train import assert_same

from audiogen import rank
from audiogen.checkpoint import load_model, read_model_config
from audiogen.errors import CheckpointError
from audiogen.evaluate.embed import RunClap, load_embedder
from audiogen.files import is_whole
from audiogen.pipeline import Pipeline
from audiogen.train import state
from audiogen.train.augment import coloured, hidden
from audiogen.train.clap import ClapStage
from audiogen.train.config import DataConfig
from audiogen.train.data import prepare
from audiogen.train.examples import BESIDE, Crowd, Drawer, Examples
from audiogen.train.losses import contrastive_loss
from audiogen.train.session import Session, run
from audiogen.train.stage import Stage


def unit(seed: int) -> torch.Tensor:
    return F.normalize(normal(6, 16, seed=seed), dim=1)


def test_the_loss_of_different_captions_is_that_of_clip() -> None:
    audio, text, scale = unit(1), unit(2), torch.tensor(7.0)
    scores = 7 * audio @ text.T
    own = -(scores.log_softmax(dim=1).diag() + scores.log_softmax(dim=0).diag()).mean() / 2
    torch.testing.assert_close(contrastive_loss(audio, text, scale, torch.eye(6) > 0), own)


def test_what_fits_is_not_pushed_away() -> None:
    """Two items of each of three labels: the least loss has one place for both of a label, log 2; else one for each item."""
    pairs = torch.arange(6) // 2
    same, one, each = pairs[:, None] == pairs, torch.eye(16)[pairs], torch.eye(16)[:6]
    scale = torch.tensor(40.0)
    assert float(contrastive_loss(one, one, scale, same)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(contrastive_loss(each, each, scale, same)) > 10
    assert float(contrastive_loss(one, one, scale, torch.eye(6) > 0)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(contrastive_loss(each, each, scale, torch.eye(6) > 0)) < 1e-6


def test_texts_without_a_sound_are_only_what_sounds_are_told_from() -> None:
    audio, text, scale = unit(1), torch.cat([unit(2), unit(3)]), torch.tensor(7.0)
    fits = torch.cat([torch.eye(6), torch.zeros(6, 6)], dim=1)
    scores = 7 * audio @ text.T                                  # (6, 12)
    own = -(scores.log_softmax(dim=1).diag() + scores[:, :6].log_softmax(dim=0).diag()).mean() / 2
    torch.testing.assert_close(contrastive_loss(audio, text, scale, fits), own)
    assert float(own) > float(contrastive_loss(audio, text[:6], scale, fits[:, :6])) + 0.1, "six more to be told from"
    half = torch.cat([torch.eye(6), torch.eye(6) / 3], dim=1)    # a third as well: a quarter of the share
    both = -(0.75 * scores[:, :6] + 0.25 * scores[:, 6:]).diag() + scores.logsumexp(dim=1)
    torch.testing.assert_close(contrastive_loss(audio, text, scale, half), (both.mean() - scores.log_softmax(dim=0)[
        torch.arange(6).repeat(2), torch.arange(12)].mean()) / 2)


def test_how_well_texts_fit_is_the_share_of_their_labels() -> None:
    captions, labels = ["a dog", "rain", "dog, rain", "", "", "a bark"], ["dog", "rain", f"dog{BESIDE}rain", "", "", "dog"]
    stage = SimpleNamespace(machine=SimpleNamespace(device="cpu"))
    examples = Examples(torch.zeros(5, 8), captions, list(range(5)), labels)
    expected = [[1, 0, 0.5, 0, 0, 1], [0, 1, 0.5, 0, 0, 0], [0.5, 0.5, 1, 0, 0, 0.5], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]]
    assert ClapStage.fits(stage, examples).tolist() == expected                        # type: ignore[arg-type]
    unlabelled = replace(examples, captions=[*captions[:5], "a dog"], labels=None)
    again = torch.eye(5, 6)
    again[0, 5] = 1                                              # the same caption once more
    assert ClapStage.fits(stage, unlabelled).tolist() == again.tolist()                # type: ignore[arg-type]


def test_the_crowd_is_each_items_own(data: Path, tmp_path: Path) -> None:
    dataset, _ = prepare(data, tmp_path / "cache", RATE)
    drawer = Drawer(dataset, dataset.clips, DataConfig(), "1")
    crowd, plain = Crowd(drawer, 3), drawer.batch(5, range(4), 0.3)
    whole, parts = crowd.batch(5, range(4), 0.3), [crowd.batch(5, range(i, i + 1), 0.3) for i in range(4)]
    assert torch.equal(whole.wave, plain.wave)
    assert (whole.captions[:4], whole.seeds) == (plain.captions, plain.seeds)
    assert whole.captions[4:] == [c for p in parts for c in p.captions[1:]]
    assert whole.labels is not None
    assert (len(whole.captions), len(whole.labels)) == (16, 16)
    assert len(set(whole.captions[4:])) > 1
    assert crowd.batch(6, range(4), 0.3).captions[4:] != whole.captions[4:]


def test_what_is_hidden_and_coloured() -> None:
    image, keys, floor = 5 + normal(40, 1, 100, 64).abs(), torch.arange(40), -2.0
    out = hidden(image, keys, 0.3, floor)
    gone = out == floor
    assert torch.equal(out[~gone], image[~gone])
    frames, bins = gone.all(dim=3)[:, 0].float().mean(dim=1), gone.all(dim=2)[:, 0].float().mean(dim=1)             # (40,)
    assert torch.equal(gone[:, 0], gone.all(dim=3)[:, 0, :, None] | gone.all(dim=2)[:, 0, None])
    assert 0.2 < float(frames.mean()) < 0.35                     # of two blocks of 0.15 each, that may overlap
    assert 0.2 < float(bins.mean()) < 0.35
    assert float(frames.max()) <= 0.62
    assert torch.equal(hidden(image[7:8], keys[7:8], 0.3, floor), out[7:8]), "whatever the batch"
    gain = coloured(image, keys, 0.5, floor) - image
    torch.testing.assert_close(gain, gain[:, :, :1].expand_as(gain), atol=1e-5, rtol=0)
    assert 0.3 < float(gain.std()) < 0.5
    assert float(gain.diff(n=2, dim=3).abs().median()) < 1e-5, "straight between the bends"
    assert float(coloured(image - 7, keys, 0.5, floor).min()) == floor
    assert torch.equal(coloured(image[7:8], keys[7:8], 0.5, floor), (image + gain)[7:8])


@pytest.fixture(scope="module")
def trained(encoder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run(Session(data, out, ("clap",)), settings(encoder))
    return out


def right(clap: RunClap) -> float:
    """Share of new sounds of which the own name is the nearest of four."""
    names = clap.embed_text(NAMES)
    sounds = [(k, sound(k, 0.5 + 0.1 * i, 100 + i)) for k in range(4) for i in range(4)]
    return float(np.mean([int((names @ clap.embed(wave).clip).argmax()) == k for k, wave in sounds]))


def test_it_tells_sounds_apart(trained: Path, encoder: Path, data: Path, tmp_path: Path) -> None:
    clap = load_embedder(f"clap:{trained}")
    assert isinstance(clap, RunClap)
    assert np.allclose(np.linalg.norm(clap.embed_text(NAMES), axis=1), 1)
    run(Session(data, tmp_path / "run", ("clap",)), settings(encoder, "clap.lr=1e-9"))
    new = load_embedder(f"clap:{tmp_path / 'run'}")
    assert isinstance(new, RunClap)
    assert right(clap) >= 0.75
    assert right(new) <= 0.5, "untrained"


def test_it_is_resumed_to_the_bit(trained: Path, encoder: Path, data: Path, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    out, update = tmp_path / "run", Stage.update

    def stumble(self: Stage, parts: int) -> torch.Tensor:
        if self.updates == 55:                                   # five steps after the last save
            raise MemoryError
        return update(self, parts)

    monkeypatch.setattr(Stage, "update", stumble)
    with pytest.raises(MemoryError):
        run(Session(data, out, ("clap",)), settings(encoder))
    monkeypatch.setattr(Stage, "update", update)
    run(Session(data, out, ("clap",), resume=True), settings(encoder))
    ours, theirs = state.load(out, "clap"), state.load(trained, "clap")
    assert ours is not None
    assert theirs is not None
    assert_same(ours["stage"], theirs["stage"])
    assert ours["stage"]["updates"] == STEPS


def test_a_model_with_it_ranks_by_itself(trained: Path, tmp_path: Path) -> None:
    config = read_model_config(trained)
    assert config.clap is not None
    assert (config.clap.channels, config.clap.seconds, config.clap.embedding) == ((16, 32), 0.32, 64)
    ranker = rank.load_ranker(None, Pipeline(load_model(trained), "cpu", torch.float32))
    assert ranker.name == "CLAP run"
    assert isinstance(ranker, rank.ByEmbedding)
    waves = [torch.from_numpy(sound(k, 0.6, 9)) for k in range(4)]
    assert rank.best([ranker.score("noise", wave.float(), RATE) for wave in waves]) == 1
    assert is_whole(trained)
    part = trained / "clap.safetensors"
    part.rename(tmp_path / "aside")
    assert not is_whole(trained)
    with pytest.raises(CheckpointError, match=r"clap.safetensors is not there"):
        RunClap(trained)
    (tmp_path / "aside").rename(part)


def test_without_it_a_tagger_ranks(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = shutil.copytree(trained, tmp_path / "bare", ignore=shutil.ignore_patterns("clap.safetensors", "cache", "state"))
    asked: list[str] = []

    def load(name: str, device: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(title=name)

    monkeypatch.setattr(rank, "load_embedder", load)
    ranker = rank.load_ranker(None, Pipeline(load_model(bare), "cpu", torch.float32))
    assert isinstance(ranker, rank.ByClasses)
    assert asked == ["yamnet"]
    rank.load_ranker(None, Pipeline(load_model(trained), "cpu", torch.float32))
    assert asked == ["yamnet", f"clap:{trained}"]


def test_fine_tuning_takes_it_along(trained: Path, encoder: Path, data: Path, tmp_path: Path) -> None:
    run(Session(data, tmp_path / "run", ("clap",), init=trained), settings(encoder, "clap.steps=1", "clap.lr=1e-9"))
    tuned, before = load_embedder(f"clap:{tmp_path / 'run'}"), load_embedder(f"clap:{trained}")
    assert isinstance(tuned, RunClap)
    assert isinstance(before, RunClap)
    assert read_model_config(tmp_path / "run").clap == read_model_config(trained).clap
    np.testing.assert_allclose(tuned.embed_text(NAMES), before.embed_text(NAMES), atol=1e-5)
    np.testing.assert_allclose(tuned.embed(sound(1, 0.5)).clip, before.embed(sound(1, 0.5)).clip, atol=1e-5)
