"""Figures of evaluation against closed forms, each with a case in which it must move."""

import math

import numpy as np
import pytest

from audiogen.errors import DataError
from audiogen.evaluate import metrics

rng = np.random.default_rng(7)


def exact_gaussian(mean: np.ndarray, root: np.ndarray, n: int) -> np.ndarray:
    """n points whose sample mean and (unbiased) covariance are exactly `mean` and root^T root."""
    x = np.random.default_rng(1).standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    factor = np.linalg.cholesky(x.T @ x / (n - 1))
    return np.linalg.solve(factor, x.T).T @ root + mean


def test_frechet_of_diagonal_gaussians_is_the_closed_form() -> None:
    s, t = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5])
    mean = np.array([1.0, -2.0, 0.0])
    a, b = exact_gaussian(np.zeros(3), np.diag(s), 50), exact_gaussian(mean, np.diag(t), 80)
    expected = (mean**2).sum() + ((s - t) ** 2).sum()
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet_distance(a, a + 1e-3) == pytest.approx(3e-6, rel=1e-6)


def test_frechet_of_full_covariances_equals_the_eigenvalue_form() -> None:
    a, b = rng.standard_normal((60, 5)) @ rng.standard_normal((5, 5)), rng.standard_normal((70, 5))
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(s @ t).real).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * cross
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_one_dimension_pairs_standard_deviations() -> None:
    a, b = exact_gaussian(np.array([2.0]), np.array([[3.0]]), 9), exact_gaussian(np.array([5.0]), np.array([[1.0]]), 4)
    assert metrics.frechet_distance(a, b) == pytest.approx(9 + 4)


@pytest.mark.parametrize("n", [5, 200])                          # fewer sounds than dimensions, and more
def test_frechet_knows_identity_symmetry_and_rotation(n: int) -> None:
    a, b = rng.standard_normal((n, 24)) * 2 + 1, rng.standard_normal((n + 3, 24))
    turn = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    distance = metrics.frechet_distance(a, b)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * np.square(a).sum())
    assert metrics.frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert metrics.frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-9)
    assert metrics.frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-9)
    assert abs(metrics.frechet_distance(a @ turn, b) - distance) > 1e-3 * distance       # the test can fail


def test_frechet_refuses_what_has_no_covariance() -> None:
    with pytest.raises(DataError, match="two embeddings or more"):
        metrics.frechet_distance(np.zeros((1, 4)), np.zeros((9, 4)))
    with pytest.raises(DataError, match="of one width"):
        metrics.frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(DataError, match="finite"):
        metrics.frechet_distance(np.full((3, 4), np.nan), np.zeros((3, 4)))


def test_extrapolation_removes_the_bias_of_small_sets() -> None:
    draw = np.random.default_rng(3)
    a, b = (list(draw.standard_normal((300, 1, 16))) for _ in range(2))                  # the true distance is 0
    finite = metrics.frechet_distance(np.concatenate(a), np.concatenate(b))
    endless = metrics.frechet_infinite(a, b)
    assert finite > 0.3
    assert abs(endless) < 0.3 * finite
    far = [x + 1.0 for x in b]                                                           # and here 16
    assert metrics.frechet_infinite(a, far) == pytest.approx(16, rel=0.1)
    assert metrics.frechet_infinite(a, b) == endless != metrics.frechet_infinite(a, b, seed=1)
    with pytest.raises(DataError, match="8 sounds"):
        metrics.frechet_infinite(a[:7], b)


def test_kl_of_exclusive_classes() -> None:
    p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.5, 0.25, 0.25]])
    expected = 0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.25) + 0.1 * math.log(0.1 / 0.25)
    assert metrics.kl_divergence(np.log(p) + 3, np.log(q) - 5) == pytest.approx(expected)
    assert metrics.kl_divergence(np.log(p), np.log(p) + 9) == pytest.approx(0, abs=1e-12)
    assert metrics.kl_divergence(np.log(q), np.log(p)) != pytest.approx(expected, rel=1e-3)     # reference first


def test_kl_of_independent_classes_counts_both_sides_of_each_coin() -> None:
    def logit(p: float) -> float:
        return math.log(p / (1 - p))

    reference, generated = np.array([[logit(0.9), logit(0.5)]]), np.array([[logit(0.6), logit(0.5)]])
    expected = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    assert metrics.kl_divergence(reference, generated, "sigmoid") == pytest.approx(expected)
    assert metrics.kl_divergence(reference, generated - 1, "sigmoid") > expected
    assert math.isfinite(metrics.kl_divergence(np.array([[2e3, -2e3]]), np.array([[-2e3, 2e3]]), "sigmoid"))


def test_kl_is_the_mean_over_pairs_and_needs_pairs() -> None:
    a, b = rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    each = [metrics.kl_divergence(a[i:i + 1], b[i:i + 1]) for i in range(6)]
    assert metrics.kl_divergence(a, b) == pytest.approx(np.mean(each))
    with pytest.raises(DataError, match="pair"):
        metrics.kl_divergence(a, b[:5])


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    sure = 1e3 * np.tile(np.eye(5), (8, 1))                      # each class eight times, without doubt
    assert metrics.inception_score(sure, splits=1)[0] == pytest.approx(5)
    assert metrics.inception_score(np.zeros((40, 5)), splits=4) == (pytest.approx(1), pytest.approx(0))
    assert metrics.inception_score(np.tile(sure[:1], (40, 1)), splits=1)[0] == pytest.approx(1)  # one class only
    half = np.log(np.array([[0.75, 0.25], [0.25, 0.75]] * 4))
    information = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert metrics.inception_score(half, splits=1)[0] == pytest.approx(math.exp(information))
    with pytest.raises(DataError, match="20 sounds"):
        metrics.inception_score(np.zeros((19, 5)))


def test_clap_score_is_the_mean_cosine() -> None:
    audio, text = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2.0, 0.0], [0.0, 5.0]])
    assert metrics.clap_score(audio, text) == pytest.approx((1 + 0.8) / 2)
    assert metrics.clap_score(audio, -text) == pytest.approx(-0.9)
    assert metrics.clap_score(audio, text[::-1]) != pytest.approx(0.9)
    with pytest.raises(DataError, match="prompt for each sound"):
        metrics.clap_score(audio, text[:1])


def test_accuracy_counts_accepted_classes_among_the_first() -> None:
    scores = np.array([[0.1, 0.9, 0.5, 0.2], [0.8, 0.1, 0.2, 0.3]])
    assert metrics.accuracy(scores, [{1}, {1}], first=1) == 0.5
    assert metrics.accuracy(scores, [{2}, {1}], first=2) == 0.5
    assert metrics.accuracy(scores, [{0, 3}, {1, 2}], first=3) == 1.0
    assert metrics.accuracy(scores, [{0}, {1}], first=3) == 0.0
    with pytest.raises(DataError, match="each sound"):
        metrics.accuracy(scores, [{0}])
