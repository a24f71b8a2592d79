"""Ranks that one can read: intervals of ranks from adjusted p-values, and the rows that may be the best."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from fsar_bench.leaderboard.jackknife import Uncertainty

LEVEL = 0.05  # of all tests
_DRAWS = 20_000  # of the distribution of the largest of correlated differences
_AT_A_TIME = 2**18  # numbers that are drawn at a time


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


def rank_intervals(
    accuracy: np.ndarray, p: np.ndarray, against_best: np.ndarray | None = None, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Best and worst rank that each row may have: simultaneous confidence intervals of 1 - `level` for the ranks of all rows.

    The best rank is 1 + the number of rows that are significantly better, the worst is R - the number that are significantly
    worse. Adjusted p-values err in any pair with a probability of at most `level`, and where they do not, every true rank is
    in its interval (Mogstad, Romano, Shaikh and Wilhelm 2023).

    Args:
        accuracy: percent of the C rows that are tested in pairs, `[C]`.
        p: their adjusted p-values, `[C, C]`.
        against_best: adjusted p-values of the first row against the other R - C rows, none of which is better, `[R - C]`.
        level: two rows with a smaller p-value are significantly different.

    Returns:
        Two int `[R]`.
    """
    others = np.empty(0) if against_best is None else against_best
    row_count = len(accuracy) + len(others)
    differs, is_better = p < level, accuracy[:, None] > accuracy[None, :]
    best = np.concatenate([1 + (differs & is_better).sum(0), 1 + (others < level)])
    worst = row_count - np.concatenate([(differs & is_better).sum(1), np.zeros(len(others), np.int64)])
    worst[0] -= (others < level).sum()
    return best, worst


def may_be_best(
    accuracy: np.ndarray, uncertainty: Uncertainty, row_count: int | None = None, level: float = LEVEL
) -> np.ndarray:
    """Which rows may be the best: a set that holds the truly best row with a confidence of 1 - `level`, bool `[R]`.

    Hsu's multiple comparisons with the best (1984): row i stays unless some difference of a row j from it, in standard
    errors, exceeds the 1 - `level` quantile of the largest of these R - 1 correlated differences if all rows were equally
    good. Differences have their own degrees of freedom, so they are compared as normal scores of their one-sided p-values.
    The quantile is that of 20,000 draws from a fixed seed, where it is not clear without them.

    Args:
        accuracy: percent `[R]`.
        uncertainty: of the rows.
        row_count: number of rows of the board, R or more; the level is shared among them.
        level: see above.
    """
    count = len(accuracy)
    if count < 2:
        return np.ones(count, bool)
    level = level * (count - 1) / max((row_count or count) - 1, 1)
    is_better = accuracy[:, None] > accuracy[None, :]  # [j, i]
    one_sided = np.where(is_better, uncertainty.p_values(accuracy) / 2, 0.5)
    largest = -ndtri(one_sided.min(0))
    stays = largest <= -ndtri(level)
    unclear = np.flatnonzero(~stays & (largest <= -ndtri(level / (count - 1))))
    if len(unclear):
        stays[unclear] = largest[unclear] <= _largest_of_equals(uncertainty, unclear, level)
    return np.asarray(stays)


def _largest_of_equals(uncertainty: Uncertainty, rows: np.ndarray, level: float) -> np.ndarray:
    """The 1 - `level` quantile of the largest difference of any row from each of some rows, in standard errors."""
    known = np.flatnonzero(~np.isnan(np.diag(uncertainty.clips)))
    values, vectors = np.linalg.eigh(uncertainty.clips[np.ix_(known, known)])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # the one that does not depend on the vectors' signs
    rng = np.random.default_rng(0)
    maxima = np.empty((len(rows), _DRAWS))
    step = max(1, _AT_A_TIME // len(known))
    for start in range(0, _DRAWS, step):
        drawn = root @ rng.standard_normal((len(known), min(step, _DRAWS - start)))
        for place, row in enumerate(np.searchsorted(known, rows)):
            error = np.sqrt(((root - root[row]) ** 2).sum(1))
            apart = error > 1e-9 * max(float(error.max()), 1e-300)
            largest = ((drawn[apart] - drawn[row]) / error[apart][:, None]).max(0)
            maxima[place, start : start + step] = largest
    return np.asarray(np.quantile(maxima, 1 - level, axis=1))
