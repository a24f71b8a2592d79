"""Which cells are made of shipped parts alone. Tests build each of these, so a plan need not; imports no torch."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from fsar_bench.config.cell import Cell
from fsar_bench.config.resolve import resolve
from fsar_bench.io import canonical

PLUGINS = "fsar_bench.methods"  # group of entry points by which installed packages register parts
DATASETS = ("synthact", "synthact_order", "synthact_scene")  # the built-in data, each with tunings of its own
BUILT = ("optimizer", "scheduler", "hooks")  # fields of a training that are built by their registered types


def is_as_shipped(cell: Cell) -> bool:
    """Whether method, backbone, training and reader are those of a built-in method on the built-in data, unchanged.

    Ways, shots, seeds and lengths of trainings may be any: no part that is built depends on them.
    """
    return cell.setup.checkpoint is None and parts(cell) in _shipped()


@cache
def _shipped() -> frozenset[str]:
    """Texts of the parts that ship; none where installed packages add parts of theirs, which are built to be known."""
    if entry_points(group=PLUGINS):
        return frozenset()
    return frozenset(parts(cell) for cell in resolve({"methods": "all", "dataset": list(DATASETS)}).cells)


def parts(cell: Cell) -> str:
    """What is built of a cell, as text."""
    identity, train = cell.identity, cell.identity.train
    built: dict[str, Any] = {key: getattr(train, key, None) for key in BUILT}
    modules = [identity.custom_imports, cell.setup.module_folders]
    return canonical(
        [identity.method, identity.backbone, cell.setup.pretrained, built, train is None, modules, identity.reader]
    )
