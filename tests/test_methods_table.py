"""The overview of methods/README.md: what follows from configs, recipes and cards."""

from __future__ import annotations

import pytest

from fsar_bench.config.cards import card, unspecified
from tools import methods_table


@pytest.mark.parametrize(
    "text", ["datasets = dict(ucf101=dict(train=dict(way=5)), hmdb51={})", 'datasets = {"ucf101": {}, "hmdb51": {}}']
)
def test_official_datasets_are_those_of_the_recipe(tmp_path, monkeypatch, text):
    monkeypatch.setattr(methods_table, "RECIPES", tmp_path)
    (tmp_path / "hyrsm.py").write_text(f'"""Recipe."""\nsource = "x"\n{text}\n')
    assert methods_table.official_datasets("hyrsm") == ["hmdb51", "ucf101"]
    assert methods_table.recipe("hyrsm", True) == "suite; official: hmdb51, ucf101"
    assert methods_table.recipe("trx", True) == "suite"
    assert methods_table.recipe("otam_frozen", False) == "not trained"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the official code (a/b): scaling, positions. More.", "the official code (a/b)"),
        ("normalised frames, cosine times 100.", "normalised frames, cosine times 100"),
        ("one; two", "one"),
    ],
)
def test_what_is_followed_is_shortened_to_a_clause(text, expected):
    assert methods_table.short(text) == expected


def test_long_clauses_end_in_dots():
    text = methods_table.short("word " * 100)
    assert len(text) <= 110
    assert text.endswith("word …")


def test_overview_has_a_row_per_method_and_per_system_without_one():
    names = ("otam_frozen", "clip_fsar")
    configs = {name: methods_table.load("methods", name).values["method"] for name in names}
    methods_table.METHODS.import_from_location()
    backbones = {
        name: methods_table.build_backbone("synthact_clip") for name in ("vit_b_16",)
    }  # a small one in its place
    header, _, *rows = methods_table.overview(configs, {name: card(name) for name in names}, backbones).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, *rows)]
    assert cells[0] == ["methods=", "system", "source", "certainty", "uses", "trained M", "follows", "recipe"]
    assert cells[1][:6] == ["`otam_frozen`", "OTAM, frozen", "Cao et al., CVPR 2020", "code run", "frame order", "0.00"]
    assert cells[2][3:5] == ["code run", "class names, frame order"]
    assert [row[1] for row in cells[3:]] == [system.title for system in unspecified()]
    assert {row[3] for row in cells[3:]} == {"no public specification"}
