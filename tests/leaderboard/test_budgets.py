"""The column of tuning budgets: what is told, which rows are marked, and that it survives every export and a merge."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from stores import make_plan, predictions, store

from fsar_bench.config.tuned import TunedLabel
from fsar_bench.io import to_json
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.leaderboard.exports import records
from fsar_bench.leaderboard.files import generated_files, read_boards
from fsar_bench.leaderboard.merge import merge_results
from fsar_bench.leaderboard.page import page_data
from fsar_bench.leaderboard.tables import frame
from fsar_bench.results.store import read

LR = "train.optimizer.lr"
NOTE = "†: not tuned with 16 trials of 120 training episodes, as 2 trained rows of this board were (3 were not"


def label(trials: int = 16, backbone: str = "b") -> TunedLabel:
    return TunedLabel(trials=trials, episodes=120, backbone=backbone, values={LR: "0.001"}, source="0" * 16)


def add(out, name: str, tuned: TunedLabel | None = None, *, trained: bool = True, changed: dict | None = None) -> None:
    """Store a row as a run with these settings would."""
    plan = make_plan()
    train = {"episodes": 10} if trained else None
    folder = store(out, name, predictions(plan, 0.7, len(name)), plan, train=train, changed=changed)
    path = folder / "result.json"
    record = json.loads(path.read_text())
    assert "tuned" not in record["cell"]["label"]  # a row without a tuning has the bytes that it always had
    if tuned is not None:
        record["cell"]["label"]["tuned"] = tuned.model_dump(mode="json")
        path.write_bytes(to_json(record))


@pytest.fixture
def unequal(tmp_path):
    """Rows with two equal budgets, a smaller one, none, one that was changed afterwards, and one that is not trained."""
    out = tmp_path / "boards"
    add(out, "first", label())
    add(out, "second", label())
    add(out, "smaller", label(trials=4))
    add(out, "untuned")
    add(out, "changed", label(), changed={"method.alpha": "0.3"})
    add(out, "frozen", trained=False)
    return out


def column(out) -> dict[str, str]:
    (board,) = read_boards(out)
    table = frame(board)
    return {title.split(" (")[0]: text for title, text in zip(table["method"], table["tuned"], strict=True)}


def test_every_row_tells_its_budget_and_unequal_ones_are_marked(unequal):
    found = column(unequal)
    assert found.pop("Chance") == ""
    assert found == {
        "first": "16 × 120", "second": "16 × 120", "smaller": "4 × 120 †", "untuned": "– †", "changed": "16 × 120, changed †",
        "frozen": "–",
    }  # fmt: skip


def test_the_note_is_in_every_table_and_the_fields_in_every_export(unequal):
    boards = read_boards(unequal)
    assert boards[0].budget_note.startswith(NOTE)
    files = {path.name: text for path, text in generated_files(unequal, boards)}
    page = files["toy-2way_1shot.md"]
    assert page.index("| chance" if "| chance" in page else "Chance") < page.index(NOTE)  # under the table
    assert "Tuned: trials × training episodes" in page
    assert r"16 $\times$ 120, changed $\dagger$" in files["toy-2way_1shot.tex"]
    assert NOTE in page_data(boards, [])["boards"][0]["note"]
    assert [row["tuned_text"] for row in page_data(boards, [])["boards"][0]["rows"]] == [
        text for text in column(unequal).values() if text
    ]
    rows = {row["method"]: row for row in records(boards)}
    assert (rows["smaller"]["tuned_trials"], rows["smaller"]["tuned_episodes"]) == (4, 120)
    assert {name: row["unequal_tuning"] for name, row in rows.items()} == {
        "first": False, "second": False, "smaller": True, "untuned": True, "changed": True, "frozen": False,
    }  # fmt: skip
    assert rows["changed"]["tuned_changed"] is True
    assert rows["untuned"]["tuned_trials"] is None
    csv = pd.read_csv(pd.io.common.StringIO(files["leaderboard.csv"]))
    assert csv.set_index("method")["tuned_trials"].dropna().astype(int).to_dict() == {
        "first": 16, "second": 16, "smaller": 4, "changed": 16,
    }  # fmt: skip
    table = load_results(unequal).to_frame()
    assert sorted(table["tuned_trials"].dropna()) == [4, 16, 16, 16]


def test_equal_budgets_have_no_marks_and_untuned_boards_no_column(tmp_path):
    add(tmp_path / "equal", "first", label())
    add(tmp_path / "equal", "frozen", trained=False)
    (board,) = read_boards(tmp_path / "equal")
    assert set(frame(board)["tuned"]) == {"16 × 120", "–", ""}
    assert board.budget_note == ""
    add(tmp_path / "untuned", "first")
    add(tmp_path / "untuned", "frozen", trained=False)
    (board,) = read_boards(tmp_path / "untuned")
    assert "tuned" not in frame(board)
    assert board.budget_note == ""
    assert not any(row["unequal_tuning"] for row in records([board]))


def test_a_tuning_with_another_backbone_is_no_equal_budget(tmp_path):
    add(tmp_path, "first", label())
    add(tmp_path, "elsewhere", label(backbone="another"))
    assert column(tmp_path)["elsewhere"] == "16 × 120, changed †"


def test_one_tuned_row_among_untuned_ones_is_the_measure(tmp_path):
    for name in ("a", "bb", "ccc"):
        add(tmp_path, name)
    add(tmp_path, "tuned", label())
    assert column(tmp_path) == {"a": "– †", "bb": "– †", "ccc": "– †", "tuned": "16 × 120", "Chance": ""}


def test_a_merge_keeps_the_budget_and_the_hash(unequal, tmp_path):
    merged = tmp_path / "merged"
    assert merge_results([unequal], merged).problems == []
    for path in (unequal / "results").rglob("result.json"):
        place = path.relative_to(unequal)
        assert (merged / place).read_bytes() == path.read_bytes()
        assert read(merged / place.parent).result.config_hash == json.loads(path.read_text())["config_hash"]
    assert column(merged) == column(unequal)
    shutil.rmtree(merged)


def test_a_forged_budget_is_refused(tmp_path):
    add(tmp_path, "first", label())
    (path,) = (tmp_path / "results").rglob("result.json")
    record = json.loads(path.read_text())
    for wrong in ({"trials": 0}, {"values": {"custom_imports": "x"}}, {"source": "nothing"}, {"extra": 1}):
        forged = json.loads(json.dumps(record))
        forged["cell"]["label"]["tuned"] |= wrong
        path.write_bytes(to_json(forged))
        with pytest.raises(Exception, match="tuned"):
            read(path.parent)
