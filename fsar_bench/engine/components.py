"""From a cell to its method and backbone, and the check that all of its components can be built."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.config.cell import Cell, Traits
from fsar_bench.config.settings import RunOptions
from fsar_bench.data.dataset import open_dataset
from fsar_bench.engine.checkpoint import load_named
from fsar_bench.engine.device import check_devices, choose_device
from fsar_bench.engine.episodes import prepare_method
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.io import canonical
from fsar_bench.method import FewShotMethod
from fsar_bench.plan import check_plan
from fsar_bench.registry import BACKBONES, METHODS, READERS, find, import_components


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
        method["imports"] = {"modules": list(identity.custom_imports), "folders": list(setup.module_folders)}
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
    import_components(cell.identity.custom_imports, cell.setup.module_folders)
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
    if method.traits.trainable and method.reads_train_bank:
        raise ConfigError(
            f"The method {cell.name} is trained and has reads_train_bank: statistics of the train split are for methods that are "
            "not trained. Compute them in its training."
        )
    parameters = inspect.signature(type(method)).parameters
    for name in method.score_only:
        if name in parameters and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(
                f"The method {cell.name} lists {name!r} in score_only, and its constructor has no default for it. Give it one: "
                "the training, which all values share, is built without it."
            )
    if method.traits.trainable and cell.identity.train is None:
        raise ConfigError(f"The method {cell.name} is trainable, but its config has no train=dict(...).")


class ComponentCheck:
    """Builds what cells name, each distinct backbone and method once, and throws it away.

    Args:
        options: how the cells are to run.

    Attributes:
        fits: keys of the methods that choose weights of their score on val.
    """

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self._backbones: dict[str, Backbone | Exception] = {}
        self.fits: set[str] = set()
        self._known: dict[str, Exception | None] = {}  # what became of each check

    def __call__(self, cell: Cell) -> Iterator[Exception]:
        """What is wrong with a cell.

        A device, reader, backbone, method, optimiser, scheduler, hook or log backend that does not exist or cannot be built, or
        whatever the constructor of a custom class raises.
        """
        modules = (list(cell.identity.custom_imports), list(cell.setup.module_folders))
        if (error := self._once(["imports", modules], lambda: import_components(*modules))) is not None:
            yield error
            return
        for error in (self._device(), self._ranks(cell), self._reader(cell), self._method(cell), self._training(cell)):
            if error is not None:
                yield error

    def _once(self, key: object, check: Callable[[], object]) -> Exception | None:
        """What goes wrong in a check; what cells have in common is checked once."""
        text = canonical(key)
        if text not in self._known:
            try:
                check()
                self._known[text] = None
            except Exception as error:
                self._known[text] = error
        return self._known[text]

    def _device(self) -> Exception | None:
        if self.options.launcher != "local":  # nodes of a cluster have other devices
            return None
        return self._once(["device"], lambda: choose_device(self.options.device))

    def _ranks(self, cell: Cell) -> Exception | None:
        train, devices = cell.identity.train, self.options.devices
        if train is None or cell.setup.checkpoint or devices == 1:
            return None
        error = None
        if self.options.launcher == "local":
            error = self._once(["ranks"], lambda: check_devices(self.options.device, devices))
        if error is None and devices > train.accumulate:
            return ConfigError(
                f"devices={devices} is more than train.accumulate={train.accumulate}, the episodes of an update of {cell.name}: "
                f"ranks would have nothing to do. Use devices={train.accumulate} or less."
            )
        return error

    def _reader(self, cell: Cell) -> Exception | None:
        return self._once(["reader", cell.identity.reader], lambda: find(READERS, cell.identity.reader))

    def _method(self, cell: Cell) -> Exception | None:
        """What goes wrong when the method is built, with any seed: what can be built does not depend on it."""
        config, backbone = component_configs(cell)
        unseeded = [{key: value for key, value in part.items() if key != "init_seed"} for part in (config, backbone)]
        source, p = cell.train_dataset.model_dump(mode="json"), cell.protocol
        texts = [p.template, list(cell.identity.class_texts)]
        key = canonical(["method", cell.name, unseeded, str(cell.setup.checkpoint), source, texts])
        error = self._once(key, lambda: self._build(key, cell, config, backbone))
        if error is None and key in self.fits:
            return self._once(["val", source, p.way, p.shot], lambda: _check_val(cell))
        return error

    def _training(self, cell: Cell) -> Exception | None:
        train = cell.identity.train
        if train is None or cell.setup.checkpoint:
            return None
        from fsar_bench.engine.training import check_training

        key = ["training", train.model_dump(mode="json", exclude={"seed"})]
        return self._once(key, lambda: check_training(train, self.options.log))

    def _build(self, key: str, cell: Cell, config: dict[str, Any], backbone: dict[str, Any]) -> None:
        """Build a method and load its checkpoint; raises what goes wrong."""
        built = self._backbone(backbone)
        if isinstance(built, Exception):
            raise built
        method = METHODS.build({**config, "backbone": copy.deepcopy(built)})
        _check(cell, method)
        if method.fits:
            self.fits.add(key)
        if cell.setup.checkpoint:
            train_dataset = open_dataset(**cell.train_dataset.model_dump())
            prepare_method(method, train_dataset, cell.protocol.template, cell.identity.class_texts)
            load_named(cell.setup.checkpoint, method)

    def _backbone(self, config: dict[str, Any]) -> Backbone | Exception:
        key = canonical({name: value for name, value in config.items() if name != "init_seed"})
        if key not in self._backbones:
            try:
                self._backbones[key] = BACKBONES.build(config)
            except Exception as error:
                self._backbones[key] = error
        return self._backbones[key]


def _check_val(cell: Cell) -> None:
    """The val split has enough classes and clips to choose weights of the score on."""
    p = cell.protocol
    split = open_dataset(**cell.train_dataset.model_dump()).split("val")
    check_plan(split.list, way=p.way, shot=p.shot, query=1, purpose="val", missing=split.missing)
