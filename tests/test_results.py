"""Results, leaderboards and statistics from files alone."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest

from fsar_bench import results
from fsar_bench.cli.leaderboard import leaderboard_command, write_tables
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard import boards, pages
from fsar_bench.scoring import PlanScores, pair_outcomes
from fsar_bench.statistics import episode_accuracy, episode_interval, pair_accuracy


def store(
    root, name: str, right: int, *, shot: int = 1, plan: str = "a", dataset: str = "toy", title: str | None = None
):
    """Write a result of 4 two-way episodes of which `right` queries are right."""
    prediction = np.tile(np.array([0, 1], np.uint8), (4, 1))
    prediction.ravel()[: 8 - right] ^= 1
    pair = np.where(prediction == [0, 1], 1, 0).astype(np.uint8)
    packed = results.pack_predictions(prediction, pair)
    sha = "0" * 64
    record = results.Result(
        config_hash=hashlib.sha256(f"{name}{shot}{plan}{dataset}".encode()).hexdigest(),
        training_key=None,
        method=results.MethodRecord(name=name, title=title or name, paper="", config={}, train=None),
        dataset=results.DatasetRecord(
            name=dataset, title=dataset, synthetic=True, list_hash=sha, fingerprint=sha, classes=4, clips=16, coverage=1.0,
            controls=["control"],
        ),
        protocol=results.ProtocolRecord(
            name="standard", split="test", way=2, shot=shot, query=1, episodes=4, seed=0, plan=plan * 64, realised=plan * 64,
            frames=8, sampling="midpoint", resize=60, crop=60, template="{}", class_names=sha, selection_split=None, reader="r",
        ),
        backbone=results.BackboneRecord(name="b", model="b", weights=sha, pretraining="", activation="GELU", precision="float32"),
        traits=results.TraitsRecord(uses_class_names=False, trainable=False, transductive=False, order_sensitive=False),
        metrics=results.measure(prediction, np.array([0, 1]), pair),
        parameters=results.ParametersRecord(trainable=0, total=10),
        predictions=hashlib.sha256(packed).hexdigest(),
    )  # fmt: skip
    return results.write(root / "results", record, packed, {"seconds": {"encode": 1.0, "score": 0.1}})


def test_accuracy_and_interval_by_hand():
    prediction = np.array([[0, 1], [0, 0], [1, 1], [1, 0]])
    accuracy = episode_accuracy(prediction, np.array([0, 1]))
    assert accuracy.tolist() == [100, 50, 50, 0]
    assert episode_interval(accuracy) == pytest.approx(1.96 * np.std([100, 50, 50, 0], ddof=1) / 2)
    assert math.isnan(episode_interval(accuracy[:1]))
    assert pair_accuracy(np.array([1, 0, 2, 255])) == (50.0, 3)


def test_pair_outcomes_by_hand():
    class Plan:
        classes = np.array([[0, 1, 2], [2, 3, 0]])
        labels = np.array([0, 1, 2])

    total = np.zeros((2, 3, 3))
    total[0, 0] = [2, 1, 5]  # class 0 against its reverse 1: above
    total[0, 1] = [3, 1, 0]  # class 1 against its reverse 0: below
    total[1, 0] = [1, 1, 0]  # class 2 against its reverse 3: equal
    total[1, 1] = [0, 4, 0]
    outcome = pair_outcomes(PlanScores(total, {}, 0.0), Plan, (1, 0, 3, 2))
    assert outcome.tolist() == [[1, 0, 255], [2, 1, 255]]
    assert pair_outcomes(PlanScores(total, {}, 0.0), Plan, (-1, -1, -1, -1)) is None


def test_round_trip(tmp_path):
    folder = store(tmp_path, "one", 7)
    result, cost = results.read(folder)
    assert result.metrics.accuracy == 87.5
    assert cost["seconds"]["score"] == 0.1
    assert folder == tmp_path / "results" / result.folder


def edit(folder, change) -> None:
    path = folder / "result.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["metrics"].update(accuracy=99.0), "claims metrics that its predictions do not give"),
        (lambda r: r["metrics"].update(accuracy=float("nan")), "damaged: metrics.accuracy"),
        (lambda r: r.update(schema_version=2), "schema version 2"),
        (lambda r: r["method"].update(name="../../x"), "damaged: method.name"),
        (lambda r: r["method"].update(name="other"), "not the folder it lies in"),
        (lambda r: r.update(predictions="0" * 64), "not the file that result.json names"),
        (lambda r: r.update(extra=1), "damaged: extra"),
        (lambda r: r.pop("traits"), "damaged: traits"),
        (lambda r: r["protocol"].update(plan="xyz"), "damaged: protocol.plan"),
    ],
)
def test_tampered_results_are_refused(tmp_path, change, message):
    folder = store(tmp_path, "one", 7)
    edit(folder, change)
    with pytest.raises(ResultError, match=message):
        results.read_all(tmp_path / "results")


@pytest.mark.parametrize("name", ["result.json", "predictions.npz", "cost.json"])
def test_cut_files_are_refused_and_tables_stay(tmp_path, name):
    folder = store(tmp_path, "one", 7)
    assert leaderboard_command([f"out={tmp_path}"], check=False) == 0
    before = (tmp_path / "toy.md").read_bytes()
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ResultError, match=name.replace(".", r"\.")):
        leaderboard_command([f"out={tmp_path}"], check=False)
    assert (tmp_path / "toy.md").read_bytes() == before


def test_tables_rank_mark_controls_and_never_mix_plans(tmp_path):
    for name, right, plan in (("good", 8, "a"), ("control", 6, "a"), ("bad", 2, "a"), ("elsewhere", 5, "b")):
        store(tmp_path, name, right, plan=plan)
    stored = results.read_all(tmp_path / "results")
    assert [len(board.rows) for board in boards(stored)] == [3, 1]
    frame = boards(stored)[0].frame()
    assert frame["method"].tolist() == ["good", "control (control)", "bad", "Chance (1 / way)"]
    assert frame["rank"].tolist() == ["1", "2", "3", "–"]
    assert frame["accuracy %"].tolist()[-1] == "50.00"
    page = pages(stored)["toy.md"]
    assert "(synthetic data)" in page
    assert page.count("## 2-way 1-shot") == 2


def test_check_finds_stale_tables(tmp_path, capsys):
    store(tmp_path, "one", 7)
    arguments = [f"out={tmp_path}"]
    assert leaderboard_command(arguments, check=True) == 1
    assert "toy.md is stale" in capsys.readouterr().err
    assert leaderboard_command(arguments, check=False) == 0
    assert leaderboard_command(arguments, check=True) == 0
    store(tmp_path, "two", 6)
    assert leaderboard_command(arguments, check=True) == 1


def test_tables_have_the_same_bytes_again_and_hold_no_markup(tmp_path):
    store(tmp_path, "one", 7, title="<b>|bold|</b>")
    store(tmp_path, "two", 7)
    stored = results.read_all(tmp_path / "results")
    assert pages(stored) == pages(stored[::-1])
    assert "<b>" not in pages(stored)["toy.md"]
    write_tables(tmp_path, stored)
    assert (tmp_path / "toy.md").read_text() == pages(stored)["toy.md"]


def test_predictions_have_the_same_bytes_again():
    prediction = np.random.RandomState(0).randint(0, 5, (100, 5)).astype(np.uint8)
    assert results.pack_predictions(prediction, None) == results.pack_predictions(prediction.copy(), None)
