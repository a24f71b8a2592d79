"""Where the files of a cell are on this machine: kept in its work folder, so that `explain` finds them again.

Places are paths of data, never of code; what is found there must have the content that the cell's identity tells.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import Frozen
from fsar_bench.io import read_whole, user_path, write_atomically
from fsar_bench.storage.sealed import DamagedError, seal_json, unseal_json

PLACES = "places.json"  # in a cell's work folder


class Places(Frozen):
    """Absolute paths; None where the cell names no such file.

    Attributes:
        annotation: of the tested dataset.
        train_annotation: of the dataset of the training.
        pretrained: file or folder of the weights.
        checkpoint: evaluated instead of training.
    """

    annotation: str | None = None
    train_annotation: str | None = None
    pretrained: str | None = None
    checkpoint: str | None = None

    @classmethod
    def of(cls, cell: Cell) -> Places:
        """The places of a cell that was resolved on this machine."""
        setup = cell.setup
        annotations = [
            str(user_path(source.annotation).absolute()) if source and source.is_file else None
            for source in (setup.dataset, setup.train_dataset)
        ]
        pretrained = setup.pretrained and str(user_path(setup.pretrained).absolute())
        return cls(
            annotation=annotations[0],
            train_annotation=annotations[1],
            pretrained=pretrained,
            checkpoint=str(setup.checkpoint) if setup.checkpoint else None,
        )


def remember_places(cell: Cell, folder: Path) -> None:
    """Write the places of a cell to its work folder, if it names any files.

    Raises:
        ResultError: the folder cannot be written.
    """
    places = Places.of(cell)
    if places != Places():
        write_atomically(folder / PLACES, seal_json(places.model_dump(), folder.name))


def work_dir_of(cell: Cell, out: Path, work_dir: Path) -> Path:
    """The work folder in which a cell was run: the one that is named, or one of that name next to `out`.

    Args:
        cell: of a stored result.
        out: the folder of the results.
        work_dir: as the user names it, or the default.
    """
    next_to = out.resolve().parent / work_dir.name
    is_there = (work_dir / cell.work_folder).exists() or not (next_to / cell.work_folder).exists()
    return work_dir if is_there else next_to


def recall_places(folder: Path) -> Places:
    """The places that were written to a work folder; none where the file is missing or damaged."""
    try:
        return Places.model_validate(unseal_json(read_whole(folder / PLACES), folder.name))
    except (OSError, DamagedError, ValidationError):
        return Places()
