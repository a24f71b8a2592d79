"""How well the built-in boards predict the literature: writes docs/agreement.md from stored results and published figures.

python -m tools.agreement              (writes the page and prints its summary; runs no method)
python -m tools.agreement --regimes    (prints the regimes of the three boards alone)
python -m tools.agreement --check      (fails where the page is out of date)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fsar_bench.errors import FsarBenchError
from fsar_bench.leaderboard.files import read_boards
from fsar_bench.leaderboard.published import read_published
from tools import SHORT_WORDS
from tools.agreement import page, regimes
from tools.agreement.matching import boards_with_variants, panels, read_systems

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "agreement.md"


def main(arguments: list[str] | None = None) -> int:
    """Write, print or check; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.agreement", description=__doc__.split("\n")[0])
    parser.add_argument("--regimes", action="store_true", help="print the regimes of the boards alone")
    parser.add_argument("--check", action="store_true", help="fail where the page is out of date")
    parser.add_argument("--out", type=Path, default=ROOT / "leaderboards", help="folder of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    given = parser.parse_args(arguments)
    try:
        return _run(given)
    except FsarBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(given: argparse.Namespace) -> int:
    of_regimes = regimes.lines(read_boards(given.out))
    if given.regimes:
        print("\n".join(page.regime_table(of_regimes)))
        return 0
    systems = read_systems()
    published, boards = read_published(given.out), boards_with_variants(given.out)
    rankings, shorter = (panels(published, systems, boards, training) for training in ("", SHORT_WORDS))
    text = page.text(rankings, shorter, systems, of_regimes, given.page.stem)
    if given.check:
        stale = not given.page.exists() or given.page.read_text(encoding="utf-8") != text
        if stale:
            print(f"error: {given.page} is out of date; run make leaderboard", file=sys.stderr)
        return int(stale)
    page.draw(rankings, given.page.with_suffix(""))
    given.page.write_text(text, encoding="utf-8")
    print("\n".join([*page.summary_table(rankings), "", *page.regime_table(of_regimes), "", str(given.page)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
