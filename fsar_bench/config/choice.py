"""One method on one dataset with one value for each key: what becomes a cell. Imports neither torch nor open_clip."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fsar_bench.config.cell import ENGINE, TIMM, Cell, DatasetSource, Identity, Label, Setup
from fsar_bench.config.fields import explain_fault
from fsar_bench.config.files import (
    BackboneConfig,
    DatasetConfig,
    File,
    MethodConfig,
    ProtocolConfig,
    config_folder,
    is_weights_path,
    load,
    protocol_of,
)
from fsar_bench.config.inputs import Modules, annotation_digests, installed_modules, weight_digests
from fsar_bench.config.overrides import coerce, flatten, merge, overlay, override
from fsar_bench.config.plain import check_plain
from fsar_bench.config.published import Recipe, official_recipe
from fsar_bench.config.search import spell
from fsar_bench.config.settings import KEPT_AS, Choices, Protocol, Train
from fsar_bench.config.tuned import AUTO, NONE, TunedLabel, Tuning, find_tuning
from fsar_bench.errors import ConfigError, shown, suggest
from fsar_bench.io import fault_of_file, file_digest, user_path

QUICK_GELU = {"quick_gelu": True, "gelu": False}
FREE = ("optimizer", "scheduler")  # parts of a training that take any argument of their class


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset's config, and the custom modules that it names.

    Attributes:
        config: its fields; the path of the annotation is absolute.
        modules: custom modules.
        custom: folder of the config; None for one of fsar-bench.
    """

    config: DatasetConfig
    modules: Modules
    custom: Path | None = None

    @classmethod
    def load(cls, name: str) -> DatasetChoice:
        """Read the config of a dataset by name or path.

        Raises:
            ConfigError: unknown name, or a field that is missing or of the wrong type.
        """
        file = load("datasets", name)
        for key in ("dataset", "backbone"):
            if key not in file.values:
                raise ConfigError(f"The dataset config {file.path} lacks {key}=.")
        config = file.checked(DatasetConfig)
        if config.dataset.is_file:
            source = config.dataset.model_copy(update={"annotation": file.next_to(config.dataset.annotation)})
            config = config.model_copy(update={"dataset": source})
        return cls(config, Modules.of(file, config), file.path.parent if file.is_custom else None)

    @property
    def backbone(self) -> str:
        """Name of the default backbone's config."""
        return load("backbones", self.config.backbone).name

    def training(self) -> dict[str, Any]:
        """What the dataset alone says of a training, the defaults included: the same for all methods."""
        return merge(Train.defaults(), self.config.train, "the dataset's config: train")

    def changes(self, method: str, part: str) -> dict[str, Any]:
        """What the config changes of a method: part "method" or "train"."""
        return self.config.methods.get(method, {}).get(part, {})


