"""Copy the 5-way 1-shot table of leaderboards/synthact.md into the README: `python -m tools.readme_table [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"


def table(page: str) -> str:
    """The first table below the heading of 5-way 1-shot."""
    section = page.split("## 5-way 1-shot")[1].split("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page = (ROOT / "leaderboards" / "synthact.md").read_text()
    wanted = f"{before}{BEGIN}\n{table(page)}\n{END}{after}"
    if "--check" in sys.argv:
        if wanted != text:
            print("error: the README's table is stale; run make leaderboard", file=sys.stderr)
        return int(wanted != text)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
