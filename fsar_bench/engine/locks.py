"""Locks of the folders below `work_dir`: one run works in a folder at a time. The system frees those of dead processes.

Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fsar_bench.errors import BusyError
from fsar_bench.progress.events import WAITING, report

LOCK = ".lock"
PATIENCE = 5.0  # seconds between two reports of waiting


def is_locked(folder: Path) -> bool:
    """Whether a run works in a folder; makes no file."""
    lock = folder / LOCK
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        BusyError: another run holds it.
    """
    try:
        lock = FileLock(folder / LOCK).acquire(timeout=0)
    except Timeout:
        raise BusyError(f"Another run is working in {folder}. Wait for it, or choose another work_dir=.") from None
    with lock:
        yield


@contextlib.contextmanager
def patient_in(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, waiting for another run that holds it.

    Args:
        folder: it.
        what: what the other run does, for the reports, such as "the training".
    """
    lock, patience = FileLock(folder / LOCK), 0.0
    while True:
        try:
            held = lock.acquire(timeout=patience)
            break
        except Timeout:
            report(f"{WAITING} for {what} in another run", 0, 1)
            patience = PATIENCE
    with held:
        yield
