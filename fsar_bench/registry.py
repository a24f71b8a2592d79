"""Registries of everything that a config names by `type`; children of MMEngine's, in the scope `fsar_bench`.

`METHODS` finds the built-in methods, and what `import_components` has imported: packages that offer the entry point
`fsar_bench.methods`, and the custom modules of configs. Only registered names are built: MMEngine's own registries import any
module that a `type` names ("os.system"), ours never do.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mmengine import registry as roots
from mmengine.registry import DefaultScope, Registry

from fsar_bench.errors import ConfigError, cause, suggest
from fsar_bench.io import file_digest, module_files
from fsar_bench.randomness import seed_torch

SCOPE = "fsar_bench"
SCOPES = (SCOPE, "mmengine")  # that may stand before a name
ENTRY_POINT_GROUP = "fsar_bench.methods"


class NamesRegistry(Registry):
    """A registry that knows registered names alone, its parents' included.

    MMEngine's falls back to importing whatever dotted path a name may be, and imports the package that the key `_scope_` of a
    config names: a config that is data, such as a stored result's, could run any code.
    """

    def get(self, key: str) -> Any:
        """What is registered under a name; called by MMEngine.

        Args:
            key: a name, with or without its scope: "fsar_bench.NAME" or "mmengine.NAME".

        Raises:
            ConfigError: the name is not registered.
        """
        return find(self, _without_scope(key))

    @contextlib.contextmanager
    def switch_scope_and_registry(self, scope: str | None) -> Iterator[Registry]:
        """Stay in this registry; called by MMEngine with the `_scope_` of a config.

        Raises:
            ConfigError: the config names the scope of another package.
        """
        if scope not in (None, *SCOPES):
            raise ConfigError(
                f"A config of a {self.name} has _scope_={scope!r}: components of other packages are registered by a module of "
                "yours, named in custom_imports."
            )
        with DefaultScope.overwrite_default_scope(scope):
            yield self


class ComponentRegistry(NamesRegistry):
    """A registry whose classes MMEngine builds from nested configs.

    Beside the arguments of its class, a config may have `init_seed` (a seed, and what it is for: the global generator is
    seeded before anything is initialised), `imports` (modules to import first, and their folders) and a `backbone` that is a
    config itself. The identity of a cell may not have them: `imports` runs code.
    """

    def get(self, key: str) -> Any:
        """What builds the class of a registered name; called by MMEngine.

        Raises:
            ConfigError: the name is not registered, told when it is built: the config may import it.
        """

        def builder(
            **arguments: Any,
        ) -> Any:  # no partial: MMEngine logs what it calls, and would print the whole registry
            return _build_component(self, key, **arguments)

        return builder


def _build_component(
    registry: Registry,
    kind: str,
    *,
    init_seed: dict[str, Any] | None = None,
    imports: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    if imports:
        import_components(imports["modules"], imports["folders"])
    if isinstance(arguments.get("backbone"), dict):
        arguments["backbone"] = BACKBONES.build(arguments["backbone"])
    if init_seed:
        seed_torch(init_seed["seed"], init_seed["purpose"])
    return build(registry, {**arguments, "type": kind})


METHODS = ComponentRegistry("method", parent=roots.MODELS, scope=SCOPE, locations=["fsar_bench.methods"])
BACKBONES = ComponentRegistry("backbone", scope=SCOPE, locations=["fsar_bench.backbones"])
MATCHERS = NamesRegistry("matcher", scope=SCOPE, locations=["fsar_bench.matching"])
READERS = NamesRegistry("reader", scope=SCOPE, locations=["fsar_bench.data.readers"])
RUNNERS = NamesRegistry("runner", parent=roots.RUNNERS, scope=SCOPE, locations=["fsar_bench.engine.runner"])
LOOPS = NamesRegistry("loop", parent=roots.LOOPS, scope=SCOPE, locations=["fsar_bench.engine.loops"])
HOOKS = NamesRegistry("hook", parent=roots.HOOKS, scope=SCOPE, locations=["mmengine.hooks", "fsar_bench.engine.hooks"])
DATASETS = NamesRegistry("dataset", parent=roots.DATASETS, scope=SCOPE, locations=["fsar_bench.engine.episodes"])
FUNCTIONS = NamesRegistry("function", parent=roots.FUNCTIONS, scope=SCOPE, locations=["fsar_bench.engine.episodes"])
METRICS = NamesRegistry("metric", parent=roots.METRICS, scope=SCOPE, locations=["fsar_bench.engine.loops"])
OPTIMIZERS = NamesRegistry(
    "optimizer",
    build_func=roots.OPTIMIZERS.build_func,
    parent=roots.OPTIMIZERS,
    scope=SCOPE,
    locations=["mmengine.optim"],
)
PARAM_SCHEDULERS = NamesRegistry(
    "parameter scheduler",
    build_func=roots.PARAM_SCHEDULERS.build_func,
    parent=roots.PARAM_SCHEDULERS,
    scope=SCOPE,
    locations=["mmengine.optim", "fsar_bench.engine.schedules"],
)
for _root in [root for root in vars(roots).values() if isinstance(root, Registry) and SCOPE not in root.children]:
    # what only MMEngine registers: a child in our scope keeps it from searching elsewhere
    NamesRegistry(_root.name, build_func=_root.build_func, parent=_root, scope=SCOPE)


def _without_scope(key: object) -> object:
    """A name without the scope that MMEngine may write before it, where it is ours or MMEngine's."""
    scope, dot, name = key.partition(".") if isinstance(key, str) else ("", "", "")
    return name if dot and scope in SCOPES else key


