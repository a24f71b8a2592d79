"""Registries of everything that a config names by `type`; children of MMEngine's, in the scope `fsar_bench`.

`METHODS` may not be looked up before `import_components` has run: that imports the built-in methods, the packages that
offer the entry point `fsar_bench.methods`, and a config's own modules.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from pathlib import Path

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import Registry

from fsar_bench.errors import ConfigError, suggest

SCOPE = "fsar_bench"

METHODS = Registry("method", parent=MMENGINE_MODELS, scope=SCOPE, locations=["fsar_bench.methods"])
MATCHERS = Registry("matcher", scope=SCOPE, locations=["fsar_bench.matching"])
BACKBONES = Registry("backbone", scope=SCOPE, locations=["fsar_bench.backbones"])
READERS = Registry("reader", scope=SCOPE, locations=["fsar_bench.data.readers"])
RUNNERS = Registry("runner", parent=MMENGINE_RUNNERS, scope=SCOPE, locations=["fsar_bench.engine.runner"])
LOOPS = Registry("loop", parent=MMENGINE_LOOPS, scope=SCOPE, locations=["fsar_bench.engine.loops"])
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope=SCOPE, locations=["fsar_bench.engine.hooks"])

ENTRY_POINT_GROUP = "fsar_bench.methods"


def build(registry: Registry, config: dict, **defaults: object) -> object:
    """Build `config` from a registry.

    Raises:
        ConfigError: for an unknown `type` (close names are listed) or arguments that the class does not take.
    """
    registry.import_from_location()
    name = config.get("type")
    if not isinstance(name, str):
        raise ConfigError(f"A {registry.name} needs a type, but its config is {config!r}.")
    if registry.get(name) is None:
        hint = suggest(name, registry.module_dict)
        raise ConfigError(
            f"No {registry.name} {name!r} is registered.{hint} A class of your own is found when its config names its "
            "module in custom_imports."
        )
    try:
        return registry.build(dict(config), default_args=defaults or None)
    except TypeError as error:
        raise ConfigError(f"The {registry.name} {name!r} cannot be built: {error}") from error


def import_components(modules: list[str], folder: str | None) -> None:
    """Import the entry points' packages and a config's own modules, so that their classes register.

    Args:
        modules: module names from a config's `custom_imports`.
        folder: folder of that config; it is on the import path while they load.

    Raises:
        ConfigError: names the module that cannot be imported and why.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _load(point.value.split(":")[0], "offered by an installed package")
    if folder:
        sys.path.insert(0, folder)
    try:
        for module in modules:
            where = Path(folder or ".") / f"{module.replace('.', '/')}.py"
            _load(module, f"named in custom_imports; looked for {where} and for an installed package")
    finally:
        if folder:
            sys.path.remove(folder)


def _load(module: str, why: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        raise ConfigError(f"Cannot import {module!r} ({why}): {type(error).__name__}: {error}") from error
