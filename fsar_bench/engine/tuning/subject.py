"""What is tuned: a method on a dataset, with its space, its budget, and the cells of its trials. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from fsar_bench.config.cell import Cell
from fsar_bench.config.choice import DatasetChoice, MethodChoice
from fsar_bench.config.files import names
from fsar_bench.config.overrides import several
from fsar_bench.config.resolve import Run, resolve
from fsar_bench.config.search import DEFAULT, Space, Values, check_keys, parse_space, spell
from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, RunOptions, Settings
from fsar_bench.config.tuned import AUTO, MOST_TRIALS, NONE, Budget, Trial, tuned_file
from fsar_bench.engine.tuning.proposals import VERSION, propose, rounds
from fsar_bench.errors import ConfigError, shown, suggest
from fsar_bench.io import digest, user_path

BY_DATASET = ("train.episodes", "train.val_episodes", "train.val_interval")  # where not typed: the dataset's
OF_TRAINING = (*BY_DATASET, "train.accumulate")
OF_CHOICES = ("backbone", "pretrained", "activation", "reader", "imports", "protocol")
OF_PROTOCOL = tuple(key for key in PROTOCOL_KEYS if key not in ("query", "episodes", "frames_as", "features"))
SEVERAL = ("methods", "dataset")  # keys that take several values
UNUSED = {"devices": 1, "launcher": "local", "overwrite": False}  # options that tuning does not have


class TuneOptions(Settings):
    """What `fsar-bench tune` has beside the keys of `fsar-bench run`."""

    budget: int = Field(16, ge=2, le=MOST_TRIALS, description="trials of each method, its untuned settings included")


@dataclass(frozen=True)
class Subject:
    """A method on a dataset.

    Attributes:
        title: of the method.
        method: name of its config.
        dataset: name of the dataset.
        space: values that are tried, by key.
        untuned: the values of these keys before.
        budget: what all methods are given.
        file: where the tuning is stored.
        cell: the cell of the untuned settings.
        settings: what all of its trials have, as it is typed.
    """

    title: str
    method: str
    dataset: str
    space: Space
    untuned: Values
    budget: Budget
    file: Path
    cell: Cell
    settings: Mapping[str, str] = field(repr=False)

    @property
    def seed(self) -> int:
        """Of the trainings, of the val episodes, and of what is tried."""
        return self.cell.protocol.seed

    @property
    def setup(self) -> str:
        """Digest of what decides which values are tried and what they give, the budget's trials aside."""
        space = {key: values.model_dump(mode="json") for key, values in self.space.items()}
        identity = self.cell.identity.model_dump(mode="json")
        identity["protocol"] = {key: identity["protocol"][key] for key in ("way", "shot", "seed", "frames", "template")}
        return digest([VERSION, identity, space])

    def trial(self, values: Values) -> Cell:
        """The cell of a trial.

        Raises:
            ConfigError: a value that its key does not take.
        """
        return _one_cell({**self.settings, **{key: spell(value) for key, value in values.items()}})

    def check_ends(self) -> None:
        """Raise `ConfigError` where the ends of the space, or a choice, are no values of their keys."""
        for key, values in self.space.items():
            for value in values.ends:
                try:
                    self.trial({**self.untuned, key: value})
                except ConfigError as error:
                    raise ConfigError(f"search[{key!r}] of {self.method} cannot be {spell(value)}: {error}") from error

    def rounds(self) -> list[range]:
        """Numbers of the trials that are proposed together."""
        return rounds(self.budget.trials)

    def propose(self, before: Sequence[Trial], wanted: range) -> list[Values]:
        """The values of a round; arguments as in `proposals.propose`."""
        return propose(self.space, self.untuned, before, wanted, self.seed, f"tuning {self.dataset} {self.method}")

    def name(self, number: int) -> str:
        """A trial in words."""
        return f"trial {number + 1}/{self.budget.trials}: {self.title} on {self.dataset}"


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
        subjects: in the order of work.
        options: how to run them.
        notes: what the user should know of them before.
    """

    subjects: list[Subject]
    options: RunOptions
    notes: list[str]


def subjects_of(settings: Mapping[str, str]) -> Asked:
    """What a command asks for.

    Args:
        settings: by key, as they are typed: those of `run` that hold for all methods, and those of `TuneOptions`.

    Raises:
        ConfigError: a name, key or space that is wrong, or no method that is trained.
    """
    _check_known(settings)
    trials = TuneOptions.of(
        {"budget": TuneOptions.parse("budget", settings["budget"])} if "budget" in settings else {}
    ).budget
    common = {key: value for key, value in settings.items() if key not in ("budget", "tuned", *SEVERAL)}
    if not settings.get("methods"):
        raise ConfigError(f"Which methods? Say fsar-bench tune NAME,NAME or all.{suggest('', names('methods'))}")
    asked = [each for name in several("methods", settings["methods"]) for each in _named(name)]
    subjects: list[Subject] = []
    untrained: dict[str, None] = {}
    for dataset in dict.fromkeys(several("dataset", settings.get("dataset", Choices.model_fields["dataset"].default))):
        for name in dict.fromkeys(asked):
            method, on = MethodChoice.load(name), DatasetChoice.load(dataset)
            if method.is_trained:
                chosen = {**common, "methods": name, "dataset": dataset}
                subjects.append(_subject(method, on, chosen, settings.get("tuned", AUTO), trials))
            else:
                untrained[method.name] = None
    if not subjects:
        raise ConfigError(f"Nothing is tuned: none of these methods is trained ({', '.join(untrained)}).")
    notes = [f"not trained, left out: {', '.join(untrained)}."] if untrained else []
    return Asked(subjects, _run({**subjects[0].settings}).options, notes)


def _check_known(settings: Mapping[str, str]) -> None:
    known = [*SEVERAL, "budget", "tuned", *OF_CHOICES, *OF_PROTOCOL, *OF_TRAINING, *RunOptions.model_fields]
    for key, value in settings.items():
        if key not in known:
            why = ""
            if key.startswith(("method.", "train.", "matcher")):
                why = " What is tuned are the settings of a config: write one of your own, with _base_, to tune others."
            raise ConfigError(f"tune has no key {key!r}.{why}{suggest(key, known)}")
        if key in UNUSED and RunOptions.parse(key, value) != UNUSED[key]:
            raise ConfigError(
                f"{key}={value} has no effect in a tuning: its trials are trained on one device each, here, once. Leave it out; "
                "jobs= sets how many run at a time."
            )
        if key in (*OF_CHOICES, *OF_PROTOCOL, *OF_TRAINING) and len(several(key, value)) > 1:
            raise ConfigError(f"{key}={shown(value)} has several values, and a tuning one.")


def _named(name: str) -> list[str]:
    """Methods that a name stands for."""
    if name == "all":
        return list(names("methods"))
    if name.startswith("ablations/"):
        raise ConfigError(f"{name} are rows with settings of their own: name the methods that they are of.")
    return [name]


def _subject(
    method: MethodChoice, dataset: DatasetChoice, settings: Mapping[str, str], tuned: str, trials: int
) -> Subject:
    """A method on a dataset; all methods have the training episodes and the val episodes of the dataset."""
    if tuned == NONE:
        raise ConfigError("tuned=none names no place for what is tuned: say auto, or a folder.")
    where = f"{method.path}: "
    space = parse_space(method.config.search or DEFAULT, where)
    defaults = method.values(dataset)
    check_keys(space, defaults, where)
    train = dataset.training()
    length = {key: settings.get(key, str(train[key.removeprefix("train.")])) for key in BY_DATASET}
    chosen = {**settings, **length, "tuned": NONE, "controls": "false"}
    cell = _one_cell(chosen)
    assert cell.identity.train is not None, "the method is trained"
    folder = user_path(tuned) if tuned != AUTO else method.tuned_folder(dataset, AUTO)
    assert folder is not None, "only tuned=none has none"
    backbone, name = str(cell.identity.backbone["name"]), dataset.config.dataset.name
    budget = Budget(trials=trials, episodes=cell.identity.train.episodes, val_episodes=cell.identity.train.val_episodes)
    subject = Subject(
        title=cell.label.title,
        method=method.name,
        dataset=name,
        space=space,
        untuned={key: defaults[key] for key in space},
        budget=budget,
        file=tuned_file(folder, name, method.name, backbone if backbone != dataset.backbone else None),
        cell=cell,
        settings=chosen,
    )
    subject.check_ends()
    return subject


def _run(settings: Mapping[str, str]) -> Run:
    return resolve([f"{key}={value}" for key, value in settings.items()])


def _one_cell(settings: Mapping[str, str]) -> Cell:
    (cell,) = _run(settings).cells
    return cell
