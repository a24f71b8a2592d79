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
from scipy.special import ndtr, stdtrit

NORMAL95 = 1.96


def episode_accuracy(prediction: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy of each episode in percent, float64 `[E]`, from predictions `[E, Q]` and labels `[Q]`."""
    return 100.0 * (prediction == labels).mean(1)


def episode_interval(accuracy: np.ndarray) -> float:
    """Half-width of the 95 % interval over episodes: 1.96 s / sqrt(E), s the sample standard deviation.

    It covers the drawing of episodes from this pool of clips alone: not the choice of clips, not the training seed.
    """
    if len(accuracy) < 2:
        return math.nan
    return float(NORMAL95 * accuracy.std(ddof=1) / math.sqrt(len(accuracy)))


def seed_interval(accuracy: np.ndarray) -> float | None:
    """Half-width of the 95 % interval over training seeds: t(n - 1) s / sqrt(n); None for fewer than two seeds.

    Args:
        accuracy: of each seed, on the same episodes.
    """
    n = len(accuracy)
    if n < 2:
        return None
    return float(stdtrit(n - 1, 0.975) * np.std(accuracy, ddof=1) / math.sqrt(n))


def pair_accuracy(outcome: np.ndarray) -> tuple[float, int]:
    """Share in percent of queries that score their class above its time-reverse (a tie counts half), and their number.

    Args:
        outcome: uint8, 0 below, 1 above, 2 equal, 255 no reverse in the episode.
    """
    counted = outcome[outcome != 255]
    wins = np.where(counted == 2, 0.5, counted)
    return float(100.0 * wins.mean()), int(counted.size)


@dataclass(frozen=True)
class Spread:
    """Uncertainty of the accuracies of R rows that share their episodes.

    Attributes:
        episodes: covariance over episodes, `[R, R]`.
        clips: covariance over clips and episodes, `[R, R]`; see `spread`.
    """

    episodes: np.ndarray
    clips: np.ndarray

    def half_widths(self, which: str) -> np.ndarray:
        """95 % half-widths `[R]` of the accuracies, "episodes" or "clips"."""
        return NORMAL95 * np.sqrt(np.diag(self.clips if which == "clips" else self.episodes))

    def difference(self, a: int, b: int) -> float:
        """Standard error over clips of the accuracy of row a minus that of row b, never below that over episodes."""
        return math.sqrt(max(_of_difference(self.clips, a, b), _of_difference(self.episodes, a, b), 0.0))


def _of_difference(covariance: np.ndarray, a: int, b: int) -> float:
    return float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])


def spread(right: np.ndarray, classes: np.ndarray, support: np.ndarray, query: np.ndarray) -> Spread:
    """Covariances of the accuracies of rows, over episodes and over clips.

    Over clips, it is an infinitesimal jackknife within classes (Efron 1982; for statistics of pairs and groups, Fafchamps
    and Gubert 2007): a clip's influence on the accuracy is what the queries that it takes part in deviate from those of
    its class,

        psi[c] = (sum over queries j that are c of (y[j] - mean of the queries of its class)
                  + sum over episodes e that c supports of (sum of y[e] - mean of that sum over episodes with its class)) / M,

    and the covariance is sum over classes k of w_k sum over clips c of k of psi[c] psi[c]', with n_k clips that appear and
    w_k = n_k / (n_k - 1) ((n_k - 1) / (n_k - q - K))^2, as a clip that takes one place of an episode leaves the others to
    other clips. A clip's psi also holds the chance of the finitely many episodes it appears in: what clips dealt at random
    would give (see `_chance`) is taken off (m / (m - 1) makes up for what of the influence goes with it, a clip being a
    query m times in the mean), and the covariance over episodes is put in its place. Classes are held fixed. A variance
    over clips is never reported below that over episodes. A class of at most q + K clips puts all of them into each of its
    episodes: what other clips would do cannot be seen there.

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
    M, count = E * Q, int(classes.max()) + 1
    accuracy = right.mean(2)  # [R, E]
    centred = accuracy - accuracy.mean(1, keepdims=True)
    over_episodes = centred @ centred.T / (E * max(E - 1, 1))

    by_class = right.reshape(R, E, N, q)
    flat_class = classes.ravel()
    appears = np.bincount(flat_class, minlength=count)
    own = _sums(flat_class, by_class.sum(3).reshape(R, -1), count) / np.maximum(appears * q, 1)
    total = right.sum(2)  # [R, E]
    whole = _sums(flat_class, np.repeat(total, N, axis=1), count) / np.maximum(appears, 1)
    as_query = by_class - own[:, classes][..., None]  # [R, E, N, q]
    as_support = total[:, :, None] - whole[:, classes]  # [R, E, N]

    clips = int(max(support.max(), query.max())) + 1
    psi = _sums(query.ravel(), as_query.reshape(R, -1), clips)
    psi += _sums(support.ravel(), np.repeat(as_support.reshape(R, -1), K, axis=1), clips)
    psi /= M  # [R, clips]
    class_of = np.full(clips, -1)
    class_of[support.reshape(E, -1)] = np.repeat(classes, K, axis=1)
    class_of[query.reshape(E, -1)] = np.repeat(classes, q, axis=1)
    used = class_of >= 0
    psi, class_of = psi[:, used], class_of[used]
    n = np.bincount(class_of, minlength=count)
    psi = psi - (_sums(class_of, psi, count) / np.maximum(n, 1))[:, class_of]
    replaced = (n - 1) / np.maximum(n - q - K, 1)  # a clip in one place of an episode is in none of the others
    weight = n / np.maximum(n - 1, 1) * replaced**2
    chance = _chance(as_query, as_support, K, n[classes], weight[classes]) / M**2
    often = max(M / used.sum(), 2.0)  # times that a clip is a query
    over_clips = ((psi * weight[class_of]) @ psi.T - chance) * often / (often - 1) + over_episodes
    short = np.diag(over_clips) < np.diag(over_episodes)  # nothing of the clips is left over the chance of the episodes
    over_clips[short] = over_episodes[short]
    over_clips[:, short] = over_episodes[:, short]
    return Spread(1e4 * over_episodes, 1e4 * over_clips)


def _chance(as_query: np.ndarray, as_support: np.ndarray, K: int, n: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What the sum of w_k psi psi' would be if the clips of a class were dealt to its places by chance, `[R, R]`.

    An episode has q + K places for a class, with values z (y for a query, the sum of y for each support). Dealing n_k clips
    to them without putting one back gives sum z z' - (sum z)(sum z)' / n_k in the mean.

    Args:
        as_query: `[R, E, N, q]`.
        as_support: `[R, E, N]`.
        n: clips of the class in each place, `[E, N]`.
        weight: w_k of the class in each place, `[E, N]`.
    """
    R, w = len(as_query), weight.ravel()
    queries, supports = as_query.reshape(R, w.size, -1), as_support.reshape(R, w.size)
    all_places = queries.sum(2) + K * supports
    out = K * (supports * w) @ supports.T - (all_places * (w / n.ravel())) @ all_places.T
    for q in range(queries.shape[2]):
        out += (queries[:, :, q] * w) @ queries[:, :, q].T
    return out


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


def p_value(difference: float, error: float) -> float:
    """Two-sided p-value of a difference under the normal distribution; 1 where both are 0."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * ndtr(-abs(difference) / error))


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979): the i-th smallest of m times (m - i + 1), never falling, at most 1."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(stepped, 1.0)
    return out


def paired_p_values(accuracy: np.ndarray, spread_: Spread) -> np.ndarray:
    """Holm-adjusted p-values over clips of all pairs of R rows, `[R, R]`, 1 on the diagonal.

    Args:
        accuracy: percent `[R]`.
        spread_: of the same rows.
    """
    R = len(accuracy)
    pairs = [(a, b) for a in range(R) for b in range(a + 1, R)]
    raw = np.array([p_value(accuracy[a] - accuracy[b], spread_.difference(a, b)) for a, b in pairs])
    out = np.ones((R, R))
    for (a, b), p in zip(pairs, holm(raw), strict=True):
        out[a, b] = out[b, a] = p
    return out


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
