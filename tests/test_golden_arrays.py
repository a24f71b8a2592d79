"""Every golden file is of a known kind, and every kind has a file and a test that reads it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from golden_arrays import FOLDERS, KINDS, files, kind_of

PATHS = [path for folder in FOLDERS for path in files(folder)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_golden_file_is_of_one_kind(path):
    assert kind_of(path) in KINDS


def test_golden_kinds_have_tests_named_golden():
    read = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "golden" in node.name:
                calls = [d for d in node.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "golden"]
                read |= {call.args[0].value for call in calls}
    assert read == set(KINDS)
