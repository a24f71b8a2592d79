"""`launcher=slurm` with submitit's local executor, and with stand-ins for the commands of Slurm: the bytes of local runs."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from helpers import outputs, outputs_alone, tiny_cells

from fsar_bench.engine.launchers import choice
from fsar_bench.engine.launchers.messages import Told, decode
from fsar_bench.engine.launchers.node import Task
from fsar_bench.engine.launchers.slurm import FOLDER, SlurmCluster, Work, claimed
from fsar_bench.engine.sweep import in_order, run_isolated, sweep
from fsar_bench.errors import ConfigError
from fsar_bench.progress.events import WARNING

submitit = pytest.importorskip("submitit")
TRAINED = ("train.episodes=240", "train.val_interval=240")


def jobs_below(pid: int) -> list[int]:
    """Processes in which submitit runs a job, among those that a process has started."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue
    found = [pid]
    for number in found:
        found += [child for child, parent in parents.items() if parent == number]
    return [number for number in found if b"submitit.core._submit" in names.get(number, b"")]


def test_cells_as_jobs_of_this_machine(tiny, tmp_path):
    cells, options = tiny_cells(
        tiny, tmp_path, "launcher=slurm", "methods=otam_frozen", "address=local", "slurm.partition=any"
    )
    choice.check_launcher(options)
    stages = []
    (done,) = sweep(cells, options, run_isolated, lambda _: lambda event: stages.append(event.stage))
    assert (done.state, done.error) == ("done", None)
    assert {"encoding", "scoring"} <= set(stages)
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)
    assert list((options.work_dir / FOLDER).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGUSR2, signal.SIGKILL], ids=["preempted", "lost"])
def test_a_job_that_is_preempted_or_lost_resumes(tiny, tmp_path, how):
    """SIGUSR2 is what Slurm sends before a time limit or a preemption: submitit queues the job again."""
    cells, options = tiny_cells(tiny, tmp_path, "launcher=slurm", "methods=otam", "shot=1,2", *TRAINED, "address=local")
    struck, events = [], []

    def listen(event) -> None:
        events.append(event)
        if event.stage == "training" and 4 < event.done < 240 and not struck:  # a checkpoint is there
            (job,) = jobs_below(os.getpid())
            struck.append(len(events))
            os.kill(job, how)

    done = in_order(list(sweep(cells, options, run_isolated, lambda _: listen)), cells)
    assert [(outcome.state, str(outcome.error)) for outcome in done] == [("done", "None")] * 2
    assert struck
    again = [event.done for event in events[struck[0] :] if event.stage == "training"]
    assert again[0] > 1, "the training began anew"
    assert again[-1] == 240
    assert any(event.stage == WARNING for event in events) == (how == signal.SIGKILL)
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)


@pytest.mark.slow
def test_jobs_of_a_driver_that_was_killed_are_taken_over(tiny, tmp_path, monkeypatch):
    cells, options = tiny_cells(tiny, tmp_path, "launcher=slurm", "methods=otam", *TRAINED, "address=local")
    options = options.model_copy(update={"out": options.out.absolute(), "work_dir": options.work_dir.absolute()})
    killed = SlurmCluster(options)
    killed.submit([(0, Task.of(cells, options, (tmp_path / "none", b""), share=1))])
    (job,) = killed._running.values()
    deadline = time.monotonic() + 120
    while not any(isinstance(m := decode(line), Told) and m.stage == "training" for line in job.told()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert claimed(options) == {cells[0].hash}
    monkeypatch.setattr(submitit.LocalExecutor, "submit", lambda *_: pytest.fail("it is running already"))
    (done,) = sweep(cells, options, run_isolated)
    assert (done.state, done.error) == ("done", None)
    assert list((options.work_dir / FOLDER).iterdir()) in ([], [killed._folder])
    assert claimed(options) == frozenset()
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)


@pytest.mark.slow
def test_an_error_of_the_user_is_told_once(tiny, tmp_path):
    cells, options = tiny_cells(tiny, tmp_path, "launcher=slurm", "methods=zero_shot", "shot=7,1", "address=local")
    failed, done = in_order(list(sweep(cells, options, run_isolated)), cells)
    assert (failed.state, done.state) == ("failed", "done")
    assert "fewer than shot + query = 8" in str(failed.error)


