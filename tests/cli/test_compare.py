"""`fsar-bench compare`: the numbers by hand, names, and rows that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stores import make_plan, predictions, store

from fsar_bench.cli.compare import compare_command
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.leaderboard.compare import paired_difference
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


def test_numbers_by_hand():
    right = np.stack([predictions(PLAN, 0.9, 0) == PLAN.labels, predictions(PLAN, 0.7, 1) == PLAN.labels]).astype(float)
    paired = paired_difference(right, PLAN, np.ones(200, bool))
    a, b = right
    assert (paired.first_accuracy, paired.second_accuracy) == (100 * a.mean(), 100 * b.mean())
    assert paired.only_first == (a > b).sum()
    assert paired.only_second == (b > a).sum()
    per_episode = 100 * (a - b).mean(1)
    assert paired.half_width_episodes == pytest.approx(1.96 * per_episode.std(ddof=1) / math.sqrt(200))
    error = jackknife_over_clips(right, classes=PLAN.classes, support=PLAN.support, query=PLAN.query).difference(0, 1)
    assert paired.half_width_clips == pytest.approx(error.half_width())
    assert paired.p_value == pytest.approx(error.p_value(100 * (a.mean() - b.mean())))
    differences = [abs(c.difference) for c in paired.classes]
    assert differences == sorted(differences, reverse=True)
    of_class = PLAN.classes == paired.classes[0].number  # one query per class
    assert paired.classes[0].difference == pytest.approx(100 * (a[of_class].mean() - b[of_class].mean()))
    largest = paired.episodes[0]
    assert largest.difference == (a - b).sum(1)[largest.number]
    assert abs(largest.difference) == np.abs((a - b).sum(1)).max()
    assert largest.classes == tuple(PLAN.names[c] for c in PLAN.classes[largest.number])
    half = paired_difference(right, PLAN, np.arange(200) < 100)
    assert len(half.episodes) == 100
    assert half.first_accuracy == 100 * a[:100].mean()


def test_by_name_hash_title_and_folder(root, capsys):
    folder = next((root / "results").glob("*/*/two-*"))
    for two in ("two", "Two", folder.name, folder.name.removeprefix("two-"), str(folder)):
        assert compare_command("one", two, [f"out={root}"]) == 0
        out = capsys.readouterr().out
        assert "A  One: " in out
        assert "B  Two: " in out
        assert ": significant at 5 %" in out
        assert "Paired on 200 episodes" in out
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
