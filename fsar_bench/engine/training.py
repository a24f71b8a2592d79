"""Training: the MMEngine config of a cell's training, and the training itself, or its reuse."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import LOG_BACKENDS, RunOptions, Train
from fsar_bench.data.dataset import open_split
from fsar_bench.data.decode import ReadPlan
from fsar_bench.engine.bank import BankPlace, BankStore
from fsar_bench.engine.components import component_configs, without_score_arguments
from fsar_bench.engine.hooks import BEST, EpisodicCheckpointHook, KeepTestSplitClosed, TrainingCurves
from fsar_bench.engine.locks import patient_in
from fsar_bench.engine.runner import EpisodicRunner
from fsar_bench.engine.state import Finished, finished_training, note_finished
from fsar_bench.errors import ConfigError
from fsar_bench.io import write_atomically
from fsar_bench.progress.events import STARTING, report
from fsar_bench.registry import HOOKS, OPTIMIZERS, PARAM_SCHEDULERS, SCOPE, build, find

CONFIG = "config.py"
HEADER = '''"""The training of {cell}, as MMEngine reads it:

from mmengine.config import Config
from fsar_bench.engine.runner import EpisodicRunner

runner = EpisodicRunner.from_cfg(Config.fromfile("config.py"))
runner.train()  # resumes if work_dir holds a last.pt
runner.test()  # with the best.safetensors of work_dir
"""

'''


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        checkpoint: the best one.
        sha: its SHA-256.
        seconds: what the training took.
        curve: (training episodes, val accuracy) of each validation.
    """

    checkpoint: Path
    sha: str
    seconds: float
    curve: list[tuple[int, float]]


@dataclass(frozen=True)
class Plans:
    """How clips are read.

    Attributes:
        train: those of the training and of val.
        test: those of the tested dataset.
    """

    train: ReadPlan
    test: ReadPlan


def train_or_reuse(
    cell: Cell,
    options: RunOptions,
    plans: Plans,
    folder: Path,
    key: str,
    store: BankStore | None,
    place: BankPlace,
    device: torch.device,
) -> Trained:
    """Train to the end, resuming if there is a checkpoint, or reuse a finished training.

    Args:
        cell: of a trainable method.
        options: of the run.
        plans: how clips are read.
        folder: of the training; cells that share the training share it.
        key: of the training: what is stored of another one is not used.
        store: keeps the encoded val clips; None encodes them again.
        place: where several ranks store encoded test clips, after the training.
        device: where to train.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with patient_in(folder, "the training"):
        finished = finished_training(folder, key)
        if finished is None:
            report(f"{STARTING}: the training", 0, 1)
            config = training_config(cell, options, plans, folder, key, store, device)
            text = head_of(cell) + Config(config).pretty_text
            write_atomically(folder / CONFIG, text.encode())
            if options.devices == 1:
                finished = train_by(folder, text)
            else:
                from fsar_bench.engine.ranks import Job, train_on_ranks  # they train by this module

                finished = train_on_ranks(Job(cell, options, folder, key, text, place, device))
            note_finished(folder, key, finished)
    return Trained(folder / BEST, finished.best, finished.train, finished.curve)


def head_of(cell: Cell) -> str:
    """The beginning of a training's config, which is a program: no title may end its docstring."""
    return HEADER.format(cell=str(cell).replace("\\", "/").replace('"', "'"))


