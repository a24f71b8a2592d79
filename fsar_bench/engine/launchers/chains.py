"""Chains: cells that share a training are one task, run one after the other, so that no node trains what another has trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from multiprocessing.connection import Connection

from fsar_bench import processes
from fsar_bench.config.cell import Cell
from fsar_bench.engine.jobs import PRELOAD, shared_work
from fsar_bench.errors import CellCrashedError
from fsar_bench.io import digest


def chains(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Group cells by their training; one that shares none is alone. Chains and their cells keep the order of the cells.

    Raises:
        CellCrashedError: the process that looks at the methods died.
    """
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[_may_share(cell)].append(cell)
    exact = _exact([cell for group in groups.values() if len(group) > 1 for cell in group])
    out: dict[str, list[Cell]] = defaultdict(list)
    for group in groups.values():
        for cell in group:
            out[exact.get(cell.hash, cell.hash)].append(cell)
    return list(out.values())


def _may_share(cell: Cell) -> str:
    """What cells have in common that may share a training; of one that is not trained, its own hash."""
    identity, setup = cell.identity, cell.setup
    if identity.train is None or setup.checkpoint:
        return cell.hash
    p = cell.protocol
    rules = [p.frames, p.template, p.group_disjoint, identity.class_texts, identity.reader]
    return digest([shared_work(cell), rules, identity.custom_imports, setup.module_folders])


def _exact(cells: list[Cell]) -> dict[str, str]:
    """What the training of each cell depends on; told by a child, which knows arguments that change the score alone."""
    out: dict[str, str] = {}
    by_modules = sorted(cells, key=_modules)
    for _, group in groupby(by_modules, key=_modules):
        answers: list[dict[str, str]] = []
        exit_code = processes.converse(_tell_trainings, (list(group),), answers.append, preload=PRELOAD)
        if not answers:
            raise CellCrashedError(f"The look at the methods ended early ({processes.ending(exit_code)}).")
        out |= answers[-1]
    return out


def _modules(cell: Cell) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(cell.identity.custom_imports), cell.setup.module_folders


def _tell_trainings(cells: list[Cell], connection: Connection) -> None:
    processes.silence()
    connection.send({hash_: training for cell in cells for hash_, training in _training_of(cell)})


def _training_of(cell: Cell) -> Iterator[tuple[str, str]]:
    from fsar_bench.engine.components import without_score_arguments
    from fsar_bench.registry import import_components

    import_components(cell.identity.custom_imports, cell.setup.module_folders)
    method = without_score_arguments(cell.identity.model_dump(mode="json")["method"])
    yield cell.hash, digest([_may_share(cell), method])
