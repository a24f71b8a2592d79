"""Uncertainty of accuracies over episodes and over clips, and of differences of two accuracies.

Notation: R rows are compared on E episodes of N classes with K supports and q queries per class, Q = N q queries per
episode. y[e, j] is 1 where query j of episode e is right (or the share of seeds in which it is), M = E Q is the number of
queries, and the accuracy is the mean of y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from fsar_bench.leaderboard.outcomes import Source, blocks
from fsar_bench.leaderboard.places import ClassClips, Episodes, Places
from fsar_bench.results.metrics import NORMAL95

FEW_EPISODES = 30  # on fewer episodes than this, hardly any difference is significant
_NOISE = 1e-24  # covariances of shares below this are rounding errors
_CHUNK = 2**24  # numbers that classes may hold at a time, 128 MiB as float64


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of the accuracies of R rows.

    Attributes:
        episodes: covariance over episodes in squared percent, `[R, R]`.
        clips: covariance over clips and episodes in squared percent, `[R, R]`, see `jackknife`; NaN where a row has too few
            clips for it.
        degrees_of_freedom: of the variances over clips: of the rows on the diagonal, of differences of two rows off it.
        episode_count: E.
    """

    episodes: np.ndarray
    clips: np.ndarray
    degrees_of_freedom: np.ndarray
    episode_count: int

    def half_widths(self, source: Literal["episodes", "clips"]) -> np.ndarray:
        """Half-widths of the 95 % intervals over episodes or clips in percent, `[R]`; NaN where they are not known."""
        if source == "episodes":
            return NORMAL95 * np.sqrt(np.diag(self.episodes))
        return np.asarray(stdtrit(np.diag(self.degrees_of_freedom), 0.975) * np.sqrt(np.diag(self.clips)))

    def errors(self) -> np.ndarray:
        """Standard errors over clips in percent, never below those over episodes: of rows, and of differences, `[R, R]`."""
        return np.sqrt(np.maximum(_variances(self.clips), np.maximum(_variances(self.episodes), 0)))

    @property
    def errors_of_rows(self) -> np.ndarray:
        """Standard errors of the rows over clips in percent, `[R]`; NaN where they are not known."""
        return np.sqrt(np.diag(self.clips))

    def half_widths_of_differences(self) -> np.ndarray:
        """Half-widths of the 95 % intervals of differences over clips in percent, `[R, R]`; on the diagonal, of rows."""
        return np.asarray(stdtrit(self.degrees_of_freedom, 0.975) * self.errors())

    def difference(self, a: int, b: int) -> Difference:
        """Standard errors of the accuracy of row `a` minus that of row `b`."""
        two = self.of([a, b])
        over_episodes = math.sqrt(max(float(_variances(two.episodes)[0, 1]), 0.0))
        over_clips = float(two.errors()[0, 1])
        freedom = float(two.degrees_of_freedom[0, 1])
        return Difference(over_episodes, None if math.isnan(over_clips) else over_clips, freedom, self.episode_count)

    def of(self, rows: Sequence[int]) -> Uncertainty:
        """Of some of the rows."""
        chosen = np.ix_(rows, rows)
        return Uncertainty(
            self.episodes[chosen], self.clips[chosen], self.degrees_of_freedom[chosen], self.episode_count
        )

    def p_values(self, accuracy: np.ndarray) -> np.ndarray:
        """p-values of the differences of all pairs of rows, `[R, R]`: `difference(a, b).p_value(...)` for all a and b at once.

        Args:
            accuracy: percent `[R]`.
        """
        differences = accuracy[:, None] - accuracy[None, :]
        return _p_values(differences, self.errors(), self.degrees_of_freedom, self.episode_count)


@dataclass(frozen=True)
class Difference:
    """Standard errors of a difference of two accuracies, in percent.

    Attributes:
        episodes: over episodes.
        clips: over clips, never below that over episodes; None where it is not known.
        degrees_of_freedom: of the standard error over clips.
        episode_count: number of episodes that the standard errors are estimated from.
    """

    episodes: float
    clips: float | None
    degrees_of_freedom: float
    episode_count: int

    def half_width(self, level: float = 0.95) -> float | None:
        """Half-width of the interval over clips that covers a share `level`; None where it is not known."""
        return None if self.clips is None else float(stdtrit(self.degrees_of_freedom, (1 + level) / 2) * self.clips)

    def p_value(self, difference: float) -> float:
        """Two-sided p-value of a difference over clips, by Student's t; 1 where the standard error is not known.

        With a standard error of 0, a difference is significant only on `FEW_EPISODES` episodes or more.

        Args:
            difference: in percent.
        """
        if self.clips is None:
            return 1.0
        return float(_p_values(difference, self.clips, self.degrees_of_freedom, self.episode_count))