def train_by(
    folder: Path,
    text: str,
    changes: dict[str, Any] | None = None,
    then: Callable[[EpisodicRunner, Finished], None] = lambda _, __: None,
) -> Finished:
    """Train by the config of a folder.

    Args:
        folder: of the training.
        text: its config file, which MMEngine writes in its own form, without the header, and which is restored.
        changes: of the config, for a rank of several.
        then: what else such a rank does with its runner when the training is done.
    """
    read = Config.fromfile(str(folder / CONFIG))
    config = {**read.to_dict(), **(changes or {})}
    plain = Config(config, filename=read.filename, format_python_code=False)  # MMEngine prints it four times
    try:
        runner = EpisodicRunner.from_cfg(plain)
        if is_main_process():
            write_atomically(folder / CONFIG, text.encode())
        try:
            runner.train()
        finally:
            for hook in runner.hooks:
                if isinstance(hook, KeepTestSplitClosed):
                    open_split("test", hook)  # a failed training may live on in its traceback
        (checkpoints,) = (hook for hook in runner.hooks if isinstance(hook, EpisodicCheckpointHook))
        (curves,) = (hook for hook in runner.hooks if isinstance(hook, TrainingCurves))
        told = [(float(runner.train_loop.seconds), checkpoints.best_sha)]
        broadcast_object_list(told)  # rank 0 wrote the checkpoint
        seconds, best = told[0]
        finished = Finished(train=seconds, best=best, curve=curves.accuracies)
        then(runner, finished)
        return finished
    finally:
        _close_log(config["experiment_name"])


def _close_log(experiment: str) -> None:
    """Close what MMEngine's loggers of this training write to, and forget them.

    A training that starts within the same second has the same name, and would be given these without their files.
    """
    for kind in (MMLogger, MessageHub, Visualizer):
        for name in [name for name in kind._instance_dict if name.startswith(experiment)]:
            instance = kind._instance_dict.pop(name)
            for handler in list(getattr(instance, "handlers", ())):
                instance.removeHandler(handler)
                with contextlib.suppress(OSError):  # on a full disk, of lines that were dropped before
                    handler.close()


def training_config(
    cell: Cell, options: RunOptions, plans: Plans, folder: Path, key: str, store: BankStore | None, device: torch.device
) -> dict[str, Any]:
    """The config of a training; arguments as in `train_or_reuse`.

    Raises:
        ConfigError: an optimiser, scheduler, hook or log backend that is not registered or not installed.
    """
    train = cell.identity.train
    assert train is not None, "only trainable cells are trained"
    method, backbone = component_configs(cell)
    scoring = {"batch": options.score_batch, "bank_budget": options.bank_budget}
    return {
        "runner_type": "EpisodicRunner",
        "default_scope": SCOPE,
        "custom_imports": {"imports": ["fsar_bench.engine.runner"]},
        "device": str(device),
        "work_dir": str(folder),
        "experiment_name": folder.name,
        "randomness": {"seed": cell.identity.training_seed % 2**32},
        "model": {**without_score_arguments(method), "backbone": backbone},
        **_dataloaders(cell, train, _frames(plans.train, options), _frames(plans.test, options), options.prefetch),
        "train_cfg": _loop(train),
        "optim_wrapper": _optimizer(train, device),
        "param_scheduler": _schedule(train),
        "val_cfg": {"type": "EpisodicValLoop", "store": _store(store), **scoring},
        "val_evaluator": {"type": "QueryAccuracy"},
        "test_cfg": {"type": "EpisodicTestLoop", **scoring},
        "test_evaluator": {"type": "QueryAccuracy"},
        "default_hooks": _default_hooks(train, options, key),
        "custom_hooks": [*_hooks(train, cell.identity.training_seed), *_fit(train, options, plans.train)],
        "log_processor": {"by_epoch": False, "window_size": _log_interval(train)},
        "visualizer": {"type": "Visualizer", "vis_backends": _log_backends(options.log, cell)},
        "env_cfg": {"mp_cfg": {"mp_start_method": multiprocessing.get_start_method()}, "dist_cfg": {"backend": "nccl"}},
    }


def _loop(train: Train) -> dict[str, Any]:
    loop = {"type": "EpisodicTrainLoop", "max_iters": train.episodes, "val_interval": train.val_interval}
    return loop if train.loss_scale == 1 else {**loop, "loss_scale": train.loss_scale}


