"""Uncertainty of accuracies over episodes and over clips, and of differences of two accuracies.

Notation: R rows are compared on E episodes of N classes with K supports and q queries per class, Q = N q queries per
episode. y[e, j] is 1 where query j of episode e is right (or the share of seeds in which it is), M = E Q is the number of
queries, and the accuracy is the mean of y.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from fsar_bench.leaderboard.outcomes import Outcomes, blocks
from fsar_bench.results.metrics import NORMAL95

FEW_EPISODES = 30  # on fewer episodes than this, hardly any difference is significant
_CHUNK = 2**24  # numbers that classes may hold at a time, 128 MiB as float64


@dataclass(frozen=True)
class Uncertainty:
    """Uncertainty of the accuracies of R rows that share their episodes.

    Attributes:
        episodes: covariance over episodes in squared percent, `[R, R]`.
        clips: covariance over clips and episodes in squared percent, `[R, R]`, see `jackknife_over_clips`; None where a
            class has too few clips for it.
        degrees_of_freedom: of the variances over clips: of the rows on the diagonal, of differences of two rows off it.
        episode_count: E.
    """

    episodes: np.ndarray
    clips: np.ndarray | None
    degrees_of_freedom: np.ndarray
    episode_count: int

    def half_widths(self, source: Literal["episodes", "clips"]) -> np.ndarray | None:
        """Half-widths of the 95 % intervals over episodes or clips in percent, `[R]`; None where they are not known."""
        if source == "episodes":
            return NORMAL95 * np.sqrt(np.diag(self.episodes))
        if self.clips is None:
            return None
        return np.asarray(stdtrit(np.diag(self.degrees_of_freedom), 0.975) * np.sqrt(np.diag(self.clips)))

    def difference(self, a: int, b: int) -> Difference:
        """Standard errors of the accuracy of row `a` minus that of row `b`."""
        over_episodes = max(_variance_of_difference(self.episodes, a, b), 0.0)
        if self.clips is None:
            return Difference(math.sqrt(over_episodes), None, 1.0, self.episode_count)
        over_clips = max(_variance_of_difference(self.clips, a, b), over_episodes)
        freedom = float(self.degrees_of_freedom[a, b])
        return Difference(math.sqrt(over_episodes), math.sqrt(over_clips), freedom, self.episode_count)

    def p_values(self, accuracy: np.ndarray) -> np.ndarray:
        """p-values of the differences of all pairs of rows, `[R, R]`: `difference(a, b).p_value(...)` for all a and b at once.

        Args:
            accuracy: percent `[R]`.
        """
        if self.clips is None:
            return np.ones_like(self.episodes)
        differences = accuracy[:, None] - accuracy[None, :]
        variances = np.maximum(_variances(self.clips), np.maximum(_variances(self.episodes), 0))
        return _p_values(differences, np.sqrt(variances), self.degrees_of_freedom, self.episode_count)


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

    def half_width(self) -> float | None:
        """Half-width of the 95 % interval over clips; None where it is not known."""
        return None if self.clips is None else float(stdtrit(self.degrees_of_freedom, 0.975) * self.clips)

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
    return np.where(np.equal(differences, 0), 1.0, p)


def unpaired(first: Uncertainty, second: Uncertainty, i: int = 0, j: int = 0) -> Difference:
    """Unpaired difference of two rows without enough shared episodes (Welch-Satterthwaite degrees of freedom).

    Args:
        first: its row number `i` is compared.
        second: its row number `j` is compared.
        i: see above.
        j: see above.
    """
    over_episodes = math.sqrt(first.episodes[i, i] + second.episodes[j, j])
    episode_count = min(first.episode_count, second.episode_count)
    if first.clips is None or second.clips is None:
        return Difference(over_episodes, None, 1.0, episode_count)
    a, b = first.clips[i, i], second.clips[j, j]
    weighted = a**2 / first.degrees_of_freedom[i, i] + b**2 / second.degrees_of_freedom[j, j]
    freedom = float((a + b) ** 2 / weighted) if weighted else 1.0
    return Difference(over_episodes, math.sqrt(a + b), freedom, episode_count)


def _variance_of_difference(covariance: np.ndarray, a: int, b: int) -> float:
    return float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])


def _variances(covariance: np.ndarray) -> np.ndarray:
    """Variances of the rows on the diagonal, of the differences of two rows off it, `[R, R]`."""
    of_rows = np.diag(covariance)
    out = of_rows[:, None] + of_rows[None, :] - 2 * covariance
    np.fill_diagonal(out, of_rows)
    return out


def jackknife_over_clips(
    right: np.ndarray | Outcomes, *, classes: np.ndarray, support: np.ndarray, query: np.ndarray
) -> Uncertainty:
    """Covariances of the accuracies of rows: over episodes, and by an infinitesimal jackknife over clips within classes.

    After Efron 1982; for statistics of pairs and groups, Fafchamps and Gubert 2007. The covariance over clips is

        m / (m - 1) sum over classes k of V_k  +  the covariance over episodes,

    with V_k from `class_contribution` and m = max(M / number of clips that appear, 2), the number of times that a clip is a
    query on average. Each V_k is free of what episodes contribute by chance, so the covariance over episodes is added;
    m / (m - 1) corrects for the influence of clips that is removed with that chance part. Classes are held fixed. A variance
    over clips is never reported below that over episodes.

    The degrees of freedom (see `degrees_of_freedom`) are at least max((C - 1) / 2, 2) for C classes. A class of at most q + K
    clips puts all of them into each of its episodes, so the effect of other clips cannot be seen: then there is no
    covariance over clips.

    The definition has no random numbers, so there is no seed. It assumes that a prediction depends on its own query alone;
    for transductive methods, the effect of a clip on the other queries of its episode is left out.

    Memory is bounded: the outcomes of `outcomes.BLOCK` queries are looked at at a time, and sums over episodes are kept.

    Args:
        right: float `[R, E, Q]`, 1 where a row is right; or `Outcomes`.
        classes: class numbers `[E, N]`.
        support: clip numbers `[E, N, K]`.
        query: clip numbers `[E, N, q]`; query i of class n is column n q + i of `right`.

    Returns:
        Covariances in squared percent.
    """
    return jackknife(right, Places.of(classes, support, query))


def jackknife(right: np.ndarray | Outcomes, places: Places) -> Uncertainty:
    """`jackknife_over_clips` on the places of a plan, which are the same for all of its rows."""
    R, E, Q = right.shape
    over_episodes = _covariance_over_episodes(right)
    if places.have_too_few_clips:
        return Uncertainty(1e4 * over_episodes, None, np.ones((R, R)), E)
    total, squares = np.zeros((R, R)), np.zeros((R, R))
    for contribution in _contributions(right, places):
        total += contribution
        squares += _variances(contribution) ** 2
    queries_per_clip = max(E * Q / places.clip_count.sum(), 2.0)
    over_clips = total * queries_per_clip / (queries_per_clip - 1) + over_episodes
    variances = np.maximum(_variances(over_clips), _variances(over_episodes))
    freedom = degrees_of_freedom(_variances(total), squares, len(places), variances, queries_per_clip)
    too_small = np.diag(over_clips) < np.diag(over_episodes)  # clips add nothing to the chance of the episodes
    over_clips[too_small] = over_episodes[too_small]
    over_clips[:, too_small] = over_episodes[:, too_small]
    least = max((len(places) - 1) / 2, 2)
    return Uncertainty(1e4 * over_episodes, 1e4 * over_clips, np.clip(freedom, least, 1e6), E)


def _covariance_over_episodes(right: np.ndarray | Outcomes) -> np.ndarray:
    """Covariance of the mean accuracies over episodes, `[R, R]`: sum of products of deviations / (E (E - 1))."""
    row_count, episode_count, query_count = right.shape
    mean, out = np.zeros((row_count, 1)), np.zeros((row_count, row_count))
    for part in blocks(right.shape):
        mean += (_per_episode(right[:, part]) / query_count).sum(1, keepdims=True)
    mean /= episode_count
    for part in blocks(right.shape):
        deviation = _per_episode(right[:, part]) / query_count - mean
        out += deviation @ deviation.T
    return out / (episode_count * max(episode_count - 1, 1))


def _contributions(right: np.ndarray | Outcomes, places: Places) -> Iterator[np.ndarray]:
    """V_k of each class, `[R, R]`; as many classes at a time as memory allows."""
    R, E, Q = right.shape
    at_a_time = max(1, _CHUNK // (R * R + R * int(places.clip_count.max())))
    for first in range(0, len(places), at_a_time):
        numbers = range(first, min(first + at_a_time, len(places)))
        for influence in _influences(right, places, numbers):
            yield class_contribution(influence, E * Q)


def _influences(right: np.ndarray | Outcomes, places: Places, numbers: range) -> list[ClassInfluence]:
    """What some classes contribute, summed over blocks of episodes."""
    out = [ClassInfluence.none(right.shape[0], places, number) for number in numbers]
    parts = list(blocks(right.shape))
    means = _class_means(right, places, numbers) if len(parts) > 1 else dict.fromkeys(numbers)
    for part in parts:
        for influence, of_class in zip(out, _classes_of(right, places, numbers, part), strict=True):
            influence.add(of_class.minus(means[of_class.number]))
    return out


@dataclass(frozen=True)
class Places:
    """Where classes and clips stand in the episodes of a plan; classes are numbered 0..C-1, the clips of a class 0..n-1.

    Attributes:
        order: places of each class, class after class, as numbers e N + n, int64 `[E N]`.
        start: where the places of each class begin in `order`, `[C + 1]`.
        clips: number of each clip among those of its class: supports, then queries, `[E, N, K + q]`.
        clip_count: n of each class, `[C]`.
        shot: K.
    """

    order: np.ndarray
    start: np.ndarray
    clips: np.ndarray
    clip_count: np.ndarray
    shot: int

    @classmethod
    def of(cls, classes: np.ndarray, support: np.ndarray, query: np.ndarray) -> Places:
        """Number the classes and clips that appear; arguments as of `jackknife_over_clips`."""
        numbers, class_of = _numbered(classes)
        clips = np.concatenate([support, query], axis=2)
        span = int(clips.max()) + 1
        pairs, clip_of = _numbered(class_of[..., None] * span + clips)
        clip_count = np.bincount(pairs // span, minlength=len(numbers))
        first = np.concatenate([[0], np.cumsum(clip_count)[:-1]])
        is_small = len(numbers) <= np.iinfo(np.uint16).max  # numpy sorts small numbers in linear time
        order = np.argsort(class_of.ravel().astype(np.uint16 if is_small else np.int64), kind="stable")
        start = np.concatenate([[0], np.cumsum(np.bincount(class_of.ravel()))])
        return cls(order, start, clip_of - first[class_of][..., None], clip_count, support.shape[2])

    def __len__(self) -> int:
        """Number of classes, C."""
        return len(self.clip_count)

    @property
    def per_class(self) -> int:
        """Places of a class in an episode, K + q."""
        return self.clips.shape[2]

    @property
    def have_too_few_clips(self) -> bool:
        """Whether the episodes of some class take all of its clips, so that the effect of other clips cannot be seen."""
        return bool((self.clip_count <= self.per_class).any())

    def of_class(self, number: int, part: slice) -> tuple[np.ndarray, np.ndarray]:
        """Episodes of a part of the plan that hold a class, and its place in each."""
        held, way = self.order[self.start[number] : self.start[number + 1]], self.clips.shape[1]
        first, last = np.searchsorted(held, [part.start * way, part.stop * way])
        return np.divmod(held[first:last], way)


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`np.unique` with the inverse in the shape of the values; without sorting where they are small."""
    size = int(values.max()) + 1
    if size > 8 * values.size + 2**20:
        unique, inverse = np.unique(values, return_inverse=True)
        return unique, inverse.reshape(values.shape)
    is_there = np.zeros(size, bool)
    is_there[values] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[values]


