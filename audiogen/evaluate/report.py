"""Compare a folder of sounds with another: figures named with the network that heard them, JSON and a page."""

import html
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import audiogen
from audiogen.errors import DataError
from audiogen.evaluate import metrics
from audiogen.evaluate.clips import Clip, pair, read, silent
from audiogen.evaluate.embed import Embedder, Embedding, TextEmbedder
from audiogen.plot import Sound, write_page, write_spectrogram

Watch = Callable[[int, int], None]                               # (done, total)


@dataclass(frozen=True)
class Figure:
    """One line of a report: `n` says of how many sounds, pairs or classes, `better` which way is good."""

    name: str
    value: float
    better: str                                                  # "lower" | "higher" | ""
    n: str


@dataclass(frozen=True)
class Heard:
    """A set of sounds as an embedder heard it."""

    clips: list[Clip]
    embeddings: list[Embedding]
    seconds: float
    silent: list[str]                                            # names

    @property
    def windows(self) -> list[metrics.Array]:
        return [e.frames for e in self.embeddings]

    def logits(self) -> metrics.Array:
        """(n, K), of each sound the mean over its windows"""
        return np.stack([np.asarray(e.logits).mean(axis=0) for e in self.embeddings])


@dataclass
class Report:
    """What was compared, how, and the figures; `to_json` is report.json."""

    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    embeddings: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    version: str = audiogen.__version__

    def add(self, name: str, value: float, better: str, n: str) -> None:
        self.figures.append(Figure(name, value, better, n))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def hear(clips: list[Clip], embedder: Embedder, watch: Watch) -> Heard:
    """Embed every clip. Raises AudioError for a file that is no sound, DataError if all are silent.

    Nothing is left out: a broken or silent sound of a model is a fault of the model, so silence counts and is named.
    """
    embeddings, seconds, quiet = [], 0.0, []
    for i, clip in enumerate(clips):
        sound, _ = read(clip.path, embedder.rate)
        if silent(sound):
            quiet.append(clip.name)
        seconds += len(sound) / embedder.rate
        embeddings.append(embedder.embed(sound))
        watch(i + 1, len(clips))
    if len(quiet) == len(clips):
        raise DataError(f"Every sound is silent, from {clips[0].path} on; there is nothing to compare.")
    return Heard(clips, embeddings, seconds, quiet)


def compare(report: Report, generated: Heard, reference: Heard, embedder: Embedder, *, label: str = "generated",
            seed: int = 0) -> None:
    """Add every figure that this embedder can give of `generated` (called `label`) against `reference`."""
    which = "" if label == "generated" else f", {label}"
    a, b = reference.windows, generated.windows
    if min(len(a), len(b)) < 2:
        raise DataError(f"A comparison needs two sounds or more on each side; found {len(b)} {label} and {len(a)} "
                        "of reference.")
    width = a[0].shape[1]
    windows = {"reference": sum(map(len, a)), label: sum(map(len, b))}
    n = f"{len(b)} sounds against {len(a)}"
    pairs = [clip.name for clip in generated.clips] == [clip.name for clip in reference.clips]
    report.add(f"Fréchet ({embedder.title}){which}", metrics.frechet_distance(np.concatenate(b), np.concatenate(a)),
               "lower", f"{n}, {windows[label]} and {windows['reference']} windows")
    if min(windows.values()) <= width:
        report.note(f"Fréchet ({embedder.title}): fewer windows than its {width} dimensions; compare it only with "
                    "figures of as many sounds.")
    if min(len(a), len(b)) >= 8:
        report.add(f"Fréchet, infinite sounds ({embedder.title}){which}",
                   metrics.frechet_infinite(b, a, seed=seed, pairs=pairs), "lower", f"{n}, extrapolated in 1/n over 8 subsets")
    if embedder.classes:
        _classes(report, generated, reference, embedder, which, seed)
    if isinstance(embedder, TextEmbedder):
        _clap(report, generated, embedder, which)
    for name, heard in (("reference", reference), (label, generated)):
        report.sets[name] = {"sounds": len(heard.clips), "seconds": round(heard.seconds, 2), "silent": heard.silent}
        if heard.silent:
            report.note(f"{len(heard.silent)} of the {len(heard.clips)} {name} sounds are silent "
                        f"(first: {heard.silent[0]}); they count.")
    known = {e["name"]: e for e in report.embeddings}
    if embedder.name not in known:
        report.embeddings.append({
            "name": embedder.name, "title": embedder.title, "dimensions": width, "windows": windows,
            "resampling": f"mixed to mono, to {embedder.rate} Hz by a windowed sinc (torchaudio)"})
    else:
        known[embedder.name]["windows"].update(windows)


