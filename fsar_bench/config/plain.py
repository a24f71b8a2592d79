"""Plain, bounded data: what a setting, a config and a stored result may name and hold.

`check_plain` tells early, with the file and the key, what no result could record; `plain_config` is what an identity accepts,
whoever wrote it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from fsar_bench.errors import ConfigError, shown

REGISTERED = (
    r"[A-Za-z_][A-Za-z0-9_-]*"  # names that components are registered by: none is a path, a file or a dotted name
)
RESERVED = {
    "method": ("imports", "init_seed", "backbone"),
    "backbone": ("imports", "init_seed"),
}  # see ComponentRegistry
KEY = re.compile(r"[A-Za-z0-9][\w .:/@+-]*")
TYPE = re.compile(REGISTERED)
DEEPEST = 20  # configs within configs
MOST_VALUES = 1_000
MOST_CONFIGS = 20  # in a list
LONGEST_TEXT = 2_000
LARGEST_NUMBER = 10**18
_SURROGATE = re.compile("[\ud800-\udfff]")  # in text that came from bytes which are no UTF-8


def check_plain(value: Any, key: str, where: str = "") -> None:
    """Refuse what no result can record, which is JSON: before work begins rather than when it is stored.

    Args:
        value: of a setting.
        key: its name, for the error.
        where: opens the message of an error.

    Raises:
        ConfigError: names the part that is no text, number, true, false, None, list or dictionary with texts as keys; that is a
            number which is not finite or has more than 18 digits; or that is nested endlessly.
    """
    for fault in _unplain(value, key, DEEPEST):
        raise ConfigError(
            f"{where}{fault}. Settings are text, finite numbers, true or false, none, lists and dictionaries."
        )


def _unplain(value: Any, key: str, levels: int) -> Iterator[str]:
    if isinstance(value, (dict, list, tuple)):
        if not levels:
            yield f"{key[:100]} is nested more than {DEEPEST} levels deep, or holds itself"
            return
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and (not isinstance(name, str) or _SURROGATE.search(name)):
                yield f"{key[:100]} has the key {shown(name)}, which is no text"
                return
            yield from _unplain(inner, f"{key}.{name}", levels - 1)
    elif fault := _unplain_fault(value):
        yield f"{key[:200]}={shown(value)} {fault}"


def _unplain_fault(value: Any) -> str:
    if isinstance(value, str):
        return "holds a character that is no UTF-8" if _SURROGATE.search(value) else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "must be a finite number"
    if isinstance(value, int):
        return "" if abs(value) <= LARGEST_NUMBER else "has more digits than a number can have here"
    if isinstance(value, type):
        return f"is a class: name it by text, {value.__name__!r}, as it is registered"
    return "" if value is None else f"is of the type {type(value).__name__}"


def plain_config(config: Any, what: str, *, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    """A config as a record holds it: a `type`, and plain values.

    Args:
        config: a dictionary.
        what: what it is called in errors, such as "train.optimizer".
        reserved: keys that it may not have at its top.

    Returns:
        The same, with tuples as lists.

    Raises:
        ValueError: it has no `type`; a `type`, at any depth, is not the name of a registered class; a key begins with "_"
            (MMEngine obeys these); it holds what is no plain value; or it is larger than any config.
    """
    if not isinstance(config, dict) or not isinstance(config.get("type"), (str, type)):
        raise ValueError(f"{what} needs a type: the registered name of a class.")
    for key in reserved:
        if key in config:
            raise ValueError(f"{what} has the key {key!r}, which fsar-bench sets itself: leave it out.")
    plain: dict[str, Any] = _Copier(what).copy(config, what, 0)
    return plain


def plain_configs(configs: Any, what: str) -> list[dict[str, Any]]:
    """A list of configs, each as `plain_config` returns it; raises as it does."""
    if not isinstance(configs, list) or len(configs) > MOST_CONFIGS:
        raise ValueError(f"{what} needs a list of at most {MOST_CONFIGS} configs, each with a type.")
    return [plain_config(config, f"{what}[{number}]") for number, config in enumerate(configs)]


class _Copier:
    """Copies nested values and checks them; counts them, so that a config of many small parts has an end too."""

    def __init__(self, what: str) -> None:
        self.what, self.count = what, 0

    def copy(self, value: Any, place: str, depth: int) -> Any:
        self.count += 1
        if self.count > MOST_VALUES or depth > DEEPEST:
            raise ValueError(
                f"{self.what} is larger than any config: at most {MOST_VALUES} values, {DEEPEST} levels deep, are allowed."
            )
        if isinstance(value, dict):
            return {_key(key, place): self._entry(key, item, place, depth) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.copy(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]
        return _leaf(value, place)

    def _entry(self, key: str, value: Any, place: str, depth: int) -> Any:
        if key == "type":
            return _registered(value, place)
        return self.copy(value, f"{place}.{key}", depth + 1)


def _key(key: object, place: str) -> str:
    if not isinstance(key, str) or not KEY.fullmatch(key) or len(key) > 200:
        raise ValueError(
            f"{place} has the key {str(key)[:60]!r}: keys are names of arguments, and do not begin with '_', which MMEngine "
            "would obey."
        )
    return key


def _registered(kind: object, place: str) -> str:
    if isinstance(kind, type):
        raise ValueError(
            f"{place}.type is the class {kind.__name__}: name it by text, type={kind.__name__!r}, as it is registered, so that "
            "the result can record it."
        )
    if not isinstance(kind, str) or not TYPE.fullmatch(kind) or len(kind) > 100:
        raise ValueError(
            f"{place}.type={str(kind)[:60]!r} is not the name of a registered class (letters, digits, '_' and '-', no dots): "
            "modules are imported by custom_imports alone."
        )
    return kind


def _leaf(value: Any, place: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        if not abs(value) <= LARGEST_NUMBER:  # NaN too
            raise ValueError(f"{place} is not a finite number of at most 18 digits.")
        return value
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"{place} is a text of {len(value)} characters; at most {LONGEST_TEXT} are allowed.")
        return value
    raise ValueError(
        f"{place} is {type(value).__name__}, which a result cannot record: give numbers, texts, lists or dicts."
    )
