"""How often does an independent tagger hear what was asked for?

    python scripts/hear.py SOUNDS                    the files LABEL__SEED.wav of a folder
    python scripts/hear.py SOUNDS --model NAME       ... which a model makes first, some takes a prompt
    python scripts/hear.py SOUNDS --ranker clap:DIR  ... of each label only the take that a CLAP finds best
    python scripts/hear.py --recordings CORPUS       recordings of a corpus with metadata.csv: the ceiling

A sound counts where YAMNet has an accepted class among its first three (mean of its windows' probabilities). The list of
prompts is a CSV of `label,prompt,accepted`, with AudioSet's display names between `|` in the last column; hear_fresh_1.csv and
hear_fresh_2.csv (--prompts), which leave that to hear_prompts.csv, decided between states of the U-Net, numbers of steps, and
ways for a CLAP to hear, by the seeds 0 to 3: other seeds (--seed 4) are the fairer test. `chance` is the share that the same
sounds reach under every other label. Importable: `judge(sounds, prompts)` does the counting.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audiogen import audio
from audiogen.evaluate.clips import read
from audiogen.evaluate.embed import Embedder, Embedding, TextEmbedder, load_embedder
from audiogen.rank import ByEmbedding

PROMPTS = Path(__file__).with_name("hear_prompts.csv")
FIRST = 3


@dataclass(frozen=True)
class Prompt:
    label: str
    text: str
    accepted: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    right: float                                     # share of sounds
    chance: float                                    # share under the labels of others
    labels: dict[str, float]                         # share per label
    heard: list[tuple[str, str, bool, list[str]]]    # file, label, right, the first classes


def read_prompts(path: Path = PROMPTS) -> list[Prompt]:
    """A list of prompts; where it does not say what is accepted, what hear_prompts.csv accepts of that label is."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "accepted" in rows[0]:
        return [Prompt(r["label"], r["prompt"], frozenset(r["accepted"].split("|"))) for r in rows]
    known = {p.label: p.accepted for p in read_prompts()}
    unknown = next((r["label"] for r in rows if r["label"] not in known), None)
    if unknown is not None:
        raise SystemExit(f"{path}: hear_prompts.csv has no label '{unknown}'; say in a column 'accepted' which classes count.")
    return [Prompt(r["label"], r["prompt"], known[r["label"]]) for r in rows]


def hear(path: Path, embedder: Embedder) -> Embedding:
    """The embedding of one file, mixed to mono and resampled."""
    sound, _ = read(path, embedder.rate)
    return embedder.embed(sound.clip(-1, 1))


def judge(sounds: Iterable[tuple[str, Path]], prompts: list[Prompt], embedder: Embedder | None = None) -> Verdict:
    """Hear every (label, file) and count."""
    embedder = embedder or load_embedder("yamnet")
    accepted = {p.label: p.accepted for p in prompts}
    heard, chances = [], []
    for label, path in sounds:
        scores = hear(path, embedder).scores
        first = [embedder.classes[i] for i in np.argsort(-scores)[:FIRST]]
        heard.append((path.name, label, not accepted[label].isdisjoint(first), first))
        chances.append(np.mean([not a.isdisjoint(first) for other, a in accepted.items() if other != label]))
    if not heard:
        raise SystemExit("No sound to hear: name the files LABEL__SEED.wav, with labels of the list of prompts.")
    labels = {p.label: [right for _, label, right, _ in heard if label == p.label] for p in prompts}
    return Verdict(right=float(np.mean([right for _, _, right, _ in heard])), chance=float(np.mean(chances)),
                   labels={label: float(np.mean(each)) for label, each in labels.items() if each}, heard=heard)


def generated(folder: Path, prompts: list[Prompt]) -> list[tuple[str, Path]]:
    known = {p.label for p in prompts}
    files = sorted(f for f in folder.iterdir() if f.suffix in (".wav", ".flac", ".ogg", ".opus"))
    return [(label, f) for f in files if (label := f.stem.rpartition("__")[0]) in known]