def _dataloaders(
    cell: Cell, train: Train, frames: dict[str, Any], test_frames: dict[str, Any], prefetch: int
) -> dict[str, Any]:
    """Dataloaders of the training episodes, of the val episodes that choose the checkpoint, and of the test plan."""
    protocol, seed = cell.protocol, cell.identity.training_seed
    common = {"template": protocol.template, "group_disjoint": protocol.group_disjoint}
    if cell.identity.class_texts:
        common["class_texts"] = list(cell.identity.class_texts)
    if train.sampling != "segments":
        frames = {**frames, "sampling": train.sampling, "stride": train.stride}
    trained = {"dataset": cell.train_dataset.model_dump(), "frames": frames, **common}
    testing = {"dataset": cell.dataset.model_dump(), "frames": test_frames, **common}
    drawn = {"way": train.way, "shot": train.shot}
    tested = {key: getattr(protocol, key) for key in ("split", "way", "shot", "query", "episodes", "seed")}
    training = {
        **drawn,
        "query": train.query_per_class,
        "episodes": train.episodes,
        "seed": seed,
        **_augmentation(train),
        "prefetch": prefetch,
    }
    val = {"split": "val", **drawn, "query": 1, "episodes": train.val_episodes, "seed": protocol.seed}
    return {
        "train_dataloader": _loader(type="TrainEpisodes", **trained, **training),
        "val_dataloader": _loader(type="EvaluationEpisodes", **trained, **val),
        "test_dataloader": _loader(type="EvaluationEpisodes", **testing, **tested),
    }


def _augmentation(train: Train) -> dict[str, Any]:
    """Arguments of `TrainEpisodes` for a training that augments its clips; none for one that takes the centre crop as it is."""
    if not train.is_augmented:
        return {}
    augmentation = {
        "crop": train.crop,
        "area": train.crop_area,
        "ratio": train.crop_ratio,
        "flip": 0.5 if train.flip == "on" else 0.0,
        "jitter": train.jitter,
        "grayscale": train.grayscale,
        "squash": train.squash,
    }
    return {"augmentation": augmentation, "augmented": train.augmented}


def _frames(plan: ReadPlan, options: RunOptions) -> dict[str, Any]:
    return {
        "reader": plan.reader,
        "resize": plan.resize,
        "crop": plan.crop,
        "frames": plan.frames,
        "whole_up_to": plan.whole_up_to,
        "modules": list(plan.modules),
        "folders": list(plan.folders),
        "workers": options.workers,
        "seconds": options.decode_timeout,
    }


def _loader(**dataset: Any) -> dict[str, Any]:
    """A dataloader without batches: episodes are taken from its dataset by number."""
    return {
        "dataset": dataset,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "batch_size": None,
        "num_workers": 0,
        "collate_fn": {"type": f"{SCOPE}.single_episode"},
    }


def _store(store: BankStore | None) -> dict[str, str] | None:
    return None if store is None else {"folder": str(store.folder), "key": store.key}


def _optimizer(train: Train, device: torch.device) -> dict[str, Any]:
    find(OPTIMIZERS, train.optimizer["type"])
    mixed = device.type == "cuda" and train.amp == "auto"
    wrapper = {"type": "AmpOptimWrapper", "dtype": "bfloat16"} if mixed else {"type": "OptimWrapper"}
    return {
        **wrapper,
        "optimizer": copy.deepcopy(train.optimizer),
        "accumulative_counts": train.accumulate,
        "clip_grad": {"max_norm": train.clip_grad} if train.clip_grad else None,
        **_exemptions(train),
    }


def _exemptions(train: Train) -> dict[str, Any]:
    """MMEngine's way to exempt parameters from weight decay; empty where none is, so that all share one group."""
    keys = {part: {"decay_mult": 0.0} for part in train.no_decay}
    return {"paramwise_cfg": {"custom_keys": keys}} if keys else {}


