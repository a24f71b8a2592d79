"""Runs whose folders are on disks that are too small: they name the cause, leave nothing half done, and end well with room."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

from campaign import ground
from campaign.strikes import Undisturbed, verdict

PLACES = ("out", "work", "cache")
CAUSES = ("space", "read-only", "inode", "quota")  # words of errors that name a full disk


def can_mount(base: Path) -> bool:
    """Whether this user may mount a small disk here."""
    probe = base / "probe"
    is_mounted = _mount(probe, "size=64k")
    if is_mounted:
        _unmount(probe)
    return is_mounted


def _mount(folder: Path, options: str) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


def trial(base: Path, dataset: Path, cell: str, truth: Undisturbed, rng: random.Random, counts: ground.Counts) -> None:
    """Run a cell with one of its folders on a small disk, then again with room.

    Args:
        base: folder of the trial.
        dataset: config of the dataset.
        cell: name of the cell.
        truth: the same cell, undisturbed.
        rng: chooses the folder and the size.
        counts: is told what was done, and what is wrong.
    """
    place = rng.choice(PLACES)
    size = 4 * int(2 ** rng.uniform(1, 9))  # 8 kB to 2 MB
    options = rng.choice((f"size={size}k", f"size={size}k", f"size=64m,nr_inodes={rng.randrange(3, 60)}"))
    what = f"{cell} with {place} on a disk of {options}"
    _mount(base / place, options)
    try:
        code = ground.run(base, ground.pairs(dataset, cell))
        counts.add("full disks")
        words = ground.last_words(base)
        if code and not any(cause in words.lower() for cause in CAUSES):
            counts.fault(f"{what}: exit code {code} without the cause: {words}")
        if any(word in ground.said(base) for word in ground.UNFORESEEN):
            counts.fault(f"{what}: an unforeseen error: {words}")
        temporary = [name for name in ground.leftovers(base, set()) if ".part" in name or ".probe" in name]
        if temporary:
            counts.fault(f"{what}: left behind: {temporary}")
        room = subprocess.run(
            ["mount", "-o", "remount,size=256m,nr_inodes=20000", str(base / place)], capture_output=True
        )
        room.check_returncode()
        (base / "log").write_text("")  # what the first run said was judged above
        code = ground.run(base, ground.pairs(dataset, cell))
        verdict(base, f"{what}, then with room", code, truth, counts, is_kept=True)  # it is mounted
    finally:
        _unmount(base / place)
