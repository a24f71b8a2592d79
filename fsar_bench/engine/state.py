"""What is stored of a cell, told without torch: finished, resumable, being worked on, or nothing.

What a training depends on is known once the method is built (`keys.py`). A cell that starts therefore writes the key of its
training into its work folder, from where this module knows the folder of the training.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import Frozen, RunOptions
from fsar_bench.engine.locks import is_locked
from fsar_bench.errors import ResultError
from fsar_bench.io import digest, read_text, read_whole, to_json, write_atomically, write_cached
from fsar_bench.results.store import RECORD, Stored, read
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import DamagedError, seal_json, unseal_json

STARTED = "started.json"  # in a cell's work folder
LAST, FINISHED, CURVE = "last.pt", "finished.json", "curve.csv"  # in a training's folder
OF_EVALUATION = ("split", "way", "shot", "query", "episodes")  # of the protocol: the training has its own

Kind = Literal["finished", "busy", "resumable", "new"]


@dataclass(frozen=True)
class State:
    """What is stored of a cell.

    Attributes:
        kind: "finished", "busy" (another run works on it), "resumable" or "new".
        trained: training episodes that were validated; None where nothing of a training is stored.
        is_trained: whether its training is finished.
        detail: what is stored, in words.
    """

    kind: Kind
    trained: int | None = None
    is_trained: bool = False
    detail: str = ""


def is_stored(cell: Cell, options: RunOptions) -> bool:
    """Whether a result of the cell is stored, which is not read here."""
    return (options.out / "results" / cell.folder / RECORD).exists()


def finished(cell: Cell, out: Path) -> Stored | None:
    """The stored result of a cell, if there is one.

    Raises:
        ResultError: it is damaged.
    """
    folder = out / "results" / cell.folder
    if not (folder / RECORD).exists():
        return None
    try:
        stored = read(folder)
    except ResultError as error:
        raise ResultError(f"{error} Or run with overwrite=true.") from error
    return stored if stored.result.config_hash == cell.hash else None


def shared_training(cell: Cell) -> str:
    """Hash of what cells have in common that surely share a training; empty where nothing is trained.

    Cells that differ in it may share one too: which arguments change the score alone is known when the method is built.
    """
    if cell.identity.train is None or cell.setup.checkpoint:
        return ""
    record = cell.identity.model_dump(mode="json")
    protocol = {key: value for key, value in record["protocol"].items() if key not in OF_EVALUATION}
    return digest({**record, "protocol": protocol})


class Finished(Frozen):
    """A training that is finished.

    Attributes:
        train: seconds that it took, those before a resume included.
        best: SHA-256 of its best checkpoint.
        curve: (training episodes, val accuracy) of each validation.
    """

    train: float = Field(ge=0, allow_inf_nan=False)
    best: str = Field(pattern="^[0-9a-f]{64}$")
    curve: list[tuple[int, float]] = Field(min_length=1, max_length=10**6)


def note_finished(folder: Path, key: str, finished: Finished) -> None:
    """Write down that a training is finished; where that cannot be written, warn once: it is found out again."""
    sealed = seal_json(finished.model_dump(), key)
    write_cached(folder / FINISHED, lambda file: file.write(sealed), sync=True)


def finished_training(folder: Path, key: str) -> Finished | None:
    """What was noted of a finished training.

    A note that is damaged is discarded: the state that is stored next to it tells the same, or the training starts again.

    Args:
        folder: of the training.
        key: of the training; another one is not meant.
    """
    return recall(
        folder / FINISHED,
        lambda path: Finished.model_validate_json(to_json(unseal_json(read_whole(path), key))),
        f"the note that the training is finished ({FINISHED})",
        again="It is made again from the state of the training",
    )


def note_start(cell: Cell, folder: Path, training: str | None) -> None:
    """Write down which training a cell has.

    Args:
        cell: it.
        folder: its work folder.
        training: key of its training; None where nothing is trained.
    """
    record = {"cell": cell.hash, "shared_training": shared_training(cell), "training": training}
    write_atomically(folder / STARTED, seal_json(record, folder.name))


def training_folder(cell: Cell, work_dir: Path) -> Path | None:
    """Folder of the cell's training, if this cell or one that surely shares the training was started in `work_dir`."""
    shared = shared_training(cell)
    if not shared:
        return None
    own = work_dir / cell.work_folder / STARTED
    others = sorted((work_dir / cell.work_folder).parent.glob(f"{cell.name}-*/{STARTED}"))
    for path in (own, *others):
        record = _started(path)
        if record.get("training") and shared == record.get("shared_training"):
            return work_dir / cell.training_folder(str(record["training"]))
    return None


def _started(path: Path) -> dict[str, object]:
    try:
        state = path.stat()
        return _read_started(path, (state.st_ino, state.st_mtime_ns, state.st_size))
    except (OSError, DamagedError):  # it is written again when the cell starts
        return {}


@lru_cache(maxsize=10_000)
def _read_started(path: Path, version: tuple[int, int, int]) -> dict[str, object]:
    """What `note_start` wrote; a sweep asks for the same files once for each of its cells."""
    return unseal_json(read_whole(path), path.parent.name)


def state_of(cell: Cell, options: RunOptions) -> State:
    """What is stored of a cell in the folders of a run; writes nothing.

    Raises:
        ResultError: its result is damaged.
    """
    if not options.overwrite and finished(cell, options.out):
        return State("finished")
    folder = options.work_dir / cell.work_folder
    training = training_folder(cell, options.work_dir)
    is_trained = training is not None and (training / FINISHED).exists()
    trained = _validated(training) if training and (training / LAST).exists() else None
    if is_locked(folder):
        return State("busy", trained, is_trained, "another run is working on it")
    scored = not options.overwrite and any(folder.glob("scores-*/scores_*.npz"))
    banks = [] if options.overwrite else [folder / "bank"]
    banks += [training / "bank"] if training else []
    encoded = any(any(bank.glob("*.safetensors")) for bank in banks)
    if scored:
        return State("resumable", trained, is_trained, "partly scored")
    if is_trained:
        return State("resumable", trained, True, "trained")
    if trained is not None:
        total = cell.identity.train.episodes if cell.identity.train else 0
        return State("resumable", trained, False, f"trained {trained}/{total}")
    return State("resumable", None, False, "partly encoded") if encoded else State("new")


def _validated(training: Path) -> int:
    """Training episodes before the last validation of a training; 0 where none is known."""
    try:
        return max(int(row["episodes"]) for row in csv.DictReader(io.StringIO(read_text(training / CURVE))))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return 0
