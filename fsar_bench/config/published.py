"""Published recipes: `recipe=official` trains a method by the settings of its official code. Data, in `configs/recipes/`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from pydantic import Field

from fsar_bench.config.files import Config, load, names
from fsar_bench.config.overrides import overlay
from fsar_bench.config.settings import Settings, Text
from fsar_bench.errors import ConfigError


class Recipe(Settings):
    """Published settings, or the part of them that differs somewhere.

    Attributes:
        train: changes of the training.
        method: changes of the method's config; keys that it lacks are arguments of its class.
        backbone: changes of the backbone's config; `train_batch_norm` is for backbones that have batch norm.
        class_texts: spellings of class texts, which replace those of the dataset by their letters and digits.
    """

    train: dict[str, Any] = Field({})
    method: dict[str, Any] = Field({})
    backbone: dict[str, Any] = Field({})
    class_texts: list[Text] = Field([])

    def over(self, base: Recipe) -> Recipe:
        """`base` with this one laid over it."""
        parts = {key: overlay(getattr(base, key), getattr(self, key)) for key in ("train", "method", "backbone")}
        return Recipe(**parts, class_texts=self.class_texts or base.class_texts)


class ShotRecipe(Recipe):
    """The part of a recipe for one number of shots.

    Attributes:
        shot: of the evaluation.
    """

    shot: int = Field(ge=1)


class DatasetRecipe(Recipe):
    """The part of a recipe for one dataset.

    Attributes:
        shots: what differs at some numbers of shots.
    """

    shots: list[ShotRecipe] = Field([])


class RecipeConfig(Config):
    """The fields of a method's published settings.

    Attributes:
        source: repository and commit.
        encoder: name of the backbone that they were published with.
        not_taken: what the official code does otherwise and the recipe does not take, beginning with the evaluation.
        common: what holds everywhere.
        shots: the numbers of shots with published settings, each with what differs there.
        datasets: the datasets with published settings, each with what differs there.
    """

    source: Text
    encoder: Text
    not_taken: list[Text]
    common: Recipe
    shots: Annotated[list[ShotRecipe], Field(min_length=1)]
    datasets: Annotated[dict[str, DatasetRecipe], Field(min_length=1)]

    def at(self, dataset: str, shot: int) -> Recipe | None:
        """The whole recipe of a dataset at a number of shots; None if none was published."""
        of_shot = {part.shot: part for part in self.shots}
        if dataset not in self.datasets or shot not in of_shot:
            return None
        of_dataset = self.datasets[dataset]
        recipe = of_shot[shot].over(of_dataset.over(self.common))
        for part in of_dataset.shots:
            recipe = part.over(recipe) if part.shot == shot else recipe
        return recipe

    def places(self) -> Iterator[tuple[str, int]]:
        """Datasets and numbers of shots with published settings."""
        return ((dataset, part.shot) for dataset in self.datasets for part in self.shots)


def published(method: str) -> RecipeConfig | None:
    """The published settings of a method by the name of its config; None where there are none."""
    return _read(method) if method in names("recipes") else None


@cache
def _read(method: str) -> RecipeConfig:
    return load("recipes", method).checked(RecipeConfig)


def official_recipe(method: str, dataset: str, shot: int) -> Recipe:
    """The published settings of a method on a dataset.

    Args:
        method: name of its config.
        dataset: name of the dataset of the training.
        shot: shots of the evaluation.

    Raises:
        ConfigError: none were published; lists those that were.
    """
    config = published(method)
    recipe = config.at(dataset, shot) if config else None
    if recipe is None:
        raise ConfigError(
            f"recipe=official: {method} has no published settings for {dataset} at {in_words([shot])}. There are "
            f"{'; '.join(_offers(method))}. Choose one of these, or leave recipe= out."
        )
    return recipe


def _offers(asked: str) -> list[str]:
    """What has published settings: of the method that was asked for, or of all methods where it has none."""
    found = {name: published(name) for name in ([asked] if published(asked) else names("recipes"))}
    return [
        f"{name} on {', '.join(config.datasets)} ({in_words([part.shot for part in config.shots])})"
        for name, config in found.items()
        if config
    ]


def in_words(shots: list[int]) -> str:
    """Numbers of shots, such as "1 and 5 shots"."""
    *before, last = map(str, shots)
    return f"{', '.join(before)}{' and ' if before else ''}{last} {'shot' if shots == [1] else 'shots'}"
