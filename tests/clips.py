"""Sounds made up for the tests of training: tones, noise, clicks and plucked tones, a few seconds in all."""

import csv
from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 16_000
NAMES = ("a tone", "noise", "clicks", "a plucked tone")


def sound(kind: int, seconds: float, seed: int = 0) -> np.ndarray:
    """float64 (S,), one of the four NAMES."""
    rng, t = np.random.default_rng(seed), np.arange(int(RATE * seconds)) / RATE
    return [np.sin(2 * np.pi * (220 + 40 * seed) * t), 0.2 * rng.standard_normal(len(t)), 0.8 * (np.arange(len(t)) % 4000 < 40),
            np.sin(2 * np.pi * 330 * t) * np.exp(-4 * t)][kind] * 0.5


def folder(path: Path, n: int = 12) -> Path:
    """A dataset: metadata.csv and n wav files of 0.3 to 2 s."""
    path.mkdir(parents=True, exist_ok=True)
    rows = [("file_name", "text", "captions", "label", "license")]
    for i in range(n):
        sf.write(path / f"{i}.wav", sound(i % 4, 0.3 + 1.7 * i / n, i), RATE)
        rows.append((f"{i}.wav", NAMES[i % 4], f"{NAMES[i % 4]} somewhere", f"kind{i % 4}", "CC0"))
    with open(path / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path
