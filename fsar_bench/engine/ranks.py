"""The ranks of a training, each in a process of its own: started, listened to, and ended together."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import sleep

import torch

from fsar_bench import errors, processes
from fsar_bench.config.cell import LOG, Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.bank import BankPlace, encode_into_store
from fsar_bench.engine.checkpoint import load_best
from fsar_bench.engine.device import check_devices, choose_device, device_of_rank
from fsar_bench.engine.episodes import encode_class_text
from fsar_bench.engine.exchange import Exchange, join, leave
from fsar_bench.engine.hooks import BEST
from fsar_bench.engine.jobs import PRELOAD, start_method, threads_of_rank, use_threads
from fsar_bench.engine.runner import EpisodicRunner
from fsar_bench.engine.state import Finished
from fsar_bench.engine.sweep import Failed, print_to, unwritten
from fsar_bench.engine.training import train_by
from fsar_bench.errors import CellCrashedError, FsarBenchError
from fsar_bench.io import naming_disks
from fsar_bench.progress.events import WARNING, Event, counter, listening, relay, report
from fsar_bench.registry import import_components
from fsar_bench.writing.streams import open_log
from fsar_bench.writing.temporary import temporary_folder

GRACE = 5.0  # seconds that a rank with an error leaves for the death of another one, which may be its cause, to be seen


@dataclass(frozen=True)
class Job:
    """What the ranks of a training do.

    Attributes:
        cell: whose training it is.
        options: of the run; `devices` is the number of ranks.
        folder: of the training, with its config file.
        key: of the training.
        text: of the config file.
        place: where encoded test clips are stored when the training is done.
        device: of rank 0.
    """

    cell: Cell
    options: RunOptions
    folder: Path
    key: str
    text: str
    place: BankPlace
    device: torch.device

    def log(self, rank: int) -> Path:
        """Where a rank's output goes: that of rank 0 to the log of the cell."""
        log = self.options.work_dir / self.cell.work_folder / LOG
        return log.with_suffix(f".rank{rank}{log.suffix}") if rank else log


def train_on_ranks(job: Job) -> Finished:
    """Train on several ranks; what rank 0 reports is reported here.

    Raises:
        FsarBenchError: what a rank raised.
        ConfigError: there are fewer GPUs than ranks.
        CellCrashedError: a rank died; the others were ended.
    """
    size = job.options.devices
    check_devices(str(job.device), size)
    finished: list[Finished] = []

    def hear(rank: int, message: Event | Failed | Finished) -> None:
        if isinstance(message, Event):
            relay(message, lambda event: report(event.stage, event.done, event.total, event.note))
        elif isinstance(message, Failed):
            raise getattr(errors, message.kind)(f"{message.message}{f' (rank {rank})' if rank else ''}")
        else:
            finished.append(message)

    threads = threads_of_rank(job.options)
    with _meeting() as meeting:
        ranks = [(job, rank, threads, meeting) for rank in range(size)]
        codes = processes.converse_with_all(_body, ranks, hear, preload=PRELOAD, method=start_method(str(job.device)))
    for rank, code in codes.items():
        if code != 0:
            raise CellCrashedError(
                f"Rank {rank} of the {size} ranks of the training ended early ({processes.ending(code)}). The others were ended "
                f"too. Its log is {job.log(rank)}. Run the same command again to resume."
            )
    return finished[0]


@contextlib.contextmanager
def _meeting() -> Iterator[Path]:
    folder = temporary_folder()
    try:
        yield folder / "meeting"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _body(job: Job, rank: int, threads: int | None, meeting: Path, connection: Connection) -> None:
    """What the process of a rank runs; rank 0 reports, the others warn alone."""
    lock = threading.Lock()

    def send(message: Event | Failed | Finished) -> None:
        with lock:
            connection.send(message)

    def listen(event: Event) -> None:
        processes.wait_for_owner()  # a run that Ctrl-Z stopped: the other ranks wait for this one
        if rank == 0 or event.stage == WARNING:
            send(event)

    log = job.log(rank)
    try:
        print_to(open_log(log, lambda error: send(unwritten(log, error))))
        with listening(listen), naming_disks(work_dir=job.options.work_dir):
            if threads is not None:
                use_threads(threads)
            finished = _train(job, rank, meeting)
        if rank == 0:
            send(finished)
    except FsarBenchError as error:
        traceback.print_exc()
        send(Failed(type(error).__name__, str(error)))
    except Exception as error:
        traceback.print_exc()
        sleep(GRACE)
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        send(Failed(CellCrashedError.__name__, f"Unexpected error: {reason}. Full traceback: {log}"))


def _train(job: Job, rank: int, meeting: Path) -> Finished:
    """Train, then encode test clips.

    MMEngine would let processes of its launchers compute with one thread, and start them on GPUs alone: here the ranks are
    there before its runner, which takes them as they are.
    """
    import_components(job.cell.identity.custom_imports, job.cell.setup.module_folders)
    device = device_of_rank(choose_device(str(job.device)), rank)
    _stay_on_this_machine()
    join(rank, job.options.devices, meeting, device)
    finished = train_by(job.folder, job.text, {"device": str(device)}, partial(_encode_test, job))
    leave()
    return finished


def _encode_test(job: Job, runner: EpisodicRunner, finished: Finished) -> None:
    """Encode this rank's share of the test clips with the best checkpoint."""
    model, test = runner.model, runner.test_loop.episodes
    load_best(job.folder / BEST, model, made_from=job.key, sha=finished.best)
    encode_into_store(
        model,
        test.split,
        test.plan.used_clips,
        encode_class_text(model.backbone, test.split, test.template, test.class_texts),
        test.source,
        frames_as=job.cell.protocol.frames_as,
        store=job.place.store(finished.best),
        exchange=Exchange(),
        progress=counter("encoding"),
    )


def _stay_on_this_machine() -> None:
    """Let the ranks talk over the loopback interface, unless the user has named another one."""
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
