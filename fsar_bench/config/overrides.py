"""Values from text and nested configs: parsing, typed overrides, merging, hashing."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from typing import Any

from fsar_bench.errors import ConfigError, suggest


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """Split `key=value` arguments.

    Raises:
        ConfigError: an argument without "=", or a key given twice.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(
                f"Cannot read {pair!r}: arguments have the form key=value, such as methods=ma_clip,clip_fsar."
            )
        if key in out:
            raise ConfigError(f"{key}= is given twice ({out[key]!r} and {value!r}).")
        out[key] = value
    return out


def coerce(key: str, text: str, default: Any) -> Any:
    """Turn text into the type of the default.

    Raises:
        ConfigError: the text does not read as that type.
    """
    word = text.strip()
    if isinstance(default, bool):
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise ConfigError(f"{key}={text!r} must be true or false.")
    if isinstance(default, dict):
        inside = ", ".join(f"{key}.{name}" for name in default)
        raise ConfigError(f"{key} holds several values; set one of them: {inside}.")
    if isinstance(default, str):
        return text
    if isinstance(default, (int, float)):
        kind = type(default)
        try:
            value = kind(word)
            if not math.isfinite(value):
                raise ValueError
            return value
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}={text!r} must be {noun} (default {default}).") from None
    try:
        return json.loads(word.lower().replace("none", "null"))
    except ValueError:
        return text


def override(config: dict, dotted: str, text: str, root: str) -> None:
    """Set one value of a nested config from text, checked against the value that is there.

    Raises:
        ConfigError: the key is unknown (close ones are listed) or the value has the wrong type.
    """
    *parents, last = dotted.split(".")
    node: Any = config
    for part in parents:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node:
        raise ConfigError(f"{root} has no key {dotted!r}.{suggest(dotted, flatten(config))}")
    node[last] = coerce(dotted, text, node[last])


def flatten(config: dict, prefix: str = "") -> list[str]:
    """Dotted names of all values of a nested config."""
    out: list[str] = []
    for key, value in config.items():
        out += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return out


def merge(base: dict, extra: dict, where: str) -> dict:
    """`base` with `extra` laid over it; keys that `base` lacks are errors."""
    out = copy.deepcopy(base)
    for key, value in extra.items():
        if key not in out:
            raise ConfigError(f"{where} sets the unknown key {key!r}.{suggest(key, out)}")
        both = isinstance(value, dict) and isinstance(out[key], dict) and "type" not in value
        out[key] = merge(out[key], value, f"{where}.{key}") if both else copy.deepcopy(value)
    return out


def canonical(config: object) -> str:
    """JSON with sorted keys: what hashes are made of."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(config: object) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()
