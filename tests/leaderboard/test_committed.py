"""Whether a run says truly which committed rows it reproduced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from stores import make_plan, predictions, store

from fsar_bench.errors import ResultError
from fsar_bench.leaderboard import committed
from fsar_bench.leaderboard.committed import Comparison, compare, differences, make_table, read_committed, told
from fsar_bench.leaderboard.files import read_boards
from fsar_bench.results.record import Environment
from fsar_bench.results.store import Stored, read, read_all
from tools import committed_table

HERE = {
    "device": "cpu",
    "threads": 2,
    "machine": "x86_64",
    "python": "3.11.7",
    "packages": {"torch": "2.5", "av": "18"},
}


def made(root: Path, name: str = "a", *, seed: int = 0, accuracy: float = 0.8, **how) -> Stored:
    plan = make_plan(episodes=200)
    return read(store(root, name, predictions(plan, accuracy, seed), plan, cost={"environment": HERE}, **how))


@pytest.fixture
def table(tmp_path):
    """The table of a store with one committed row."""
    made(tmp_path / "committed")
    root = tmp_path / "committed"
    return make_table(read_all(root / "results"), read_boards(root, use_cache=False))


def test_the_table_holds_digests_accuracy_and_interval(tmp_path, table):
    (stored,) = read_all(tmp_path / "committed" / "results")
    (board,) = read_boards(tmp_path / "committed", use_cache=False)
    (row,) = table.rows.values()
    assert list(table.rows) == [stored.result.config_hash]
    assert row.record == hashlib.sha256((stored.folder / "result.json").read_bytes()).hexdigest()[:16]
    assert row.predictions == hashlib.sha256((stored.folder / "predictions.npz").read_bytes()).hexdigest()[:16]
    assert row.accuracy == stored.result.metrics.accuracy
    assert row.half_width == pytest.approx(board.entries[0].statistics.clips.half, abs=1e-4)
    assert table.environment_of(row) == Environment(**HERE)


def test_what_is_the_same_is_told_from_what_is_not(tmp_path, table):
    same = made(tmp_path / "same")
    assert compare("a", same, table, is_itself=False).kind == "bytes"
    assert compare("a", same, table, is_itself=True).kind == "itself"
    retitled = made(tmp_path / "retitled", title="Another title")
    assert compare("a", retitled, table, is_itself=False).kind == "predictions"
    other = compare("a", made(tmp_path / "other", accuracy=0.6), table, is_itself=False)
    assert other.kind == "other"
    assert other.ours < other.committed == same.result.metrics.accuracy
    assert compare("b", made(tmp_path / "b", "b"), table, is_itself=False) is None


def test_the_same_accuracy_of_other_predictions_is_told(tmp_path, table):
    (key,) = table.rows
    changed = table.rows[key].model_copy(update={"predictions": "0" * 16})
    moved = table.model_copy(update={"rows": {key: changed}})
    assert compare("a", made(tmp_path / "same"), moved, is_itself=False).kind == "accuracy"


def test_environments_are_compared_field_by_field():
    here = Environment(**HERE)
    there = Environment(**{**HERE, "threads": 8, "packages": {"torch": "2.6"}})
    assert differences(here, there) == (
        "threads 2 (committed: 8)", "av 18 (committed: none)", "torch 2.5 (committed: 2.6)",
    )  # fmt: skip
    assert differences(here, here) == differences(None, there) == ()


def comparison(kind: str, name: str = "A", **how) -> Comparison:
    return Comparison(name, kind, **{"ours": 80.0, "committed": 80.0, "half_width": 1.5, "reasons": (), **how})


def test_sentences():
    assert told([], 3) == []
    assert told([comparison("bytes"), comparison("bytes", "B")], 2) == [
        "Committed rows: 2 of 2 reproduced, the same bytes."
    ]
    (itself,) = told([comparison("itself")], 1)
    assert itself.startswith("Committed rows: 1 of 1 reused as they are: nothing was computed again.")
    reason = "torch 2.5 (committed: 2.6)"
    lines = told(
        [
            comparison("bytes"), comparison("accuracy", "B", reasons=(reason,)),
            comparison("other", "C", ours=81.0, reasons=(reason,)), comparison("other", "D", ours=78.0, reasons=(reason,)),
            comparison("other", "E", ours=78.0, half_width=None),
        ],
        7,
    )  # fmt: skip
    assert lines == [
        "Committed rows: 1 of 5 reproduced, the same bytes: A.",
        "Committed rows: 1 of 5 with the same accuracy to the digit, but other bytes: B.",
        "Committed row not reproduced: C: 81.00 %, committed 80.00 %: +1.00 points, within its interval of ± 1.50.",
        "Committed row not reproduced: D: 78.00 %, committed 80.00 %: -2.00 points, outside its interval of ± 1.50.",
        "Committed row not reproduced: E: 78.00 %, committed 80.00 %: -2.00 points, whose interval is not known.",
        "Why that may be: torch 2.5 (committed: 2.6).",
        "Without a committed counterpart: 2 of 7 cells.",
    ]
    assert "another processor" in told([comparison("other")], 1)[-1]
    assert told([comparison("bytes", str(n)) for n in range(8)] + [comparison("itself")], 9)[0].endswith(
        "0; 1; 2; 3; 4; 5 and 2 more."
    )


@pytest.mark.parametrize("content", [None, "{}", '{"environments": [], "rows": {"x": 1}}', "no json"])
def test_a_missing_or_damaged_table_is_an_error_that_names_the_fix(tmp_path, content):
    path = tmp_path / "committed.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultError, match=r"committed\.json .*Install fsar-bench again"):
        read_committed(path)


def test_the_written_table_is_read_again(tmp_path, table):
    text = committed_table.table(tmp_path / "committed")
    path = tmp_path / "committed.json"
    path.write_text(text)
    assert read_committed(path) == table
    assert len(text.splitlines()) == 5 + len(table.rows)  # a row per line, for reviews of changes


ROOT = Path(__file__).parents[2] / "leaderboards"


@pytest.mark.skipif(
    not (ROOT / "results").is_dir(), reason="the results are not here (tests run from an installed wheel)"
)
def test_the_shipped_table_is_of_the_committed_results():
    """All but the intervals, which `make lint` computes."""
    rows = read_committed(ROOT / committed.FILE).rows
    records = {path: json.loads(path.read_bytes()) for path in (ROOT / "results").glob("*/*/*/result.json")}
    assert set(rows) == {record["config_hash"] for record in records.values()}
    for path, record in records.items():
        row = rows[record["config_hash"]]
        assert row.record == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        assert (row.predictions, row.accuracy) == (record["predictions"][:16], record["metrics"]["accuracy"])


def test_a_run_ends_in_what_it_reproduced(fsar, tiny, tmp_path, monkeypatch):
    """Committed rows are those of the first run here; the second computes one of them again, the third finds them."""
    base = ("run", f"dataset={tiny}", "backbone=tiny_clip", "episodes=100", "workers=1", "jobs=1", "controls=false")
    first = fsar(*base, "methods=otam_frozen", "out=home")
    assert first.returncode == 0
    assert "ommitted row" not in first.stdout  # the shipped table has no row of this dataset
    path = tmp_path / "home" / "committed.json"
    path.write_text(committed_table.table(tmp_path / "home"))
    monkeypatch.setattr(committed, "committed_file", lambda: path)
    again = fsar(*base, "methods=otam_frozen,prototype_frozen", "out=again")
    assert again.stdout.splitlines()[-2:] == [
        "Committed rows: 1 of 1 reproduced, the same bytes.", "Without a committed counterpart: 1 of 2 cells.",
    ]  # fmt: skip
    reused = fsar(*base, "methods=otam_frozen", "out=home")
    assert reused.stdout.splitlines()[-1].startswith(
        "Committed rows: 1 of 1 reused as they are: nothing was computed again."
    )
    reused = fsar(*base, "methods=otam_frozen", "out=again")  # finished before, but not the committed files
    assert reused.stdout.splitlines()[-1] == "Committed rows: 1 of 1 reproduced, the same bytes."
    path.write_text("damaged")
    damaged = fsar(*base, "methods=otam_frozen", "out=again")
    assert damaged.returncode == 0
    assert "warning: the committed rows cannot be compared with: " in damaged.stderr
