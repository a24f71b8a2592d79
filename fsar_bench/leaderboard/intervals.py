"""Intervals over training seeds and classes, adjusted p-values and ranks; `jackknife` has the intervals over clips.

An accuracy is uncertain for several reasons, and each has its interval:

- *episodes*: other episodes of the same clips. This is the interval that papers print.
- *clips*: other clips of the same classes, and other episodes. Thousands of episodes redraw the same few hundred clips, so
  this interval is wider, and it is the honest one for "how good is the method on these classes".
- *classes*: other classes as well.
- *seeds*: other trainings, where there are several.

All of them come from predictions and the episode plan alone.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.05  # of all tests


def seed_interval(accuracy: np.ndarray) -> float | None:
    """Half-width of the 95 % interval over training seeds: t(n - 1) s / sqrt(n), s the sample standard deviation.

    Args:
        accuracy: accuracy of each seed on the same episodes, `[n]`.

    Returns:
        The half-width in the unit of `accuracy`; None for fewer than two seeds.
    """
    n = len(accuracy)
    if n < 2:
        return None
    return float(stdtrit(n - 1, 0.975) * np.std(accuracy, ddof=1) / math.sqrt(n))


def class_interval(right: np.ndarray, classes: np.ndarray) -> float | None:
    """Half-width in percent of the 95 % interval over classes: a jackknife that leaves out each class with all its episodes.

    t(C - 1) sqrt((C - 1) / C sum over classes k of (accuracy without k - mean of these)^2); too wide where episodes hold a
    large share of the classes.

    Args:
        right: float `[E, Q]`.
        classes: class numbers `[E, N]`.

    Returns:
        The half-width; None where some class is in every episode.
    """
    accuracy, C = right.mean(1), int(classes.max()) + 1
    episodes_with, accuracy_with = np.zeros(C, np.int64), np.zeros(C)
    for of_place in classes.T:
        episodes_with += np.bincount(of_place, minlength=C)
        accuracy_with += np.bincount(of_place, accuracy, minlength=C)
    episodes_without = len(classes) - episodes_with
    if C < 2 or (episodes_without <= 0).any():
        return None
    accuracy_without = (accuracy.sum() - accuracy_with) / episodes_without
    error = math.sqrt((C - 1) / C * float(((accuracy_without - accuracy_without.mean()) ** 2).sum()))
    return float(100 * stdtrit(C - 1, 0.975) * error)


def holm(p: np.ndarray, count: int | None = None) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979).

    The i-th smallest of m becomes m - i + 1 times itself, at least as large as the one before, and at most 1.

    Args:
        p: `[n]`.
        count: m, n or more: the other tests of the family count as not significant. None: n.
    """
    order, m = np.argsort(p, kind="stable"), len(p) if count is None else count
    stepped = np.maximum.accumulate(p[order] * np.arange(m, m - len(p), -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out


def adjusted(p: np.ndarray) -> np.ndarray:
    """p-values of all pairs of R rows, symmetric `[R, R]`, adjusted for the number of pairs (Holm); 1 on the diagonal."""
    return adjusted_with_others(p, np.empty(0))[0]


def adjusted_with_others(p: np.ndarray, against_best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p-values adjusted for the number of all pairs of rows (Holm), of which those that are not given are not significant.

    Args:
        p: of all pairs of C rows, `[C, C]`; what is below the diagonal and on it does not matter.
        against_best: of the best row against each of the other R - C rows, `[R - C]`.

    Returns:
        Both, adjusted for R (R - 1) / 2 tests; the first symmetric, with 1 on the diagonal.
    """
    upper, row_count = np.triu_indices(len(p), 1), len(p) + len(against_best)
    tested = holm(np.concatenate([p[upper], against_best]), row_count * (row_count - 1) // 2)
    out = np.ones_like(p)
    out[upper], others = np.split(tested, [len(upper[0])])
    return np.minimum(out, out.T), others


def tie_ranks(accuracy: np.ndarray, p: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Rank of each row, int `[R]`.

    The best row and all rows not significantly different from it share rank 1; the best of the others begins the next rank,
    and so on.

    Args:
        accuracy: percent `[R]`.
        p: adjusted p-values of pairs, `[R, R]`.
        level: two rows with a smaller p-value are significantly different.
    """
    rank = np.zeros(len(accuracy), int)
    for leader in np.argsort(-accuracy, kind="stable"):
        if not rank[leader]:
            is_tied = (rank == 0) & (p[leader] >= level)
            is_tied[leader] = True
            rank[is_tied] = np.count_nonzero(rank) + 1
    return rank
