"""Build a corpus like the one that `everyday` learnt from, out of the public sources of scripts/corpus_sources.toml.

    python scripts/build_corpus.py RAW CORPUS                        all sources; RAW keeps what was downloaded
    python scripts/build_corpus.py RAW CORPUS --only sonic-pi --only esc10 --limit 50
    python scripts/build_corpus.py --list

CORPUS gets audio/SOURCE/*.flac (mono, 16 kHz, at most 10 s), metadata.csv as `audiogen train` reads it, ATTRIBUTION.md with
the credit that CC-BY and CC-BY-SA ask for, and licenses/SOURCE/ with each source's own notices and lists of authors. Splits
go by a hash of the recording that a clip is from: takes of one recording lie in one split. Run again, it goes on: a source
that is whole in RAW is not fetched again, and a plain download goes on where it broke off.

Needed beside audiogen: git; apt-get and dpkg-deb (any Debian or Ubuntu) for the sources that are Debian packages; ffmpeg for
the .g722 files of Asterisk alone, all else is decoded by soundfile. Labels and captions come from names: nobody listens.

Tried end to end, with `audiogen train --check` of the result: sonic-pi, scratch-media, yaru-sounds, asterisk-en (Debian) and
arcade-kenney (PyPI); git and plain downloads with copies on the same machine (the tests do so), none from its public place.
The 29 sources hold 7,966 of the 10,486 clips that ours has (8.7 of 11.4 hours); nine in ten of those files get the label here
that they have there. Left out: fluid-soundfont-gm (706 clips rendered from a soundfont by fluidsynth: no recordings), kbsim's
typing (put together from single keys), soundfx-library, openclonk, openhv, supertuxkart and others whose licences stand file by
file in lists that each would need a reader of its own, and some fifty small ones.
"""

import argparse
import csv
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from corpus_fetch import BROKEN, NOTICES, SOUNDS, Source, command, fetch

from audiogen import audio
from audiogen.errors import AudioError

HERE = Path(__file__).resolve().parent
RATE, LONGEST = 16_000, 10                                       # Hz, seconds
SHORTEST, SILENT, CLIPPED = 0.1, 2e-3, 0.02                      # seconds, peak, share of samples at full scale
FORMATS = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}
COLUMNS = ("file_name", "text", "label", "license", "captions", "split", "source", "original_name", "duration_s", "group")
Array = np.ndarray


class Labels:
    """What a file is a recording of, by its path: (label, caption, more captions), or None for a name that says nothing."""

    def __init__(self, words: str, wordings: Path = HERE / "everyday_labels.txt"):
        lines = [x for x in wordings.read_text(encoding="utf-8").splitlines() if x.strip() and not x.startswith("#")]
        split = [x.partition(":") for x in lines]
        self.wordings = {head.split()[0]: [w.strip() for w in tail.split("|") if w.strip()] for head, _, tail in split}
        self.words = columns(words)

    def of(self, source: Source, path: str) -> tuple[str, str, list[str]] | None:
        name = as_words(path)
        found = next((row for row in columns(source.rules) if re.search(row[0], slashed(path))), None) \
            or next((row for row in self.words if re.search(row[0], name)), None)
        label, caption = (found[1], found[2]) if found else (self._named(name), "")
        if not label and source.fallback and len(name) > 3:
            label, caption = source.fallback, f"the sound of {name}"
        if label in ("", "-"):
            return None
        known = self.wordings.get(label, [])
        caption = caption or (known[0] if known else label.replace("_", " "))
        return label, caption, [w for w in known[:3] if w != caption]

    def _named(self, name: str) -> str:
        """The label with the most words whose words are all in the name."""
        there = {singular(w) for w in name.split()}
        fits = [x for x in self.wordings if all(singular(w) in there for w in x.split("_"))]
        return max(fits, key=lambda x: (x.count("_"), len(x)), default="")


def columns(text: str) -> list[list[str]]:
    """The lines of a table whose cells stand two spaces or more apart, each with three cells or more."""
    return [[*re.split(r"\s{2,}", line.strip()), "", ""] for line in text.splitlines() if line.strip()]


def slashed(path: str) -> str:
    """What the patterns of a source look at: a path in small letters, `/doors/doorslam_03.ogg`."""
    return f"/{path.lower()}"


def as_words(path: str) -> str:
    """`Doors/DoorSlam_03.ogg` -> `door slam`"""
    stem = re.sub(r"\.\w+$", "", path.rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)).strip().lower()


def singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def number(text: str) -> int:
    """A number that follows from a text, the same everywhere."""
    return int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12], 16)


def split_of(group: str) -> str:
    """train, valid or test: 90, 5 and 5 of a hundred groups."""
    return {0: "test", 1: "valid"}.get(number(f"split {group}") % 20, "train")


def listed(folder: Path, source: Source, labels: Labels, limit: int) -> Iterator[tuple[str, tuple[str, str, list[str]]]]:
    """Paths in `folder` and what they are of, in an order that mixes; no more of a caption and in all than wanted."""
    paths = [p.relative_to(folder).as_posix() for p in folder.rglob("*")
             if p.suffix.lower() in SOUNDS and p.is_file() and not p.is_symlink()]
    seen: Counter[str] = Counter()
    for path in sorted(paths, key=lambda p: number(f"{source.name} {p}")):
        found = None if source.drop and re.search(source.drop, slashed(path)) else labels.of(source, path)
        if found and seen[found[1]] < source.each and seen.total() < min(source.most, limit):
            seen[found[1]] += 1
            yield path, found


def decode(path: Path) -> tuple[Array, int]:
    """(channels, samples) float32 and the rate."""
    if path.suffix.lower() != ".g722":
        wave, rate = audio.read(path, mono=False)
        return wave.numpy(), rate
    with tempfile.TemporaryDirectory() as folder:
        command("ffmpeg", "-v", "error", "-nostdin", "-f", "g722", "-i", str(path.resolve()), "sound.wav", cwd=Path(folder))
        wave, rate = audio.read(Path(folder) / "sound.wav", mono=False)
    return wave.numpy(), rate


def clips(path: Path, pieces: int) -> list[Array] | str:
    """The clips (samples,) to be had of a file, mono at RATE; or the fault that keeps it out."""
    import torch

    try:
        wave, rate = decode(path)
    except (AudioError, subprocess.CalledProcessError):
        return "broken"
    if float((np.abs(wave) >= 0.999).mean()) > CLIPPED:
        return "clipped"
    mono, loud = wave.mean(axis=0), np.sqrt(np.square(wave).mean(axis=1))
    if np.sqrt(np.square(mono).mean()) < 0.35 * loud.max():     # the channels cancel each other
        mono = wave[loud.argmax()]
    mono = audio.resample(torch.from_numpy(mono - mono.mean()), rate, RATE).numpy()
    size = np.abs(mono)
    if float(size.max(initial=0)) < SILENT:
        return "silent"
    heard = np.flatnonzero(size > max(size.max() * 10 ** (-50 / 20), 3e-4))
    mono = mono[max(0, heard[0] - int(0.03 * RATE)) : heard[-1] + int(0.1 * RATE)]
    if len(mono) < SHORTEST * RATE:
        return "short"
    length = LONGEST * RATE
    starts = np.arange(0, max(1, len(mono) - 4 * RATE), length) if len(mono) > 1.15 * length else np.zeros(1, int)
    if len(starts) > pieces:                                     # spread over the file
        starts = starts[np.linspace(0, len(starts) - 1, pieces).round().astype(int)]
    cut = [levelled(mono[s : s + length]) for s in starts]
    return [c for c in cut if np.sqrt(np.square(c).mean()) > 10 ** (-62 / 20)] or "silent"


