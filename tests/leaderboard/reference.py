"""The statistics of a board as a loop over all pairs of its rows: what `ranking` gives, without blocks and limits."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from fsar_bench.leaderboard.intervals import LEVEL
from fsar_bench.leaderboard.jackknife import FEW_EPISODES, jackknife_over_clips, unpaired
from fsar_bench.leaderboard.rows import Row
from fsar_bench.plan import EpisodePlan


def pairwise_p_values(rows: list[Row], plans: list[EpisodePlan]) -> np.ndarray:
    """p-value of each pair of rows, as if there were no others, `[R, R]`."""
    p = np.ones((len(rows), len(rows)))
    for i, j in combinations(range(len(rows)), 2):
        first, second = plans[i], plans[j]
        shared = (first.support == second.support).all((1, 2)) & (first.query == second.query).all((1, 2))
        right = np.stack([rows[i].right(), rows[j].right()])
        if shared.sum() >= FEW_EPISODES:
            right = right[:, shared]
            arrays = {name: getattr(first, name)[shared] for name in ("classes", "support", "query")}
            error = jackknife_over_clips(right, **arrays).difference(0, 1)
        else:
            error = unpaired(
                *(
                    jackknife_over_clips(of_row[None], classes=plan.classes, support=plan.support, query=plan.query)
                    for of_row, plan in zip(right, (first, second), strict=True)
                )
            )
        p[i, j] = p[j, i] = error.p_value(100 * float(right[0].mean() - right[1].mean()))
    return p


def holm_of_pairs(p: np.ndarray) -> np.ndarray:
    """p-values of all pairs, adjusted one after the other from the smallest."""
    out, largest = np.ones_like(p), 0.0
    pairs = sorted(combinations(range(len(p)), 2), key=lambda pair: p[pair])
    for done, (i, j) in enumerate(pairs):
        largest = max(largest, (len(pairs) - done) * p[i, j])
        out[i, j] = out[j, i] = min(largest, 1.0)
    return out


def ranks_of(accuracy: np.ndarray, p: np.ndarray) -> list[int]:
    """Ranks by leaders: each takes all that are left and not significantly different from it."""
    ranks, left = [0] * len(accuracy), sorted(range(len(accuracy)), key=lambda i: -accuracy[i])
    while left:
        tied = [i for i in left if i == left[0] or p[left[0], i] >= LEVEL]
        for i in tied:
            ranks[i] = len(accuracy) - len(left) + 1
        left = [i for i in left if i not in tied]
    return ranks
