"""The machine: its cores, and its memory as far as it is free. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_GROUP_ROOT = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_host_memory() -> int:
    """Bytes of memory that can be taken now, as far as the limits of this process's control groups go."""
    return min([_free_of_machine(), *_free_of_groups()])


def _free_of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux: what is free is not told, and all there is may be swapped
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _free_of_groups() -> list[int]:
    """Bytes that are left below the limit of each control group that holds this process, of both versions."""
    try:
        lines = _GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used, files = _GROUP_ROOT, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used, files = (
                _GROUP_ROOT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        groups = [root / place for place in (inner, *inner.parents)]
        free += [left for group in groups if (left := _left_below(group / limit, group / used, files)) is not None]
    return free


def _left_below(limit: Path, used: Path, files: str) -> int | None:
    """Bytes below the limit of a group, with those that cached files take; None where it has none, or is not told."""
    try:
        most = int(limit.read_text(encoding="utf-8"))
        taken = int(used.read_text(encoding="utf-8"))
        statistics = dict(
            line.split() for line in limit.with_name("memory.stat").read_text(encoding="utf-8").splitlines()
        )
        return max(0, most - taken + int(statistics.get(files, 0)))
    except (OSError, ValueError):  # "max" is no limit
        return None
