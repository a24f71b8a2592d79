"""Accuracy of predictions, its interval over episodes, and pair accuracy. Imports no torch."""

from __future__ import annotations

import math

import numpy as np

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
