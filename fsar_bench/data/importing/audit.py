"""Which queries of a protocol share a source recording with a support clip of their class: the leak built into some splits."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from fsar_bench.data.dataset import Split
from fsar_bench.plan import EpisodePlan

_HMDB51 = re.compile(r"^(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+$")


def _ucf101(class_name: str, clip: str) -> str:
    found = re.search(r"_g(\d+)_c\d+$", clip)
    return f"{class_name} {found[1]}" if found else clip


def _hmdb51(class_name: str, clip: str) -> str:
    found = _HMDB51.match(clip)
    return found[1].removesuffix(f"_{class_name}") if found else clip


RECORDING: dict[str, Callable[[str, str], str]] = {"ucf101": _ucf101, "hmdb51": _hmdb51}


def recordings(dataset: str, split: Split) -> np.ndarray | None:
    """Number of the source recording of each clip, int64 `[clips]`, from its name; None where names do not tell."""
    rule = RECORDING.get(dataset.partition("@")[0])
    if rule is None:
        return None
    names = [rule(clip.class_name, clip.id.rpartition("/")[2]) for clip in split.clips]
    return np.unique(names, return_inverse=True)[1]


def leak(plan: EpisodePlan, recording: np.ndarray) -> float:
    """Percent of queries whose recording is that of a support clip of their own class.

    Args:
        plan: episodes with supports `[E, N, K]` and queries `[E, N, query]`.
        recording: of each clip, `[clips]`.
    """
    support, query = recording[plan.support], recording[plan.query]
    return float(100 * (query[..., None] == support[:, :, None, :]).any(-1).mean())
