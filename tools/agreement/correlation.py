"""Rank correlations of two lists of accuracies, with intervals that suit few systems. Needs numpy and scipy alone.

Spearman's rho is the correlation of ranks (ties get their mean rank), Kendall's tau-b counts pairs in the same and in the
opposite order. Their intervals are those of Bonett and Wright (Psychometrika 65, 2000) on Fisher's scale: variance
(1 + rho^2 / 2) / (n - 3) and 0.437 / (n - 4). They speak of other systems from the same literature: that our accuracies are
measured with noise is part of what differs between such systems, so it is inside. `over_noise` tells how much of it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.special import stdtrit
from scipy.stats import rankdata

NORMAL95 = 1.959963984540054
FEWEST = 4  # systems of a ranking that says anything: of 3, one order in 6 agrees by chance
EXACT = 8  # systems up to which all orders are counted: 40,320
DRAWS = 20_000  # random orders of more systems, and draws of our own noise
_TIE = 1e-9  # differences of correlations below it come from rounding


@dataclass(frozen=True)
class Interval:
    """A correlation with its 95 % interval; the ends are None where there are too few systems for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pairs:
    """Pairs of systems in the same order in both lists, in the opposite order, and tied in the first or in the second."""

    same: int
    opposite: int
    tied_first: int
    tied_second: int
    all: int

    @classmethod
    def of(cls, first: Sequence[float], second: Sequence[float]) -> Pairs:
        """Count the pairs of two lists of the same systems."""
        a, b = np.asarray(first, float), np.asarray(second, float)
        i, j = np.triu_indices(len(a), 1)
        x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        counts = ((x * y > 0).sum(), (x * y < 0).sum(), (x == 0).sum(), (y == 0).sum())
        return cls(*map(int, counts), all=len(i))

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def tau(self) -> float:
        """Kendall's tau-b; not a number where one list has ties alone."""
        untied = (self.all - self.tied_first) * (self.all - self.tied_second)
        return (self.same - self.opposite) / math.sqrt(untied) if untied else math.nan


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rho of two lists of the same systems; not a number where one list has ties alone."""
    return float(_rho(rankdata(first), rankdata(second)))


def _rho(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of ranks `[..., n]`."""
    a, b = first - first.mean(-1, keepdims=True), second - second.mean(-1, keepdims=True)
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), spread, out=np.full(spread.shape, np.nan), where=spread > 0)


def spearman_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Spearman's rho with its interval over systems (Bonett and Wright).

    Perfect agreement is taken halfway to the next possible value, 1 - 6 / (n (n^2 - 1)): Fisher's scale has no room for 1.
    """
    n, rho = len(first), spearman(first, second)
    if n < FEWEST or math.isnan(rho):
        return Interval(rho, None, None)
    held = _held(rho, 1 - 6 / (n * (n * n - 1)))
    return _on_fishers_scale(rho, held, NORMAL95 * math.sqrt((1 + held * held / 2) / (n - 3)))


def kendall_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Kendall's tau-b with its interval over systems (Bonett and Wright); see `spearman_interval` for perfect agreement."""
    n, tau = len(first), Pairs.of(first, second).tau
    if n < FEWEST + 1 or math.isnan(tau):
        return Interval(tau, None, None)
    return _on_fishers_scale(tau, _held(tau, 1 - 2 / (n * (n - 1))), NORMAL95 * math.sqrt(0.437 / (n - 4)))


def _held(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _on_fishers_scale(value: float, held: float, half_width: float) -> Interval:
    z = math.atanh(held)
    return Interval(value, math.tanh(z - half_width), max(value, math.tanh(z + half_width)))


def chance(first: Sequence[float], second: Sequence[float], seed: int = 0) -> float:
    """How often unrelated orders agree at least as well, by Spearman's rho: the one-sided p-value of a permutation test.

    Up to `EXACT` systems all orders are counted; of more, `DRAWS` random ones and the one that was observed.
    """
    a, b = rankdata(first), rankdata(second)
    observed, n = _rho(a, b), len(a)
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))
        return float((_rho(a, b[orders]) >= observed - _TIE).mean())
    orders = np.random.default_rng([seed, n]).permuted(np.tile(b, (DRAWS, 1)), axis=1)
    return float((1 + (_rho(a, orders) >= observed - _TIE).sum()) / (1 + DRAWS))


