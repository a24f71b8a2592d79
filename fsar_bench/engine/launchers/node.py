"""What a node does: it runs the cells of a task one after the other, each in a process of its own, and tells the driver.

A node needs the same fsar-bench and the data of the cells. Custom modules come with the task. The node works in the driver's
`work_dir` where it sees that folder, so that an interrupted training resumes on another node, and else in a folder of its own,
which it deletes.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

from fsar_bench import __version__, processes
from fsar_bench.config.cell import LOG, Cell
from fsar_bench.config.inputs import Modules, annotation_digests, installed_modules, weight_digests
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.jobs import Crew, share_of_memory
from fsar_bench.engine.launchers.messages import Failure, Message, Parcel, Told, encode, pack
from fsar_bench.engine.sweep import run_isolated
from fsar_bench.errors import CellCrashedError, DataError, FsarBenchError, ProcessError
from fsar_bench.io import file_digest, module_files, read_whole, replacing_all
from fsar_bench.progress.events import POSTPONED, VALIDATED, WARNING, Event
from fsar_bench.writing.temporary import sweep_temporary_folders, temporary_folder

TELLING = 1.0  # seconds between two events of a stage
LOG_END = 2**18  # bytes of a log that are sent
ENVIRONMENT = ("FSAR_BENCH_DATA", "FSAR_BENCH_CACHE")  # of the driver, where a node has no such variable itself

Files = dict[str, bytes]


@dataclass(frozen=True)
class Task:
    """Cells that one node runs.

    Attributes:
        cells: one after the other.
        options: of the driver; its folders are absolute.
        modules: source files of the cells' custom modules, one dictionary for each of their folders.
        environment: variables that a node takes over if it has none of these names.
        version: of the driver's fsar-bench.
        mark: a file that the driver has written to `work_dir`, and what it holds: who reads the same sees the same folder.
        share: tasks that run at a time on one node.
        attempt: how often the task was handed over.
    """

    cells: tuple[Cell, ...]
    options: RunOptions
    modules: tuple[Files, ...]
    environment: dict[str, str]
    version: str
    mark: tuple[Path, bytes]
    share: int = 1
    attempt: int = 1

    @classmethod
    def of(cls, cells: list[Cell], options: RunOptions, mark: tuple[Path, bytes], share: int) -> Task:
        """A task of cells that have the same custom modules."""
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        return cls(tuple(cells), options, _modules_of(cells[0]), environment, __version__, mark, share)


def _modules_of(cell: Cell) -> tuple[Files, ...]:
    """The source files that custom modules of a cell have in its module folders, by their places there."""
    folders = [Path(folder) for folder in cell.setup.module_folders]
    files = {file for name in cell.identity.custom_imports for file in module_files(name, cell.setup.module_folders)}
    return tuple(
        {str(file.relative_to(folder)): read_whole(file) for file in sorted(files) if file.is_relative_to(folder)}
        for folder in folders
    )


def run_task(task: Task) -> Iterator[bytes]:
    """Run a task; who leaves the iterator ends its processes.

    Yields:
        Messages, each encoded; one for each cell tells how it ended.
    """
    os.environ.update({name: value for name, value in task.environment.items() if name not in os.environ})
    sweep_temporary_folders()
    messages: SimpleQueue[Message | None] = SimpleQueue()
    scratch = temporary_folder()
    try:
        with Crew[None]() as crew:
            crew.start(0, partial(_run, task, scratch, messages))
            while (message := messages.get()) is not None:
                yield encode(message)
            crew.wait()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(task: Task, scratch: Path, messages: SimpleQueue[Message | None]) -> None:
    """The thread that runs the cells."""
    try:
        options = _options_here(task, scratch)
        folders = _unpack(task.modules, scratch / "modules")
        for cell in task.cells:
            placed = cell.with_setup(replace(cell.setup, module_folders=folders))
            messages.put(_answer(placed, task, options, messages.put))
    finally:
        messages.put(None)


def _options_here(task: Task, scratch: Path) -> RunOptions:
    """The options of the driver with folders of this node, and this task's part of its memory."""
    is_shared = _holds(*task.mark)
    folders = {"out": scratch / "out", "work_dir": task.options.work_dir if is_shared else scratch / "work"}
    budget = share_of_memory(task.options, task.share)
    return task.options.model_copy(update={**folders, "bank_budget": budget})


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_whole(path) == content
    except OSError:
        return False


