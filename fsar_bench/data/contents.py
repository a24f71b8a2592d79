"""Contents of clips: the key of a clip is a hash of all of its bytes, computed once per state of its files.

The content of a file is the SHA-256 of its bytes. That of a folder of images is the SHA-256 over the SHA-256 of each of its
frames, in their order: it does not depend on what they are called as long as their order is the same, nor on other files.

Contents are kept in the cache folder, by the state of what they were computed from: the absolute path, and size, modification
time, change time and inode of the file, or of all frames, with their names. A link has the state of the file that it leads
to. The times of a file that changed less than `SETTLING` seconds ago prove nothing yet: it may change again without another
time, so that its content is not kept but computed again when it is asked for next.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from zlib import crc32

from fsar_bench.data.images import frame_files
from fsar_bench.errors import DataError
from fsar_bench.io import append_cached, cache_folder, open_file
from fsar_bench.storage.recall import check_limits

if TYPE_CHECKING:
    from fsar_bench.data.dataset import Clip

FOLDER = "contents"  # below the cache folder
SETTLING = 3.0  # seconds; file systems note times in steps of up to 2 s
THREADS = 8  # at most; hashing and reading release the interpreter's lock
SLICE = 256  # clips whose states a thread looks up at a time
AHEAD = 64  # tasks that are handed to the threads in advance
CHUNK = 1 << 20  # bytes that are read at a time
EVERY = 0.1  # seconds between reports of progress
FLUSH = 1.0  # seconds after which what was computed is written

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # called with (clips hashed, clips to hash)


def contents_of(clips: Sequence[Clip], progress: Progress | None = None) -> list[str]:
    """The contents of clips; those that are not known are computed in parallel.

    Each clip remembers its content: `Clip.content` is immediate afterwards.

    Args:
        clips: all on this disk.
        progress: called with (clips hashed, clips to hash), a few times a second; never where all are known.

    Returns:
        SHA-256 of each clip, in their order.

    Raises:
        DataError: names the first clip, in their order, that is missing, empty, unreadable, or not the one that its annotation
            records.
    """
    found = _look_up(_unknown(clips))
    before = next((number for number, one in enumerate(found) if isinstance(one, DataError)), len(found))
    with contextlib.closing(_contents(found[: before + 1], progress)) as contents:
        for content in contents:
            if isinstance(content, DataError):
                raise content
    return [clip.content for clip in clips]


def contents_or_faults(clips: Sequence[Clip], progress: Progress | None = None) -> list[str | DataError]:
    """As `contents_of`, but with the error of each clip that has no content in its place."""
    unknown = _unknown(clips)
    found = zip(unknown, _contents(_look_up(unknown), progress), strict=True)
    of = {id(clip): content for clip, content in found}
    return [of.get(id(clip)) or clip.content for clip in clips]


def check_unchanged(clip: Clip) -> None:
    """Raise `DataError` if a clip has another content now than it had when it was hashed.

    Its bytes are read again only if the state of its files has changed.
    """
    try:
        state = _state_of(clip.path)
        if state is not None and state.identity == vars(clip).get("content_state"):
            return
        content = _digest(clip.path) if state is not None else ""
    except (OSError, DataError) as error:
        raise _unreadable(clip, error) from error
    if content != clip.content:
        raise DataError(
            f"Clip {clip.id!r} was changed while it was in use: {clip.path}. Start again once its files stay as they are."
        )


def _unknown(clips: Sequence[Clip]) -> list[Clip]:
    return [clip for clip in clips if "content" not in vars(clip)]


class _State(NamedTuple):
    """What tells whether a clip has changed.

    Attributes:
        identity: hash of path, sizes, times and inodes.
        shard: name of the file that keeps its content.
        changed: when it changed last, in seconds since the epoch.
    """

    identity: bytes
    shard: str
    changed: float


class _Waiting(NamedTuple):
    """A clip with its state, and its content if that is known."""

    clip: Clip
    state: _State
    content: str


def _look_up(clips: list[Clip]) -> list[_Waiting | DataError]:
    """Each clip with its state and what is known of it, or what is wrong: it is missing, empty or unreadable.

    In parallel, because a state takes a disk or a network some time.
    """
    slices = [clips[start : start + SLICE] for start in range(0, len(clips), SLICE)]
    with contextlib.closing(_in_parallel(partial(_look_up_slice, cache_folder() / FOLDER), slices)) as results:
        return [one for some in results for one in some]


def _look_up_slice(folder: Path, clips: list[Clip]) -> list[_Waiting | DataError]:
    return [_look_up_one(folder, clip) for clip in clips]


def _look_up_one(folder: Path, clip: Clip) -> _Waiting | DataError:
    try:
        state = _state_of(clip.path)
    except (OSError, DataError) as error:
        return _unreadable(clip, error)
    if state is None:
        return DataError(f"Clip {clip.id!r} is empty, or no file at all: {clip.path}. Restore the file.")
    return _Waiting(clip, state, _shard(folder, state.shard).find(state.identity))


def _unreadable(clip: Clip, error: OSError | DataError) -> DataError:
    check_limits(error, clip.path)
    reason = str(error)  # which of its images are frames cannot be told
    if isinstance(error, OSError):
        reason = f"{error.filename or clip.path} ({error.strerror}). Restore the file."
    fault = DataError(f"Clip {clip.id!r} cannot be read: {reason}")
    fault.__cause__ = error
    return fault


def _contents(found: list[_Waiting | DataError], progress: Progress | None) -> Generator[str | DataError, None, None]:
    """Contents of clips in their order, which each clip remembers, or what is wrong with it."""
    unknown = [one for one in found if isinstance(one, _Waiting) and not one.content]
    with contextlib.closing(_hashed(unknown, progress)) as hashed:
        for one in found:
            if isinstance(one, DataError):
                yield one
                continue
            content = one.content or next(hashed)
            if isinstance(content, str) and (one.clip.sha256 or content).lower() != content:
                content = _damaged(one.clip)
            if isinstance(content, str):
                vars(one.clip).update(content=content, content_state=one.state.identity)
            yield content


def _damaged(clip: Clip) -> DataError:
    return DataError(
        f"Clip {clip.id!r} is damaged: {clip.path} does not have the SHA-256 that its annotation records. "
        "Restore the file (for the built-in data: install fsar-bench again)."
    )


def _state_of(path: Path) -> _State | None:
    """State of a file or folder; None where there is nothing to hash: an empty file, no frames, a pipe or a device.

    Raises:
        OSError: it is missing or cannot be read.
        DataError: which images of a folder are its frames cannot be told.
    """
    place = os.path.abspath(path)
    status = os.stat(place)
    if stat.S_ISREG(status.st_mode):
        if not status.st_size:
            return None
        files = [("", status)]
    elif stat.S_ISDIR(status.st_mode):
        files = [(file.name, os.stat(file)) for file in frame_files(path)]
        if not files or not all(stat.S_ISREG(frame.st_mode) for _, frame in files):
            return None
    else:
        return None
    now, changed = time(), 0.0
    parts = ["1", place]
    for name, each in files:
        parts += [name, f"{each.st_size} {each.st_mtime_ns} {each.st_ctime_ns} {each.st_ino}"]
        written = each.st_mtime if each.st_mtime < now + SETTLING else 0.0  # a wrong clock wrote it: no proof
        changed = max(changed, written, each.st_ctime)
    identity = hashlib.blake2b(os.fsencode("\0".join(parts)), digest_size=16).hexdigest()
    shard = hashlib.blake2b(os.fsencode(os.path.dirname(place)), digest_size=1).hexdigest()
    return _State(identity.encode(), shard, changed)


def _hashed(waiting: list[_Waiting], progress: Progress | None) -> Generator[str | DataError, None, None]:
    """Contents in their order, computed in parallel; what is computed is kept, also where one of them fails."""
    if not waiting:
        return
    told, keeper = _Told(len(waiting), progress), _Keeper()
    try:
        for content in _in_parallel(partial(_hash, keeper), waiting):
            keeper.flush(after=FLUSH)
            told.one_more()
            yield content
    finally:
        keeper.flush()


def _in_parallel(function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """Results of a function in the order of its arguments, computed by several threads."""
    threads = min(THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if len(items) == 1 or threads == 1:
        yield from map(function, items)
        return
    pool, pending = ThreadPoolExecutor(threads, "hashing"), deque[Future[R]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _hash(keeper: _Keeper, waiting: _Waiting) -> str | DataError:
    """Content of a clip; it is kept if the clip did not change meanwhile, nor just before."""
    clip, state, _ = waiting
    is_settled = time() - state.changed >= SETTLING
    try:
        content = _digest(clip.path)
        after = _state_of(clip.path)
    except (OSError, DataError) as error:
        return _unreadable(clip, error)
    if is_settled and after is not None and after.identity == state.identity:
        keeper.add(state, content)
    return content


def _digest(path: Path) -> str:
    """SHA-256 of all bytes of a file, or over those of all frames of a folder.

    Raises:
        OSError: it cannot be read.
        DataError: which images of a folder are its frames cannot be told.
    """
    buffer = memoryview(bytearray(CHUNK))
    if not path.is_dir():
        return _file_digest(path, buffer).hex()
    sha = hashlib.sha256(b"frames\0")
    for file in frame_files(path):
        sha.update(_file_digest(file, buffer))
    return sha.hexdigest()


def _file_digest(path: Path, buffer: memoryview) -> bytes:
    sha = hashlib.sha256()
    with open_file(path) as file:
        while count := file.readinto(buffer):
            sha.update(buffer[:count])
    return sha.digest()


class _Told:
    """Reports progress a few times a second, and at the end."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._when = monotonic()
        if progress:
            progress(0, total)

    def one_more(self) -> None:
        """Count one clip."""
        self._done += 1
        now = monotonic()
        if self._progress and (now - self._when >= EVERY or self._done == self._total):
            self._when = now
            self._progress(self._done, self._total)


