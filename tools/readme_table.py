"""Copy the main columns of SynthAct's 5-way 1-shot table into the README: `python -m tools.readme_table [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
COLUMNS = (
    "rank",
    "method",
    "accuracy %",
    "± all",
    "± clips",
    "± clips, by recording",
    "± episodes",
    "pair %",
    "names",
    "trained M",
    "total M",
    "train s",
)


def table(page: str) -> str:
    """The main columns of the first table of a page."""
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    columns = [place for place, name in enumerate(rows[0]) if name.strip() in COLUMNS]
    return "\n".join(f"|{'|'.join(row[place] for place in columns)}|" for row in rows)


def main() -> int:
    """Rewrite the README's table, or with --check compare it; returns the exit code."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page = (ROOT / "leaderboards" / "synthact-5way_1shot.md").read_text()
    updated = f"{before}{BEGIN}\n{table(page)}\n{END}{after}"
    if "--check" in sys.argv:
        if updated != text:
            print("error: the README's table is stale; run make leaderboard", file=sys.stderr)
        return int(updated != text)
    readme.write_text(updated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
