"""Names and key=value -> cells. Imports neither torch nor open_clip."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fsar_bench.config.cell import Cell
from fsar_bench.config.choice import PROTOCOL_KEYS, CellChoice, MethodChoice
from fsar_bench.config.files import AblationConfig, DatasetConfig, load, names
from fsar_bench.config.overrides import parse_pairs, several, text_settings
from fsar_bench.config.settings import Choices, RunOptions
from fsar_bench.errors import ConfigError, suggest

CHOICE_KEYS = tuple(Choices.model_fields)
CONTROL_KEYS = (*PROTOCOL_KEYS, "reader", "backbone", "pretrained", "activation", "protocol")  # hold for controls too

Given = dict[str, str | list[str]]


@dataclass(frozen=True)
class Run:
    """What one command asks for: cells in the order of work, and how to run them."""

    cells: list[Cell]
    options: RunOptions


def resolve(settings: list[str] | Mapping[str, Any]) -> Run:
    """Resolve settings into cells (method x dataset x backbone x protocol x seed).

    Args:
        settings: `key=value` texts, in which commas separate several values, or Python values by key, in which lists do.

    Raises:
        ConfigError: a name or key that does not exist, or a value of the wrong type.
    """
    given: Given = dict(parse_pairs(settings)) if isinstance(settings, list) else text_settings(settings)
    _check_keys(given)
    options = _options(given)
    if not given.get("methods"):
        raise ConfigError(f"Which methods? Say methods=NAME,NAME.{suggest('', names('methods'))}")
    cells: list[Cell] = []
    for dataset_name in several("dataset", given.get("dataset", "synthact")):
        dataset = dataset_config(dataset_name)
        asked = [row for name in several("methods", given["methods"]) for row in _rows(name)]
        by_name = {method for method, _ in asked}
        if options.controls:
            common = {key: value for key, value in given.items() if key in CONTROL_KEYS}
            for control in dataset.controls:
                if control not in by_name:
                    cells += _cells(control, dataset, common, is_added=True)
        for method, row_settings in asked:
            cells += _cells(method, dataset, _with_row(given, row_settings, method))
    if "train.seed" in given and not any(cell.identity.train for cell in cells):
        raise ConfigError(
            f"train.seed={given['train.seed']} does not apply: none of these methods is trained. Leave it out."
        )
    return Run(list({cell.hash: cell for cell in cells}.values()), options)


def _check_keys(given: Given) -> None:
    known = [*CHOICE_KEYS, *PROTOCOL_KEYS, *RunOptions.model_fields]
    for key in given:
        if key not in known and not key.startswith(("method.", "train.")):
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, [*known, 'method.…', 'train.…'])}")


def _options(given: Given) -> RunOptions:
    values = {}
    for key in RunOptions.model_fields:
        if key in given:
            text = given[key]
            values[key] = RunOptions.parse(key, ",".join(text) if isinstance(text, list) else text)
    return RunOptions.of(values)


def _rows(name: str) -> list[tuple[str, dict[str, str]]]:
    """Methods and settings that a name stands for: itself, all methods, or the rows of an ablation."""
    if name == "all":
        return [(each, {}) for each in names("methods")]
    if name.startswith("ablations/"):
        file = load("ablations", name.removeprefix("ablations/"))
    elif name.endswith(".py"):
        file = load("methods", name)
    else:
        return [(name, {})]
    if "rows" not in file.values:
        return [(name, {})]
    rows = file.checked(AblationConfig).rows
    return [(row.split()[0], parse_pairs(row.split()[1:])) for row in rows]


def _with_row(given: Given, row_settings: dict[str, str], method: str) -> Given:
    both = sorted(set(given) & set(row_settings))
    if both:
        raise ConfigError(
            f"The ablation sets {both[0]}={row_settings[both[0]]} for {method} itself: leave {both[0]}= out."
        )
    return {**given, **row_settings}


def dataset_config(name: str) -> DatasetConfig:
    """The config of a dataset by name or path.

    Raises:
        ConfigError: unknown name, or a field that is missing or of the wrong type.
    """
    file = load("datasets", name)
    for key in ("dataset", "backbone"):
        if key not in file.values:
            raise ConfigError(f"The dataset config {file.path} lacks {key}=.")
    return file.checked(DatasetConfig)


def _cells(method_name: str, dataset: DatasetConfig, given: Given, *, is_added: bool = False) -> list[Cell]:
    """Cells of one method on one dataset: the product of all keys that have several values."""
    method = MethodChoice.load(method_name)
    keys = [key for key in (*PROTOCOL_KEYS, *CHOICE_KEYS) if key in given and key not in ("methods", "dataset")]
    keys += [key for key in given if key.startswith(("method.", "train."))]
    if method.config.train is None and "train.seed" in keys:
        keys.remove("train.seed")  # several trainings may be asked for beside methods that have none
    axes = [[(key, value) for value in several(key, given[key])] for key in keys]
    return [CellChoice(method, dataset, dict(choice)).cell(is_added=is_added) for choice in itertools.product(*axes)]
