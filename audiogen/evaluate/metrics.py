"""Figures of evaluation as pure functions over arrays, in float64: n items, D embedding width, K classes."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from audiogen.errors import DataError

Array = NDArray[Any]
Link = Literal["softmax", "sigmoid"]


def frechet_distance(a: Array, b: Array) -> float:
    """Fréchet distance between Gaussians fitted to two sets of embeddings; 0 is best, no upper bound.

    a (n, D), b (m, D). Raises DataError if n or m < 2 or the widths differ. Dowson and Landau 1982, eq. 6, with
    tr sqrt(S_a S_b) as the sum of the singular values of A B^T, where S = A^T A: exact, real and never negative even
    where n < D and both covariances are singular.
    """
    a, b = _rows(a), _rows(b)
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise DataError(f"A Fréchet distance needs two embeddings or more on each side, of one width; "
                        f"found {a.shape[0]} of {a.shape[1]} and {b.shape[0]} of {b.shape[1]}.")
    root_a, root_b = _root(a), _root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    shift = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(0.0, shift + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross))


def _rows(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise DataError(f"Embeddings must be finite numbers in rows, (n, D); found shape {x.shape}.")
    return x


def _root(x: Array) -> Array:
    """(at most D, D) with root^T root = the unbiased covariance of x (n, D)."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def frechet_infinite(a: Sequence[Array], b: Sequence[Array], sizes: int = 8, seed: int = 0, pairs: bool = False) -> float:
    """The Fréchet distance extrapolated to infinitely many sounds; of two small sets it may fall below 0.

    a and b hold one (F_i, D) array per sound, its windows. The distance grows by a term in 1/n when it is estimated
    from n sounds, so it is taken on seeded subsets from half to all of both sets and the line through them is followed
    to 1/n = 0. Chong and Forsyth 2020, with both sides drawn. `pairs`: a[i] belongs to b[i], and subsets are of whole pairs,
    since a copy is nearer to its own sound than to the others. Raises DataError for fewer than 8 sounds a side.
    """
    if min(len(a), len(b)) < 8:
        raise DataError(f"Extrapolating a Fréchet distance needs 8 sounds or more a side; found {len(a)} and {len(b)}.")
    draw = np.random.default_rng(seed)
    inverse, distance = [], []
    for share in 1 / np.linspace(1.0, 2.0, sizes):               # even steps of 1/n
        n, m = round(share * len(a)), round(share * len(b))
        order = draw.permutation(len(a))
        some_a = np.concatenate([a[i] for i in order[:n]])
        some_b = np.concatenate([b[i] for i in (order if pairs else draw.permutation(len(b)))[:m]])
        inverse.append(1 / share)
        distance.append(frechet_distance(some_a, some_b))
    return float(np.polyfit(inverse, distance, deg=1)[1])


def log_softmax(logits: Array) -> Array:
    """(..., K) -> (..., K)"""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def log_sigmoid(logits: Array) -> Array:
    """(..., K) -> (..., K)"""
    return np.asarray(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def kl_divergence(reference: Array, generated: Array, link: Link = "softmax") -> float:
    """Mean KL(reference || generated) over pairs of logits (n, K), in nats; 0 where the classes agree.

    link "softmax" takes the classes as exclusive; "sigmoid" as independent, and adds the divergences of K coins (the
    figure of that name in other tools leaves out each coin's other side, and is no divergence).
    Raises DataError where the shapes differ or there is no pair.
    """
    if np.shape(reference) != np.shape(generated) or np.ndim(reference) != 2 or len(reference) == 0:
        raise DataError(f"A KL divergence needs pairs: logits of shapes {np.shape(reference)} and "
                        f"{np.shape(generated)} do not pair.")
    if link == "softmax":
        p, q = log_softmax(reference), log_softmax(generated)
        return float((np.exp(p) * (p - q)).sum(axis=-1).mean())
    total = 0.0
    for sign in (1.0, -1.0):                                     # log of yes, log of no
        p, q = log_sigmoid(sign * np.asarray(reference)), log_sigmoid(sign * np.asarray(generated))
        total += float((np.exp(p) * (p - q)).sum(axis=-1).mean())
    return total


def inception_score(logits: Array, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """exp of the mutual information of sound and class, from 1 (worst) to K: mean and deviation over splits.

    logits (n, K). The sounds are shuffled by the seed and cut into `splits`. Salimans and others 2016. Raises
    DataError if a split would hold fewer than two sounds, which would score 1 whatever they are.
    """
    if splits < 1 or len(logits) < 2 * splits:
        raise DataError(f"An inception score of {splits} splits needs {2 * splits} sounds; found {len(logits)}.")
    order = np.random.default_rng(seed).permutation(len(logits))
    scores = []
    for part in np.array_split(log_softmax(logits)[order], splits):
        p = np.exp(part)
        marginal = p.mean(axis=0)
        log_marginal = np.log(np.maximum(marginal, np.finfo(np.float64).tiny))
        scores.append(np.exp((p * (part - log_marginal)).sum(axis=-1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def clap_score(audio: Array, text: Array) -> float:
    """Mean cosine of paired embeddings of sounds and their prompts, each (n, D); from -1 to 1."""
    audio, text = _rows(audio), _rows(text)
    if audio.shape != text.shape or len(audio) == 0:
        raise DataError(f"A CLAP score needs a prompt for each sound; {audio.shape} and {text.shape} do not pair.")
    norms = np.linalg.norm(audio, axis=1) * np.linalg.norm(text, axis=1)
    return float((np.einsum("nd,nd->n", audio, text) / np.maximum(norms, 1e-12)).mean())


def accuracy(scores: Array, accepted: Sequence[Collection[int]], first: int = 3) -> float:
    """Share of items (n, K) that have one of their accepted classes among the `first` of highest score."""
    if len(scores) != len(accepted) or len(scores) == 0:
        raise DataError(f"Accuracy needs accepted classes for each sound; found {len(scores)} and {len(accepted)}.")
    best = np.argsort(-np.asarray(scores), axis=-1, kind="stable")[:, :first]
    return float(np.mean([not set(row).isdisjoint(classes) for row, classes in zip(best.tolist(), accepted,
                                                                                      strict=True)]))
