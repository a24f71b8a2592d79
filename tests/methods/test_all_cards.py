"""Length of all method files; fields and declared settings of the cards that say how certain their specification is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fsar_bench.methods
from fsar_bench.config.cards import arguments
from fsar_bench.config.files import load, names

METHODS = Path(fsar_bench.methods.__file__).parent
LONGEST = 200  # lines of a method file that one reads in five minutes
FIELDS = ("Followed", "Differs", "Unknown")
REIMPLEMENTED = "Re-implementation after "
VALUE = re.compile(r"\d|`|\bours\b|\b[Dd]eclared\b")  # how cards name a setting of their own


def fields(card: str) -> dict[str, str]:
    """The fields of a card, by name; each ends where the next one or an empty line begins."""
    pattern = rf"^({'|'.join(FIELDS)}):(.*?)(?=^(?:{'|'.join(FIELDS)}):|^\s*$|\Z)"
    return {name: " ".join(text.split()) for name, text in re.findall(pattern, card, re.MULTILINE | re.DOTALL)}


def faults(card: str, certainty: str) -> list[str]:
    """What a card lacks.

    Args:
        card: docstring of a method's module or config.
        certainty: "code run", "code read" or "declared".
    """
    written = fields(card)
    lacking = [f"no {name}" for name in ("Followed", "Differs") if not written.get(name)]
    if REIMPLEMENTED in card:
        lacking = [fault for fault in lacking if fault != "no Followed"]
    unknown = written.get("Unknown", "")
    if certainty == "declared" and (unknown.lower().startswith("nothing") or not VALUE.search(unknown)):
        lacking.append("declared, but no setting under Unknown")
    return lacking


def method_files() -> dict[str, Path]:
    """The file of every method, by the name of its class."""
    return {
        node.name: path
        for path in METHODS.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and any("METHODS" in ast.unparse(d) for d in node.decorator_list)
    }


FILES = method_files()
CONFIGS = {name: load("methods", name).values for name in names("methods")}
CERTAIN = sorted(name for name, config in CONFIGS.items() if config.get("certainty"))


def card_of(name: str) -> str:
    """The card of a config: its own docstring if it has fields, that of the method's module otherwise."""
    own = ast.get_docstring(ast.parse(names("methods")[name].read_text(encoding="utf-8"))) or ""
    module = FILES[CONFIGS[name]["method"]["type"]]
    return own if fields(own) else ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""


def test_the_methods_of_this_kind_are_seen():
    assert {"arn", "cmn", "proto_maml", "tarn", "trn"} <= set(CERTAIN)


@pytest.mark.parametrize("name", CERTAIN)
def test_card_has_its_fields(name):
    assert not faults(card_of(name), CONFIGS[name]["certainty"])


@pytest.mark.parametrize("name", sorted(path.stem for path in METHODS.glob("*.py")))
def test_method_file_is_short(name):
    lines = len((METHODS / f"{name}.py").read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST, f"{lines} lines"


@pytest.mark.parametrize(
    ("card", "certainty", "expected"),
    [
        ("A.\n\nFollowed: code.\nDiffers: nothing.\nUnknown: nothing.", "code run", []),
        ("A.\n\nFollowed: code.\nUnknown: a rate of 1.", "code read", ["no Differs"]),
        ("A.\n\nDiffers: much.\nUnknown: a rate of 1.", "declared", ["no Followed"]),
        (
            "A.\n\nRe-implementation after B, settings declared.\n\nDiffers: much.\nUnknown: a rate of 1.",
            "declared",
            [],
        ),
        ("A.\n\nFollowed: B.\nDiffers:\nUnknown: `steps`.", "declared", ["no Differs"]),
        ("A.\n\nFollowed: B.\nDiffers: C.", "declared", ["declared, but no setting under Unknown"]),
        ("A.\n\nFollowed: B.\nDiffers: C.\nUnknown: nothing.", "declared", ["declared, but no setting under Unknown"]),
        ("A.\n\nFollowed: B.\nDiffers: C.\nUnknown: a lot.", "declared", ["declared, but no setting under Unknown"]),
    ],
)
def test_faults_of_cards_are_found(card, certainty, expected):
    assert faults(card, certainty) == expected


def test_described_arguments_end_where_keyword_arguments_begin():
    assert arguments("MACLIP")["dropout"] == "dropout of the attention in the prototype module."
