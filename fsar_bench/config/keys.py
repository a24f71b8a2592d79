"""The keys that `fsar-bench run` takes, described from the fields of the typed settings and from configs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fsar_bench.config.choice import MethodChoice, train_defaults
from fsar_bench.config.overrides import flatten, merge
from fsar_bench.config.settings import Settings, Train, type_name


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
    """The `method.*` and `train.*` keys of a method with its config's values.

    Raises:
        ConfigError: unknown method.
    """
    method = MethodChoice.load(name).config
    values = flatten({"method": {k: v for k, v in method.method.items() if k != "type"}})
    out = [
        Key(key, type(value).__name__ if value is not None else "any", _typed(value), "")
        for key, value in values.items()
    ]
    if method.train is not None:
        defaults = flatten(merge(train_defaults(), method.train, f"{name}: train"))
        described = {key.name.removeprefix("train."): key for key in keys(Train)}
        for key, value in defaults.items():
            top = described[key.split(".")[0]]
            out.append(
                Key(
                    f"train.{key}", top.type if "." not in key else type(value).__name__, _typed(value), top.description
                )
            )
    return out


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return "" if value in ([], {}) else str(value)
