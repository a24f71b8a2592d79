"""Sizes and durations of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fsar_bench.data.dataset import Clip, Dataset
from fsar_bench.data.importing.verify import all_clips, sample

DURATION_SAMPLE = 200


@dataclass(frozen=True)
class SplitSize:
    """Size of a split.

    Attributes:
        split: name of the split.
        classes: number of classes.
        clips: number of listed clips.
        missing: number of them that are not on this disk.
        smallest: listed clips of the smallest class.
        largest: listed clips of the largest class.
    """

    split: str
    classes: int
    clips: int
    missing: int
    smallest: int
    largest: int


def split_sizes(dataset: Dataset) -> list[SplitSize]:
    """Sizes of all splits that have clips."""
    sizes = []
    for split in map(dataset.split, dataset.names):
        per_class = [len(clips) for clips in split.list.clips]
        sizes.append(
            SplitSize(split.name, len(per_class), sum(per_class), len(split.missing), min(per_class), max(per_class))
        )
    return sizes


@dataclass(frozen=True)
class Durations:
    """Durations of a sample of videos, in seconds.

    Attributes:
        count: number of videos whose container tells the duration.
        shortest: shortest duration.
        median: median duration.
        longest: longest duration.
    """

    count: int
    shortest: float
    median: float
    longest: float


def durations(dataset: Dataset, *, count: int = DURATION_SAMPLE) -> Durations | None:
    """Durations of up to `count` clips, spread evenly over all; None if no container tells its duration."""
    looked_up = (seconds_of(clip) for clip in sample(all_clips(dataset), count))
    seconds = [duration for duration in looked_up if duration is not None]
    if not seconds:
        return None
    shortest, median, longest = (float(value) for value in np.quantile(seconds, (0.0, 0.5, 1.0)))
    return Durations(len(seconds), shortest, median, longest)


def seconds_of(clip: Clip) -> float | None:
    """Duration of a video as its container tells it; None for a folder of images or where it does not tell."""
    import av

    if clip.path.is_dir():
        return None
    try:
        with av.open(str(clip.path)) as container:
            return float(container.duration / av.time_base) if container.duration else None
    except (av.FFmpegError, OSError):
        return None
