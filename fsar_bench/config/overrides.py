"""Settings as users write them: pairs of text, values of Python, and typed changes of nested configs."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from typing import Any

from fsar_bench.config.fields import json_from_text, number_from_text
from fsar_bench.config.plain import DEEPEST, check_plain
from fsar_bench.errors import ConfigError, shown, suggest

WHOLE = ("template", "pretrained", "checkpoint", "title")  # texts in which a comma is a comma
CLOSING = {"(": ")", "[": "]", "{": "}"}


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """Split `key=value` arguments.

    Raises:
        ConfigError: an argument without "=", or a key that is given twice.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(
                f"Cannot read {shown(pair)}: arguments have the form key=value, such as methods=NAME,NAME."
            )
        if key in out:
            raise ConfigError(f"{key}= is given twice ({shown(out[key])} and {shown(value)}).")
        out[key] = value
    return out


def text_settings(values: Mapping[str, Any], levels: int = DEEPEST) -> dict[str, str | list[str]]:
    """Python values as the command line would spell them; nested dictionaries become dotted keys, lists several values.

    Args:
        values: by key.
        levels: of dictionaries within each other that may follow.

    Raises:
        ConfigError: a key that is no text, or a value that cannot be spelled.
    """
    out: dict[str, str | list[str]] = {}
    for key, value in values.items():
        if not isinstance(key, str) or not levels:
            raise ConfigError(f"{shown(key)} is no key: keys are text, and dictionaries are not nested without end.")
        if isinstance(value, Mapping) and not key.endswith(".scheduler"):
            inside = [(f"{key}.{name}" if isinstance(name, str) else name, inner) for name, inner in value.items()]
            out |= text_settings(dict(inside), levels - 1)
        elif isinstance(value, (list, tuple)) and not key.endswith((".hooks", ".scheduler", ".no_decay")):
            out[key] = [_spell(key, item) for item in value]
        else:
            out[key] = _spell(key, value)
    return out


def _spell(key: str, value: Any) -> str:
    value = value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, str):
        return value
    check_plain(value, key)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)


def several(key: str, value: str | list[str]) -> list[str]:
    """The values of a key: text is split at commas outside of brackets and quotes.

    Raises:
        ConfigError: there is no value.
    """
    parts = list(value) if isinstance(value, list) else [value] if key in WHOLE else _split(value)
    parts = [part.strip() if key not in WHOLE else part for part in parts]
    parts = [part for part in parts if part]
    if not parts:
        raise ConfigError(f"A value is missing after {key}=.")
    return parts


def _split(text: str) -> list[str]:
    parts, expected, quote = [""], "", ""
    for sign in text:
        if sign == "," and not expected and not quote:
            parts.append("")
            continue
        parts[-1] += sign
        if sign in "\"'" and (not quote or quote == sign):
            quote = "" if quote else sign
        elif not quote and sign in CLOSING:
            expected += CLOSING[sign]
        elif not quote and expected.endswith(sign):
            expected = expected[:-1]
    return parts


def coerce(key: str, text: str, default: Any) -> Any:
    """Turn text into the type of a config's value.

    Raises:
        ConfigError: the text does not read as that type.
    """
    word = text.strip()
    if isinstance(default, bool):
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise ConfigError(f"{key}={shown(text)} must be true or false.")
    if isinstance(default, dict):
        inside = ", ".join(f"{key}.{name}" for name in default)
        raise ConfigError(f"{key} holds several values; set one of them: {inside}.")
    if isinstance(default, str):
        return text
    if isinstance(default, (int, float)):
        return number_from_text(key, text, type(default), default)
    try:
        return json_from_text(key, word.lower().replace("none", "null"))
    except ValueError:
        return text


def value_of_option(key: str, text: str) -> Any:
    """The value of an option that another program defines: JSON where the text reads as such, or else the text."""
    try:
        return json_from_text(key, text)
    except ValueError:
        return text


def override(config: dict[str, Any], dotted: str, text: str, root: str) -> None:
    """Set one value of a nested config from text, checked against the value that is there.

    Raises:
        ConfigError: the key is unknown (close ones are listed), or the value has the wrong type.
    """
    *parents, last = dotted.split(".")
    node: Any = config
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(f"{root} has no key {dotted!r}.{suggest(dotted, flatten(config))}")
    node[last] = coerce(dotted, text, node[last])


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All values of a nested config by dotted name."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def overlay(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `extra` laid over it, which may have further keys; a part that names its `type` replaces the other."""
    out = copy.deepcopy(dict(base))
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and "type" not in value
        out[key] = overlay(out[key], value) if both else copy.deepcopy(value)
    return out


def merge(base: dict[str, Any], extra: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`base` with `extra` laid over it.

    Raises:
        ConfigError: `extra` has a key that `base` lacks.
    """
    out = copy.deepcopy(base)
    for key, value in extra.items():
        if key not in out:
            raise ConfigError(f"{where} sets the unknown key {key!r}.{suggest(key, out)}")
        both = isinstance(value, dict) and isinstance(out[key], dict) and "type" not in value
        out[key] = merge(out[key], value, f"{where}.{key}") if both else copy.deepcopy(value)
    return out
