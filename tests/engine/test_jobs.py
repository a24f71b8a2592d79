"""Several cells at a time: they overlap, give the bytes of one after the other, share nothing twice, and end together."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import children, children_that_stay, outputs

from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine import jobs
from fsar_bench.engine.jobs import job_options, longest_first, next_cell, share_cores
from fsar_bench.engine.locks import HOLDER, is_locked, making
from fsar_bench.engine.sweep import in_order, run_isolated, sweep
from fsar_bench.errors import CellCrashedError, ConfigError, DataError
from fsar_bench.progress.events import Event


def cells_of(tiny, tmp_path, *pairs: str):
    run = resolve(
        [
            f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "episodes=200", "workers=1", "checkpoint_seconds=0",
            f"out={tmp_path / 'leaderboards'}", f"work_dir={tmp_path / 'work_dirs'}", *pairs,
        ]
    )  # fmt: skip
    return run.cells, run.options


def elsewhere(options: RunOptions, tmp_path: Path) -> RunOptions:
    """The same, one cell at a time, with other folders."""
    return options.model_copy(update={"jobs": 1, "out": tmp_path / "alone", "work_dir": tmp_path / "alone_work"})


def process_of(cell, options: RunOptions) -> int:
    return json.loads((options.work_dir / cell.work_folder / HOLDER).read_text())["pid"]


@pytest.mark.long
def test_processes_overlap_and_give_the_bytes_of_one_after_the_other(tiny, tmp_path):
    """Neither cell's first training episode is heard before the other's is told."""
    cells, options = cells_of(tiny, tmp_path, "methods=otam,bi_mhm", "jobs=2")
    together, met = threading.Barrier(2, timeout=120), []

    def listener_of(cell):
        def listen(event: Event) -> None:
            if event.stage == "training" and event.done == 1:
                together.wait()
                met.append(cell.name)

        return listen

    done = list(sweep(cells, options, run_isolated, listener_of))
    assert sorted(met) == ["bi_mhm", "otam"]
    assert [outcome.state for outcome in done] == ["done", "done"]
    assert {outcome.state for outcome in sweep(cells, options, run_isolated)} == {"reused"}
    list(sweep(cells, elsewhere(options, tmp_path), run_isolated))
    assert len(outputs(options.out)) == 4
    assert outputs(options.out) == outputs(tmp_path / "alone")


def test_a_training_that_cells_share_is_made_once(tiny, tmp_path):
    cells, options = cells_of(tiny, tmp_path, "methods=otam", "shot=1,2", "jobs=2")
    stages = {cell.hash: [] for cell in cells}
    done = list(sweep(cells, options, run_isolated, lambda cell: lambda event: stages[cell.hash].append(event.stage)))
    assert {outcome.state for outcome in done} == {"done"}
    assert sorted("training" in told for told in stages.values()) == [False, True]
    assert len({outcome.stored.result.training_key for outcome in done}) == 1


@pytest.mark.long
def test_a_killed_cell_is_a_crash_of_that_cell_alone_and_resumes(tiny, tmp_path):
    cells, options = cells_of(tiny, tmp_path, "methods=otam,bi_mhm", "jobs=2")

    def listener_of(cell):
        def kill(event: Event) -> None:
            if cell is cells[0] and event.stage == "training" and event.done == 5:
                os.kill(process_of(cell, options), signal.SIGKILL)

        return kill

    first, second = in_order(list(sweep(cells, options, run_isolated, listener_of)), cells)
    assert (first.state, second.state) == ("failed", "done")
    assert isinstance(first.error, CellCrashedError)
    assert "exit code -9" in str(first.error)
    assert {outcome.state for outcome in sweep(cells, options, run_isolated)} == {"done", "reused"}
    list(sweep(cells, elsewhere(options, tmp_path), run_isolated))
    assert outputs(options.out) == outputs(tmp_path / "alone")


def test_who_leaves_a_sweep_ends_the_processes_of_its_cells(tiny, tmp_path):
    """As Ctrl-C does, which raises in the owner wherever it is."""
    cells, options = cells_of(
        tiny, tmp_path, "methods=otam,bi_mhm,otam_frozen", "train.episodes=40000", "train.val_interval=40000", "jobs=3"
    )
    trains, before = threading.Barrier(3, timeout=120), children()

    def listener_of(cell):
        def listen(event: Event) -> None:
            if (event.stage, event.done) in (("training", 1), ("scoring", 200)):
                trains.wait()

        return listen

    for outcome in sweep(cells, options, run_isolated, listener_of):
        assert outcome.cell.name == "otam_frozen"
        assert len(children(before)) >= 2
        break
    assert children_that_stay(before) == []
    assert not any(is_locked(options.work_dir / cell.work_folder) for cell in cells)


def test_outcomes_are_told_as_cells_end_and_ordered_by_cell(tiny, tmp_path):
    """The first cell fails after the second has failed."""
    cells, options = cells_of(tiny, tmp_path, "methods=otam,bi_mhm,zero_shot", "jobs=2")
    second_failed = threading.Event()

    def runner(cell, _options, _listener):
        if cell is cells[0]:
            assert second_failed.wait(60)
        raise DataError(f"{cell.name} fails.")

    ended = []
    for outcome in sweep(cells, options, runner):
        ended.append(outcome)
        if outcome.cell is cells[1]:
            second_failed.set()
    assert [outcome.cell.name for outcome in ended].index("bi_mhm") == 0
    assert [outcome.cell for outcome in in_order(ended, cells)] == cells
    assert [str(outcome.error) for outcome in in_order(ended, cells)] == [f"{cell.name} fails." for cell in cells]


def test_an_error_that_is_not_the_users_ends_a_sweep(tiny, tmp_path):
    cells, options = cells_of(tiny, tmp_path, "methods=otam,bi_mhm", "jobs=2")

    def runner(*_):
        raise ZeroDivisionError("a fault of ours")

    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        list(sweep(cells, options, runner))


def test_cells_that_may_share_a_training_or_features_go_last(tiny, tmp_path):
    def names(running: list[int]) -> list[str]:
        """In which order the other cells would begin while some run."""
        waiting, out = [cell for number, cell in enumerate(cells) if number not in running], []
        while waiting:
            out.append(waiting.pop(next_cell(waiting, [cells[number] for number in running])))
        return [f"{cell.name} {cell.protocol.shot}" for cell in out]

    cells, _ = cells_of(tiny, tmp_path, "methods=otam,zero_shot,otam_frozen", "shot=1,2")
    assert names([]) == ["otam 1", "otam 2", "zero_shot 1", "zero_shot 2", "otam_frozen 1", "otam_frozen 2"]
    assert names([0]) == ["zero_shot 1", "zero_shot 2", "otam_frozen 1", "otam_frozen 2", "otam 2"]
    assert names([2]) == ["otam 1", "otam 2", "zero_shot 2", "otam_frozen 1", "otam_frozen 2"]
    assert names([0, 2]) == ["otam 2", "zero_shot 2", "otam_frozen 1", "otam_frozen 2"]
    other = cells_of(tiny, tmp_path, "methods=otam", "train.episodes=10")[0]
    assert next_cell([cells[1], *other], [cells[0]]) == 1  # another training


def test_the_longest_training_begins_first(tiny, tmp_path):
    cells = [
        *cells_of(tiny, tmp_path, "methods=zero_shot,otam", "train.episodes=4")[0],
        *cells_of(tiny, tmp_path, "methods=bi_mhm,otam_frozen", "train.episodes=8")[0],
        *cells_of(tiny, tmp_path, "methods=otam", "train.episodes=4", "train.query_per_class=20")[0],
    ]
    assert [cells.index(cell) for cell in longest_first(cells)] == [4, 2, 1, 0, 3]


def test_what_is_being_made_is_waited_for_and_found(tmp_path):
    path, made = tmp_path / "cache" / "chunk.safetensors", []

    def make() -> None:
        with making(path):
            if not path.exists():
                made.append(threading.current_thread().name)
                if len(made) == 1:
                    other.start()
                    other.join(0.5)  # it waits
                path.write_bytes(b"")

    other = threading.Thread(target=make, name="other")
    make()
    other.join(60)
    assert made == ["MainThread"]
    assert [file.name for file in path.parent.iterdir()] == ["chunk.safetensors"]


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "cells", "devices"),
    [
        ("auto", 4, "auto", 9, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 4, "auto", 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("auto", 2, 3, 9, ["cuda:0", "cuda:1", "cuda:0"]),
        ("auto", 1, "auto", 9, ["auto"]),
        ("auto", 8, 1, 9, ["auto"]),
        ("cuda:2", 4, "auto", 9, ["cuda:2"]),
        ("cuda:2", 4, 2, 9, ["cuda:2", "cuda:2"]),
        ("auto", 0, "auto", 9, ["auto"] * 7),
        ("cpu", 4, "auto", 9, ["cpu"] * 7),
        ("cpu", 4, 5, 9, ["cpu"] * 5),
        ("auto", 0, 5, 1, ["auto"]),
    ],
)
def test_devices_of_jobs(monkeypatch, device, gpus, asked, cells, devices):
    monkeypatch.setattr(jobs, "count_gpus", lambda: gpus)
    monkeypatch.setattr(jobs, "cores", lambda: 7)
    monkeypatch.setattr(jobs, "free_host_memory", lambda: 100e9)
    options = job_options(RunOptions(device=device, jobs=asked), cells)
    assert [of_job.device for of_job in options] == devices
    assert {of_job.jobs for of_job in options} == {len(devices)}


@pytest.mark.parametrize(("cores", "memory", "count"), [(16, 100e9, 16), (16, 13e9, 3), (16, 1e9, 1), (1, 100e9, 1)])
def test_the_cpu_gets_as_many_jobs_as_cores_and_memory_allow(monkeypatch, cores, memory, count):
    monkeypatch.setattr(jobs, "cores", lambda: cores)
    monkeypatch.setattr(jobs, "free_host_memory", lambda: memory)
    assert len(job_options(RunOptions(device="cpu", jobs="auto"), 100)) == count


def test_jobs_on_the_cpu_share_the_memory_for_encoded_clips(monkeypatch):
    """Each would take half of what is free for itself; a size that the user has set is that of each."""
    monkeypatch.setattr(jobs, "free_host_memory", lambda: 40e9)
    monkeypatch.setattr(jobs, "count_gpus", lambda: 0)
    assert [of_job.bank_budget for of_job in job_options(RunOptions(jobs=4), 9)] == ["5000MB"] * 4
    assert [of_job.bank_budget for of_job in job_options(RunOptions(jobs=40), 99)] == ["1000MB"] * 40
    assert [of_job.bank_budget for of_job in job_options(RunOptions(jobs=2, bank_budget="3GB"), 9)] == ["3GB"] * 2
    assert job_options(RunOptions(jobs=1), 9)[0].bank_budget == "auto"
    monkeypatch.setattr(jobs, "count_gpus", lambda: 2)
    assert job_options(RunOptions(jobs=2), 9)[0].bank_budget == "auto"  # each has the memory of a GPU


def test_gpus_are_counted_by_a_child_as_torch_counts_them(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "DEVICE_FILES", tmp_path)
    (tmp_path / "nvidia0").touch()
    jobs.count_gpus.cache_clear()
    assert jobs.count_gpus() == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert 0 < jobs.free_host_memory() < 1e15


@pytest.mark.parametrize(("imported", "method"), [("import torch", None), ("torch._C._cuda_getDeviceCount()", "spawn")])
def test_cells_on_a_gpu_are_spawned_where_a_fork_could_not_use_it(tmp_path, monkeypatch, imported, method):
    """Torch refuses GPUs to forks of a process that has asked CUDA for them, on machines without any too."""
    (tmp_path / f"asks_{method}.py").write_text(f"import torch\n{imported}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(jobs, "PRELOAD", (f"asks_{method}",))
    jobs._forks_use_gpus.cache_clear()
    assert jobs.start_method("cuda:0") == method
    monkeypatch.setattr(jobs, "count_gpus", lambda: 0)
    assert jobs.start_method("auto") is jobs.start_method("cpu") is None
    monkeypatch.setattr(jobs, "count_gpus", lambda: 1)
    assert jobs.start_method("auto") == method
    jobs._forks_use_gpus.cache_clear()


def test_what_a_fork_server_imports_asks_for_gpus_without_cuda(tmp_path, monkeypatch):
    """The variable of torch is there when modules are imported, and not in this process."""
    file = tmp_path / "told"
    told = f"import os, pathlib\npathlib.Path({str(file)!r}).write_text(os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'])\n"
    (tmp_path / "tells_variable.py").write_text(told)
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    jobs.processes.converse(jobs._tell_use, (), lambda _: None, preload=("tells_variable",))
    assert file.read_text() == "1"
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_cells_are_started_as_their_device_needs_it(tiny, tmp_path, monkeypatch):
    started = []
    module = sys.modules[run_isolated.__module__]
    monkeypatch.setattr(module, "start_method", lambda device: started.append(device) or "spawn")
    monkeypatch.setattr(module.processes, "converse", lambda *_, method, **__: started.append(method))
    cells, options = cells_of(tiny, tmp_path, "methods=zero_shot", "device=cuda")
    with pytest.raises(CellCrashedError):
        run_isolated(cells[0], options)
    assert started == ["cuda", "spawn"]


def test_jobs_share_the_threads_unless_the_user_has_set_them(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.setattr(jobs, "_chosen", 0)
    before = torch.get_num_threads()
    try:
        for count, threads in ((2, 4), (3, 2), (20, 1)):
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
            share_cores(count)
            assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (threads, str(threads))
        torch.set_num_threads(3)
        monkeypatch.delenv("OMP_NUM_THREADS")
        share_cores(1)
        assert "OMP_NUM_THREADS" not in os.environ
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        share_cores(8)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(jobs.cores() == 1, reason="needs two cores")
def test_a_cell_of_several_takes_its_share_of_the_threads(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    (cell,), options = cells_of(tiny, tmp_path, "methods=zero_shot")
    alone = run_isolated(cell, elsewhere(options, tmp_path), method="spawn")
    assert alone.cost.environment.threads > 1
    shared = run_isolated(cell, options.model_copy(update={"jobs": jobs.cores()}), method="spawn")
    assert shared.cost.environment.threads == 1


@pytest.mark.parametrize("jobs", ["0", "1025", "two", "1.5", "-1", "true"])
def test_a_wrong_number_of_jobs_is_named(tiny, tmp_path, jobs):
    with pytest.raises(
        ConfigError, match=rf"jobs=.*{jobs.strip('-')}.* must be a whole number from 1 to 1024, or auto\."
    ):
        cells_of(tiny, tmp_path, "methods=otam", f"jobs={jobs}")


def test_cells_in_this_process_run_one_at_a_time(run_tiny):
    with pytest.raises(ConfigError, match=r"jobs=2 needs isolate=True"):
        run_tiny("otam_frozen", jobs=2)


def test_no_child_looks_for_gpus_where_there_is_no_device_or_no_work(tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a child was started")

    monkeypatch.setattr(jobs.processes, "converse", fail)
    monkeypatch.setattr(jobs, "DEVICE_FILES", tmp_path)
    (tmp_path / "nvme0").touch()
    jobs.count_gpus.cache_clear()
    assert jobs.count_gpus() == 0
    (tmp_path / "nvidia0").touch()
    jobs.count_gpus.cache_clear()
    cells, options = cells_of(tiny, tmp_path, "methods=zero_shot,otam_frozen")
    with pytest.raises(AssertionError, match="a child was started"):
        jobs.settled(options, cells)
    for cell in cells:
        folder = options.out / "results" / cell.folder
        folder.mkdir(parents=True)
        (folder / "result.json").touch()
    assert jobs.settled(options, cells).jobs == 1
    with pytest.raises(AssertionError, match="a child was started"):
        jobs.settled(options.model_copy(update={"overwrite": True}), cells)
