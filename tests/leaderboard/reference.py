"""The statistics of a board as loops: over clips, episodes and pairs of rows, without blocks, matrices and limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from fsar_bench.leaderboard.rows import Row
from fsar_bench.plan import EpisodePlan


@dataclass
class SlowRow:
    """A row of outcomes `[E, Q]`, its plan, whether it ignores supports, and the unit of each clip (None: the clip itself)."""

    right: np.ndarray
    plan: EpisodePlan
    ignores_supports: bool = False
    units: np.ndarray | None = None

    def places(self, k: int) -> dict[int, dict[int, float]]:
        """Value of each clip of a class in each episode that holds it: what its queries deviate by, or those it supports."""
        plan, q = self.plan, self.plan.query.shape[2]
        held = [(e, list(plan.classes[e]).index(k)) for e in range(len(plan)) if k in plan.classes[e]]
        of_class = np.mean([self.right[e, n * q + i] for e, n in held for i in range(q)])
        used = {int(clip) for e, n in held for clip in (*plan.query[e, n], *plan.support[e, n])}
        K, count = plan.support.shape[2], len(used)
        whole_of = {}  # other classes see a support through fewer of its places than its own class does
        for e, n in held:
            own = self.right[e, n * q : n * q + q].sum()
            whole_of[e] = own + (count - 1 - K) / (count - K) * (self.right[e].sum() - own)
        of_episodes = np.mean(list(whole_of.values()))
        out: dict[int, dict[int, float]] = {}
        for e, n in held:
            out[e] = {int(plan.query[e, n, i]): self.right[e, n * q + i] - of_class for i in range(q)}
            whole = 0.0 if self.ignores_supports else whole_of[e] - of_episodes
            out[e] |= {int(clip): whole for clip in plan.support[e, n]}
        return out

    def influence(self, k: int) -> tuple[dict[int, float], float, float]:
        """Centred influence of each unit of a class, its weight w, and its s."""
        sums: dict[int, float] = defaultdict(float)
        for values in self.places(k).values():
            for clip, value in values.items():
                sums[clip] += value
        mean, n = sum(sums.values()) / len(sums), len(sums)
        psi: dict[int, float] = defaultdict(float)
        m: dict[int, int] = defaultdict(int)
        for clip, value in sums.items():
            unit = clip if self.units is None else int(self.units[clip])
            psi[unit] += value - mean
            m[unit] += 1
        K = 0 if self.ignores_supports else self.plan.support.shape[2]
        w = 1 / (1 - sum((size / n) ** 2 for size in m.values())) * ((n - 1) / (n - 1 - K)) ** 2
        return psi, w, sum(size * (n - size) for size in m.values()) / (n * (n - 1))


def slow_covariance(a: SlowRow, b: SlowRow) -> tuple[float, list[float], float]:
    """Covariance over clips of two rows in squared percent, the part of each class, and the covariance over episodes."""
    M, E = a.right.size, len(a.right)
    classes, parts = sorted(map(int, np.unique(a.plan.classes))), []
    of_a, of_b = ({k: row.influence(k) for k in classes} for row in (a, b))
    for k in classes:
        (psi_a, w_a, s_a), (psi_b, w_b, s_b) = of_a[k], of_b[k]
        whole = sum(value * psi_b.get(unit, 0.0) for unit, value in psi_a.items())
        parts.append((w_a * w_b) ** 0.5 * (whole - (s_a * s_b) ** 0.5 * _chance(a.places(k), b.places(k))) / M**2)
    across = 0.0
    for k in classes:
        for other in classes:
            if other != k:
                weight = (of_a[k][1] * of_b[other][1]) ** 0.5
                across += weight * sum(v * of_b[other][0].get(u, 0.0) for u, v in of_a[k][0].items()) / M**2
    over_episodes = float(np.cov(a.right.mean(1), b.right.mean(1))[0, 1]) / E
    return 1e4 * (sum(parts) + across + over_episodes), parts, 1e4 * over_episodes


def _chance(a: dict[int, dict[int, float]], b: dict[int, dict[int, float]]) -> float:
    """What the product of two rows' influences would be if clips were dealt to the places of a class by chance."""
    n_a, n_b = (len({clip for values in row.values() for clip in values}) for row in (a, b))
    return sum(
        sum(value * b[e][clip] for clip, value in a[e].items() if clip in b[e])
        - sum(a[e].values()) * sum(b[e].values()) / (n_a * n_b) ** 0.5
        for e in a
    )