def _schedule(train: Train) -> list[dict[str, Any]]:
    """The schedulers that the config names, or a linear warm-up and a cosine to 0."""
    if train.scheduler is not None:
        given = train.scheduler if isinstance(train.scheduler, list) else [train.scheduler]
        for scheduler in given:
            find(PARAM_SCHEDULERS, scheduler.get("type"))
        return [{"by_epoch": False, **copy.deepcopy(scheduler)} for scheduler in given]
    steps, warm = train.episodes, max(1, round(train.warmup * train.episodes))
    rise = {"type": "LinearLR", "start_factor": 0.05, "by_epoch": False, "begin": 0, "end": warm}
    fall = {"type": "CosineAnnealingLR", "T_max": steps - warm, "by_epoch": False, "begin": warm, "end": steps}
    return [rise, fall] if warm < steps else [rise]  # a warm-up may take all of a short training


def _default_hooks(train: Train, options: RunOptions, key: str) -> dict[str, Any]:
    """MMEngine's hooks, with our checkpoints in place of its own."""
    return {
        "logger": {"type": "LoggerHook", "interval": _log_interval(train), "log_metric_by_epoch": False},
        "sampler_seed": None,
        "checkpoint": {
            "type": "EpisodicCheckpointHook",
            "seconds": options.checkpoint_seconds,
            "made_from": key,
        },
    }


def check_training(train: Train, log: Iterable[str]) -> None:
    """Build the optimiser, the schedulers and the hooks of a training on a parameter of their own.

    Args:
        train: how a method is trained.
        log: where its curves go.

    Raises:
        ConfigError: one that is not registered, or does not take its arguments.
    """
    for name in log:
        _require_package(name)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = _built("train.optimizer", lambda: build(OPTIMIZERS, copy.deepcopy(train.optimizer), params=parameters))
    for scheduler in _schedule(train):
        _built("train.scheduler", partial(build, PARAM_SCHEDULERS, scheduler, optimizer=optimizer))
    for hook in train.hooks:
        _built("train.hooks", partial(build, HOOKS, copy.deepcopy(hook)))


def _built(key: str, build_part: Callable[[], Any]) -> Any:
    """A part of a training; a value that its class refuses is an error of the user."""
    try:
        return build_part()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key} cannot be used: {type(error).__name__}: {error}.") from error


def _log_interval(train: Train) -> int:
    """Episodes per line of the log, which holds their mean loss."""
    return max(1, min(50, train.episodes // 100))


def _hooks(train: Train, seed: int) -> list[dict[str, Any]]:
    for hook in train.hooks:
        find(HOOKS, hook["type"])
    ours: list[dict[str, Any]] = [
        {"type": "SeedEachStep", "seed": seed},
        {"type": "KeepTestSplitClosed"},
        {"type": "TrainingCurves"},
        {"type": "MeasureSpeed"},
        {"type": "ReportProgress"},
    ]
    return [*ours, *copy.deepcopy(train.hooks)]


def _fit(train: Train, options: RunOptions, plan: ReadPlan) -> list[dict[str, Any]]:
    """The hook that keeps a training step within the memory that `fit=` allows; none where it allows any."""
    if options.fit == "none":
        return []
    episode = {"way": train.way, "shot": train.shot, "queries": train.query_per_class}
    clip = {"frames": plan.frames, "crop": plan.crop}
    optimizer = copy.deepcopy(train.optimizer)
    return [{"type": "FitMemory", "budget": options.fit, "optimizer": optimizer, "episode": {**episode, **clip}}]


def _require_package(name: str) -> str:
    """The visualizer backend of a log; `ConfigError` if its package is not installed."""
    kind, package = LOG_BACKENDS[name]
    if find_spec(package) is None:
        raise ConfigError(f"log={name} needs the package {package}: pip install {package}")
    return kind


def _log_backends(names: Iterable[str], cell: Cell) -> list[dict[str, Any]]:
    """MMEngine's visualizer backends; the local one always takes part.

    Raises:
        ConfigError: the package of a backend is not installed.
    """
    backends: list[dict[str, Any]] = [{"type": "LocalCurves"}]
    for name in names:
        kind = _require_package(name)
        settings = {"init_kwargs": {"project": SCOPE, "name": str(cell)}} if name == "wandb" else {}
        backends.append({"type": kind, **settings})
    return backends
