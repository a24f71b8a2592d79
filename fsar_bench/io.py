"""Files: the folders of this machine, and writing that readers never see half done."""

from __future__ import annotations

import ast
import codecs
import contextlib
import errno
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, TypeVar

from fsar_bench.errors import ConfigError, FsarBenchError, ResultError, shown
from fsar_bench.progress.events import warn
from fsar_bench.writing.batch import Batch
from fsar_bench.writing.faults import advice, explanation
from fsar_bench.writing.faults import reason_of as reason_of  # for all who read and write
from fsar_bench.writing.streams import at_once

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
DATASET_FILE = "dataset.py"  # config of a dataset of the user's name, in its folder below `data_folder`
OF_RUNS = "out= or work_dir="  # what names the folders of most files
PROBE = 2**16  # bytes that a folder must have room for
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")
MOST_BYTES = 2**28  # of a text or JSON file: the annotation of a million clips has some 2 * 10**8


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path that a user wrote, with "~" and "~name" expanded: not every shell, and no config, does so.

    Raises:
        ConfigError: no file can have this path; there is no such user, or this user has no home folder.
    """
    if not isinstance(text, (str, os.PathLike)) or not isinstance(os.fspath(text), str):
        raise ConfigError(f"{shown(text)} is no path. Name a file or folder as text.")
    if fault := fault_of_path(os.fspath(text)):
        raise ConfigError(f"{shown(os.fspath(text))} is no path: {fault}. Correct it.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"The path {os.fspath(text)!r} names no home folder of this machine. Write it in full."
        ) from error


def fault_of_path(path: str) -> str:
    """Why no file can have a path, or ""; what is on this disk does not matter."""
    if "\0" in path:
        return "it holds a null character"
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "it holds a character that no file name can hold"
    longest = max(map(len, encoded.split(b"/")))
    if longest > 255:
        return f"a name in it has {longest:,} bytes, and a file name at most 255"
    return f"it has {len(encoded):,} bytes, and a path at most 4,095" if len(encoded) > 4095 else ""


def fault_of_file(path: Path) -> str:
    """What keeps a path from being a file that can be read, such as "does not exist"; "" for a file. Never waits."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link to what does not exist" if path.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({reason_of(error)})"
    return _fault_of_kind(mode).removeprefix("it ")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Bytes of a file that a user holds: of a file alone, so that nothing is waited for, or read without end.

    Args:
        path: the file.
        most: bytes that it may have.

    Raises:
        OSError: the file cannot be read, is a folder, a pipe or a device, or is larger.
    """
    with open_file(path) as file:
        data = bytearray()
        while len(data) <= most and (block := file.read(min(most + 1 - len(data), 2**24))):
            data += block
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return bytes(data)


def open_file(path: str | os.PathLike[str]) -> FileIO:
    """Open a file to read it: a file alone, so that no pipe is waited for, and no device read without end.

    Raises:
        OSError: the file cannot be read, or is a folder, a pipe or a device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character, or one that cannot be encoded
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    if fault := _fault_of_kind(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, fault, str(path))
    return FileIO(descriptor, "r")


def read_whole(path: Path) -> bytes:
    """Bytes of a file that fsar-bench wrote, of any size; raises as `open_file` does."""
    with open_file(path) as file:
        return file.readall()


def _fault_of_kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    return "it is a folder, not a file" if stat.S_ISDIR(mode) else "it is a pipe or device, not a file"


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A text file: UTF-8 whatever the locale, with or without a byte order mark, and with any ends of lines.

    Raises:
        OSError: the file cannot be read (see `read_bytes`).
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> bytes:
    """Bytes of a JSON file as parsers take them: without the byte order mark that some editors write.

    Raises:
        OSError: the file cannot be read (see `read_bytes`).
    """
    return read_bytes(path).removeprefix(codecs.BOM_UTF8)


def load_json(path: Path, model: type[M], what: str, fix: str, kind: type[FsarBenchError]) -> M:
    """A JSON file as a typed model, whose faults are told in one line.

    Args:
        path: the file.
        model: a pydantic model.
        what: what the file is, for the error, such as "The annotation PATH of dataset 'mine'".
        fix: what to do, as a sentence.
        kind: class of the error.

    Raises:
        FsarBenchError: of this class: the file cannot be read, or is not what the model describes; it names the first fault.
    """
    try:
        return model.model_validate_json(read_json(path))
    except OSError as error:
        raise kind(f"{what} cannot be read ({reason_of(error)}). {fix}") from error
    except ValueError as error:  # pydantic's, which has all faults
        raise kind(f"{_fault_of_json(error, what, path)} {fix}".rstrip()) from error