def levelled(wave: Array) -> Array:
    """A peak over 0.9 lowered to it, one under 0.1 raised to 0.3; fades of 5 ms."""
    peak, fade = max(float(np.abs(wave).max()), 1e-9), min(len(wave) // 4, int(0.005 * RATE))
    wave = wave * (0.9 / peak if peak > 0.9 else 0.3 / peak if SILENT < peak < 0.1 else 1.0)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    wave[:fade] *= ramp
    wave[len(wave) - fade:] *= ramp[::-1]
    return wave.astype(np.float32)


def gather(source: Source, raw: Path, out: Path, labels: Labels, textures: set[str], limit: int, kind: str,
           seen: set[bytes]) -> tuple[list[dict[str, str]], Counter[str]]:
    """Fetch a source and write its clips; its rows of metadata.csv and how many files had which fault."""
    folder = fetch(source, raw / source.name)
    rows, faults = [], Counter[str]()
    for path, (label, caption, more) in listed(folder, source, labels, limit):
        pieces = 12 if label in textures and source.pieces > 1 else source.pieces
        made = clips(folder / path, pieces)
        if isinstance(made, str):
            faults[made] += 1
            continue
        licence = next((row[1] for row in columns(source.licences) if re.search(row[0], slashed(path))), source.licence)
        same = re.search(source.group, slashed(path)) if source.group else None
        group = f"{source.name}:{same.group(1) if same else re.sub(r'[0-9]+', '', path)}"
        for i, wave in enumerate(made):
            sixteen = (wave * 32767).astype(np.int16)
            digest = hashlib.sha256(sixteen.tobytes()).digest()
            if digest in seen:
                faults["doubled"] += 1
                continue
            seen.add(digest)
            name = f"audio/{source.name}/{label.replace('_', '-')}-{number(f'{path} {i}'):012x}.{kind}"
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(out / name, sixteen, RATE, format=FORMATS[kind][0], subtype=FORMATS[kind][1])
            values = (name, caption, label, licence, "|".join(more), split_of(group), source.name, path,
                      f"{len(wave) / RATE:.3f}", group)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    _notices(raw / source.name, out / "licenses" / source.name)
    return rows, faults


def _notices(source: Path, into: Path) -> None:
    """Copies of a source's notices and lists of authors, those that lie beside its sounds too."""
    for path in sorted(p for p in source.rglob("*") if NOTICES.search(p.name) and p.is_file() and not p.is_symlink()):
        name = path.relative_to(source)
        if ".git" not in name.parts and path.suffix.lower() not in SOUNDS and path.stat().st_size < 400_000:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, into / name)


def write(out: Path, rows: list[dict[str, str]], sources: list[Source]) -> None:
    """metadata.csv and ATTRIBUTION.md."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: row["file_name"]))
    lines = ["# Where the recordings are from", "",
             "CC-BY and CC-BY-SA ask for this credit wherever the clips, or a model that names them as its data, are published;",
             "`licenses/` holds each source's own notices. The clips were cut, mixed to mono, resampled to 16 kHz and levelled.",
             "", "| source | clips | hours | licence | from | credit |", "|---|---|---|---|---|---|"]
    for source in sources:
        own = [row for row in rows if row["source"] == source.name]
        hours = sum(float(row["duration_s"]) for row in own) / 3600
        said = "; ".join(f"{name} ({n})" for name, n in Counter(row["license"] for row in own).most_common())
        if own:
            lines.append(f"| {source.name} | {len(own)} | {hours:.2f} | {said} | {source.home} | {source.credit} |")
    (out / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, nargs="?", help="where downloads are kept")
    parser.add_argument("out", type=Path, nargs="?", metavar="corpus", help="the dataset's folder")
    parser.add_argument("--sources", type=Path, default=HERE / "corpus_sources.toml")
    parser.add_argument("--only", action="append", metavar="NAME", help="this source; may be repeated")
    parser.add_argument("--limit", type=int, default=1_000_000, metavar="N", help="files of a source at most")
    parser.add_argument("--format", choices=FORMATS, default="flac")
    parser.add_argument("--list", action="store_true", help="show the sources and stop")
    args = parser.parse_args()
    told = tomllib.loads(args.sources.read_text(encoding="utf-8"))
    sources = [s for s in (Source(**entry) for entry in told["source"]) if not args.only or s.name in args.only]
    if args.list:
        for s in sources:
            print(f"{s.name:22}{s.licence:24}{s.git or s.debian or s.pypi or ', '.join(s.files)}")
        return
    if args.out is None or len(sources) < len(args.only or []):
        parser.error("name RAW and CORPUS" if args.out is None else "no source of that name; see --list")
    labels, textures = Labels(told.get("words", "")), set(told.get("textures", "").split())
    rows, seen, failed = [], set[bytes](), []
    for source in sources:
        try:
            own, faults = gather(source, args.raw, args.out, labels, textures, args.limit, args.format, seen)
        except BROKEN as error:
            failed.append(source.name)
            print(f"{source.name}: not to be had ({error})", file=sys.stderr)
            continue
        rows += own
        print(f"{source.name}: {len(own)} clips{''.join(f', {n} {fault}' for fault, n in faults.items())}", flush=True)
        write(args.out, rows, sources)
    print(f"{len(rows)} clips, {sum(float(r['duration_s']) for r in rows) / 3600:.2f} hours in {args.out}")
    if failed:
        raise SystemExit(f"{len(failed)} sources are missing ({', '.join(failed)}): run it again to go on.")


if __name__ == "__main__":
    main()
