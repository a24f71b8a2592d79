"""Our episodes for other code bases, and their predictions as ranked rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fsar_bench
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.plans import checked_plan


@pytest.fixture
def plan(tiny):
    return fsar_bench.episodes(tiny, way=3, shot=2, episodes=50)


def test_episodes_name_the_files_that_our_methods_see(plan, run_tiny):
    assert plan.support.shape == (50, 3, 2)
    assert plan.query.shape == (50, 3, 1)
    first = plan[0]
    assert [len(shots) for shots in first.support] == [2, 2, 2]
    assert all(path.is_file() for shots in first.support for path in shots)
    assert first.classes == [plan.class_names[c] for c in plan.classes[0]]
    assert [path.parent.name for path in first.query] == [plan.clip_paths[c].parent.name for c in plan.query[0].ravel()]
    assert len(list(plan)) == len(plan) == 50
    with pytest.raises(IndexError, match="episodes 0 to 49"):
        plan[50]
    (stored,) = run_tiny("zero_shot", way=3, shot=2, episodes=50, controls=False)
    assert stored.result.episodes.plan == plan.plan.digest
    assert (EpisodePlan.load(stored.plan_file).query == plan.query).all()


def test_episodes_go_to_code_that_does_not_import_us(plan, tmp_path):
    data = json.loads(plan.save(tmp_path / "plan.json").read_text())
    assert np.array_equal(data["support"], plan.support)
    assert data["clip_ids"][data["query"][3][1][0]] == plan.clip_ids[plan.query[3, 1, 0]]
    assert data["plan"] == plan.plan.digest


def test_unknown_keys_and_values_are_named(tiny):
    with pytest.raises(ConfigError, match="Did you mean 'shot'"):
        fsar_bench.episodes(tiny, shots=2)
    with pytest.raises(ConfigError, match="way=1 is too small"):
        fsar_bench.episodes(tiny, way=1)


def test_predictions_become_a_ranked_row_marked_as_submitted(plan, run_tiny, tmp_path):
    run_tiny("zero_shot", way=3, shot=2, episodes=50, controls=False)
    right = np.tile(plan.labels, (50, 1))
    right[0, 0] = 1
    stored = fsar_bench.score_predictions(
        plan, right, name="Their Method (2026)", out=tmp_path / "leaderboards", paper="arXiv 0000.00000"
    )
    assert stored.result.metrics.accuracy == pytest.approx(100 * 149 / 150)
    table = (tmp_path / "leaderboards" / "tiny-3way_2shot.md").read_text()
    assert "Their Method (2026) (submitted)" in table
    board = fsar_bench.load_results(tmp_path / "leaderboards").board()
    assert [row.result.name for row in board.rows] == ["their_method_2026", "zero_shot"]
    frame = fsar_bench.load_results(tmp_path / "leaderboards").to_frame()
    assert list(frame.submitted) == [True, False]


def test_a_submission_knows_the_recordings_of_its_clips(tmp_path):
    """A built-in clip is a rendering of its own."""
    plan = fsar_bench.episodes("synthact_order", way=3, shot=1, episodes=20)
    assert sorted(plan.plan.recordings) == list(range(plan.split.size))
    stored = fsar_bench.score_predictions(
        plan, np.zeros((20, 3), int), name="x", out=tmp_path, uses_class_names=True, ignores_supports=True
    )
    assert stored.result.data.recordings == plan.plan.recordings_digest
    assert checked_plan(stored).recordings.tolist() == plan.plan.recordings.tolist()
    assert stored.result.traits.ignores_supports
    plain = fsar_bench.score_predictions(plan, np.zeros((20, 3), int), name="y", out=tmp_path)
    assert not plain.result.traits.ignores_supports


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.zeros((50, 4), int), r"not whole numbers \[E, Q\] = \(50, 3\)"),
        (np.zeros((50, 3)), "are float64"),
        (np.full((50, 3), 3), "hold the label 3: labels go from 0 to 2"),
        (np.full((50, 3), -1), "hold the label -1"),
    ],
)
def test_predictions_that_are_no_labels_are_refused(plan, tmp_path, predictions, message):
    with pytest.raises(ResultError, match=message):
        fsar_bench.score_predictions(plan, predictions, name="x", out=tmp_path)
    assert not list(tmp_path.rglob("result.json"))


def test_what_is_told_of_a_submission_is_checked(plan, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'backbone'"):
        fsar_bench.score_predictions(plan, np.zeros((50, 3), int), name="x", out=tmp_path, backbon="RN50")
