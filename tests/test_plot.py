"""Pictures of sounds: what sounds where is where it is drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audiogen import plot
from audiogen.errors import AudioError

RATE = 16_000


def tone(hertz: float, seconds: float, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)


def test_a_full_scale_tone_is_near_nought_decibels_on_its_row() -> None:
    for hertz in (300, 1000, 5000):
        picture = plot.spectrogram(tone(hertz, 1.0, level=1.0), RATE, columns=100, rows=200)
        row = int(picture[:, 50].argmax())
        expected = 200 - float(plot.mel(hertz) / plot.mel(RATE / 2)) * 201
        assert abs(row - expected) <= 2
        assert picture[row, 50] == pytest.approx(0, abs=8)     # a row averages its band
        assert picture[[20, 190] if hertz == 1000 else [100, 190], 50].max() < -60


def test_a_click_is_in_its_column_and_a_short_sound_fills_the_width() -> None:
    click = np.zeros(2 * RATE)
    click[RATE // 2] = 1
    picture = plot.spectrogram(click, RATE, columns=400, rows=50)
    loud = picture.max(axis=0) > -60
    assert loud[98:103].all()
    assert not loud[:90].any()
    assert not loud[110:].any()
    short = plot.spectrogram(tone(1000, 0.005), RATE, columns=400, rows=50)
    assert short.shape == (50, 400)
    assert np.isfinite(short).all()


def test_colours_grow_lighter_with_the_level() -> None:
    shades = plot.colour(np.linspace(-0.5, 1.5, 64)[None]).astype(float)[0].sum(axis=1)
    assert (np.diff(shades) >= 0).all()
    assert shades[0] < 60
    assert shades[-1] > 650


def test_the_envelope_follows_the_wave() -> None:
    shape = plot.envelope(np.concatenate([np.zeros(500), np.full(500, 0.9), np.full(500, -0.9)]), columns=30, rows=21)
    inked = shape[..., 0] < 128                                  # (rows, columns)
    assert inked.any(axis=0).all()
    assert inked[:, 15].argmax() < 5
    assert inked[:, 25].argmax() > 15


@pytest.mark.parametrize(("seconds", "rate"), [(1 / RATE, RATE), (0.05, RATE), (7.3, 44_100), (130.0, 8_000)])
def test_any_length_and_rate_makes_one_picture(tmp_path: Path, seconds: float, rate: int) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(max(1, int(seconds * rate)))
    plot.write_spectrogram(tmp_path / "a.png", sound, rate, title="a very long title " * 20)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == plot.LEFT + plot.WIDTH + plot.RIGHT
        assert len(set(picture.crop((plot.LEFT, 100, plot.LEFT + plot.WIDTH, 300)).tobytes())) >= 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_silence_is_dark_and_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    plot.write_spectrogram(tmp_path / "a.png", np.zeros(RATE), RATE)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture.crop((plot.LEFT, 100, plot.LEFT + plot.WIDTH, 300))).max() < 32
    with pytest.raises(AudioError, match="mono sound"):
        plot.write_spectrogram(tmp_path / "b.png", np.zeros(0), RATE)
    with pytest.raises(AudioError, match="cannot be written"):
        plot.write_spectrogram(tmp_path / "none" / "b.png", np.zeros(9), RATE)


def test_a_page_escapes_its_words_and_stands_alone(tmp_path: Path) -> None:
    plot.write_page(tmp_path / "index.html", "A & B", [("<rain>", [plot.Sound("one", "a b#.wav", "p/1.png")])])
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;rain&gt;" in page
    assert 'src="a%20b%23.wav"' in page
    assert "http" not in page
    assert "<script" not in page