def slow_difference(a: SlowRow, b: SlowRow) -> tuple[float, float]:
    """Standard error of a difference in percent, over clips and never below that over episodes; and its degrees of freedom."""
    (aa, of_aa, ep_aa), (bb, of_bb, ep_bb), (ab, of_ab, ep_ab) = (
        slow_covariance(*pair) for pair in ((a, a), (b, b), (a, b))
    )
    parts = np.array(of_aa) + np.array(of_bb) - 2 * np.array(of_ab)
    over_episodes = ep_aa + ep_bb - 2 * ep_ab
    freedom = 2 * (max(aa + bb - 2 * ab, over_episodes) / 1e4) ** 2 / (len(parts) * parts.var(ddof=1))
    if aa < ep_aa or bb < ep_bb:  # clips add nothing to the chance of the episodes
        aa, bb, ab = (ep_aa if aa < ep_aa else aa), (ep_bb if bb < ep_bb else bb), ep_ab
    variance = max(aa + bb - 2 * ab, over_episodes)
    return float(variance**0.5), float(np.clip(freedom, max((len(parts) - 1) / 2, 2), 1e6))


def slow_freedom(row: SlowRow) -> float:
    """Degrees of freedom of a row's variance over clips."""
    covariance, parts, over_episodes = slow_covariance(row, row)
    freedom = 2 * (max(covariance, over_episodes) / 1e4) ** 2 / (len(parts) * np.var(parts, ddof=1))
    return float(np.clip(freedom, max((len(parts) - 1) / 2, 2), 1e6))


def pairwise_p_values(rows: Sequence[Row], plans: Sequence[EpisodePlan]) -> np.ndarray:
    """p-value of each pair of rows over clips and trainings, as if there were no others, `[R, R]`."""
    p = np.ones((len(rows), len(rows)))
    slow = [SlowRow(row.right(), plan) for row, plan in zip(rows, plans, strict=True)]
    trained = list(_of_trainings(rows))
    for i, j in combinations(range(len(rows)), 2):
        error, freedom = slow_difference(slow[i], slow[j])
        shares = {row: trained[i].get(row, 0.0) + trained[j].get(row, 0.0) for row in {*trained[i], *trained[j]}}
        squares = {row: float(np.var(accuracies_of(rows[row]), ddof=1)) for row in shares}
        variance = error**2 + sum(share * squares[row] for row, share in shares.items())
        terms = error**4 / freedom
        terms += sum((share * squares[row]) ** 2 / (len(rows[row].seeds) - 1) for row, share in shares.items())
        t = abs(rows[i].accuracy - rows[j].accuracy) / variance**0.5
        p[i, j] = p[j, i] = 2 * stats.t.sf(t, variance**2 / terms)
    return p


def accuracies_of(row: Row) -> list[float]:
    """Of each training of a row."""
    return [seed.result.metrics.accuracy for seed in row.seeds]


def _of_trainings(rows: Sequence[Row]) -> Iterator[dict[int, float]]:
    """What each row's variance over trainings has of the s^2 of rows with several trainings, by their number."""
    several = {number: len(row.seeds) - 1 for number, row in enumerate(rows) if row.is_trained and len(row.seeds) > 1}
    freedom = sum(several.values())
    for number, row in enumerate(rows):
        count = len(row.seeds)
        if not row.is_trained:
            yield {}
        elif count < 3 and freedom >= 2:
            yield {other: share / freedom / count for other, share in several.items()}
        else:
            yield {number: 1 / count} if count > 1 else {}


def holm_of_pairs(p: np.ndarray) -> np.ndarray:
    """p-values of all pairs, adjusted one after the other from the smallest."""
    out, largest = np.ones_like(p), 0.0
    pairs = sorted(combinations(range(len(p)), 2), key=lambda pair: p[pair])
    for done, (i, j) in enumerate(pairs):
        largest = max(largest, (len(pairs) - done) * p[i, j])
        out[i, j] = out[j, i] = min(largest, 1.0)
    return out


def ranks_of(accuracy: np.ndarray, p: np.ndarray) -> list[tuple[int, int]]:
    """Best and worst rank of each row, by counting the rows that are significantly better and worse."""
    out = []
    for i, own in enumerate(accuracy):
        apart = [j for j in range(len(accuracy)) if p[i, j] < 0.05]
        better, worse = sum(accuracy[j] > own for j in apart), sum(accuracy[j] < own for j in apart)
        out.append((1 + better, len(accuracy) - worse))
    return out
