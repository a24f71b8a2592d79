"""Names and key=value -> cells. Imports neither torch nor open_clip."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fsar_bench.config.cell import ENGINE, Cell, Identity, Label, Setup
from fsar_bench.config.fields import explain_fault
from fsar_bench.config.files import (
    AblationConfig,
    BackboneConfig,
    DatasetConfig,
    MethodConfig,
    input_digests,
    load,
    names,
    protocol_of,
    weights_path,
)
from fsar_bench.config.overrides import coerce, merge, override, parse_pairs, several, text_settings
from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, Protocol, RunOptions, Train
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import file_digest

QUICK_GELU = {"quick_gelu": True, "gelu": False}
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


@dataclass(frozen=True)
class MethodChoice:
    """A method's config with its name and folder."""

    name: str
    path: Path
    config: MethodConfig

    @classmethod
    def load(cls, name: str) -> MethodChoice:
        """Read a method's config by name or path.

        Raises:
            ConfigError: unknown name, or a field that is missing, unknown or of the wrong type.
        """
        file = load("methods", name)
        if "type" not in file.values.get("method", {}):
            raise ConfigError(f"The config {file.path} lacks method=dict(type=...).")
        return cls(file.name, file.path, file.checked(MethodConfig))

    @property
    def module_folder(self) -> str | None:
        """Folder of its custom modules; None for a built-in method."""
        return None if self.path == names("methods").get(self.name) else str(self.path.parent)


