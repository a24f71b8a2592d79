"""The campaign: kills, damaged files, full disks and runs at once, at random; prints counts, exits 1 on any difference.

`make campaign` runs all of it; `PYTHONPATH=tests .venv/bin/python -m campaign --kills 20 --damaged 50 --disks 4 --seed 7` less.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from campaign import damage, disks, ground, strikes

from fsar_bench import processes


def main() -> int:
    """Run the campaign; returns its exit code."""
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300, help="least number of strikes")
    parser.add_argument("--damaged", type=int, default=500, help="least number of damaged files")
    parser.add_argument("--disks", type=int, default=30, help="runs on full disks (only root can mount them)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    asked = parser.parse_args()
    # Names below it are short: children have temporary folders of their own only where the paths of sockets leave room.
    root, began = Path(tempfile.mkdtemp(prefix="fsar-campaign-")).resolve(), time.monotonic()
    dataset, counts = ground.make_dataset(root / "dataset"), ground.Counts()
    print(f"campaign in {root}, seed {asked.seed}", flush=True)
    told: list[tuple[dict[str, int], list[str]]] = []
    with_damage = ThreadPoolExecutor(1)  # it hears a process that ends with this one
    arguments = (root / "damaged", dataset, asked.damaged, asked.seed)
    ended = with_damage.submit(processes.converse, damage.until_enough, arguments, told.append, preload=())
    truths = {cell: strikes.undisturbed(root / cell, dataset, cell) for cell in ground.CELLS}
    kill(root / "k", dataset, truths, counts, asked)
    for number in (2, 5):
        cell = sorted(truths)[number % len(truths)]
        strikes.together(root / f"t{number}", dataset, cell, truths[cell], number, counts)
    fill_disks(root / "d", dataset, truths, counts, asked)
    code = ended.result()
    done, faults = told[-1] if told else ({}, [f"the trials of damaged files ended with {processes.ending(code)}"])
    for what, count in done.items():
        counts.add(what, count)
    return _tell(counts, faults, root, time.monotonic() - began)


def kill(
    base: Path, dataset: Path, truths: dict[str, strikes.Undisturbed], counts: ground.Counts, asked: argparse.Namespace
) -> None:
    """Strike runs, some at a time, until there were enough strikes."""

    def work(first: int) -> None:
        number = first
        while counts.done.get("kills", 0) < asked.kills:
            rng = random.Random(f"{asked.seed} kill {number}")
            cell = rng.choice(sorted(truths))
            strikes.trial(base / str(number), dataset, cell, truths[cell], rng, counts, least=4)
            number += asked.jobs
            print(f"{counts.done.get('kills', 0)} of {asked.kills} kills", flush=True)

    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(work, range(asked.jobs)))


def fill_disks(
    base: Path, dataset: Path, truths: dict[str, strikes.Undisturbed], counts: ground.Counts, asked: argparse.Namespace
) -> None:
    """Run on disks that are too small, where this user can mount them."""
    if not disks.can_mount(base):
        print("no full disks: this user cannot mount small ones", flush=True)
        return
    for number in range(asked.disks):
        rng = random.Random(f"{asked.seed} disk {number}")
        cell = rng.choice(sorted(truths))
        disks.trial(base / str(number), dataset, cell, truths[cell], rng, counts)


def _tell(counts: ground.Counts, faults: list[str], root: Path, seconds: float) -> int:
    """Print the counts and the faults; keep the folder where there are any."""
    print(f"\n{seconds / 60:.0f} minutes")
    for what, count in sorted(counts.done.items()):
        print(f"{count:6d} {what}")
    for fault in faults:  # those of the trials in this process were printed at once
        print(f"WRONG: {fault}")
    total = len(faults) + len(counts.faults)
    print(f"{total:6d} faults (differing results, tracebacks, files left behind, processes left)")
    if total:
        print(f"The folders are in {root}.")
    else:
        shutil.rmtree(root)
    return min(total, 1)


if __name__ == "__main__":
    sys.exit(main())
