"""Sizes and durations of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fsar_bench.data.dataset import Clip, Dataset
from fsar_bench.data.images import frame_series
from fsar_bench.data.importing.verify import Progress, all_clips, sample
from fsar_bench.errors import DataError

DURATION_SAMPLE = 200


@dataclass(frozen=True)
class SplitSize:
    """Size of a split.

    Attributes:
        split: name of the split.
        classes: number of classes.
        clips: number of listed clips.
        missing: number of them that are not on this disk; of HMDB51 and UCF101 without a list, also those that the published
            list has and nothing here names.
        smallest: listed clips of the smallest class.
        largest: listed clips of the largest class.
        scarcest: the class with the fewest clips on this disk.
        available: clips of that class on this disk.
    """

    split: str
    classes: int
    clips: int
    missing: int
    smallest: int
    largest: int
    scarcest: str
    available: int

    @property
    def has_episodes(self) -> bool:
        """Whether any episode can be drawn: two classes, and two clips of every class."""
        return self.classes >= 2 and self.available >= 2

    def __str__(self) -> str:
        """For which ways and shots the split suffices."""
        if self.classes < 2:
            return f"{self.split}: one class: no episode can be drawn, which takes two classes"
        if self.available < 2:
            missing = " on this disk" if self.missing else ""
            clips = "1 clip" if self.available else "no clip"
            return (
                f"{self.split}: no episode can be drawn: the class {self.scarcest!r} has {clips}{missing}, and each needs two, "
                "one to learn from and one to classify"
            )
        fewest = f"{self.scarcest!r} has the fewest, " if self.smallest < self.largest or self.missing else ""
        present = f"{self.available} on this disk" if self.missing else str(self.available)
        clips = str(self.smallest) if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
        return (
            f"{self.split}: {self.classes} classes, {clips} clips each"
            + (f" ({fewest}{present})" if fewest else "")
            + f": up to {self.classes}-way, {self.available - 1}-shot with 1 query"
        )


def split_sizes(dataset: Dataset) -> list[SplitSize]:
    """Sizes of all splits that have clips."""
    sizes = []
    for split in map(dataset.split, dataset.names):
        per_class = [len(clips) for clips in split.list.clips]
        available = [sum(clip not in split.missing for clip in clips) for clips in split.list.clips]
        fewest = min(available)
        sizes.append(
            SplitSize(
                split.name,
                len(per_class),
                split.size,
                len(split.missing) + split.unlisted,
                min(per_class),
                max(per_class),
                split.list.classes[available.index(fewest)],
                fewest,
            )
        )
    return sizes


def frame_notes(dataset: Dataset) -> list[tuple[Clip, str]]:
    """Clips that are folders of images with something worth saying, such as images that are no frames; and what that is.

    Folders that cannot be read as clips are left to the readers, which say why.
    """
    notes = []
    for listed in all_clips(dataset):
        try:
            note = frame_series(listed.clip.path).note if listed.clip.path.is_dir() else ""
        except (OSError, DataError):
            continue
        if note:
            notes.append((listed.clip, note))
    return notes


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


def durations(dataset: Dataset, *, count: int = DURATION_SAMPLE, progress: Progress | None = None) -> Durations | None:
    """Durations of up to `count` clips, spread evenly over all; None if no container tells its duration."""
    seconds, clips = [], sample(all_clips(dataset), count)
    for number, clip in enumerate(clips, 1):
        duration = seconds_of(clip)
        if duration is not None:
            seconds.append(duration)
        if progress:
            progress(number, len(clips))
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
