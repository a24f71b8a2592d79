"""`fsar-bench explain`: pictures of one episode of a result."""

from __future__ import annotations

import sys

from fsar_bench.config.overrides import parse_pairs
from fsar_bench.config.settings import RunOptions
from fsar_bench.errors import ConfigError
from fsar_bench.io import user_path
from fsar_bench.leaderboard.lookup import find_result
from fsar_bench.results.plans import checked_plan
from fsar_bench.results.store import Stored
from fsar_bench.texts.console import PlainConsole


def explain_command(name: str, pairs: list[str], *, episode: int, query: int | None) -> int:
    """Encode and score one episode, check it against the stored predictions, draw it; returns the exit code."""
    given = parse_pairs(pairs)
    results = user_path(given["results"]) if "results" in given else RunOptions.of({}).out
    stored, out = find_result(name, results), user_path(given.get("out", "explained"))
    checked_plan(stored)
    _check_numbers(stored, episode, query)

    from fsar_bench.explain.drawing import write_pictures
    from fsar_bench.explain.episode import explain_stored

    console = PlainConsole(soft_wrap=True, highlight=False)
    with console.status(f"encoding episode {episode}"):
        explained = explain_stored(
            stored, [f"{key}={given[key]}" for key in given if key not in ("out", "results")], episode
        )
    queries = range(len(explained.query)) if query is None else [query]
    page, pictures = write_pictures(stored, explained, list(queries), out)
    for j, picture in pictures.items():
        label, predicted = explained.names[explained.labels[j]], explained.names[explained.prediction[j]]
        verdict = "right" if label == predicted else f"predicted as {predicted!r}"
        console.print(f"query {j}, {label!r}: {verdict}  {picture}", markup=False)
    console.print(str(page), markup=False)
    differing = [j for j in range(len(explained.query)) if explained.prediction[j] != stored.predictions()[episode][j]]
    if differing:
        print(
            f"warning: queries {differing} have other predictions in the result: their scores are so close that another machine "
            "or batch size changes the order.",
            file=sys.stderr,
        )
    return 0


def _check_numbers(stored: Stored, episode: int, query: int | None) -> None:
    episodes, queries = stored.predictions().shape
    if not 0 <= episode < episodes:
        raise ConfigError(f"--episode {episode} does not exist: the result has episodes 0 to {episodes - 1}.")
    if query is not None and not 0 <= query < queries:
        raise ConfigError(f"--query {query} does not exist: an episode has queries 0 to {queries - 1}.")
