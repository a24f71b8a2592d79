"""A stored cell made ready to run again: its record says what, the user says where."""

from __future__ import annotations

from dataclasses import replace

from fsar_bench.config.cell import Cell, Setup
from fsar_bench.config.files import MethodConfig, input_digests, load
from fsar_bench.config.overrides import parse_pairs
from fsar_bench.config.settings import RunOptions
from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import file_digest, user_path
from fsar_bench.results.record import Result

PLACES = ("methods", "pretrained", "checkpoint")  # what a record does not tell: where files are on this machine


def reopen(result: Result, pairs: list[str]) -> tuple[Cell, RunOptions]:
    """The cell of a result with the places of its files, and run options.

    Code is imported only from a config that the user names: a record alone cannot run any.

    Args:
        result: of this fsar-bench, not a submitted one.
        pairs: `methods=` (path of a custom method's config), `pretrained=`, `checkpoint=`, and run options.

    Raises:
        ConfigError: an unknown key, or a file that does not exist.
        ResultError: a file has another content than when the result was made, or its place is not told.
    """
    if result.submitted:
        raise ResultError(
            f"{result.cell.label.row} was submitted by another code base: there is no method here to run."
        )
    given = parse_pairs(pairs)
    known = [*PLACES, *RunOptions.model_fields]
    for key in given:
        if key not in known:
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, known)}")
    options = RunOptions.of({key: RunOptions.parse(key, text) for key, text in given.items() if key not in PLACES})
    cell = result.cell.with_setup(_setup(result.cell, given))
    _check_inputs(cell)
    return cell, options


def _setup(cell: Cell, given: dict[str, str]) -> Setup:
    setup = Setup()
    if cell.identity.custom_imports:
        if "methods" not in given:
            raise ResultError(f"{cell.name} is a custom method. Name its config with methods=./{cell.name}.py.")
        file = load("methods", given["methods"])
        if file.checked(MethodConfig).custom_imports != cell.identity.custom_imports:
            raise ResultError(
                f"{file.path} imports other modules than the method of this result did "
                f"({', '.join(cell.identity.custom_imports)})."
            )
        setup = replace(setup, module_folder=str(file.path.parent))
    if "pretrained" in given:
        setup = replace(setup, pretrained=given["pretrained"])
    if "checkpoint" in given:
        path = user_path(given["checkpoint"])
        if not path.is_file():
            raise ConfigError(f"The checkpoint {path} does not exist (looked for {path.resolve()}).")
        setup = replace(setup, checkpoint=path.resolve())
    return setup


def _check_inputs(cell: Cell) -> None:
    """Every file that the cell depends on has the content that it had when the result was made."""
    identity, setup = cell.identity, cell.setup
    backbone = {**identity.backbone, "pretrained": setup.pretrained or identity.backbone.get("pretrained")}
    current = input_digests(identity.dataset, backbone, list(identity.custom_imports), setup.module_folder)
    if setup.checkpoint:
        current["checkpoint"] = file_digest(setup.checkpoint)
    for name, sha in identity.inputs.items():
        if current.get(name) == sha:
            continue
        key = _key_of(name)
        problem = (
            "has another content than when the result was made" if name in current else "is not found on this machine"
        )
        advice = f"Name it with {key}=." if key in PLACES else "Prepare the same dataset."
        raise ResultError(f"The {name} of {cell.label.row} {problem}. {advice}")


def _key_of(name: str) -> str:
    """The key that names an input's place on this machine."""
    if name.startswith("module"):
        return "methods"
    return {"checkpoint": "checkpoint", "annotation": "dataset", "quarantine": "dataset"}.get(name, "pretrained")
