"""`launcher=ray`: every task is a Ray core task, whose messages come back as the objects of a stream.

`address=` names a running cluster; without one, a cluster of this machine is started for the run, and ends with it. Ray itself
retries nothing: what a task has told before its node was lost would be mixed with what it tells the second time. The driver
hands the rest of a lost task over again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.host import cores
from fsar_bench.engine.launchers.node import run_task
from fsar_bench.engine.launchers.window import Broken, Ended, Lost, Told
from fsar_bench.errors import ConfigError, shown, suggest
from fsar_bench.writing.temporary import short_folder

NAMES = ("num_cpus", "num_gpus", "memory")  # keys below ray.
CORES = 2  # of a cell where there are no GPUs: its decode processes need some too
MOMENT = 0.5  # seconds that a look at the running tasks waits
REACHED = 10.0  # seconds in which the head node of a cluster answers
QUEUED = 64  # tasks that a small cluster is given at least, so that one that grows by demand sees it
STORE = 100 * 2**20  # bytes of the object store of a cluster of this machine: it holds some results at a time
SIGNS = {  # environment of this process while it is connected, unless the user has set it
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
OF_OURS = {"RAY_AUTH_MODE": "disabled"}  # of a cluster of this machine: no token is written to the home folder
LONGEST = 107  # bytes of the path of a socket
BELOW = len(
    "/session_2026-11-27_12-59-25_824422_/sockets/plasma_store"
)  # of Ray's, below its folder, without a process number


def check(options: RunOptions) -> None:
    """Check the options of a run.

    Raises:
        ConfigError: one does not exist, or has a wrong value.
    """
    if options.address.startswith("ray://"):
        raise ConfigError(
            f"address={options.address} is that of a Ray client, which streams no progress: run the command on a machine of the "
            "cluster with address=auto, or name HOST:PORT of its head node."
        )
    for name, value in options.ray.items():
        if name not in NAMES:
            raise ConfigError(f"Unknown key 'ray.{name}'.{suggest(f'ray.{name}', [f'ray.{name}' for name in NAMES])}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"ray.{name}={shown(value)} must be a number of at least 0.")


@contextlib.contextmanager
def opened(options: RunOptions, function: Callable[[Any], Iterator[bytes]] = run_task) -> Iterator[RayCluster]:
    """Connect to the cluster of a run, or start one on this machine; at the end all tasks are cancelled.

    Args:
        options: of the run.
        function: what a task runs; its iterator yields what the task tells.

    Raises:
        ConfigError: no cluster answers, or it has no room for a cell.
    """
    with _connected(options):
        cluster = RayCluster(options, function)
        try:
            yield cluster
        finally:
            cluster.cancel()


@contextlib.contextmanager
def _connected(options: RunOptions) -> Iterator[None]:
    """A connection to a cluster; one that the caller has made is used and left open."""
    with _environment(SIGNS if options.address else SIGNS | OF_OURS):
        with _answering_as_before():
            import ray
        if ray.is_initialized():
            yield
            return
        with _folder() as folder:
            ours = {
                "num_cpus": cores(),
                "object_store_memory": STORE,
                "include_dashboard": False,
                "_temp_dir": str(folder),
            }
            arguments = {"address": options.address} if options.address else ours
            try:
                _check_reachable(options.address)
                with _answering_as_before():
                    ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            except (OSError, ValueError, RuntimeError) as error:
                where = f"answers at address={options.address}" if options.address else "can be started here"
                hint = " Start one with ray start --head, or leave address= out." if options.address else ""
                raise ConfigError(f"No Ray cluster {where} ({_first_line(error)}).{hint}") from error
            try:
                yield
            finally:
                ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `OSError` where nothing listens at HOST:PORT, which Ray itself would wait for without end."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()


@contextlib.contextmanager
def _answering_as_before() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it is imported and when it connects; the command answers that in order already."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for what a cluster of this machine writes, with a short name; it is deleted with the cluster."""
    folder: Path | None = None
    with contextlib.suppress(FileExistsError):
        folder = short_folder()
    try:
        if folder is not None and len(os.fsencode(folder)) + BELOW + len(str(os.getpid())) <= LONGEST:
            yield folder
        else:  # Ray's own default: below a long TMPDIR there is no room for the names of its sockets
            yield Path("/tmp/ray")
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the user has not set."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


