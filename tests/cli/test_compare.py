"""`fsar-bench compare`: the numbers by hand, names, and rows that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stores import make_plan, predictions, store

from fsar_bench.cli.compare import compare, compare_command
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.leaderboard.intervals import spread

PLAN = make_plan(episodes=200)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    for seed, (name, accuracy) in enumerate([("one", 0.9), ("two", 0.7), ("three", 0.7)]):
        store(tmp_path, name, predictions(PLAN, accuracy, seed), PLAN, title=name.capitalize())
    store(tmp_path, "one", predictions(PLAN, 0.5, 9), PLAN, title="One (method.x=1)", config={"type": "one", "x": 1})
    return tmp_path


def test_numbers_by_hand():
    right = np.stack([predictions(PLAN, 0.9, 0) == PLAN.labels, predictions(PLAN, 0.7, 1) == PLAN.labels]).astype(float)
    found = compare(right, PLAN, np.ones(200, bool))
    a, b = right
    assert (found.one, found.two) == (100 * a.mean(), 100 * b.mean())
    assert found.only_one == (a > b).sum()
    assert found.only_two == (b > a).sum()
    per_episode = 100 * (a - b).mean(1)
    assert found.episodes == pytest.approx(1.96 * per_episode.std(ddof=1) / math.sqrt(200))
    error = spread(right, PLAN.classes, PLAN.support, PLAN.query).difference(0, 1)
    assert found.clips == pytest.approx(error.half_width())
    assert found.p == pytest.approx(error.p_value(100 * (a.mean() - b.mean())))
    differences = [abs(x - y) for _, x, y in found.classwise]
    assert differences == sorted(differences, reverse=True)
    number, most = found.episodewise[0]
    assert most == (a - b).sum(1)[number]
    assert abs(most) == np.abs((a - b).sum(1)).max()
    half = compare(right, PLAN, np.arange(200) < 100)
    assert half.shared == 100
    assert half.one == 100 * a[:100].mean()


def test_by_name_hash_title_and_folder(root, capsys):
    folder = next((root / "results").glob("*/*/two-*"))
    for two in ("two", "Two", folder.name, folder.name.removeprefix("two-"), str(folder)):
        assert compare_command("one", two, [f"out={root}"]) == 0
        out = capsys.readouterr().out
        assert "A  One: " in out
        assert "B  Two: " in out
        assert "told apart" in out
        assert "paired on 200 episodes" in out
        assert f"fsar-bench explain {root}" in out
    assert compare_command("two", "three", [f"out={root}", "dataset=toy", "way=2", "shot=1"]) == 0
    assert "not told apart at 5 %" in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(root):
    with pytest.raises(ConfigError, match=r"No result is called 'tow'. Did you mean 'two'"):
        compare_command("one", "tow", [f"out={root}"])
    with pytest.raises(ConfigError, match=r"Unknown key 'datset'. Did you mean 'dataset'"):
        compare_command("one", "two", [f"out={root}", "datset=toy"])
    other = make_plan(episodes=200, seed=1)
    store(root, "elsewhere", predictions(other, 0.7, 3), other)
    with pytest.raises(ResultError, match=r"share no episodes, so they cannot be compared: plan .seed. differ"):
        compare_command("one", "elsewhere", [f"out={root}"])
    later = make_plan(shot=2, episodes=200)
    store(root, "later", predictions(later, 0.7, 3), later)
    with pytest.raises(ResultError, match="shot, plan differ"):
        compare_command("two", "later", [f"out={root}"])
    for seed in (20, 21):
        store(root, "many", predictions(PLAN, 0.7, seed), PLAN, title=f"Many (method.x={seed})", config={"x": seed})
    with pytest.raises(ConfigError, match=r"'many' names 2 rows .*Name one by its hash"):
        compare_command("two", "many", [f"out={root}"])
