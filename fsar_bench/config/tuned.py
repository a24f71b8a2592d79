"""Tuned settings of a method on a dataset: what was tried, what it gave on val, what was chosen, and what it took.

`fsar-bench tune` writes a file per dataset and method, and resolution reads the chosen values from it. A file is data: it is
checked against its own space, and names keys and plain values alone.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fsar_bench.config.search import MOST_KEYS, Choice, Key, Range, Values, spell
from fsar_bench.config.settings import Count, Frozen, Name, Seed, Sha, Text
from fsar_bench.errors import ConfigError
from fsar_bench.io import digest, fault_of_file, load_json

AUTO, NONE = "auto", "none"  # values of `tuned=` that name no folder
MOST_TRIALS = 1000
SHORT = 16  # digits of the digest of a tuning in a label
Percent = Annotated[float, Field(ge=0, le=100)]


class Budget(Frozen):
    """What every method is given.

    Attributes:
        trials: number of trials, the untuned settings included.
        episodes: training episodes of each.
        val_episodes: val episodes that each is measured on.
    """

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)]
    episodes: Count
    val_episodes: Count


class Trial(Frozen):
    """One training with some values.

    Attributes:
        values: by key.
        accuracy: percent of the val queries at its best validation; None where the training diverged.
        curve: (training episodes, val accuracy) of each validation.
        training: key of the training.
    """

    values: Values
    accuracy: Percent | None
    curve: Annotated[list[tuple[Annotated[int, Field(ge=0)], Percent]], Field(max_length=100_000)]
    training: Sha

    @model_validator(mode="after")
    def _is_the_best_of_its_curve(self) -> Self:
        best = max((accuracy for _, accuracy in self.curve), default=None)
        if self.accuracy is not None and self.accuracy != best:
            raise ValueError(f"a trial has the accuracy {self.accuracy}, and the best of its curve is {best}.")
        return self


class Spent(Frozen):
    """What cannot repeat: seconds of each trial (0 for one whose training an earlier one had), and what they were measured on."""

    seconds: Annotated[list[Annotated[float, Field(ge=0)]], Field(max_length=MOST_TRIALS)]
    device: Text = ""
    threads: Annotated[int, Field(ge=0)] = 0
    machine: Text = ""
    python: Text = ""
    packages: Annotated[dict[Text, Text | None], Field(max_length=1000)] = Field({})


class Tuning(Frozen):
    """A tuning that is complete.

    Attributes:
        method: name of its config.
        dataset: name of the dataset.
        backbone: name of the backbone's config.
        way: classes of a val episode.
        shot: supports per class of a val episode.
        seed: of the trainings, of the val episodes, and of the values that are tried.
        setup: digest of all that decides which values are tried and what they give, the budget aside.
        budget: what it was given.
        space: values that could be tried, by key.
        trials: in the order in which they were chosen; the first has the untuned settings.
        chosen: number of the best trial, the first of equals.
        spent: what it took.
    """

    schema_version: Literal[1] = 1
    method: Name
    dataset: Name
    backbone: Text
    way: Count
    shot: Count
    seed: Seed
    setup: Sha
    budget: Budget
    space: Annotated[dict[Key, Range | Choice], Field(min_length=1, max_length=MOST_KEYS)]
    trials: Annotated[list[Trial], Field(min_length=1, max_length=MOST_TRIALS)]
    chosen: Annotated[int, Field(ge=0)]
    spent: Spent

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.trials) != self.budget.trials or len(self.spent.seconds) != self.budget.trials:
            raise ValueError(f"it has {len(self.trials)} trials, and a budget of {self.budget.trials}.")
        for number, trial in enumerate(self.trials):
            if set(trial.values) != set(self.space):
                raise ValueError(f"trial {number} has other keys than the space.")
            outside = [key for key, value in trial.values.items() if not self.space[key].holds(value)]
            if number and outside:  # the untuned settings may be outside
                raise ValueError(f"trial {number} has {outside[0]}={trial.values[outside[0]]}, outside of its space.")
        if self.chosen != best_of(self.trials):
            raise ValueError(f"trial {self.chosen} is chosen, which is not the first of the best.")
        return self

    @property
    def values(self) -> Values:
        """The chosen values, by key."""
        return self.trials[self.chosen].values

    @property
    def digest(self) -> str:
        """SHA-256 of everything that repeats."""
        return digest(self.model_dump(mode="json", exclude={"spent"}))


def best_of(trials: list[Trial]) -> int | None:
    """Number of the trial with the highest val accuracy, the first of equals; None where all diverged."""
    known = [number for number, trial in enumerate(trials) if trial.accuracy is not None]
    return max(known, key=lambda number: (trials[number].accuracy, -number), default=None)


class TunedLabel(Frozen):
    """What a row tells of the tuning that its settings come from.

    Attributes:
        trials: number of trials.
        episodes: training episodes of each.
        backbone: that was tuned.
        values: that the tuning chose, by key, as they are typed.
        source: beginning of the digest of the tuning.
    """

    trials: Count
    episodes: Count
    backbone: Text
    values: Annotated[dict[Key, Text], Field(max_length=MOST_KEYS)]
    source: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

    @classmethod
    def of(cls, tuning: Tuning) -> TunedLabel:
        """What a tuning tells."""
        return cls(
            trials=tuning.budget.trials,
            episodes=tuning.budget.episodes,
            backbone=tuning.backbone,
            values={key: spell(value) for key, value in sorted(tuning.values.items())},
            source=tuning.digest[:SHORT],
        )


def tuned_file(folder: Path, dataset: str, method: str, backbone: str | None = None) -> Path:
    """File of a tuning.

    Args:
        folder: of all tunings.
        dataset: its name.
        method: its name.
        backbone: name of a backbone that is not the dataset's own.
    """
    of_backbone = f"@{backbone.replace(':', '_').replace('/', '_')}" if backbone else ""
    return folder / dataset / f"{method}{of_backbone}.json"


def find_tuning(folder: Path, dataset: str, method: str, backbone: str | None = None) -> tuple[Path, Tuning] | None:
    """The tuning of a method on a dataset with a backbone, or else with the dataset's own backbone; None where there is none.

    Args:
        folder: of all tunings.
        dataset: its name.
        method: its name.
        backbone: name of a backbone that is not the dataset's own.

    Raises:
        ConfigError: the file is damaged, or one of another method or dataset.
    """
    for path in [tuned_file(folder, dataset, method, backbone)] + [tuned_file(folder, dataset, method)] * bool(
        backbone
    ):
        if path.exists():
            tuning = read_tuning(path)
            if (tuning.method, tuning.dataset) != (method, dataset):
                raise ConfigError(
                    f"{path} is the tuning of {tuning.method} on {tuning.dataset}, not of {method} on {dataset}. Move it there, "
                    "or delete it."
                )
            return path, tuning
    return None


def read_tuning(path: Path) -> Tuning:
    """Read the file of a tuning.

    Raises:
        ConfigError: it cannot be read, or is not what `fsar-bench tune` writes.
    """
    if fault := fault_of_file(path):
        raise ConfigError(f"The tuned settings {path}: the file {fault}. Delete it, or say tuned=none.")
    state = path.stat()
    return _read(path, state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=1000)
def _read(path: Path, *version: int) -> Tuning:
    """A sweep asks for the same file once per cell."""
    return load_json(
        path,
        Tuning,
        f"The file of tuned settings {path}",
        "Tune again, or delete it; tuned=none ignores it.",
        ConfigError,
    )
