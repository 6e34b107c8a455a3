"""A page of a folder's sounds to look at and listen to: spectrograms, captions and players.

    python scripts/listening_page.py SOUNDS [--out PAGE_FOLDER] [--title TITLE]
    python scripts/listening_page.py --sheet spectrograms.png --model everyday --recordings CORPUS [--seed N]

Captions come from the sounds' own recipes, a text file beside them, or metadata.csv; sounds of one caption (several
seeds) stand side by side. The page holds no script and refers to the sounds by relative paths.

A sheet is one PNG: for a dozen prompts, a recording of the corpus that no training saw (the first of its label by a hash,
where its metadata.csv names splits), and beside it what the model makes of the prompt, by one seed for all, not chosen.
"""

import argparse
import csv
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audiogen.evaluate.clips import find_clips, read
from audiogen.plot import (
    INK,
    PALE,
    PAPER,
    QUIETEST,
    RANGE,
    Sound,
    colour,
    mel,
    spectrogram,
    write_page,
    write_spectrogram,
)

PROMPTS = {
    "dog_bark": "a dog barking", "rooster": "a rooster crowing", "rain": "rain falling", "fire": "a fire crackling",
    "sea_waves": "waves on a beach", "thunder": "thunder rumbling", "helicopter": "a helicopter flying overhead",
    "clock_tick": "a clock ticking", "footsteps": "someone walking", "piano": "a piano",
    "saxophone": "someone plays the saxophone", "speech_female": "a woman speaking"}
WIDE, HIGH, SECONDS = 300, 108, 5                                # of a spectrogram: pixels, and the time that it shows
LEFT, BETWEEN, APART, HEAD, FOOT = 52, 8, 26, 40, 34             # pixels: axis, of a pair, of pairs, titles, time
SHADES = 96                                                      # colours of the PNG: fewer make it smaller


def write_listening_page(sounds: Path, out: Path, title: str) -> None:
    """index.html and pictures/ of a folder's sounds."""
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Sound]] = {}
    for i, clip in enumerate(find_clips(sounds)):
        picture = out / "pictures" / f"{i:04d}.png"
        write_spectrogram(picture, *read(clip.path), title=clip.caption or clip.name)
        sound = Sound(clip.name, os.path.relpath(clip.path, out), picture.relative_to(out).as_posix())
        rows.setdefault(clip.caption or clip.name, []).append(sound)
    write_page(out / "index.html", title, list(rows.items()))


def recording(corpus: Path, label: str) -> tuple[Path, str]:
    """A recording of a label, held out and two seconds long or more where there is one, and whose it is."""
    with open(corpus / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["label"] == label]
    if not rows:
        raise SystemExit(f"{corpus} holds no recording of {label}.")

    def worse(row: dict[str, str]) -> tuple[bool, bool, str]:
        return (row.get("split", "train") == "train", float(row.get("duration_s") or 0) < 2,
                hashlib.sha256(row["file_name"].encode()).hexdigest())

    best = min(rows, key=worse)
    return corpus / best["file_name"], ", ".join(filter(None, (best.get("source"), best.get("license", "").split(" (")[0])))


def picture(sound: np.ndarray, rate: int) -> Any:
    """The spectrogram of the first seconds as an image; paper where the sound has ended."""
    from PIL import Image

    sound = np.clip(sound[: SECONDS * rate], -1, 1)
    columns = max(1, min(WIDE, round(len(sound) / rate * WIDE / SECONDS)))
    decibels = spectrogram(sound, rate, columns, HIGH)
    image = Image.new("RGB", (WIDE, HIGH), (236, 234, 241))
    image.paste(Image.fromarray(colour((decibels - max(float(decibels.max()), QUIETEST)) / RANGE + 1)), (0, 0))
    return image


def write_sheet(path: Path, pairs: list[tuple[str, str, tuple[np.ndarray, int], tuple[np.ndarray, int]]], said: str) -> None:
    """A PNG of (prompt, whose recording, recording, generated), two pairs a row; `said` stands at its foot."""
    from PIL import Image, ImageDraw, ImageFont

    pair, row, rows = 2 * WIDE + BETWEEN, HEAD + HIGH + 8, -(-len(pairs) // 2)
    canvas = Image.new("RGB", (LEFT + 2 * pair + APART + 12, rows * row + FOOT), PAPER)
    draw, small, large = ImageDraw.Draw(canvas), ImageFont.load_default(11), ImageFont.load_default(14)
    for i, (prompt, whose, real, made) in enumerate(pairs):
        x, y = LEFT + (i % 2) * (pair + APART), (i // 2) * row + HEAD
        canvas.paste(picture(*real), (x, y))
        canvas.paste(picture(*made), (x + WIDE + BETWEEN, y))
        draw.text((x, y - 19), prompt, INK, large, anchor="ls")
        draw.text((x, y - 5), f"recording ({whose})", PALE, small, anchor="ls")
        draw.text((x + WIDE + BETWEEN, y - 5), "generated", PALE, small, anchor="ls")
        rate = min(real[1], made[1])
        for hertz in (250, 1000, 4000) if i % 2 == 0 else ():
            at = y + HIGH * (1 - float(mel(hertz) / mel(rate / 2)))
            draw.line((x - 5, at, x - 1, at), PALE)
            draw.text((x - 8, at), f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz", INK, small, anchor="rm")
    bottom = (rows - 1) * row + HEAD + HIGH
    for x in (LEFT + k * (pair + APART) + j * (WIDE + BETWEEN) for k in (0, 1) for j in (0, 1)):
        for second in range(SECONDS + 1):
            draw.line((x + second * WIDE / SECONDS, bottom, x + second * WIDE / SECONDS, bottom + 4), PALE)
            if second < SECONDS:                                 # the last would touch the next picture's first
                draw.text((x + second * WIDE / SECONDS, bottom + 6), f"{second}", INK, small, anchor="mt")
    draw.text((LEFT, bottom + 36), f"{said}  Seconds below; 80 dB from black to the brightest.", PALE, small, anchor="ls")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(SHADES, dither=Image.Dither.NONE).save(path, optimize=True)


def sheet(path: Path, model: str, corpus: Path, seed: int) -> None:
    """Make the sounds, and write the sheet of them."""
    from audiogen import hub

    found = {label: recording(corpus, label) for label in PROMPTS}
    pipeline, pairs = hub.load(model), []
    for label, prompt in PROMPTS.items():
        made = pipeline.generate([prompt], seeds=[seed])
        pairs.append((prompt, found[label][1], read(found[label][0]), (made.audio[0].numpy(), made.sample_rate)))
    write_sheet(path, pairs, f"Generated by {pipeline.model.name} as by default, seed {seed}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, help="where index.html and pictures/ go (default: beside the sounds)")
    parser.add_argument("--title", default="Sounds")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="one picture of recordings beside generated sounds")
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--recordings", type=Path, metavar="CORPUS", help="a dataset with labels, for --sheet")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.sheet is None) == (args.sounds is None) or (args.sheet is None) != (args.recordings is None):
        parser.error("name a folder of sounds, or --sheet PNG with --recordings CORPUS")
    if args.sheet is not None:
        sheet(args.sheet, args.model, args.recordings, args.seed)
        print(f"{args.sheet}, {args.sheet.stat().st_size / 1000:.0f} KB")
        return
    out = args.out or args.sounds
    write_listening_page(args.sounds, out, args.title)
    print(out / "index.html")


if __name__ == "__main__":
    main()