@dataclass(frozen=True)
class MethodChoice:
    """A method's config with its name, and its folder if it is none of fsar-bench."""

    name: str
    path: Path
    config: MethodConfig
    modules: Modules
    custom: Path | None = None

    @classmethod
    def load(cls, name: str) -> MethodChoice:
        """Read a method's config by name or path.

        Raises:
            ConfigError: unknown name, or a field that is missing, unknown or of the wrong type.
        """
        file = load("methods", name)
        method = file.values.get("method", {})
        if isinstance(method, dict) and "type" not in method:
            raise ConfigError(f"The config {file.path} lacks method=dict(type=...).")
        config = file.checked(MethodConfig)
        folder = file.path.parent if file.is_custom else None
        return cls(file.name, file.path, config, Modules.of(file, config), folder)

    @property
    def is_trained(self) -> bool:
        """Whether the method is trained."""
        return self.config.train is not None

    def keys(self, dataset: DatasetChoice) -> list[str]:
        """The `method.*` and `train.*` keys that the method has on a dataset."""
        return list(self.values(dataset))

    def values(self, dataset: DatasetChoice) -> dict[str, Any]:
        """The values of these keys before the user or a tuning changes any."""
        method = merge(self.config.method, dataset.changes(self.name, "method"), f"{dataset.config.title}: {self.name}")
        values = {
            f"method.{key}": value for key, value in flatten({k: v for k, v in method.items() if k != "type"}).items()
        }
        if self.is_trained:
            values |= {f"train.{key}": value for key, value in flatten(self.train_values(dataset)).items()}
        return values

    def tuned_folder(self, dataset: DatasetChoice, chosen: str) -> Path | None:
        """Where tuned settings are; None where they are not wanted.

        They are next to the config of the user, be it the method's or else the dataset's; those of built-in methods on built-in
        datasets are next to the built-in configs.

        Args:
            dataset: that of the training.
            chosen: value of `tuned=`.

        Raises:
            ConfigError: a folder that does not exist.
        """
        if chosen == NONE:
            return None
        if chosen == AUTO:
            custom = self.custom or dataset.custom
            return custom / "tuned" if custom else config_folder("tuned")
        if not user_path(chosen).is_dir():
            raise ConfigError(
                f"tuned={shown(chosen)} is no folder: say auto, none, or the folder that fsar-bench tune wrote to."
            )
        return user_path(chosen)

    def train_values(self, dataset: DatasetChoice) -> dict[str, Any]:
        """The training's values before the user changes any: defaults, method, dataset, dataset and method."""
        values = Train.defaults()
        for extra, where in (
            (self.config.train or {}, f"{self.path}: train"),
            (dataset.config.train, "the dataset's config: train"),
            (dataset.changes(self.name, "train"), f"the dataset's config for {self.name}.train"),
        ):
            values = merge(values, extra, where)
        return values

    def takes(self, key: str, dataset: DatasetChoice, matcher: str | None) -> bool:
        """Whether a key that is for some methods applies to this one.

        Args:
            key: as it is typed, without the method's name.
            dataset: that of the training.
            matcher: the one that is chosen, if any; its arguments are known when it is built.
        """
        if key == "matcher":
            return "matcher" in self.config.method
        if key.startswith("method.matcher.") and matcher is not None:
            return "matcher" in self.config.method
        if key in ("checkpoint", "train_on", "recipe"):
            return self.is_trained
        if key.startswith("train."):
            field = key.split(".")[1]
            return self.is_trained and (key in self.keys(dataset) or field in FREE or field in Train.model_fields)
        return key in self.keys(dataset) if key.startswith("method.") else True


