"""Temporary files and folders: their names say whose they are, so that those of dead processes can be deleted.

A name ends in `.HOST.PID.START-NAMESPACE-COUNT.part`. `START` (the clock tick in which the process started) tells it from a later
process with its number, `NAMESPACE` from processes of other containers on this host, which cannot be seen; both are 0 on systems
that do not know them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_SUFFIX = ".part"
_PART = re.compile(r"\.(?P<name>.*)\.(?P<pid>\d+)\.(?:(?P<start>\d+)-(?P<namespace>\d+)-)?\d+\.part", re.DOTALL)
_FOLDER = re.compile(r"fsar-bench-(?P<pid>\d+)-(?P<start>\d+)-(?P<system>[0-9a-f]{8})-.*")
_KEPT = 40  # bytes of the name of a file that the name of its temporary file begins with: some disks allow 143 in all
_FORGOTTEN = 7 * 86_400.0  # seconds after which nobody writes a file any more, on whichever machine
_swept: set[Path] = set()  # folders in which this process has looked for files of dead processes
_count = itertools.count()


def temporary_of(path: Path) -> Path:
    """A path next to a file, which no other write of any process uses."""
    pid = os.getpid()
    start, namespace = _identity(pid)
    kept = os.fsencode(path.name)[:_KEPT].decode(errors="ignore")
    return path.with_name(f".{kept}.{platform.node()}.{pid}.{start}-{namespace}-{next(_count)}{_SUFFIX}")


def temporary_folder() -> Path:
    """Make a folder for this process in the system's folder of temporary files; see `sweep_temporary_folders`."""
    return Path(tempfile.mkdtemp(prefix=_prefix()))


def short_folder() -> Path:
    """Make a folder like `temporary_folder`, of which a process has one at a time: sockets in it leave little room for its name.

    Raises:
        FileExistsError: this process has it already.
    """
    folder = Path(tempfile.gettempdir()) / _prefix()
    folder.mkdir(mode=0o700)
    return folder


def _prefix() -> str:
    pid = os.getpid()
    return f"fsar-bench-{pid}-{_identity(pid)[0]}-{_system()}-"


def sweep_temporary_folders() -> None:
    """Delete what `temporary_folder` made for processes of this user that are dead."""
    if not hasattr(os, "getuid"):  # Windows, where none is made
        return
    with contextlib.suppress(OSError):  # no such folder, or it may not be read
        for entry in os.scandir(tempfile.gettempdir()):
            folder = _FOLDER.fullmatch(entry.name)
            if folder is None or folder["system"] != _system():
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.getuid() and not _is_alive(
                int(folder["pid"]), folder["start"]
            ):
                shutil.rmtree(entry.path, ignore_errors=True)


def is_abandoned(name: str) -> bool:
    """Whether a file name is that of a temporary file of a process of this machine that is dead."""
    part = _PART.fullmatch(name)
    if part is None or not part["name"].endswith(f".{platform.node()}"):
        return False
    if part["namespace"] not in (None, _identity(os.getpid())[1]):
        return False  # of another container: its processes cannot be seen
    return not _is_alive(int(part["pid"]), part["start"])


def sweep_once(folder: Path) -> None:
    """Delete temporary files of dead processes in a folder, unless this process has done so before."""
    if folder not in _swept:
        _swept.add(folder)
        with contextlib.suppress(OSError):  # it may be closed for reading
            _delete(folder, os.listdir(folder))


def sweep(folders: Iterable[Path], *, seconds: float = 2.0) -> None:
    """Delete temporary files of dead processes below some folders, and folders that become empty by it.

    Args:
        folders: they need not exist; links are not followed.
        seconds: for how long to look; the rest of a large cache on a slow disk is left to later runs.
    """
    end = time.monotonic() + seconds
    for root in folders:
        emptied = []
        for place, _, names in os.walk(root):
            if _delete(Path(place), names):
                emptied.append(Path(place))
            if time.monotonic() > end:
                break
        for folder in emptied:
            _remove_empty(folder, root)


def _delete(folder: Path, names: list[str]) -> bool:
    """Delete the temporary files of dead processes among the files of a folder; returns whether there were any."""
    left = [folder / name for name in names if name.endswith(_SUFFIX) and _is_left(folder / name)]
    for part in left:
        with contextlib.suppress(OSError):
            part.unlink()
    return bool(left)


def _is_left(part: Path) -> bool:
    """Whether no process writes to a file any more."""
    if not _PART.fullmatch(part.name):
        return False
    try:
        return is_abandoned(part.name) or time.time() - part.lstat().st_mtime > _FORGOTTEN
    except OSError:  # it is gone
        return False


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and those above it, below a root, as far as they are empty."""
    with contextlib.suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent


@lru_cache(maxsize=1)  # by process: a fork copies it
def _identity(pid: int) -> tuple[str, str]:
    """Clock tick in which this process started, and number of its namespace of processes."""
    stat = _stat(pid)
    try:
        return stat[1] if stat else "0", str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return stat[1] if stat else "0", "0"


def _system() -> str:
    """This host and its namespace of processes in eight digits: sockets in a folder leave little room for its name."""
    return hashlib.sha256(f"{platform.node()} {_identity(os.getpid())[1]}".encode()).hexdigest()[:8]


def _is_alive(pid: int, start: str | None) -> bool:
    """Whether a process lives, and is the one that started at a clock tick, if that is known."""
    stat = _stat(pid)
    if stat is not None:
        state, began = stat
        return state not in "ZX" and start in (None, "0", began)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def _stat(pid: int) -> tuple[str, str] | None:
    """State of a process ("Z": it is dead, and its owner has not asked how it ended) and the clock tick in which it started."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # its name, before them, may hold anything
    return fields[0], fields[19]
