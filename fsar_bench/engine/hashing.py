"""Hashing the clips of splits, with progress, before keys and records ask for their contents one by one. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from fsar_bench.data.contents import contents_of
from fsar_bench.data.dataset import Split
from fsar_bench.progress.events import HASHING, counter


def hash_splits(splits: Sequence[Split]) -> None:
    """Compute the contents of all clips of some splits that are on this disk and not known yet.

    Raises:
        DataError: names the first clip that is missing, empty, unreadable, or not the one that its annotation records.
    """
    contents_of([clip for split in splits for clip in split.present], counter(HASHING))
