"""Leaks that are built into some splits: queries that share a source recording with a support clip of their class."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fsar_bench.data.dataset import Dataset, Split
from fsar_bench.errors import ProtocolError
from fsar_bench.plan import EpisodePlan

AUDIT_EPISODES = 10_000

_HMDB51 = re.compile(r"^(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$")


def _ucf101(class_name: str, clip: str) -> str:
    match = re.search(r"_g(\d+)_c\d+$", clip)
    return f"{class_name} {match[1]}" if match else clip


def _hmdb51(class_name: str, clip: str) -> str:
    match = _HMDB51.match(clip)
    return match[1].removesuffix(f"_{class_name}") if match else clip


RECORDING: dict[str, Callable[[str, str], str]] = {"ucf101": _ucf101, "hmdb51": _hmdb51}


def recordings(dataset: str, split: Split) -> np.ndarray | None:
    """Number of the source recording of each clip, read from its name.

    Args:
        dataset: name of the dataset; a lineage after "@" is ignored.
        split: V clips.

    Returns:
        int64 `[V]`; None where the names do not tell the recording.
    """
    rule = RECORDING.get(dataset.partition("@")[0])
    if rule is None:
        return None
    names = [rule(clip.class_name, clip.id.rpartition("/")[2]) for clip in split.clips]
    numbers: np.ndarray = np.unique(names, return_inverse=True)[1]
    return numbers


def known_recordings(dataset: str, split: Split) -> np.ndarray:
    """Number of the source recording of each clip, int64 `[clips]`.

    Raises:
        ProtocolError: the names of the clips do not tell it.
    """
    numbers = recordings(dataset, split)
    if numbers is None:
        raise ProtocolError(
            f"The names of the clips of {dataset} do not tell their source recording, so group_disjoint=true cannot hold "
            "there."
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
        way: classes per episode.
        shots: supports per class, audited one after the other.
        query: queries per class.
        episodes: episodes that are drawn for each split and shot.
        seed: of the episodes.

    Returns:
        One entry per split and shot; None where the names of the clips do not tell their recording.
    """
    leaks: list[Leak] = []
    for split in map(dataset.split, dataset.names):
        recording = recordings(dataset.name, split)
        if recording is None:
            return None
        for shot in shots:
            try:
                plan = EpisodePlan.sample(
                    split.list,
                    way=way,
                    shot=shot,
                    query=query,
                    episodes=episodes,
                    seed=seed,
                    purpose=split.name,
                    missing=split.missing,
                )
            except ProtocolError as error:
                leaks.append(Leak(split.name, way, shot, None, str(error)))
            else:
                leaks.append(Leak(split.name, way, shot, leak(plan, recording)))
    return leaks
