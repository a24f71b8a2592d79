"""Damaged files between two runs: the second gives the same bytes, or one clear error whose advice leads to the same bytes.

The trials run in this process, so that hundreds take minutes. What stands behind a damaged file is removed, so that it is used.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from campaign import ground

_TRAINING, _SCORES = "work/*/*-training-*", "work/*/*/scores-*"
_FEATURES = ("work/*/*-training-*/bank", "work/*/*/bank", "cache/features")
_RESULTS = "out/results"


@dataclass(frozen=True)
class Kind:
    """Files of a kind.

    Attributes:
        pattern: where they are in the folder of a run.
        removed: what stands behind them, and would be used instead.
        is_result: they belong to a stored result or its tables, and a run reads them without anything being removed.
    """

    pattern: str
    removed: tuple[str, ...] = ()
    is_result: bool = False


KINDS = {
    "frames": Kind("cache/frames/**/*.npy", (_RESULTS, _SCORES, *_FEATURES, _TRAINING)),
    "contents": Kind("cache/contents/*", (_RESULTS, _SCORES, *_FEATURES)),
    "features": Kind("work/*/*-training-*/bank/*.safetensors", (_RESULTS, _SCORES)),
    "shared features": Kind("cache/features/**/*.safetensors", (_RESULTS, _SCORES)),
    "scores": Kind("work/*/*/scores-*/*.npz", (_RESULTS,)),
    "best": Kind("work/*/*-training-*/best.safetensors", (_RESULTS, _SCORES, *_FEATURES)),
    "last": Kind("work/*/*-training-*/last.pt", (_RESULTS, _SCORES, *_FEATURES, "work/*/*-training-*/finished.json")),
    "finished": Kind("work/*/*-training-*/finished.json", (_RESULTS, _SCORES)),
    "config": Kind("work/*/*-training-*/config.py", (_RESULTS, _SCORES, "work/*/*-training-*/finished.json")),
    "curve": Kind("work/*/*-training-*/curve.csv", (_RESULTS, _SCORES)),
    "started": Kind("work/*/*/started.json", (_RESULTS,)),
    "places": Kind("work/*/*/places.json", (_RESULTS,)),
    "log": Kind("work/*/*/log.txt", (_RESULTS,)),
    "record": Kind("out/results/**/result.json", is_result=True),
    "predictions": Kind("out/results/**/predictions.npz", is_result=True),
    "cost": Kind("out/results/**/cost.json", is_result=True),
    "plan": Kind("out/plans/*", is_result=True),
    "tables": Kind("out/*.*", is_result=True),
    "statistics": Kind("cache/statistics/**/*.json", is_result=True),
}
Damage = Callable[[Path, random.Random], None]


def _turned(bits: int) -> Damage:
    def damage(path: Path, rng: random.Random) -> None:
        data = bytearray(path.read_bytes() or b"\0")
        for _ in range(bits):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)

    return damage


def _cut(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def _longer(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 200)))


def _hole(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    at = rng.randrange(len(data) + 1)
    path.write_bytes(data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :])


def _content(data: bytes) -> Damage:
    return lambda path, rng: path.write_bytes(data) and None


def _of_another(path: Path, rng: random.Random) -> None:
    """The content of another file of its folder, or none where it is alone."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
    path.write_bytes(rng.choice(others).read_bytes() if others else b"")


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


DAMAGES: dict[str, Damage] = {
    "one bit turned": _turned(1),
    "50 bits turned": _turned(50),
    "cut": _cut,
    "longer": _longer,
    "512 bytes of zeros": _hole,
    "empty": _content(b""),
    "zeros": lambda path, rng: path.write_bytes(bytes(path.stat().st_size)) and None,
    "noise": lambda path, rng: path.write_bytes(rng.randbytes(path.stat().st_size)) and None,
    "another file": _of_another,
    "null": _content(b"null"),
    "a list": _content(b"[]"),
    "an object": _content(b"{}"),
    "NaN": _content(b'{"train": NaN}'),
    "nested deep": _content(b"[" * 50_000),
    "not UTF-8": _content(b"\xff\xfe\x00x"),
    "a folder": _folder,
    "a link to nothing": _dangling,
}


