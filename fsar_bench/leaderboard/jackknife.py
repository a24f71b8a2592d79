"""Uncertainty of accuracies over episodes and over clips, and of differences of two accuracies.

Notation: R rows are compared on E episodes of N classes with K supports and q queries per class, Q = N q queries per
episode. y[e, j] is 1 where query j of episode e is right (or the share of seeds in which it is), M = E Q is the number of
queries, and the accuracy is the mean of y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from fsar_bench.results.metrics import NORMAL95

FEW_EPISODES = 30  # on fewer episodes than this, hardly any difference is significant


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
        if self.clips is None or difference == 0:
            return 1.0
        if self.clips == 0:
            return 0.0 if self.episode_count >= FEW_EPISODES else 1.0
        return float(2 * stdtr(self.degrees_of_freedom, -abs(difference) / self.clips))


def unpaired(first: Uncertainty, second: Uncertainty) -> Difference:
    """Unpaired difference of two rows without enough shared episodes (Welch-Satterthwaite degrees of freedom).

    Args:
        first: its first row is compared.
        second: its first row is compared.
    """
    over_episodes = math.sqrt(first.episodes[0, 0] + second.episodes[0, 0])
    episode_count = min(first.episode_count, second.episode_count)
    if first.clips is None or second.clips is None:
        return Difference(over_episodes, None, 1.0, episode_count)
    a, b = first.clips[0, 0], second.clips[0, 0]
    weighted = a**2 / first.degrees_of_freedom[0, 0] + b**2 / second.degrees_of_freedom[0, 0]
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
    right: np.ndarray, *, classes: np.ndarray, support: np.ndarray, query: np.ndarray
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

    Args:
        right: float `[R, E, Q]`, 1 where a row is right.
        classes: class numbers `[E, N]`.
        support: clip numbers `[E, N, K]`.
        query: clip numbers `[E, N, q]`; query i of class n is column n q + i of `right`.

    Returns:
        Covariances in squared percent.
    """
    R, E, Q = right.shape
    over_episodes = _covariance_over_episodes(right)
    by_class = right.reshape(R, E, classes.shape[1], query.shape[2])
    right_per_episode = right.sum(2)
    clips = np.concatenate([support, query], axis=2)
    contributions, clip_count = [], 0
    for number in np.unique(classes):
        of_class = ClassEpisodes.of(number, by_class, right_per_episode, classes=classes, clips=clips)
        if of_class.has_too_few_clips:
            return Uncertainty(1e4 * over_episodes, None, np.ones((R, R)), E)
        contributions.append(class_contribution(of_class, E * Q))
        clip_count += of_class.clip_count
    queries_per_clip = max(E * Q / clip_count, 2.0)
    over_clips = _total(contributions) * queries_per_clip / (queries_per_clip - 1) + over_episodes
    variances = np.maximum(_variances(over_clips), _variances(over_episodes))
    freedom = degrees_of_freedom(contributions, variances, queries_per_clip)
    too_small = np.diag(over_clips) < np.diag(over_episodes)  # clips add nothing to the chance of the episodes
    over_clips[too_small] = over_episodes[too_small]
    over_clips[:, too_small] = over_episodes[:, too_small]
    least = max((len(contributions) - 1) / 2, 2)
    return Uncertainty(1e4 * over_episodes, 1e4 * over_clips, np.clip(freedom, least, 1e6), E)


def _covariance_over_episodes(right: np.ndarray) -> np.ndarray:
    """Covariance of the mean accuracies over episodes, `[R, R]`: sum of products of deviations / (E (E - 1))."""
    accuracy = right.mean(2)  # [R, E]
    deviation = accuracy - accuracy.mean(1, keepdims=True)
    episode_count = right.shape[1]
    return deviation @ deviation.T / (episode_count * max(episode_count - 1, 1))