@dataclass(frozen=True)
class ClassEpisodes:
    """The E_k episodes that hold one class, or some of them: the places that its n clips take in them.

    Attributes:
        number: of the class.
        query_values: y of each query of the class minus its mean over them, `[R, E_k, q]`.
        support_values: number of right queries of each episode minus its mean over these episodes, `[R, E_k]`: the value of
            each of the K supports of the class in it.
        query_clips: clip of each query, 0..n-1, `[E_k, q]`.
        support_clips: clip of each support, 0..n-1, `[E_k, K]`.
        clip_count: n.
    """

    number: int
    query_values: np.ndarray
    support_values: np.ndarray
    query_clips: np.ndarray
    support_clips: np.ndarray
    clip_count: int

    @classmethod
    def of(cls, number: int, right: np.ndarray, places: Places) -> ClassEpisodes:
        """All episodes of one class.

        Args:
            number: of the class.
            right: `[R, E, Q]`, 1 where a row is right.
            places: of the plan.
        """
        (of_class,) = _classes_of(right, places, range(number, number + 1), slice(0, right.shape[1]))
        return of_class.minus(None)

    def minus(self, means: ClassMeans | None) -> ClassEpisodes:
        """With values as deviations from their means; None: from the means of these episodes."""
        of_queries = self.query_values.mean((1, 2)) if means is None else means.of_queries
        of_episodes = self.support_values.mean(1) if means is None else means.of_episodes
        return replace(
            self,
            query_values=self.query_values - of_queries[:, None, None],
            support_values=self.support_values - of_episodes[:, None],
        )


