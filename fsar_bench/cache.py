"""The cache of this machine: what is in it by kind, what is stale, and deleting it.

The names of frames, features and statistics are hashes of what they depend on, so that which run needs a file cannot be told
from the file. What can be told: when it was last used, and whether it was left by a process that died.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fsar_bench.io import cache_folder, data_folder
from fsar_bench.writing.temporary import is_abandoned

KINDS = {  # what stands in the folder of each kind
    "frames": "decoded frames of clips",
    "features": "clips encoded by frozen backbones, and parts of interrupted encodings",
    "contents": "contents (SHA-256) of clips, by path, size and times of their files",
    "statistics": "intervals and ranks of leaderboards",
    "verify": "verdicts of data verify on datasets that are not prepared",
    "weights": "weights that you put there",
    "datasets": "annotations of prepared datasets (not their clips)",
}
KEPT = ("weights", "datasets")  # cannot be computed again: deleted only where they are named
DAY = 86_400.0


@dataclass(frozen=True)
class CachedFile:
    """A file of the cache.

    Attributes:
        path: where it is.
        size: bytes.
        used: when it was last read or written, in seconds since the epoch.
        is_abandoned: whether a process that died left it half written.
    """

    path: Path
    size: int
    used: float
    is_abandoned: bool


@dataclass(frozen=True)
class Content:
    """Files of one kind."""

    kind: str
    folder: Path
    files: tuple[CachedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def stale(self, days: int) -> Content:
        """Those that were left half written, or that nothing has used for a number of days."""
        limit = time.time() - days * DAY
        chosen = tuple(file for file in self.files if file.is_abandoned or file.used < limit)
        return Content(self.kind, self.folder, chosen)


def folder_of(kind: str) -> Path:
    """Folder of a kind."""
    return data_folder() if kind == "datasets" else cache_folder() / kind


def content(kind: str) -> Content:
    """The files of a kind; links are not followed."""
    folder = folder_of(kind)
    return Content(kind, folder, tuple(_files(folder)))


def _files(folder: Path) -> Iterator[CachedFile]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                state = path.lstat()
            except FileNotFoundError:  # a run has just replaced it
                continue
            yield CachedFile(path, state.st_size, max(state.st_atime, state.st_mtime), is_abandoned(name))


def unknown() -> list[Path]:
    """What is in the cache folder and belongs to none of the kinds; never deleted."""
    folder, known = cache_folder(), {*KINDS}
    return sorted(path for path in folder.iterdir() if path.name not in known) if folder.is_dir() else []


def knows_use() -> bool:
    """Whether the file system notes when files are read; if not, they count as used when they were written."""
    folder = next((path for path in (cache_folder(), *cache_folder().parents) if path.exists()), Path("/"))
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOATIME", 0)


@dataclass(frozen=True)
class Freed:
    """What deleting gave: files and bytes that are gone, and files that could not be deleted, with the reason of the first."""

    files: int
    size: int
    failed: int = 0
    reason: str = ""


def delete(chosen: Content, progress: Callable[[int], None] | None = None) -> Freed:
    """Delete files, and folders that become empty; the folder of the kind stays.

    Args:
        chosen: what `content` or `stale` gave.
        progress: called with the number of files that were looked at.
    """
    files, size, failed, reason = 0, 0, 0, ""
    for count, file in enumerate(chosen.files, 1):
        try:
            file.path.unlink()
            files, size = files + 1, size + file.size
        except FileNotFoundError:  # somebody else was faster
            pass
        except OSError as error:
            failed, reason = failed + 1, reason or f"{file.path}: {error.strerror}"
        if progress:
            progress(count)
    for place, _, _ in os.walk(chosen.folder, topdown=False):
        if Path(place) != chosen.folder and not os.listdir(place):
            os.rmdir(place)
    return Freed(files, size, failed, reason)
