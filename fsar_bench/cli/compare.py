"""`fsar-bench compare A B`: two methods on the same episodes."""

from __future__ import annotations

import shlex

from fsar_bench.cli.leaderboard import results_folder
from fsar_bench.config.overrides import coerce, parse_pairs
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.leaderboard.collection import load_results, setting_of
from fsar_bench.leaderboard.compare import compare_by_name
from fsar_bench.leaderboard.lookup import result_folder
from fsar_bench.texts.console import PlainConsole

FILTERS: dict[str, str | int] = {"dataset": "", "way": 0, "shot": 0, "seed": 0}  # with a value of their type


def compare_command(first: str, second: str, pairs: list[str]) -> int:
    """Print the comparison on every board that has both rows; returns the exit code."""
    settings = parse_pairs(pairs)
    for key in settings:
        if key not in ("out", "within", *FILTERS):
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, ['out', 'within', *FILTERS])}")
    within = _within(settings["within"]) if "within" in settings else None
    filters = {key: coerce(key, settings[key], kind) for key, kind in FILTERS.items() if key in settings}
    folders = [folder for name in (first, second) if (folder := result_folder(name))]
    first, second = (str(result_folder(name) or name) for name in (first, second))
    if "out" in settings or not folders:
        out = results_folder([f"out={settings['out']}"] if "out" in settings else [])
    else:
        out = folders[0].parents[3]  # the store that the named result is in
    results = load_results(out)
    boards = [board for board in results.boards if filters.items() <= setting_of(board).items()]
    console = PlainConsole(soft_wrap=True, highlight=False)
    for comparison in compare_by_name(boards, first, second, within):
        console.print(f"\n{comparison}", markup=False)
        stored = comparison.first.seeds[0]
        example = ["fsar-bench", "explain", str(stored.folder), "--episode", str(comparison.episodes[0].number)]
        if stored.result.cell.identity.custom_imports:
            example.append(f"methods=./{stored.result.name}.py")
        console.print(f"To see one: {shlex.join(example)}", markup=False, style="dim")
    return 0


def _within(text: str) -> float:
    """The difference in points that counts as none."""
    within = float(coerce("within", text, 0.0))
    if not 0 < within <= 100:
        raise ConfigError(f"within={text} must be above 0 and at most 100: a difference in points that counts as none.")
    return within
