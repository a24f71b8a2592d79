"""The audit of the statistics, `tests/statistics_audit.py`: a short form, the whole, and that it can fail."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import statistics_audit as audit
import statistics_generators as generators
from statistics_audit import CHECKS, Effort, Line, run_check

LONG = {name for name in CHECKS if name.startswith("published-")} | {
    "classes-10", "coverage-37x16", "missing-1-shot", "missing-5-shots", "recordings-ucf101", "signs-5-shots",
    "trainings-1", "trainings-3-beside-1", "trainings-5",
}  # fmt: skip


def failures(lines: list[Line]) -> str:
    """Table of the lines that do not hold; empty if all do."""
    wrong = [line for line in lines if not line.holds]
    return audit.table(wrong) if wrong else ""


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in LONG])
def test_short_audit(name):
    assert not failures(run_check(name, Effort(0.02)))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_whole_audit(name):
    """`python tests/statistics_audit.py` prints the same as one table."""
    assert not failures(run_check(name, Effort()))


def test_generators_have_no_code_of_fsar_bench():
    tree = ast.parse(Path(generators.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "dataclasses", "typing", "numpy"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda clips, episodes: episodes, "coverage-5x6"),  # only the interval that papers print
        (lambda clips, episodes: clips / 4, "coverage-10x40"),
        (lambda clips, episodes: clips * 1.4, "exact-10x40"),
        (lambda clips, episodes: clips / 1.4, "exact-10x40"),
        (lambda clips, episodes: episodes, "level-10x40"),
    ],
)
def test_wrong_variances_are_found(monkeypatch, change, name):
    def wrong(*arguments, **how):
        right = jackknife(*arguments, **how)
        return replace(right, clips=change(right.clips, right.episodes))

    jackknife = audit.jackknife_over_clips
    monkeypatch.setattr(audit, "jackknife_over_clips", wrong)
    assert failures(run_check(name, Effort(0.02)))


def test_clips_of_a_recording_taken_as_independent_are_found(monkeypatch):
    monkeypatch.setattr(generators.Pool, "has_recordings", False)
    assert failures(run_check("recordings-level", Effort(0.02)))


def test_trainings_that_are_left_out_are_found(monkeypatch):
    monkeypatch.setattr(audit, "with_trainings", lambda uncertainty, accuracy: uncertainty)
    assert failures(run_check("trainings-3", Effort(0.05)))


def test_the_command_tells_by_its_status_whether_all_claims_hold(monkeypatch, capsys):
    lines = [Line("a", 1.0, 0.1, 0.7, 1.3, 9), Line("b", 2.0, 0.1, 0.7, 1.3, 9)]
    monkeypatch.setattr(
        audit, "CHECKS", {"first": lambda effort, name: lines[:1], "second": lambda effort, name: lines}
    )
    assert audit.main(["--jobs", "1", "--only", "first"]) == 0
    assert audit.main(["--jobs", "1"]) == 1
    output = capsys.readouterr()
    assert "| b | 2 | 0.1 | >= 0.7 and <= 1.3 | 9 | NO |" in output.out
    assert "2 of 3 claims hold." in output.out
    assert "2/2 second: FAILS" in output.err


def test_a_check_that_raises_is_a_line_that_does_not_hold(monkeypatch, capsys):
    def broken(effort, name):
        raise ValueError("no clips")

    monkeypatch.setattr(audit, "CHECKS", {"broken": broken})
    assert audit.main(["--jobs", "1"]) == 1
    assert "broken ended with ValueError: no clips" in capsys.readouterr().out


def test_draws_depend_on_seed_and_name_alone():
    first, again, other = (
        run_check("exact-5x6", effort) for effort in (Effort(0.02), Effort(0.02), Effort(0.02, seed=2))
    )
    assert first == again
    assert first != other


def test_an_unknown_value_does_not_hold():
    assert not Line("a", float("nan"), 0.1, -np.inf, np.inf, 9).holds


# The generators.


def test_numbers_are_distinct_and_all_sequences_are_alike():
    drawn = generators.distinct(np.random.default_rng(0), np.full(60_000, 4), 3)
    sequences, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(sequences) == 24  # 4 x 3 x 2
    assert np.abs(counts / 2500 - 1).max() < 0.1  # 5 standard errors
    assert (np.sort(generators.distinct(np.random.default_rng(1), np.array([[5, 5]]), 5)) == np.arange(5)).all()


def test_recordings_have_the_numbers_of_the_published_lists():
    films = generators.recorded(generators.HMDB51_RECORDINGS, generators.FILMS_IN_TWO_CLASSES)
    assert films.sizes.tolist() == [116, 130, 128, 106, 106, 103, 232, 142, 109, 120]
    pairs = np.unique(np.stack([films.unit, films.class_of]), axis=1)
    assert len(pairs[0]) == 462
    assert (np.unique(pairs[0], return_counts=True)[1] == 2).sum() == generators.FILMS_IN_TWO_CLASSES
    ucf101 = generators.recorded(generators.UCF101_RECORDINGS)
    assert (np.bincount(np.unique(np.stack([ucf101.unit, ucf101.class_of]), axis=1)[1]) == 25).all()


def test_missing_clips_are_replaced_by_the_next():
    full, realised = generators.plans_with_missing(np.random.default_rng(0), 12, 5, 300, 2, 0.2)
    gone = np.setdiff1d(np.arange(60), np.union1d(realised.query, realised.support))
    assert 4 <= len(gone) <= 20
    for before, after in ((full.query, realised.query), (full.support[..., :1], realised.support[..., :1])):
        assert (before == after)[~np.isin(before, gone)].all()  # what is there keeps its place
    clips = np.concatenate([realised.query, realised.support], axis=2)
    assert all(len(set(of_class)) == 3 for of_class in clips.reshape(-1, 3).tolist())
    assert (clips // 12 == realised.classes[..., None]).all()


def test_mirrors_make_methods_of_equal_merit_with_other_accuracies_of_classes():
    rng = np.random.default_rng(0)
    geometry, signs = generators.symmetric_classes(rng, 10, 1)
    projection = rng.normal(0, 1, (generators.DIMENSIONS, generators.PROJECTED))
    methods = generators.Methods(signs[:, :, None] * projection, np.zeros(2))
    plan = generators.draw_plan(rng, np.full(10, 40), 40_000)
    right = generators.fresh_outcomes(rng, geometry, generators.independent((40,) * 10), methods, plan)
    of_class = np.stack([np.bincount(plan.classes.ravel(), row.ravel()) for row in right]) / np.bincount(
        plan.classes.ravel()
    )
    image = np.arange(10) ^ 1  # classes come in orbits of two
    assert of_class[1] == pytest.approx(of_class[0, image], abs=0.02)  # 4 standard errors
    assert np.abs(of_class[1] - of_class[0]).max() > 0.05
