"""What the trials of the campaign share: a tiny dataset, cells that go through every stage, runs, and what must repeat."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from helpers import annotation_rows, write_dataset

CELLS = {  # by name, settings of a cell that is trained, one whose score is chosen on val, and one that is only evaluated
    "trained": {"methods": "ma_clip", "method.ffn_width": 64, "method.predict_alpha": "val"},
    "chosen": {"methods": "tip_adapter", "method.weights": "val"},
    "evaluated": {"methods": "bi_mhm_frozen"},
}
SETTINGS = {
    "backbone": "tiny_clip", "way": 3, "episodes": 2500, "frames": 4, "controls": "false", "device": "cpu", "workers": 2,
    "checkpoint_seconds": 0, "out": "out", "work_dir": "work",
}  # fmt: skip
UNFORESEEN = ("Traceback", "not an error that fsar-bench foresees", "Unexpected error", "ended early")
_OF_A_RUN = re.compile(r"^work/.*/\d{8}_\d{6}(/|$)")  # MMEngine's log folder, named by the time
_MAY_DIFFER = re.compile(r"(^|/)(\.lock|log\.txt|log)$|^work/.*/scores-|^cache/")
_TEMPORARY = re.compile(r"\.(part|tmp|temp)(\W|$)|/\.probe|~$")


@dataclass
class Counts:
    """What the campaign has done, and what was wrong.

    Attributes:
        done: numbers by what they count, such as "kills".
        faults: a sentence for each difference, traceback, file or process that should not be there.
    """

    done: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, what: str, count: int = 1) -> None:
        """Count something."""
        self.done[what] = self.done.get(what, 0) + count

    def fault(self, text: str) -> None:
        """Note, and print, a fault."""
        self.faults.append(text)
        print(f"WRONG: {text}", flush=True)


def make_dataset(folder: Path) -> Path:
    """Config of a tiny dataset of shipped clips: 5 classes a split, 4 clips a class."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_dataset(folder / "tiny.py", annotation_rows(5, 4))


def pairs(dataset: Path, cell: str, **changes: object) -> list[str]:
    """A run of a cell as it is typed."""
    settings = {**SETTINGS, **CELLS[cell], "dataset": dataset, **changes}
    return ["run", *(f"{key}={value}" for key, value in settings.items())]


def start(base: Path, arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """`fsar-bench ARGUMENTS` in a folder, with a session and a cache of its own; what it says goes to its `log`."""
    (base / "tmp").mkdir(parents=True, exist_ok=True)
    places = {"FSAR_BENCH_CACHE": str(base / "cache"), "TMPDIR": str(base / "tmp")}
    with (base / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fsar_bench.cli.main", *arguments],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=base,
            env={**os.environ, **places, "OMP_NUM_THREADS": "1", **environment},
            start_new_session=True,
            preexec_fn=_hear_signals,
        )


def _hear_signals() -> None:
    """A shell lets its background jobs ignore some signals, and what they start inherits that."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(base: Path, arguments: list[str], **environment: str) -> int:
    """A run to its end; returns its exit code."""
    return start(base, arguments, **environment).wait(600)


def said(base: Path) -> str:
    """All that the runs of a folder have said."""
    return (base / "log").read_text(encoding="utf-8", errors="replace")


def last_words(base: Path) -> str:
    """The last error of a folder's runs, or their last line."""
    lines = [line for line in said(base).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error")), lines[-1] if lines else "nothing")[:300]


def repeats(base: Path) -> dict[str, bytes]:
    """Everything that must be the same bytes: results, predictions, plans and checkpoints."""
    patterns = (
        "out/results/**/result.json",
        "out/results/**/predictions.npz",
        "out/plans/*",
        "work/**/best.safetensors",
    )
    files = sorted(path for pattern in patterns for path in base.glob(pattern))
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def differences(base: Path, truth: dict[str, bytes]) -> list[str]:
    """Files that are missing or have other bytes than those of an undisturbed run."""
    now = repeats(base)
    return sorted(name for name in {*truth, *now} if truth.get(name) != now.get(name))


def files(base: Path) -> set[str]:
    """Every file of a run whose name does not depend on chance or time."""
    names = {str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir()}
    return {name for name in names if not _OF_A_RUN.match(name) and not _MAY_DIFFER.search(name)}


def leftovers(base: Path, known: set[str]) -> list[str]:
    """Temporary files, and files that an undisturbed run does not leave."""
    temporary = {str(p.relative_to(base)) for p in base.rglob("*") if _TEMPORARY.search(str(p.relative_to(base)))}
    return sorted(temporary | (files(base) - known))


def processes(session: int) -> dict[int, tuple[int, str]]:
    """Living processes of a session: parent and command by number."""
    out = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                state, parent, _, of_session = stat[stat.rindex(")") + 2 :].split()[:4]
                if int(of_session) == session and state != "Z":
                    out[int(entry.name)] = int(parent), (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):  # it has just ended
                continue
    return out


def until(happens: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; whether it became so in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if happens():
            return True
        time.sleep(0.02)
    return happens()


def end_all(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Kill what is left of a run; gives the commands that were still alive."""
    for number, (_, command) in processes(process.pid).items():
        yield command[-90:].strip()
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
