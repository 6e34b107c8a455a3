"""The commands on recordings and on several takes, as they are installed: what is in the files, and what is said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from conftest import CHECKPOINTS
from PIL import Image

from audiogen import audio
from audiogen.cli.output import Output

TWO = str(CHECKPOINTS / "audioldm2-tiny")
QUICK = ["--model", TWO, "--device", "cpu", "--steps", "2", "--seed", "3"]
AUDIOGEN = Path(sys.executable).with_name("audiogen")


def installed(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AUDIOGEN, *arguments], cwd=folder, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})


def integers(path: Path | str) -> np.ndarray:
    return sf.read(str(path), dtype="int16", always_2d=True)[0]  # (S, C)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_the_integers_outside_a_span_stay(run: Any, kind: str) -> None:
    """From file to file, at every level up to full scale."""
    wave = np.random.default_rng(0).integers(-32768, 32768, (44_100, 2)).astype(np.int16)
    wave[:4, 0] = (-32768, 32767, 16384, -16385)
    sf.write(f"in.{kind}", wave, 44_100, "PCM_16")
    assert run("inpaint", f"in.{kind}", "rain", *QUICK, "--span", "0.3-0.5", "--span", "0.8-0.9", "-o", f"out.{kind}")[0] == 0
    out = integers(f"out.{kind}")
    assert out.shape == wave.shape
    where = (out != wave).any(axis=1).nonzero()[0] / 44_100
    assert (((where >= 0.3) & (where < 0.5)) | ((where >= 0.8) & (where < 0.9))).all()
    assert len(where) > 0.29 * 44_100                            # and inside nearly all are others


def test_wav_and_flac_hold_the_same_integers(run: Any) -> None:
    for kind in ("wav", "flac"):
        assert run("generate", "a dog", *QUICK, "--duration", "0.5", "-o", f"a.{kind}")[0] == 0
    assert np.abs(integers("a.wav")).max() > 100
    assert (integers("a.wav") == integers("a.flac")).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, overwrite: bool) -> None:
    """As when two commands at once make sounds of one name."""
    import torch

    path, other = tmp_path / "a.wav", tmp_path / "a-2.wav"
    path.write_bytes(b"of another command")
    Output("wav", quiet=True, overwrite=overwrite).deliver(path, torch.zeros(100), 16_000, {"prompt": "rain"}, 0.0)
    assert (path.read_bytes() == b"of another command", other.exists()) == (not overwrite, not overwrite)


def test_integers_are_the_nearest() -> None:
    import torch

    values = torch.tensor([-2.0, -1.0, -0.6 / 32768, 0.4 / 32768, 0.6 / 32768, 0.5, 32767 / 32768, 1.0, 2.0])
    assert audio.integers(values, 16).tolist() == [-32768, -32768, -1, 0, 1, 16384, 32767, 32767, 32767]
    every = torch.arange(-32768, 32768)
    assert torch.equal(audio.integers(every / 32768, 16).long(), every)
    some = torch.tensor([-(2**23), -1, 0, 1, 2**23 - 1])
    assert torch.equal(audio.integers(some / 2**23, 24).long(), some * 256)
    some = torch.tensor([-(2**31), -1, 1, 2**31 - 1])
    assert torch.equal(audio.integers(some.double() / 2**31, 32).long(), some)


@pytest.mark.parametrize(("stored", "kind"), [
    ("PCM_U8", "wav"), ("PCM_16", "wav"), ("PCM_24", "wav"), ("PCM_24", "flac"), ("PCM_32", "wav"), ("FLOAT", "wav"),
    ("DOUBLE", "wav")])
def test_a_recording_is_stored_as_finely_as_it_was(run: Any, stored: str, kind: str) -> None:
    """Every sample outside a span comes back exactly, of floats those beyond full scale too; inside nearly none."""
    wave = np.random.default_rng(0).uniform(-1, 1, (16_000, 2)) * (3 if stored in ("FLOAT", "DOUBLE") else 1)
    sf.write(f"in.{kind}", wave, 16_000, stored)
    assert run("inpaint", f"in.{kind}", "rain", *QUICK, "--span", "0.3-0.5", "-o", f"out.{kind}")[0] == 0
    assert sf.info(f"out.{kind}").subtype == ("PCM_16" if stored == "PCM_U8" else stored)
    before, after = (sf.read(f"{name}.{kind}", dtype="float64", always_2d=True)[0] for name in ("in", "out"))
    where = (before != after).any(axis=1).nonzero()[0]
    assert (where.min(), where.max()) >= (4800, 7900)
    assert where.max() < 8000
    assert len(where) > 0.95 * 3200


def test_floats_become_24_bits_in_a_flac_and_16_in_what_has_no_more(run: Any) -> None:
    sf.write("in.wav", np.random.default_rng(0).uniform(-0.9, 0.9, 16_000), 16_000, "FLOAT")
    for kind, stored, step in (("flac", "PCM_24", 2**-24), ("wav", "FLOAT", 0), ("ogg", "VORBIS", None)):
        assert run("inpaint", "in.wav", "rain", *QUICK, "--span", "0.3-0.5", "-o", f"out.{kind}")[0] == 0
        assert sf.info(f"out.{kind}").subtype == stored
        if step is not None:
            assert np.abs(sf.read(f"out.{kind}")[0] - sf.read("in.wav")[0])[:4800].max() <= step


def test_attention_is_drawn_beside_the_sound(tmp_path: Path) -> None:
    words = "a thunderstorm, far away"
    done = installed("generate", words, *QUICK, "--duration", "0.64", "-o", "a.wav", "--show-attention", "--spectrogram",
                     "--json", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-attention.png", "a.png", "a.wav"]
    assert json.loads(done.stdout)["attention"] == "a-attention.png"
    heights = {}
    with Image.open(tmp_path / "a-attention.png") as picture:
        heights[4] = picture.height
        panels = np.asarray(picture.crop((64, 88, 864, picture.height - 40)).convert("L"))
        assert panels[24:96].std() > 10                          # the first word's map has places of its own
    installed("generate", "a bell", *QUICK, "--duration", "0.64", "-o", "b.wav", "--show-attention", folder=tmp_path)
    with Image.open(tmp_path / "b-attention.png") as picture:
        assert heights[4] - picture.height == 2 * 96             # a panel for a word, none for a token or a comma
    done = installed("generate", words, *QUICK, "--duration", "0.64", "-o", "plain.wav", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (integers(tmp_path / "plain.wav") == integers(tmp_path / "a.wav")).all()


def test_a_clap_that_cannot_hear_is_said(run: Any) -> None:
    """The front end of the tiny checkpoint makes windows that its own configuration has no room for."""
    code, _, err = run("generate", "rain", *QUICK, "--duration", "0.5", "--candidates", "2", "-o", "x.wav")
    assert code == 1
    assert "cannot hear" in err
    assert "Traceback" not in err
    assert not Path("x.wav").exists()


def test_where_there_is_no_attention_it_is_said(run: Any) -> None:
    film = ["--model", str(CHECKPOINTS / "audioldm-tiny"), "--device", "cpu", "--steps", "1", "--duration", "0.3"]
    for arguments, words in ((film, "sees a prompt as a whole"), ([*QUICK, "--duration", "30"], "up to 20.48 s"),
                             ([*QUICK, "--candidates", "2"], "of one plain sound")):
        code, _, err = run("generate", "rain", *arguments, "--show-attention", "-o", "x.wav")
        assert code == 1
        assert words in err
        assert len(err.strip().splitlines()) == 1
    assert list(Path().iterdir()) == []
    Path("y-attention.png").write_bytes(b"mine")
    assert "there already" in run("generate", "rain", *QUICK, "--show-attention", "-o", "y.wav")[2]
    assert Path("y-attention.png").read_bytes() == b"mine"


@pytest.mark.parametrize(("arguments", "words"), [
    (["edit", "empty.wav", "rain"], "cannot be read as a sound"), (["edit", "none.wav", "rain"], "there is no such file"),
    (["extend", "text.wav", "rain", "--seconds", "1"], "cannot be read as a sound"),
    (["inpaint", "bare.wav", "rain", "--span", "0-1"], "holds no samples"),
    (["upscale", "nan.wav"], "not finite"), (["edit", "loud.wav", "rain"], "far beyond full scale"),
    (["upscale", "silent.wav"], "The recording is silent"),
    (["generate", "rain", "--candidates", "2", "--model", str(CHECKPOINTS / "audioldm-tiny")], "name one: --ranker")])
def test_odd_recordings_are_told_in_a_sentence(run: Any, arguments: list[str], words: str) -> None:
    Path("empty.wav").touch()
    Path("text.wav").write_text("no sound")
    sf.write("bare.wav", np.zeros((0, 1)), 16_000)
    sf.write("nan.wav", np.array([0.1, np.nan]), 16_000, "FLOAT")
    sf.write("silent.wav", np.zeros(8000), 16_000)
    sf.write("loud.wav", np.array([0.1, 1e20]), 16_000, "FLOAT")
    there = {p.name for p in Path().iterdir()}
    code, out, err = run(*arguments, *(QUICK if "--model" not in arguments else ["--steps", "1", "--duration", "0.3"]))
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert {p.name for p in Path().iterdir()} == there


def test_what_the_model_cannot_give_back_is_said(run: Any) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(24_000)
    sf.write("full.wav", noise, 48_000)
    sf.write("dull.wav", np.sin(np.arange(24_000) / 20) / 9, 48_000)
    for name, told in (("full", True), ("dull", False)):
        code, _, err = run("inpaint", f"{name}.wav", "rain", *QUICK, "--span", "0.1-0.2", "-o", f"{name}-out.wav")
        assert code == 0
        assert ("Note: this model reaches 8000 Hz" in err) == told
    for band, told in (("2000-8000", False), ("2000-12000", True)):
        assert ("Note" in run("inpaint", "full.wav", "rain", *QUICK, "--band", band, "-o", f"{band}.wav")[2]) == told


FORMS = [(1, 1, 16_000), (160, 2, 48_000), (11_025, 6, 11_025), (9600, 1, 192_000)]


@pytest.mark.parametrize(("samples", "channels", "rate"), FORMS)
def test_any_recording_keeps_its_form(run: Any, samples: int, channels: int, rate: int) -> None:
    sf.write("in.wav", 0.1 * np.random.default_rng(0).standard_normal((samples, channels)), rate)
    for name, arguments, length in (("edit", [], samples), ("extend", ["--seconds", "0.25", "--before", "0.1"],
                                    samples + round(0.25 * rate) + round(0.1 * rate))):
        assert run(name, "in.wav", "rain", *arguments, *QUICK, "-o", f"{name}.wav")[0] == 0
        made = sf.info(f"{name}.wav")
        assert (made.frames, made.channels, made.samplerate) == (length, channels, rate)
