"""Jobs: how many cells run at a time on this machine, on which device and with how many threads. Imports no torch here.

The cells themselves run in processes of their own (`sweep.py`), each of which a thread of the owner listens to.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

from fsar_bench import processes
from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.host import cores, free_host_memory
from fsar_bench.io import digest

PRELOAD = ("fsar_bench.engine.run", "fsar_bench.methods", "fsar_bench.data.readers")
MEMORY = 4e9  # bytes of a cell on the CPU: a training of ViT-B/16 fits, and one of the built-in backbone needs less than half
PATIENCE = 10.0  # seconds that a thread has to end after its process was killed
T = TypeVar("T")


def job_options(options: RunOptions, cells: int) -> list[RunOptions]:
    """The options of each job: `jobs` is their number, and on a machine with GPUs `device` is the job's own.

    Args:
        options: of the run.
        cells: number of cells; more jobs than these are not made.
    """
    if options.jobs == 1 or cells <= 1:  # with another launcher too: its cluster has its own number
        return [options.model_copy(update={"jobs": 1})]
    gpus = count_gpus() if options.device in ("auto", "cuda") else 0
    count = max(1, min(cells, _automatic(options.device, gpus) if options.jobs == "auto" else options.jobs))
    if count == 1:
        return [options.model_copy(update={"jobs": 1})]
    devices = [f"cuda:{number % gpus}" if gpus else options.device for number in range(count)]
    shared = {"jobs": count, "bank_budget": share_of_memory(options, 1 if gpus else count)}
    return [options.model_copy(update={**shared, "device": device}) for device in devices]


def share_of_memory(options: RunOptions, jobs: int) -> str:
    """The memory for encoded clips of each of several cells on the CPU, which would each count on all that is free."""
    if options.bank_budget != "auto" or jobs == 1:
        return options.bank_budget
    return f"{max(1000, int(free_host_memory() / 2e6 / jobs))}MB"


def settled(options: RunOptions, cells: int) -> RunOptions:
    """The options of a run with the number of its jobs; arguments as for `job_options`."""
    return options.model_copy(update={"jobs": len(job_options(options, cells))})


def _automatic(device: str, gpus: int) -> int:
    """How many jobs `auto` stands for."""
    if device.startswith("cuda") or gpus:
        return max(1, gpus)  # a device that is named is one
    return min(cores() // 2, int(free_host_memory() // MEMORY))


@cache
def count_gpus() -> int:
    """GPUs that torch sees, told by a child: this process imports no torch, and CUDA that is in use could not be forked."""
    answers: list[int] = []
    processes.converse(_tell_gpus, (), answers.append, preload=PRELOAD)
    return answers[-1] if answers else 0


def _tell_gpus(connection: Connection) -> None:
    processes.silence()

    import torch

    connection.send(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def share_cores(jobs: int) -> None:
    """Give this process its share of the cores, unless the user has set the number of threads (OMP_NUM_THREADS).

    Threads of several processes that wait for each other on the same cores make trainings many times slower.
    """
    if jobs == 1 or os.environ.get("OMP_NUM_THREADS"):
        return
    import torch

    threads = max(1, cores() // jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of what this process starts
    torch.set_num_threads(threads)  # the libraries were loaded before: they do not read the variable again


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
