"""`fsar-bench compare`: the numbers by hand, names, and rows that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from leaderboard.reference import SlowRow, slow_difference
from scipy import stats
from stores import make_plan, predictions, store

from fsar_bench.cli.compare import compare_command
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.leaderboard.intervals import class_interval
from fsar_bench.leaderboard.jackknife import jackknife_over_clips

PLAN = make_plan(episodes=200)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    for seed, (name, accuracy) in enumerate([("one", 0.9), ("two", 0.7), ("three", 0.7)]):
        store(tmp_path, name, predictions(PLAN, accuracy, seed), PLAN, title=name.capitalize())
    store(tmp_path, "one", predictions(PLAN, 0.5, 9), PLAN, title="One", changed={"method.x": "1"})
    return tmp_path


def test_numbers_by_hand(root):
    (paired,) = load_results(root).compare("One", "two")
    right = np.stack([predictions(PLAN, 0.9, 0) == PLAN.labels, predictions(PLAN, 0.7, 1) == PLAN.labels]).astype(float)
    a, b = right
    assert (paired.first_accuracy, paired.second_accuracy) == pytest.approx((100 * a.mean(), 100 * b.mean()))
    assert paired.only_first == (a > b).sum()
    assert paired.only_second == (b > a).sum()
    per_episode = 100 * (a - b).mean(1)
    assert paired.half_width_episodes == pytest.approx(1.96 * per_episode.std(ddof=1) / math.sqrt(200))
    error = jackknife_over_clips(right, classes=PLAN.classes, support=PLAN.support, query=PLAN.query).difference(0, 1)
    assert paired.half_width_clips == paired.half_width_all == pytest.approx(error.half_width())
    assert paired.p_value == pytest.approx(error.p_value(100 * (a.mean() - b.mean())))
    assert paired.half_width_classes == pytest.approx(class_interval(a - b, PLAN.classes))
    differences = [abs(c.difference) for c in paired.classes]
    assert differences == sorted(differences, reverse=True)
    of_class = PLAN.classes == paired.classes[0].number  # one query per class
    assert paired.classes[0].difference == pytest.approx(100 * (a[of_class].mean() - b[of_class].mean()))
    largest = paired.episodes[0]
    assert largest.difference == (a - b).sum(1)[largest.number]
    assert abs(largest.difference) == np.abs((a - b).sum(1)).max()
    assert largest.classes == tuple(PLAN.names[c] for c in PLAN.classes[largest.number])
    assert (len(paired.episodes), paired.same_clips) == (200, 1)


def test_equivalence_is_two_one_sided_tests(root, capsys):
    results = load_results(root)
    (paired,) = results.compare("two", "three")
    reach = stats.t.ppf(0.95, paired.overall.degrees_of_freedom) * paired.overall.clips
    ends = paired.difference - reach, paired.difference + reach
    needed = max(map(abs, ends))
    assert paired.interval90 == pytest.approx(ends)
    assert paired.is_equivalent is None
    for factor, verdict in ((1.01, True), (0.99, False)):
        (asked,) = results.compare("two", "three", within=factor * needed)
        assert asked.is_equivalent is verdict
    assert compare_command("two", "three", [f"out={root}", "within=60"]) == 0
    assert f"Within 60 points: yes (90 % interval {ends[0]:+.2f} to {ends[1]:+.2f}" in capsys.readouterr().out
    assert compare_command("two", "three", [f"out={root}", "within=0.001"]) == 0
    assert "Within 0.001 points: not shown" in capsys.readouterr().out
    for text in ("0", "-1", "101", "nan", "much"):
        with pytest.raises(ConfigError, match="within"):
            compare_command("two", "three", [f"out={root}", f"within={text}"])


def test_few_episodes_show_no_equivalence(tmp_path):
    for episodes, verdict in ((29, None), (30, True)):
        plan, root = make_plan(episodes=episodes), tmp_path / str(episodes)
        for name in ("same", "again"):
            store(root, name, predictions(plan, 0.8, 0), plan)
        (paired,) = load_results(root).compare("same", "again", within=1)
        assert paired.over_clips.clips == 0
        assert paired.is_equivalent is verdict
        assert ("Within 1 point: not known" in str(paired)) == (verdict is None)
        assert "over clips +0.00 to +0.00" in str(paired)  # known, and 0


def test_trainings_are_in_the_difference_or_are_said_to_be_missing(root, capsys):
    store(root, "alone", predictions(PLAN, 0.8, 30), PLAN, train={"episodes": 5})
    assert compare_command("alone", "two", [f"out={root}"]) == 0
    assert "this compares checkpoints" in capsys.readouterr().out
    for seed in (1, 2, 3):
        store(root, "often", predictions(PLAN, 0.8, 30 + seed), PLAN, train={"episodes": 9, "seed": seed})
    (paired,) = load_results(root).compare("alone", "often")
    accuracies = [seed.result.metrics.accuracy for seed in paired.second.seeds]
    variance = np.var(accuracies, ddof=1)
    expected = paired.over_clips.clips**2 + variance * (1 + 1 / 3)  # that of the one training is the others'
    assert paired.overall.clips == pytest.approx(math.sqrt(expected))
    assert "over clips and trainings" in str(paired)


def test_missing_clips_are_told_and_change_no_difference(root, capsys):
    short = make_plan(episodes=200, missing=frozenset({"c0_03", "c4_07"}))
    store(root, "gaps", predictions(short, 0.7, 5), short, coverage=70 / 72, fingerprint="1" * 64)
    (paired,) = load_results(root).compare("two", "gaps")
    boards = load_results(root).boards[0]
    of = {row.result.name: row.accuracy for row in boards.rows}
    assert paired.difference == of["two"] - of["gaps"]
    same = np.concatenate([(PLAN.support == short.support).ravel(), (PLAN.query == short.query).ravel()]).mean()
    assert paired.same_clips == pytest.approx(same)
    assert f"{100 * same:.1f} % of the places of the episodes hold the same clip" in str(paired)
    slow = [SlowRow(row.right(), plan) for row, plan in ((paired.first, PLAN), (paired.second, short))]
    assert paired.over_clips.clips == pytest.approx(slow_difference(*slow)[0])


def test_by_name_hash_title_and_folder(root, capsys):
    folder = next((root / "results").glob("*/*/two-*"))
    for two in ("two", "Two", folder.name, folder.name.removeprefix("two-"), str(folder)):
        assert compare_command("one", two, [f"out={root}"]) == 0
        out = capsys.readouterr().out
        assert "A  One: " in out
        assert "B  Two: " in out
        assert ": significant at 5 %" in out
        assert "200 episodes; right in A alone" in out
        assert f"fsar-bench explain {root}" in out
    assert compare_command("two", "three", [f"out={root}", "dataset=toy", "way=2", "shot=1"]) == 0
    assert "not significant at 5 %" in capsys.readouterr().out


def test_a_folder_of_a_result_tells_where_the_others_are(root, capsys, monkeypatch):
    folder = next((root / "results").glob("*/*/two-*"))
    monkeypatch.chdir(folder)
    for name in (".", "result.json"):
        assert compare_command(name, "one", []) == 0
        assert "A  Two: " in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(root):
    with pytest.raises(ConfigError, match=r"No result is called 'tow'. Did you mean 'two'"):
        compare_command("one", "tow", [f"out={root}"])
    with pytest.raises(ConfigError, match=r"Unknown key 'datset'. Did you mean 'dataset'"):
        compare_command("one", "two", [f"out={root}", "datset=toy"])
    other = make_plan(episodes=200, seed=1)
    store(root, "elsewhere", predictions(other, 0.7, 3), other)
    with pytest.raises(ResultError, match=r"share no episodes, so they cannot be compared: plan .seed. differs"):
        compare_command("one", "elsewhere", [f"out={root}"])
    later = make_plan(shot=2, episodes=200)
    store(root, "later", predictions(later, 0.7, 3), later)
    with pytest.raises(ResultError, match="shot, plan differ"):
        compare_command("two", "later", [f"out={root}"])
    for seed in (20, 21):
        store(root, "many", predictions(PLAN, 0.7, seed), PLAN, title=f"Many (method.x={seed})", config={"x": seed})
    with pytest.raises(ConfigError, match=r"'many' names 2 rows .*Name one by its hash"):
        compare_command("two", "many", [f"out={root}"])
