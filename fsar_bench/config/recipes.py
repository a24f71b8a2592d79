"""Recipes: how a method is trained, in words, read from its config and those of the datasets; a card's "Training" field."""

from __future__ import annotations

from typing import Any

from fsar_bench.config.files import DatasetConfig, load, names
from fsar_bench.config.overrides import merge
from fsar_bench.config.settings import Train

CROPS = {
    "center": "centre crop",
    "random": "random crop",
    "resized": "random resized crop (area from {area:g} to 1, ratio up to {ratio:.3g})",
    "multiscale": "multi-scale crop",
}


def training_in_words(method: str, changes: dict[str, Any]) -> str:
    """How a method is trained: its own settings, then what the configs of datasets of real videos change.

    Args:
        method: name of its config.
        changes: field `train` of its config.

    Raises:
        ConfigError: a setting that does not exist.
    """
    datasets = {name: load("datasets", name).checked(DatasetConfig) for name in names("datasets")}
    real = {name: config for name, config in datasets.items() if not config.synthetic}
    base = Train.of(merge(Train.defaults(), changes, f"{method}: train"))
    trains = {name: _train_on(base, config, method, name) for name, config in real.items()}
    words = _words(base, [name for name, train in trains.items() if train.allows_flip])
    other: dict[str, list[str]] = {}
    for name, train in trains.items():
        unchanged = base.model_copy(update={"allows_flip": train.allows_flip})
        usual = _words(unchanged.with_effective_augmentation(), [])
        for part, text in _words(train.with_effective_augmentation(), []).items():
            if text != usual[part]:
                other.setdefault(text, []).append(name)
    line = ", ".join(words.values()) + "."
    if other:
        line += " Per dataset: " + "; ".join(f"{text} ({', '.join(on)})" for text, on in other.items()) + "."
    return line


def _train_on(base: Train, dataset: DatasetConfig, method: str, name: str) -> Train:
    values = {key: getattr(base, key) for key in Train.model_fields}
    for changes in (dataset.train, dataset.methods.get(method, {}).get("train", {})):
        values = merge(values, changes, f"{name}: train")
    return Train.of(values)


def _words(train: Train, allowing: list[str]) -> dict[str, str]:
    """What is said of a training, by part; `allowing` names the datasets that allow a flip."""
    of = "queries" if train.augmented == "queries" else "clips"
    optimizer = dict(train.optimizer)
    kind, rate = optimizer.pop("type"), optimizer.pop("lr", None)
    more = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in optimizer.items())
    return {
        "optimizer": f"{kind}, {more}" if more else kind,
        "rate": f"learning rate {rate}",
        "limit": f"gradient norm at most {train.clip_grad:g}" if train.clip_grad else "no limit of gradients",
        "schedule": _schedule(train),
        "length": f"{train.episodes:,} episodes of {train.query_per_class} queries per class",
        "step": f"{train.accumulate} episodes per optimiser step",
        "crop": CROPS[train.crop].format(area=train.crop_area, ratio=train.crop_ratio),
        "flip": _flip(train, of, allowing),
        "colours": _colours(train, of),
    }


def _schedule(train: Train) -> str:
    if train.scheduler is None:
        return f"linear warm-up over {100 * train.warmup:g} % of the episodes, then a cosine to 0"
    schedulers = train.scheduler if isinstance(train.scheduler, list) else [train.scheduler]
    return "schedule " + " and ".join(str(scheduler.get("type")) for scheduler in schedulers)


def _flip(train: Train, of: str, allowing: list[str]) -> str:
    if train.flip == "off":
        return "no flip"
    where = f" where the dataset allows it ({', '.join(allowing)})" if train.flip == "if_allowed" else ""
    return f"half of the {of} mirrored{where}"


def _colours(train: Train, of: str) -> str:
    changes = [f"colours of the {of} jittered by {train.jitter:g}"] if train.jitter else []
    changes += [f"{of} grey with probability {train.grayscale:g}"] if train.grayscale else []
    return ", ".join(changes) or "no colour jitter"
