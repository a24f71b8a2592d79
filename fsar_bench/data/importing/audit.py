"""Source recordings of clips, and the leaks that are built into some splits.

A query leaks if it shares its source recording with a support clip of its own class: what it shows may then be recognised by
its scene. A recording that spans several classes makes no leak between these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fsar_bench.data.dataset import Dataset, Split
from fsar_bench.errors import ProtocolError
from fsar_bench.plan import EpisodePlan

AUDIT_EPISODES = 10_000

_UCF101 = re.compile(r"_g(\d+)_c\d+$")
_HMDB51 = re.compile(r"^(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$")
_YOUTUBE = re.compile(r"^([A-Za-z0-9_-]{11})(_\d{6}_\d{6})?$")  # an id, and seconds of its beginning and end


def _ucf101(class_name: str, clip: str) -> str:
    """The group, which is one of a class: groups of other classes with its number are other recordings."""
    match = _UCF101.search(clip)
    return f"{class_name} {match[1]}" if match else clip


def _hmdb51(class_name: str, clip: str) -> str:
    """The film, of which several classes may have clips."""
    match = _HMDB51.match(clip)
    if not match:
        return clip
    film, suffix = match[1], f"_{class_name}"
    return film[: -len(suffix)] if film.lower().endswith(suffix.lower()) and film[: -len(suffix)] else film


def _kinetics(class_name: str, clip: str) -> str | None:
    """The id of the YouTube video; None for a name that is none."""
    match = _YOUTUBE.match(clip)
    return match[1] if match else None


RULES: dict[str, Callable[[str, str], str | None]] = {
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "kinetics": _kinetics,  # of any number of classes
}


def recording_of(dataset: str, class_name: str, clip: str) -> str | None:
    """Name of the source recording of a clip, as the name of the clip tells it.

    Args:
        dataset: name of the dataset; a lineage after "@" is ignored.
        class_name: class of the clip.
        clip: id of the clip; what stands before its last "/" is ignored.

    Returns:
        The name, which clips of several classes share where the recording has several actions; None where the name of the clip
        does not tell it.
    """
    base = dataset.partition("@")[0]
    rule = RULES.get("kinetics" if base.startswith("kinetics") else base)
    return rule(class_name, clip.rpartition("/")[2]) if rule else None


def recording_names(dataset: str, split: Split) -> list[str] | None:
    """Name of the source recording of each clip: as the annotation records it, else as the names of the clips tell it.

    A built-in clip is a rendering of its own, and so its own recording.

    Args:
        dataset: name of the dataset; a lineage after "@" is ignored.
        split: V clips, missing ones included.

    Returns:
        V names; None where a clip has no recording in the annotation, and its name does not tell it.
    """
    recorded = [clip.recording for clip in split.clips if clip.recording]
    if len(recorded) == len(split.clips):
        return recorded
    told = [recording_of(dataset, clip.class_name, clip.id) for clip in split.clips]
    names = [name for name in told if name is not None]
    return names if len(names) == len(split.clips) else None


def recordings(dataset: str, split: Split) -> np.ndarray | None:
    """Number of the source recording of each clip: the unit that is independent of the others.

    Args:
        dataset: name of the dataset; a lineage after "@" is ignored.
        split: V clips, missing ones included.

    Returns:
        int64 `[V]` in the order of `split.clips`, numbers from 0 in the order of the recordings' names, shared by clips of
        several classes that come from one recording; None where the recordings are not known.
    """
    names = recording_names(dataset, split)
    return None if names is None else np.unique(names, return_inverse=True)[1].astype(np.int64)


def known_recordings(dataset: str, split: Split) -> np.ndarray:
    """Number of the source recording of each clip, int64 `[clips]`.

    Raises:
        ProtocolError: neither the annotation nor the names of the clips tell it.
    """
    numbers = recordings(dataset, split)
    if numbers is None:
        raise ProtocolError(
            f"Neither the annotation of {dataset} nor the names of its clips tell the source recording of every clip, which "
            "group_disjoint=true needs. Prepare it from a CSV with the column recording, or leave group_disjoint=true out."
        )
    return numbers


def leak(plan: EpisodePlan, recording: np.ndarray) -> float:
    """Percentage of queries whose recording is that of a support clip of their own class.

    Args:
        plan: episodes with supports `[E, N, K]` and queries `[E, N, query]`.
        recording: recording of each clip, `[clips]`.
    """
    support, query = recording[plan.support], recording[plan.query]
    return float(100 * (query[..., None] == support[:, :, None, :]).any(-1).mean())


@dataclass(frozen=True)
class RecordingCount:
    """Source recordings of a split.

    Attributes:
        split: name of the split.
        recordings: number of recordings.
        clips: number of clips.
    """

    split: str
    recordings: int
    clips: int


def recording_counts(dataset: Dataset) -> list[RecordingCount]:
    """Numbers of recordings of the splits of which they are known."""
    known = [(split, recordings(dataset.name, split)) for split in map(dataset.split, dataset.names)]
    return [
        RecordingCount(split.name, int(numbers.max()) + 1, len(numbers))
        for split, numbers in known
        if numbers is not None
    ]


def shared_recordings(dataset: Dataset) -> dict[tuple[str, str], list[str]]:
    """Recordings that have clips in two splits, by the names of these: frames of one video are on both sides.

    Splits of disjoint classes share recordings of several actions, such as the films of HMDB51.
    """
    known = {name: recording_names(dataset.name, dataset.split(name)) for name in dataset.names}
    shared = {
        (one, other): sorted(set(known[one] or ()) & set(known[other] or ())) for one, other in combinations(known, 2)
    }
    return {splits: names for splits, names in shared.items() if names}


@dataclass(frozen=True)
class Leak:
    """Leak of one split at one shot.

    Attributes:
        split: name of the split.
        way: classes per episode.
        shot: supports per class.
        percent: percentage of leaking queries; None if no episodes can be drawn.
        reason: why none can be drawn, else empty.
    """

    split: str
    way: int
    shot: int
    percent: float | None
    reason: str = ""


def leak_audit(
    dataset: Dataset,
    *,
    way: int = 5,
    shots: Sequence[int] = (1, 5),
    query: int = 1,
    episodes: int = AUDIT_EPISODES,
    seed: int = 0,
) -> list[Leak] | None:
    """Leaks of all splits of a dataset.

    Args:
        dataset: the dataset.
        way: classes per episode; all of a split that has fewer.
        shots: supports per class, audited one after the other.
        query: queries per class.
        episodes: episodes that are drawn for each split and shot.
        seed: of the episodes.

    Returns:
        One entry per split and shot; None where the recordings of a split are not known.
    """
    leaks: list[Leak] = []
    for split in map(dataset.split, dataset.names):
        recording = recordings(dataset.name, split)
        if recording is None:
            return None
        ways = max(2, min(way, len(split.list.classes)))
        for shot in shots:
            try:
                plan = EpisodePlan.sample(
                    split.list,
                    way=ways,
                    shot=shot,
                    query=query,
                    episodes=episodes,
                    seed=seed,
                    purpose=split.name,
                    missing=split.missing,
                )
            except ProtocolError as error:
                leaks.append(Leak(split.name, ways, shot, None, str(error)))
            else:
                leaks.append(Leak(split.name, ways, shot, leak(plan, recording)))
    return leaks
