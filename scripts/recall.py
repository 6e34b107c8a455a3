"""How often does a CLAP find the label of a recording that it has not learnt from?

    python scripts/recall.py CORPUS clap:checkpoints/everyday

The recordings of the split `valid` of a corpus with metadata.csv, each against the plain wording of every label (the first of
scripts/everyday_labels.txt, or the label itself), and those of ten labels against ten plain prompts.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audiogen.evaluate.clips import read
from audiogen.evaluate.embed import TextEmbedder, load_embedder
from audiogen.train.examples import read_words

WORDS = Path(__file__).with_name("everyday_labels.txt")
TEN = {"dog_bark": "a dog barking", "rain": "rain falling", "piano": "a piano melody", "speech_female": "a woman speaking",
       "violin": "a violin playing", "baby_cry": "a baby crying", "helicopter": "a helicopter flying",
       "guitar": "an acoustic guitar", "fire": "a fire crackling", "church_bell": "a church bell ringing"}


def places(sounds: np.ndarray, texts: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many texts (K, D) are nearer to each sound (B, D) than its own one, number `own` (B,). (B,)"""
    scores = sounds @ texts.T
    return (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("clap", metavar="clap:NAME")
    args = parser.parse_args()
    clap = load_embedder(args.clap)
    if not isinstance(clap, TextEmbedder):
        parser.error(f"{args.clap} knows no sentences; name a CLAP, clap:NAME")
    with open(args.corpus / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    words, labels = read_words(WORDS)[1], sorted({r["label"] for r in rows})
    held = [r for r in rows if r["split"] == "valid"]
    sounds = np.stack([clap.embed(read(args.corpus / r["file_name"], clap.rate)[0]).clip for r in held])
    own = np.array([labels.index(r["label"]) for r in held])
    found = places(sounds, clap.embed_text([(words.get(k) or [k.replace("_", " ")])[0] for k in labels]), own)
    print(f"{len(held)} recordings, {len(labels)} labels: the right one first {np.mean(found < 1):.3f}, among the first five "
          f"{np.mean(found < 5):.3f}; chance {1 / len(labels):.3f} and {5 / len(labels):.3f}")
    ten = [i for i, r in enumerate(held) if r["label"] in TEN]
    first = places(sounds[ten], clap.embed_text(list(TEN.values())), np.array([list(TEN).index(held[i]["label"]) for i in ten]))
    print(f"{len(ten)} recordings, ten plain prompts: the right one first {np.mean(first < 1):.3f}; chance 0.100")


if __name__ == "__main__":
    main()
