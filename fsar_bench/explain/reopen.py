"""A stored cell made ready to run again: its record says what, the user and the work folder say where."""

from __future__ import annotations

from pathlib import Path

from fsar_bench.config.cell import HUB, Cell, DatasetSource, Setup, is_file_name
from fsar_bench.config.choice import DatasetChoice
from fsar_bench.config.files import BackboneConfig, Config, MethodConfig, ProtocolConfig, is_weights_path, load
from fsar_bench.config.inputs import Modules, annotation_digests, installed_modules, weight_digests
from fsar_bench.config.overrides import parse_pairs, several
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.places import Places, recall_places, work_dir_of
from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import file_digest, user_path
from fsar_bench.results.store import Stored

CONFIGS: dict[str, tuple[str, type[Config]]] = {  # keys that name configs, which may import custom modules
    "methods": ("methods", MethodConfig),
    "backbone": ("backbones", BackboneConfig),
    "protocol": ("protocols", ProtocolConfig),
}
PLACES = (*CONFIGS, "dataset", "train_on", "imports", "pretrained", "checkpoint")  # what a record does not tell


def reopen(stored: Stored, pairs: list[str]) -> tuple[Cell, RunOptions]:
    """The cell of a result with the places of its files, and run options.

    Code is imported only from a config that the user names: a record alone cannot run any. Files are opened only where the user
    or the work folder names them, and where the record tells their content; weights of a hub are fetched only if the user names
    them.

    Args:
        stored: the result, not a submitted one.
        pairs: the custom configs of the run (`methods=`, `backbone=`, `dataset=`, `train_on=`, `protocol=`, `imports=`),
            `pretrained=`, `checkpoint=`, and run options.

    Raises:
        ConfigError: an unknown key, or a file that does not exist.
        ResultError: a file has another content than when the result was made, or its place is not told.
    """
    result = stored.result
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
    work_dir = work_dir_of(result.cell, stored.folder.parents[3], options.work_dir)
    options = options.model_copy(update={"work_dir": work_dir})
    places = recall_places(work_dir / result.cell.work_folder)
    cell = result.cell.with_setup(_setup(result.cell, given, places))
    _check_places(cell)
    _check_inputs(cell)
    return cell, options


def _setup(cell: Cell, given: dict[str, str], places: Places) -> Setup:
    identity, modules = cell.identity, Modules()
    for key, (kind, config) in CONFIGS.items():
        if key in given:
            file = load(kind, given[key])
            modules += Modules.of(file, file.checked(config))
    named = {key: DatasetChoice.load(given[key]) for key in ("dataset", "train_on") if key in given}
    for dataset in named.values():
        modules += dataset.modules
    if "imports" in given:
        modules = sum(map(Modules.named, several("imports", given["imports"])), modules)
    _check_modules(cell, modules)
    checkpoint = given.get("checkpoint", places.checkpoint)
    return Setup(
        module_folders=modules.folders,
        dataset=_placed(identity.dataset, named.get("dataset"), places.annotation),
        train_dataset=identity.train_dataset
        and _placed(identity.train_dataset, named.get("train_on"), places.train_annotation),
        pretrained=given.get("pretrained", places.pretrained),
        checkpoint=_existing(checkpoint) if checkpoint else None,
    )


def _check_modules(cell: Cell, modules: Modules) -> None:
    wanted = set(cell.identity.custom_imports)
    if wanted - set(modules.names):
        raise ResultError(
            f"{cell.label.row} uses the custom modules {', '.join(sorted(wanted - set(modules.names)))}. Name the config that "
            f"imports them, such as methods=./{cell.name}.py (or backbone=, dataset=, protocol=, imports=)."
        )
    if set(modules.names) - wanted:
        raise ResultError(
            f"The configs named here import other modules ({', '.join(modules.names)}) than the run of this result did "
            f"({', '.join(sorted(wanted)) or 'none'})."
        )