def chosen(sounds: Iterable[tuple[str, Path]], prompts: list[Prompt], clap: TextEmbedder,
           best: bool = True) -> list[tuple[str, Path]]:
    """Of each label's sounds the one that fits its prompt best, or worst, as a CLAP hears them."""
    ranker, text = ByEmbedding(clap), {p.label: p.text for p in prompts}

    def score(path: Path, label: str) -> float:
        return ranker.score(text[label], torch.from_numpy(read(path, clap.rate)[0]), clap.rate)

    takes: dict[str, dict[Path, float]] = {}
    for label, path in sounds:
        takes.setdefault(label, {})[path] = score(path, label) * (1 if best else -1)
    return [(label, max(scores, key=lambda path: scores[path])) for label, scores in takes.items()]


def make(folder: Path, prompts: list[Prompt], model: str, seeds: range,
         **changes: float | int | tuple[float, float] | None) -> None:
    """LABEL__SEED.wav for every prompt and seed; `changes` of None are the model's own."""
    from audiogen import hub

    folder.mkdir(parents=True, exist_ok=True)
    pipeline = hub.load(model)
    settings = {name: value for name, value in changes.items() if value is not None}
    for i, prompt in enumerate(prompts):
        for seed in seeds:
            result = pipeline.generate([prompt.text], seeds=[seed], **settings)
            path = folder / f"{prompt.label}__{seed}.wav"
            audio.write(path, result.audio[0], result.sample_rate, {"prompt": prompt.text, "seed": seed})
        print(f"\r{i + 1}/{len(prompts)} prompts", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def recordings(corpus: Path, prompts: list[Prompt], each: int, seed: int = 0) -> list[tuple[str, Path]]:
    """Up to `each` recordings of every label, drawn by a fixed seed."""
    with open(corpus / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for prompt in prompts:
        files = sorted(r["file_name"] for r in rows if r["label"] == prompt.label)
        drawn = random.Random(f"{seed}:{prompt.label}").sample(files, min(each, len(files)))
        chosen += [(prompt.label, corpus / f) for f in drawn]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path, nargs="?", help="folder of LABEL__SEED.wav")
    parser.add_argument("--model", help="make the sounds first, by this model")
    parser.add_argument("--takes", type=int, default=4, help="sounds a prompt")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--interval", type=float, nargs=2, metavar=("FROM", "TO"), help="noise levels where it acts")
    parser.add_argument("--rescale", type=float)
    parser.add_argument("--slow", type=float, help="share of guidance that acts on what hardly changes")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--duration", type=float)
    parser.add_argument("--recordings", type=Path, metavar="CORPUS", help="score recordings instead")
    parser.add_argument("--each", type=int, default=4, help="recordings a label")
    parser.add_argument("--seed", type=int, default=0, help="of the first sound of a prompt, and which recordings are drawn")
    parser.add_argument("--ranker", metavar="clap:DIR", help="judge only the take of each label that this CLAP finds best")
    parser.add_argument("--worst", action="store_true", help="... or worst")
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--list", action="store_true", help="print what was heard in each file")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.sounds is None) == (args.recordings is None):
        parser.error("name a folder of sounds, or --recordings CORPUS")
    prompts = read_prompts(args.prompts)
    if args.model:
        if args.sounds is None:
            parser.error("name a folder for the sounds of --model")
        make(args.sounds, prompts, args.model, range(args.seed, args.seed + args.takes), guidance=args.guidance,
             rescale=args.rescale, slow=args.slow, steps=args.steps, duration=args.duration,
             interval=args.interval and tuple(args.interval))
    sounds = generated(args.sounds, prompts) if args.sounds else \
        recordings(args.recordings, prompts, args.each, args.seed)
    if args.ranker:
        clap = load_embedder(args.ranker)
        if not isinstance(clap, TextEmbedder):
            parser.error(f"{args.ranker} knows no sentences; name a CLAP, clap:DIR")
        sounds = chosen(sounds, prompts, clap, not args.worst)
    verdict = judge(sounds, prompts)
    if args.json:
        print(json.dumps({"right": verdict.right, "chance": verdict.chance, "n": len(verdict.heard),
                          "labels": verdict.labels}))
        return
    if args.list:
        for name, label, right, first in verdict.heard:
            print(f"{'+' if right else '-'} {label:16} {name:32} {' | '.join(first)}")
    for label, share in sorted(verdict.labels.items(), key=lambda item: -item[1]):
        print(f"{share:5.2f}  {label}")
    print(f"\n{verdict.right:.3f}  of {len(verdict.heard)} sounds, {len(verdict.labels)} labels "
          f"(an accepted class among YAMNet's first {FIRST}); chance {verdict.chance:.3f}")


if __name__ == "__main__":
    main()
