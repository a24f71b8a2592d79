"""Sealed arrays: read as a whole, or some of their rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fsar_bench.io import open_file
from fsar_bench.storage.sealed import DamagedError, unseal, write_sealed

Rows = Callable[[tuple[int, ...]], Sequence[int] | np.ndarray]  # which rows of an array of some shape are wanted
_HEADER = 1024  # bytes; that of an array of plain numbers has 128
_REMEMBERED = 1 << 16  # files, at some 100 bytes each

_verified: set[bytes] = set()  # states of files of which this process has checked every byte


def write_array(file: BinaryIO, array: np.ndarray, made_from: str) -> None:
    """Write a sealed `.npy` file."""
    write_sealed(file, made_from, lambda out: np.save(out, array))  # type: ignore[arg-type]  # it needs `write` alone


def read_array(path: Path, made_from: str, rows: Rows | None = None) -> np.ndarray:
    """An array of bytes, or some of its rows.

    A file is read and checked as a whole once per process and state (size, times, inode); afterwards the wanted rows are read
    alone.

    Args:
        path: what `write_array` wrote.
        made_from: what it must have been made from.
        rows: chooses rows by the shape of the whole array; may raise `DamagedError` for a shape that cannot be. None takes all.

    Returns:
        uint8; what is not chosen from is read-only.

    Raises:
        OSError: it cannot be read.
        DamagedError: it is damaged, made from something else, or holds no bytes.
    """
    with open_file(path) as file:
        status = os.fstat(file.fileno())
        state = f"{path}\0{made_from}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
        key = blake2b(os.fsencode(state), digest_size=16).digest()
        if rows is not None and key in _verified:
            return _read_rows(file, rows)
        content = unseal(file.read(), made_from)
    shape, start = _shape(bytes(content[:_HEADER]))
    array = np.frombuffer(content, np.uint8, offset=start).reshape(shape)  # ValueError: too few, too many
    if rows is None:
        return array
    chosen = array[rows(shape)]
    if len(_verified) >= _REMEMBERED:
        _verified.clear()
    _verified.add(key)
    return chosen


def _read_rows(file: BinaryIO, rows: Rows) -> np.ndarray:
    shape, start = _shape(file.read(_HEADER))
    wanted = rows(shape)
    chosen = np.empty((len(wanted), *shape[1:]), np.uint8)
    for place, row in enumerate(wanted):
        file.seek(start + int(row) * chosen[0].nbytes)
        if file.readinto(chosen[place].reshape(-1).data) != chosen[0].nbytes:  # type: ignore[attr-defined]  # unbuffered
            raise DamagedError("it ends too early")
    return chosen


def _shape(head: bytes) -> tuple[tuple[int, ...], int]:
    """Shape of a stored array of bytes, and where its data begin."""
    file = BytesIO(head)
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.uint8 or is_fortran:
        raise DamagedError(f"it holds {dtype}")
    return shape, file.tell()
