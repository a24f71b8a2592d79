"""Cells in processes of their own: errors, deaths and memory come back to the owner, which imports no torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import annotation_rows, children, outputs, write_dataset

from fsar_bench.config.resolve import resolve
from fsar_bench.engine.locks import is_locked
from fsar_bench.engine.sweep import run_isolated, sweep
from fsar_bench.errors import BusyError, CellCrashedError, ProtocolError
from fsar_bench.progress.events import POSTPONED
from fsar_bench.results.store import read


def cells_of(tiny, tmp_path, *pairs: str):
    run = resolve(
        [
            f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "episodes=300", "workers=1", "checkpoint_seconds=0",
            "jobs=1", f"out={tmp_path / 'leaderboards'}", f"work_dir={tmp_path / 'work_dirs'}", *pairs,
        ]
    )  # fmt: skip
    return run.cells, run.options


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_isolated_cell_gives_the_bytes_of_one_in_process(tiny, tmp_path, run_tiny, method):
    (cell,), options = cells_of(tiny, tmp_path, "methods=otam_frozen")
    events = []
    stored = run_isolated(cell, options, events.append, method=method)
    assert events[0].stage in ("starting: importing torch and the methods", "starting")  # a warm server imports nothing
    assert [event.stage for event in events if event.done == event.total][-1] == "scoring"
    isolated = outputs(options.out)
    run_tiny("otam_frozen", episodes=300, controls=False, out=tmp_path / "again", work_dir=tmp_path / "again_work")
    assert outputs(tmp_path / "again") == isolated
    assert 100 < stored.cost.memory.host < 20_000


def test_a_killed_cell_is_named_and_resumes_to_the_same_result(tiny, tmp_path):
    """A real SIGKILL of the cell's process in the middle of its training."""
    (cell,), options = cells_of(tiny, tmp_path, "methods=otam")
    expected = run_isolated(cell, options.model_copy(update={"out": tmp_path / "a", "work_dir": tmp_path / "aw"}))
    before = children()

    def kill(event) -> None:
        if event.stage == "training" and event.done == 5:
            (child,) = children(before)
            child.kill()

    with pytest.raises(CellCrashedError, match=r"its process ended early \(exit code -9"):
        run_isolated(cell, options, kill)
    resumed = run_isolated(cell, options)
    assert resumed.result == expected.result
    assert outputs(options.out) == outputs(tmp_path / "a")


def test_errors_of_a_cell_come_back_as_they_are_and_others_go_on(tiny, tmp_path):
    cells, options = cells_of(tiny, tmp_path, "methods=zero_shot", "shot=7,1")
    failed, done = sweep(cells, options, run_isolated)
    assert (failed.state, done.state) == ("failed", "done")
    assert isinstance(failed.error, ProtocolError)
    assert "fewer than shot + query = 8" in str(failed.error)


def test_an_unexpected_error_says_where_its_traceback_is(tiny, tmp_path):
    (tmp_path / "broken_method.py").write_text(
        "from fsar_bench.methods.zero_shot import ZeroShot\nfrom fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass Broken(ZeroShot):\n    def score(self, *_):\n        return 1 / 0\n"
    )
    (tmp_path / "broken.py").write_text('custom_imports = ["broken_method"]\nmethod = dict(type="Broken")\n')
    (cell,), options = cells_of(tiny, tmp_path, f"methods={tmp_path / 'broken.py'}")
    with pytest.raises(CellCrashedError, match=r"Unexpected error: ZeroDivisionError.*Full traceback: .*log\.txt"):
        run_isolated(cell, options)
    assert "return 1 / 0" in next((tmp_path / "work_dirs").rglob("log.txt")).read_text()


@contextmanager
def another_run_in(folder: Path) -> Iterator[subprocess.Popen]:
    """A second process that holds the lock of a folder until its standard input is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    hold = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.communicate()


def test_a_cell_of_another_run_is_looked_at_again_and_reused(tiny, tmp_path):
    """The other run finishes the first cell while this one is at the second."""
    cells, options = cells_of(tiny, tmp_path, "methods=zero_shot,otam_frozen")
    busy, other = cells
    elsewhere = options.model_copy(update={"out": tmp_path / "elsewhere", "work_dir": tmp_path / "elsewhere_work"})
    for cell in cells:
        run_isolated(cell, elsewhere)
    told = {cell.name: [] for cell in cells}
    with another_run_in(options.work_dir / busy.work_folder) as process:

        def both_are_stored(cell, options, listener):
            shutil.copytree(elsewhere.out, options.out, dirs_exist_ok=True)
            process.communicate()
            return read(options.out / "results" / cell.folder)

        done, again = sweep(cells, options, both_are_stored, lambda cell: told[cell.name].append)
    assert (done.cell, done.state) == (other, "done")
    assert (again.cell, again.state) == (busy, "reused")
    assert [event.stage for event in told[busy.name]] == [POSTPONED]
    assert told[other.name] == []


def test_a_cell_that_another_run_keeps_is_busy_and_one_that_died_keeps_nothing(tiny, tmp_path):
    (cell,), options = cells_of(tiny, tmp_path, "methods=zero_shot")
    folder = options.work_dir / cell.work_folder
    with another_run_in(folder) as process:
        (outcome,) = sweep([cell], options, run_isolated)
        assert (outcome.state, outcome.stored) == ("busy", None)
        assert isinstance(outcome.error, BusyError)
        with pytest.raises(BusyError, match="Another run is working in"):
            run_isolated(cell, options)  # a run that began after the look at the lock
        assert is_locked(folder)
        process.kill()
        process.wait()
        assert not is_locked(folder)
        (outcome,) = sweep([cell], options, run_isolated)
    assert outcome.state == "done"


def test_waiting_for_a_training_of_another_run_is_told(tiny, tmp_path):
    cells, options = cells_of(tiny, tmp_path, "methods=otam", "shot=1,2")
    first = run_isolated(cells[0], options)
    training = options.work_dir / cells[1].training_folder(first.result.training_key)
    waiting = []
    with another_run_in(training) as process:

        def release(event) -> None:
            if event.stage.startswith("waiting"):
                waiting.append(event.stage)
                process.communicate()

        assert run_isolated(cells[1], options, release).result.training_key == first.result.training_key
    assert waiting == ["waiting for the training in another run"]


SCRIPT = """
import sys
import fsar_bench
assert "torch" not in sys.modules
results = fsar_bench.run("prototype_frozen", dataset={dataset!r}, episodes=100, controls=False, isolate=True,
                         backbone="tiny_clip")
assert "torch" not in sys.modules
print(results.to_frame().accuracy[0])
results = fsar_bench.run("zero_shot", dataset={dataset!r}, episodes=100, controls=False, progress=False, device="cpu",
                         backbone="tiny_clip")
print(len(results))
"""


@pytest.mark.long
def test_a_script_without_a_main_guard_works(tmp_path):
    dataset = write_dataset(tmp_path / "tiny.py", annotation_rows())
    (tmp_path / "script.py").write_text(SCRIPT.format(dataset=str(dataset)))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout.splitlines()[-2]) < 100
    assert done.stdout.splitlines()[-1] == "1"
