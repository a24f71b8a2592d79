"""Intervals over training seeds, over classes, and near 100 %; `jackknife` has the errors over clips, `trainings` adds those.

An accuracy is uncertain for several reasons, and each has its interval:

- *episodes*: other episodes of the same clips. This is the interval that papers print.
- *clips*: other clips of the same classes, and other episodes. Thousands of episodes redraw the same few hundred clips, so
  this interval is wider, and it is the one for "how good are these weights on these classes".
- *all*: other clips and other trainings: "how good is the method on these classes".
- *classes*: other classes as well.
- *seeds*: other trainings on the same clips, where there are several.

All of them come from predictions and the episode plan alone.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit, stdtrit

NEAR, FEW_WRONG = 0.2, 10  # a smaller share and a smaller number of wrong clips: not a normal distribution


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
        right: float `[E, Q]`, or the difference of two such arrays.
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


def interval(accuracy: float, error: float, freedom: float, units: int) -> tuple[float, float]:
    """Ends of the 95 % interval of an accuracy, in percent; they enclose the accuracy.

    accuracy +- t error, unless it is near 0 or 100 % on few clips: less than `NEAR` of the queries, and fewer than `FEW_WRONG`
    of the clips, are wrong (or right). All clips of a small pool may happen to be right, and then that interval has no
    length. There it is computed on the scale of the logit, for the accuracy a of V clips after two more, of whose queries
    half are wrong:

        a* = (a + 1 / V) / (1 + 2 / V),   error*^2 = (error^2 + 2 ((a - 1/2) / V)^2) / (1 + 2 / V)^2,
        logit(a*) +- t error* / (a* (1 - a*)).

    Args:
        accuracy: percent.
        error: standard error over clips, or over clips and trainings, in percent.
        freedom: degrees of freedom of its square.
        units: V, the number of clips, or of the recordings whose clips vary together.
    """
    t, a, s = float(stdtrit(freedom, 0.975)), accuracy / 100, error / 100
    wrong = min(a, 1 - a)
    if wrong >= NEAR or wrong * units >= FEW_WRONG:
        return max(accuracy - t * error, 0.0), min(accuracy + t * error, 100.0)
    more = 2 / units
    centre = (a + more / 2) / (1 + more)
    reach = t * math.sqrt(s**2 + more * (a - 0.5) ** 2 / units) / (1 + more) / (centre * (1 - centre))
    low, high = (float(expit(logit(centre) + sign * reach)) for sign in (-1, 1))
    return 100 * min(low, a), 100 * max(high, a)
