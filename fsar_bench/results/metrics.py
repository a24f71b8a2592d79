"""Accuracy of predictions, its interval over episodes, and pair accuracy. Imports no torch."""

from __future__ import annotations

import math

import numpy as np

from fsar_bench.plan import EpisodePlan

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


def pair_accuracy(outcome: np.ndarray) -> tuple[float, int]:
    """Share in percent of queries that score their class above its time-reverse (a tie counts half), and their number.

    Args:
        outcome: uint8, 0 below, 1 above, 2 equal, 255 no reverse in the episode.
    """
    counted = outcome[outcome != 255]
    wins = np.where(counted == 2, 0.5, counted)
    return float(100.0 * wins.mean()), int(counted.size)


def pair_outcomes(total: np.ndarray, plan: EpisodePlan, reverse: tuple[int, ...]) -> np.ndarray | None:
    """Whether the true class scores above its time-reversed class, for queries whose reverse is in the episode.

    Args:
        total: scores, float32 `[E, Q, N]`.
        plan: the episodes.
        reverse: number of the reversed class of each class, or -1.

    Returns:
        uint8 `[E, Q]`: 0 below, 1 above, 2 equal, 255 no reverse in the episode; None if no episode has a pair.
    """
    reverse_of = np.array(reverse)[plan.classes]  # [E, N]
    matches = (plan.classes[:, None, :] == reverse_of[:, :, None]) & (reverse_of >= 0)[:, :, None]
    place = np.where(matches.any(-1), matches.argmax(-1), -1)  # label of the reverse, by true label
    if not matches.any():
        return None
    labels = plan.labels
    other = place[:, labels]  # [E, Q]
    true = np.take_along_axis(total, np.broadcast_to(labels[None, :, None], (*other.shape, 1)), -1)[..., 0]
    rival = np.take_along_axis(total, np.maximum(other, 0)[..., None], -1)[..., 0]
    outcome = np.where(true > rival, 1, np.where(true == rival, 2, 0))
    return np.where(other >= 0, outcome, 255).astype(np.uint8)
