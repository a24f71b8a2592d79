"""Method cards: what a method follows, where it differs, what its papers leave open; read from docstrings, importing nothing.

A card is the docstring of a method's config and that of the module that defines its class: the first line describes it,
paragraphs that begin with "Followed:", "Differs:" and "Unknown:" are its fields. The fields "Training" (`recipe=suite`) and
"Official recipe" (`recipe=official`) are read from the configs.
"""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from fsar_bench.config.files import MethodConfig, load, package_folder
from fsar_bench.config.recipes import official_in_words, training_in_words
from fsar_bench.io import read_text

WRITTEN = ("Followed", "Differs", "Unknown")  # in docstrings
FIELDS = (*WRITTEN, "Training", "Official recipe")


@dataclass(frozen=True)
class Card:
    """What is known of a method before it runs.

    Attributes:
        name: what `methods=` calls it.
        title: what tables call it.
        paper: where it comes from.
        certainty: how sure its specification is, see `MethodConfig`; empty where its config does not say.
        description: one line.
        kind: the registered class.
        source: file of the class, if it is a built-in one.
        fields: text by field.
    """

    name: str
    title: str
    paper: str
    certainty: str
    description: str
    kind: str
    source: Path | None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unspecified:
    """A system of the literature without a public specification: it has published figures and no method here.

    Attributes:
        title: what the literature calls it.
        paper: where it comes from.
        known: what can be read of it.
        missing: what would be needed to implement it.
    """

    title: str
    paper: str
    known: str
    missing: str


def unspecified() -> list[Unspecified]:
    """Systems without a public specification, as `methods/unspecified.toml` lists them."""
    text = read_text(package_folder("fsar_bench.methods") / "unspecified.toml")
    return [Unspecified(**system) for system in tomllib.loads(text)["system"]]


def stated_certainty(path: Path) -> str:
    """What a method's config or the nearest of its bases says in `certainty`, read without running it; empty where none does."""
    values = {
        ast.unparse(target): node.value
        for node in ast.parse(read_text(path)).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    if "certainty" in values:
        return str(ast.literal_eval(values["certainty"]))
    bases = ast.literal_eval(values["_base_"]) if "_base_" in values else []
    stated = [stated_certainty(path.parent / base) for base in ([bases] if isinstance(bases, str) else bases)]
    return next(filter(None, stated), "")


def card(name: str) -> Card:
    """The card of a method.

    Raises:
        ConfigError: unknown name, or a file that is not a method's config.
    """
    file = load("methods", name)
    config, stem, path = file.checked(MethodConfig), file.name, file.path
    kind = config.method["type"]
    text = ast.get_docstring(ast.parse(read_text(path))) or ""
    source = _source(kind)
    module = (ast.get_docstring(ast.parse(read_text(source))) or "") if source else ""
    fields = {key: value for key in WRITTEN if (value := _field(text, key) or _field(module, key))}
    if config.train is not None:
        fields["Training"] = training_in_words(stem, config.train)
        if official := official_in_words(stem, config):
            fields["Official recipe"] = official
    description = text.split("\n")[0]
    return Card(stem, config.title or stem, config.paper, config.certainty or "", description, kind, source, fields)


def arguments(kind: str) -> dict[str, str]:
    """Descriptions of the constructor's arguments of a class in `methods/`, from its docstring; empty for other classes."""
    source = _source(kind)
    if source is None:
        return {}
    nodes = ast.parse(read_text(source)).body
    text = next(ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.ClassDef) and node.name == kind)
    block = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}[\w*]|\Z)", block[1] if block else "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(description.split()) for name, description in entries}


def _field(text: str, key: str) -> str:
    match = re.search(rf"^{key}:\s+(.*?)(?=^(?:{'|'.join(WRITTEN)}|Command):|^\s*$|\Z)", text, re.MULTILINE | re.DOTALL)
    return " ".join(match[1].split()) if match else ""


def _source(kind: str) -> Path | None:
    """File in `methods/` that defines a class."""
    folder = package_folder("fsar_bench.methods")
    for path in sorted(folder.glob("*.py")):
        if any(isinstance(node, ast.ClassDef) and node.name == kind for node in ast.parse(read_text(path)).body):
            return path
    return None
