"""`fsar-bench results merge`: results of other machines, checked one by one, merged together or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

from fsar_bench.leaderboard.files import read_boards, write_tables
from fsar_bench.leaderboard.merge import merge_results


def merge_command(folders: list[Path], out: Path) -> int:
    """Check all results of the folders, copy the new ones and rebuild the tables; returns the exit code."""
    outcome = merge_results(folders, out)
    for problem in outcome.problems:
        print(f"error: {problem}", file=sys.stderr)
    if outcome.problems:
        print(f"error: nothing was merged ({len(outcome.problems)} problems above).", file=sys.stderr)
        return 1
    print(f"{len(outcome.taken)} results merged, {outcome.duplicates} were there already")
    if outcome.taken:
        for path in write_tables(out, read_boards(out)):
            print(path)
    return 0
