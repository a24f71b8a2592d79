"""`fsar-bench list`: names and one line of description each, read from docstrings without importing the code."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fsar_bench.config import names
from fsar_bench.errors import ConfigError, suggest

KINDS = ("methods", "datasets", "backbones", "matchers", "protocols")


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


def list_command(kind: str | None) -> None:
    """Print one kind, or all."""
    console = Console()
    for one in [kind] if kind else KINDS:
        table = Table(title=one, title_justify="left", box=None, show_header=False, padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, description in entries(one).items():
            table.add_row(name, description)
        console.print(table)
        console.print()
