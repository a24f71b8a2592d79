"""`fsar-bench list`: names and one line of description each, read from docstrings without importing the code."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsar_bench.config.cards import card
from fsar_bench.config.resolve import names
from fsar_bench.errors import ConfigError, suggest

KINDS = ("methods", "ablations", "datasets", "backbones", "matchers", "protocols")


def _first_line(node: ast.Module | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n")[0]


def _matchers() -> dict[str, str]:
    """Classes registered as matchers, by the decorator that registers them."""
    folder = Path(next(iter(find_spec("fsar_bench").submodule_search_locations)), "matching")
    out = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any("MATCHERS" in ast.unparse(d) for d in node.decorator_list):
                out[node.name] = _first_line(node)
    return out


def entries(kind: str) -> dict[str, str]:
    """Description by name.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"Cannot list {kind!r}.{suggest(kind, KINDS)}")
    if kind == "matchers":
        return _matchers()
    return {name: _first_line(ast.parse(path.read_text())) for name, path in names(kind).items()}


def list_command(kind: str | None, *, verbose: bool = False) -> None:
    """Print one kind, or all; `verbose` prints whole docstrings, and cards for methods."""
    console = Console()
    for one in [kind] if kind else KINDS:
        table = Table(title=one, title_justify="left", box=None, show_header=False, padding=(0, 2, verbose, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, description in entries(one).items():
            if verbose:
                description = _card(name) if one == "methods" else _docstring(one, name) or description
            table.add_row(name, Text(description))
        console.print(table)
        console.print()


def _docstring(kind: str, name: str) -> str:
    return "" if kind == "matchers" else ast.get_docstring(ast.parse(names(kind)[name].read_text())) or ""


def _card(name: str) -> str:
    own = card(name)
    where = f"; class {own.kind} in methods/{own.source.name}" if own.source else f"; class {own.kind}"
    lines = [f"{own.title} ({own.paper}{where})", own.description]
    return "\n".join([*lines, *(f"{key}: {text}" for key, text in own.fields.items())])
