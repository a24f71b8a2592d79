"""The contract of methods, tested on tiny random input: behind `fsar-bench check` and `fsar_bench.check`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fsar_bench.config.cell import Cell
from fsar_bench.config.files import BackboneConfig, load
from fsar_bench.config.overrides import parse_pairs
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.components import build_method
from fsar_bench.errors import ConfigError
from fsar_bench.method import FewShotMethod
from fsar_bench.randomness import seed_torch
from fsar_bench.registry import BACKBONES
from fsar_bench.testing import MethodTester, Outcome

TINY = {"backbone": "tiny_clip", "frames": "4"}  # on what methods are tested unless the settings say otherwise


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


def cells_to_check(method: str, settings: list[str] | Mapping[str, Any]) -> list[Cell]:
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
        try:
            return kind(backbone, **arguments)
        except TypeError as error:
            raise ConfigError(f"{kind.__name__} cannot be built: {error}") from error

    return _tester(build, int(TINY["frames"]))


def _tester(build: Any, frames: int) -> MethodTester:
    backbone = build().backbone
    text_width = backbone.embedding_width if backbone.has_text else 0
    return MethodTester(build, frames=frames, crop=backbone.crop, text_width=text_width)
