"""Write docs/tuning.md, what tuning chose for the built-in methods and what it took: `python -m tools.tuning_table [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tabulate import tabulate

from fsar_bench.config.files import DatasetConfig, MethodConfig, config_folder, load, names
from fsar_bench.config.search import spell
from fsar_bench.config.shipped import DATASETS
from fsar_bench.config.tuned import Tuning, find_tuning
from tools import SHORT_WORDS

PAGE = Path(__file__).parents[1] / "docs" / "tuning.md"
INTRO = f"""# What tuning chose

Written by `python -m tools.tuning_table` from `configs/tuned`; `make lint` fails where it is out of date.
`fsar-bench tune METHOD dataset=DATASET budget=N {SHORT_WORDS}`
repeats a row (SynthAct-Order's own training is longer than its trials, which are as long as those of the others), and
`fsar-bench tune --show METHOD dataset=DATASET` shows each of its trials with its val curve. How it works:
[docs/training.md](training.md).

*Untuned* and *tuned*: val accuracy, in percent, of the first trial, which has the untuned settings, and of the chosen one;
the best of several trials flatters, so that a gain on val is no measure of one on test (`fsar-bench run methods=METHOD
tuned=auto,none` tests both). *Kept*: the untuned settings were the best. *Untrained*: val accuracy of the tuned settings
before the first update; where it is that of the trial, training brought nothing. *Hours*: of one job, on the *device*; on a
GPU training takes mixed precision, as in every run there, and several trials share it.
"""


def trained_methods() -> list[str]:
    """Names of the built-in methods that are trained."""
    return [name for name in names("methods") if load("methods", name).checked(MethodConfig).train is not None]


def row(tuning: Tuning, title: str) -> list[str]:
    """A tuning as cells of the table."""
    first, best = tuning.trials[0], tuning.trials[tuning.chosen]
    values = ", ".join(f"`{key}={spell(value)}`" for key, value in sorted(best.values.items()))
    return [
        title,
        f"{tuning.budget.trials} × {tuning.budget.episodes}",
        "diverged" if first.accuracy is None else f"{first.accuracy:.2f}",
        f"{best.accuracy:.2f}",
        f"{best.curve[0][1]:.2f}",
        values if tuning.chosen else f"kept: {values}",
        f"{hours_of(tuning):.2f}",
        device_of(tuning),
    ]


def hours_of(tuning: Tuning) -> float:
    """Hours of one job that its trials took."""
    return sum(tuning.spent.seconds) / 3600


def device_of(tuning: Tuning) -> str:
    """The device of its trials in words."""
    return "CPU" if tuning.spent.device == "cpu" else tuning.spent.device


def hours_in_all(tunings: Iterable[Tuning]) -> str:
    """Hours of one job in all, by device."""
    hours: dict[str, float] = {}
    for tuning in tunings:
        hours[device_of(tuning)] = hours.get(device_of(tuning), 0) + hours_of(tuning)
    return " and ".join(f"{spent:.1f} on {device}" for device, spent in sorted(hours.items())) or "0"


def sections() -> Iterator[str]:
    """A section per built-in dataset."""
    for dataset in DATASETS:
        found = {name: find_tuning(config_folder("tuned"), dataset, name) for name in trained_methods()}
        tunings = {name: each[1] for name, each in found.items() if each}
        titles = {name: load("methods", name).checked(MethodConfig).title or name for name in found}
        yield f"\n## {load('datasets', dataset).checked(DatasetConfig).title}"
        yield f"{len(tunings)} of {len(found)} trained methods are tuned; hours of one job: {hours_in_all(tunings.values())}.\n"
        if tunings:
            head = ["method", "trials × episodes", "untuned", "tuned", "untrained", "settings", "hours", "device"]
            rows = [row(tuning, titles[name]) for name, tuning in tunings.items()]
            aligned = ["left", "left", "right", "right", "right", "left", "right", "left"]
            yield tabulate(rows, head, "pipe", colalign=aligned, disable_numparse=True) + "\n"
        missing = [titles[name] for name in found if name not in tunings]
        if missing:
            yield f"With the settings of their configs so far: {'; '.join(missing)}."


def main() -> int:
    """Write the page, or with --check compare it; returns the exit code."""
    text = INTRO + "\n".join(sections()) + "\n"
    if "--check" in sys.argv:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        if stale:
            print("error: docs/tuning.md is out of date; run python -m tools.tuning_table", file=sys.stderr)
        return int(stale)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
