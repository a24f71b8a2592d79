"""Arrays in an npz file, from anyone: what the file claims is checked before anything is unpacked, and nothing in it is run.

`numpy.load` reads the whole directory of an archive, unpacks what it holds and evaluates the headers of arrays. Here the
directory is bounded, members are those that are expected, headers have the one form that numpy writes, and an array is
unpacked only where its type, shape and size are allowed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

_END = struct.Struct(
    "<4s4H2LH"
)  # of a zip archive: signature, disks, entries, size and offset of its directory, comment
_LOCATOR = 20  # bytes, before the end, of what names a second, larger end
_MEMBERS, _DIRECTORY = 64, 2**16  # most members, and most bytes of the directory
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[a-zA-Z][0-9]{1,2})', 'fortran_order': False, 'shape': \(((?:[0-9]{1,12}, ?)*[0-9]{0,12}),?\), \} *\n"
)
_LONGEST_HEADER = 1024  # bytes
_CHUNK = 2**20  # bytes that are unpacked at a time
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may need gigabytes to unpack


@dataclass(frozen=True)
class Kind:
    """What an array may be.

    Attributes:
        dtype: as numpy writes it, such as "<i4".
        dimensions: number of them.
        most: most elements.
        is_needed: the file must hold it.
    """

    dtype: str
    dimensions: int
    most: int
    is_needed: bool = True


class ArrayFile:
    """An open npz file whose claims have been checked.

    Attributes:
        shapes: of the arrays that it holds, by name.
    """

    def __init__(self, archive: zipfile.ZipFile, starts: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        self._archive, self._starts, self.shapes = archive, starts, shapes

    def read(self, name: str, dtype: str) -> np.ndarray:
        """Unpack an array of a checked type.

        Raises:
            ValueError: the file is damaged.
        """
        out = np.empty(self.shapes[name], np.dtype(dtype))
        into = out.reshape(-1).view(np.uint8)
        with _told(), self._archive.open(f"{name}.npy") as file:
            file.read(self._starts[name])
            place = 0
            while place < len(into):
                part = file.read(min(_CHUNK, len(into) - place))
                if not part:
                    raise ValueError(f"{name} ends early")
                into[place : place + len(part)] = np.frombuffer(part, np.uint8)
                place += len(part)
            if file.read(1):  # also compares the checksum
                raise ValueError(f"{name} is longer than its shape")
        return out


@contextlib.contextmanager
def open_arrays(source: Path | bytes, kinds: Mapping[str, Kind]) -> Iterator[ArrayFile]:
    """Open an npz file and check all that it claims; nothing is unpacked yet but the headers.

    Args:
        source: a file, or its bytes.
        kinds: what it may hold, by name.

    Raises:
        ValueError: it is no npz file, or claims something else.
        OSError: it cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else _opened(source) as file:
        _check_directory(file)
        starts, shapes = {}, {}
        with _told():
            archive = zipfile.ZipFile(file)
            _check_members(archive, kinds)
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                starts[name], shapes[name] = _claim(archive, info, kinds[name])
        yield ArrayFile(archive, starts, shapes)


def _opened(path: Path) -> IO[bytes]:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no file")
    return path.open("rb")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever a damaged archive makes zipfile raise is a `ValueError`; errors of the disk stay what they are."""
    try:
        yield
    except ValueError:
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file
            raise
        raise ValueError("it names places that it does not have") from error
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_directory(file: IO[bytes]) -> None:
    """The archive ends as numpy ends it, with a small directory: zipfile reads all of it at once."""
    size = file.seek(0, io.SEEK_END)
    if size < _END.size:
        raise ValueError("it is no npz file")
    file.seek(max(0, size - _END.size - _LOCATOR))
    tail = file.read()
    signature, _, _, _, entries, directory, _, comment = _END.unpack(tail[-_END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("it is no npz file")
    if entries > _MEMBERS or directory > _DIRECTORY or tail[:4] == b"PK\x06\x07":
        raise ValueError("it holds more members than any npz file of fsar-bench")


def _check_members(archive: zipfile.ZipFile, kinds: Mapping[str, Kind]) -> None:
    names = [info.filename for info in archive.infolist()]
    expected = {f"{name}.npy": kind for name, kind in kinds.items()}
    if len(set(names)) < len(names):
        raise ValueError("it holds two arrays of one name")
    if unknown := [name for name in names if name not in expected]:
        raise ValueError(f"it holds {unknown[0][:60]!r}, which does not belong there")
    if missing := [name for name, kind in expected.items() if kind.is_needed and name not in names]:
        raise ValueError(f"it lacks {missing[0].removesuffix('.npy')}")


def _claim(archive: zipfile.ZipFile, info: zipfile.ZipInfo, kind: Kind) -> tuple[int, tuple[int, ...]]:
    """Where the values of an array begin, and its shape, if they are allowed and as many as the archive says."""
    name = info.filename.removesuffix(".npy")
    dtype = np.dtype(kind.dtype)
    if info.file_size > kind.most * dtype.itemsize + _LONGEST_HEADER:
        raise ValueError(f"{name} unpacks to more than {kind.most} values")
    if info.compress_type not in _METHODS:
        raise ValueError(f"{name} is packed in a way that numpy does not use")
    with archive.open(info) as file:
        start, found, shape = _header(file, name)
    if found != kind.dtype or len(shape) != kind.dimensions:
        raise ValueError(f"{name} holds {_in_words(found)} {shape}, not {dtype} in {kind.dimensions} dimensions")
    count = 1
    for size in shape:  # Python's numbers: they do not wrap round
        count *= size
    if count > kind.most or start + count * dtype.itemsize != info.file_size:
        raise ValueError(f"{name} has the shape {shape}, but unpacks to {info.file_size} bytes")
    return start, shape


def _header(file: IO[bytes], name: str) -> tuple[int, str, tuple[int, ...]]:
    """Bytes before the values, type and shape of an array, by the one form that numpy writes; nothing is evaluated."""
    magic = file.read(10)
    if magic[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{name} is no array of numpy")
    length = int.from_bytes(magic[8:10], "little")
    text = file.read(length) if length <= _LONGEST_HEADER else b""
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError(f"{name} does not describe a plain array of numpy")
    shape = tuple(int(size) for size in match[2].replace(b" ", b"").split(b",") if size)
    return 10 + length, match[1].decode(), shape


def _in_words(descr: str) -> str:
    try:
        return str(np.dtype(descr))
    except TypeError:
        return descr
