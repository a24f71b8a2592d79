"""What the scheduler of `launcher=ray` costs: cells that only sleep, through the same window, tasks and streams as real ones.

    python -m tools.simulate_cluster --cells 10000

A local cluster is started for each number of workers. Every task tells one event and a result of a typical size. `overhead` is
what a cell takes of a worker beyond its sleep; `busy` is the share of the workers' time that is sleep; where cells per second no
longer grow with the workers, the driver or the machine's cores are the limit, not the workers.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

RESULT = 20_000  # bytes that a cell of 10,000 episodes sends, about
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def sleep(task: tuple[float, int]) -> Iterator[bytes]:
    """A cell: an event, a sleep of some seconds, and a result of some bytes."""
    seconds, size = task
    yield b"event"
    time.sleep(seconds)
    yield b"x" * size


@dataclass(frozen=True)
class Measured:
    """One simulation.

    Attributes:
        workers: tasks that run at a time.
        cells: how many ran.
        sleep: seconds of each.
        wall: seconds of all.
        cpu: processor seconds of the driver.
        in_flight: most tasks that were with the cluster at a time.
        memory: MB by which the driver's peak memory grew.
    """

    workers: int
    cells: int
    sleep: float
    wall: float
    cpu: float
    in_flight: int
    memory: float

    def row(self) -> str:
        """One line of the table."""
        per_second = self.cells / self.wall
        overhead = 1000 * (self.wall * self.workers / self.cells - self.sleep)
        busy = 100 * self.cells * self.sleep / (self.wall * self.workers)
        driver = 1000 * self.cpu / self.cells
        return (
            f"{self.workers:>7} {self.cells:>7,} {1000 * self.sleep:>8g} {self.wall:>8.1f} {per_second:>8.0f} {overhead:>11.2f} "
            f"{busy:>5.0f} % {driver:>10.2f} {self.in_flight:>9} {self.memory:>10.0f}"
        )


HEADER = "workers   cells sleep ms   wall s  cells/s overhead ms    busy  driver ms in flight driver +MB"


def simulate(workers: int, cells: int, seconds: float) -> Measured:
    """Run sleeping cells on the cluster that this process is connected to."""
    from fsar_bench.config.settings import RunOptions
    from fsar_bench.engine.launchers.ray import opened
    from fsar_bench.engine.launchers.window import Ended, Window

    with opened(RunOptions(launcher="ray", device="cpu", ray={"num_cpus": 1}), sleep) as cluster:
        assert cluster.slots == workers
        for _ in Window(cluster, [(0.0, 1)] * 2 * workers):  # processes start and import
            pass
        memory, cpu, began = _peak(), time.process_time(), time.perf_counter()
        given = ended = in_flight = results = 0

        def tasks() -> Iterator[tuple[float, int]]:
            nonlocal given, in_flight
            for _ in range(cells):
                given += 1
                in_flight = max(in_flight, given - ended)
                yield seconds, RESULT

        for _, told in Window(cluster, tasks()):
            ended += isinstance(told, Ended)
            results += isinstance(told, bytes) and len(told) == RESULT
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert (ended, results) == (cells, cells)
    return Measured(workers, cells, seconds, wall, cpu, in_flight, _peak() - memory)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="cells of every simulation")
    parser.add_argument("--workers", default="1,2,4,8,16", help="numbers of workers")
    parser.add_argument("--sleep", default="0,10,100", help="milliseconds of a cell")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="longest simulation: it has fewer cells where it would take more"
    )
    arguments = parser.parse_args()
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    import ray

    print(f"{os.cpu_count()} cores, Ray {ray.__version__}, load {os.getloadavg()[0]:.1f}\n{HEADER}", flush=True)
    for workers in map(int, arguments.workers.split(",")):
        folder = tempfile.mkdtemp(prefix="ray")
        ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder
        )
        try:
            for milliseconds in map(float, arguments.sleep.split(",")):
                seconds = milliseconds / 1000
                most = int(arguments.seconds * workers / seconds) if seconds else arguments.cells
                print(simulate(workers, min(arguments.cells, max(1, most)), seconds).row(), flush=True)
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
