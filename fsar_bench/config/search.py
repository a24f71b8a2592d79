"""Search spaces: which settings of a method `fsar-bench tune` tries, and which values of each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from fsar_bench.config.settings import Settings
from fsar_bench.errors import ConfigError, shown, suggest

MOST_KEYS = 8
MOST_CHOICES = 100
DIGITS = 3  # significant ones of a drawn number: more tell nothing, and are tiresome to type
FIXED = (  # settings of a training that decide what a trial costs, or on which episodes it is measured
    "episodes", "way", "shot", "query_per_class", "val_episodes", "val_interval", "seed", "hooks", "scheduler",
    "allows_flip", "no_decay",
)  # fmt: skip
DEFAULT: dict[str, dict[str, Any]] = {"train.optimizer.lr": {"low": 1e-6, "high": 1e-2, "log": True}}
"""The space of a method whose config has none: a full fine-tuning of CLIP learns at 1e-6 to 1e-5, a new head at up to 1e-2."""

WORD = r"[A-Za-z][\w+-]{0,99}"  # nothing that reads as JSON
Word = Annotated[str, Field(pattern=f"^{WORD}$")]
Scalar = bool | int | float | Word | None
Values = dict[str, Scalar]
Key = Annotated[str, Field(pattern=r"^(method|train)(\.[A-Za-z_]\w*)+$", max_length=200)]


class Range(Settings):
    """Numbers from `low` to `high`; whole ones where both are whole."""

    low: int | float = Field(description="smallest value")
    high: int | float = Field(description="largest value")
    log: bool = Field(False, description="equal factors, not equal differences, are equally likely")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}.")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 with log=True.")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The values between which all others are."""
        return self.low, self.high

    def at(self, place: float) -> Scalar:
        """The value at a place in [0, 1)."""
        low, high = self.low, self.high + self.is_whole  # each whole number has a piece of its own
        if self.log:
            return self.rounded(math.exp(math.log(low) + place * (math.log(high) - math.log(low))))
        return self.rounded(low + place * (high - low))

    def rounded(self, value: float) -> Scalar:
        """A value of the range as it is tried: whole, or of a few digits."""
        inside = min(max(int(value) if self.is_whole else float(f"{value:.{DIGITS}g}"), self.low), self.high)
        return int(inside) if self.is_whole else float(inside)

    def holds(self, value: Scalar) -> bool:
        """Whether it has a value."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and not (self.is_whole and isinstance(value, float))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' * self.log}{', whole' * self.is_whole}"


class Choice(Settings):
    """One of some values."""

    choices: list[Scalar] = Field(min_length=2, max_length=MOST_CHOICES, description="values")

    @field_validator("choices", mode="before")
    @classmethod
    def _are_plain(cls, choices: Any) -> Any:
        for value in choices if isinstance(choices, (list, tuple)) else ():
            is_word = isinstance(value, str) and re.fullmatch(WORD, value)
            if not is_word and not isinstance(value, (bool, int, float, type(None))):
                raise ValueError(f"choices has {shown(value)}: values are numbers, words, True, False or None.")
        return list(choices) if isinstance(choices, tuple) else choices

    @field_validator("choices")
    @classmethod
    def _differ(cls, choices: list[Scalar]) -> list[Scalar]:
        spelled = [spell(value) for value in choices]
        if twice := [text for text in spelled if spelled.count(text) > 1]:
            raise ValueError(f"choices has {twice[0]} twice.")
        return choices

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """All of them: there is no order."""
        return tuple(self.choices)

    def at(self, place: float) -> Scalar:
        """The value at a place in [0, 1)."""
        return self.choices[int(place * len(self.choices))]

    def holds(self, value: Scalar) -> bool:
        """Whether it has a value; 1 is not true."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def __str__(self) -> str:
        return ", ".join(map(spell, self.choices))


Space = dict[str, Range | Choice]


def spell(value: Scalar) -> str:
    """A value as it is typed."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse_space(search: Mapping[str, Mapping[str, Any]], where: str) -> Space:
    """A search space from a config.

    Args:
        search: `dict(low=, high=, log=)` or `dict(choices=[...])` by key, as `method.alpha` or `train.optimizer.lr`.
        where: opens the message of an error.

    Raises:
        ConfigError: names the key, what is wrong with it, and what is expected.
    """
    if len(search) > MOST_KEYS:
        raise ConfigError(f"{where}search has {len(search)} keys: at most {MOST_KEYS} are tuned together.")
    space: Space = {}
    for key, values in search.items():
        of_key = f"{where}search[{key!r}]: "
        if not key.startswith(("method.", "train.")) or not all(part.isidentifier() for part in key.split(".")):
            raise ConfigError(f"{of_key}keys are those of run, such as 'method.alpha' or 'train.optimizer.lr'.")
        if not {"low", "high", "choices"} & set(values):
            raise ConfigError(f"{of_key}it needs dict(low=, high=), with log=True for rates, or dict(choices=[...]).")
        space[key] = Choice.of(dict(values), of_key) if "choices" in values else Range.of(dict(values), of_key)
    return space


def check_keys(space: Space, defaults: Mapping[str, Any], where: str) -> None:
    """Check that a method has the keys of a space, and that values are of their kind.

    Args:
        space: it.
        defaults: the method's values before any is changed, by key.
        where: opens the message of an error.

    Raises:
        ConfigError: names the key and what is expected.
    """
    for key, values in space.items():
        of_key = f"{where}search[{key!r}]: "
        field = key.split(".")[1]
        if (key.startswith("train.") and field in FIXED) or key in ("method.frames",) or key.endswith(".type"):
            raise ConfigError(
                f"{of_key}it is the same for all trials and methods, or no value of a method, and is not tuned."
            )
        if key not in defaults:
            raise ConfigError(f"{of_key}the method has no such key.{suggest(key, defaults)}")
        if fault := _fault_of_kind(values, defaults[key]):
            raise ConfigError(f"{of_key}{fault} (the method's own value is {shown(defaults[key])}).")


def _fault_of_kind(values: Range | Choice, default: Any) -> str:
    """What keeps some values from taking the place of a method's own one; empty if nothing does."""
    if isinstance(default, (list, dict, tuple)):
        return "lists and parts of configs are not tuned"
    kinds: dict[type, tuple[str, tuple[type, ...]]] = {
        bool: ("true or false", (bool,)),
        int: ("whole numbers", (int,)),
        float: ("numbers", (int, float)),
        str: ("words", (str,)),
    }
    if isinstance(default, str) and not re.fullmatch(WORD, default):
        return "texts of other signs than a word's are not tuned"
    if type(default) not in kinds:  # None: any value may take its place
        return ""
    name, allowed = kinds[type(default)]
    wrong = [value for value in values.ends if value is not None and type(value) not in allowed]
    return f"{shown(wrong[0])} is none of the {name} that it takes" if wrong else ""


def describe(space: Space) -> str:
    """A space in words."""
    return "; ".join(f"{key}: {values}" for key, values in space.items())
