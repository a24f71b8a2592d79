"""Names and key=value -> cells. Imports neither torch nor open_clip."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fsar_bench.config.cell import Cell
from fsar_bench.config.choice import CellChoice, DatasetChoice, MethodChoice
from fsar_bench.config.files import AblationConfig, BackboneConfig, DatasetConfig, load, names
from fsar_bench.config.inputs import Modules
from fsar_bench.config.overrides import parse_pairs, several, text_settings, value_of_option
from fsar_bench.config.settings import LAUNCHERS, PROTOCOL_KEYS, Choices, Protocol, RunOptions
from fsar_bench.errors import ConfigError, suggest

CHOICE_KEYS = tuple(Choices.model_fields)
CONTROL_KEYS = (
    *PROTOCOL_KEYS,
    "reader",
    "backbone",
    "pretrained",
    "activation",
    "protocol",
    "tuned",
)  # hold for controls too
FOR_SOME = (
    "matcher",
    "checkpoint",
    "train_on",
    "recipe",
)  # keys that apply to some methods, as method.* and train.* do
ADDRESSED = ("title", *FOR_SOME)  # keys that may follow a method's name, as method.* and train.* may
NO_AXES = ("methods", "dataset", "imports")  # keys whose values are not tried one after the other for each method

Given = dict[str, str | list[str]]


@dataclass(frozen=True)
class Run:
    """What one command asks for.

    Attributes:
        cells: in the order of work.
        options: how to run them.
        notes: what the user should know of them before they run.
    """

    cells: list[Cell]
    options: RunOptions
    notes: tuple[str, ...] = ()


def resolve(settings: list[str] | Mapping[str, Any]) -> Run:
    """Resolve settings into cells (method x dataset x backbone x protocol x seed).

    Args:
        settings: `key=value` texts, in which commas separate several values, or Python values by key, in which lists do.

    Raises:
        ConfigError: a name or key that does not exist, or a value of the wrong type.
    """
    given: Given = dict(parse_pairs(settings)) if isinstance(settings, list) else text_settings(settings)
    options = _options(given)
    if not given.get("methods"):
        raise ConfigError(f"Which methods? Say methods=NAME,NAME, or methods=all.{suggest('', names('methods'))}")
    if "frames_as" in given:
        given["frames_as"] = _beside_frames_as_they_are(given["frames_as"])
    return _Resolution(given, options).run()


def _beside_frames_as_they_are(value: str | list[str]) -> list[str]:
    """Kinds of frames with `as_is` among them: what a control changes is told from the same row without it."""
    kinds, as_is = several("frames_as", value), str(Protocol.model_fields["frames_as"].default)
    return kinds if as_is in kinds else [as_is, *kinds]


def dataset_config(name: str) -> DatasetConfig:
    """The config of a dataset by name or path.

    Raises:
        ConfigError: unknown name, or a field that is missing or of the wrong type.
    """
    return DatasetChoice.load(name).config


def _options(given: Given) -> RunOptions:
    """The options among some settings, from which the dotted keys of launchers are taken."""
    values: dict[str, Any] = {}
    for key in RunOptions.model_fields:
        if key in given:
            values[key] = RunOptions.parse(key, _spelled(given[key]))
    for key in [key for key in given if key.startswith(tuple(f"{name}." for name in LAUNCHERS))]:
        launcher, _, name = key.partition(".")
        values[launcher] = {**values.get(launcher, {}), name: value_of_option(key, _spelled(given.pop(key)))}
    return RunOptions.of(values)


@dataclass(frozen=True)
class _Asked:
    """A method that is asked for.

    Attributes:
        spelled: name, or path of its config.
        settings: those of its row in an ablation.
        is_added: the user did not name it itself.
    """

    spelled: str
    settings: dict[str, str] = field(default_factory=dict)
    is_added: bool = False

    @property
    def name(self) -> str:
        """Name of its config."""
        return Path(self.spelled).stem if self.spelled.endswith(".py") else self.spelled


def _asked(name: str) -> list[_Asked]:
    """Methods and settings that a name stands for: itself, all methods, or the rows of an ablation."""
    if name == "all":
        return [_Asked(each, is_added=True) for each in names("methods")]
    if name.startswith("ablations/"):
        file = load("ablations", name.removeprefix("ablations/"))
    elif name.endswith(".py"):
        file = load("methods", name)
    else:
        return [_Asked(name)]
    if "rows" not in file.values:
        return [_Asked(name)]
    return [_Asked(row.split()[0], parse_pairs(row.split()[1:])) for row in file.checked(AblationConfig).rows]


@dataclass
class _Resolution:
    """One resolution of settings.

    Attributes:
        given: all settings.
        options: how to run.
        taken: names of the methods (of the backbones, for `activation`) that took a key, by key.
        refused: names of those that have no such key.
        offered: the `method.*` and `train.*` keys of the methods.
    """

    given: Given
    options: RunOptions
    taken: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    refused: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict(dict))
    offered: set[str] = field(default_factory=set)
    _datasets: dict[str, DatasetChoice] = field(default_factory=dict)

    def run(self) -> Run:
        """The cells, with notes."""
        cells: list[Cell] = []
        common, addressed = self._common_and_addressed
        for name in several("dataset", common.get("dataset", "synthact")):
            dataset = self._dataset(name)
            for asked in self._methods_on(dataset):
                keys = {k: v for k, v in common.items() if not self._is_control(asked) or k in self._of_controls}
                cells += self._cells(asked, dataset, keys, addressed.get(asked.name, {}))
        self._check_taken()
        unique = list({cell.hash: cell for cell in cells}.values())
        _check_titles(unique)
        return Run(unique, self.options, tuple(self._notes()))

    @cached_property
    def _asked(self) -> list[_Asked]:
        return [asked for name in several("methods", self.given["methods"]) for asked in _asked(name)]

    @property
    def _of_controls(self) -> tuple[str, ...]:
        """Keys that hold for controls too; a reader may be one of the modules that the user names."""
        return (*CONTROL_KEYS, "imports") if "reader" in self.given else CONTROL_KEYS

    def _is_control(self, asked: _Asked) -> bool:
        return asked not in self._asked

    def _methods_on(self, dataset: DatasetChoice) -> list[_Asked]:
        """The controls that the dataset adds, then the methods that are asked for."""
        by_name = {asked.name for asked in self._asked}
        controls = dataset.config.controls if self.options.controls else []
        return [*(_Asked(name, is_added=True) for name in controls if name not in by_name), *self._asked]

    def _dataset(self, name: str) -> DatasetChoice:
        if name not in self._datasets:
            self._datasets[name] = DatasetChoice.load(name)
        return self._datasets[name]

    @cached_property
    def _common_and_addressed(self) -> tuple[Given, dict[str, Given]]:
        """Settings for all methods, and those that address one by its name.

        Raises:
            ConfigError: an unknown key, or a method that is not run.
        """
        known = [*CHOICE_KEYS, *PROTOCOL_KEYS, *RunOptions.model_fields]
        run = {asked.name for asked in self._asked}
        for name in several("dataset", self.given.get("dataset", "synthact")):
            run |= {asked.name for asked in self._methods_on(self._dataset(name))}
        common: Given = {}
        addressed: dict[str, Given] = defaultdict(dict)
        for key, value in self.given.items():
            if key in known or key.startswith(("method.", "train.")):
                common[key] = value
                continue
            method, inner = _address(key, [*run, *names("methods")])
            if method is None:
                raise ConfigError(
                    f"Unknown key {key!r}.{suggest(key, [*known, 'method.…', 'train.…', 'METHOD.method.…'])}"
                )
            if method not in run:
                raise ConfigError(f"{key}= addresses {method}, which is not among methods={', '.join(sorted(run))}.")
            addressed[method][inner] = value
        return common, addressed

    def _cells(self, asked: _Asked, dataset: DatasetChoice, common: Given, addressed: Given) -> list[Cell]:
        """Cells of one method on one dataset: the product of all keys that have several values."""
        method = MethodChoice.load(asked.spelled)
        both = sorted(set(asked.settings) & {*common, *addressed})
        if both:
            raise ConfigError(
                f"The ablation sets {both[0]}={asked.settings[both[0]]} for {asked.name} itself: leave {both[0]}= out."
            )
        own: Given = {**asked.settings, **addressed}
        values = {**common, **own}
        keys = self._applying(method, dataset, values, own, asked=not self._is_control(asked))
        axes = [[(key, value) for value in several(key, values[key])] for key in keys]
        modules = (
            sum(map(Modules.named, several("imports", values["imports"])), Modules()) if "imports" in values else None
        )
        cells = []
        for choice in map(dict, itertools.product(*axes)):
            self._note_activation(choice, dataset)
            trained_on = self._dataset(choice["train_on"]) if "train_on" in choice else dataset
            cell = CellChoice(method, dataset, trained_on, choice, modules or Modules()).cell(is_added=asked.is_added)
            cells.append(cell)
        return cells

    def _applying(
        self, method: MethodChoice, dataset: DatasetChoice, values: Given, own: Given, *, asked: bool
    ) -> list[str]:
        """The keys that apply to a method, in the order protocol, choices, method and training.

        Args:
            method: the method.
            dataset: that is tested.
            values: all settings for the method.
            own: those for this method alone.
            asked: whether the user asked for the method: the keys of others are no help.

        Raises:
            ConfigError: a key that is for this method alone does not.
        """
        trains_on = several("train_on", values["train_on"])[0] if "train_on" in values and method.is_trained else None
        trained_on = self._dataset(trains_on) if trains_on else dataset
        matcher = "chosen" if "matcher" in values else None
        self.offered |= set(method.keys(trained_on)) if asked else set()
        keys = [key for key in (*PROTOCOL_KEYS, *CHOICE_KEYS) if key in values and key not in (*NO_AXES, *FOR_SOME)]
        for key in [*FOR_SOME, *(key for key in values if key.startswith(("method.", "train.")))]:
            if key not in values:
                continue
            applies = method.takes(key, trained_on, matcher)
            if not applies and key in own:
                raise ConfigError(f"{method.name} has no key {key!r}.{suggest(key, method.keys(trained_on))}")
            (self.taken if applies else self.refused)[key][method.name] = None
            keys += [key] if applies else []
        return keys

    def _note_activation(self, choice: Mapping[str, str], dataset: DatasetChoice) -> None:
        if "activation" in choice:
            name = choice.get("backbone", dataset.config.backbone)
            is_clip = "quick_gelu" in load("backbones", name).checked(BackboneConfig).backbone
            (self.taken if is_clip else self.refused)["activation"][name] = None

    def _check_taken(self) -> None:
        """Raise `ConfigError` for a key that nothing takes."""
        for key, lacking in self.refused.items():
            if self.taken[key]:
                continue
            text, who = f"{key}={_spelled(self.given[key])}", ", ".join(lacking)
            if key in ("train_on", "checkpoint", "recipe") or (
                key.startswith("train.") and not any(map(_is_training, self.offered))
            ):
                raise ConfigError(f"{text} does not apply: none of these methods is trained ({who}). Leave it out.")
            if key == "matcher":
                raise ConfigError(f"{text} does not apply: none of these methods has a matcher ({who}). Leave it out.")
            if key == "activation":
                raise ConfigError(f"{text} does not apply: {who} is no CLIP model. Leave it out.")
            raise ConfigError(
                f"{who} {'has' if len(lacking) == 1 else 'have'} no key {key!r}.{suggest(key, self.offered)}"
            )

    def _notes(self) -> list[str]:
        """One line for each key that applies to some methods and not to others."""
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
        for key, lacking in self.refused.items():
            groups[tuple(self.taken[key]), tuple(lacking)].append(f"{key}=")
        return [
            f"{', '.join(keys)} {'applies' if len(keys) == 1 else 'apply'} to {', '.join(taken)}, not to {', '.join(lacking)}."
            for (taken, lacking), keys in groups.items()
        ]


def _is_training(key: str) -> bool:
    return key.startswith("train.")


def _spelled(value: str | list[str]) -> str:
    return ",".join(value) if isinstance(value, list) else value


def _address(key: str, methods: list[str]) -> tuple[str | None, str]:
    """The method that a key such as "otam.train.seed" addresses, and what follows its name; None where it addresses none."""
    for method in sorted(methods, key=len, reverse=True):
        inner = key.removeprefix(f"{method}.")
        if inner != key and (inner in ADDRESSED or inner.startswith(("method.", "train."))):
            return method, inner
    return None, key


def _check_titles(cells: list[Cell]) -> None:
    """Raise `ConfigError` where one title would name several rows of a table."""
    rows: dict[tuple[str, str, int, int], set[tuple[str, ...]]] = defaultdict(set)
    for cell in cells:
        if cell.label.named is not None:
            p = cell.protocol
            changed = (f"{key}={value}" for key, value in sorted(cell.label.changed.items()))
            place = (cell.label.named, cell.identity.dataset.name, p.way, p.shot)
            rows[place].add((cell.name, str(cell.identity.backbone["name"]), *changed))
    for (title, *_), of_title in rows.items():
        if len(of_title) > 1:
            what = " and ".join(" ".join(row) for row in sorted(of_title)[:2])
            raise ConfigError(
                f"title={title!r} would name {len(of_title)} different rows ({what}). Say METHOD.title= for one of them, or "
                "leave it out."
            )
