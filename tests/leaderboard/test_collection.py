"""Results as one object: frames, filters, comparisons, boards; and that none of it needs torch."""

from __future__ import annotations

import html
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from leaderboard.make_store import STORE
from stores import make_plan, predictions, store

from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.leaderboard.jackknife import jackknife_over_clips

PLAN = make_plan(episodes=200)


@pytest.fixture(autouse=True)
def fresh_statistics(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def results(tmp_path):
    for seed, (name, accuracy) in enumerate([("strong", 0.9), ("weak", 0.6)]):
        store(tmp_path, name, predictions(PLAN, accuracy, seed), PLAN, title=name.capitalize(), pairs=True)
    for seed in (1, 2):
        train = {"episodes": 10, "seed": seed}
        store(tmp_path, "trained", predictions(PLAN, 0.8, 10 + seed), PLAN, train=train, pairs=True)
    later = make_plan(shot=2)
    store(tmp_path, "strong", predictions(later, 0.9, 3), later, changed={"method.x": "1"}, cost={"memory": None})
    store(tmp_path, "other", predictions(later, 0.9, 4), later, submitted=True)
    return load_results(tmp_path)


def test_a_frame_has_one_row_per_result(results):
    frame = results.to_frame()
    assert len(frame) == len(results) == len(list(results)) == 6
    rows = {
        (row.method, row.shot, row.training_seed if row.method == "trained" else None): row
        for row in frame.itertuples()
    }
    strong, trained = rows["strong", 1, None], rows["trained", 1, 2]
    right = predictions(PLAN, 0.9, 0) == PLAN.labels
    assert strong.accuracy == pytest.approx(100 * right.mean())
    widths = jackknife_over_clips(
        right[None].astype(float), classes=PLAN.classes, support=PLAN.support, query=PLAN.query
    ).half_widths("clips")
    assert strong.half_width_clips == pytest.approx(widths[0], abs=1e-4)
    assert (strong.title, strong.dataset, strong.way, strong.seed) == ("Strong", "toy", 2, 0)
    assert strong.pair_accuracy == strong.accuracy  # the outcome of a pair is that of its query here
    assert pd.isna(strong.train_seconds)
    assert (trained.train_seconds, trained.memory_mb) == (30.0, 1234.5)
    assert pd.isna(trained.half_width_clips)  # the interval of the row is that of two trainings
    other, changed = rows["other", 2, None], rows["strong", 2, None]
    assert changed.title == "strong (method.x=1)"
    assert other.submitted
    assert other.title == "other (submitted)"
    assert pd.isna(other.encode_seconds)
    assert pd.isna(changed.memory_mb)
    assert set(frame.config_hash) == {stored.result.config_hash for stored in results}


def test_filters_take_a_value_or_any_of_several(results):
    assert [s.result.name for s in results.where(shot=2, submitted=True)] == ["other"]
    assert {s.result.name for s in results.where(method=["strong", "weak"])} == {"strong", "weak"}
    assert len(results.where(method=("strong", "weak"), shot=[1, 2])) == 3
    assert len(results.where(training_seed=range(2, 9))) == 1
    assert len(results.where(train_seconds=30.0)) == 2
    assert len(results.where(method="nobody")) == 0
    assert len(results.where(method="nobody").to_frame()) == 0
    with pytest.raises(ConfigError, match=r"no column 'datset'. Did you mean 'dataset'"):
        results.where(datset="toy")


def test_items_and_slices(results):
    assert results[0] is next(iter(results))
    assert [s.folder for s in results[1:3]] == [s.folder for s in list(results)[1:3]]
    assert results[1:3].out == results.out


def test_comparisons_print_what_they_hold(results):
    (comparison,) = results.where(shot=1).compare("strong", "weak")
    a, b = (predictions(PLAN, accuracy, seed) == PLAN.labels for seed, accuracy in enumerate((0.9, 0.6)))
    assert comparison.difference == pytest.approx(100 * (a.mean() - b.mean()))
    assert comparison.is_significant
    text = str(comparison)
    assert f"A  Strong: {100 * a.mean():.2f} %" in text
    assert f"A - B  {comparison.difference:+.2f} points, p = " in text
    assert ": significant at 5 %" in text
    assert comparison.classes[0].name in text
    assert comparison._repr_html_() == f"<pre>{html.escape(text)}</pre>"
    (trained,) = results.compare("trained", "weak")
    share = np.mean([predictions(PLAN, 0.8, 10 + seed) == PLAN.labels for seed in (1, 2)], 0)
    assert trained.first_accuracy == pytest.approx(100 * share.mean())


def test_one_board_or_the_choices(results):
    assert results.board(shot=2).title == "Toy (synthetic), 2-way 2-shot"
    assert results.where(shot=1).board() is not None
    with pytest.raises(
        ConfigError, match=r"2 boards fit these results: dataset='toy', way=2, shot=1, seed=0; .*shot=2"
    ):
        results.board()
    with pytest.raises(
        ConfigError, match=r"No board fits dataset='tow'. Choose from: dataset='toy', way=2, shot=1, seed=0"
    ):
        results.board(dataset="tow")
    again = make_plan(seed=1)
    store(results.out, "strong", predictions(again, 0.9, 5), again)
    with pytest.raises(
        ConfigError, match=r"2 boards fit dataset='toy', shot=1: .*seed=0; .*seed=1. Name dataset, way, shot and seed"
    ):
        load_results(results.out).board("toy", shot=1)
    assert load_results(results.out).board("toy", shot=1, seed=1).title == "Toy (synthetic), 2-way 1-shot, seed 1"
    store(results.out, "strong", predictions(again, 0.9, 5), again, reader="other 2")
    with pytest.raises(ConfigError, match=r"2 boards fit dataset='toy', shot=1, seed=1: .* They differ in"):
        load_results(results.out).board("toy", shot=1, seed=1)


def test_notebooks_get_tables(results):
    assert results._repr_html_().count("<tr") == 7
    table = results.board(shot=1)._repr_html_()
    assert "Toy (synthetic), 2-way 1-shot" in table
    assert table.count("<tr") == 5  # the head, three rows, chance


def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(ResultError, match="has no results/ folder"):
        load_results(tmp_path / "nowhere")


def test_tables_need_no_torch():
    code = (
        "import sys; from fsar_bench.leaderboard.collection import load_results\n"
        "from fsar_bench.leaderboard import compare, files, merge, page\n"
        f"load_results({str(STORE)!r}).to_frame()\n"
        "sys.exit(any(name.partition('.')[0] in ('torch', 'mmengine', 'open_clip') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
