"""`fsar-bench list`: names and one line of description each, read from docstrings without importing the code."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fsar_bench.config.cards import card, stated_certainty, unspecified
from fsar_bench.config.files import names, package_folder, prepared_datasets
from fsar_bench.config.keys import keys, method_keys, search_space
from fsar_bench.config.search import describe
from fsar_bench.config.settings import PROTOCOL_KEYS, Choices, Protocol, RunOptions
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import read_text
from fsar_bench.texts.console import PlainConsole

TIMM_MODELS = "Any image model of timm, with or without a tag of its weights, such as timm:convnext_tiny.fb_in22k."
KINDS = ("methods", "ablations", "datasets", "backbones", "matchers", "protocols")


def _first_line(node: ast.Module | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n")[0]


def _matchers() -> dict[str, str]:
    """Classes registered as matchers, by the decorator that registers them."""
    out = {}
    for path in sorted(package_folder("fsar_bench.matching").glob("*.py")):
        for node in ast.parse(read_text(path)).body:
            if isinstance(node, ast.ClassDef) and any("MATCHERS" in ast.unparse(d) for d in node.decorator_list):
                out[node.name] = _first_line(node)
    return out


def entries(kind: str) -> dict[str, str]:
    """Description by name.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"Cannot list {kind!r}.{suggest(kind, [*KINDS, 'keys'])}")
    if kind == "matchers":
        return _matchers()
    described = {name: _first_line(ast.parse(read_text(path))) for name, path in _files(kind).items()}
    return described | ({"timm:NAME": TIMM_MODELS} if kind == "backbones" else {})


def _files(kind: str) -> dict[str, Path]:
    """Configs of a kind by name, the user's own datasets too."""
    return names(kind) | (prepared_datasets() if kind == "datasets" else {})


def list_command(kind: str | None, name: str | None, *, verbose: bool = False) -> None:
    """Print one kind, or all; `verbose` prints whole docstrings, and cards for methods. `keys NAME` prints a method's keys."""
    console = PlainConsole()
    if kind == "keys":
        _print_keys(console, name)
        return
    if name is not None:
        raise ConfigError(f"Only keys takes a method: fsar-bench list keys {name}")
    for section in [kind] if kind else KINDS:
        table = Table(title=section, title_justify="left", box=None, show_header=False, padding=(0, 2, verbose, 0))
        table.add_column(style="bold", no_wrap=True)
        certainty = _certainty(section, verbose=verbose)
        if certainty:
            table.title = "methods (name, certainty of its specification, description)"
            table.add_column(no_wrap=True)
        table.add_column()
        for entry, description in entries(section).items():
            if verbose:
                description = _card(entry) if section == "methods" else _docstring(section, entry) or description
            table.add_row(entry, *([certainty[entry]] if certainty else []), Text(description))
        console.print(table)
        console.print()
        if section == "methods":
            _print_unspecified(console, verbose=verbose)


def _certainty(section: str, *, verbose: bool) -> dict[str, str]:
    """How sure the specification of each method is; nothing for other kinds, and where its card says it."""
    if section != "methods" or verbose:
        return {}
    return {name: stated_certainty(path) or "-" for name, path in _files(section).items()}


def _print_unspecified(console: Console, *, verbose: bool) -> None:
    """Systems that have published figures and cannot be re-implemented."""
    table = Table(
        title="no public specification", title_justify="left", box=None, show_header=False, padding=(0, 2, verbose, 0)
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for system in unspecified():
        known = f" Known: {system.known}" if verbose else ""
        table.add_row(system.title, Text(f"{system.paper}.{known} Missing: {system.missing}."))
    console.print(table)
    console.print()


def _print_keys(console: Console, method: str | None) -> None:
    """All keys of a run, with their types, defaults and descriptions; those of a method too, if one is named."""
    sections = {
        "what is run": keys(Choices),
        "protocol, the same for all methods": keys(Protocol, PROTOCOL_KEYS),
        "how it runs": keys(RunOptions),
    }
    if method:
        sections[f"of {method}"] = method_keys(method)
    for title, rows in sections.items():
        table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("key", no_wrap=True)
        for heading in ("type", "default", "what it is"):
            table.add_column(heading)
        for key in rows:
            table.add_row(Text(key.name, style="bold"), Text(key.type), Text(key.default), Text(key.description))
        console.print(table)
        console.print()
    if method and (space := search_space(method)):
        console.print(Text(f"fsar-bench tune {method} tries {describe(space)}."), soft_wrap=True)
    if not method:
        console.print("fsar-bench list keys METHOD also lists its method.* and train.* keys.")


def _docstring(kind: str, name: str) -> str:
    path = None if kind == "matchers" else _files(kind).get(name)
    return "" if path is None else ast.get_docstring(ast.parse(read_text(path))) or ""


def _card(name: str) -> str:
    method = card(name)
    where = f"; class {method.kind} in methods/{method.source.name}" if method.source else f"; class {method.kind}"
    lines = [f"{method.title} ({method.paper}{where})", method.description]
    lines += [f"Certainty: {method.certainty}"] if method.certainty else []
    return "\n".join([*lines, *(f"{key}: {text}" for key, text in method.fields.items())])
