"""What a study costs: totals by hand, from a machine profile and from stored results."""

from __future__ import annotations

import json

import pytest

from fsar_bench.config.resolve import resolve
from fsar_bench.engine.forecast import backbone_of, method_of
from fsar_bench.engine.machine import MachineProfile, MethodProfile
from fsar_bench.engine.study import study_of
from fsar_bench.errors import ConfigError
from fsar_bench.progress.estimate import PASSES

CLIPS = 6 * 7  # of each split of the tiny dataset


@pytest.fixture
def run(tiny, tmp_path):
    """Resolved cells on the tiny dataset: 8 training episodes of 10 clips, 3 validations of 20 episodes, 100 test episodes."""

    def resolved(*pairs: str):
        given = [f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "episodes=100", "train.shot=1"]
        folders = [f"out={tmp_path / 'leaderboards'}", f"work_dir={tmp_path / 'work_dirs'}"]
        return resolve(
            [*(pair for pair in given if "train" not in pair or "otam_frozen" not in pairs[0]), *folders, *pairs]
        )

    return resolved


def profile_of(cell, **changed) -> MethodProfile:
    measured = {
        "method": method_of(cell), "backbone": backbone_of(cell), "title": "x", "roles": 1, "encode": 0.5, "score": 0.01,
        "train": 2.0, "clip": 300, "indexed": 1000, "shared": False, "arrays": 2, "trained": 1000, "process": 10**9,
        "training": 5 * 10**8, "training_clips": 20,
    }  # fmt: skip
    return MethodProfile(**{**measured, **changed})


def studied(run, profile: MachineProfile, tmp_path):
    return study_of(run.cells, run.options, (profile, profile.known(tmp_path / "machine.json")))


def test_totals_by_hand_of_two_cells_that_share_a_training(run, tmp_path):
    work = run("methods=otam", "shot=1,2", "jobs=2")
    study = studied(work, MachineProfile(device="cpu", methods=[profile_of(work.cells[0])]), tmp_path)
    (row,) = study.methods
    assert (row.cells, row.finished, row.trainings) == (2, 0, 1)
    encoded = 3 * CLIPS + CLIPS + CLIPS  # validations, and the test split for each cell
    assert row.seconds == pytest.approx(
        {"train": 8 * 10 * 2.0, "encode": encoded * 0.5, "score": (3 * 20 + 200) * 0.01}
    )
    assert set(row.sources.values()) == {"method"}
    second = CLIPS * 0.5 + 100 * 0.01
    assert study.seconds == pytest.approx(160 + 105 + 2.6)
    assert study.jobs == 2
    assert study.wall == pytest.approx(study.seconds - second)  # the longer cell: longer than half of all
    pixels = 3 * int(work.cells[0].identity.backbone["crop"]) ** 2
    assert study.disk == {
        "frames": 2 * CLIPS * 8 * pixels + CLIPS * 64 * pixels,  # test and val; train clips whole
        "results": 2 * (100 * 5 + 10_000) + 4 * 100 * 5 * (1 + 1 + 1) + 4 * 100 * 5 * (1 + 2 + 1),
        "scores": 2 * 4 * 100 * 5 * 5 * 2,
        "checkpoints": 16 * 1000,
        "clips": 2 * CLIPS * 300,  # test and val of the training
    }
    assert study.memory == 10**9 + 5 * 10**8 * 10 // 20


def test_encoded_clips_of_frozen_encoders_are_stored_once_for_all_methods(run, tmp_path):
    work = run("methods=otam_frozen,bi_mhm_frozen")
    frozen = [profile_of(cell, shared=True, train=None, training=0, training_clips=0) for cell in work.cells]
    study = studied(work, MachineProfile(device="cpu", methods=frozen), tmp_path)
    assert study.disk["clips"] == CLIPS * 300
    assert study.seconds == pytest.approx(2 * (CLIPS * 0.5 + 100 * 0.01))
    assert study.memory == 10**9 + CLIPS * 1000
    large = [one.model_copy(update={"clip": 2**20 + 1}) for one in frozen]
    assert (
        studied(work, MachineProfile(device="cpu", methods=large), tmp_path).disk["clips"] == 0
    )  # encoded again each time
    tight = run("methods=otam_frozen", "bank_budget=10kB")
    assert studied(tight, MachineProfile(device="cpu", methods=frozen), tmp_path).memory == 10**9 + 10_000


def test_what_is_not_measured_is_estimated_or_told_as_unknown(run, tmp_path):
    work = run("methods=otam,protonet")
    known = profile_of(work.cells[0], train=None)
    study = studied(work, MachineProfile(device="cpu", methods=[known]), tmp_path)
    own, other = study.methods
    assert own.sources == {"train": "other pass", "encode": "method", "score": "method"}
    assert own.seconds["train"] == pytest.approx(80 * PASSES * 0.5)
    assert other.sources == {"train": "other pass", "encode": "backbone", "score": "backbone"}
    assert other.memory is None
    assert other.disk["checkpoints"] is None
    assert study.disk["checkpoints"] is None
    nothing = studied(work, MachineProfile(device="cpu"), tmp_path)
    assert nothing.seconds is nothing.wall is nothing.memory is None


def test_stored_results_tell_what_a_profile_would(run, run_tiny, tmp_path):
    run_tiny("otam_frozen", controls=False)
    study = study_of(*(lambda work: (work.cells, work.options))(run("methods=otam_frozen,bi_mhm_frozen", "seed=0,1")))
    own, other = study.methods
    assert (own.cells, own.finished) == (2, 1)
    assert own.is_measured
    assert own.memory > 10**8
    assert own.sources["encode"] == "method"
    assert other.sources["encode"] == "backbone"
    assert study.source == f"1 results in {tmp_path / 'leaderboards'}"


def test_a_profile_keeps_one_measurement_of_each_method_of_one_device(run, tmp_path):
    (cell,) = run("methods=otam_frozen").cells
    path = tmp_path / "machine.json"
    MachineProfile.add(path, "cpu", profile_of(cell))
    MachineProfile.add(path, "cpu", profile_of(cell, method="another"))
    MachineProfile.add(path, "cpu", profile_of(cell, encode=0.25))
    assert sorted(one.encode for one in MachineProfile.read(path).methods) == [0.25, 0.5]
    with pytest.raises(ConfigError, match="that of 'cpu', and this was measured on 'H100'"):
        MachineProfile.add(path, "H100", profile_of(cell))
    path.write_text(json.dumps({"device": "cpu", "methods": [{"method": 1}]}))
    with pytest.raises(ConfigError, match="fsar-bench profile METHOD --machine"):
        MachineProfile.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        MachineProfile.read(tmp_path / "none.json")


def test_what_a_started_cell_noted_is_read_once_for_all_that_ask(run, monkeypatch):
    from fsar_bench.engine import state

    work = run("methods=otam", "shot=1,2,3,4")
    folder = work.options.work_dir / work.cells[0].work_folder
    folder.mkdir(parents=True)
    state.note_start(work.cells[0], folder, "0" * 64)
    read, original = [], state.read_whole
    monkeypatch.setattr(state, "read_whole", lambda path: read.append(path) or original(path))
    found = [state.training_folder(cell, work.options.work_dir) for cell in work.cells]
    assert None not in found
    assert len(set(found)) == 1
    assert len(read) == 1
    state.note_start(work.cells[0], folder, "1" * 64)  # another training: the file is another one
    assert state.training_folder(work.cells[3], work.options.work_dir) not in found
