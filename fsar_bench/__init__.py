"""fsar-bench: a modular benchmark suite for few-shot action recognition.

The names of `__all__` are the Python API; each is imported when it is first used, so that `import fsar_bench` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsar_bench.api import check, episodes, run, score_predictions
    from fsar_bench.config.cell import Cell
    from fsar_bench.config.resolve import resolve
    from fsar_bench.config.settings import RunOptions
    from fsar_bench.engine.run import run_cell
    from fsar_bench.errors import FsarBenchError
    from fsar_bench.leaderboard.collection import Results, load_results

__version__ = "0.1.0"

__all__ = [
    "Cell",
    "FsarBenchError",
    "Results",
    "RunOptions",
    "check",
    "episodes",
    "load_results",
    "resolve",
    "run",
    "run_cell",
    "score_predictions",
]

_HOMES = {
    "Cell": "config.cell",
    "FsarBenchError": "errors",
    "Results": "leaderboard.collection",
    "RunOptions": "config.settings",
    "check": "api",
    "episodes": "api",
    "load_results": "leaderboard.collection",
    "resolve": "config.resolve",
    "run": "api",
    "run_cell": "engine.run",
    "score_predictions": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fsar_bench' has no attribute {name!r}")
    value = getattr(import_module(f"fsar_bench.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