def _placed(source: DatasetSource, named: DatasetChoice | None, remembered: str | None) -> DatasetSource:
    """Where a dataset is listed on this machine."""
    annotation = named.config.dataset.annotation if named else remembered
    return source.model_copy(update={"annotation": annotation}) if annotation else source


def _existing(checkpoint: str) -> Path:
    path = user_path(checkpoint)
    if not path.is_file():
        raise ConfigError(f"The checkpoint {path} does not exist (looked for {path.resolve()}).")
    return path.resolve()


def _check_places(cell: Cell) -> None:
    """Raise `ResultError` where a record alone would say which file is opened, or what is fetched from a hub."""
    identity, setup = cell.identity, cell.setup
    for key, source in {"dataset": cell.dataset, "train_on": cell.train_dataset}.items():
        if source.is_file and is_file_name(source.annotation):
            raise _not_told(cell, "annotation", key)
    pretrained, model = identity.backbone.get("pretrained"), identity.backbone.get("model", "")
    if not is_file_name(str(model) or "none") or HUB in str(model):
        raise ResultError(f"{cell.label.row} has the backbone {str(model)[:100]!r}, which is no name of a model.")
    if setup.pretrained is None and isinstance(pretrained, str):
        if pretrained.startswith(HUB):
            raise ResultError(
                f"{cell.label.row} has weights of a hub, which a record alone does not fetch: say pretrained={pretrained}."
            )
        if is_weights_path(pretrained):
            raise _not_told(cell, "weights", "pretrained")
    _check_contents_are_told(cell)


def _check_contents_are_told(cell: Cell) -> None:
    """Raise `ResultError` where a file would be opened of which the record does not tell the content."""
    identity, setup = cell.identity, cell.setup
    needed = {
        "annotation": True,
        "train annotation": identity.train_dataset is not None,
        "weights": setup.pretrained is not None and is_weights_path(setup.pretrained),
        "checkpoint": setup.checkpoint is not None,
    }
    told = {_kind_of(name) for name in identity.inputs}
    for kind in [kind for kind, is_needed in needed.items() if is_needed and kind not in told]:
        raise ResultError(
            f"The record of {cell.label.row} does not tell the content of its {kind}, so none is opened. Run the cell again."
        )


def _not_told(cell: Cell, what: str, key: str) -> ResultError:
    return ResultError(
        f"The {what} of {cell.label.row} is not found on this machine. Name the right one with {key}=, or restore it."
    )


def _check_inputs(cell: Cell) -> None:
    """Every file that the cell depends on has the content that it had when the result was made."""
    identity, setup = cell.identity, cell.setup
    backbone = {**identity.backbone, "pretrained": setup.pretrained or identity.backbone.get("pretrained")}
    current = {
        **annotation_digests(cell.dataset),
        **(annotation_digests(cell.train_dataset, "train ") if identity.train_dataset else {}),
        **weight_digests(backbone),
        **Modules(tuple(identity.custom_imports), setup.module_folders).digests(),
        **installed_modules(identity.method["type"], identity.backbone["type"]),
    }
    if setup.checkpoint:
        current["checkpoint"] = file_digest(setup.checkpoint)
    for name, sha in identity.inputs.items():
        if current.get(name) == sha:
            continue
        key = _key_of(name)
        problem = (
            "has another content than when the result was made" if name in current else "is not found on this machine"
        )
        raise ResultError(f"The {name} of {cell.label.row} {problem}. Name the right one with {key}=, or restore it.")


def _kind_of(name: str) -> str:
    """The kind of an input: "annotation", "weights", "module" and so on."""
    return " ".join(name.split(" ")[: 2 if name.startswith("train ") else 1])


def _key_of(name: str) -> str:
    """The key that names an input's place on this machine."""
    if name.startswith("module"):
        return "methods"
    if name.startswith("train "):
        return "train_on"
    return {"checkpoint": "checkpoint", "annotation": "dataset", "quarantine": "dataset"}.get(name, "pretrained")
