"""Files that are read as memory: what is larger than memory is on a disk, and the system keeps of it what it has room for."""

from __future__ import annotations

import errno
import io
import mmap
import os
from pathlib import Path

from fsar_bench.writing.temporary import sweep_once, temporary_of


class MappedFile:
    """A temporary file of a fixed size that is written in pieces and read as memory.

    It has a name for an instant alone, that of a temporary file of this process, and is gone when nothing refers to its memory
    any more, or when the process dies. Pieces are written, not assigned to the memory: on a full disk that is an error, and
    the other a signal that ends the process.

    Args:
        path: what the file stands for, in the folder that it is made in; names it in errors.
        size: bytes, at least one.

    Attributes:
        memory: its bytes; zeros where nothing was written.

    Raises:
        OSError: with the path as its file name: the folder cannot be written, or has too little space.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            sweep_once(path.parent)
            part = temporary_of(path)
            self._file = io.FileIO(part, "x+")
            part.unlink()
            _check_space(path.parent, size)
            self._file.truncate(size)
            self.memory = mmap.mmap(self._file.fileno(), size)
        except OSError as error:
            self._name(error)
            raise

    def write(self, place: int, data: memoryview) -> None:
        """Write bytes from a place on.

        Raises:
            OSError: with the path as its file name.
        """
        try:
            while data:  # a system writes at most 2 GB at a time
                written = os.pwrite(self._file.fileno(), data, place)
                place, data = place + written, data[written:]
        except OSError as error:
            self._name(error)
            raise

    def close(self) -> None:
        """Take no more pieces; the memory stays."""
        self._file.close()

    def _name(self, error: OSError) -> None:
        error.filename, error.filename2 = str(self._path), None


def _check_space(folder: Path, size: int) -> None:
    """Raise an `OSError` unless a disk has room for a file: a full disk is told before hours of work, not after them."""
    disk = os.statvfs(folder)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < size:  # some file systems count no blocks
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
