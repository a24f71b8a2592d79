"""Config files: found by name or path, read, and checked field by field."""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from fsar_bench.config.cell import TIMM, DatasetSource
from fsar_bench.config.plain import check_plain
from fsar_bench.config.search import parse_space
from fsar_bench.config.settings import PROTOCOL_KEYS, Protocol, Settings, Text
from fsar_bench.errors import ConfigError, cause, shown, suggest
from fsar_bench.io import DATASET_FILE, data_folder, fault_of_file, is_weight_file, read_text, reason_of, user_path

MOST_BYTES = 2**20  # of a config
_MODULE = re.compile(r"[\w-]{1,100}(\.[\w-]{1,100}){0,9}")


class Config(Settings):
    """What every config may have.

    Attributes:
        custom_imports: modules, next to the config or installed, that register classes of the user.
    """

    custom_imports: list[str] = Field([])

    @field_validator("custom_imports", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """MMEngine writes `dict(imports=[...])`; a bare list or name is fine too."""
        value = value.get("imports", []) if isinstance(value, dict) else value
        return [value] if isinstance(value, str) else value

    @field_validator("custom_imports")
    @classmethod
    def _name_modules(cls, names: list[str]) -> list[str]:
        for name in names:
            if not _MODULE.fullmatch(name):
                raise ValueError(f"custom_imports: {shown(name)} names no module: say my_module for my_module.py.")
        return names


C = TypeVar("C", bound=Config)


class MethodConfig(Config):
    """The fields of a method's config.

    Attributes:
        title: what tables call the method.
        paper: where it comes from.
        certainty: how sure its specification is: "code run" (golden arrays of the official code agree), "code read" (the
            official code was read), "declared" (settings of our own where nothing could be read).
        method: config of the method, by registered type.
        train: changes of the training's defaults; None for a method that is not trained.
        search: what `fsar-bench tune` tries, by key, see `search.py`; empty for the learning rate alone.
    """

    title: Text | None = None
    paper: Text = ""
    certainty: Literal["code run", "code read", "declared"] | None = None
    method: dict[str, Any]
    train: dict[str, Any] | None = None
    search: dict[str, dict[str, Any]] = Field({})

    @field_validator("method")
    @classmethod
    def _has_a_type(cls, method: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(method.get("type"), str):
            raise ValueError("it lacks method=dict(type=...).")
        return method

    @field_validator("search")
    @classmethod
    def _is_a_space(cls, search: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        try:
            parse_space(search, "")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return search


class DatasetConfig(Config):
    """The fields of a dataset's config.

    Attributes:
        title: what tables call the dataset.
        synthetic: it is synthetic.
        dataset: where its clips are listed.
        backbone: name of the default backbone.
        protocol: name of the default protocol.
        controls: methods that are run beside those asked for.
        reader: how its clips are decoded, unless reader= says otherwise.
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
    reader: Text | None = None
    whole_clips_up_to: int = Field(0, ge=0)
    overlaps: dict[str, int] = Field({})
    train: dict[str, Any] = Field({})
    methods: dict[str, dict[str, dict[str, Any]]] = Field({})


class BackboneConfig(Config):
    """The fields of a backbone's config: `backbone`, by registered type."""

    backbone: dict[str, Any]

    @field_validator("backbone")
    @classmethod
    def _is_a_config(cls, backbone: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(backbone.get("type"), str):
            raise ValueError("it lacks backbone=dict(type=...).")
        if not isinstance(backbone.get("pretrained"), str | None):
            raise ValueError(
                f"backbone.pretrained={shown(backbone['pretrained'])} must be text, or None for random weights."
            )
        return backbone


class ProtocolConfig(Config):
    """The fields of a protocol's config: `protocol`, changes of the defaults."""

    protocol: dict[str, Any]


class AblationConfig(Config):
    """The fields of an ablation.

    Attributes:
        rows: each a method and its settings as they would be typed.
        published: the paper's accuracies in percent, by dataset as the literature writes it, one for each row; None where the
            paper has none.
    """

    rows: list[str] = Field(min_length=1)
    published: dict[str, list[float | None]] = Field({})

    @field_validator("rows")
    @classmethod
    def _name_methods(cls, rows: list[str]) -> list[str]:
        if not all(row.split() for row in rows):
            raise ValueError("it needs rows=[...] of texts such as 'METHOD method.KEY=VALUE'.")
        return rows

    @model_validator(mode="after")
    def _has_a_figure_for_each_row(self) -> Self:
        for dataset, figures in self.published.items():
            if len(figures) != len(self.rows):
                raise ValueError(
                    f"published has {len(figures)} figures of {dataset} for {len(self.rows)} rows: None stands for none."
                )
        return self


@dataclass(frozen=True)
class File:
    """A config file that was read.

    Attributes:
        name: its stem.
        path: where it is.
        values: its top-level names.
        is_custom: it is the user's, and not one of fsar-bench.
    """

    name: str
    path: Path
    values: dict[str, Any]
    is_custom: bool

    def checked(self, kind: type[C]) -> C:
        """The values as a typed config; names that begin with "_" are the file's own.

        Raises:
            ConfigError: a field is unknown, missing or of the wrong type.
        """
        where = f"The config {self.path}: "
        values = {key: value for key, value in self.values.items() if not key.startswith("_")}
        for key in kind.model_fields:
            check_plain(values.get(key), key, where)
        return kind.of(values, where=where)

    def next_to(self, path: str) -> str:
        """A path in the config, which is relative to the config.

        Raises:
            ConfigError: no file can have this path.
        """
        if not self.is_custom:
            return path
        try:
            return str(user_path(self.path.parent / user_path(path)))
        except ConfigError as error:
            raise ConfigError(f"The config {self.path}: {error}") from error


@cache
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
    """Folder of the built-in configs of a kind: methods, ablations, datasets, backbones, protocols or recipes."""
    return package_folder(f"fsar_bench.configs.{kind}")


@cache
def names(kind: str) -> dict[str, Path]:
    """Built-in configs of a kind by name."""
    return {path.stem: path for path in sorted(config_folder(kind).glob("*.py")) if path.stem != "__init__"}


def load(kind: str, name: str) -> File:
    """Read a config by name, or by path if it ends in .py.

    Raises:
        ConfigError: unknown name (close ones are listed), missing file, or a file that is not a config.
    """
    if name.endswith(".py"):
        path = Path(os.path.realpath(user_path(name)))
        if fault := fault_of_file(path):
            raise ConfigError(f"The config {name} {fault} (looked for {path}).")
        return File(path.stem, path, _read(path), is_custom=True)
    known = names(kind)
    if name in known:
        return File(name, known[name], copy.deepcopy(_read_builtin(known[name])), is_custom=False)
    if kind == "backbones" and name.startswith(TIMM):
        return File(name, Path(name), {"backbone": _timm(name)}, is_custom=False)
    prepared = prepared_datasets() if kind == "datasets" else {}
    if name in prepared:
        return File(name, prepared[name], _read(prepared[name]), is_custom=True)
    raise _unknown(kind, name, [*known, *prepared])


def prepared_datasets() -> dict[str, Path]:
    """Configs of the user's own datasets by name, as `fsar-bench data prepare` wrote them."""
    return {path.parent.name: path for path in sorted(data_folder().glob(f"*/{DATASET_FILE}"))}


def _timm(name: str) -> dict[str, Any]:
    """Config of the backbone `timm:MODEL` or `timm:MODEL.TAG`; sizes and normalisation are those of its weights."""
    model, _, tag = name.removeprefix(TIMM).partition(".")
    if not model:
        raise ConfigError(f"backbone={name} names no model: say timm:MODEL, such as timm:convnext_tiny.")
    return {
        "type": "ImageBackbone",
        "model": model,
        "pretrained": tag or "default",
        "resize": None,
        "crop": None,
        "pretraining": "",
    }


def _unknown(kind: str, name: str, known: list[str]) -> ConfigError:
    """The error for a name that no config has, with what the user may have meant."""
    what = f"Unknown {kind.rstrip('s')} {shown(name)}."
    path = Path(os.path.expanduser(name))
    is_folder = os.path.isdir(path)
    if kind == "datasets" and (is_folder or path.suffix in (".csv", ".json")):
        if path.suffix == ".json":
            return ConfigError(f"{what} A dataset is a config (.py) that names its annotation: {_EXAMPLE}")
        stem = Path(os.path.realpath(path)).stem
        return ConfigError(
            f"{what} It is {'a folder' if is_folder else 'a table'}, not a dataset: prepare it once with fsar-bench data "
            f"prepare --name {stem} --root {name}, then say dataset={stem}."
        )
    is_name = name.isidentifier() and len(name) <= 100
    advice = f" Name a custom config by its path: ./{name}.py" if is_name else ""
    if kind == "datasets" and is_name:
        advice += f" Or prepare your clips: fsar-bench data prepare --name {name} --root DIR"
    return ConfigError(f"{what}{suggest(name, known)}{advice}")


_EXAMPLE = 'dataset = dict(name="mine", annotation="mine.json"); backbone = "vit_b_16"'


def _read(path: Path) -> dict[str, Any]:
    """The top-level names of a config: it is a program, so whatever it raises is told with its line."""
    from mmengine.config import Config as MMConfig

    try:
        read_text(path, MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config {path} cannot be read: {reason_of(error)}. It must be UTF-8 text.") from error
    try:
        with _byte_order_marks_skipped():
            values: dict[str, Any] = MMConfig.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a config too
        raise ConfigError(
            f"The config {path} cannot be read: {cause(error, [path])}. A config holds plain values; a class belongs in a module "
            "next to it, named in custom_imports."
        ) from error
    return values


@contextlib.contextmanager
def _byte_order_marks_skipped() -> Iterator[None]:
    """MMEngine reads configs as UTF-8 with a byte order mark too, as editors on Windows write them."""
    from mmengine.config import config as module

    def open_text(file: Any, mode: str = "r", encoding: str | None = None, **more: Any) -> IO[Any]:
        return open(file, mode, encoding="utf-8-sig" if encoding == "utf-8" and "r" in mode else encoding, **more)

    vars(module)["open"] = open_text
    try:
        yield
    finally:
        del vars(module)["open"]


_read_builtin = lru_cache(maxsize=None)(_read)


def protocol_of(dataset: DatasetConfig, chosen: Mapping[str, str]) -> tuple[str, Protocol]:
    """Name and rules of the protocol that the settings choose for a dataset.

    Raises:
        ConfigError: an unknown protocol, or a value of the wrong type.
    """
    file = load("protocols", chosen.get("protocol", dataset.protocol))
    values = file.checked(ProtocolConfig).protocol
    Protocol.of(values, where=f"The protocol {file.name}: ")
    typed = {key: Protocol.parse(key, chosen[key]) for key in PROTOCOL_KEYS if key in chosen}
    return file.name, Protocol.of({**values, **typed})


def is_weights_path(pretrained: object) -> bool:
    """Whether a `pretrained` value is a file or an existing folder, and not a tag or hub id."""
    return (
        isinstance(pretrained, str)
        and bool(pretrained)
        and (is_weight_file(pretrained) or os.path.isdir(user_path(pretrained)))
    )