def _unpack(modules: tuple[Files, ...], folder: Path) -> tuple[str, ...]:
    """Write the source files of custom modules; returns their folders."""
    with replacing_all(sync=False) as batch:
        for number, files in enumerate(modules):
            for place, code in files.items():
                batch.write(folder / str(number) / place, code)
    return tuple(str(folder / str(number)) for number in range(len(modules)))


def _answer(cell: Cell, task: Task, options: RunOptions, send: Callable[[Message], None]) -> Message:
    """Run a cell; its result, or its error in the driver's words for folders."""
    node = socket.gethostname()

    def log() -> bytes:
        return b"" if options.work_dir == task.options.work_dir else _end_of(options.work_dir / cell.work_folder / LOG)

    def failure(error: FsarBenchError) -> Failure:
        message = str(error).replace(str(options.work_dir), str(task.options.work_dir))
        return Failure(cell=cell.hash, node=node, log=log(), error=type(error).__name__, message=message)

    try:
        _check_version(task)
        check_inputs(cell)
        stored = run_isolated(cell, options, Throttle(lambda event: send(Told.of(cell, event))))
        return Parcel(cell=cell.hash, node=node, log=log(), files=pack(stored))
    except FsarBenchError as error:
        return failure(error)
    except processes.StoppedError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:300]
        return failure(CellCrashedError(f"Unexpected error: {reason}."))


def _end_of(log: Path) -> bytes:
    try:
        return read_whole(log)[-LOG_END:]
    except OSError:
        return b""


def _check_version(task: Task) -> None:
    if task.version != __version__:
        raise ProcessError(
            f"This node has fsar-bench {__version__}, the command {task.version}: install the same version on every node."
        )


def check_inputs(cell: Cell) -> None:
    """Check that the files that a cell depends on are here, with the content that they have where it was resolved.

    Raises:
        DataError: one is missing, or another one.
    """
    identity, setup = cell.identity, cell.setup
    weights = {**identity.backbone, "pretrained": setup.pretrained or identity.backbone.get("pretrained")}
    current = {
        **annotation_digests(cell.dataset),
        **(annotation_digests(cell.train_dataset, "train ") if identity.train_dataset else {}),
        **weight_digests(weights),
        **Modules(tuple(identity.custom_imports), setup.module_folders).digests(),
        **installed_modules(identity.method["type"], identity.backbone["type"]),
    }
    if setup.checkpoint and setup.checkpoint.is_file():
        current["checkpoint"] = file_digest(setup.checkpoint)
    for name, sha in identity.inputs.items():
        if current.get(name) != sha:
            what = "is another one" if name in current else "is missing"
            raise DataError(
                f"A file that the cell depends on {what} on this node: {name}. Nodes need the dataset "
                f"{identity.dataset.name}, weights, checkpoints and installed modules as they are where the command runs: keep "
                "them in folders that all machines share."
            )


class Throttle:
    """A listener that passes on the first and the last event of a stage, what is said once, and others now and then.

    Args:
        listener: is told.
    """

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self._listener = listener
        self._last, self._told = Event("", 0, 0), 0.0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        same = (event.stage, event.total) == (self._last.stage, self._last.total)
        ends = same and event.done == event.total != self._last.done
        is_due = monotonic() - self._told >= TELLING
        begins = event.stage != self._last.stage
        self._last = event
        if begins or ends or is_due or event.stage in (WARNING, VALIDATED, POSTPONED):
            self._told = monotonic()
            self._listener(event)