def _p_values(
    differences: np.ndarray | float, errors: np.ndarray | float, freedom: np.ndarray | float, episode_count: int
) -> np.ndarray:
    """Two-sided p-values by Student's t; see `Difference.p_value`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stdtr(freedom, -np.abs(differences) / errors)
    p = np.where(np.equal(errors, 0), 0.0 if episode_count >= FEW_EPISODES else 1.0, p)
    return np.where(np.equal(differences, 0) | np.isnan(errors), 1.0, p)


def _variances(covariance: np.ndarray) -> np.ndarray:
    """Variances of the rows on the diagonal, of the differences of two rows off it, `[R, R]`."""
    of_rows = np.diag(covariance)
    out = of_rows[:, None] + of_rows[None, :] - 2 * covariance
    np.fill_diagonal(out, of_rows)
    return out


@dataclass(frozen=True)
class _Plan:
    classes: np.ndarray
    support: np.ndarray
    query: np.ndarray


def jackknife_over_clips(
    right: np.ndarray,
    *,
    classes: np.ndarray,
    support: np.ndarray,
    query: np.ndarray,
    units: np.ndarray | None = None,
    ignores_supports: np.ndarray | None = None,
) -> Uncertainty:
    """`jackknife` of rows that share their episodes clip by clip.

    Args:
        right: float `[R, E, Q]`, 1 where a row is right.
        classes: class numbers `[E, N]`.
        support: clip numbers `[E, N, K]`.
        query: clip numbers `[E, N, q]`; query i of class n is column n q + i of `right`.
        units: number of the recording of each clip, by clip number; None: every clip is one of its own.
        ignores_supports: whether the predictions of each row do not depend on supports, bool `[R]`; None: no row's.
    """
    places = Places.of([_Plan(classes, support, query)], units)
    return jackknife(right, places, ignores_supports=ignores_supports)


def jackknife_of_plans(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    units: np.ndarray | None = None,
    ignores_supports: np.ndarray | None = None,
) -> Uncertainty:
    """`jackknife` of rows on plans that differ in clips, as where some were missing: (right, classes, support, query) of each."""
    plans: list[Episodes] = [_Plan(*part[1:]) for part in parts]
    plan_of_row = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    right = np.concatenate([part[0] for part in parts])
    return jackknife(right, Places.of(plans, units), plan_of_row, ignores_supports)


def jackknife(
    right: Source,
    places: Places,
    plan_of_row: np.ndarray | None = None,
    ignores_supports: np.ndarray | None = None,
) -> Uncertainty:
    """Covariances of the accuracies of rows: over episodes, and by an infinitesimal jackknife over clips within classes.

    After Efron 1982; that chance is subtracted, Wager, Hastie and Efron 2014. The covariance over clips is

        sum over classes k of V_k  +  X  +  the covariance over episodes,

    with V_k from `ClassInfluence.contribution`, and X the covariance of the influences of classes that share units. Each V_k
    is free of what episodes contribute by chance, so the covariance over episodes is added. Classes are held fixed. A
    variance over clips is never reported below that over episodes.

    Clips of one recording are not independent: they are one unit, whose influence is the sum of its clips'. Units may span
    classes.

    Rows on different plans, as where clips were missing, are compared on all episodes: a clip that a plan lacks has no
    influence on its rows.

    The degrees of freedom (see `degrees_of_freedom`) are at least max((C - 1) / 2, 2) for C classes. In a class of at most
    K + 1 clips, or of one unit, the effect of other clips cannot be seen: then a row has no covariance over clips. (K is 0
    for rows that ignore their supports.)

    The definition has no random numbers, so there is no seed. It assumes that a prediction depends on its own query alone;
    for transductive methods, the effect of a clip on the other queries of its episode is left out.

    Memory is bounded: the outcomes of `outcomes.BLOCK` queries are looked at at a time, and sums over episodes are kept.

    Args:
        right: float `[R, E, Q]`, 1 where a row is right, query i of class n in column n q + i; or an object of that shape
            whose slices are such arrays.
        places: of the P plans.
        plan_of_row: number of each row's plan, `[R]`; None: all have the first.
        ignores_supports: whether the predictions of each row do not depend on supports, bool `[R]`; None: no row's.

    Returns:
        Covariances in squared percent.
    """
    R, E, Q = right.shape
    plans = np.zeros(R, np.int64) if plan_of_row is None else np.asarray(plan_of_row)
    ignores = np.zeros(R, bool) if ignores_supports is None else np.asarray(ignores_supports)
    rows = _Rows(right, places, plans, ignores)
    over_episodes = _covariance_over_episodes(right)
    total, squares = np.zeros((R, R)), np.zeros((R, R))
    across, within = np.zeros((R, places.shared_units)), np.zeros((R, R))
    for influence in _influences_of_all(rows):
        contribution = _without_noise(influence.contribution(E * Q))
        total += contribution
        squares += _variances(contribution) ** 2
        if places.shared_units:
            units, shared = influence.on_shared_units(E * Q)
            across[:, units] += shared
            within += shared @ shared.T
    over_clips = total + across @ across.T - within + over_episodes
    variances = np.maximum(_variances(over_clips), _variances(over_episodes))
    freedom = degrees_of_freedom(_variances(total), squares, len(places), variances)
    too_small = np.diag(over_clips) < np.diag(over_episodes)  # clips add nothing to the chance of the episodes
    over_clips[too_small] = over_episodes[too_small]
    over_clips[:, too_small] = over_episodes[:, too_small]
    least = max((len(places) - 1) / 2, 2)
    return Uncertainty(1e4 * over_episodes, 1e4 * over_clips, np.clip(freedom, least, 1e6), E)


def _covariance_over_episodes(right: Source) -> np.ndarray:
    """Covariance of the mean accuracies over episodes, `[R, R]`: sum of products of deviations / (E (E - 1))."""
    row_count, episode_count, query_count = right.shape
    mean, out = np.zeros((row_count, 1)), np.zeros((row_count, row_count))
    for part in blocks(right.shape):
        mean += (_per_episode(right[:, part]) / query_count).sum(1, keepdims=True)
    mean /= episode_count
    for part in blocks(right.shape):
        deviation = _per_episode(right[:, part]) / query_count - mean
        out += deviation @ deviation.T
    return _without_noise(out / (episode_count * max(episode_count - 1, 1)))


def _without_noise(covariance: np.ndarray) -> np.ndarray:
    """With 0 for what rounding leaves of it: rows that are right everywhere have no variance."""
    return np.where(np.abs(covariance) < _NOISE, 0.0, covariance)


@dataclass(frozen=True)
class _Rows:
    """R rows with their places: what the influences of clips are computed from.

    Attributes:
        right: outcomes of shape `[R, E, Q]`.
        places: of the plans.
        plan: number of each row's plan, `[R]`.
        ignores_supports: bool `[R]`.
    """

    right: Source
    places: Places
    plan: np.ndarray
    ignores_supports: np.ndarray

    def classes_of(self, numbers: range, part: slice) -> Iterator[ClassEpisodes]:
        """Some classes in the episodes of a part of the plans; values are no deviations yet."""
        places, outcomes = self.places, self.right[:, part]
        by_class = outcomes.reshape(*outcomes.shape[:2], places.clips[0].shape[1], -1)
        right_per_episode = _per_episode(outcomes)
        for number in numbers:
            episode, place = places.where(number, part)
            within = episode - part.start
            queries, share = by_class[:, within, place], self.share_of_rivals(number)
            own = np.where(self.ignores_supports[:, None], 0.0, 1 - share[:, None]) * _per_episode(queries)
            yield ClassEpisodes(
                number=number,
                query_values=queries,
                support_values=own + share[:, None] * right_per_episode[:, within],
                clips=tuple(of_plan[episode, place] for of_plan in places.clips),
                shot=places.shot,
            )

    def share_of_rivals(self, number: int) -> np.ndarray:
        """How much a right query of another class counts for the supports of a class, `[R]`: (n - 1 - K) / (n - K).

        What a clip does as a query, and as a support to the queries of its own class, is seen weakened by
        (n - 1 - K) / (n - 1), as it leaves the other places to other clips, and the weight of the class makes up for that.
        What it does as a support to other classes is weakened by other supports alone, by (n - K) / (n - 1).
        """
        n, K = self.places.of_class[number].count[self.plan], self.places.shot
        return np.where(self.ignores_supports, 0.0, np.maximum(n - 1 - K, 0) / np.maximum(n - K, 1))

    def means(self, numbers: range) -> dict[int, ClassMeans]:
        """Means of some classes over all blocks of episodes."""
        rows = self.right.shape[0]
        of_queries, of_episodes = ({number: np.zeros(rows) for number in numbers} for _ in range(2))
        for part in blocks(self.right.shape):
            for of_class in self.classes_of(numbers, part):
                of_queries[of_class.number] += of_class.query_values.sum((1, 2))
                of_episodes[of_class.number] += of_class.support_values.sum(1)
        episodes, queries = np.diff(self.places.start), self.places.per_class - self.places.shot
        return {k: ClassMeans(of_queries[k] / (episodes[k] * queries), of_episodes[k] / episodes[k]) for k in numbers}


def _influences_of_all(rows: _Rows) -> Iterator[ClassInfluence]:
    """What each class contributes, summed over blocks of episodes; as many classes at a time as memory allows."""
    R, places = rows.right.shape[0], rows.places
    at_a_time = max(1, _CHUNK // (R * R + R * places.most_clips))
    parts = list(blocks(rows.right.shape))
    for first in range(0, len(places), at_a_time):
        numbers = range(first, min(first + at_a_time, len(places)))
        out = [ClassInfluence.none(rows, number) for number in numbers]
        means = rows.means(numbers) if len(parts) > 1 else dict.fromkeys(numbers)
        for part in parts:
            for influence, of_class in zip(out, rows.classes_of(numbers, part), strict=True):
                influence.add(of_class.minus(means[of_class.number]))
        yield from out


@dataclass(frozen=True)
class ClassEpisodes:
    """The E_k episodes that hold one class, or some of them: what R rows make of them, and its clips in each of P plans.

    Attributes:
        number: of the class.
        query_values: y of each query of the class minus its mean over them, `[R, E_k, q]`.
        support_values: what the right queries of each episode count for each of the K supports of the class in it, minus the
            mean over these episodes, `[R, E_k]`: those of the class itself 1, those of other classes
            `_Rows.share_of_rivals`; 0 for rows that ignore supports.
        clips: clip of each support, then of each query, 0..n-1, `[E_k, K + q]` of each plan.
        shot: K.
    """

    number: int
    query_values: np.ndarray
    support_values: np.ndarray
    clips: tuple[np.ndarray, ...]
    shot: int

    def minus(self, means: ClassMeans | None) -> ClassEpisodes:
        """With values as deviations from their means; None: from the means of these episodes."""
        of_queries = self.query_values.mean((1, 2)) if means is None else means.of_queries
        of_episodes = self.support_values.mean(1) if means is None else means.of_episodes
        return replace(
            self,
            query_values=self.query_values - of_queries[:, None, None],
            support_values=self.support_values - of_episodes[:, None],
        )

    @property
    def values(self) -> np.ndarray:
        """Value of each place, supports before queries, `[R, E_k, K + q]`."""
        supports = np.repeat(self.support_values[..., None], self.shot, axis=2)
        return np.concatenate([supports, self.query_values], axis=2)


@dataclass(frozen=True)
class ClassMeans:
    """Means over all episodes of one class: of its queries, and of the value of a support, `[R]`."""

    of_queries: np.ndarray
    of_episodes: np.ndarray


@dataclass(frozen=True)
class ClassInfluence:
    """Sums over episodes of one class, of which any number can be added.

    Attributes:
        clips: of the class in P plans.
        plan: number of each row's plan, `[R]`.
        diluting: number of places of the class in an episode that leave less of a clip's effect to be seen, `[R]`: K, or 0 for
            rows that ignore supports.
        sums: influence of each clip, not yet centred, see `clip_sums`, `[R, n]`.
        chance: see `chance_influence`, `[R, R]`.
    """

    clips: ClassClips
    plan: np.ndarray
    diluting: np.ndarray
    sums: np.ndarray
    chance: np.ndarray

    @classmethod
    def none(cls, rows: _Rows, number: int) -> ClassInfluence:
        """Of no episodes yet."""
        R, clips = rows.right.shape[0], rows.places.of_class[number]
        diluting = np.where(rows.ignores_supports, 0, rows.places.shot)
        return cls(clips, rows.plan, diluting, np.zeros((R, len(clips.unit))), np.zeros((R, R)))

    def add(self, of_class: ClassEpisodes) -> None:
        """Add episodes."""
        np.add(self.sums, clip_sums(of_class, self.plan, self.sums.shape[1]), out=self.sums)
        np.add(self.chance, chance_influence(of_class, self.plan, self.clips.count), out=self.chance)

    @property
    def psi(self) -> np.ndarray:
        """Influence of each clip on the accuracy, times the number of queries M, `[R, n]`: zero on average.

        0 for clips that the row's plan lacks.
        """
        present = self.clips.present[self.plan]
        mean = self.sums.sum(1) / present.sum(1)
        return np.where(present, self.sums - mean[:, None], 0.0)

    @property
    def of_units(self) -> np.ndarray:
        """Influence of each unit: the sum of that of its clips, times the root of the row's weight, `[R, units]`."""
        psi = self.psi
        is_a_clip = np.array_equal(self.clips.unit, np.arange(psi.shape[1]))
        sums = psi if is_a_clip else _sums(self.clips.unit, psi, len(self.clips.shared))
        return np.sqrt(self._weight)[:, None] * sums

    @property
    def _weight(self) -> np.ndarray:
        """W of each row, see `contribution`; NaN where the effect of other clips cannot be seen."""
        n, per_unit = self.clips.count[self.plan], self.clips.per_unit[self.plan]
        seen = n - 1 - self.diluting
        known = (seen > 0) & (self.clips.unit_count[self.plan] > 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = 1 / (1 - ((per_unit / n[:, None]) ** 2).sum(1)) * ((n - 1) / seen) ** 2
        return np.where(known, weight, np.nan)

    def contribution(self, query_count: int) -> np.ndarray:
        """Contribution V_k of the class to the covariance over clips, `[R, R]`.

            V_k = w (sum over units g of psi[g] psi[g]' - s chance) / M^2,
            w = 1 / (1 - sum over units of (m / n)^2) ((n - 1) / (n - 1 - K))^2,
            s = sum over units of m (n - m) / (n (n - 1))

        for n clips, in units of m clips each. Where every clip is a unit, w begins with n / (n - 1), and s is 1. The second
        factor of w is there because a clip that takes one place of an episode leaves the K supports to other clips. chance is
        what psi would give if the clips were dealt to the finitely many episodes by chance (see `chance_influence`).

        Rows of different plans have their own w and s: those of a pair are geometric means.

        Args:
            query_count: M.
        """
        n, per_unit = self.clips.count[self.plan], self.clips.per_unit[self.plan]
        with np.errstate(divide="ignore", invalid="ignore"):
            s = (per_unit * (n[:, None] - per_unit)).sum(1) / (n * (n - 1))
        root = np.sqrt(self._weight * s)
        of_units = self.of_units
        return np.asarray((of_units @ of_units.T - root[:, None] * self.chance * root[None, :]) / query_count**2)

    def on_shared_units(self, query_count: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the units that other classes have as well, and their influence as shares of the queries, `[R, units]`."""
        is_shared = self.clips.shared >= 0
        return self.clips.shared[is_shared], self.of_units[:, is_shared] / query_count


def clip_sums(of_class: ClassEpisodes, plan: np.ndarray, clip_count: int) -> np.ndarray:
    """How far the queries that a clip takes part in deviate from those of its class, as query or as support, `[R, n]`.

        sum over queries j that are c of (y[j] - mean of the queries of its class)
        + sum over episodes e that c supports of (value of a support in e - mean of that over episodes with its class)

    for each clip c. psi is this minus its mean over the clips of the class.

    Args:
        of_class: the episodes.
        plan: number of each row's plan, `[R]`.
        clip_count: n.
    """
    out = np.empty((len(plan), clip_count))
    for number, clips in enumerate(of_class.clips):
        rows = plan == number
        if not rows.any():
            continue
        queries, supports = of_class.query_values[rows], of_class.support_values[rows]
        sums = _sums(clips[:, of_class.shot :].ravel(), queries.reshape(len(queries), -1), clip_count)
        sums += _sums(clips[:, : of_class.shot].ravel(), np.repeat(supports, of_class.shot, axis=1), clip_count)
        out[rows] = sums
    return out


def chance_influence(of_class: ClassEpisodes, plan: np.ndarray, clip_count: np.ndarray) -> np.ndarray:
    """Expectation of the sum of psi psi' of a class if its clips were dealt to its places by chance, `[R, R]`.

    An episode has K + q places for a class, with values z (of queries and of supports, see `ClassEpisodes`). Dealing n clips to
    them without replacement gives sum z z' - (sum z)(sum z)' / n in expectation; episodes add up. For rows of two plans, the
    first sum is over the clips that an episode has in both, and n is the geometric mean.

    Args:
        of_class: the episodes.
        plan: number of each row's plan, `[R]`.
        clip_count: n of each plan, `[P]`.
    """
    K = of_class.shot
    sums = (of_class.query_values.sum(2) + K * of_class.support_values) / np.sqrt(clip_count[plan])[:, None]
    if len(of_class.clips) > 1:
        return _products_on_shared_clips(of_class, plan) - sums @ sums.T
    queries = of_class.query_values.reshape(len(of_class.query_values), -1)
    supports = of_class.support_values
    return np.asarray(queries @ queries.T + K * supports @ supports.T - sums @ sums.T)


def _products_on_shared_clips(of_class: ClassEpisodes, plan: np.ndarray) -> np.ndarray:
    """Sum of z z' over the clips that an episode has in the plans of both rows, `[R, R]`."""
    clips = np.stack(of_class.clips).astype(np.int64)  # [P, E_k, K + q]
    P, count, places = clips.shape
    span, out = int(clips.max(initial=0)) + 1, np.zeros((len(plan), len(plan)))
    step = max(1, _CHUNK // (len(plan) * P * places))
    values = of_class.values
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        keys = np.arange(part.stop - start)[:, None] * span + clips[:, part]
        cells, cell = np.unique(keys, return_inverse=True)
        cell = cell.reshape(P, -1)
        spread = np.zeros((len(plan), len(cells)))
        for number in range(P):
            rows = np.flatnonzero(plan == number)
            if not len(rows):
                continue
            spread[rows[:, None], cell[number]] = values[rows, part].reshape(len(rows), -1)
        out += spread @ spread.T
    return out


def degrees_of_freedom(total: np.ndarray, squares: np.ndarray, class_count: int, variances: np.ndarray) -> np.ndarray:
    """Degrees of freedom of variances that are sums over classes: 2 V^2 / (C s^2), `[R, R]`; infinite where s is 0.

    All `[R, R]` are of the rows on the diagonal and of differences of two rows off it.

    Args:
        total: sum of the variances that the C classes contribute (by their V_k), `[R, R]`.
        squares: sum of their squares, `[R, R]`; s is the standard deviation of V_k.
        class_count: C.
        variances: V, `[R, R]`.
    """
    mean = total / class_count
    of_classes = np.maximum(squares - class_count * mean**2, 0) / max(class_count - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(2 * variances**2 / (class_count * of_classes), nan=np.inf, posinf=np.inf)


def _per_episode(outcomes: np.ndarray) -> np.ndarray:
    """Sums over queries, `[R, E]`, of outcomes `[R, E, Q]`; few queries are faster column by column, with the same bits."""
    if outcomes.shape[2] >= 8:
        return np.asarray(outcomes.sum(2))
    total = outcomes[..., 0].copy()
    for column in range(1, outcomes.shape[2]):
        total += outcomes[..., column]
    return total


def _sums(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums `[R, size]` of values `[R, n]` by index `[n]`."""
    return np.stack([np.bincount(index, row, minlength=size) for row in values])
