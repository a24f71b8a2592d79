"""`launcher=slurm`: every task is a Slurm job, many of them in one array, submitted by submitit.

The jobs share `work_dir` with the driver. A job writes what it tells to a file of its own below `work_dir/.slurm`, which the
driver reads. A job that is preempted or reaches its time limit is queued again by submitit and resumes; one that is lost is
handed over again. Jobs outlive a driver that is killed: what they run is written down, and the next driver takes them over.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout

from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.host import cores
from fsar_bench.engine.launchers.messages import Answer, decode
from fsar_bench.engine.launchers.node import Task, run_task
from fsar_bench.engine.launchers.window import Broken, Ended, Lost, Told
from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import read_json, to_json, write_atomically

FOLDER = ".slurm"  # below work_dir: a folder for each run
JOBS, LOCK, SEEN = "jobs.json", ".lock", "seen"
LOCAL = "local"  # the address of jobs on this machine
DEFAULTS = {"time": 240, "job_name": "fsar-bench", "array_parallelism": 64}
ARRAY = 1000  # jobs of an array: Slurm's own limit is 1001
TIMEOUTS = 1000  # how often a job that has reached its time limit is queued again
END = b"\n"  # the last line of what a task tells
MOMENT = {True: 0.2, False: 2.0}  # seconds between two looks at the messages: of jobs on this machine, or of a cluster
LOOK = {True: 1.0, False: 30.0}  # the same at whether a job lives


def check(options: RunOptions) -> None:
    """Check the options of a run.

    Raises:
        ConfigError: one does not exist, or Slurm is not here.
    """
    import submitit

    if options.address not in ("", LOCAL):
        raise ConfigError(f"address={options.address} is none of launcher=slurm: leave it out, or say address=local.")
    known = submitit.SlurmExecutor._valid_parameters()
    for name in options.slurm:
        if name not in known:
            raise ConfigError(f"Unknown key 'slurm.{name}'.{suggest(f'slurm.{name}', [f'slurm.{k}' for k in known])}")
    if not options.address and submitit.SlurmExecutor.affinity() <= 0:
        raise ConfigError(
            "launcher=slurm needs the commands of Slurm (srun, sbatch), which are not on this machine: run it on a login node, "
            "or try the jobs here with address=local."
        )


@contextlib.contextmanager
def opened(options: RunOptions) -> Iterator[SlurmCluster]:
    """What submits jobs; at the end those that run are cancelled.

    Raises:
        ConfigError: an option has a value that Slurm does not take.
    """
    with SlurmCluster(options) as cluster:
        yield cluster


@dataclass(frozen=True)
class Work:
    """What a job runs.

    Attributes:
        task: its cells.
        messages: the file that it writes to.
    """

    task: Task
    messages: Path

    def __call__(self) -> None:
        """Run the cells that have not ended; called by submitit, after a time limit again."""
        lines = _lines(self.messages)
        answered = {message.cell for message in map(decode, lines) if isinstance(message, Answer)}
        rest = replace(self.task, cells=tuple(cell for cell in self.task.cells if cell.hash not in answered))
        with open(self.messages, "ab") as file:
            file.truncate(sum(map(len, lines)))  # what was killed while it wrote has left a part of a line
            for line in run_task(rest):
                file.write(line)
                file.flush()
            file.write(END)

    def checkpoint(self) -> Any:
        """What runs after a time limit or a preemption: the same; called by submitit when the job gets its signal."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _lines(path: Path, begin: int = 0) -> list[bytes]:
    """The whole lines of a file from some byte on; none where there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(begin)
            return [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


@dataclass
class _Job:
    """A job that is with the cluster.

    Attributes:
        job: submitit's.
        messages: the file that it writes to.
        cells: hashes of the cells that it is asked for.
        read: bytes that were read.
        looked: when it was last looked at.
    """

    job: Any
    messages: Path
    cells: frozenset[str]
    read: int = 0
    looked: float = 0.0

    def told(self) -> list[Told]:
        """What it has told since the last call, `Ended` included."""
        lines = _lines(self.messages, self.read)
        self.read += sum(map(len, lines))
        return [Ended() if line == END else line for line in lines if line == END or self._is_asked_for(line)]

    def _is_asked_for(self, line: bytes) -> bool:
        """A job of an earlier run may have cells that are finished or not part of this run."""
        try:
            return decode(line).cell in self.cells
        except ResultError:  # the driver tells
            return True


@dataclass(frozen=True)
class _Left:
    """A job of a driver that was killed."""

    folder: Path
    job_id: str
    messages: Path
    cells: frozenset[str]


def claimed(options: RunOptions) -> frozenset[str]:
    """Hashes of the cells of jobs that a killed driver has left: they are no other run's."""
    return frozenset(hash_ for left in _left(options.work_dir) for hash_ in left.cells)


def _left(work_dir: Path) -> list[_Left]:
    """Jobs of drivers that are gone, as their run folders tell."""
    out = []
    for path in sorted(work_dir.glob(f"{FOLDER}/*/{JOBS}")):
        folder = path.parent
        try:
            with FileLock(folder / LOCK).acquire(timeout=0):
                jobs = json.loads(read_json(path))
            out += [
                _Left(folder, str(j["job"]), folder / Path(j["messages"]).name, frozenset(j["cells"])) for j in jobs
            ]
        except (Timeout, OSError, ValueError, KeyError, TypeError):  # its driver lives, or was killed before it told
            continue
    return out


