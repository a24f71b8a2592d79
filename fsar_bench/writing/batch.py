"""Files that appear together: each is written in full next to its place, then all are renamed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fsar_bench.errors import ResultError
from fsar_bench.writing.faults import as_system_error, reason_of
from fsar_bench.writing.temporary import sweep_once, temporary_of

_PIECE = 2**20  # bytes that are copied at a time


class Batch:
    """Files that are written, and files that are deleted, in one go.

    Nothing is seen of it before `commit`, which takes the steps in the order in which they were asked for. If one fails,
    files that were not there before are deleted again. A process that is killed leaves the steps up to there: put last
    what makes the others count. The first write to a folder deletes temporary files that dead processes left there.

    Args:
        sync: flush to the disk before the renames, and the renames after them; caches go without.
    """

    def __init__(self, *, sync: bool = True) -> None:
        self._sync = sync
        self._steps: list[tuple[Path | None, Path]] = []  # temporary file (None: the place is cleared), and place
        self._made: list[Path] = []  # folders, each after the one that holds it

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[BinaryIO]:
        """Write a file.

        Raises:
            OSError: with the path as its file name.
        """
        part = temporary_of(path)
        raw: _Noting | None = None
        try:
            raw = self._begin(part)
            self._steps.append((part, path))
            with io.BufferedWriter(raw) as file:
                yield file
                file.flush()
                if self._sync:
                    os.fsync(raw.fileno())
        except Exception as error:
            fault = as_system_error(error, raw.fault if raw else None, path)
            if fault is None or fault is error:
                raise
            raise fault from error

    def write(self, path: Path, data: bytes) -> None:
        """Write bytes; raises as `open` does."""
        with self.open(path) as file:
            file.write(data)

    def copy(self, path: Path, source: Path) -> None:
        """Copy a file in pieces; raises as `open` does.

        Raises:
            ResultError: the source cannot be read.
        """
        with self.open(path) as target:
            try:
                with source.open("rb") as file:
                    while piece := file.read(_PIECE):
                        target.write(piece)
            except OSError as error:
                if getattr(target.raw, "fault", None) is not None:  # type: ignore[attr-defined]  # of a BufferedWriter
                    raise
                raise ResultError(f"{source} cannot be read ({reason_of(error)}).") from error

    def delete(self, path: Path) -> None:
        """Delete a file, if there is one, before the steps that follow."""
        self._steps.append((None, path))

    def commit(self) -> None:
        """Take all steps.

        Raises:
            OSError: one failed; files that were not there before are deleted again.
        """
        for _, path in self._steps:
            if path.is_dir() and not path.is_symlink():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        new: list[tuple[Path, int]] = []
        try:
            for part, path in self._steps:
                _take(part, path, new)
        except BaseException:
            _undo(new)
            raise
        if self._sync:
            for folder in {path.parent for _, path in self._steps} | {folder.parent for folder in self._made}:
                _flush_folder(folder)
        self._made.clear()

    def discard(self) -> None:
        """Delete what is not in its place: temporary files, and the folders that were made for them."""
        for part, _ in self._steps:
            if part is not None:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):  # it holds files of others, or was never made
                folder.rmdir()

    def _begin(self, part: Path) -> _Noting:
        """Open a temporary file, and make its folder."""
        self._make(part.parent)
        sweep_once(part.parent)
        try:
            return _Noting(part, "w")
        except FileNotFoundError:  # another process has just removed the empty folder
            self._make(part.parent)
            return _Noting(part, "w")

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            missing = [place for place in (folder, *folder.parents) if not place.exists()]
            self._made += reversed(missing)
            folder.mkdir(parents=True, exist_ok=True)


class _Noting(io.FileIO):
    """A file that notes the error of a write: some libraries that write through it raise another one in its place."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            raise


def _take(part: Path | None, path: Path, new: list[tuple[Path, int]]) -> None:
    """Take a step; a file that was not there before joins `new`, with the number by which its disk knows it."""
    if part is None:
        path.unlink(missing_ok=True)
        return
    if not os.path.lexists(path):
        new.append((path, part.stat().st_ino))
    os.replace(part, path)


def _undo(new: list[tuple[Path, int]]) -> None:
    """Delete new files again, unless another process has replaced them."""
    for path, number in reversed(new):
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == number:
                path.unlink()


def _flush_folder(folder: Path) -> None:
    """Flush the names of a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