def _fault_of_json(error: ValueError, what: str, path: Path) -> str:
    """The first fault of a file, such as "The list x.json is damaged (rows.test.0=5: Input should be a valid list)."."""
    fault = error.errors(include_url=False)[0]  # type: ignore[attr-defined]  # imported late
    if fault["type"] == "value_error":  # a whole sentence of a validator of ours
        return f"In {path}, {fault['ctx']['error']}"
    place = ".".join(str(part)[:100] for part in fault["loc"][:10])
    value = "" if fault["type"] == "missing" else f"={shown(fault['input'])}"
    return f"{what} is damaged ({f'{place}{value}: ' if place else ''}{fault['msg'][:300]})."


def is_weight_file(pretrained: str) -> bool:
    """Whether a `pretrained` value names a file rather than a tag or hub id."""
    if pretrained.startswith("hf-hub:"):
        return False
    is_named = pretrained.endswith(WEIGHT_SUFFIXES) or os.sep in pretrained
    return is_named or (bool(Path(pretrained).suffix) and user_path(pretrained).is_file())  # such as model.ckpt


def weight_files(model: str, tag: str) -> list[Path]:
    """Files in the user's weights folder that stand for a tag of a model, in the order they are looked for."""
    return [cache_folder() / "weights" / f"{model}-{tag}{suffix}" for suffix in WEIGHT_SUFFIXES]


def data_folder() -> Path:
    """Folder of prepared datasets: $FSAR_BENCH_DATA, or datasets/ in the cache folder."""
    if folder := os.environ.get("FSAR_BENCH_DATA"):
        return user_path(folder)
    return cache_folder() / "datasets"


def annotation_file(annotation: str) -> Path:
    """File of a dataset's annotation: a path, "builtin:NAME" or "prepared:NAME"."""
    kind, colon, name = annotation.partition(":")
    if colon and kind in ("builtin", "prepared"):
        user_path(name)  # raises where it can be no name
    if colon and kind == "builtin":
        return Path(__file__).with_name("data") / "builtin" / name / "annotation.json"
    if colon and kind == "prepared":
        return data_folder() / name / "annotation.json"
    return user_path(annotation)


def cache_folder() -> Path:
    """Folder of frames, features and weights: $FSAR_BENCH_CACHE, or fsar_bench in the user's cache folder."""
    if folder := os.environ.get("FSAR_BENCH_CACHE"):
        return user_path(folder)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fsar_bench"


def module_files(module: str, folders: Sequence[str]) -> list[Path]:
    """Source files of an importable module: its file or all of its package, and what these import from `folders`.

    Args:
        module: its name; of a dotted name, the top package counts.
        folders: where it is looked for before the import path.

    Returns:
        The files, the module's own first; empty where it is not found.
    """
    files = _own_files(module, [*folders, *sys.path])
    waiting = list(files)
    while waiting:
        for name in _imported_names(waiting.pop()):
            new = [file for file in _own_files(name, folders) if file not in files]
            files += new
            waiting += new
    return files


def _own_files(module: str, places: Sequence[str]) -> list[Path]:
    """The file of a module, or all files of its package, which may be a folder without `__init__.py`."""
    spec = PathFinder.find_spec(module.split(".")[0], list(places))
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.py"))
    return [Path(spec.origin)] if spec.origin and Path(spec.origin).suffix == ".py" else []


