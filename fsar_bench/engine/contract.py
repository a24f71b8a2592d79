"""Contracts of methods, backbones and matchers, tested on tiny random input: behind `fsar-bench check` and `fsar_bench.check`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.config.cell import TIMM, Cell, Traits
from fsar_bench.config.files import BackboneConfig, load, names
from fsar_bench.config.inputs import Modules
from fsar_bench.config.overrides import coerce, override, parse_pairs, text_settings
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.components import build_method
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.io import user_path
from fsar_bench.matching.matcher import Matcher, build_matcher
from fsar_bench.method import FewShotMethod
from fsar_bench.randomness import seed_torch
from fsar_bench.registry import BACKBONES, MATCHERS, import_components
from fsar_bench.testing import BackboneTester, MatcherTester, MethodTester, Outcome, Tester, describe_error
from fsar_bench.testing.matchers import WIDTH

TINY = {"backbone": "tiny_clip", "frames": "4"}  # on what methods are tested unless the settings say otherwise
SMALL = 112  # pixels of the images that models of timm are tested with, which saves minutes, where they take them
FRAMES = 4  # T of the videos that backbones are tested with

Kind = Literal["method", "backbone", "matcher"]
Settings = list[str] | Mapping[str, Any]
T = TypeVar("T")


class Outcomes(list[Outcome]):
    """What became of each property of a method; reads as a table."""

    @property
    def broken(self) -> list[Outcome]:
        """The properties that do not hold."""
        return [outcome for outcome in self if outcome.state == "broken"]

    def __str__(self) -> str:
        return "\n".join(f"{o.state:8} {o.name}" + (f": {o.reason}" if o.reason else "") for o in self)

    def _repr_html_(self) -> str:
        rows = [f"<tr><td>{o.state}</td><td>{escape(o.name)}</td><td>{escape(o.reason)}</td></tr>" for o in self]
        return f"<table><tr><th>state</th><th>property</th><th>reason</th></tr>{''.join(rows)}</table>"


@dataclass(frozen=True)
class Subject:
    """Something whose contract can be tested.

    Attributes:
        name: of its config or class.
        make: makes its tester.
        changed: settings that it is tested with, by key.
    """

    name: str
    make: Callable[[], Tester[Any]]
    changed: Mapping[str, str] = field(default_factory=dict)

    def tester(self) -> Tester[Any]:
        """Its tester, with the component built.

        Raises:
            ConfigError: it cannot be built, regardless of why; the message says where in the user's code.
        """
        try:
            tester = self.make()
            tester.fresh()
        except (Exception, SystemExit) as error:
            cause = error.__cause__ if isinstance(error.__cause__, TypeError) else error
            raise ConfigError(f"{self.name} cannot be built: {describe_error(cause)}") from error
        return tester


def subjects(kind: Kind, name: str, settings: Settings) -> list[Subject]:
    """What a name stands for.

    Args:
        kind: of component.
        name: of a built-in one, "all", or a path: of a config, for matchers of the module that registers them.
        settings: keys of the command line for a method, fields of its config (and `frames`) for a backbone, arguments of the
            constructor for a matcher.

    Raises:
        ConfigError: an unknown name or setting.
    """
    if kind == "method":
        cells = cells_to_check(name, settings)
        return [Subject(cell.name, partial(make_tester, cell), cell.label.changed) for cell in cells]
    given = parse_pairs(settings) if isinstance(settings, list) else text_settings(settings)
    values = {key: str(value) for key, value in given.items()}
    if kind == "backbone":
        return [_backbone(each, values) for each in (names("backbones") if name == "all" else [name])]
    return [_matcher(each, values) for each in _matcher_names(name)]


def class_subject(kind: type, arguments: Mapping[str, Any]) -> Subject:
    """A class of a method, backbone or matcher.

    Args:
        kind: the class.
        arguments: of its constructor; a method is given the tiny backbone, a learned matcher its `width`.

    Raises:
        ConfigError: it is a subclass of none of the three.
    """
    if issubclass(kind, FewShotMethod):
        return Subject(kind.__name__, lambda: make_class_tester(kind, arguments))
    if issubclass(kind, Backbone):
        return Subject(kind.__name__, lambda: BackboneTester(_seeded(lambda: kind(**arguments)), frames=FRAMES))
    if issubclass(kind, Matcher):
        width = {"width": WIDTH} if kind.learned else {}
        return Subject(kind.__name__, lambda: MatcherTester(_seeded(lambda: kind(**{**width, **arguments}))))
    raise ConfigError(
        f"{kind.__name__} is none of FewShotMethod, Backbone and Matcher. Make it a subclass of one of them."
    )


def _seeded(build: Callable[[], T]) -> Callable[[], T]:
    """The same component at every call, where its initialisation is random."""

    def build_seeded() -> T:
        seed_torch(0, "initialisation")
        return build()

    return build_seeded


def _backbone(name: str, values: dict[str, str]) -> Subject:
    """A backbone by the name or path of its config."""
    file = load("backbones", name)
    checked = file.checked(BackboneConfig)
    config: dict[str, Any] = {"frames": FRAMES, **checked.backbone}  # one that is sized by T says so
    for key, text in values.items():
        override(config, key, text, name)
    if values.get("pretrained", "").lower() == "none":  # random weights
        config["pretrained"] = None
    frames = config["frames"] if "frames" in checked.backbone else config.pop("frames")
    small = {"crop": SMALL, "resize": SMALL} if name.startswith(TIMM) and not {"crop", "resize"} & set(values) else {}

    def build() -> Backbone:
        modules = Modules.of(file, checked)
        import_components(modules.names, modules.folders)
        try:
            return cast("Backbone", BACKBONES.build({**config, **small}))
        except ConfigError:  # a model of one size of images alone
            if not small:
                raise
            return cast("Backbone", BACKBONES.build(dict(config)))

    return Subject(file.name, lambda: BackboneTester(_seeded(build), frames=frames), values)


def _matcher_names(name: str) -> list[str]:
    """Registered names that a name stands for: itself, all built-in ones, or those that a module registers."""
    MATCHERS.import_from_location()
    if name == "all":
        return sorted(name for name, kind in MATCHERS.module_dict.items() if kind.__module__.startswith("fsar_bench."))
    if not name.endswith(".py"):
        if name not in MATCHERS.module_dict:
            raise ConfigError(
                f"Unknown matcher {name!r}.{suggest(name, MATCHERS.module_dict)} Name a custom one by the path of its module: "
                "./my_matcher.py"
            )
        return [name]
    path = user_path(name).resolve()
    modules = Modules.named(name)
    import_components(modules.names, modules.folders)
    registered = [key for key, kind in MATCHERS.module_dict.items() if _source(kind) == path]
    if not registered:
        raise ConfigError(f"{path} registers no matcher. Decorate its class with @MATCHERS.register_module().")
    return registered


def _source(kind: Any) -> Path | None:
    try:
        return Path(inspect.getfile(kind)).resolve()
    except (OSError, TypeError):  # made in a shell
        return None


def _matcher(name: str, values: dict[str, str]) -> Subject:
    """A matcher by its registered name; settings are read by the defaults of its constructor."""
    parameters = inspect.signature(MATCHERS.get(name)).parameters
    config: dict[str, Any] = {"type": name}
    for key, text in values.items():
        if key not in parameters:
            raise ConfigError(f"{name} has no argument {key!r}.{suggest(key, parameters)}")
        default = parameters[key].default
        config[key] = coerce(key, text, None if isinstance(default, (tuple, list)) else default)
    return Subject(name, lambda: MatcherTester(_seeded(lambda: build_matcher(config, WIDTH))), values)


def cells_to_check(method: str, settings: Settings) -> list[Cell]:
    """Cells of a method (or of the rows of an ablation) with settings, on a tiny backbone unless they name one.

    Raises:
        ConfigError: unknown method or settings.
    """
    values = parse_pairs(settings) if isinstance(settings, list) else dict(settings)
    return resolve({**TINY, **values, "methods": method, "controls": False}).cells


def make_tester(cell: Cell) -> MethodTester:
    """The tester of a cell's method.

    Raises:
        ConfigError: a method or backbone that cannot be built.
    """
    return _tester(lambda: build_method(cell), cell.protocol.frames)


def make_class_tester(kind: type[FewShotMethod], arguments: Mapping[str, Any]) -> MethodTester:
    """The tester of a class on the tiny backbone.

    Args:
        kind: the class.
        arguments: of its constructor, beside the backbone.
    """
    config = load("backbones", TINY["backbone"]).checked(BackboneConfig).backbone

    def build() -> FewShotMethod:
        seed_torch(0, "backbone")
        backbone = BACKBONES.build(config)
        seed_torch(0, "initialisation")
        method = kind(backbone, **arguments)
        if not isinstance(getattr(method, "traits", None), Traits):
            raise ConfigError(f"{kind.__name__} declares no traits. Give it traits = Traits(...).")
        return method

    return _tester(build, int(TINY["frames"]))


def _tester(build: Any, frames: int) -> MethodTester:
    backbone = build().backbone
    text_width = backbone.embedding_width if backbone.has_text else 0
    return MethodTester(build, frames=frames, crop=backbone.crop, text_width=text_width)