class RayCluster:
    """A cluster that this process is connected to; see `window.Cluster`.

    Args:
        options: of the run.
        function: as in `opened`.

    Raises:
        ConfigError: no node has room for a cell.
    """

    batch = 1

    def __init__(self, options: RunOptions, function: Callable[[Any], Iterator[bytes]] = run_task) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = _needs(options, nodes)
        rooms = [_room(node, needs) for node in nodes]
        self.slots = sum(rooms)
        if not self.slots:
            raise ConfigError(_no_room(needs, nodes))
        self.window = max(QUEUED, 2 * self.slots)
        self.share = 1 if needs["num_gpus"] else max(rooms)
        resources: dict[str, Any] = {name: value for name, value in needs.items() if value}
        self._function = ray.remote(max_retries=0, num_returns="streaming", **resources)(function)
        self._running: dict[Any, int] = {}  # the number of each stream

    def submit(self, tasks: Sequence[tuple[int, Any]]) -> None:
        """Hand over tasks."""
        for number, task in tasks:
            self._running[self._function.remote(task)] = number

    def poll(self) -> list[tuple[int, Told]]:
        """What tasks told; waits for `MOMENT` where none has."""
        import ray

        streams = list(self._running)
        if not ray.wait(streams, num_returns=1, timeout=MOMENT)[0]:
            return []
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        return [(self._running[stream], self._next(stream)) for stream in ready]

    def _next(self, stream: Any) -> Told:
        """The next message of a stream that has one; a stream that ends is forgotten."""
        import ray

        try:
            return bytes(ray.get(next(stream)))
        except StopIteration:
            told: Told = Ended()
        except ray.exceptions.RayTaskError as error:
            told = Broken(f"The task broke on its node ({_first_line(error.cause)}).")
        except ray.exceptions.TaskUnschedulableError as error:
            told = Broken(f"The cluster cannot place the task ({_first_line(error)}).")
        except ray.exceptions.RayError as error:
            told = Lost(f"its node or process was lost ({type(error).__name__})")
        del self._running[stream]
        return told

    def cancel(self) -> None:
        """End all tasks, with the processes that they have started."""
        import ray

        for stream in self._running:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(stream, force=True)
        self._running.clear()


def _first_line(error: object) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"[:300]


def _needs(options: RunOptions, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a cell takes: a GPU for each rank and its share of the cores, or some cores where there are no GPUs."""
    with_gpus = [node for node in nodes if node.get("GPU")]
    gpus = options.devices if with_gpus and options.device in ("auto", "cuda") else 0
    gpus = options.ray.get("num_gpus", gpus)  # type: ignore[assignment]  # `check` knows it for a number
    if gpus:
        share = min((int(node.get("CPU", 1) * gpus // node["GPU"]) for node in with_gpus), default=1)
    else:
        share = min([CORES, *(int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1)])
    return {"num_cpus": max(1, share), "memory": 0, **options.ray, "num_gpus": gpus}  # type: ignore[dict-item]


def _room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many cells a node has room for."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    return min((int(node.get(names[name], 0) // need) for name, need in needs.items() if need), default=1)


def _no_room(needs: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    wanted = ", ".join(f"{name} {need:g}" for name, need in needs.items() if need)
    have = "; ".join(f"CPU {node.get('CPU', 0):g}, GPU {node.get('GPU', 0):g}" for node in nodes[:5])
    return (
        f"No node of the Ray cluster has room for a cell ({wanted}): the nodes have {have or 'nothing'}. Ask for less with "
        "ray.num_cpus= and ray.num_gpus=."
    )