def test_a_job_writes_on_where_it_was_killed(tiny, tmp_path):
    """Cells that have ended are not run again, and half a line is no message."""
    cells, options = tiny_cells(tiny, tmp_path, "launcher=slurm", "methods=otam_frozen,zero_shot", "address=local")
    path = tmp_path / "messages"
    mark = tmp_path / "seen"
    mark.write_bytes(b"it")
    Work(Task.of(cells[:1], options, (mark, b"it"), share=1), path)()
    first = path.read_bytes().removesuffix(b"\n\n") + b"\n"
    path.write_bytes(first + b'{"kind": "parc')
    Work(Task.of(cells, options, (mark, b"it"), share=1), path)()
    whole = path.read_bytes()
    assert whole.startswith(first)
    messages = [decode(line) for line in whole.removesuffix(b"\n").splitlines()]
    assert [message.cell for message in messages if message.kind == "parcel"] == [cell.hash for cell in cells]
    second = {message.cell for message in messages[len(first.splitlines()) :]}
    assert second == {cells[1].hash}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("address=local", "slurm.partitions=gpu"), "Unknown key 'slurm.partitions'. Did you mean 'slurm.partition'"),
        (("address=gpu1",), "address=gpu1 is none of launcher=slurm"),
        ((), "launcher=slurm needs the commands of Slurm"),
    ],
)
def test_what_slurm_does_not_take_is_named_before_the_first_cell(tiny, tmp_path, monkeypatch, pairs, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as error:
        choice.check_launcher(tiny_cells(tiny, tmp_path, "launcher=slurm", "methods=otam", *pairs)[1])
    assert message in str(error.value)


SBATCH = """#!{python}
import os, re, subprocess, sys
text = open(sys.argv[1]).read()
open({log!r}, "a").write(text)
job = str(1000 + len([name for name in os.listdir({folder!r}) if name.startswith("job")]))
open(os.path.join({folder!r}, "job" + job), "w").close()
array = re.search(r"--array=0-(\\d+)", text)
for number in range(int(array[1]) + 1) if array else [None]:
    environment = {{**os.environ, "SLURM_JOB_ID": job if number is None else str(9000 + number), "SLURM_NTASKS": "1"}}
    if number is not None:
        environment |= {{"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": str(number)}}
    subprocess.Popen(["bash", sys.argv[1]], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", job)
"""
SRUN = """#!{python}
import os, sys
place = next(n for n, word in enumerate(sys.argv) if word.endswith("python") or "python3" in word.rpartition("/")[2] and n)
os.execvp(sys.argv[place], sys.argv[place:])
"""


@pytest.mark.slow
def test_jobs_of_slurm_are_one_array_with_the_users_options(tiny, tmp_path, monkeypatch):
    """Stand-ins for sbatch and srun start the jobs as Slurm does."""
    bin_, log = tmp_path / "bin", tmp_path / "sbatch.log"
    bin_.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": "#!/bin/sh\n", "scancel": "#!/bin/sh\n"}.items():
        code = (
            text
            if name in ("sacct", "scancel")
            else text.format(python=sys.executable, log=str(log), folder=str(tmp_path))
        )
        (bin_ / name).write_text(code)
        (bin_ / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    cells, options = tiny_cells(
        tiny, tmp_path, "methods=otam_frozen,zero_shot", "slurm.partition=gpu", "slurm.time=90", "slurm.array_parallelism=7",
        "device=cpu",
    )  # fmt: skip
    choice.check_launcher(options)
    slots = []
    done = list(sweep(cells, options, run_isolated, None, slots.append))
    assert [(outcome.state, str(outcome.error)) for outcome in done] == [("done", "None")] * 2
    assert slots == [7]
    text = log.read_text()
    assert [line for line in text.splitlines() if "--array" in line] == ["#SBATCH --array=0-1%2"]
    assert "#SBATCH --partition=gpu" in text
    assert "#SBATCH --time=90" in text
    assert "--gpus-per-node" not in text
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)
