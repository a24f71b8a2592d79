"""What the data rooms may import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fsar_bench

PACKAGE = Path(fsar_bench.__file__).parent
GROUND_FLOOR = {"errors", "io", "processes", "registry", "randomness", "plan", "storage", "texts", "writing"}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, at its top or within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("data/**/*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_data_imports_nothing_above_it(path):
    names = imported(path)
    rooms = {name.split(".")[1] for name in names if name.split(".")[0] == "fsar_bench"}
    assert rooms <= GROUND_FLOOR | {"data"}
    assert "rich" not in {name.split(".")[0] for name in names}  # only commands print


def test_processes_imports_nothing_of_the_project_but_the_ground():
    assert {name.split(".")[1] for name in imported(PACKAGE / "processes.py") if "fsar_bench" in name} <= {
        "errors",
        "writing",
    }
