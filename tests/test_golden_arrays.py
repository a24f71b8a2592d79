"""Every golden file is of a known kind, and every kind has a file and a test that reads it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from golden_arrays import FOLDERS, KINDS, OURS, files, kind_of

PATHS = [path for folder in FOLDERS for path in files(folder)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_golden_file_is_of_one_kind(path):
    if kind_of(path) is None and path.parent not in OURS:
        pytest.skip(f"no test reads arrays such as those of {path}")
    assert kind_of(path) in KINDS


def test_our_files_are_of_all_kinds():
    assert {KINDS[kind_of(path)][0] for path in PATHS if path.parent in OURS} == {path.name for path in OURS}
    for kind, (folder, _) in KINDS.items():
        if FOLDERS[folder] in OURS:
            assert any(kind_of(path) == kind for path in files(folder)), kind


def test_golden_kinds_have_tests_named_golden():
    read = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "golden" in node.name:
                calls = [d for d in node.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "golden"]
                read |= {call.args[0].value for call in calls}
    assert read == set(KINDS)
