"""How typical each clip of a dataset is of its label, as weights for `audiogen train --set data.weights=FILE`.

    python scripts/typical.py CORPUS weights.csv [--model everyday] [--power 4]

Not every recording that a file name calls a siren sounds like one. A linear classifier learns the labels from what the model's
U-Net makes of seven eighths of the training clips (without a prompt, under a little noise), and says of the others how likely
their own label is: no clip is judged by what was learnt from it, nor from others of its `group` in metadata.csv. A clip's weight
is its place among those of its label, from 0 to 1, to the power of --power; a label is drawn as often as before.
"""

import argparse
import csv
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from audiogen import hub
from audiogen.pipeline import Pipeline
from audiogen.settings import Settings
from audiogen.train.config import PRESETS
from audiogen.train.data import Clip, Dataset, prepare, split
from audiogen.train.examples import Drawer

LEVELS = (0.6, 2.0)                                              # of noise, in units of the latents
SECONDS = 5.12
FOLDS = 8
STEPS, BATCH, RATE, DECAY = 500, 512, 1e-3, 0.3                  # of the classifier


def features(pipeline: Pipeline, dataset: Dataset, clips: list[Clip], watch: Callable[[int], None]) -> Tensor:
    """Means and deviations, over the map, of the U-Net's middle and its two levels after that, of each clip. (N, D)"""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: object, out: Tensor) -> None:
        seen.append(torch.cat([out.float().mean((2, 3)), out.float().std((2, 3))], dim=1)[0])

    unet = pipeline.model.unet
    hooks = [level.resnets[-1].register_forward_hook(note) for level in (unet.mid_block, *unet.up_blocks[:2])]
    settings = replace(pipeline.settle(Settings()), guidance=1.0, drafts=1)
    denoise = pipeline.denoiser([""], [None], [None], settings, pipeline.levels(settings))
    drawer, n, rows = Drawer(dataset, clips, PRESETS["everyday"]().data, "typical"), round(SECONDS * dataset.rate), []
    try:
        with torch.inference_mode():
            for i, clip in enumerate(clips):
                wave = torch.from_numpy(0.7 * drawer.arrange(clip, n, random.Random(clip.name)))
                z = pipeline.encode(wave[None].float())
                noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
                seen.clear()
                for level in LEVELS:
                    denoise(z + level * noise, torch.tensor(level))
                rows.append(torch.cat(seen))
                watch(i + 1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(rows)


def unseen(x: Tensor, labels: list[str], groups: list[str], seed: int = 0) -> Tensor:
    """The log-probability of each row's own label, by a classifier that saw no row of its group. x (N, D) -> (N,)"""
    torch.manual_seed(seed)
    names = sorted(set(labels))
    y = torch.tensor([names.index(label) for label in labels])
    weight = y.bincount()[y].float().rsqrt()                     # a label counts by the square root of its clips
    x = (x - x.mean(0)) / (x.std(0) + 1e-4)
    dice = random.Random(seed)
    fold_of = {group: dice.randrange(FOLDS) for group in sorted(set(groups))}
    folds, own = torch.tensor([fold_of[g] for g in groups]), torch.zeros(len(y))
    for fold in range(FOLDS):
        known = (folds != fold).nonzero()[:, 0]
        net = nn.Linear(x.shape[1], len(names))
        nn.init.zeros_(net.weight)
        optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
        for step in range(STEPS):
            i = known[torch.randint(len(known), (min(BATCH, len(known)),))]
            loss = F.cross_entropy(net(F.dropout(x[i], 0.3)), y[i], reduction="none", label_smoothing=0.05)
            optimizer.zero_grad()
            (weight[i] * loss).sum().div(weight[i].sum()).backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = RATE * (1 - (step + 1) / STEPS)
        told = folds == fold
        with torch.no_grad():
            own[told] = net(x[told]).log_softmax(1)[torch.arange(int(told.sum())), y[told]]
    return own


def weights(own: Tensor, labels: list[str], power: float) -> list[float]:
    """Each row's place among those of its label, from 0 to 1, to a power."""
    of: dict[str, list[int]] = {}
    for i in own.argsort().tolist():
        of.setdefault(labels[i], []).append(i)
    return [((of[label].index(i) + 0.5) / len(of[label])) ** power for i, label in enumerate(labels)]


def groups_of(folder: Path, clips: list[Clip]) -> list[str]:
    """What metadata.csv says in its column `group`; where it says nothing, each clip is its own."""
    path, named = folder / "metadata.csv", {}
    if path.exists():
        with open(path, encoding="utf-8-sig", newline="") as file:
            named = {row["file_name"]: row.get("group") for row in csv.DictReader(file)}
    return [named.get(clip.name) or clip.name for clip in clips]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a dataset whose clips have labels")
    parser.add_argument("out", type=Path, help="the .csv to write")
    parser.add_argument("--model", default="everyday", help="whose U-Net listens (default: everyday)")
    parser.add_argument("--power", type=float, default=4.0, help="how much more often a typical clip is drawn (default: 4)")
    args = parser.parse_args()
    pipeline = hub.load(args.model)
    with tempfile.TemporaryDirectory() as cache:
        dataset, _ = prepare(args.data, Path(cache), pipeline.config.mel.sample_rate)
        clips = [c for c in split(dataset, 0.0)[0] if c.label]
        if len({c.label for c in clips}) < 2:
            parser.error(f"{args.data} has no two labels to tell apart.")
        labels = [c.label for c in clips]

        def watch(done: int) -> None:
            if sys.stderr.isatty() or done == len(clips):
                print(f"\r{done} of {len(clips)} clips heard", end="\n" if done == len(clips) else "", file=sys.stderr)

        own = unseen(features(pipeline, dataset, clips, watch), labels, groups_of(args.data, clips))
    found = weights(own, labels, args.power)
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "weight"))
        table.writerows((clip.name, f"{weight:.4f}") for clip, weight in zip(clips, found, strict=True))


if __name__ == "__main__":
    main()
