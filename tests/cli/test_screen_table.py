"""The table in the terminal: the columns of the README at every width, and no text that is cut off."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console
from stores import make_plan, predictions, store

from fsar_bench.cli.leaderboard import SCREEN_COLUMNS, show
from fsar_bench.leaderboard.files import read_boards
from tools.readme_table import COLUMNS

TITLES = {
    "a": "CLIP-FSAR with a long title of its own",
    "b": "MA-CLIP (method.alpha=0.3, train.optimizer.lr=0.0005)",
    "c": "OTAM, frozen",
}


def printed(tmp_path, capsys, width: int, *, backbones: tuple[str, str, str], seeds: int = 1) -> list[str]:
    plan = make_plan()
    for (name, title), backbone in zip(TITLES.items(), backbones, strict=True):
        for seed in range(seeds if name == "b" else 1):
            train = {"episodes": 5, **({"seed": seed} if seed else {})} if name != "c" else None
            store(
                tmp_path, name, predictions(plan, 0.7, seed), plan, title=title, backbone=backbone, train=train, pairs=True,
                cost={"seconds": {"train": 12345.6}} if train else None,
            )  # fmt: skip
    show(Console(width=width, file=sys.stdout), read_boards(tmp_path), set())
    return capsys.readouterr().out.splitlines()


def test_the_terminal_has_the_columns_of_the_readme():
    assert [column for column in SCREEN_COLUMNS if column not in ("± seeds", "backbone", "trained on")] == list(COLUMNS)


@pytest.mark.parametrize("width", [80, 140, 220])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("backbones", [("b", "b", "b"), ("synthact_clip", "vit_b_16_imagenet", "rn50")])
def test_everything_is_there_at_every_width(tmp_path, capsys, width, seeds, backbones):
    lines = printed(tmp_path, capsys, width, backbones=backbones, seeds=seeds)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    head, body = "".join(lines[1:4]).replace(" ", ""), "".join("".join(lines[4:]).split())
    for heading in ("rank", "names", *(["seeds"] if seeds > 1 else [])):
        assert heading in head
    for title in TITLES.values():
        start = title.split("(")[0].split()[0]  # a folded title goes on in the next lines, among other columns
        assert start in body
    assert body.count("12345.6") == 2
    if len(set(backbones)) > 1:
        assert all(name[:12] in body for name in backbones)  # where room is short, the rest is in the next line


def test_a_backbone_that_all_rows_share_is_no_column(tmp_path, capsys):
    assert not any("shared_one" in line for line in printed(tmp_path, capsys, 220, backbones=("shared_one",) * 3))
