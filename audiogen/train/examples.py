"""Examples drawn from a dataset: which clip, which caption, where it lies in time, what else sounds.

Example number i of step n is a function of (seed, stage, n, i) alone: a resumed run, or one spread over more processes,
draws the same. Shapes: B items, S samples.
"""

import csv
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiogen.errors import DataError
from audiogen.train.config import DataConfig
from audiogen.train.data import Array, Clip, Dataset

TRIES = 3                                                        # for a crop in which something sounds
CAPTION = "~"                                                    # in a sentence around it
BESIDE = "\n"                                                    # between the labels of two clips in one item
LOW = 2**24 - 1                                                  # bits that a float32 holds exactly
FADE = 0.005                                                     # seconds, at the ends of clips that are set into a longer sound
FRAME = 0.05                                                     # seconds, in which a clip's steadiness is looked at
STEADY = 10.0                                                    # by how much all but a tenth of the frames' powers may differ
SEAM = 0.25                                                      # seconds, over which a steady clip goes over into itself


@dataclass(frozen=True)
class Examples:
    """A batch."""

    wave: Tensor                                                 # (B, S) float32 in [-1, 1]
    captions: list[str]                                          # of each item, then those it is to be told from
    seeds: list[int]                                             # of each item's own noise
    labels: list[str] | None = None                              # what each is of, "" where nobody said; of two: A BESIDE B
    latents: Tensor | None = None                                # (B, C, h, w), where they were kept instead of the waves
    meant: list[str] | None = None                               # captions that those of each item stand for

    def keys(self, device: str = "cpu") -> Tensor:
        """The seeds, for `normal` and `uniform`. (B,) int64"""
        return torch.tensor(self.seeds, dtype=torch.int64, device=device)

    def pin_memory(self) -> "Examples":
        """With waves where a GPU fetches them by itself; DataLoader calls this."""
        return replace(self, wave=self.wave.pin_memory())


def normal(keys: Tensor, *shape: int, salt: int = 0) -> Tensor:
    """Standard normal numbers (B, *shape), each item's from its own key (B,) (Box and Muller 1958)."""
    bits = mixed(keys, math.prod(shape), salt)
    radius = (-2 * (((bits & LOW) + 1) / 2**24).log()).sqrt()
    return (radius * (2 * math.pi * ((bits >> 24) & LOW) / 2**24).cos()).view(-1, *shape)


def uniform(keys: Tensor, *shape: int, salt: int = 1) -> Tensor:
    """Uniform numbers in [0, 1) (B, *shape), each item's from its own key (B,)."""
    return ((mixed(keys, math.prod(shape), salt) & LOW) / 2**24).view(-1, *shape)