@dataclass(frozen=True)
class CellChoice:
    """One method on one dataset with one value for each key.

    Attributes:
        method: the method.
        dataset: that is tested.
        trained_on: the dataset of the training, and of val.
        chosen: values as they are typed, by key.
        modules: custom modules that the user names.
    """

    method: MethodChoice
    dataset: DatasetChoice
    trained_on: DatasetChoice
    chosen: Mapping[str, str]
    modules: Modules = field(default_factory=Modules)

    def cell(self, *, is_added: bool) -> Cell:
        """The cell.

        Raises:
            ConfigError: a key that does not apply, or a value of the wrong type.
        """
        protocol_name, protocol = self._protocol
        weights = self._backbone_config(protocol)
        pretrained = str(weights["pretrained"]) if is_weights_path(weights.get("pretrained")) else None
        checkpoint = self._checkpoint()
        modules = self._all_modules()
        name, dataset, trained_on = self.method.name, self.dataset.config.dataset, self._other_training()
        backbone = {**weights, "pretrained": Path(pretrained).name} if pretrained else weights
        parts: dict[str, Any] = {
            "engine": ENGINE,
            "name": name,
            "method": self._method(protocol),
            "train": self._train(protocol),
            "train_dataset": trained_on and trained_on.portable,
            "custom_imports": list(modules.names),
            "dataset": dataset.portable,
            "backbone": {"name": self._backbone_file.name, **backbone},
            "protocol": protocol,
            "reader": self._reader,
            "inputs": self._inputs(weights, modules, checkpoint),
            "class_texts": self._recipe.class_texts,
        }
        setup = Setup(
            module_folders=modules.folders,
            dataset=dataset,
            train_dataset=trained_on,
            pretrained=pretrained,
            checkpoint=checkpoint,
            whole_clips_up_to=self.trained_on.config.whole_clips_up_to,
            overlaps=self.trained_on.config.overlaps,
            is_added=is_added,
        )
        try:
            cell = Cell(identity=Identity(**parts), label=self._label(protocol_name, protocol)).with_setup(setup)
        except ValidationError as error:
            raise ConfigError(f"{name}: {explain_fault(error, '', ())}") from error
        for part, values in (*cell.identity.model_dump().items(), ("label", cell.label.model_dump())):
            check_plain(values, part, f"{name}: ")
        return cell

    @cached_property
    def _protocol(self) -> tuple[str, Protocol]:
        """Name and rules of the protocol."""
        return protocol_of(self.dataset.config, self.chosen)

    @cached_property
    def _recipe(self) -> Recipe:
        """What the published settings change; nothing for the suite's own recipe.

        Raises:
            ConfigError: there are none for this method and dataset.
        """
        if not self._is_official:
            return Recipe()
        return official_recipe(self.method.name, self.trained_on.config.dataset.name, self._protocol[1].shot)

    @property
    def _is_official(self) -> bool:
        named = self.chosen.get("recipe", "suite")
        Choices.of({"recipe": named})  # a fault of it is told by its key
        return self.method.is_trained and named == "official"

    @cached_property
    def _tuned(self) -> tuple[Path, Tuning] | None:
        """The tuning whose values hold, with its file; a published recipe is whole and takes none.

        Raises:
            ConfigError: its file is damaged.
        """
        if not self.method.is_trained or self._is_official:
            return None
        folder = self.method.tuned_folder(self.trained_on, self.chosen.get("tuned", AUTO))
        backbone, source = self._backbone_file.name, self.trained_on.config
        is_other = backbone != self.trained_on.backbone
        if folder is None:
            return None
        return find_tuning(folder, source.dataset.name, self.method.name, backbone if is_other else None)

    def _set_tuned(self, part: str, values: dict[str, Any]) -> None:
        """Lay the tuned values of a part ("method" or "train") over the configs' own.

        Raises:
            ConfigError: the method has no such key any more, or its value is of another kind.
        """
        path, tuning = self._tuned or (None, None)
        for key, value in tuning.values.items() if tuning else ():
            if key.startswith(f"{part}."):
                where = f"The tuned settings {path} do not fit: {self.method.name}"
                override({part: values}, key, spell(value), where)

    def _all_modules(self) -> Modules:
        protocol = load("protocols", self.chosen.get("protocol", self.dataset.config.protocol))
        return (
            self.method.modules
            + Modules.of(self._backbone_file, self._backbone_file.checked(BackboneConfig))
            + self.dataset.modules
            + (self.trained_on.modules if self.method.is_trained else Modules())
            + Modules.of(protocol, protocol.checked(ProtocolConfig))
            + self.modules
        )

    def _inputs(self, backbone: dict[str, Any], modules: Modules, checkpoint: Path | None) -> dict[str, str]:
        trained_on = self._other_training()
        return {
            **annotation_digests(self.dataset.config.dataset),
            **(annotation_digests(trained_on, "train ") if trained_on else {}),
            **weight_digests(backbone),
            **modules.digests(),
            **installed_modules(self.method.config.method["type"], backbone["type"]),
            **({"checkpoint": file_digest(checkpoint)} if checkpoint else {}),
        }

    def _other_training(self) -> DatasetSource | None:
        """The dataset of the training where it is not the tested one."""
        source = self.trained_on.config.dataset
        return source if self.method.is_trained and source != self.dataset.config.dataset else None

    @property
    def _reader(self) -> str:
        default = self.dataset.config.reader or Choices.model_fields["reader"].default
        return str(self.chosen.get("reader", default))

    def _label(self, protocol_name: str, protocol: Protocol) -> Label:
        config, name = self.method.config, self.method.name
        dataset, named = self.dataset.config, self.chosen.get("title")
        if named is not None:
            Choices.of({"title": named})  # a fault of it is told by its key
        return Label(
            title=config.title or name,
            named=named,
            paper=config.paper,
            changed=self._changed() | ({} if protocol.features == KEPT_AS else {"features": protocol.features}),
            dataset=dataset.title or dataset.dataset.name,
            synthetic=dataset.synthetic,
            protocol=protocol_name,
            control=name in dataset.controls,
            tuned=TunedLabel.of(self._tuned[1]) if self._tuned else None,
        )

    def _changed(self) -> dict[str, str]:
        """The settings that the user set of the method, its training and its weights."""
        shown = {k: v for k, v in self.chosen.items() if k.startswith(("method.", "train.")) and k != "train.seed"}
        if "matcher" in self.chosen:
            shown["matcher"] = self.chosen["matcher"]
        if "activation" in self.chosen and "quick_gelu" in self._backbone_file.values["backbone"]:
            shown["activation"] = self.chosen["activation"]
        if "pretrained" in self.chosen:
            shown["pretrained"] = Path(self.chosen["pretrained"]).name
        if (checkpoint := self._checkpoint()) is not None:  # another file of the same name is another row
            shown["checkpoint"] = f"{checkpoint.name}@{file_digest(checkpoint)[:8]}"
        if (trained_on := self._other_training()) is not None:
            shown["train_on"] = trained_on.name
        if self._is_official:
            shown["recipe"] = "official"
        return shown

    def _method(self, protocol: Protocol) -> dict[str, Any]:
        name = self.method.name
        changes = self.trained_on.changes(name, "method")
        config = merge(self.method.config.method, changes, f"the dataset's config for {name}.method")
        self._set_tuned("method", config)
        config = overlay(config, self._recipe.method)
        if "matcher" in self.chosen and config["matcher"]["type"] != self.chosen["matcher"]:
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
        if not self.method.is_trained:
            return None
        values = merge(self.method.train_values(self.trained_on), self._recipe.train, "its published settings: train")
        self._set_tuned("train", values)
        for key, text in self.chosen.items():
            if not key.startswith("train."):
                continue
            field, _, argument = key.removeprefix("train.").partition(".")
            if argument and field in FREE and isinstance(values[field], dict) and "." not in argument:
                values[field][argument] = coerce(key, text, values[field].get(argument))
            elif field in Train.model_fields and not argument and not isinstance(values[field], dict):
                values[field] = Train.parse(field, text)
            else:
                override({"train": values}, key, text, self.method.name)
        typed = {key.removeprefix("train.") for key in self.chosen if key.startswith("train.")}
        return Train.of(values).resolved(protocol, typed)

    @cached_property
    def _backbone_file(self) -> File:
        file = load("backbones", self.chosen.get("backbone", self.dataset.config.backbone))
        if "backbone" not in file.values:
            raise ConfigError(f"The backbone config {file.name} lacks backbone=dict(type=...).")
        return file

    def _backbone_config(self, protocol: Protocol) -> dict[str, Any]:
        """Config of the backbone, with the weights and activation that were asked for; a path of weights is absolute."""
        file = self._backbone_file
        out = dict(file.checked(BackboneConfig).backbone)
        if "pretrained" in out:
            out["pretrained"] = _from_config(file, out["pretrained"])
        typed = self.chosen.get("pretrained")
        if typed is not None and typed != file.values["backbone"].get("pretrained"):
            is_random = typed.lower() == "none"
            out["pretrained"] = None if is_random else _absolute(typed)
            out["pretraining"] = (
                "none (random weights)" if is_random else Path(typed).name
            )  # the config describes its own
            if "quick_gelu" in out and not is_random:
                out["quick_gelu"] = None  # other weights tell their activation themselves
        if "activation" in self.chosen and "quick_gelu" in out:
            out["quick_gelu"] = self._quick_gelu()
        if "frames" in out:  # a video backbone is sized by T, as some methods are
            out["frames"] = protocol.frames
        return out | self._recipe_of_backbone(out)

    def _recipe_of_backbone(self, config: dict[str, Any]) -> dict[str, Any]:
        """What the published settings change of the backbone; its batch norm where it has any."""
        has_batch_norm = "train_batch_norm" in config or self._backbone_file.name.startswith(TIMM)
        changes = self._recipe.backbone
        return {key: value for key, value in changes.items() if key != "train_batch_norm" or has_batch_norm}

    def _quick_gelu(self) -> bool:
        activation = self.chosen["activation"]
        if activation not in QUICK_GELU:
            raise ConfigError(f"Unknown activation {shown(activation)}.{suggest(activation, QUICK_GELU)}")
        return QUICK_GELU[activation]

    def _checkpoint(self) -> Path | None:
        if "checkpoint" not in self.chosen or not self.method.is_trained:
            return None
        path = user_path(self.chosen["checkpoint"])
        whole = Path(os.path.realpath(path))
        if fault := fault_of_file(whole):
            raise ConfigError(f"The checkpoint {path} {fault} (looked for {whole}).")
        return whole


def _from_config(file: File, pretrained: Any) -> Any:
    """Weights that a config names; a path is relative to a custom config."""
    if isinstance(pretrained, str) and not pretrained.strip():
        raise ConfigError(f"pretrained= is empty in {file.path}: name weights, or None for random ones.")
    is_path = isinstance(pretrained, str) and file.is_custom
    if is_path and (is_weights_path(pretrained) or os.path.isdir(file.next_to(pretrained))):
        return file.next_to(pretrained)
    return pretrained


def _absolute(pretrained: str) -> str:
    """A path of weights from the working folder; tags and hub ids stay."""
    return str(user_path(pretrained).absolute()) if is_weights_path(pretrained) else pretrained
