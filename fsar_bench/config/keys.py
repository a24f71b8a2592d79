"""The keys that `fsar-bench run` takes, described from the fields of the typed settings and from configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsar_bench.config.cards import arguments
from fsar_bench.config.choice import MethodChoice
from fsar_bench.config.fields import type_name
from fsar_bench.config.overrides import flatten, merge
from fsar_bench.config.search import DEFAULT, Space, parse_space
from fsar_bench.config.settings import Settings, Train


@dataclass(frozen=True)
class Key:
    """A key that `fsar-bench run` takes.

    Attributes:
        name: as it is typed.
        type: of its value, in words.
        default: as it would be typed.
        description: one line.
    """

    name: str
    type: str
    default: str
    description: str


def keys(kind: type[Settings], only: tuple[str, ...] | None = None) -> list[Key]:
    """The keys of a kind of settings, from its fields."""
    return [
        Key(
            f"{kind.prefix}{name}",
            type_name(field.annotation),
            _typed(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for name, field in kind.model_fields.items()
        if only is None or name in only
    ]


def method_keys(name: str) -> list[Key]:
    """The `method.*` and `train.*` keys of a method, with its config's values.

    Raises:
        ConfigError: unknown method.
    """
    method = MethodChoice.load(name).config
    described = arguments(method.method["type"])
    values = flatten({key: value for key, value in method.method.items() if key != "type"})
    rows = [Key(f"method.{key}", _kind(value), _typed(value), described.get(key, "")) for key, value in values.items()]
    return rows if method.train is None else [*rows, *_train_keys(name, method.train)]


def search_space(name: str) -> Space:
    """What `fsar-bench tune` tries of a method; empty for one that is not trained.

    Raises:
        ConfigError: unknown method, or a space that cannot be.
    """
    method = MethodChoice.load(name)
    return parse_space(method.config.search or DEFAULT, f"{method.path}: ") if method.is_trained else {}


def _train_keys(name: str, changes: dict[str, Any]) -> list[Key]:
    described = {key.name.removeprefix("train."): key for key in keys(Train)}
    rows = []
    for key, value in flatten(merge(Train.defaults(), changes, f"{name}: train")).items():
        field, _, inner = key.partition(".")
        kind, text = (_kind(value), "") if inner else (described[field].type, described[field].description)
        rows.append(Key(f"train.{key}", kind, _typed(value), text))
    return rows


def _kind(value: Any) -> str:
    return "any" if value is None else type_name(type(value))


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return "" if value in ([], {}) else str(value)