def mixed(keys: Tensor, n: int, salt: int) -> Tensor:
    """64 random bits for each key and place, the same on every machine: a hash (SplitMix64: Steele et al. 2014). (B, n)

    A generator for each item would be a loop, and a GPU would wait for it.
    """
    x = (keys ^ (salt << 48))[:, None] + torch.arange(1, n + 1, device=keys.device) * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def read_words(path: Path) -> tuple[dict[str, float], dict[str, list[str]]]:
    """A file of lines "label [weight]: wording|wording": how often each label is drawn, and what else it is called.

    The label ~ has sentences in which ~ stands for a caption, as in "the sound of ~"; its weight is the share of captions that
    are put into one.
    """
    weights, words = {}, {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a file of wordings ({error}).") from None
    for i, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        head, colon, tail = line.partition(":")
        parts = head.split()
        try:
            weights[parts[0]] = float(parts[1]) if len(parts) > 1 else 1.0
        except (ValueError, IndexError):
            raise DataError(f"{path}, line {i}: write 'label weight: wording|wording'.") from None
        if not colon or len(parts) > 2:
            raise DataError(f"{path}, line {i}: write 'label weight: wording|wording'.")
        words[parts[0]] = [w.strip() for w in tail.split("|") if w.strip()]
    return weights, words


def read_weights(path: Path) -> dict[str, float]:
    """A .csv file with the columns file_name and weight: how often a clip is drawn beside others of its label, which have 1."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a file of weights ({error}).") from None
    found = {}
    for i, row in enumerate(rows, 2):
        try:
            found[row["file_name"]] = float(row["weight"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}, line {i}: write file_name,weight there, as the first line says.") from None
        if not 0 <= found[row["file_name"]] < math.inf:
            raise DataError(f"{path}, line {i}: a weight is a number from 0 on, not {row['weight']}.")
    return found


class Drawer:
    """Draws examples of any length from some of a dataset's clips."""

    def __init__(self, dataset: Dataset, clips: list[Clip], config: DataConfig, seed: str) -> None:
        self.dataset, self.clips, self.config, self.seed = dataset, clips, config, seed
        weights, self.words = read_words(Path(config.words)) if config.words else ({}, {})
        self.framed, self.frames = weights.pop(CAPTION, 0.0), self.words.pop(CAPTION, [CAPTION])
        often = read_weights(Path(config.weights)) if config.weights else {}
        count, total = Counter(c.label for c in clips), dict.fromkeys((c.label for c in clips), 0.0)
        for c in clips:
            total[c.label] += often.get(c.name, 1.0)
        # a label's clips share what the label has, whatever they weigh together
        share = {k: (n**config.balance if k else n) / total[k] if total[k] > 0 else 0.0 for k, n in count.items()}
        each = [weights.get(c.label, 1.0) * share[c.label] * often.get(c.name, 1.0) for c in clips]
        self.cumulative = np.cumsum(each)
        if not self.cumulative[-1] > 0:
            given = " and ".join(x for x in (config.words, config.weights) if x)
            raise DataError(f"{given}: every clip of this data has the weight 0, so that nothing is left to draw.")

    def batch(self, step: int, items: range, seconds: float) -> Examples:
        """Examples number `items` of step `step`, each `seconds` long."""
        n = round(seconds * self.dataset.rate)
        waves, captions, labels, seeds = [], [], [], []
        for i in items:
            rng = self.dice(step, i)
            wave, caption, label = self.example(n, rng)
            waves.append(torch.from_numpy(wave))
            captions.append(caption)
            labels.append(label)
            seeds.append(rng.getrandbits(62))
        return Examples(torch.stack(waves), captions, seeds, labels)

    def dice(self, step: int, item: int) -> random.Random:
        """What decides about item number `item` of step `step`."""
        return random.Random(f"{self.seed}:{step}:{item}")

    def example(self, n: int, rng: random.Random) -> tuple[Array, str, str]:
        """A sound of n samples, its caption and its label: of one clip, or of two at once or in turn."""
        c, dice = self.config, rng.random()
        clip = self.pick(rng)
        caption, label = self.caption(clip, rng), clip.label
        if dice < c.mix:
            other = self.pick(rng)
            wave = self.arrange(clip, n, rng) + rng.uniform(0.6, 1) * self.arrange(other, n, rng)
            caption = f"{caption} {rng.choice(('and', 'and', 'with', 'while'))} {self.caption(other, rng)}"
            label = beside(label, other.label)
        elif dice < c.mix + c.join:
            other, k = self.pick(rng), int(n * rng.uniform(0.35, 0.65))
            parts = (self.arrange(clip, k, rng), self.arrange(other, n - k, rng))
            wave = np.concatenate([faded(p, 5 * FADE * self.dataset.rate) for p in parts])
            caption = f"{caption}{rng.choice((' followed by ', ', then ', ' and then '))}{self.caption(other, rng)}"
            label = beside(label, other.label)
        else:
            wave = self.arrange(clip, n, rng)
            if rng.random() < self.framed:
                caption = self.framed_by(caption, rng)
        room = np.random.default_rng(rng.getrandbits(32)).standard_normal(n, dtype=np.float32)
        wave = wave + room * math.exp(rng.uniform(math.log(c.room[0]), math.log(c.room[1])))
        return (wave * (rng.uniform(*c.level) / max(1e-3, float(np.abs(wave).max())))).astype(np.float32), caption, label

    def pick(self, rng: random.Random) -> Clip:
        at = int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], side="right"))
        return self.clips[min(at, len(self.clips) - 1)]

    def caption(self, clip: Clip, rng: random.Random) -> str:
        words = self.words.get(clip.label)
        return rng.choice(words) if words and rng.random() < self.config.words_rate else rng.choice(clip.captions)

    def framed_by(self, caption: str, rng: random.Random) -> str:
        """The caption within a sentence."""
        return rng.choice(self.frames).replace(CAPTION, caption)

    def arrange(self, clip: Clip, n: int, rng: random.Random) -> Array:
        """The clip in n samples, peak 1: a part of it in which something sounds, or all of it once, again, or on and on."""
        wave, rate, (slow, fast) = self.dataset.wave(clip), self.dataset.rate, self.config.speed
        speed = math.exp(rng.uniform(math.log(slow), math.log(fast))) if fast > slow else slow
        need = n if speed == 1 else smooth(n * speed)
        if len(wave) >= need:
            starts = [rng.randrange(len(wave) - need + 1) for _ in range(TRIES)]
            if rng.random() < self.config.onset:
                starts[0] = 0
            level = [float(np.square(wave[s : s + need]).mean()) for s in starts]
            enough = 0.16 * float(np.square(wave).mean())
            best = next((s for s, p in zip(starts, level, strict=True) if p > enough), starts[int(np.argmax(level))])
            out = played(wave[best : best + need], speed)[:n]
        elif self.config.again and steady(wave, rate):           # rain does not stop because the recording does
            wave = played(wave, speed)
            out = endless(wave, n, rng.randrange(len(wave)), int(SEAM * rate))
        else:
            out, wave = np.zeros(n, np.float32), played(faded(wave, FADE * rate), speed)[:n]
            again, pause = rng.random() < self.config.again, rng.choice((0.05, 0.3, 0.8))
            at = min(int(rng.uniform(0, 0.35) * rate) if rng.random() < 0.7 else 0, n - len(wave))
            while at < n:
                m = min(len(wave), n - at)
                out[at : at + m] += wave[:m] * (rng.uniform(0.7, 1) if again else 1)
                at += len(wave) + int(pause * rng.uniform(0.5, 1.6) * rate)
                if not again:
                    break
        return out / max(1e-3, float(np.abs(out).max()))