@dataclass(frozen=True)
class CellChoice:
    """One method on one dataset with one value for each key: what becomes a cell."""

    method: MethodChoice
    dataset: DatasetConfig
    chosen: dict[str, str]

    def cell(self, *, is_added: bool) -> Cell:
        """The cell.

        Raises:
            ConfigError: a key that does not apply, or a value of the wrong type.
        """
        protocol_name, protocol = protocol_of(self.dataset, self.chosen)
        method = self._method(protocol)
        backbone_name, backbone = self._backbone()
        train = self._train(protocol)
        config, folder = self.method.config, self.method.module_folder
        inputs = input_digests(self.dataset.dataset, backbone, config.custom_imports, folder)
        pretrained = weights_path(backbone)
        if pretrained:  # the file is known by its name and content, not by its place on this machine
            backbone = {**backbone, "pretrained": Path(pretrained).name}
        checkpoint = self._checkpoint()
        if checkpoint:
            inputs["checkpoint"] = file_digest(checkpoint)
        parts = {
            "engine": ENGINE,
            "name": self.method.name,
            "method": method,
            "train": train,
            "custom_imports": config.custom_imports,
            "dataset": self.dataset.dataset,
            "backbone": {"name": backbone_name, **backbone},
            "protocol": protocol,
            "reader": self.chosen.get("reader", Choices.model_fields["reader"].default),
            "inputs": inputs,
        }
        setup = Setup(
            module_folder=folder,
            pretrained=pretrained,
            checkpoint=checkpoint,
            whole_clips_up_to=self.dataset.whole_clips_up_to,
            overlaps=self.dataset.overlaps,
            is_added=is_added,
        )
        try:
            return Cell(identity=Identity(**parts), label=self._label(protocol_name)).with_setup(setup)
        except ValidationError as error:
            raise ConfigError(f"{self.method.name}: {explain_fault(error, '', ())}") from error

    def _label(self, protocol_name: str) -> Label:
        config, name = self.method.config, self.method.name
        changed = {k: v for k, v in self.chosen.items() if k.startswith(("method.", "train.")) and k != "train.seed"}
        changed |= {"matcher": self.chosen["matcher"]} if "matcher" in self.chosen else {}
        for key in ("pretrained", "activation", "checkpoint"):
            changed |= {key: Path(self.chosen[key]).name} if key in self.chosen else {}
        return Label(
            title=config.title or name,
            paper=config.paper,
            changed=changed,
            dataset=self.dataset.title or self.dataset.dataset.name,
            synthetic=self.dataset.synthetic,
            protocol=protocol_name,
            control=name in self.dataset.controls,
        )

    def _of_dataset(self, part: str) -> dict[str, Any]:
        """What the dataset's config changes of this method."""
        return self.dataset.methods.get(self.method.name, {}).get(part, {})

    def _method(self, protocol: Protocol) -> dict[str, Any]:
        name = self.method.name
        config = merge(self.method.config.method, self._of_dataset("method"), f"the dataset's config for {name}.method")
        if "matcher" in self.chosen:
            if "matcher" not in config:
                raise ConfigError(f"{name} has no matcher, so matcher={self.chosen['matcher']} does not apply to it.")
            if config["matcher"]["type"] != self.chosen["matcher"]:
                config["matcher"] = {"type": self.chosen["matcher"]}
        root = {"method": config}
        for key, text in self.chosen.items():
            part, _, argument = key.rpartition(".")
            if part == "method.matcher" and "matcher" in self.chosen:  # its arguments are known when it is built
                config["matcher"][argument] = coerce(key, text, config["matcher"].get(argument))
            elif key.startswith("method."):
                override(root, key, text, name)
        if "frames" in config:  # a method that is sized by T says so; T itself belongs to the protocol
            config["frames"] = protocol.frames
        return config

    def _train(self, protocol: Protocol) -> Train | None:
        config = self.method.config.train
        typed = {key: text for key, text in self.chosen.items() if key.startswith("train.")}
        if config is None:
            if typed:
                raise ConfigError(f"{self.method.name} is not trained, so {next(iter(typed))}= does not apply to it.")
            return None
        values = Train.defaults()
        for extra, where in (
            (config, f"{self.method.path}: train"),
            (self.dataset.train, "the dataset's config: train"),
            (self._of_dataset("train"), f"the dataset's config for {self.method.name}.train"),
        ):
            values = merge(values, extra, where)
        for key, text in typed.items():
            field = key.removeprefix("train.")
            if field in Train.model_fields and not isinstance(values[field], dict):
                values[field] = Train.parse(field, text)
            else:
                override({"train": values}, key, text, self.method.name)
        return Train.of(values).resolved(protocol, {key.removeprefix("train.") for key in typed})

    def _backbone(self) -> tuple[str, dict[str, Any]]:
        """Name and config of the backbone, with the weights and activation that were asked for."""
        file = load("backbones", self.chosen.get("backbone", self.dataset.backbone))
        if "backbone" not in file.values:
            raise ConfigError(f"The backbone config {file.name} lacks backbone=dict(type=...).")
        config = file.checked(BackboneConfig).backbone
        out, pretrained = dict(config), self.chosen.get("pretrained")
        if pretrained is not None and pretrained != config.get("pretrained"):
            out["pretrained"] = pretrained
            out["pretraining"] = Path(pretrained).name  # the config describes its own weights
            if "quick_gelu" in out:
                out["quick_gelu"] = None  # other weights tell their activation themselves
        if "activation" in self.chosen:
            activation = self.chosen["activation"]
            if "quick_gelu" not in out:
                raise ConfigError(f"The backbone {file.name} is no CLIP model, so activation= does not apply to it.")
            if activation not in QUICK_GELU:
                raise ConfigError(f"Unknown activation {activation!r}.{suggest(activation, QUICK_GELU)}")
            out["quick_gelu"] = QUICK_GELU[activation]
        return file.name, out

    def _checkpoint(self) -> Path | None:
        if "checkpoint" not in self.chosen:
            return None
        path = Path(self.chosen["checkpoint"]).expanduser()
        if self.method.config.train is None:
            raise ConfigError(
                f"{self.method.name} is training-free, so checkpoint={self.chosen['checkpoint']} does not apply to it."
            )
        if not path.is_file():
            raise ConfigError(f"The checkpoint {path} does not exist (looked for {path.resolve()}).")
        return path.resolve()
