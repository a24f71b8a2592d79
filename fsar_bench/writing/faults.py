"""Errors of disks: which folder is full, read-only or closed to this user, and which setting names another one.

Libraries raise them in many forms: with and without the path, with an error number, with a text alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

Places = Mapping[str, Path]  # folders by the setting that moves them, such as "out="

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
LIMITS = {  # what a machine runs out of whatever the file, and what helps
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n), or lower workers=",
    errno.ENFILE: "the system has too many open files: end other programs",
    errno.ENOMEM: "there is not enough memory: end other programs, or lower workers= or score_batch=",
}
_LIMIT = frozenset({errno.EMFILE, errno.ENFILE})
_CERTAIN = FULL | _LIMIT | {errno.EROFS, errno.EIO, errno.ESTALE}  # of disks, whatever they are raised by
_OF_PATHS = CLOSED | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}  # of disks, where a path is named
_IN_PLACES = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EBUSY,
}  # of disks, where the path is in one of our folders
_LITTLE = 2**16  # bytes; with less, a disk is full
_SIGNS = ("requested and", "PytorchStreamWriter failed", "unexpected pos", "iostream error", "basic_ios::clear")
"""Texts of numpy and torch where a file could not be written in full; they may mean something else."""


def reason_of(error: object) -> str:
    """Why a file could not be read or written, in words."""
    if isinstance(error, FileExistsError):
        return "it is no folder, or a link to nothing"
    return getattr(error, "strerror", None) or str(error)


def advice(error: OSError, setting: str) -> str:
    """What to do about a file that could not be written; `setting` names another folder, or is empty where none does."""
    other = f"hoose another folder with {setting}." if setting else "hoose another folder."
    if error.errno in _LIMIT:
        return f"{LIMITS[error.errno].partition(': ')[2].capitalize()}."
    if error.errno == errno.ENAMETOOLONG:
        return f"The name is too long: c{other}"
    return f"Free space there, or c{other}" if error.errno in FULL else f"C{other}"


def explanation(error: BaseException, places: Places) -> str | None:
    """An error of a disk in one line that names the folder and what moves it; None for any other error.

    Args:
        error: what was raised; its causes count too.
        places: folders that a run writes to.
    """
    fault = _system_error(error, places)
    if fault is None:
        return None
    if fault.errno in _LIMIT:
        return f"A file cannot be opened ({reason_of(fault)}). {advice(fault, '')}"
    path = fault.filename2 or fault.filename
    if isinstance(path, (str, os.PathLike, bytes)):
        path = Path(os.fsdecode(path))
        setting = _setting_of(path, places)
        verb = "write" if fault.errno in FULL else "read or write"
        return f"Cannot {verb} {path} ({_with_cause(fault, path)}). {advice(fault, setting)}"
    for folder in places.values():
        if _is_at_fault(folder, fault):
            return (
                f"Cannot write to {folder} ({_with_cause(fault, folder)}). {advice(fault, _setting_of(folder, places))}"
            )
    known = ", ".join(f"{setting} ({folder})" for setting, folder in places.items())
    return f"A file cannot be written ({reason_of(fault)}). Free space, or choose another folder: {known}."


def as_system_error(error: Exception, fault: OSError | None, path: Path) -> OSError | None:
    """What went wrong while a file was written, with its path; None where it was not the disk.

    Args:
        error: what was raised.
        fault: the error of the last write, which the library that wrote may have replaced; None where all succeeded.
        path: the file.
    """
    if fault is None and isinstance(error, OSError):
        fault = error
    if fault is None and is_full(path.parent) and any(sign in str(error) for sign in _SIGNS):
        fault = OSError()
    if fault is None:
        return None
    if fault.errno is None and is_full(path.parent):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if fault.errno is not None:
        fault.filename, fault.filename2 = str(path), None
    return fault


def is_full(folder: Path) -> bool:
    """Whether the disk of a folder, which need not exist, has no space or no room for another file."""
    state = _disk(folder)
    return state is not None and (state.f_bavail * state.f_frsize < _LITTLE or _lacks_inodes(state))


def _system_error(error: BaseException, places: Places) -> OSError | None:
    """The error of the system that an error is, or comes from."""
    for each, is_cause in _chain(error):
        if isinstance(each, OSError) and (each.errno in _CERTAIN or (is_cause and _names_a_path_of_ours(each, places))):
            return each
    text = str(error)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number))
    if "No usable temporary directory" in text:
        return OSError(errno.ENOSPC, "no folder for temporary files can be written", os.environ.get("TMPDIR", "/tmp"))
    if any(sign in text for sign in _SIGNS) and any(is_full(folder) for folder in places.values()):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _chain(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """An error and what it comes from, with whether it was meant: an error while another is handled need not come from it."""
    seen: set[int] = set()
    is_cause = True
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each, is_cause
        is_cause = is_cause and each.__cause__ is not None
        each = each.__cause__ or each.__context__


def _names_a_path_of_ours(error: OSError, places: Places) -> bool:
    path = error.filename2 or error.filename
    if not isinstance(path, (str, os.PathLike, bytes)):
        return False
    return error.errno in _OF_PATHS or (
        error.errno in _IN_PLACES and bool(_setting_of(Path(os.fsdecode(path)), places))
    )


def _setting_of(path: Path, places: Places) -> str:
    """The settings that move a path; empty where none does."""
    inside: dict[str, int] = {}
    for setting, folder in places.items():
        for form in (os.path.abspath, os.path.realpath):
            if Path(form(path)).is_relative_to(form(folder)):
                inside[setting] = len(Path(form(folder)).parts)
    return " and ".join(setting for setting, depth in inside.items() if depth == max(inside.values()))


def _is_at_fault(folder: Path, error: OSError) -> bool:
    """Whether a folder is in the state that an error tells of."""
    if error.errno in FULL:
        return is_full(folder)
    state = _disk(folder)
    return error.errno == errno.EROFS and state is not None and bool(state.f_flag & os.ST_RDONLY)


def _with_cause(error: OSError, path: Path) -> str:
    state = _disk(path) if error.errno == errno.ENOSPC else None
    return reason_of(error) + (": no inode is free" if state is not None and _lacks_inodes(state) else "")


def _lacks_inodes(state: os.statvfs_result) -> bool:
    return state.f_files > 0 and state.f_favail == 0  # some file systems count none


def _disk(path: Path) -> os.statvfs_result | None:
    """State of the disk that holds a path, or would hold it."""
    for place in (path, *path.absolute().parents):
        try:
            return os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None