def _imported_names(file: Path) -> set[str]:
    """Names of the modules that a source file imports, at any depth; a file with an error in it imports none."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):  # importing it tells
        return set()
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


@contextlib.contextmanager
def replacing_all(*, sync: bool = True, hint: str = OF_RUNS) -> Iterator[Batch]:
    """Write several files together: on any failure, nothing is left of those that are new, and the old ones stay.

    Args:
        sync: flush to the disk; caches, which are checked when read, go without.
        hint: the setting that names another folder, for the error; a folder of the cache or of datasets names its own.

    Raises:
        ResultError: a folder cannot be written.
    """
    batch = Batch(sync=sync)
    try:
        try:
            yield batch
            batch.commit()
        finally:
            batch.discard()
    except OSError as error:
        path = Path(error.filename2 or error.filename or ".")
        raise ResultError(
            f"Cannot write {path} ({reason_of(error)}). {advice(error, _setting_of(path, hint))}"
        ) from error


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True, hint: str = OF_RUNS) -> Iterator[BinaryIO]:
    """Write a file so that readers see the old one or the new one, never a part.

    Args:
        path: the file; its folder is made.
        sync: as in `replacing_all`.
        hint: as in `replacing_all`.

    Raises:
        ResultError: the folder cannot be written.
    """
    with replacing_all(sync=sync, hint=hint) as batch, batch.open(path) as file:
        yield file


def _setting_of(path: Path, hint: str) -> str:
    """The setting that moves a path."""
    of_machine = [setting for setting, folder in _folders_of_machine().items() if path.is_relative_to(folder)]
    return of_machine[-1] if of_machine else hint


def _folders_of_machine() -> dict[str, Path]:
    """Folders that variables name, by the variable; one within another comes later."""
    return {"$FSAR_BENCH_CACHE": cache_folder(), "$FSAR_BENCH_DATA": data_folder()}


@contextlib.contextmanager
def naming_disks(**folders: Path) -> Iterator[None]:
    """Turn errors of disks, whoever raises them, into one line that names the folder and what moves it.

    Args:
        **folders: folders that the work within writes to, by key, such as `out`.

    Raises:
        ResultError: a disk is full or cannot be read or written.
    """
    try:
        yield
    except FsarBenchError:
        raise
    except Exception as error:
        text = disk_error(error, **folders)
        if text is None:
            raise
        raise ResultError(text) from error


def disk_error(error: BaseException, **folders: Path) -> str | None:
    """An error of a disk in one line; None for any other error. Arguments as in `naming_disks`."""
    of_run = {f"{key}=": folder for key, folder in folders.items()}
    return explanation(error, {**of_run, **_folders_of_machine(), "TMPDIR": Path(os.environ.get("TMPDIR") or "/tmp")})


def write_atomically(path: Path, data: bytes, *, hint: str = OF_RUNS) -> None:
    """Write bytes with `replacing`."""
    with replacing(path, hint=hint) as file:
        file.write(data)


def check_writable(folder: Path, key: str) -> None:
    """Write some bytes to a folder, which is made, and delete them again.

    Args:
        folder: it.
        key: the setting that names another one, such as "out=".

    Raises:
        ResultError: the folder cannot be written, or has no space; no folder was made then.
    """
    try:
        probe(folder)
    except OSError as error:
        raise ResultError(
            f"The folder {folder} cannot be written ({reason_of(error)}). {advice(error, key)}"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)


def probe(folder: Path) -> None:
    """Write some bytes to a folder, and delete them again.

    Raises:
        OSError: the folder cannot be made or written, or has no space.
    """
    batch = Batch(sync=False)
    try:
        batch.write(folder / "probe", bytes(PROBE))
    finally:
        batch.discard()


def write_cached(path: Path, write: Callable[[BinaryIO], object], *, sync: bool = False) -> None:
    """Write a file that only saves time; where it cannot be written, warn once and go on without it.

    Args:
        path: the file, below the cache folder or a work folder.
        write: writes its content.
        sync: as in `replacing_all`.
    """
    try:
        with replacing(path, sync=sync) as file:
            write(file)
    except ResultError as error:
        _warn_of_unwritten(path, error.__cause__)


def append_cached(path: Path, data: bytes) -> None:
    """Append to a file that only saves time; where it cannot be written, warn once and go on without it.

    Several processes may append to one file at a time: what one call appends stays together.

    Args:
        path: the file, below the cache folder; its folder is made.
        data: whole lines.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileIO(path, "a", opener=at_once) as file:
            file.write(data)
    except OSError as error:
        _warn_of_unwritten(path, error)


class CachedLines:
    """A text file of which each line only saves time; where one cannot be written, warn once and go on without the file.

    Args:
        path: the file, below the cache folder or the folder of prepared datasets; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None
        with self._or_warn():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8", opener=at_once)  # noqa: SIM115  # `close` does

    def append(self, line: str) -> None:
        """Write a line, at once."""
        if self._file is not None:
            with self._or_warn():
                self._file.write(f"{line}\n")
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # of what could not be written before
                file.close()

    @contextlib.contextmanager
    def _or_warn(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            _warn_of_unwritten(self.path, error)


def _warn_of_unwritten(path: Path, error: object) -> None:
    """Warn that a file which saves time cannot be written: of the folder, once for all files below it."""
    setting = _setting_of(path, "work_dir=")
    folder = _folders_of_machine().get(setting, path.parent)
    warn(
        f"Cannot write to {folder} ({reason_of(error)}): what would be kept there is computed again each time. "
        f"{setting} names another folder."
    )


def discard(path: Path) -> None:
    """Delete a damaged file of a cache; one that cannot be deleted stays, and is passed over again."""
    with contextlib.suppress(OSError):
        path.unlink()


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
    return _digest(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified: int, changed: int, inode: int) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
