"""Fields of typed settings: values from text, types in words, and faults as one line for users."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from fsar_bench.config.plain import DEEPEST, check_plain
from fsar_bench.errors import ConfigError, shown, suggest
from fsar_bench.io import user_path
from fsar_bench.texts.characters import fault_of


def json_from_text(key: str, text: str) -> Any:
    """A value that is typed as JSON.

    Raises:
        ValueError: it is no JSON.
        ConfigError: it is JSON that no result can record.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{key}={shown(text)} is nested too deep: at most {DEEPEST} levels.") from None
    check_plain(value, key)
    return value


def value_from_text(key: str, text: str, annotation: Any, default: Any) -> Any:
    """Turn text into a value of a type.

    Args:
        key: for the error.
        text: what the user typed.
        annotation: the field's type; for `T | None`, the text "none" is None.
        default: for the error.

    Raises:
        ConfigError: the text does not read as that type.
    """
    kinds = _kinds(annotation)
    word = text.strip()
    if type(None) in kinds and word.lower() in ("none", "null"):
        return None
    if bool in kinds:
        if word.lower() in ("true", "false"):
            return word.lower() == "true"
        raise ConfigError(f"{key}={shown(text)} must be true or false.")
    if int in kinds or float in kinds:
        return number_from_text(key, text, int if int in kinds else float, default)
    if dict in kinds or list in kinds:
        try:
            return json_from_text(key, text)
        except ValueError as error:
            raise ConfigError(f"{key}={shown(text)} must be JSON ({error}).") from None
    if Path not in kinds:
        return text
    try:
        return user_path(text)
    except ConfigError as error:
        raise ConfigError(f"{key}= names no folder: {error}") from error


def number_from_text(key: str, text: str, kind: type, default: Any) -> int | float:
    """A finite number; whole numbers may be written as 1e4.

    Raises:
        ConfigError: the text is no such number, or a whole one of more than 18 digits.
    """
    noun = "a whole number" if kind is int else "a number"
    try:
        value = float(text)
        if value != value or value in (float("inf"), float("-inf")) or (kind is int and value != int(value)):
            raise ValueError
    except ValueError:
        hint = " or none" if default is None else f" (default {default})"
        raise ConfigError(f"{key}={shown(text)} must be {noun}{hint}.") from None
    if kind is not int:
        return value
    whole = int(text) if text.strip().lstrip("+-").isdigit() else int(value)
    check_plain(whole, key)
    return whole


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([KMGT]?B)", re.IGNORECASE)


def bytes_from_text(text: str) -> int:
    """Bytes of a size such as "500MB" or "1.5 GB", in powers of 1000.

    Raises:
        ValueError: it is no size, or less than a byte; the text tells what one looks like.
    """
    size = _SIZE.fullmatch(text.strip())
    count = int(Decimal(size[1]) * _UNITS[size[2].upper()]) if size else 0
    if not count:
        raise ValueError("a size is a number above 0 and a unit, such as 500MB or 4GB")
    return count


def _kinds(annotation: Any) -> set[Any]:
    """The plain types of an annotation, with unions, `Annotated` and generics taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {origin or annotation}


def type_name(annotation: Any) -> str:
    """A type as users read it, such as "whole number or none"."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_name, get_args(annotation))))
    names = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "folder",
        dict: "JSON",
        list: "JSON list",
    }
    return "none" if annotation is type(None) else names.get(origin or annotation, "text")


def one_line(text: str) -> str:
    """A text as it is, for typed settings.

    Raises:
        PydanticCustomError: it holds markup, or a character that acts instead of showing.
    """
    if fault := fault_of(text):
        raise PydanticCustomError("not_one_line", "must be one line without {fault}", {"fault": fault})
    return text


def explain_fault(error: ValidationError, prefix: str, known: Iterable[str]) -> str:
    """The first fault of some settings as one line for users."""
    fault = error.errors()[0]
    path = [
        str(part)[:100]
        for part in fault["loc"]
        if not str(part).startswith(("function-", "constrained-", "dict[", "list["))
    ]
    key, value, kind, context = prefix + ".".join(path), fault.get("input"), fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return f"Unknown key {key!r}.{suggest(key, [prefix + name for name in known])}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{key}={shown(value)} is unknown. Choose from: {choices}."
    if kind == "missing":
        return f"{key}= is missing."
    texts = {
        "greater_than_equal": "is too small: at least {ge} is needed.",
        "greater_than": "must be above {gt}.",
        "less_than_equal": "is too large: at most {le} is allowed.",
        "less_than": "must be below {lt}.",
        "int_type": "must be a whole number.",
        "float_type": "must be a number.",
        "finite_number": "must be a finite number.",
        "bool_type": "must be true or false.",
        "string_type": "must be text.",
        "not_one_line": "must be one line without {fault}.",
        "string_unicode": "holds a character that is no UTF-8.",
        "dict_type": "must be a dictionary, dict(…).",
        "model_type": "must be a dictionary, dict(…).",
        "list_type": "must be a list, […].",
        "string_too_long": "is too long: at most {max_length} characters.",
    }
    return (
        f"{key}={shown(value)} {texts[kind].format(**context)}"
        if kind in texts
        else f"{key}={shown(value)}: {fault['msg']}."
    )
