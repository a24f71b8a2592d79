"""Files: the folders of this machine, and writing that readers never see half done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from fsar_bench.errors import ResultError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def is_weight_file(pretrained: str) -> bool:
    """Whether a `pretrained` value names a file rather than a tag or hub id."""
    return not pretrained.startswith("hf-hub:") and (pretrained.endswith(WEIGHT_SUFFIXES) or os.sep in pretrained)


def weight_files(model: str, tag: str) -> list[Path]:
    """Files in the user's weights folder that stand for a tag of a model, in the order they are looked for."""
    return [cache_folder() / "weights" / f"{model}-{tag}{suffix}" for suffix in WEIGHT_SUFFIXES]


def data_folder() -> Path:
    """Folder of prepared datasets: $FSAR_BENCH_DATA, or datasets/ in the cache folder."""
    if folder := os.environ.get("FSAR_BENCH_DATA"):
        return Path(folder).expanduser()
    return cache_folder() / "datasets"


def annotation_file(annotation: str) -> Path:
    """File of a dataset's annotation: a path, "builtin:NAME" or "prepared:NAME"."""
    kind, colon, name = annotation.partition(":")
    if colon and kind == "builtin":
        return Path(__file__).with_name("data") / "builtin" / name / "annotation.json"
    if colon and kind == "prepared":
        return data_folder() / name / "annotation.json"
    return Path(annotation).expanduser()


def cache_folder() -> Path:
    """Folder of frames, features and weights: $FSAR_BENCH_CACHE, or fsar_bench in the user's cache folder."""
    if folder := os.environ.get("FSAR_BENCH_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fsar_bench"


_swept: set[Path] = set()  # folders in which this process has looked for files of dead processes


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True, hint: str = "out= or work_dir=") -> Iterator[BinaryIO]:
    """Write a file so that readers see the old one or the new one, never a part.

    The first write to a folder deletes temporary files that dead processes of this machine left there.

    Args:
        path: the file; its folder is made.
        sync: flush to the disk before the rename; caches, which are checked when read, go without.
        hint: the setting that names another folder, for the error.

    Raises:
        ResultError: the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            with part.open("wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ResultError(f"Cannot write {path} ({error.strerror}). Choose another folder with {hint}.") from error


def _sweep(folder: Path) -> None:
    """Delete temporary files of processes of this machine that are dead."""
    if folder in _swept:
        return
    _swept.add(folder)
    for part in folder.glob(f".*.{platform.node()}.*.part"):
        if is_abandoned(part.name):
            part.unlink(missing_ok=True)


def is_abandoned(name: str) -> bool:
    """Whether a file name is that of a temporary file of a process of this machine that is dead."""
    if not (name.startswith(".") and f".{platform.node()}." in name and name.endswith(".part")):
        return False
    pid = name.split(".")[-3]
    return pid.isdigit() and not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes with `replacing`."""
    with replacing(path) as file:
        file.write(data)


def to_json(record: dict | list) -> bytes:
    """JSON that is the same for equal records: sorted keys, one value a line."""
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def canonical(values: object) -> str:
    """JSON of plain values with sorted keys and no blanks: what hashes are made of."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(values: object) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file; an unchanged file is read once per process."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
