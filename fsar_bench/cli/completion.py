"""What a shell offers when TAB is pressed: names, keys of `run` and their values. Imports nothing heavy."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Sequence

from fsar_bench.cli.list import entries
from fsar_bench.config.files import names, package_folder
from fsar_bench.config.keys import Key, keys, method_keys
from fsar_bench.config.settings import LOG_BACKENDS, PROTOCOL_KEYS, Choices, Protocol, RunOptions, Train
from fsar_bench.errors import FsarBenchError

Offers = list[tuple[str, str]]  # words and what they are


def named(kind: str, incomplete: str, *others: str) -> Offers:
    """Names of a kind, and other words, that begin as the word does."""
    offers = [*entries(kind).items(), *((word, "") for word in others)]
    return [(name, text) for name, text in offers if name.startswith(incomplete)]


def pairs(before: Sequence[str], incomplete: str) -> Offers:
    """Completions of a setting of `run`.

    Bash takes `key=value` for three words: the last of them alone is replaced. Where one key fits, its values are offered at
    once, since shells put a blank after a word that is complete.

    Args:
        before: the words before this one, after the verb.
        incomplete: the word at the cursor as far as it was typed.
    """
    key, value, is_split = _at_cursor(before, incomplete)
    settings = dict(word.split("=", 1) for word in _joined(before) if "=" in word)
    if key is None:
        fitting = [each for each in _known_keys(settings, value) if each.name.startswith(value)]
        if len(fitting) != 1:
            return [(f"{each.name}=", each.description) for each in fitting]
        return [(f"{fitting[0].name}={text}", what) for text, what in _values(fitting[0].name, "", settings)]
    prefix = "" if is_split else f"{key}="
    return [(prefix + text, what) for text, what in _values(key, value, settings)]


def _at_cursor(before: Sequence[str], incomplete: str) -> tuple[str | None, str, bool]:
    """Key (None while it is typed), value, and whether the shell has split them."""
    if before and before[-1] == "=":
        return before[-2] if len(before) > 1 else None, incomplete, True
    words, place = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if before and place.isdigit() and int(place) < len(words) and words[int(place)] == "=":
        return before[-1], "", True
    key, sign, value = incomplete.partition("=")
    return (key, value, False) if sign else (None, incomplete, False)


def _joined(words: Sequence[str]) -> list[str]:
    """Words with `key`, `=`, `value` joined again."""
    out: list[str] = []
    for word in words:
        if out and (word == "=" or out[-1].endswith("=")):
            out[-1] += word
        else:
            out.append(word)
    return out


def _known_keys(settings: dict[str, str], incomplete: str) -> list[Key]:
    """Keys that are not given yet; those of methods where the methods are known."""
    known = [*keys(Choices), *keys(Protocol, PROTOCOL_KEYS), *keys(RunOptions)]
    method, dot, _ = incomplete.partition(".")
    if dot and method in names("methods"):
        known = [Key(f"{method}.{key.name}", key.type, key.default, key.description) for key in _of_methods([method])]
    elif dot or not incomplete:
        chosen = [name for name in settings.get("methods", "").split(",") if name]
        known += _of_methods(chosen)
        if dot and not chosen:
            known += [*keys(Train), *(key for key in _of_methods(["all"]) if key.name.startswith("method."))]
    return [key for key in known if key.name not in settings]


def _of_methods(chosen: Iterable[str]) -> list[Key]:
    """Keys of methods, each once."""
    chosen = [name for each in chosen for name in (names("methods") if each == "all" else [each])]
    found: dict[str, Key] = {}
    for name in chosen:
        try:
            found |= {key.name: key for key in method_keys(name) if key.name not in found}
        except FsarBenchError:  # half typed, or an ablation
            continue
    return list(found.values())


def _values(key: str, value: str, settings: dict[str, str]) -> Offers:
    """Values of a key that begin as the last of those that were typed; of those without names, the default."""
    *earlier, last = value.split(",")
    kept = "".join(f"{each}," for each in earlier)
    offers = [(text, what) for text, what in _choices(key, settings) if text.startswith(last) and text not in earlier]
    return [(kept + text, what) for text, what in offers]


def _choices(key: str, settings: dict[str, str]) -> Offers:
    kinds = {
        "dataset": "datasets",
        "train_on": "datasets",
        "backbone": "backbones",
        "matcher": "matchers",
        "protocol": "protocols",
    }
    words = {"device": ("auto", "cpu", "cuda"), "log": LOG_BACKENDS, "activation": ("quick_gelu", "gelu")}
    if key == "methods":
        ablations = [(f"ablations/{name}", text) for name, text in entries("ablations").items()]
        return [*entries("methods").items(), ("all", "every built-in method"), *ablations]
    if key in kinds:
        return list(entries(kinds[key]).items())
    if key == "reader":
        return [(name, "") for name in _readers()]
    if key in words:
        return [(word, "") for word in words[key]]
    fitting = [each for each in _known_keys({k: v for k, v in settings.items() if k != key}, key) if each.name == key]
    if fitting and fitting[0].type == "true or false":
        return [("true", ""), ("false", "")]
    return [(fitting[0].default, "default")] if fitting and fitting[0].default else []


def _readers() -> list[str]:
    """Registered names of the built-in readers, by the decorator that registers them."""
    tree = ast.parse((package_folder("fsar_bench.data") / "readers.py").read_text(encoding="utf-8"))
    decorators = [each for node in tree.body if isinstance(node, ast.ClassDef) for each in node.decorator_list]
    calls = [each for each in decorators if isinstance(each, ast.Call) and "READERS" in ast.unparse(each.func)]
    arguments = [argument for call in calls for argument in (*call.args, *(keyword.value for keyword in call.keywords))]
    return [
        argument.value
        for argument in arguments
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