def _classes(report: Report, generated: Heard, reference: Heard, embedder: Embedder, which: str, seed: int) -> None:
    """Kullback-Leibler divergences of pairs, and the inception score of both sets."""
    logits, truth = generated.logits(), reference.logits()
    place = {clip.name: i for i, clip in enumerate(reference.clips)}
    both = [(place[clip.name], i) for i, clip in enumerate(generated.clips) if clip.name in place]
    if both:
        p, q = truth[[i for i, _ in both]], logits[[i for _, i in both]]
        report.add(f"KL, softmax ({embedder.title}){which}", metrics.kl_divergence(p, q), "lower", f"{len(both)} pairs")
        report.add(f"KL, sigmoid ({embedder.title}){which}", metrics.kl_divergence(p, q, "sigmoid"), "lower",
                   f"{len(both)} pairs")
        if len(both) < len(generated.clips):
            report.note(f"KL: only {len(both)} of {len(generated.clips)} sounds have a reference of their name.")
    else:
        report.note(f"No KL: no sound has a reference of its name ({generated.clips[0].name} has none); "
                    "give both files of a pair one name.")
    sets = [("", logits)] if which else [("", logits), (", reference", truth)]
    for suffix, each in sets:
        splits = min(10, max(1, len(each) // 50))                # a split of few sounds cannot show many classes
        mean, deviation = metrics.inception_score(each, splits, seed)
        spread = f", {splits} splits, ± {deviation:.2f}" if splits > 1 else ", 1 split"
        report.add(f"Inception score ({embedder.title}){which}{suffix}", mean, "higher", f"{len(each)} sounds{spread}")


def _clap(report: Report, generated: Heard, embedder: TextEmbedder, which: str) -> None:
    """The cosine of sounds and captions."""
    said = [(clip.caption, e.clip) for clip, e in zip(generated.clips, generated.embeddings, strict=True) if clip.caption]
    if not said:
        report.note("No CLAP score: no captions (metadata.csv with file_name and text, or NAME.txt beside NAME.wav).")
        return
    text = embedder.embed_text([str(caption) for caption, _ in said])
    report.add(f"CLAP score ({embedder.title}){which}", metrics.clap_score(np.stack([e for _, e in said]), text), "higher",
               f"{len(said)} sounds")


def evaluate(generated: list[Clip], reference: list[Clip], embedders: Sequence[Embedder], seed: int = 0,
             watch: Watch = lambda done, total: None) -> Report:
    """Every figure of one set of sounds against another, by each embedder."""
    captions = {a.name: a for a, _ in pair(generated, reference)}
    generated = [captions.get(clip.name, clip) for clip in generated]
    report, total, done = Report(), len(embedders) * (len(generated) + len(reference)), 0
    for embedder in embedders:
        heard = []
        for clips in (generated, reference):
            heard.append(hear(clips, embedder, lambda i, _, at=done: watch(at + i, total)))   # type: ignore[misc]
            done += len(clips)
        compare(report, heard[0], heard[1], embedder, seed=seed)
    return report


def write_report(report: Report, out: Path, rows: Sequence[tuple[str, Sequence[tuple[str, Path]]]],
                 watch: Watch = lambda done, total: None) -> None:
    """Write report.json, index.html and pictures/ into `out`: a row is a heading and (caption, sound file) pairs."""
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    table = []
    for i, (heading, sounds) in enumerate(rows):
        made = []
        for j, (caption, path) in enumerate(sounds):
            picture = pictures / f"{i:03d}-{j}.png"
            write_spectrogram(picture, *read(path), title=f"{heading} ({caption})")
            made.append(Sound(caption, os.path.relpath(path, out), picture.relative_to(out).as_posix()))
        table.append((heading, made))
        watch(i + 1, len(rows))
    write_page(out / "index.html", "Evaluation", table, head=_head(report))
    beside = out / ".report.json.part"
    beside.write_text(report.to_json(), encoding="utf-8")
    os.replace(beside, out / "report.json")


def _head(report: Report) -> str:
    """The figures as an HTML table, with what they were taken from."""
    cells = "".join(
        f'<tr><td>{html.escape(f.name)}</td><td class="n">{f.value:.3f}</td><td>{f.better and f.better + " is better"}</td>'
        f"<td>{html.escape(f.n)}</td></tr>" for f in report.figures)
    said = [f"{e['title']}: {e['dimensions']} dimensions; sounds {e['resampling']}." for e in report.embeddings]
    notes = "".join(f"<p>{html.escape(text)}</p>" for text in said + report.notes)
    return f"<section><table><tr><th>Figure</th><th>Value</th><th></th><th>Of</th></tr>{cells}</table>{notes}</section>"
