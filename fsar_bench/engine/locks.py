"""Locks of the folders below `work_dir`: one run works in a folder at a time. The system frees those of dead processes.

Next to its lock a run writes who it is, and touches that file while it makes progress. A run that waits for it thus waits as
long as it takes, but not for one that stands still. Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from filelock import FileLock, Timeout

from fsar_bench.errors import BusyError, ResultError
from fsar_bench.io import read_whole, reason_of, to_json, write_cached
from fsar_bench.progress.events import WAITING, report, watching
from fsar_bench.writing.faults import advice

LOCK, HOLDER = ".lock", ".holder.json"
MOMENT = 1.0  # seconds for which a lock may be held by one who only looks whether it is free
PATIENCE = 5.0  # seconds between two reports of waiting
SILENCE = 3600.0  # seconds without progress after which another run is not waited for any longer
MAKING = 600.0  # seconds that a file of a cache is waited for which another process makes
BEAT = 10.0  # seconds between two signs of progress
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def is_locked(folder: Path) -> bool:
    """Whether a run works in a folder; makes no file.

    Raises:
        ResultError: the folder cannot be locked.
    """
    if not (folder / LOCK).exists():
        return False
    try:
        with _lock(folder, 0):
            return False
    except Timeout:
        return True


def holder(folder: Path) -> str:
    """Who works in a locked folder, such as " (process 12 on gpu3)"; empty if it is not known."""
    try:
        record = json.loads(read_whole(folder / HOLDER))
        return f" (process {int(record['pid'])} on {str(record['host'])[:80]!r})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        BusyError: another run holds it.
        ResultError: the folder cannot be locked.
    """
    try:
        lock = _lock(folder, MOMENT)
    except Timeout:
        raise BusyError(
            f"Another run is working in {folder}{holder(folder)}. Wait for it, or choose another work_dir=."
        ) from None
    with lock, _named(folder):
        yield


@contextlib.contextmanager
def patient_in(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, waiting for another run that holds it as long as that makes progress.

    Args:
        folder: it.
        what: what the other run does, for the reports, such as "the training".

    Raises:
        ResultError: the other run has made no progress for `SILENCE` seconds, or the folder cannot be locked.
    """
    patience, sign, since = MOMENT, 0, monotonic()
    while True:
        try:
            lock = _lock(folder, patience)
            break
        except Timeout:
            report(f"{WAITING} for {what} in another run{holder(folder)}", 0, 1)
            patience = PATIENCE
        if (latest := _last_change(folder)) != sign:
            sign, since = latest, monotonic()  # by our clock: those of two machines may differ
        elif monotonic() - since > SILENCE:
            raise ResultError(
                f"Another run holds {folder / LOCK}{holder(folder)} and has made no progress for {SILENCE / 60:g} minutes. "
                "Resume it if it is stopped (kill -CONT with the number of its process), or end it (kill -KILL), and run the "
                "same command again; or choose another work_dir=."
            )
    with lock, _named(folder):
        yield


@contextlib.contextmanager
def making(path: Path) -> Iterator[None]:
    """Make a file of a cache: others that want to make it wait, and find it then.

    Nothing but time depends on it: where there are no locks, or one is held for more than `MAKING` seconds, all of them make it.
    """
    lock = path.with_suffix(".lock")
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock).acquire(timeout=MAKING, poll_interval=0.05))
            held.callback(_remove, lock)  # before it is free: who waits for it looks for the file next
        yield


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _lock(folder: Path, seconds: float) -> contextlib.AbstractContextManager[object]:
    """Take the lock of a folder; it is free again when the result's context ends.

    Raises:
        Timeout: another run holds it for longer than this.
        ResultError: it cannot be opened, or the file system has no locks.
    """
    try:
        return FileLock(folder / LOCK).acquire(timeout=seconds, poll_interval=0.05)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) or error.errno in WITHOUT_LOCKS:
            hint = "Its file system has no locks: choose a folder on another one with work_dir=."
        else:
            hint = advice(error, "work_dir=")
        raise ResultError(f"Cannot lock {folder / LOCK} ({reason_of(error)}). {hint}") from error


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Tell other runs who holds the lock of a folder, and of each progress."""
    path, beaten = folder / HOLDER, monotonic()
    record = to_json({"pid": os.getpid(), "host": socket.gethostname()})
    write_cached(path, lambda file: file.write(record))

    def beat() -> None:
        nonlocal beaten
        if monotonic() - beaten > BEAT:
            beaten = monotonic()
            with contextlib.suppress(OSError):
                os.utime(path)

    try:
        with watching(beat):
            yield
    finally:
        _remove(path)


def _last_change(folder: Path) -> int:
    """When a file of the folder was last written, in ns; without the lock, which those who wait may touch."""
    latest = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                latest = max(latest, entry.stat().st_mtime_ns) if entry.name != LOCK else latest
    return latest
