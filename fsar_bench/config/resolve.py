"""Names and key=value -> one resolved config per cell, with its hash. Imports neither torch nor open_clip."""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from dataclasses import asdict, dataclass, fields
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fsar_bench.config.overrides import coerce, digest, merge, override, parse_pairs
from fsar_bench.config.protocol import Protocol
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import annotation_file, is_weight_file, weight_files
from fsar_bench.results.store import TEXT_PATTERN

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.@-]*"
ENGINE = 1  # raised when a change of the engine changes results
SHORT_KEYS = tuple(f.name for f in fields(Protocol) if f.name not in ("split", "sampling"))
CELL_KEYS: dict[str, Any] = {"reader": "decord"}
RUN_KEYS: dict[str, Any] = {
    "device": "auto",
    "out": "./leaderboards",
    "work_dir": "./work_dirs",
    "workers": 2,
    "decode_timeout": 60.0,
    "checkpoint_seconds": 30.0,
    "score_batch": 250,
    "overwrite": False,
    "controls": True,
}
CONTROL_KEYS = (
    *SHORT_KEYS,
    *CELL_KEYS,
    "backbone",
    "pretrained",
    "activation",
    "protocol",
)  # what applies to controls as well
NAMED_KEYS = ("methods", "dataset", "backbone", "pretrained", "activation", "matcher", "protocol", "checkpoint")
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
TRAIN_DEFAULTS: dict[str, Any] = {
    "episodes": 1000,
    "shot": None,
    "way": None,
    "query_per_class": 5,
    "accumulate": 16,
    "optimizer": {"type": "AdamW", "lr": 1e-4, "weight_decay": 0.05},
    "clip_grad": 1.0,
    "warmup": 0.05,
    "val_episodes": 1000,
    "val_interval": 208,
    "amp": "auto",
    "seed": None,  # of the training alone; None: that of the protocol
}


@dataclass(frozen=True)
class Run:
    """What one command asks for: cells in the order of work, and how to run them."""

    cells: list[dict]
    options: dict[str, Any]


def config_folder(kind: str) -> Path:
    """Folder of the built-in configs of a kind: methods, ablations, datasets, backbones or protocols."""
    spec = find_spec(f"fsar_bench.configs.{kind}")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"The built-in configs of {kind} are not installed. Install fsar-bench again.")
    return Path(next(iter(spec.submodule_search_locations)))


def names(kind: str) -> dict[str, Path]:
    """Built-in configs of a kind by name."""
    return {path.stem: path for path in sorted(config_folder(kind).glob("*.py")) if path.stem != "__init__"}


def load(kind: str, name: str) -> tuple[dict, str, Path]:
    """Read a config by name, or by path if it ends in .py.

    Returns:
        The config, its name and its path.

    Raises:
        ConfigError: unknown name (close ones are listed), missing file, or a file that is not a config.
    """
    from mmengine.config import Config

    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"The config {name} does not exist (looked for {path}).")
    else:
        known = names(kind)
        if name not in known:
            raise ConfigError(
                f"Unknown {kind.rstrip('s')} {name!r}.{suggest(name, known)} A file of your own is named by its path: ./{name}.py"
            )
        path = known[name]
    try:
        config = Config.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()
    except Exception as error:
        raise ConfigError(
            f"The config {path} cannot be read: {type(error).__name__}: {error}. A config holds plain values; a class lives "
            "in a module beside it, named in custom_imports."
        ) from error
    return config, path.stem, path


