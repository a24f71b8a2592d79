"""Accuracy, its intervals, and paired comparisons, from predictions and the episode plan alone. Imports no torch.

What is uncertain about an accuracy, and which interval covers it:

- *episodes*: other episodes of the same clips. What papers print.
- *clips*: other clips of the same classes, and other episodes. Thousands of episodes redraw the same few hundred clips, so
  this one is wider, and it is the honest one for "how good is the method on these classes".
- *classes*: other classes as well.
- *seeds*: other trainings, where there are several.

Notation: E episodes of N classes, K supports and q queries a class, Q = N q queries an episode; y[e, j] is 1 where query j
of episode e is right (or the share of seeds in which it is), M = E Q, and the accuracy is the mean of y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from fsar_bench.results.metrics import NORMAL95

FEW = 30  # fewer episodes than this tell little apart


def seed_interval(accuracy: np.ndarray) -> float | None:
    """Half-width of the 95 % interval over training seeds: t(n - 1) s / sqrt(n); None for fewer than two seeds.

    Args:
        accuracy: of each seed, on the same episodes.
    """
    n = len(accuracy)
    if n < 2:
        return None
    return float(stdtrit(n - 1, 0.975) * np.std(accuracy, ddof=1) / math.sqrt(n))


@dataclass(frozen=True)
class Spread:
    """Uncertainty of the accuracies of R rows that share their episodes.

    Attributes:
        episodes: covariance over episodes, `[R, R]`.
        clips: covariance over clips and episodes, `[R, R]`; see `spread`. None where a class has too few clips for it.
        freedom: degrees of freedom of the variances over clips of the rows (diagonal) and of differences of two rows.
        count: E.
    """

    episodes: np.ndarray
    clips: np.ndarray | None
    freedom: np.ndarray
    count: int

    def half_widths(self, which: str) -> np.ndarray | None:
        """95 % half-widths `[R]` of the accuracies, "episodes" or "clips"; None where they are not known."""
        if which == "episodes":
            return NORMAL95 * np.sqrt(np.diag(self.episodes))
        if self.clips is None:
            return None
        return stdtrit(np.diag(self.freedom), 0.975) * np.sqrt(np.diag(self.clips))

    def difference(self, a: int, b: int) -> Difference:
        """What is known of the accuracy of row a minus that of row b."""
        over_episodes = max(_of_difference(self.episodes, a, b), 0.0)
        if self.clips is None:
            return Difference(math.sqrt(over_episodes), None, 1.0, self.count)
        over_clips = max(_of_difference(self.clips, a, b), over_episodes)
        return Difference(math.sqrt(over_episodes), math.sqrt(over_clips), float(self.freedom[a, b]), self.count)


@dataclass(frozen=True)
class Difference:
    """Standard errors of a difference of two accuracies.

    Attributes:
        episodes: over episodes.
        clips: over clips, never below that over episodes; None where it is not known.
        freedom: degrees of freedom of that over clips.
        count: episodes that it comes from.
    """

    episodes: float
    clips: float | None
    freedom: float
    count: int

    def half_width(self) -> float | None:
        """95 % half-width over clips."""
        return None if self.clips is None else float(stdtrit(self.freedom, 0.975) * self.clips)

    def p_value(self, difference: float) -> float:
        """Two-sided p-value of a difference over clips, by Student's t; 1 where the error is not known.

        An error of 0 tells two rows apart only on `FEW` episodes or more.
        """
        if self.clips is None or difference == 0:
            return 1.0
        if self.clips == 0:
            return 0.0 if self.count >= FEW else 1.0
        return float(2 * stdtr(self.freedom, -abs(difference) / self.clips))


def unpaired(one: Spread, two: Spread) -> Difference:
    """Of the first rows of two spreads that share too few episodes; degrees of freedom after Welch and Satterthwaite."""
    over_episodes, count = math.sqrt(one.episodes[0, 0] + two.episodes[0, 0]), min(one.count, two.count)
    if one.clips is None or two.clips is None:
        return Difference(over_episodes, None, 1.0, count)
    a, b = one.clips[0, 0], two.clips[0, 0]
    weighed = a**2 / one.freedom[0, 0] + b**2 / two.freedom[0, 0]
    return Difference(over_episodes, math.sqrt(a + b), float((a + b) ** 2 / weighed) if weighed else 1.0, count)


def _of_difference(covariance: np.ndarray, a: int, b: int) -> float:
    return float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])


def _of_differences(covariance: np.ndarray) -> np.ndarray:
    """Variances of the rows on the diagonal, of the differences of two rows off it."""
    own = np.diag(covariance)
    out = own[:, None] + own[None, :] - 2 * covariance
    np.fill_diagonal(out, own)
    return out


def spread(right: np.ndarray, classes: np.ndarray, support: np.ndarray, query: np.ndarray) -> Spread:
    """Covariances of the accuracies of rows, over episodes and over clips.

    Over clips, it is an infinitesimal jackknife within classes (Efron 1982; for statistics of pairs and groups, Fafchamps
    and Gubert 2007): a clip's influence on the accuracy is what the queries that it takes part in deviate from those of
    its class,

        psi[c] = (sum over queries j that are c of (y[j] - mean of the queries of its class)
                  + sum over episodes e that c supports of (sum of y[e] - mean of that sum over episodes with its class)) / M,

    and the covariance is the sum over classes k of V_k = w_k (sum over clips c of k of psi[c] psi[c]' - chance_k), with n_k
    clips that appear. w_k = n_k / (n_k - 1) ((n_k - 1) / (n_k - q - K))^2, as a clip that takes one place of an episode leaves
    the others to other clips. chance_k is what psi would give if the clips were dealt to the finitely many episodes by chance
    (see `_chance`); the covariance over episodes is put in its place, and m / (m - 1) makes up for what of the influence goes
    with it, a clip being a query m times in the mean. Classes are held fixed. A variance over clips is never reported below
    that over episodes.

    Its degrees of freedom are 2 V^2 / (C s^2), s the standard deviation of the C contributions V_k, and at least
    (C - 1) / 2. A class of at most q + K clips puts all of them into each of its episodes, so what other clips would do
    cannot be seen: then there is no covariance over clips.

    The definition has no random numbers, so there is no seed. It takes a prediction to depend on its own query alone; for
    transductive methods, what a clip does to the other queries of its episode is left out.

    Args:
        right: float `[R, E, Q]`, 1 where a row is right.
        classes: class numbers `[E, N]`.
        support: clip numbers `[E, N, K]`.
        query: clip numbers `[E, N, q]`; query q of class n is column n q + q of `right`.

    Returns:
        Covariances in squared percent.
    """
    R, E, Q = right.shape
    (_, N, K), q = support.shape, query.shape[2]
    M = E * Q
    accuracy = right.mean(2)  # [R, E]
    centred = accuracy - accuracy.mean(1, keepdims=True)
    over_episodes = centred @ centred.T / (E * max(E - 1, 1))
    by_class, total = right.reshape(R, E, N, q), right.sum(2)  # [R, E]
    contributions, squares, used = np.zeros((R, R)), np.zeros((R, R)), 0
    numbers = np.unique(classes)
    for k in numbers:
        episode, place = np.nonzero(classes == k)
        clips, at = np.unique(
            np.concatenate([support[episode, place], query[episode, place]], axis=1), return_inverse=True
        )
        n, at = len(clips), at.reshape(len(episode), K + q)
        used += n
        if n <= q + K:
            return Spread(1e4 * over_episodes, None, np.ones((R, R)), E)
        as_query = by_class[:, episode, place]  # [R, episodes of k, q]
        as_query = as_query - as_query.mean((1, 2), keepdims=True)
        as_support = total[:, episode] - total[:, episode].mean(1, keepdims=True)  # [R, episodes of k]
        psi = _sums(at[:, K:].ravel(), as_query.reshape(R, -1), n)
        psi += _sums(at[:, :K].ravel(), np.repeat(as_support, K, axis=1), n)
        psi -= psi.mean(1, keepdims=True)
        weight = n / (n - 1) * ((n - 1) / (n - q - K)) ** 2
        contribution = weight * (psi @ psi.T - _chance(as_query, as_support, K, n)) / M**2
        contributions += contribution
        squares += _of_differences(contribution) ** 2
    often = max(M / used, 2.0)  # times that a clip is a query
    over_clips = contributions * often / (often - 1) + over_episodes
    C = len(numbers)
    mean = _of_differences(contributions) / C
    variance = np.maximum(squares - C * mean**2, 0) / max(C - 1, 1) * (often / (often - 1)) ** 2
    whole = np.maximum(_of_differences(over_clips), _of_differences(over_episodes))
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.nan_to_num(2 * whole**2 / (C * variance), nan=np.inf, posinf=np.inf)
    short = np.diag(over_clips) < np.diag(over_episodes)  # nothing of the clips is left over the chance of the episodes
    over_clips[short] = over_episodes[short]
    over_clips[:, short] = over_episodes[:, short]
    return Spread(1e4 * over_episodes, 1e4 * over_clips, np.clip(freedom, max((C - 1) / 2, 2), 1e6), E)


def _chance(as_query: np.ndarray, as_support: np.ndarray, K: int, n: int) -> np.ndarray:
    """What the sum of psi psi' of a class would be if its clips were dealt to its places by chance, `[R, R]`.

    An episode has q + K places for a class, with values z (y for a query, the sum of y for each support). Dealing n clips
    to them without putting one back gives sum z z' - (sum z)(sum z)' / n in the mean.

    Args:
        as_query: `[R, episodes, q]`.
        as_support: `[R, episodes]`.
    """
    R = len(as_query)
    queries, together = as_query.reshape(R, -1), as_query.sum(2) + K * as_support
    return queries @ queries.T + K * as_support @ as_support.T - together @ together.T / n


def _sums(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums `[R, size]` of values `[R, n]` by index `[n]`."""
    return np.stack([np.bincount(index, row, minlength=size) for row in values])


def class_interval(right: np.ndarray, classes: np.ndarray) -> float | None:
    """Half-width of the 95 % interval over classes: a jackknife that leaves out one class with all its episodes in turn.

    sqrt((C - 1) / C sum over classes k of (accuracy without k - mean of these)^2) t(C - 1); too wide where episodes hold a large
    share of the classes. None where some class is in every episode.

    Args:
        right: float `[E, Q]`.
        classes: class numbers `[E, N]`.
    """
    accuracy, C = right.mean(1), int(classes.max()) + 1
    present = np.zeros((len(classes), C), bool)
    np.put_along_axis(present, classes.astype(np.int64), True, axis=1)
    without = (~present).sum(0)
    if C < 2 or (without == 0).any():
        return None
    left = (accuracy[:, None] * ~present).sum(0) / without
    error = math.sqrt((C - 1) / C * float(((left - left.mean()) ** 2).sum()))
    return float(100 * stdtrit(C - 1, 0.975) * error)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979): the i-th smallest of m times (m - i + 1), never falling, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out


def adjusted(p: np.ndarray) -> np.ndarray:
    """p-values of all pairs of R rows `[R, R]`, symmetric, adjusted for their number (Holm)."""
    upper = np.triu_indices(len(p), 1)
    out = np.ones_like(p)
    out[upper] = holm(p[upper])
    return np.minimum(out, out.T)


def tie_ranks(accuracy: np.ndarray, p: np.ndarray, level: float = 0.05) -> np.ndarray:
    """Rank of each row, int `[R]`.

    The best row and all that can't be told from it share rank 1; then the best of the others, and so on.

    Args:
        accuracy: percent `[R]`.
        p: adjusted p-values of pairs, `[R, R]`.
        level: below it, two rows are told apart.
    """
    rank = np.zeros(len(accuracy), int)
    left = [int(i) for i in np.argsort(-accuracy, kind="stable")]
    while left:
        leader, place = left[0], len(accuracy) - len(left) + 1
        tied = [i for i in left if i == leader or p[leader, i] >= level]
        rank[tied] = place
        left = [i for i in left if i not in tied]
    return rank
