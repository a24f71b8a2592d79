"""Recalling what was stored: one policy for everything that only saves time, and errors for machines that run out.

What is missing is made. What is damaged, or was made from something else, is discarded and made again, with one line for all
such files of a folder. What cannot be read stays where it is and is made again. Where the machine runs out of open files or
memory, nothing is damaged: that is an error.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fsar_bench.errors import LimitError
from fsar_bench.io import discard, reason_of
from fsar_bench.progress.events import warn
from fsar_bench.storage.sealed import DamagedError
from fsar_bench.writing.faults import LIMITS

T = TypeVar("T")


def check_limits(error: BaseException, path: Path) -> None:
    """Raise `LimitError` if a file could not be read because the machine ran out of something, not because of the file."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if number in LIMITS:
        raise LimitError(f"Cannot read {path}: {LIMITS[number]}. The file itself may be sound.") from error


def recall(path: Path, read: Callable[[Path], T], what: str, *, again: str, folder: Path | None = None) -> T | None:
    """What a file that only saves time holds.

    Args:
        path: the file.
        read: reads it; raises `DamagedError`, or a `ValueError`, `KeyError` or `TypeError` where its content cannot be used.
        what: what is stored there, for the warning, such as "frames".
        again: what becomes of it, such as "They are decoded again".
        folder: where all files of the kind are, for the warning; None is the folder of the file.

    Returns:
        None where there is none that can be used: it is to be made.

    Raises:
        LimitError: the machine ran out of open files or memory.
    """
    folder = path.parent if folder is None else folder
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError) as error:
        check_limits(error, path)
        warn(f"Cannot read {what} in {folder} ({reason_of(error)}). {again}.")
    except (DamagedError, ValueError, KeyError, TypeError):
        discard(path)
        warn(f"Damaged, or made from something else: {what} in {folder}. {again}.")
    return None
