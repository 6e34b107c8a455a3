"""The script that draws pages and sheets of spectrograms."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from PIL import Image

RATE = 16_000


@pytest.fixture(scope="module")
def page(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("listening_page")


def test_a_folder_becomes_a_page(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
        (tmp_path / f"{name}.txt").write_text("a noise")
    monkeypatch.setattr(sys, "argv", ["listening_page.py", str(tmp_path), "--out", str(tmp_path / "page")])
    page.main()
    text = (tmp_path / "page/index.html").read_text()
    assert text.count("<h2>a noise</h2>") == 1, "sounds of one caption stand side by side"
    assert 'src="../a.wav"' in text
    assert len(list((tmp_path / "page/pictures").iterdir())) == 2


def test_a_sheet_shows_recordings_beside_sounds(page: ModuleType, tmp_path: Path) -> None:
    time = np.arange(5 * RATE) / RATE
    tone, noise = 0.3 * np.sin(2 * np.pi * 1000 * time), 0.3 * np.random.default_rng(1).standard_normal(2 * RATE)
    page.write_sheet(tmp_path / "sheet.png", [("a tone", "somebody, CC0", (tone, RATE), (noise, RATE))] * 3, "Made here.")
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.asarray(image.convert("L"), float)
    left, top = page.LEFT, page.HEAD
    real = pixels[top : top + page.HIGH, left : left + page.WIDE]
    made = pixels[top : top + page.HIGH, left + page.WIDE + page.BETWEEN :][:, : page.WIDE]
    assert real.mean(axis=1).max() > 5 * real.mean(axis=1).min(), "a tone is one bright row"
    assert made[:, : page.WIDE * 2 // 5].std() > 5
    assert made[:, page.WIDE * 2 // 5 + 2 :].std() == 0, "no colours after the end of the sound"
    assert (tmp_path / "sheet.png").stat().st_size < 200_000


def test_the_recording_is_one_that_was_held_out(page: ModuleType, tmp_path: Path) -> None:
    rows = [*(f"a{i}.wav,dog_bark,train,9.0,CC0,x" for i in range(20)), "b.wav,dog_bark,test,1.0,CC0,x",
            "c.wav,dog_bark,valid,3.0,CC-BY-3.0 (it says),y", "d.wav,cow,valid,3.0,CC0,x"]
    (tmp_path / "metadata.csv").write_text("file_name,label,split,duration_s,license,source\n" + "\n".join(rows))
    assert page.recording(tmp_path, "dog_bark") == (tmp_path / "c.wav", "y, CC-BY-3.0")
    with pytest.raises(SystemExit, match="rooster"):
        page.recording(tmp_path, "rooster")