@dataclass(frozen=True)
class ClassEpisodes:
    """The E_k episodes that hold one class, as the jackknife sees them: the places that its n clips take in them.

    Attributes:
        query_values: y of each query of the class minus its mean over them, `[R, E_k, q]`.
        support_values: number of right queries of each episode minus its mean over these episodes, `[R, E_k]`: the value of
            each of the K supports of the class in it.
        query_clips: clip of each query, 0..n-1, `[E_k, q]`.
        support_clips: clip of each support, 0..n-1, `[E_k, K]`.
        clip_count: n.
    """

    query_values: np.ndarray
    support_values: np.ndarray
    query_clips: np.ndarray
    support_clips: np.ndarray
    clip_count: int

    @classmethod
    def of(
        cls, number: int, right: np.ndarray, right_per_episode: np.ndarray, *, classes: np.ndarray, clips: np.ndarray
    ) -> ClassEpisodes:
        """Take the episodes of one class.

        Args:
            number: of the class.
            right: `[R, E, N, q]`, 1 where a row is right.
            right_per_episode: number of right queries, `[R, E]`.
            classes: class numbers `[E, N]`.
            clips: clip numbers of supports and then queries, `[E, N, K + q]`.
        """
        episode, place = np.nonzero(classes == number)
        K = clips.shape[2] - right.shape[3]
        numbers, index = np.unique(clips[episode, place], return_inverse=True)
        index = index.reshape(len(episode), -1)
        of_queries = right[:, episode, place]
        of_episodes = right_per_episode[:, episode]
        return cls(
            query_values=of_queries - of_queries.mean((1, 2), keepdims=True),
            support_values=of_episodes - of_episodes.mean(1, keepdims=True),
            query_clips=index[:, K:],
            support_clips=index[:, :K],
            clip_count=len(numbers),
        )

    @property
    def places(self) -> int:
        """Places of the class in an episode, q + K."""
        return self.query_clips.shape[1] + self.support_clips.shape[1]

    @property
    def has_too_few_clips(self) -> bool:
        """Whether each of its episodes takes all of its clips, so that the effect of other clips cannot be seen."""
        return self.clip_count <= self.places


def clip_influence(of_class: ClassEpisodes) -> np.ndarray:
    """Influence of each clip of a class on the accuracy, times the number of queries M: psi, `[R, n]`.

    How far the queries that a clip takes part in deviate from those of its class, as query or as support:

        psi[c] = sum over queries j that are c of (y[j] - mean of the queries of its class)
                 + sum over episodes e that c supports of (sum of y[e] - mean of that sum over episodes with its class),

    minus the mean of this over the clips of the class.
    """
    row_count, K, n = len(of_class.query_values), of_class.support_clips.shape[1], of_class.clip_count
    psi = _sums(of_class.query_clips.ravel(), of_class.query_values.reshape(row_count, -1), n)
    psi += _sums(of_class.support_clips.ravel(), np.repeat(of_class.support_values, K, axis=1), n)
    psi -= psi.mean(1, keepdims=True)
    return psi


def class_contribution(of_class: ClassEpisodes, query_count: int) -> np.ndarray:
    """Contribution V_k of a class to the covariance over clips, `[R, R]`.

        V_k = w_k (sum over clips c of psi[c] psi[c]' - chance_k) / M^2,
        w_k = n / (n - 1) ((n - 1) / (n - q - K))^2

    for n clips that appear. The second factor of w_k is there because a clip that takes one place of an episode leaves the
    other places to other clips. chance_k is what psi would give if the clips were dealt to the finitely many episodes by
    chance (see `chance_influence`).

    Args:
        of_class: its episodes.
        query_count: M.
    """
    n = of_class.clip_count
    psi = clip_influence(of_class)
    weight = n / (n - 1) * ((n - 1) / (n - of_class.places)) ** 2
    return weight * (psi @ psi.T - chance_influence(of_class)) / query_count**2


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


def degrees_of_freedom(contributions: list[np.ndarray], variances: np.ndarray, queries_per_clip: float) -> np.ndarray:
    """Degrees of freedom of variances that are sums over classes: 2 V^2 / (C s^2), `[R, R]`; infinite where s is 0.

    Args:
        contributions: V_k of each of the C classes, `[R, R]`; s is the standard deviation of m / (m - 1) V_k.
        variances: V, of the rows on the diagonal and of differences of two rows off it, `[R, R]`.
        queries_per_clip: m.
    """
    class_count = len(contributions)
    mean = _variances(_total(contributions)) / class_count
    squares = _total([_variances(contribution) ** 2 for contribution in contributions])
    of_classes = np.maximum(squares - class_count * mean**2, 0) / max(class_count - 1, 1)
    of_classes = of_classes * (queries_per_clip / (queries_per_clip - 1)) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(2 * variances**2 / (class_count * of_classes), nan=np.inf, posinf=np.inf)


def _total(arrays: list[np.ndarray]) -> np.ndarray:
    """Sum of arrays in their order, so that it has the same bits on every machine."""
    return sum(arrays, np.zeros_like(arrays[0]))


def _sums(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums `[R, size]` of values `[R, n]` by index `[n]`."""
    return np.stack([np.bincount(index, row, minlength=size) for row in values])
