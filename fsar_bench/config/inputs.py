"""What a cell depends on beside its settings: custom modules and files. Another content is another cell."""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fsar_bench.config.cell import DatasetSource
from fsar_bench.config.files import Config, File, is_weights_path, package_folder
from fsar_bench.errors import ConfigError
from fsar_bench.io import annotation_file, file_digest, module_files, user_path, weight_files


@dataclass(frozen=True)
class Modules:
    """Custom modules.

    Attributes:
        names: what is imported.
        folders: where they are looked for, before the import path.
    """

    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: File, config: Config) -> Modules:
        """The modules that a config names; a custom config's are next to it."""
        names = tuple(config.custom_imports)
        return cls(names, (str(file.path.parent),) if names and file.is_custom else ())

    @classmethod
    def named(cls, text: str) -> Modules:
        """A module that the user names: a file, the folder of a package, or an importable name.

        Raises:
            ConfigError: the file does not exist.
        """
        if not text.endswith(".py") and os.sep not in text:
            return cls((text,))
        path = Path(os.path.realpath(user_path(text)))
        if not os.path.exists(path):
            raise ConfigError(f"The module imports={text} does not exist (looked for {path}).")
        if path.is_dir() and not (path / "__init__.py").is_file():
            raise ConfigError(
                f"imports={text} is a folder without an __init__.py, so no package: name one of its modules."
            )
        return cls((path.stem,), (str(path.parent),))

    def __add__(self, other: Modules) -> Modules:
        names, folders = (*self.names, *other.names), (*self.folders, *other.folders)
        return Modules(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(folders)))

    def digests(self) -> dict[str, str]:
        """SHA-256 of every source file, by module and file.

        Raises:
            ConfigError: two of the folders have modules of the same name.
        """
        out: dict[str, str] = {}
        for module in self.names:
            homes = [folder for folder in self.folders if _is_in(module, Path(folder))]
            if len(homes) > 1:
                raise ConfigError(f"Two custom modules are called {module!r}: in {' and in '.join(homes)}. Rename one.")
            out |= _source_digests(module, self.folders)
        return out


def _is_in(module: str, folder: Path) -> bool:
    top = module.split(".")[0]
    return (folder / f"{top}.py").is_file() or any((folder / top).rglob("*.py"))


def _source_digests(module: str, folders: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 by file of a module and of what it imports; empty where it is not found: importing it fails later."""
    files = module_files(module, folders)
    return {f"module {module} {_place(file, files[0].parent)}": file_digest(file) for file in files}


def _place(file: Path, folder: Path) -> str:
    """A file without the place of its folder on this machine."""
    return os.path.relpath(file, folder)


def installed_modules(method: str, backbone: str) -> dict[str, str]:
    """SHA-256 of the modules of installed packages that offer methods, where a class is not one of fsar-bench.

    Args:
        method: registered type of the method.
        backbone: registered type of the backbone.
    """
    if method in _classes("fsar_bench.methods") and backbone in _classes("fsar_bench.backbones"):
        return {}
    points = entry_points(group="fsar_bench.methods")
    return {
        key: sha for point in points for key, sha in _source_digests(point.value.split(":")[0].split(".")[0]).items()
    }


@cache
def _classes(package: str) -> frozenset[str]:
    """Names of the classes of a package, without importing it."""
    trees = [ast.parse(path.read_bytes()) for path in package_folder(package).glob("*.py")]
    return frozenset(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))


def annotation_digests(dataset: DatasetSource, prefix: str = "") -> dict[str, str]:
    """SHA-256 of a dataset's annotation, and of the clips that were left out of it, where the files exist."""
    files = {f"{prefix}annotation": annotation_file(dataset.annotation)}
    if dataset.annotation.startswith("prepared:"):
        files[f"{prefix}quarantine"] = files[f"{prefix}annotation"].with_name("quarantine.json")
    return _existing(files)


def weight_digests(backbone: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the files of a backbone's weights.

    Args:
        backbone: its config; `pretrained` is a path where weights are files.
    """
    pretrained = backbone.get("pretrained")
    if not pretrained:
        return {}
    if pretrained == "builtin":
        folder = Path(__file__).parents[1] / "backbones" / "builtin"
        return _existing({"weights": folder / f"{backbone['model']}.safetensors"})
    path = user_path(pretrained)
    if os.path.isdir(path):
        return _existing({f"weights {file.name}": file for file in sorted(path.iterdir())})
    if is_weights_path(pretrained):
        return _existing({"weights": path})
    cached = [file for file in weight_files(str(backbone.get("model")), pretrained) if os.path.isfile(file)]
    return _existing({"weights": cached[0]} if cached else {})


def _existing(files: dict[str, Path]) -> dict[str, str]:
    return {key: file_digest(file) for key, file in files.items() if os.path.isfile(file)}
