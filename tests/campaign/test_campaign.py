"""A short form of the campaign; `make campaign` is the long one."""

from __future__ import annotations

import random

import pytest
from campaign import damage, ground, strikes


def test_damaged_files_change_no_byte(tmp_path):
    counts = ground.Counts()
    trials = damage.Trials(tmp_path, ground.make_dataset(tmp_path / "dataset"), "chosen")
    for number in range(len(trials.kinds)):
        trials.trial(number, random.Random(number), counts, "50 bits turned")
    assert not counts.faults
    assert counts.done["damaged files"] >= len(trials.kinds) >= 9


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["trained", "chosen"])
def test_kills_change_no_byte_and_leave_nothing(tmp_path, cell):
    counts, dataset = ground.Counts(), ground.make_dataset(tmp_path / "dataset")
    truth = strikes.undisturbed(tmp_path / "truth", dataset, cell)
    for number in range(3):
        strikes.trial(tmp_path / f"kill_{number}", dataset, cell, truth, random.Random(number), counts)
    assert not counts.faults
    assert counts.done["kills"] >= 3


def test_a_damage_that_is_not_seen_is_a_fault(tmp_path, monkeypatch):
    """The campaign can fail: where every run gives other bytes, it says so."""
    counts = ground.Counts()
    trials = damage.Trials(tmp_path, ground.make_dataset(tmp_path / "dataset"), "evaluated")
    trials.truth = {name: data + b"other" for name, data in trials.truth.items()}
    trials.trial(0, random.Random(0), counts)
    assert any("other bytes" in fault for fault in counts.faults)
