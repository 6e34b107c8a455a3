"""Drafts: which goes on, that what is known is not asked again, and how they show in recipes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import normal, tiny
from torch import Tensor

import audiogen
from audiogen import drafts
from audiogen.audio import read_recipe
from audiogen.checkpoint import read_model_config, save_config
from audiogen.diffusion.sampling import item_noise, sample
from audiogen.edit import control, paint
from audiogen.errors import SettingsError
from audiogen.evaluate.embed import load_embedder
from audiogen.hub import packaged
from audiogen.mel import Mel, silence, to_image
from audiogen.pipeline import Pipeline
from audiogen.recipe import draft_seed, recipe_of
from audiogen.settings import SAMPLERS, Settings

QUICK = ("--duration", "0.64", "--steps", "4", "--device", "cpu")
FAST = Settings(duration=0.64, steps=4)

pytestmark = pytest.mark.skipif(packaged("everyday") is None, reason="the default model is missing")


@pytest.fixture(scope="module")
def everyday() -> Pipeline:
    return audiogen.load("everyday", device="cpu", dtype="float32")


def planted(scores: list[list[float]], enough: float, count: int = 4) -> tuple[list[int], list[float], int]:
    """What is chosen where draft k of each item scores scores[k]: which, the guesses that were kept, and drafts begun."""
    begun = []

    def begin(k: int) -> list[Tensor]:
        begun.append(k)
        return [torch.tensor(scores[k])[:, None, None, None] + 10.0 * i for i in (1, 0)]

    which, guesses = drafts.choose(begin, lambda guess: guess[:, 0, 0, 0], count, enough)
    assert torch.equal(guesses[0], guesses[1] + 10)              # of one draft, all of them
    return which, guesses[1].flatten().tolist(), len(begun)


def test_the_first_that_fits_goes_on_and_else_the_best() -> None:
    assert planted([[0.5], [0.9]], 0.4) == ([0], [0.5], 1)
    assert planted([[0.25], [0.5], [0.9]], 0.4) == ([1], [0.5], 2)
    assert planted([[0.25], [0.125], [0.375], [0.25]], 0.4) == ([2], [0.375], 4)
    assert planted([[0.25], [0.125], [0.375], [0.25]], 0.4, count=2) == ([0], [0.25], 2)


def test_an_item_is_chosen_as_if_it_were_alone() -> None:
    scores = [[0.25, 0.5, 0.125], [0.5, 0.75, 0.25], [0.75, 1.0, 0.375], [1.0, 1.0, 0.25]]
    which, kept, begun = planted(scores, 0.4)
    assert (which, kept, begun) == ([1, 0, 2], [0.5, 0.5, 0.375], 4)
    for i in range(3):
        assert planted([[s[i]] for s in scores], 0.4)[:2] == ([which[i]], [kept[i]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_is_told_what_it_knows_comes_to_the_same(name: str) -> None:
    sigmas = torch.tensor([80.0, 20.0, 8.0, 3.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    asked: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append(float(sigma))
        return torch.tanh(x / (1 + sigma**2)).float()

    def walk(f: Any, levels: Tensor) -> Tensor:
        draw = item_noise([3], (2, 4, 4))
        return sample(name, f, draw() * 80, levels, eta=0.5, noise=draw, jumps=(8.0, 0.3))

    plain, whole, guesses = walk(denoise, sigmas), len(asked), []
    walk(drafts.kept(denoise, guesses), sigmas[:4])              # the steps of a draft
    asked.clear()
    assert torch.equal(walk(drafts.known(denoise, guesses[:3]), sigmas), plain)
    assert len(asked) == whole - 3
    assert not torch.equal(walk(drafts.known(denoise, [g + 0.1 for g in guesses[:3]]), sigmas), plain)


def test_a_draft_ends_where_it_is_compared(everyday: Pipeline) -> None:
    for steps, count in ((10, 4), (9, 4), (4, 3), (2, 2), (1, 1)):
        levels = everyday.levels(everyday.settle(Settings(steps=steps)))
        head = drafts.beginning(levels)
        assert len(head.steps) == count
        assert torch.equal(head.sigmas, levels.sigmas[: count + 1])


def test_a_mel_fits_as_the_clap_hears_its_sound(everyday: Pipeline) -> None:
    clap, mel = load_embedder("clap:everyday"), everyday.config.mel
    rate, frames = mel.sample_rate, round(2.56 * mel.sample_rate / mel.hop)
    text = torch.from_numpy(clap.embed_text(["a dog barking"])[0])                     # type: ignore[attr-defined]
    film = everyday.condition(["a dog barking"], [None], [None], False)[0].film
    assert film is not None
    fits = []
    for seconds, freq in ((2.56, 0.05), (1.28, 0.05), (2.56, 0.2)):
        n = int(seconds * rate)
        wave = 0.7 * torch.sin(freq * torch.arange(n)) * torch.linspace(1, 0, n)       # of the peak that it hears
        image = to_image(Mel(mel)(wave[None]), mel, 1)
        assert everyday.model.clap is not None
        fits.append(float(drafts.fit(everyday.model.clap, image, film, frames, silence(mel))))
        assert abs(fits[-1] - float(text @ clap.embed(wave.numpy()).clip)) < 2e-3      # its end is cut or padded otherwise
    assert abs(fits[0] - fits[2]) > 2e-2


def test_what_goes_on_is_the_sound_of_its_own_noise(everyday: Pipeline) -> None:
    prompts, seeds = ["a dog barking", "a bell", "rain"], [1, 2, 3]
    made = everyday.generate(prompts, FAST, seeds, drafts=3)
    assert made.seeds == seeds
    assert len(set(made.drafts)) > 1                             # or these seeds tell nothing
    for i, (prompt, seed, k) in enumerate(zip(prompts, seeds, made.drafts, strict=True)):
        own = everyday.generate(prompt, FAST, [draft_seed(seed, k)], drafts=1)
        assert torch.equal(own.audio[0], made.audio[i])
        assert own.drafts == []
        told = everyday.generate(prompt, FAST, [seed], drafts=3, chosen=[k])
        assert (torch.equal(told.audio[0], made.audio[i]), told.drafts) == (True, [k])
        assert not torch.equal(everyday.generate(prompt, FAST, [seed], chosen=[k + 1]).audio[0], made.audio[i])


def test_a_batch_chooses_as_its_items_do(everyday: Pipeline) -> None:
    prompts, seeds = ["a dog barking", "a bell", "rain"], [1, 2, 3]
    alone = everyday.generate(prompts, FAST, seeds, drafts=3)
    settings = everyday.settle(replace(FAST, drafts=3))
    levels = everyday.levels(settings)
    none: list[str | None] = [None] * 3
    denoise = everyday.denoiser(prompts, none, none, settings, levels)
    which, guesses = everyday._choose(denoise, levels, settings, (prompts, none, none), seeds)
    assert which == alone.drafts
    assert len(guesses) == 3                                     # at levels 84, 8 and 0.3
    assert guesses[0].shape == (3, *everyday.latent_shape(settings))


def test_edits_timelines_and_models_without_a_clap_have_one(everyday: Pipeline) -> None:
    order = paint.Order("rain", FAST, 3)
    assert control.blend(everyday, order, "a bell").settings.drafts == 1
    assert paint.edit(everyday, 0.1 * normal(1, 8000), 16_000, paint.Order("rain", Settings(steps=2))).settings.drafts == 1
    timed = everyday.generate("0-0.4: rain; 0.3-0.6: a bell", replace(FAST, duration=None, timeline=True, drafts=3))
    assert (timed.settings.drafts, timed.drafts) == (1, [])
    pipe = tiny("audioldm-tiny")
    assert pipe.generate("rain", duration=0.32, steps=1).settings.drafts == 1
    with pytest.raises(SettingsError, match="no CLAP of its own"):
        pipe.generate("rain", duration=0.32, steps=1, drafts=2)


def test_a_file_says_which_draft_it_is_and_makes_it_again(run: Any) -> None:
    first = json.loads(run("generate", "a camera clicks", *QUICK, "--drafts", "3", "--seed", "0", "-o", "a.wav", "--json")[1])
    assert first["drafts"] == 3
    assert first["draft"] > 0                                    # or this seed tells nothing
    assert read_recipe(Path("a.wav"))["draft"] == first["draft"]
    run("generate", "--like", "a.wav", "--device", "cpu", "-o", "b.wav")
    assert Path("b.wav").read_bytes() == Path("a.wav").read_bytes()
    finer = json.loads(run("generate", "--like", "a.wav", "--steps", "5", "-o", "c.wav", "--json")[1])
    assert finer["draft"] == first["draft"]                      # the same noise, whatever the new settings would choose
    other = json.loads(run("generate", "--like", "a.wav", "--drafts", "1", "-o", "d.wav", "--json")[1])
    assert (other["drafts"], "draft" in other) == (1, False)
    assert Path("d.wav").read_bytes() != Path("a.wav").read_bytes()
    run("generate", "--variation-of", "a.wav", "--amount", "0", "-o", "e.wav")
    assert (soundfile.read("e.wav")[0] == soundfile.read("a.wav")[0]).all()          # whatever their tags


def test_a_run_without_a_clap_has_one_until_it_has(tmp_path: Path) -> None:
    source, folder = packaged("everyday"), tmp_path / "run"
    assert source is not None
    shutil.copytree(source, folder)
    config = replace(read_model_config(source), defaults=replace(read_model_config(source).defaults, drafts=2, fits=1.0))
    save_config(folder, config)
    made = audiogen.load(str(folder), device="cpu").generate("a bell", FAST, seed=2)
    (folder / "clap.safetensors").unlink()
    bare = audiogen.load(str(folder), device="cpu").generate("a bell", FAST, seed=2)
    assert (made.settings.drafts, bare.settings.drafts, bare.drafts) == (2, 1, [])
    assert read_model_config(folder).defaults.drafts == 2        # what a run goes on to save


def test_recipes_of_before_there_were_drafts_have_one() -> None:
    old = recipe_of({"prompt": "rain", "seed": 3, "model": "everyday"}, "x.wav")
    assert (old.settings.drafts, old.draft, old.settings.slow) == (1, None, 1.0)
    told = recipe_of({"prompt": "rain", "seed": 3, "model": "everyday", "drafts": 2, "draft": 1}, "x.wav")
    assert (told.of(3).draft, told.of(4).draft) == (1, None)


def test_a_sound_of_one_draft_is_made_again_byte_for_byte(run: Any) -> None:
    run("generate", "rain", *QUICK, "--drafts", "1", "--seed", "5", "-o", "a.wav")
    assert "draft" not in read_recipe(Path("a.wav"))
    run("generate", "--like", "a.wav", "--device", "cpu", "-o", "b.wav")
    assert Path("b.wav").read_bytes() == Path("a.wav").read_bytes()


def test_a_batch_makes_what_generate_makes(run: Any) -> None:
    Path("list.txt").write_text("a camera clicks\n")
    code, _, _ = run("batch", "list.txt", "-o", "out", *QUICK, "--drafts", "3")
    entry = json.loads(Path("out/manifest.jsonl").read_text())
    run("generate", "a camera clicks", *QUICK, "--drafts", "3", "--seed", entry["seed"], "-o", "a.wav")
    recipe = read_recipe(Path("a.wav"))
    assert (code, entry["drafts"], entry["draft"]) == (0, 3, recipe["draft"])
    assert read_recipe(Path("out") / entry["file"])["draft"] == recipe["draft"]
    code, _, err = run("generate", "rain", "--drafts", "0")
    assert (code, err.count("\n")) == (1, 1)
    assert "0 drafts" in err
