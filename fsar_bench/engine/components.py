"""From a cell to its method and backbone."""

from __future__ import annotations

import copy
from typing import Any

from fsar_bench.config.cell import Cell, Traits
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.method import FewShotMethod
from fsar_bench.registry import METHODS, find, import_components


def component_configs(cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configs of the method and of its backbone, with the seeds of their initialisation and the modules they need.

    A backbone without weights is random; it is seeded by the protocol's seed, the same for all methods and trainings.
    """
    identity, setup = cell.identity, cell.setup
    backbone = {key: value for key, value in identity.backbone.items() if key != "name"}
    if setup.pretrained:
        backbone["pretrained"] = setup.pretrained
    backbone["init_seed"] = {"seed": identity.protocol.seed, "purpose": "backbone"}
    method = copy.deepcopy(identity.method)
    method["init_seed"] = {"seed": identity.training_seed, "purpose": "initialisation"}
    if identity.custom_imports:
        method["imports"] = {"modules": list(identity.custom_imports), "folder": setup.module_folder}
    return method, backbone


def without_score_arguments(method: dict[str, Any]) -> dict[str, Any]:
    """A method's config without arguments that change the score alone: cells that differ in them share one training."""
    score_only = getattr(find(METHODS, method["type"]), "score_only", ())
    return {key: value for key, value in method.items() if key not in score_only}


def build_method(cell: Cell) -> FewShotMethod:
    """Build the method of a cell and its backbone on the CPU, with their pretrained or random weights.

    Raises:
        ConfigError: unknown types or arguments.
        NotApplicableError: the method needs class names, and the backbone has no text encoder.
        WeightsError: weights that cannot be loaded.
    """
    import_components(list(cell.identity.custom_imports), cell.setup.module_folder)
    config, backbone = component_configs(cell)
    method: FewShotMethod = METHODS.build({**config, "backbone": backbone})
    _check(cell, method)
    return method


def _check(cell: Cell, method: FewShotMethod) -> None:
    if not isinstance(getattr(method, "traits", None), Traits):
        raise ConfigError(
            f"The method {cell.identity.method['type']} declares no traits. Give it traits = Traits(...)."
        )
    if method.traits.uses_class_names and not method.backbone.has_text:
        raise NotApplicableError(
            f"{cell.name} uses class names, and the backbone {cell.identity.backbone['name']} has no text encoder: choose a "
            "CLIP backbone with backbone=."
        )
    if method.traits.trainable and cell.identity.train is None:
        raise ConfigError(f"The method {cell.name} is trainable, but its config has no train=dict(...).")
