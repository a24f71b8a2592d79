"""Copy the main rows and columns of SynthAct's 5-way 1-shot table into the README: `python -m tools.readme_table [--check]`.

Rows are the most accurate ones and those of the README's first command; the page has all. A line below tells what that command
itself makes: it trains once, and the table averages over the trainings that this repository holds.
"""

from __future__ import annotations

import json
import sys
from itertools import dropwhile, takewhile
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
    "tuned",
    "trained M",
    "total M",
    "train s",
)
MOST = 15  # the most accurate rows
OF_COMMAND = ("CLIP-FSAR", "MA-CLIP", "Prototype, frozen (control)", "Zero-shot text (control)")
CHANCE = "Chance (1 / way)"


def table(page: str) -> str:
    """The main rows and columns of the first table of a page."""
    first = takewhile(
        lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("|"), page.splitlines())
    )
    head, rule, *rows = [line.strip("|").split("|") for line in first]
    columns = [place for place, name in enumerate(head) if name.strip() in COLUMNS]
    method = [name.strip() for name in head].index("method")
    shown = [row for place, row in enumerate(rows) if place < MOST or row[method].strip() in (*OF_COMMAND, CHANCE)]
    return "\n".join(f"|{'|'.join(row[place] for place in columns)}|" for row in [head, rule, *shown])


def of_command(results: Path) -> str:
    """The rows of the README's first command as it makes them, with one training each."""
    accuracy = {}
    for path in results.glob("*/result.json"):
        record = json.loads(path.read_text())
        cell, train = record["cell"], record["cell"]["identity"].get("train")
        title = cell["label"]["title"] + " (control)" * cell["label"].get("control", False)
        changed = cell["label"]["changed"] or "frames_as" in cell["identity"]["protocol"] or (train or {}).get("seed")
        if title in OF_COMMAND and not changed:
            accuracy[title] = record["metrics"]["accuracy"]
    rows = ", ".join(f"{title} {value:.2f}" for title, value in sorted(accuracy.items(), key=lambda row: -row[1]))
    return f"The command itself, which trains once, ends in {rows}."


def main() -> int:
    """Rewrite the README's table, or with --check compare it; returns the exit code."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page = (ROOT / "leaderboards" / "synthact-5way_1shot.md").read_text()
    made = of_command(ROOT / "leaderboards" / "results" / "synthact" / "5way_1shot")
    updated = f"{before}{BEGIN}\n{table(page)}\n\n{made}\n{END}{after}"
    if "--check" in sys.argv:
        if updated != text:
            print("error: the README's table is stale; run make leaderboard", file=sys.stderr)
        return int(updated != text)
    readme.write_text(updated)
    return 0


if __name__ == "__main__":
    sys.exit(main())