def resolve(pairs: list[str]) -> Run:
    """Resolve the arguments of `fsar-bench run` into cells (method x dataset x backbone x protocol x seed).

    Raises:
        ConfigError: names and keys that do not exist, values of the wrong type.
    """
    given = parse_pairs(pairs)
    known = [*NAMED_KEYS, *SHORT_KEYS, *CELL_KEYS, *RUN_KEYS]
    for key in given:
        if key not in known and not key.startswith(("method.", "train.")):
            raise ConfigError(f"Unknown key {key!r}.{suggest(key, [*known, 'method.…', 'train.…'])}")
    options = {key: coerce(key, given[key], value) if key in given else value for key, value in RUN_KEYS.items()}
    for key in ("score_batch", "decode_timeout"):
        if options[key] <= 0:
            raise ConfigError(f"{key}={options[key]} must be above 0.")
    if not given.get("methods"):
        raise ConfigError(f"Which methods? Say methods=NAME,NAME.{suggest('', names('methods'))}")
    cells: list[dict] = []
    for dataset_name in _several(given.get("dataset", "synthact")):
        dataset = _dataset(dataset_name)
        asked = [row for name in _several(given["methods"]) for row in _rows(name)]
        named = {method for method, _ in asked}
        controls = [c for c in dataset.get("controls", []) if c not in named] if options["controls"] else []
        for method in controls:
            common = {key: value for key, value in given.items() if key in CONTROL_KEYS}
            cells += [{**cell, "is_control": True} for cell in _cells(method, dataset, common)]
        for method, settings in asked:
            cells += _cells(method, dataset, _with_settings(given, settings, method))
    if "train.seed" in given and not any("train" in cell for cell in cells):
        raise ConfigError(
            f"train.seed={given['train.seed']} does not apply: no method of these is trained. Leave it out."
        )
    unique = {cell["hash"]: cell for cell in cells}
    return Run(list(unique.values()), options)


def _rows(name: str) -> list[tuple[str, dict[str, str]]]:
    """Methods and settings that a name stands for: itself, all methods, or the rows of an ablation."""
    if name == "all":
        return [(each, {}) for each in names("methods")]
    if name.startswith("ablations/"):
        config, _, path = load("ablations", name.removeprefix("ablations/"))
    elif name.endswith(".py"):
        config, _, path = load("methods", name)
    else:
        return [(name, {})]
    if "rows" not in config:
        return [(name, {})]
    if not config["rows"] or not all(isinstance(row, str) and row.split() for row in config["rows"]):
        raise ConfigError(f"The ablation {path} needs rows=[...] of texts such as 'ma_clip method.joint=false'.")
    return [(row.split()[0], parse_pairs(row.split()[1:])) for row in config["rows"]]


def _with_settings(given: dict[str, str], settings: dict[str, str], method: str) -> dict[str, str]:
    both = sorted(set(given) & set(settings))
    if both:
        raise ConfigError(f"The ablation sets {both[0]}={settings[both[0]]} for {method} itself: leave {both[0]}= out.")
    return given | settings


def _dataset(name: str) -> dict:
    """Config of a dataset that has all it needs."""
    config, _, path = load("datasets", name)
    for key in ("dataset", "backbone"):
        if key not in config:
            raise ConfigError(f"The dataset config {path} lacks {key}=.")
    for key in ("name", "annotation"):
        if not isinstance(config["dataset"].get(key), str):
            raise ConfigError(f"The dataset config {path} lacks dataset=dict({key}=...).")
    _check_name(config["dataset"]["name"], f"dataset name in {path}")
    return config