@dataclass(frozen=True)
class ClassMeans:
    """Means over all episodes of one class: of its queries, and of the number of right queries in an episode, `[R]`."""

    of_queries: np.ndarray
    of_episodes: np.ndarray


def _classes_of(right: np.ndarray | Outcomes, places: Places, numbers: range, part: slice) -> Iterator[ClassEpisodes]:
    """Some classes in the episodes of a part of the plan; values are no deviations yet."""
    outcomes, clips = right[:, part], places.clips[part]
    by_class = outcomes.reshape(*outcomes.shape[:2], clips.shape[1], -1)
    right_per_episode = _per_episode(outcomes)
    for number in numbers:
        episode, place = places.of_class(number, part)
        episode = episode - part.start
        index = clips[episode, place]
        yield ClassEpisodes(
            number=number,
            query_values=by_class[:, episode, place],
            support_values=right_per_episode[:, episode],
            query_clips=index[:, places.shot :],
            support_clips=index[:, : places.shot],
            clip_count=int(places.clip_count[number]),
        )


def _class_means(right: np.ndarray | Outcomes, places: Places, numbers: range) -> dict[int, ClassMeans]:
    """Means of some classes over all blocks of episodes."""
    of_queries, of_episodes = ({number: np.zeros(right.shape[0]) for number in numbers} for _ in range(2))
    for part in blocks(right.shape):
        for of_class in _classes_of(right, places, numbers, part):
            of_queries[of_class.number] += of_class.query_values.sum((1, 2))
            of_episodes[of_class.number] += of_class.support_values.sum(1)
    episodes, queries = np.diff(places.start), places.per_class - places.shot
    return {k: ClassMeans(of_queries[k] / (episodes[k] * queries), of_episodes[k] / episodes[k]) for k in numbers}