class Trials:
    """Trials on copies of one finished run.

    Args:
        base: folder of the trials.
        dataset: config of the dataset.
        cell: name of the cell in `ground.CELLS`.
    """

    def __init__(self, base: Path, dataset: Path, cell: str) -> None:
        self.base, self.dataset, self.cell = base, dataset, cell
        self.saved = base / f"saved_{cell}"
        self.saved.mkdir(parents=True)
        if error := self._run(self.saved):
            raise RuntimeError(f"The undisturbed run of {cell} failed: {error}")
        self.truth = ground.repeats(self.saved)
        self.kinds = [name for name, kind in KINDS.items() if any(self.saved.glob(kind.pattern))]

    def trial(self, number: int, rng: random.Random, counts: ground.Counts, damage: str | None = None) -> None:
        """Damage some files of a kind in a copy, run, and judge.

        Args:
            number: of the trial; kinds take turns.
            rng: chooses the damage and the files.
            counts: is told what was done, and what is wrong.
            damage: name of the damage, to all files of the kind.
        """
        name = self.kinds[number % len(self.kinds)]
        base, kind = self.base / f"damage_{number}", KINDS[name]
        shutil.copytree(self.saved, base, symlinks=True)
        _remove(base, kind.removed)
        found = sorted(path for path in base.glob(kind.pattern) if path.is_file())
        chosen = found if damage else rng.sample(found, rng.choice((1, min(3, len(found)), len(found))))
        damage = damage or rng.choice(sorted(DAMAGES))
        for path in chosen:
            DAMAGES[damage](path, rng)
        counts.add("damaged files", len(chosen))
        counts.add(f"trials of damaged files: {name}")
        before = len(counts.faults)
        self._judge(base, f"{self.cell}, {name}: {damage} ({len(chosen)} files, trial {number})", counts)
        if len(counts.faults) == before:
            shutil.rmtree(base)

    def _judge(self, base: Path, what: str, counts: ground.Counts) -> None:
        error = self._run(base)
        if error:
            if any(word in error for word in ground.UNFORESEEN):
                counts.fault(f"{what}: {error}")
                return
            counts.add("clear errors about damaged files")
            _remove(base, ("out", "work"))  # what errors advise, in the strongest form
            if again := self._run(base):
                counts.fault(f"{what}: {error}; after its advice: {again}")
                return
        if changed := ground.differences(base, self.truth):
            counts.fault(f"{what}: {'after the advice of its error, ' if error else 'no word, '}other bytes: {changed}")
        if left := [path for path in ground.leftovers(base, ground.files(base)) if path]:
            counts.fault(f"{what}: left behind: {left}")

    def _run(self, base: Path) -> str:
        """Run the cell in this process and write the tables; returns the error, "" where there is none."""
        import fsar_bench
        from fsar_bench.errors import FsarBenchError

        settings = {**ground.SETTINGS, **ground.CELLS[self.cell], "dataset": self.dataset, "progress": False}
        methods = settings.pop("methods")
        with _inside(base):
            try:
                fsar_bench.run(methods, **settings)
            except FsarBenchError as error:
                return f"{type(error).__name__}: {error}"
            except Exception:
                return traceback.format_exc()
        return ""


def until_enough(base: Path, dataset: Path, least: int, seed: int, told: Connection) -> None:
    """Damage files of each cell until enough were damaged, in a process of its own; tells the counts and the faults."""
    counts, number = ground.Counts(), 0
    base.mkdir(parents=True)
    sys.stdout = sys.stderr = (base / "said.txt").open("a", encoding="utf-8")  # warnings of the runs
    of_cells = [Trials(base, dataset, cell) for cell in ground.CELLS]
    while counts.done.get("damaged files", 0) < least:
        trials = of_cells[number % len(of_cells)]
        trials.trial(number, random.Random(f"{seed} damage {number}"), counts)
        number += 1
    told.send((counts.done, counts.faults))


def _remove(base: Path, patterns: tuple[str, ...]) -> None:
    for path in [path for pattern in patterns for path in base.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextmanager
def _inside(base: Path) -> Iterator[None]:
    """Work in a folder, with its cache; what is printed goes to its log."""
    place, cache = Path.cwd(), os.environ.get("FSAR_BENCH_CACHE")
    os.chdir(base)
    os.environ["FSAR_BENCH_CACHE"] = str(base / "cache")
    try:
        yield
    finally:
        os.chdir(place)
        if cache is None:
            del os.environ["FSAR_BENCH_CACHE"]
        else:
            os.environ["FSAR_BENCH_CACHE"] = cache