class SlurmCluster:
    """Submits jobs and reads what they tell; a context manager. See `window.Cluster`.

    Args:
        options: of the run; its folders are absolute.

    Raises:
        ConfigError: an option has a value that Slurm does not take.
    """

    def __init__(self, options: RunOptions) -> None:
        self._is_local = options.address == LOCAL
        self._folder = options.work_dir / FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        self._folder.mkdir(parents=True)
        self._lock = FileLock(self._folder / LOCK)
        self._left = _left(options.work_dir)
        self._taken: set[Path] = set()  # folders of killed drivers whose jobs this one follows
        self._mark = self._folder / SEEN, secrets.token_bytes(16)  # it outlives a driver that is killed
        write_atomically(*self._mark, hint="work_dir=")
        self._running: dict[int, _Job] = {}
        self._is_broken = False
        settings: dict[str, Any] = {**DEFAULTS, **options.slurm}
        if options.device == "cuda":
            settings.setdefault("gpus_per_node", 1)
        self._executor = self._made(settings)
        self.slots = max(1, cores() // 2) if self._is_local else int(settings["array_parallelism"])
        self.window, self.batch = (self.slots, 1) if self._is_local else (ARRAY, ARRAY // 2)
        self.share = self.slots if self._is_local else 1

    def _made(self, settings: dict[str, Any]) -> Any:
        import submitit

        executor: Any
        try:
            if self._is_local:
                executor = submitit.LocalExecutor(self._folder, max_num_timeout=TIMEOUTS)
                gpus = int(settings.get("gpus_per_node", 0))
                executor.update_parameters(timeout_min=settings["time"], gpus_per_node=gpus)
            else:
                executor = submitit.SlurmExecutor(self._folder, max_num_timeout=TIMEOUTS)
                executor.update_parameters(**settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"The options slurm.*= are not taken: {str(error).splitlines()[0][:300]}.") from error
        return executor

    def __enter__(self) -> SlurmCluster:
        self._lock.acquire(timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()
        self._lock.release()
        if not self._is_broken:
            for folder in (self._folder, *self._taken):
                shutil.rmtree(folder, ignore_errors=True)

    def submit(self, tasks: Sequence[tuple[int, Task]]) -> None:
        """Submit tasks as one array, except for those that a job of a killed driver runs."""
        new = [(number, task) for number, task in tasks if not self._take_over(number, task)]
        if not new:
            return
        works = [Work(replace(task, mark=self._mark), self._folder / f"{number}.messages") for number, task in new]
        with self._executor.batch():
            jobs = [self._executor.submit(work) for work in works]
        for (number, task), work, job in zip(new, works, jobs, strict=True):
            self._running[number] = _Job(job, work.messages, frozenset(cell.hash for cell in task.cells))
        self._note()

    def _note(self) -> None:
        """Write down which job runs which cells, for the driver that follows if this one is killed."""
        jobs = [
            {"job": job.job.job_id, "messages": str(job.messages), "cells": sorted(job.cells)}
            for job in self._running.values()
        ]
        write_atomically(self._folder / JOBS, to_json(jobs), hint="work_dir=")

    def _take_over(self, number: int, task: Task) -> bool:
        """Follow a job that a killed driver has submitted for the cells of a task, if there is one."""
        import submitit

        cells = frozenset(cell.hash for cell in task.cells)
        left = next((left for left in self._left if cells <= left.cells), None)
        if left is None:
            return False
        self._left.remove(left)  # one that is lost is submitted anew
        self._taken.add(left.folder)
        kind = submitit.LocalJob if self._is_local else submitit.SlurmJob
        self._running[number] = _Job(kind(left.folder, left.job_id), left.messages, cells)
        return True

    def poll(self) -> list[tuple[int, Told]]:
        """What jobs told since the last call; waits for a moment."""
        time.sleep(MOMENT[self._is_local])
        out: list[tuple[int, Told]] = []
        for number, job in list(self._running.items()):
            told = job.told()
            if not any(isinstance(part, Ended) for part in told) and (end := self._end_of(job)):
                told += [*job.told(), end]  # what it wrote before it ended
            first = next((place for place, part in enumerate(told) if not isinstance(part, bytes)), None)
            if first is not None:
                told = told[: first + 1]
                self._is_broken |= isinstance(told[-1], Broken)
                del self._running[number]
            out += [(number, part) for part in told]
        return out

    def _end_of(self, job: _Job) -> Told | None:
        """How a job ended that has not said so; None while it runs or waits."""
        if monotonic() - job.looked < LOOK[self._is_local]:
            return None
        job.looked = monotonic()
        if not self._is_over(job):
            return None
        error = job.job.exception()
        if error is None or type(error).__name__ == "UncompletedJobError":
            return Lost(f"its job {job.job.job_id} ended early ({job.job.state})")
        lines = str(error).strip().splitlines()
        return Broken(
            f"Its job {job.job.job_id} failed: {lines[-1][:300] if lines else error!r}. Its logs are in {self._folder}."
        )

    def _is_over(self, job: _Job) -> bool:
        if self._is_local and job.job._process is None:  # of a killed driver: its number is that of its process
            return not Path(f"/proc/{job.job.job_id}").exists()
        return bool(job.job.done())

    def cancel(self) -> None:
        """Cancel all jobs, and wait for those on this machine."""
        for job in self._running.values():
            with contextlib.suppress(Exception):  # it may be over
                job.job.cancel(check=False)
        for job in self._running.values() if self._is_local else ():
            if job.job._process is not None:
                with contextlib.suppress(Exception):
                    job.job._process.wait(timeout=30)
        self._running.clear()
