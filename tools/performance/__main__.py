"""Measure this machine and fsar-bench on it; `make benchmark` runs it. Takes a quarter of an hour on two quiet cores.

python -m tools.performance
python -m tools.performance --device cuda
python -m tools.performance --quick --page /tmp/performance.md     (every measurement once and small: a test of the tool)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from fsar_bench.engine.device import choose_device
from tools.performance.floors import Sizes
from tools.performance.growth import curves
from tools.performance.heads import Scene, timed_heads
from tools.performance.machine import Rates, described
from tools.performance.page import Measured, write
from tools.performance.starting import spread, start_ups

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
EPISODES = 10_000  # of the plan that heads are timed on


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.performance", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU; 1 is the steadiest")
    parser.add_argument("--quick", action="store_true", help="measure everything once, at small sizes")
    parser.add_argument("--page", type=Path, default=PAGE, help="where to write the page")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    write(measure(given.device, given.threads, quick=given.quick), given.page)
    print(given.page)


def measure(device: str, threads: int, *, quick: bool) -> Measured:
    """All measurements, one after the other."""
    where = choose_device(device)
    name = str(where)
    _tell("the machine")
    rates = Rates.measured(where, quick=quick)
    _tell("scoring")
    scene = Scene.of(Sizes(), 200 if quick else EPISODES, where, clips=10 if quick else 100)
    heads = list(timed_heads(scene, where, quick=quick))
    del scene
    _tell("growth")
    growths = list(curves(name, threads, quick=quick))
    _tell("commands")
    commands = list(start_ups(name, threads, quick=quick))
    _tell("jobs and ranks")
    jobs = list(spread(name, threads, quick=quick))
    command = "make benchmark" if where.type == "cpu" else f"make benchmark DEVICE={where}"
    return Measured(command, described(where), rates, heads, growths, commands, jobs, _left_out(where, jobs))


def _left_out(device: torch.device, jobs: list) -> list[str]:
    """What this page does not have, and why."""
    reasons = [f"`{key}=`: {one.reason}." for key, one, _ in jobs if one.reason]
    if device.type == "cpu":
        why = "there is none" if not torch.cuda.is_available() else "this page is that of the CPU"
        reasons.insert(0, f"A GPU: {why}. `make benchmark DEVICE=cuda` measures the same there.")
    return reasons or ["Everything was run."]


def _tell(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
