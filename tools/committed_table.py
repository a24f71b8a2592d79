"""Write leaderboards/committed.json, by which a run knows the committed results: `python -m tools.committed_table [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fsar_bench.leaderboard.committed import FILE, make_table
from fsar_bench.leaderboard.files import read_boards
from fsar_bench.results.store import read_all

ROOT = Path(__file__).parents[1]


def table(out: Path) -> str:
    """The table of the results below a folder, a row per line."""
    made = make_table(read_all(out / "results"), read_boards(out)).model_dump(mode="json")
    environments = ",\n".join(json.dumps(each, sort_keys=True) for each in made["environments"])
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in made["rows"].items())
    return f'{{"environments": [\n{environments}\n],\n"rows": {{\n{rows}\n}}}}\n'


def main() -> int:
    """Write the table, or with --check compare it; returns the exit code."""
    path, text = ROOT / "leaderboards" / FILE, table(ROOT / "leaderboards")
    if "--check" in sys.argv:
        stale = not path.exists() or path.read_text(encoding="utf-8") != text
        if stale:
            print(f"error: leaderboards/{FILE} is out of date; run make leaderboard", file=sys.stderr)
        return int(stale)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