def find(registry: Registry, name: object) -> Any:
    """The class (or function) that a registry or one of its parents has under a name.

    Raises:
        ConfigError: nothing is registered under that name; close names are listed. Nothing is imported to find it.
    """
    if not isinstance(name, str):
        raise ConfigError(f"A {registry.name} needs a type, but has {name!r}.")
    known: dict[str, Any] = {}
    node: Registry | None = registry
    while node is not None:
        node.import_from_location()
        known = {**node.module_dict, **known}
        node = node.parent
    if name not in known:
        choices = registry.module_dict if registry in (METHODS, BACKBONES, MATCHERS, READERS) else known
        raise ConfigError(
            f"No {registry.name} {name!r} is registered.{suggest(name, choices)} A custom class is found when its config names "
            "its module in custom_imports, or imports= does."
        )
    return known[name]


def build(registry: Registry, config: dict[str, Any], **defaults: Any) -> Any:
    """Build the class that a config names by its `type`.

    Args:
        registry: where the class is registered.
        config: `type` and arguments.
        defaults: arguments that the config need not have.

    Raises:
        ConfigError: the type is not registered (close names are listed), or the class does not take the arguments.
    """
    kind = find(registry, config.get("type"))
    arguments = {**defaults, **{key: value for key, value in config.items() if key != "type"}}
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"The {registry.name} {config['type']!r} cannot be built: {error}.{_arguments(kind, arguments)}"
        ) from error


def _arguments(kind: Any, given: dict[str, Any]) -> str:
    """Text that lists what a class takes, where it does not take what it was given."""
    signature = inspect.signature(kind)
    try:
        signature.bind(**given)
    except TypeError:
        return f" It takes: {', '.join(name for name in signature.parameters if name not in ('backbone', 'width'))}."
    return ""


_imported: dict[str, list[str]] = {}  # digests of the files of custom modules when this process imported them


def import_components(modules: Iterable[str], folders: Iterable[str]) -> None:
    """Import the entry points' packages and the custom modules of configs, so that their classes register.

    Args:
        modules: names of modules.
        folders: folders that are on the import path while they load.

    Raises:
        ConfigError: names the module that cannot be imported, and why; or one of which this process has imported another
            version: its classes would not be those that the config means.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        _load(point.value.split(":")[0], "offered by an installed package")
    folders = list(folders)
    sys.path[:0] = folders
    try:
        for module in modules:
            files = module_files(module, folders)
            digests = [f"{file} {file_digest(file)}" for file in files]
            if _imported.get(module, digests) != digests:
                raise ConfigError(
                    f"This process has imported another version of {module!r} than {files[0] if files else 'none'}. Start Python "
                    "again, or use isolate=True."
                )
            _check_origin(module, files)
            looked = ", ".join(str(Path(folder) / f"{module.replace('.', '/')}.py") for folder in folders)
            _load(
                module, f"a custom module; looked for {looked or 'it in no folder'} and for an installed package", files
            )
            _imported[module] = digests
    finally:
        for folder in folders:
            sys.path.remove(folder)


def _check_origin(module: str, files: list[Path]) -> None:
    """Raise `ConfigError` where another module of that name is loaded already, so that the custom one would never be."""
    loaded = sys.modules.get(module)
    if loaded is None or not files or hasattr(loaded, "__path__"):
        return
    origin = getattr(loaded, "__file__", None)
    if origin is None or Path(origin).resolve() not in [file.resolve() for file in files]:
        raise ConfigError(
            f"A module called {module!r} is loaded already ({origin or 'a part of Python'}), so {files[0]} cannot be: rename it."
        )


def _load(module: str, why: str, files: Iterable[Path] = ()) -> None:
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a module too
        raise ConfigError(f"Cannot import {module!r} ({why}): {cause(error, files)}") from error
