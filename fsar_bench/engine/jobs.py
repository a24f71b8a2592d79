"""Jobs: how many cells run at a time on this machine, on which device and with how many threads. Imports no torch here.

The cells themselves run in processes of their own (`sweep.py`), each of which a thread of the owner listens to.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

from fsar_bench import processes
from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.host import cores, free_host_memory
from fsar_bench.engine.state import is_stored
from fsar_bench.errors import ConfigError
from fsar_bench.io import digest

PRELOAD = ("fsar_bench.engine.run", "fsar_bench.methods", "fsar_bench.data.readers")
MEMORY = 4e9  # bytes of a cell on the CPU: a training of ViT-B/16 fits, and one of the built-in backbone needs less than half
DEVICE_FILES = Path("/dev")
# of CUDA, of CUDA on boards, of ROCm, and of the Linux of Windows
GPUS = ("nvidia*", "nvhost*", "nvgpu*", "kfd", "dxg")
PATIENCE = 10.0  # seconds that a thread has to end after its process was killed
T = TypeVar("T")


def job_options(options: RunOptions, cells: int) -> list[RunOptions]:
    """The options of each job: `jobs` is their number, and on a machine with GPUs `device` is the job's own.

    Args:
        options: of the run.
        cells: number of cells; more jobs than these are not made.

    Raises:
        ConfigError: there are fewer GPUs than all ranks of all jobs take.
    """
    if options.jobs == 1 or cells <= 1 or options.launcher != "local":  # a cluster has its own number
        return [options.model_copy(update={"jobs": 1})]
    gpus = count_gpus() if options.device in ("auto", "cuda") else 0
    count = max(1, min(cells, _automatic(options, gpus) if options.jobs == "auto" else options.jobs))
    if count == 1:
        return [options.model_copy(update={"jobs": 1})]
    _check_gpus(options, count, gpus)
    devices = [f"cuda:{number * options.devices % gpus}" if gpus else options.device for number in range(count)]
    shared = {"jobs": count, "bank_budget": share_of_memory(options, 1 if gpus else count)}
    return [options.model_copy(update={**shared, "device": device}) for device in devices]


def share_of_memory(options: RunOptions, jobs: int) -> str:
    """The memory for encoded clips of each of several cells on the CPU, which would each count on all that is free."""
    if options.bank_budget != "auto" or jobs == 1:
        return options.bank_budget
    return f"{max(1000, int(free_host_memory() / 2e6 / jobs))}MB"


def settled(options: RunOptions, cells: Sequence[Cell]) -> RunOptions:
    """The options of a run with the number of its jobs; the machine is not asked where every cell is stored already."""
    has_work = options.overwrite or not all(is_stored(cell, options) for cell in cells)
    return options.model_copy(update={"jobs": len(job_options(options, len(cells))) if has_work else 1})


def _automatic(options: RunOptions, gpus: int) -> int:
    """How many jobs `auto` stands for."""
    if options.device.startswith("cuda") or gpus:
        return max(1, gpus // options.devices)  # a device that is named is one
    fits = min(cores(), int(free_host_memory() // MEMORY))
    return fits // options.devices  # of one thread each, as threads of one cell would wait for each other


def _check_gpus(options: RunOptions, jobs: int, gpus: int) -> None:
    """The ranks of several jobs have a GPU each."""
    on_gpus = gpus > 0 or options.device.startswith("cuda")
    if options.devices > 1 and on_gpus and jobs * options.devices > gpus:
        there = f"{gpus} that are here" if gpus else f"one that device={options.device} names"
        raise ConfigError(
            f"jobs={jobs} times devices={options.devices} is more than the GPUs: the {there}. Lower either, or let jobs=auto "
            "choose with device=auto."
        )


@cache
def count_gpus() -> int:
    """GPUs that torch sees, told by a child: this process imports no torch, and CUDA that is in use could not be forked.

    Where Linux has no device of a GPU, there is none to be told of.
    """
    if sys.platform == "linux" and not any(any(DEVICE_FILES.glob(name)) for name in GPUS):
        return 0
    answers: list[int] = []
    # a plan starts no cells: it imports no more than torch
    preload = PRELOAD if processes.is_warm(PRELOAD) else ("torch",)
    processes.converse(_tell_gpus, (), answers.append, preload=preload)
    return answers[-1] if answers else 0


def _tell_gpus(connection: Connection) -> None:
    processes.silence()

    import torch

    connection.send(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def start_method(device: str) -> processes.Method | None:
    """How processes that may use a GPU are started; None takes the platform's fastest.

    A process that is forked cannot use a GPU where what was imported before has asked its runtime for GPUs, as happens where
    torch has no other way to count them.

    Args:
        device: auto, cpu, cuda or cuda:N.
    """
    uses_gpu = device.startswith("cuda") or (device == "auto" and count_gpus() > 0)
    return "spawn" if uses_gpu and not _forks_use_gpus() else None


@cache
def _forks_use_gpus() -> bool:
    answers: list[bool] = []
    processes.converse(_tell_use, (), answers.append, preload=PRELOAD)
    return answers == [True]


def _tell_use(connection: Connection) -> None:
    processes.silence()

    import torch

    connection.send(not torch.cuda._is_in_bad_fork())


def share_cores(jobs: int) -> None:
    """Give this process its share of the cores, unless the user has set the number of threads (OMP_NUM_THREADS).

    Threads of several processes that wait for each other on the same cores make trainings many times slower.
    """
    global _chosen
    if jobs == 1 or os.environ.get("OMP_NUM_THREADS"):
        return
    _chosen = max(1, cores() // jobs)
    use_threads(_chosen)


_chosen = 0  # threads that `share_cores` gave this process, whose number the user has not set


def threads_of_rank(options: RunOptions) -> int | None:
    """Threads of each rank of a training that this process starts; None where the user has set their number."""
    if os.environ.get("OMP_NUM_THREADS") and not _chosen:
        return None
    jobs = options.jobs if isinstance(options.jobs, int) else 1
    return max(1, cores() // (jobs * options.devices))


def use_threads(threads: int) -> None:
    """Let this process, and what it starts, use a number of threads."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)  # the libraries were loaded before: they do not read the variable again


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order in which several jobs take them: trainings by their number of clips, then the others as they are.

    A long training that begins last would run alone in the end.
    """

    def trained_clips(cell: Cell) -> int:
        train, p = cell.identity.train, cell.protocol
        if train is None or cell.setup.checkpoint:
            return 0
        return train.episodes * (train.way or p.way) * ((train.shot or p.shot) + train.query_per_class)

    return sorted(cells, key=trained_clips, reverse=True)


def next_cell(waiting: Sequence[Cell], running: Sequence[Cell]) -> int:
    """Which of the waiting cells begins: the first that shares nothing with those that run, or else the first.

    A cell that shares its training with one that runs would wait for the lock of that training, and one that shares encoded
    clips for theirs: others go first.
    """
    busy = {shared_work(cell) for cell in running}
    return next((number for number, cell in enumerate(waiting) if shared_work(cell) not in busy), 0)


def shared_work(cell: Cell) -> str:
    """Hash of what cells have in common that may share a training, or else the features of a frozen backbone.

    Which arguments of a method change the score alone, so that cells share a training, is known when the method is built.
    """
    identity = cell.identity
    data = (identity.train_dataset or identity.dataset).model_dump(mode="json")
    if identity.train is None or cell.setup.checkpoint:
        return digest([identity.backbone, data, identity.protocol.frames])
    train = identity.train.model_dump(mode="json")
    return digest([identity.backbone, data, identity.name, train, identity.training_seed])


class Crew(Generic[T]):
    """Threads that wait for processes. A context manager: at its end, what still runs is killed."""

    def __init__(self) -> None:
        self._ends: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()
        self._brake = processes.Brake()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._brake.pull()
        for thread in self._threads:
            thread.join(PATIENCE)

    def start(self, key: int, function: Callable[[], T]) -> None:
        """Call a function in a thread of its own."""

        def body() -> None:
            try:
                with processes.braked_by(self._brake):
                    self._ends.put((key, function(), None))
            except BaseException as error:  # raised in the owner's thread, by `wait`
                self._ends.put((key, None, error))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=body, name=f"job {key}", daemon=True))
        self._threads[-1].start()

    def wait(self) -> tuple[int, T]:
        """The key and the result of the function that ends next; raises what a function raised."""
        key, result, error = self._ends.get()
        if error is not None:
            raise error
        return key, result  # type: ignore[return-value]  # without an error it is the function's