@dataclass(frozen=True)
class ClassInfluence:
    """Sums over episodes of one class, of which any number can be added.

    Attributes:
        sums: influence of each clip, not yet centred, see `clip_sums`, `[R, n]`.
        chance: see `chance_influence`, `[R, R]`.
        places: of the class in an episode, K + q.
    """

    sums: np.ndarray
    chance: np.ndarray
    places: int

    @classmethod
    def none(cls, row_count: int, places: Places, number: int) -> ClassInfluence:
        """Of no episodes yet."""
        shape = (row_count, int(places.clip_count[number]))
        return cls(np.zeros(shape), np.zeros((row_count, row_count)), places.per_class)

    def add(self, of_class: ClassEpisodes) -> None:
        """Add episodes."""
        np.add(self.sums, clip_sums(of_class), out=self.sums)
        np.add(self.chance, chance_influence(of_class), out=self.chance)

    @property
    def psi(self) -> np.ndarray:
        """Influence of each clip on the accuracy, times the number of queries M, `[R, n]`: zero on average."""
        return self.sums - self.sums.mean(1, keepdims=True)


def clip_sums(of_class: ClassEpisodes) -> np.ndarray:
    """How far the queries that a clip takes part in deviate from those of its class, as query or as support, `[R, n]`.

        sum over queries j that are c of (y[j] - mean of the queries of its class)
        + sum over episodes e that c supports of (sum of y[e] - mean of that sum over episodes with its class)

    for each clip c. psi is this minus its mean over the clips of the class.
    """
    row_count, K, n = len(of_class.query_values), of_class.support_clips.shape[1], of_class.clip_count
    sums = _sums(of_class.query_clips.ravel(), of_class.query_values.reshape(row_count, -1), n)
    sums += _sums(of_class.support_clips.ravel(), np.repeat(of_class.support_values, K, axis=1), n)
    return sums