class Crowd:
    """Draws a Drawer's examples, and for each of them `others` captions of clips that may be of other labels."""

    def __init__(self, drawer: Drawer, others: int) -> None:
        self.drawer, self.others = drawer, others

    def batch(self, step: int, items: range, seconds: float) -> Examples:
        """Examples number `items` of step `step`; captions and labels of the others follow their own."""
        examples = self.drawer.batch(step, items, seconds)
        captions, labels = list(examples.captions), list(examples.labels or [])
        for i in items:
            rng = random.Random(f"{self.drawer.seed}:{step}:{i}:others")
            for clip in [self.drawer.pick(rng) for _ in range(self.others)]:
                captions.append(self.drawer.caption(clip, rng))
                labels.append(clip.label)
        return replace(examples, captions=captions, labels=labels)


def beside(one: str, other: str) -> str:
    """The label of an item in which two sound; "" where one of them has none."""
    return BESIDE.join((one, other)) if one and other and one != other else one and other


def steady(wave: Array, rate: int) -> bool:
    """Whether a sound (S,) of at least half a second is as loud all the time: rain, an engine, but no bark."""
    m = int(FRAME * rate)
    if len(wave) < 10 * m:
        return False
    power = np.square(wave[: len(wave) // m * m].reshape(-1, m)).mean(axis=1) + 1e-12
    low, middle, high = np.quantile(power, (0.05, 0.5, 0.95))
    return bool(low * STEADY > middle and high < middle * STEADY)


def endless(wave: Array, n: int, begin: int, seam: int) -> Array:
    """n samples of a sound (S,) that goes over into its own beginning, from sample `begin` of that circle on."""
    m = min(seam, len(wave) // 3)
    ramp = np.sqrt(np.linspace(0, 1, m, dtype=np.float32))       # what is unlike itself keeps its power so
    circle = wave[m:].copy()
    circle[-m:] = circle[-m:] * ramp[::-1] + wave[:m] * ramp
    return np.resize(np.roll(circle, -begin), n)


def played(wave: Array, speed: float) -> Array:
    """The wave (S,) about so many times as fast, and so higher, by its Fourier series. (S',)"""
    if speed == 1:
        return wave.copy()
    before = smooth(len(wave))
    after = smooth(before / speed)
    out = np.fft.irfft(np.fft.rfft(wave, before), after) * (after / before)
    return out[: math.ceil(len(wave) * after / before)].astype(np.float32)


def smooth(length: float) -> int:
    """The next length of which a Fourier transform is quick: at most 128 times a power of 2."""
    unit = 1 << max(0, int(length).bit_length() - 7)
    return math.ceil(length / unit) * unit


def faded(wave: Array, samples: float) -> Array:
    """The wave (S,) with its ends faded over so many samples, or a quarter of it."""
    m = min(int(samples), len(wave) // 4)
    out = wave.copy()
    if m:
        ramp = np.linspace(0, 1, m, dtype=np.float32)
        out[:m] *= ramp
        out[-m:] *= ramp[::-1]
    return out
