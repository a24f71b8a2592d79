"""The command that repeats a result, as far as its record tells, and whether it does so on this machine. Imports no torch."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from fsar_bench.config.cell import Cell
from fsar_bench.config.overrides import flatten
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import PROTOCOL_KEYS, Protocol
from fsar_bench.errors import FsarBenchError
from fsar_bench.results.record import Result

PLACES = (
    "methods",
    "dataset",
    "train_on",
    "backbone",
    "pretrained",
    "checkpoint",
)  # may be paths, which no record tells
SHOWN = 4  # differences


@dataclass(frozen=True)
class Command:
    """What repeats a result.

    Attributes:
        pairs: the settings, `key=value`.
        problem: why they do not give the same cell on this machine; empty if they do.
    """

    pairs: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        """As it is typed in a shell."""
        return " ".join(["fsar-bench run", *map(shlex.quote, self.pairs)])


def command_of(result: Result, places: dict[str, str]) -> Command:
    """The shortest command that gives the cell of a result, checked by resolving it.

    Args:
        result: not a submitted one.
        places: values of `PLACES` that the user names, such as the path of a custom method's config.
    """
    settings = {**_recorded(result.cell), **places}
    try:
        cell = _resolved(settings)
        for _ in range(2):  # the protocol and the backbone bring other defaults
            settings |= {key: value for key, value in _missing(result.cell, cell).items() if key not in places}
            cell = _resolved(settings)
    except FsarBenchError as error:
        return Command(_pairs(_in_full(result.cell) | settings), f"This machine lacks something: {error}")
    same = cell.hash == result.config_hash
    return Command(_pairs(settings), "" if same else _difference(result.cell, cell))


def _recorded(cell: Cell) -> dict[str, str]:
    """Settings that the record tells as they were typed; files are known by their names alone."""
    record = cell.model_dump(mode="json")
    identity, label = record["identity"], record["label"]
    settings = {"methods": cell.name, "dataset": cell.identity.dataset.name}
    if identity.get("train_dataset"):
        settings["train_on"] = identity["train_dataset"]["name"]
    settings |= dict(sorted(cell.label.changed.items()))
    if "checkpoint" in settings:  # shown with the beginning of its hash
        settings["checkpoint"] = settings["checkpoint"].rpartition("@")[0]
    if cell.identity.train and cell.identity.train.seed is not None:
        settings["train.seed"] = str(cell.identity.train.seed)
    return settings | ({"title": label["named"]} if label.get("named") else {})


def _in_full(cell: Cell) -> dict[str, str]:
    """Protocol, backbone and reader of a cell, where defaults cannot be compared."""
    defaults = Protocol()
    names = [name for name in PROTOCOL_KEYS if getattr(cell.protocol, name) != getattr(defaults, name)]
    values = {name: getattr(cell.protocol, name) for name in ("way", "shot", *names)}
    spelled = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return {**spelled, "backbone": str(cell.identity.backbone["name"])}


def _missing(wanted: Cell, cell: Cell) -> dict[str, str]:
    """Settings in which a resolved cell differs from the wanted one, where keys name them."""
    settings = {}
    if wanted.label.protocol != cell.label.protocol:
        settings["protocol"] = wanted.label.protocol
    for name in PROTOCOL_KEYS:
        value = getattr(wanted.protocol, name)
        if value != getattr(cell.protocol, name):
            settings[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if wanted.identity.backbone["name"] != cell.identity.backbone["name"]:
        settings["backbone"] = str(wanted.identity.backbone["name"])
    if wanted.identity.reader != cell.identity.reader:
        settings["reader"] = wanted.identity.reader
    return settings | _tuned(wanted, cell)


def _tuned(wanted: Cell, cell: Cell) -> dict[str, str]:
    """Settings in the place of a tuning that this machine lacks, or that the result was made without."""
    then, now = wanted.label.tuned, cell.label.tuned
    if then == now:
        return {}
    chosen = then.values if then else {}
    return {"tuned": "none", **{key: text for key, text in chosen.items() if key not in wanted.label.changed}}


def _resolved(settings: dict[str, str]) -> Cell:
    return resolve([*_pairs(settings), "controls=false"]).cells[-1]  # a control comes after its row


def _pairs(settings: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in settings.items())


def _difference(wanted: Cell, cell: Cell) -> str:
    """What two cells differ in, as one sentence."""
    then, now = (flatten(each.identity.model_dump(mode="json")) for each in (wanted, cell))
    keys = sorted(key for key in {**then, **now} if then.get(key) != now.get(key))
    changes = [_change(key, then.get(key), now.get(key)) for key in keys[:SHOWN]]
    more = f", and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"On this machine it is another cell ({cell.hash[:8]}): {', '.join(changes)}{more}."


def _change(key: str, then: object, now: object) -> str:
    what = key.removeprefix("inputs.")
    if key.startswith("inputs."):
        return f"the {what} is not found" if now is None else f"the {what} has another content"
    return f"{what} was {then!r} and is {now!r}"


def training_files(result: Result, work_dir: Path) -> list[Path]:
    """Files of the training of a result that are in a work folder: the checkpoint and the curves."""
    if result.training_key is None:
        return []
    folder = work_dir / result.cell.training_folder(result.training_key)
    names = ("best.safetensors", "curve.png", "curve.csv", "loss.csv", "config.py")
    return [folder / name for name in names if (folder / name).is_file()]
