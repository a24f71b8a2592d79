"""`fsar-bench explain`: pictures of one episode of a result."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

from rich.console import Console

from fsar_bench.errors import ConfigError
from fsar_bench.io import write_atomically
from fsar_bench.leaderboard.boards import checked_plan
from fsar_bench.results.store import read


def explain_command(path: Path, pairs: list[str], *, episode: int, query: int | None) -> int:
    """Encode and score one episode, check it against the stored predictions, draw it; returns the exit code."""
    stored = read(path.parent if path.name == "result.json" else path)
    checked_plan(stored)
    outs = [pair.removeprefix("out=") for pair in pairs if pair.startswith("out=")]
    out = Path(outs[0] if outs else "explained").expanduser()
    kept = stored.predictions()
    if not 0 <= episode < len(kept):
        raise ConfigError(f"--episode {episode} does not exist: the result has episodes 0 to {len(kept) - 1}.")
    if query is not None and not 0 <= query < kept.shape[1]:
        raise ConfigError(f"--query {query} does not exist: an episode has queries 0 to {kept.shape[1] - 1}.")

    from fsar_bench.engine.run import run
    from fsar_bench.explain.episode import cell_of, explain

    cell, options = cell_of(stored.result, [pair for pair in pairs if not pair.startswith("out=")])
    console = Console(soft_wrap=True, highlight=False)
    with console.status(f"encoding episode {episode}"), _quiet():
        found = run(
            cell, options, lambda *_: None, use=lambda *given: explain(*given, episode, stored.result.protocol.realised)
        )

    from fsar_bench.explain.drawing import draw_query, page

    differing = [j for j, (now, then) in enumerate(zip(found.prediction, kept[episode], strict=True)) if now != then]
    result = stored.result
    title = f"{result.method.title} on {result.dataset.title}, {result.protocol.way}-way {result.protocol.shot}-shot"
    name = f"{stored.folder.name}-episode{episode}"
    pictures = {}
    for j in range(len(found.query)) if query is None else [query]:
        pictures[j] = draw_query(found, j, title)
        write_atomically(out / f"{name}-query{j}.png", pictures[j])
        label, taken = found.names[found.labels[j]], found.names[found.prediction[j]]
        said = "right" if found.labels[j] == found.prediction[j] else f"taken for {taken!r}"
        console.print(f"query {j}, {label!r}: {said}  {out / f'{name}-query{j}.png'}", markup=False)
    write_atomically(out / f"{name}.html", page(found, title, pictures).encode())
    console.print(str(out / f"{name}.html"), markup=False)
    if differing:
        print(
            f"warning: queries {differing} were predicted otherwise in the result: scores so close that another machine or batch "
            "turns them.",
            file=sys.stderr,
        )
    return 0


@contextlib.contextmanager
def _quiet():
    """Keep the training library's log off the screen."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
