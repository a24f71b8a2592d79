"""Leaks between what a cell learns from and what it tests on: said before anything is trained. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar, cast

from fsar_bench.config.cell import Cell, DatasetSource
from fsar_bench.data.contents import Progress
from fsar_bench.data.dataset import Split, open_dataset
from fsar_bench.data.faults import examples, spelling
from fsar_bench.data.importing.classes import known_datasets
from fsar_bench.data.leaks import Contents, described, repeats, shared_names
from fsar_bench.engine.provenance import TrainedOn
from fsar_bench.errors import ProtocolError
from fsar_bench.progress.events import warn
from fsar_bench.texts.characters import counted

TOLERATED = 0.01  # share of the tested clips that a published list may share with its own train and val splits
PUBLISHED = "They stay, because the list is a published one."
T = TypeVar("T")


class LeakCheck:
    """Looks for leaks in cells; what cells have in common is looked at once.

    Errors are what would make a result wrong. Warnings are what real datasets have in small numbers, or what cannot be decided.

    Args:
        progress: is told how many clips are hashed.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._known: dict[Hashable, object] = {}

    def __call__(self, cell: Cell, *, learns_from: tuple[str, ...]) -> None:
        """Check a cell.

        Args:
            cell: the cell.
            learns_from: splits of the dataset of the training that the method is trained or chosen on.

        Raises:
            ProtocolError: the tested clips are among those that the method learns from, or that its checkpoint was trained on.
            DataError: a clip that cannot be read.
        """
        tested = self._contents(cell.dataset, cell.protocol.split)
        if cell.setup.checkpoint:
            self._check_checkpoint(cell, cell.setup.checkpoint, tested)
        learned = [self._contents(cell.train_dataset, name) for name in learns_from]
        for split in learned:
            self._check_apart(cell, tested, split)
        if learned:
            self._check_names(cell, tested.split, [split.split for split in learned])
        if len(learned) == 2:
            self._once(("chosen", id(learned[0])), lambda: _warn(_chosen_on_training(cell.train_dataset, *learned)))

    def _check_checkpoint(self, cell: Cell, path: Path, tested: Contents) -> None:
        trained_on = self._once(("checkpoint", path), lambda: TrainedOn.read(path))
        split = f"{cell.protocol.split} split of {cell.dataset.name}"
        if trained_on is None:
            warn(
                f"checkpoint={path} does not say what it was trained on: whether that included classes or clips of the {split} "
                "is not known here."
            )
            return
        trained = {spelling(name) for name in trained_on.classes}
        classes = [name for name in tested.split.list.classes if spelling(name) in trained]
        count, of_all = len(classes), len(tested.split.list.classes)
        seen = f"{count} of the {of_all} classes of the {split} ({examples([repr(name) for name in classes], ', ')})"
        if classes and _base(trained_on.dataset) == _base(cell.identity.dataset.name):
            raise ProtocolError(
                f"checkpoint={path} was trained or chosen on {seen}, of the dataset {trained_on.dataset}: it cannot be tested "
                "there. Name a checkpoint of a training on other classes."
            )
        held = [clip for clip, is_held in zip(tested.clips, trained_on.holds(tested.contents), strict=True) if is_held]
        if held:
            shown = examples([f"{clip.id!r} ({clip.path})" for clip in held])
            text = (
                f"checkpoint={path} was trained or chosen on {len(held)} of the {len(tested.clips)} clips of the {split}, as "
                f"clips of {trained_on.dataset}: {shown}."
            )
            is_one = trained_on.dataset == cell.dataset.name
            if not (is_one and _is_tolerated(cell.dataset, len(held), tested)):
                raise ProtocolError(f"{text} Name a checkpoint of a training on other clips.")
            warn(f"{text} {PUBLISHED}")
        if classes:
            warn(
                f"checkpoint={path} was trained on {trained_on.dataset}, which has {seen} too: other clips, but the actions are "
                "not new to it."
            )

    def _check_apart(self, cell: Cell, tested: Contents, learned: Contents) -> None:
        """No tested clip is one that methods are trained or chosen on; a published list may share a few, which is said."""
        pairs = self._once(("pairs", id(tested), id(learned)), lambda: tested.shared_with(learned))
        if not pairs:
            return
        text = (
            f"{len(pairs)} of the {len(tested.clips)} clips of the {tested.split.name} split of {cell.dataset.name} "
            f"{_are(pairs)} also in the {learned.split.name} split of {cell.train_dataset.name}, on which methods are "
            f"{'trained' if learned.split.name == 'train' else 'chosen'}: {described(pairs)}."
        )
        is_one = cell.identity.train_dataset is None
        if is_one and _is_tolerated(cell.dataset, len(pairs), tested):
            warn(f"{text} {PUBLISHED}")
            return
        raise ProtocolError(f"{text} Keep each in one of the two splits{_advice(cell.dataset)}.")

    def _check_names(self, cell: Cell, tested: Split, learned: list[Split]) -> None:
        """Tested classes that methods meet in training, by name or text, in other clips, are counted."""
        key = ("names", id(tested), *map(id, learned))
        shared = self._once(key, lambda: shared_names(tested, learned))
        if not shared:
            return
        count = counted(len(shared), "class", "classes")
        text = f"{count} of the {tested.name} split of {cell.dataset.name}, such as {examples(shared, ', ')}"
        name, trained_on = cell.dataset.name, cell.train_dataset.name
        if cell.identity.train_dataset is None:
            warn(
                f"The text of {text}, is that of a class that methods are trained or chosen on: text encoders meet it there."
            )
        elif _base(name) == _base(trained_on):
            raise ProtocolError(
                f"Methods would be trained or chosen on {text}, in {trained_on}, which divides its classes differently. Choose "
                "another train_on=."
            )
        else:
            warn(
                f"Methods are trained or chosen on the actions of {text}, in {trained_on}: the clips are others, but the "
                "classes are not new to them."
            )

    def _contents(self, source: DatasetSource, name: str) -> Contents:
        """Contents of a split, whose repeated clips are told. Its dataset stays open: clips remember their contents."""

        def read() -> Contents:
            dataset = self._once(source.model_dump_json(), lambda: open_dataset(**source.model_dump()))
            contents = Contents.of(dataset.split(name), self._progress)
            _warn(repeats(contents, source.name))
            if empty := dataset.empty_classes(name):
                count = counted(len(empty), "class", "classes")
                named = examples([repr(each) for each in empty], ", ")
                warn(f"{count} of the {name} split of {source.name} without clips, in no episode: {named}.")
            return contents

        return self._once((source.model_dump_json(), name), read)

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made before under a key, or is made now."""
        if key not in self._known:
            self._known[key] = make()
        return cast("T", self._known[key])


def _warn(text: str | None) -> None:
    if text:
        warn(text)


def _are(pairs: Sequence[object]) -> str:
    return "is" if len(pairs) == 1 else "are"


def _base(dataset: str) -> str:
    """Name of a dataset without its lineage."""
    return dataset.partition("@")[0]


def _advice(source: DatasetSource) -> str:
    """Where the clips of a dataset are listed."""
    if source.annotation.startswith("prepared:"):
        return ", and prepare the dataset again"
    return f" ({source.annotation})" if source.is_file else ""


def _is_tolerated(source: DatasetSource, shared: int, tested: Contents) -> bool:
    """Whether a list is one of the field's, which its users cannot change, and shares few of its tested clips."""
    kind, _, name = source.annotation.partition(":")
    is_published = kind == "prepared" and _base(name) in known_datasets()
    return is_published and shared <= TOLERATED * len(tested.clips)


def _chosen_on_training(source: DatasetSource, train: Contents, val: Contents) -> str | None:
    """A sentence on val clips that are trained on: the checkpoint is then chosen on what it was trained on."""
    pairs = val.shared_with(train)
    if not pairs:
        return None
    return (
        f"{len(pairs)} of the {len(val.clips)} clips of the val split of {source.name}, on which checkpoints are chosen, "
        f"{_are(pairs)} also in its train split: {described(pairs)}."
    )
