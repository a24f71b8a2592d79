"""`fsar-bench profile`: numbers that add up, a trace, a machine profile that `plan` reads, and clear errors."""

from __future__ import annotations

import json
import re

import pytest

from fsar_bench.config.resolve import resolve
from fsar_bench.engine import profiling
from fsar_bench.engine.machine import MachineProfile
from fsar_bench.engine.profiling import measure_method

CODE = '''
"""My method."""
from fsar_bench.method import METHODS, FewShotMethod, Scores, Traits


@METHODS.register_module()
class ProfiledMean(FewShotMethod):
    role_free = True
    traits = Traits(uses_class_names=False, trainable=False, transductive=False, order_sensitive=False)

    def __init__(self, backbone, *, share=0.5):
        super().__init__(backbone)

    def score(self, support, query, class_text):
        return Scores(query.frames.mean(2) @ support.frames.mean((2, 3)).transpose(1, 2))
'''


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, value in {"SECONDS": 0.05, "STEP_SECONDS": 0.0, "STEPS": 2, "BANK_CLIPS": 60}.items():
        monkeypatch.setattr(profiling, name, value)


def number(text: str, row: str) -> float:
    """Milliseconds of a row of the table."""
    return float(re.search(rf"^ *{re.escape(row)} +([\d.,]+) ", text, re.M)[1].replace(",", ""))


def test_a_frozen_method_has_a_table_and_a_trace(fsar, tiny, tmp_path):
    done = fsar("profile", "prototype_frozen", f"dataset={tiny}", "backbone=tiny_clip", "workers=1")
    assert done.returncode == 0, done.stderr
    for row in ("encode", "index, once before scoring", "score, batched", "score, one by one"):
        assert number(done.stdout, row) > 0
    assert "training step" not in done.stdout
    assert "aten::" in done.stdout
    trace = json.loads((tmp_path / "prototype_frozen_trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"encoding", "scoring"} <= names
    assert not (tmp_path / "leaderboards").exists()
    assert not (tmp_path / "work_dirs").exists()


def test_the_method_of_a_user(fsar, tiny, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "profiled_code.py").write_text(CODE)
    (tmp_path / "profiled.py").write_text(
        'title = "Mine"\ncustom_imports = dict(imports=["profiled_code"])\nmethod = dict(type="ProfiledMean", share=0.5)\n'
    )
    trace = tmp_path / "here.json"
    done = fsar("profile", "./profiled.py", f"dataset={tiny}", "backbone=tiny_clip", "workers=1", "--trace", str(trace))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Mine, tiny_clip, 5-way 1-shot, 8 frames; cpu, threads: ")
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_training_step_adds_up_and_a_plan_reads_what_was_measured(fsar, tiny, tmp_path):
    arguments = (f"dataset={tiny}", "backbone=tiny_clip", "workers=1")
    done = fsar("profile", "otam", *arguments, "--machine", "machine.json")
    assert done.returncode == 0, done.stderr
    assert "episode of 10 clips" in done.stdout
    (measured,) = MachineProfile.read(tmp_path / "machine.json").methods
    assert measured.training_clips == 10
    assert measured.encode > 0
    assert measured.train * 10 * 1e3 == pytest.approx(number(done.stdout, "training step"), rel=0.01)
    assert measured.indexed >= measured.clip > 0
    plan = fsar("plan", "methods=otam", "controls=false", "episodes=100", *arguments, "--machine", "machine.json")
    assert plan.returncode == 0, plan.stderr
    assert "training: measured for OTAM, tiny_clip" in plan.stdout
    assert "from: machine.json, measured on cpu, threads: " in plan.stdout
    assert "disk: at most " in plan.stdout


def test_parts_are_positive_and_add_up(tiny, tmp_path):
    pairs = ["methods=ma_clip", f"dataset={tiny}", "backbone=tiny_clip", "workers=1", "controls=false"]
    run = resolve(pairs)
    times = measure_method(run.cells[0], run.options, tmp_path / "trace.json")
    assert times.roles == 2
    step = times.step
    assert min(times.encode, times.batched, times.single, step.forward, step.backward, step.optimizer, step.wait) > 0
    assert step.forward + step.backward + step.optimizer == pytest.approx(step.whole)
    assert sum(one.milliseconds for one in times.operators) <= times.operators_total
    assert times.indexed >= times.stored > 0
    assert times.arrays == 3  # total, visual, text
    assert times.trained > 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert "training step" in {event.get("name") for event in events}


def test_mistakes_are_told_before_anything_is_measured(fsar, tiny, tmp_path):
    assert "Unknown method 'otamm'" in fsar("profile", "otamm").stderr
    several = fsar("profile", "otam,protonet", f"dataset={tiny}", "backbone=tiny_clip")
    assert "profile measures one cell, and these settings make 2" in several.stderr
    assert (
        "must be above 0"
        in fsar("profile", "otam_frozen", f"dataset={tiny}", "backbone=tiny_clip", "method.matcher.smoothing=0").stderr
    )
    (tmp_path / "machine.json").write_text("{")
    damaged = fsar("profile", "otam_frozen", f"dataset={tiny}", "backbone=tiny_clip", "--machine", "machine.json")
    assert damaged.returncode == 1
    assert "The machine profile machine.json is damaged" in damaged.stderr
    assert not list(tmp_path.glob("*_trace.json"))
