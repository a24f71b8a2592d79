"""Config files: found by name or path, read, and checked field by field; and the digests of files that a cell depends on."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from fsar_bench.config.cell import DatasetSource
from fsar_bench.config.settings import PROTOCOL_KEYS, Protocol, Settings, Text
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import annotation_file, file_digest, is_weight_file, weight_files

S = TypeVar("S", bound=Settings)


class MethodConfig(Settings):
    """The fields of a method's config.

    Attributes:
        title: what tables call the method.
        paper: where it comes from.
        method: config of the method, by registered type.
        train: changes of the training's defaults; None for a method that is not trained.
        custom_imports: modules that register the method's classes.
    """

    title: Text | None = None
    paper: Text = ""
    method: dict[str, Any]
    train: dict[str, Any] | None = None
    custom_imports: list[str] = Field([])

    @field_validator("custom_imports", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """MMEngine writes `dict(imports=[...])`; a bare list or name is fine too."""
        value = value.get("imports", []) if isinstance(value, dict) else value
        return [value] if isinstance(value, str) else value

    @field_validator("method")
    @classmethod
    def _has_a_type(cls, method: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(method.get("type"), str):
            raise ValueError("it lacks method=dict(type=...).")
        return method


class DatasetConfig(Settings):
    """The fields of a dataset's config.

    Attributes:
        title: what tables call the dataset.
        synthetic: it is synthetic.
        dataset: where its clips are listed.
        backbone: name of the default backbone.
        protocol: name of the default protocol.
        controls: methods that are run beside those asked for.
        whole_clips_up_to: clips of at most this many frames are cached whole for training.
        overlaps: clips that the train split shares with val and test of other datasets, by dataset.
        train: changes of every method's training.
        methods: changes of single methods, by name.
    """

    title: Text | None = None
    synthetic: bool = False
    dataset: DatasetSource
    backbone: str
    protocol: str = "standard"
    controls: list[str] = Field([])
    whole_clips_up_to: int = Field(0, ge=0)
    overlaps: dict[str, int] = Field({})
    train: dict[str, Any] = Field({})
    methods: dict[str, dict[str, dict[str, Any]]] = Field({})


class BackboneConfig(Settings):
    """The fields of a backbone's config: `backbone`, by registered type."""

    backbone: dict[str, Any]


class ProtocolConfig(Settings):
    """The fields of a protocol's config: `protocol`, changes of the defaults."""

    protocol: dict[str, Any]


class AblationConfig(Settings):
    """The fields of an ablation: `rows`, each a method and its settings as they would be typed."""

    rows: list[str] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _name_methods(cls, rows: list[str]) -> list[str]:
        if not all(row.split() for row in rows):
            raise ValueError("it needs rows=[...] of texts such as 'METHOD method.KEY=VALUE'.")
        return rows


@dataclass(frozen=True)
class File:
    """A config file that was read.

    Attributes:
        name: its stem.
        path: where it is.
        values: its top-level names.
    """

    name: str
    path: Path
    values: dict[str, Any]

    def checked(self, kind: type[S]) -> S:
        """The values as a typed config; names that begin with "_" are the file's own.

        Raises:
            ConfigError: a field is unknown, missing or of the wrong type.
        """
        values = {key: value for key, value in self.values.items() if not key.startswith("_")}
        return kind.of(values, where=f"The config {self.path}: ")


def package_folder(package: str) -> Path:
    """Folder of an installed package, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{package} is not installed. Install fsar-bench again.")
    return Path(next(iter(spec.submodule_search_locations)))


def config_folder(kind: str) -> Path:
    """Folder of the built-in configs of a kind: methods, ablations, datasets, backbones or protocols."""
    return package_folder(f"fsar_bench.configs.{kind}")


def names(kind: str) -> dict[str, Path]:
    """Built-in configs of a kind by name."""
    return {path.stem: path for path in sorted(config_folder(kind).glob("*.py")) if path.stem != "__init__"}


def load(kind: str, name: str) -> File:
    """Read a config by name, or by path if it ends in .py.

    Raises:
        ConfigError: unknown name (close ones are listed), missing file, or a file that is not a config.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"The config {name} does not exist (looked for {path}).")
        return File(path.stem, path, _read(path))
    known = names(kind)
    if name not in known:
        raise ConfigError(
            f"Unknown {kind.rstrip('s')} {name!r}.{suggest(name, known)} Name a custom config by its path: ./{name}.py"
        )
    return File(name, known[name], copy.deepcopy(_read_builtin(known[name])))


def _read(path: Path) -> dict[str, Any]:
    from mmengine.config import Config

    try:
        values: dict[str, Any] = Config.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()
    except Exception as error:
        raise ConfigError(
            f"The config {path} cannot be read: {type(error).__name__}: {error}. A config holds plain values; a class "
            "belongs in a module next to it, named in custom_imports."
        ) from error
    return values


_read_builtin = lru_cache(maxsize=None)(_read)


def protocol_of(dataset: DatasetConfig, chosen: dict[str, str]) -> tuple[str, Protocol]:
    """Name and rules of the protocol that the settings choose for a dataset.

    Raises:
        ConfigError: an unknown protocol, or a value of the wrong type.
    """
    file = load("protocols", chosen.get("protocol", dataset.protocol))
    values = file.checked(ProtocolConfig).protocol
    Protocol.of(values, where=f"The protocol {file.name}: ")
    typed = {key: Protocol.parse(key, chosen[key]) for key in PROTOCOL_KEYS if key in chosen}
    return file.name, Protocol.of({**values, **typed})


def weights_path(backbone: dict[str, Any]) -> str | None:
    """The path of a backbone's weights, where `pretrained` is one and not a tag or hub id."""
    pretrained = backbone.get("pretrained")
    if not pretrained or not (is_weight_file(pretrained) or Path(pretrained).expanduser().is_dir()):
        return None
    return str(pretrained)


def input_digests(
    dataset: DatasetSource, backbone: dict[str, Any], modules: list[str], folder: str | None
) -> dict[str, str]:
    """SHA-256 of the files that a cell depends on: another content is another cell.

    Args:
        dataset: where clips are listed.
        backbone: config of the backbone, its `pretrained` a path where weights are files.
        modules: custom modules.
        folder: folder of these modules.
    """
    files = {"annotation": annotation_file(dataset.annotation)}
    if dataset.annotation.startswith("prepared:"):
        files["quarantine"] = files["annotation"].with_name("quarantine.json")
    files |= _weights(backbone)
    for module in modules:
        files |= _sources(module, folder)
    return {key: file_digest(file) for key, file in files.items() if file.is_file()}


def _weights(backbone: dict[str, Any]) -> dict[str, Path]:
    pretrained = backbone.get("pretrained")
    if not pretrained:
        return {}
    if pretrained == "builtin":
        folder = Path(__file__).parents[1] / "backbones" / "builtin"
        return {"weights": folder / f"{backbone['model']}.safetensors"}
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return {f"weights {file.name}": file for file in sorted(path.iterdir())}
    if is_weight_file(pretrained):
        return {"weights": path}
    cached = [file for file in weight_files(backbone["model"], pretrained) if file.is_file()]
    return {"weights": cached[0]} if cached else {}


def _sources(module: str, folder: str | None) -> dict[str, Path]:
    """Source files of a custom module: the file itself, or all of a package."""
    spec = PathFinder.find_spec(module.split(".")[0], [*([folder] if folder else []), *sys.path])
    if spec is None or not spec.origin:
        return {}  # importing it fails later, with its name
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return {f"module {module} {file.relative_to(origin.parent)}": file for file in files}
