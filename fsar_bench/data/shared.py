"""SharedFrames: memory in which a decode process hands frames to its owner, instead of pickling them through a pipe.

It has no name in any folder: the system frees it with the last process that has it open, however that one ends.
"""

from __future__ import annotations

import mmap
import os
import weakref
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from fsar_bench import processes

HAS_ANONYMOUS_FILES = hasattr(os, "memfd_create")  # Linux; elsewhere frames are pickled


class Placed(NamedTuple):
    """What the owner is told of an array in shared memory: its shape and type."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class SharedFrames:
    """One array at a time in memory that two processes share. It grows to the largest and is used again for each.

    Args:
        descriptor: of an anonymous file, which is closed with this, or when nobody refers to this any more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def make(cls) -> SharedFrames:
        """Make the memory, in the owner.

        Raises:
            ProcessError: this process has too many open files.
        """
        return cls(processes.anonymous_file("fsar-bench frames"))

    def give(self, connection: Connection, pid: int) -> None:
        """Give it to the process at the other end of a connection, which calls `receive`.

        Raises:
            OSError: the process died.
        """
        reduction.send_handle(connection, self._descriptor, pid)

    @classmethod
    def receive(cls, connection: Connection) -> SharedFrames:
        """Receive the memory in the decode process."""
        return cls(reduction.recv_handle(connection))

    def put(self, frames: Any) -> Placed | None:
        """Write an array, over the one before; None for what must be pickled: no array of numbers, or an empty one."""
        if not isinstance(frames, np.ndarray) or frames.dtype.kind not in "biuf" or not frames.size:
            return None
        placed = Placed(frames.shape, frames.dtype.str)
        if placed.size > os.fstat(self._descriptor).st_size:
            os.ftruncate(self._descriptor, placed.size)
        self._array(placed)[...] = frames
        return placed

    def take(self, placed: Placed) -> np.ndarray:
        """Copy the array out, so that the memory may be written again."""
        return self._array(placed).copy()

    def close(self) -> None:
        """Close it in this process; memory that another thread is copying is freed with its array."""
        self._memory = None
        self._close()

    def _array(self, placed: Placed) -> np.ndarray:
        if self._memory is None or len(self._memory) < placed.size:
            self._memory = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        count = int(np.prod(placed.shape, dtype=np.int64))
        return np.frombuffer(self._memory, placed.dtype, count).reshape(placed.shape)