def _check_name(name: str, what: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(
            f"The {what} is {name!r}: use letters, digits, '_', '-', '.', '@', and begin with a letter or digit."
        )


def _several(text: str) -> list[str]:
    out = [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]  # [2,3] is one value
    if not out:
        raise ConfigError("A name is missing after '='.")
    return out


def _cells(method_name: str, dataset: dict, given: dict[str, str]) -> list[dict]:
    """Cells of one method on one dataset: the product of all keys that have several values."""
    method, name, path = load("methods", method_name)
    _check_name(name, f"name of the config {path}")
    if "method" not in method or "type" not in method["method"]:
        raise ConfigError(f"The config {path} lacks method=dict(type=...).")
    axes: list[list[tuple[str, str]]] = []
    for key in (*SHORT_KEYS, *CELL_KEYS, "backbone", "pretrained", "activation", "protocol", "matcher", "checkpoint"):
        if key in given:
            axes.append(
                [
                    (key, v)
                    for v in ([given[key]] if key in ("template", "pretrained", "checkpoint") else _several(given[key]))
                ]
            )
    seedless = "train" not in method  # several trainings may be asked for along with methods that have none
    axes += [
        [(k, v) for v in _several(given[k])]
        for k in given
        if k.startswith(("method.", "train.")) and not (seedless and k == "train.seed")
    ]
    return [_cell(method, name, path, dataset, dict(choice)) for choice in itertools.product(*axes)]


def _cell(method: dict, name: str, path: Path, dataset: dict, chosen: dict[str, str]) -> dict:
    special = dataset.get("methods", {}).get(name, {})
    config = {"method": merge(method["method"], special.get("method", {}), f"the dataset's config for {name}.method")}
    if "train" in method:
        train = merge(TRAIN_DEFAULTS, method["train"], f"{path}: train")
        train = merge(train, dataset.get("train", {}), "the dataset's config: train")
        config["train"] = merge(train, special.get("train", {}), f"the dataset's config for {name}.train")
    changed = {k: v for k, v in chosen.items() if k.startswith(("method.", "train.")) and k != "train.seed"}
    if "matcher" in chosen:
        if "matcher" not in config["method"]:
            raise ConfigError(f"{name} has no matcher, so matcher={chosen['matcher']} does not apply to it.")
        if config["method"]["matcher"]["type"] != chosen["matcher"]:
            config["method"]["matcher"] = {"type": chosen["matcher"]}
        changed["matcher"] = chosen["matcher"]
    changed |= {key: Path(chosen[key]).name for key in ("pretrained", "activation", "checkpoint") if key in chosen}
    for key, value in chosen.items():
        part, _, argument = key.rpartition(".")
        if part == "method.matcher" and "matcher" in chosen:  # its arguments are known when it is built
            matcher = config["method"]["matcher"]
            matcher[argument] = coerce(key, value, matcher.get(argument))
        elif key.startswith(("method.", "train.")):
            override(config, key, value, name)
    protocol_config, protocol_name, _ = load("protocols", chosen.get("protocol", dataset.get("protocol", "standard")))
    protocol = merge(asdict(Protocol()), protocol_config.get("protocol", {}), f"the protocol {protocol_name}")
    for key in SHORT_KEYS:
        if key in chosen:
            protocol[key] = coerce(key, chosen[key], protocol[key])
    protocol = Protocol(**protocol).as_dict()
    if "frames" in config["method"]:  # a method that is sized by T says so; T itself belongs to the protocol
        config["method"]["frames"] = protocol["frames"]
    backbone_config, backbone_name, _ = load("backbones", chosen.get("backbone", dataset["backbone"]))
    if "backbone" not in backbone_config:
        raise ConfigError(f"The backbone config {backbone_name} lacks backbone=dict(type=...).")
    backbone = _backbone(backbone_config["backbone"], chosen, backbone_name)
    if "train" in config:
        _check_train(config["train"])
        config["train"]["way"] = config["train"]["way"] or protocol["way"]
        config["train"]["shot"] = config["train"]["shot"] or protocol["shot"]
        if config["train"]["seed"] in (None, protocol["seed"]):
            del config["train"]["seed"]  # no other cell than the one that does not name it
    modules, folder = _modules(method, path)
    cell = {
        "engine": ENGINE,
        "name": name,
        **config,
        "custom_imports": modules,
        "dataset": dataset["dataset"],
        "backbone": {"name": backbone_name, **backbone},
        "protocol": protocol,
        "reader": chosen.get("reader", CELL_KEYS["reader"]),
        "inputs": _inputs(dataset["dataset"], backbone, modules, folder),
    }
    if "checkpoint" in chosen:
        cell["inputs"]["checkpoint"] = _checkpoint(chosen["checkpoint"], method, name)
    title = method.get("title", name) + (f" ({', '.join(f'{k}={v}' for k, v in changed.items())})" if changed else "")
    texts = {"title": title, "paper": method.get("paper", ""), "dataset title": dataset.get("title", "")}
    for what, text in texts.items():
        if not re.fullmatch(TEXT_PATTERN, text) or len(text) > 300:
            raise ConfigError(
                f"The {what} of {name} is {text[:80]!r}: use one line of at most 300 characters without < and >."
            )
    # What follows does not change results, so it is not part of the hash.
    return cell | {
        "hash": digest(cell),
        "title": title,
        "paper": texts["paper"],
        "protocol_name": protocol_name,
        "folder": folder,
        "controls": dataset.get("controls", []),
        "is_control": False,
        "overlaps": dataset.get("overlaps", {}),
        "dataset_title": dataset.get("title", dataset["dataset"]["name"]),
        "synthetic": dataset.get("synthetic", False),
        "whole_up_to": dataset.get("whole_clips_up_to", 0),
        "checkpoint": str(Path(chosen["checkpoint"]).expanduser().resolve()) if "checkpoint" in chosen else None,
    }


def _backbone(config: dict, chosen: dict[str, str], name: str) -> dict:
    """A backbone's config with the weights and activation asked for; other weights tell their activation themselves."""
    out = dict(config)
    if "pretrained" in chosen and chosen["pretrained"] != config.get("pretrained"):
        out["pretrained"] = chosen["pretrained"]
        out["pretraining"] = Path(chosen["pretrained"]).name  # the config's words are of its own weights
        if "quick_gelu" in out:
            out["quick_gelu"] = None
    if "activation" in chosen:
        if "quick_gelu" not in out:
            raise ConfigError(f"The backbone {name} is no CLIP model, so activation= does not apply to it.")
        if chosen["activation"] not in ACTIVATIONS:
            raise ConfigError(
                f"Unknown activation {chosen['activation']!r}.{suggest(chosen['activation'], ACTIVATIONS)}"
            )
        out["quick_gelu"] = ACTIVATIONS[chosen["activation"]]
    return out


def _checkpoint(path: str, method: dict, name: str) -> str:
    """SHA-256 of a checkpoint file."""
    file = Path(path).expanduser()
    if "train" not in method:
        raise ConfigError(f"{name} is training-free, so checkpoint={path} does not apply to it.")
    if not file.is_file():
        raise ConfigError(f"The checkpoint {path} does not exist (looked for {file.resolve()}).")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _check_train(train: dict) -> None:
    for key in ("episodes", "query_per_class", "accumulate", "val_episodes", "val_interval"):
        if train[key] < 1:
            raise ConfigError(f"train.{key}={train[key]} is too small: at least 1 is needed.")
    for key in ("way", "shot"):
        if train[key] is not None and (not isinstance(train[key], int) or train[key] < 1):
            raise ConfigError(
                f"train.{key}={train[key]!r} must be a whole number above 0, or none to follow the protocol."
            )
    if train["seed"] is not None and (type(train["seed"]) is not int or train["seed"] < 0):
        raise ConfigError(f"train.seed={train['seed']!r} must be a whole number from 0, or none to follow seed=.")
    if not 0 <= train["warmup"] < 1:
        raise ConfigError(f"train.warmup={train['warmup']} must lie in 0..1 (a share of the episodes).")
    if train["val_interval"] % train["accumulate"]:
        raise ConfigError(
            f"train.val_interval={train['val_interval']} must be a multiple of train.accumulate={train['accumulate']}: "
            "checkpoints are written between optimiser steps."
        )


def _modules(method: dict, path: Path) -> tuple[list[str], str | None]:
    custom = method.get("custom_imports") or []
    modules = custom.get("imports", []) if isinstance(custom, dict) else custom
    modules = [modules] if isinstance(modules, str) else list(modules)
    return modules, str(path.parent) if path.parent != config_folder("methods") else None


def _inputs(dataset: dict, backbone: dict, modules: list[str], folder: str | None) -> dict[str, str]:
    """SHA-256 of the files that a cell depends on, where they are files: a changed file is another cell."""
    files = {"annotation": annotation_file(dataset["annotation"])}
    if dataset["annotation"].startswith("prepared:"):
        files["quarantine"] = files["annotation"].with_name("quarantine.json")
    pretrained = backbone.get("pretrained")
    if pretrained == "builtin":
        folder_of_weights = find_spec("fsar_bench").submodule_search_locations[0]
        files["weights"] = Path(folder_of_weights, "backbones", "builtin", f"{backbone['model']}.safetensors")
    elif pretrained and Path(pretrained).expanduser().is_dir():
        files |= {f"weights {file.name}": file for file in sorted(Path(pretrained).expanduser().iterdir())}
    elif pretrained and is_weight_file(pretrained):
        files["weights"] = Path(pretrained).expanduser()
    elif pretrained:
        found = [path for path in weight_files(backbone["model"], pretrained) if path.is_file()]
        files |= {"weights": found[0]} if found else {}
    for module in modules:
        files |= _sources(module, folder)
    return {key: hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items() if file.is_file()}


def _sources(module: str, folder: str | None) -> dict[str, Path]:
    """Source files of a custom module: the file itself, or all of a package."""
    spec = PathFinder.find_spec(module.split(".")[0], [*([folder] if folder else []), *sys.path])
    if spec is None or not spec.origin:
        return {}  # importing it fails later, with its name
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return {f"module {module} {file.relative_to(origin.parent)}": file for file in files}
