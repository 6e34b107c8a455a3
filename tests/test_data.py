"""Datasets: every usual folder, every fault told and left out, and examples that depend on nothing but their number."""

import io
import json
import random
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from clips import RATE, folder, sound

from audiogen.errors import DataError
from audiogen.train.config import DataConfig
from audiogen.train.data import inspect, listed, prepare, split
from audiogen.train.examples import Drawer, normal, read_words


def test_metadata_csv(tmp_path: Path) -> None:
    report = inspect(folder(tmp_path, 8))
    assert [c.captions for c in report.clips[:2]] == [("a tone", "a tone somewhere"), ("noise", "noise somewhere")]
    assert report.clips[3].label == "kind3"
    assert not report.faults
    assert dict(report.licences()) == {"CC0": 8}
    assert sum(n for _, n in report.histogram()) == 8
    assert report.hours == pytest.approx(sum(c.length for c in report.clips) / RATE / 3600)


def test_jsonl_texts_and_label_folders(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    folder(lines, 2)
    (lines / "metadata.csv").unlink()
    (lines / "metadata.jsonl").write_text('{"file_name": "0.wav", "text": "a tone"}\n\n{"file_name": "1.wav", "text": "hiss"}\n')
    assert [c.captions for c in listed(lines)] == [("a tone",), ("hiss",)]

    texts = tmp_path / "texts"
    texts.mkdir()
    sf.write(texts / "a.flac", sound(0, 0.5), 44_100)
    (texts / "a.txt").write_text("ein Ton, überall\nsecond wording\n", encoding="utf-8")
    assert listed(texts)[0].captions == ("ein Ton, überall", "second wording")
    assert inspect(texts).clips[0].length == pytest.approx(0.5 * RATE * RATE / 44_100, abs=2), "resampled"

    labels = tmp_path / "labels"
    (labels / "dog_bark").mkdir(parents=True)
    sf.write(labels / "dog_bark" / "1.ogg", np.stack([sound(1, 0.5)] * 2, axis=1), RATE)
    assert (listed(labels)[0].captions, listed(labels)[0].label) == (("dog bark",), "dog_bark")
    assert len(inspect(labels).clips) == 1, "stereo"


def test_every_fault_is_told_and_left_out(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", 4)
    rows = (data / "metadata.csv").read_text().splitlines()
    (data / "empty.wav").write_bytes(b"")
    (data / "text.wav").write_text("this is no sound")
    sf.write(data / "silent.wav", np.zeros(RATE), RATE)
    sf.write(data / "short.wav", sound(0, 0.01), RATE)
    sf.write(data / "loud.wav", np.clip(20 * sound(0, 1.0), -1, 1), RATE)
    sf.write(data / "mute.wav", sound(0, 0.7, 5), RATE)
    sf.write(data / "wordy.wav", sound(0, 0.8, 6), RATE)
    sf.write(tmp_path / "outside.wav", sound(0, 1.0), RATE)
    shutil.copy(data / "0.wav", data / "again.wav")
    rows += [f"{n}.wav,some words,,,," for n in ("empty", "text", "silent", "short", "loud", "again", "gone")]
    rows += ["mute.wav,,,,", f"wordy.wav,{'word ' * 2000},,,", "../outside.wav,words,,,"]
    (data / "metadata.csv").write_text("\n".join(rows))
    report = inspect(data)
    assert report.faults == {
        "broken": ["empty.wav", "text.wav"], "silent": ["silent.wav"], "short": ["short.wav"], "clipped": ["loud.wav"],
        "doubled": ["again.wav"], "missing": ["gone.wav"], "uncaptioned": ["mute.wav"], "wordy": ["wordy.wav"],
        "outside": ["../outside.wav"]}
    assert [c.name for c in report.clips] == ["0.wav", "1.wav", "2.wav", "3.wav", "loud.wav"]
    assert report.left_out == 9


@pytest.mark.parametrize(("write", "words"), [
    (lambda d: None, "holds no sounds"),
    (lambda d: (d / "metadata.csv").write_text("name,words\na,b\n"), "no column 'file_name'"),
    (lambda d: (d / "metadata.csv").write_bytes(b"file_name,text\na.wav,caf\xe9\n"), "not UTF-8"),
    (lambda d: (d / "metadata.jsonl").write_text("{broken\n"), "line 1: not JSON"),
    (lambda d: (d / "metadata.csv").write_text("file_name,text\na.wav,words\n"), "1 sounds are not there"),
    (lambda d: sf.write(d / "a.wav", sound(0, 1.0), RATE), "1 sounds have no caption"),
])
def test_folders_that_cannot_be_used_say_why(tmp_path: Path, write: object, words: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data)                                                  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        prepare(data, tmp_path / "cache", RATE)
    assert not list((tmp_path / "cache").glob(".*")) if (tmp_path / "cache").exists() else True


def test_samples_are_read_once_and_again_when_a_file_changes(tmp_path: Path) -> None:
    data, cache = folder(tmp_path / "data", 4), tmp_path / "cache"
    first, _ = prepare(data, cache, RATE)
    assert np.abs(first.wave(first.clips[0]) - sound(0, 0.3)).max() < 1e-3
    stamp = (cache / "samples.i16").stat().st_mtime_ns
    prepare(data, cache, RATE)
    assert (cache / "samples.i16").stat().st_mtime_ns == stamp
    sf.write(data / "0.wav", sound(1, 1.5, 9), RATE)
    again, _ = prepare(data, cache, RATE)
    assert again.clips[0].length == int(1.5 * RATE)


def test_tar_shards(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    data = tmp_path / "shards"
    data.mkdir()
    with tarfile.open(data / "train-000.tar", "w") as tar:
        for i in range(3):
            buffer = io.BytesIO()
            sf.write(buffer, sound(i, 0.5, i), RATE, format="FLAC")
            for name, payload in ((f"{i}.flac", buffer.getvalue()), (f"{i}.json", json.dumps({"text": f"sound {i}"}).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(payload)
                tar.addfile(entry, io.BytesIO(payload))
    dataset, report = prepare(data, tmp_path / "cache", RATE)
    assert [c.captions for c in dataset.clips] == [("sound 0",), ("sound 1",), ("sound 2",)]
    assert np.abs(dataset.wave(dataset.clips[2]) - sound(2, 0.5)).max() < 1e-3


def test_held_out_clips_stay_apart(tmp_path: Path) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    train, valid = split(dataset, 0.25)
    assert len(valid) == 3
    assert len(train) == 9
    assert not {c.name for c in train} & {c.name for c in valid}
    assert split(dataset, 0.25) == (train, valid)


def test_an_example_is_a_function_of_its_number(tmp_path: Path) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    drawer = Drawer(dataset, dataset.clips, DataConfig(mix=0.3, join=0.3), "7:test")
    whole = drawer.batch(5, range(8), 0.8)
    part = drawer.batch(5, range(4, 8), 0.8)
    assert whole.wave.shape == (8, int(0.8 * RATE))
    assert np.array_equal(whole.wave[4:], part.wave)
    assert whole.captions[4:] == part.captions
    assert np.array_equal(normal(whole.keys(), 3)[4:], normal(part.keys(), 3))
    assert not np.array_equal(whole.wave, drawer.batch(6, range(8), 0.8).wave)
    assert not np.array_equal(whole.wave, Drawer(dataset, dataset.clips, drawer.config, "8:test").batch(5, range(8), 0.8).wave)


def test_levels_and_room(tmp_path: Path) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    wave = Drawer(dataset, dataset.clips, DataConfig(level=(0.5, 0.9)), "1").batch(0, range(32), 3.0).wave
    peaks = wave.abs().amax(dim=1)
    assert float(peaks.min()) > 0.49
    assert float(peaks.max()) < 0.91
    quietest = wave.unfold(1, 800, 800).abs().amax(dim=2).min()
    assert float(quietest) > 0, "no digital silence"


def test_mixed_and_joined_captions(tmp_path: Path) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    mixed = Drawer(dataset, dataset.clips, DataConfig(mix=1.0), "1").batch(0, range(8), 0.5).captions
    joined = Drawer(dataset, dataset.clips, DataConfig(join=1.0), "1").batch(0, range(8), 0.5).captions
    assert all(any(f" {w} " in c for w in ("and", "with", "while")) for c in mixed)
    assert all("then" in c or "followed by" in c for c in joined)


def test_labels_are_balanced_and_reworded(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", 12)
    words = tmp_path / "words.txt"
    words.write_text("# comment\nkind0 3: beeping|a whistle\nkind1 0: \n")
    dataset, _ = prepare(data, tmp_path / "cache", RATE)
    drawer = Drawer(dataset, dataset.clips, DataConfig(words=str(words), words_rate=1.0, balance=1.0), "1")
    captions = [drawer.caption(drawer.pick(rng), rng) for rng in map(random.Random, range(400))]
    share = sum(c in ("beeping", "a whistle") for c in captions) / 400
    assert abs(share - 3 / 5) < 0.08, "three times as often as the two labels without a weight"
    assert not any(c.startswith("noise") for c in captions), "weight 0"
    words.write_text("~ 0.5: the sound of ~|~, again\n" + "".join(f"kind{i}: beeping\n" for i in range(9)))
    drawer = Drawer(dataset, dataset.clips, DataConfig(words=str(words), words_rate=1.0), "1")
    captions = drawer.batch(0, range(200), 0.1).captions
    assert set(captions) == {"beeping", "the sound of beeping", "beeping, again"}
    assert abs(captions.count("beeping") / 200 - 0.5) < 0.12, "half of them are put into a sentence"
    words.write_text("kind0 often: x\n")
    with pytest.raises(DataError, match="line 1"):
        read_words(words)


def test_clips_weigh_within_their_label(tmp_path: Path) -> None:
    """A clip's weight moves its share of its label's draws, and no other label's."""
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    weights = tmp_path / "weights.csv"
    weights.write_text("file_name,weight\n0.wav,6\n4.wav,2\n8.wav,0\n1.wav,0\n5.wav,0\n9.wav,0\nelsewhere.wav,9\n")
    plain = np.diff(Drawer(dataset, dataset.clips, DataConfig(), "1").cumulative, prepend=0)
    drawer = Drawer(dataset, dataset.clips, DataConfig(weights=str(weights)), "1")
    share = dict(zip((c.name for c in dataset.clips), np.diff(drawer.cumulative, prepend=0), strict=True))
    whole = plain[:4].sum() * 3 / 4                              # of one of the four labels
    assert [share[f"{i}.wav"] for i in (0, 4, 8)] == pytest.approx([whole * 6 / 8, whole * 2 / 8, 0])
    assert [share[f"{i}.wav"] for i in (1, 5, 9)] == [0, 0, 0], "a label without a clip that can be drawn"
    assert [share[f"{i}.wav"] for i in (2, 3, 10)] == pytest.approx([plain[2]] * 3), "as they were"
    drawn = Counter(drawer.pick(random.Random(i)).name for i in range(600))
    assert not {"8.wav", "1.wav", "5.wav", "9.wav"} & set(drawn)
    assert abs(drawn["0.wav"] / (drawn["0.wav"] + drawn["4.wav"]) - 3 / 4) < 0.12


@pytest.mark.parametrize(("text", "words"), [
    ("file_name,weight\n0.wav,often\n", "line 2"), ("file_name,weight\n0.wav,1\n1.wav,-1\n", "line 3.*from 0 on"),
    ("file_name,weight\n0.wav,nan\n", "line 2"), ("name,weight\n0.wav,1\n", "line 2"), ("file_name,weight\n0.wav\n", "line 2"),
    ("file_name,weight\n" + "".join(f"{i}.wav,0\n" for i in range(12)), "nothing is left to draw")])
def test_weights_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    dataset, _ = prepare(folder(tmp_path / "data", 12), tmp_path / "cache", RATE)
    path = tmp_path / "weights.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        Drawer(dataset, dataset.clips, DataConfig(weights=str(path)), "1")
    with pytest.raises(DataError, match="cannot be read"):
        Drawer(dataset, dataset.clips, DataConfig(weights=str(tmp_path / "none.csv")), "1")