class _Keeper:
    """Collects contents from several threads, and writes them to the cache folder from one."""

    def __init__(self) -> None:
        self._folder = cache_folder() / FOLDER
        self._new: deque[tuple[_State, str]] = deque()
        self._when = monotonic()

    def add(self, state: _State, content: str) -> None:
        """Keep the content of a state."""
        self._new.append((state, content))

    def flush(self, after: float = 0.0) -> None:
        """Write what was added, if a number of seconds have passed since the last time."""
        if monotonic() - self._when < after:
            return
        self._when = monotonic()
        lines: dict[str, list[bytes]] = {}
        while self._new:
            state, content = self._new.popleft()
            lines.setdefault(state.shard, []).append(_shard(self._folder, state.shard).add(state.identity, content))
        for shard, new in lines.items():
            append_cached(self._folder / f"{shard}.txt", b"\n" + b"".join(new))  # ends a half line of a killed process


class _Shard:
    """Contents that one file of the cache folder keeps, by the identity of their state.

    A line holds an identity, a content and a checksum of both; any other line was damaged or never finished, and is passed
    over. Several processes append to it; it is only read where it has grown.

    Args:
        path: of the file, which need not exist.
    """

    _LENGTH = 32 + 1 + 64 + 1 + 8

    def __init__(self, path: Path) -> None:
        self._path = path
        self._contents: dict[bytes, bytes] = {}
        self._end = 0  # of what was read
        self._lock = threading.Lock()

    def find(self, identity: bytes) -> str:
        """Content of a state; empty where it is not known."""
        content = self._contents.get(identity)
        if content is None:
            with self._lock:
                self._read_on()
            content = self._contents.get(identity, b"")
        return content.decode()

    def add(self, identity: bytes, content: str) -> bytes:
        """Remember a content; returns the line to write."""
        self._contents[identity] = content.encode()
        record = b"%s %s" % (identity, content.encode())
        return b"%s %08x\n" % (record, crc32(record))

    def _read_on(self) -> None:
        try:
            size = os.stat(self._path).st_size
            if size == self._end:
                return
            with open_file(self._path) as file:
                file.seek(self._end if size > self._end else 0)  # a smaller one is another file
                data = file.read()
                self._end = file.tell() - (len(data) - data.rfind(b"\n") - 1)  # of the last whole line
        except OSError as error:  # there is none, or it cannot be read: nothing is known
            check_limits(error, self._path)
            return
        for line in data.split(b"\n"):
            if len(line) == self._LENGTH and line[98:] == b"%08x" % crc32(line[:97]):
                self._contents[line[:32]] = line[33:97]


@cache  # at most 256 of each cache folder
def _shard(folder: Path, name: str) -> _Shard:
    return _Shard(folder / f"{name}.txt")