def class_contribution(influence: ClassInfluence, query_count: int) -> np.ndarray:
    """Contribution V_k of a class to the covariance over clips, `[R, R]`.

        V_k = w_k (sum over clips c of psi[c] psi[c]' - chance_k) / M^2,
        w_k = n / (n - 1) ((n - 1) / (n - q - K))^2

    for n clips that appear. The second factor of w_k is there because a clip that takes one place of an episode leaves the
    other places to other clips. chance_k is what psi would give if the clips were dealt to the finitely many episodes by
    chance (see `chance_influence`).

    Args:
        influence: of the class, over all of its episodes.
        query_count: M.
    """
    psi = influence.psi
    n = psi.shape[1]
    weight = n / (n - 1) * ((n - 1) / (n - influence.places)) ** 2
    return weight * (psi @ psi.T - influence.chance) / query_count**2


def chance_influence(of_class: ClassEpisodes) -> np.ndarray:
    """Expectation of the sum of psi psi' of a class if its clips were dealt to its places by chance, `[R, R]`.

    An episode has q + K places for a class, with values z (y for a query, the sum of y for each support). Dealing n clips to
    them without replacement gives sum z z' - (sum z)(sum z)' / n in expectation; episodes add up.
    """
    K = of_class.support_clips.shape[1]
    queries = of_class.query_values.reshape(len(of_class.query_values), -1)
    supports = of_class.support_values
    sums = of_class.query_values.sum(2) + K * supports
    return queries @ queries.T + K * supports @ supports.T - sums @ sums.T / of_class.clip_count


def degrees_of_freedom(
    total: np.ndarray, squares: np.ndarray, class_count: int, variances: np.ndarray, queries_per_clip: float
) -> np.ndarray:
    """Degrees of freedom of variances that are sums over classes: 2 V^2 / (C s^2), `[R, R]`; infinite where s is 0.

    All `[R, R]` are of the rows on the diagonal and of differences of two rows off it.

    Args:
        total: sum of the variances that the C classes contribute (by their V_k), `[R, R]`.
        squares: sum of their squares, `[R, R]`; s is the standard deviation of m / (m - 1) V_k.
        class_count: C.
        variances: V, `[R, R]`.
        queries_per_clip: m.
    """
    mean = total / class_count
    of_classes = np.maximum(squares - class_count * mean**2, 0) / max(class_count - 1, 1)
    of_classes = of_classes * (queries_per_clip / (queries_per_clip - 1)) ** 2
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