def over_noise(
    first: Sequence[float], second: Sequence[float], widths: np.ndarray, seed: int = 0
) -> tuple[float, float] | None:
    """Where 95 % of Spearman's rho would lie with other clips and trainings of ours, the systems and figures being the same.

    Args:
        first: published figures.
        second: our accuracies in percent.
        widths: half-widths of the 95 % intervals of the differences of our rows in percent, `[n, n]`; not a number where
            they are not known.
        seed: of the draws.

    Returns:
        The ends; None where a width is not known. Noise is drawn around accuracies that have some already, so the middle of
        the range is somewhat nearer to 0 than rho.
    """
    if len(second) < FEWEST or np.isnan(widths).any():
        return None
    noise = np.random.default_rng([seed, len(second)]).standard_normal((DRAWS, len(second))) @ root_of_covariance(
        (widths / NORMAL95) ** 2
    )
    drawn = rankdata(np.asarray(second, float) + noise, axis=1)
    low, high = np.quantile(_rho(np.broadcast_to(rankdata(first), drawn.shape), drawn), [0.025, 0.975])
    return float(low), float(high)


def root_of_covariance(of_differences: np.ndarray) -> np.ndarray:
    """A symmetric root of a covariance whose differences have the variances `[n, n]`.

    Differences leave open what all rows have in common, and ranks do not depend on it: the covariance is the one whose rows
    sum to 0 (Gower's centring). Estimated variances may fit no covariance exactly: negative eigenvalues are set to 0. The
    symmetric root is the only one that does not depend on which eigenvectors a library finds.
    """
    n = len(of_differences)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-centre @ of_differences @ centre / 2)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@dataclass(frozen=True)
class Ranking:
    """One ranking of the literature and ours.

    Attributes:
        systems: names, the same in other rankings that have the system.
        first: published figures.
        second: our accuracies.
    """

    systems: tuple[str, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]

    def without(self, *systems: str) -> Ranking:
        """The ranking without some systems."""
        return self.only(*(name for name in self.systems if name not in systems))

    def only(self, *systems: str) -> Ranking:
        """The ranking of some of its systems."""
        kept = [place for place, name in enumerate(self.systems) if name in systems]
        parts = (self.systems, self.first, self.second)
        return Ranking(*(tuple(part[place] for place in kept) for part in parts))


def mean_spearman(rankings: Iterable[Ranking]) -> float:
    """Mean of Spearman's rho over rankings, each weighted by its number of systems less one."""
    each = [(len(ranking.systems) - 1, spearman(ranking.first, ranking.second)) for ranking in rankings]
    known = [(weight, rho) for weight, rho in each if not math.isnan(rho)]
    return sum(weight * rho for weight, rho in known) / sum(weight for weight, _ in known) if known else math.nan


def mean_interval(rankings: Sequence[Ranking]) -> Interval:
    """`mean_spearman` of the rankings with at least `FEWEST` systems, with its interval over systems.

    A jackknife on Fisher's scale. Rankings share systems, so a system is left out of all of them at once.
    """
    counted = [ranking for ranking in rankings if len(ranking.systems) >= FEWEST]
    systems = sorted({name for ranking in counted for name in ranking.systems})
    value, m = mean_spearman(counted), len(systems)
    if m <= FEWEST or math.isnan(value):
        return Interval(value, None, None)
    limit = 1 - 6 / (m * (m * m - 1))
    without = [mean_spearman([ranking.without(name) for ranking in counted]) for name in systems]
    z = np.arctanh([_held(rho, limit) for rho in without])
    error = math.sqrt((m - 1) / m * float(((z - z.mean()) ** 2).sum()))
    return _on_fishers_scale(value, _held(value, limit), float(stdtrit(m - 1, 0.975)) * error)


def most_disturbing(rankings: Sequence[Ranking]) -> tuple[str, float] | None:
    """The system without which `mean_spearman` of the rankings is highest, and what it is then; None without systems."""
    names = sorted({name for ranking in rankings for name in ranking.systems})
    without = {name: mean_spearman([ranking.without(name) for ranking in rankings]) for name in names}
    known = {name: rho for name, rho in without.items() if not math.isnan(rho)}
    return max(known.items(), key=lambda item: item[1]) if known else None
