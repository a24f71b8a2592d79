"""Recipes: how a method is trained, in words, read from its config, those of the datasets, and its published settings."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from fsar_bench.config.files import DatasetConfig, MethodConfig, load, names
from fsar_bench.config.overrides import flatten, merge, overlay
from fsar_bench.config.published import Recipe, RecipeConfig, in_words, published
from fsar_bench.config.settings import Train

CROPS = {
    "center": "centre crop",
    "random": "random crop",
    "resized": "random resized crop (area from {area:g} to 1, ratio up to {ratio:.3g})",
    "multiscale": "multi-scale crop",
}
FRAMES = {
    "segments": "a random frame of each of T equal segments",
    "whole_segments": "a random frame of each of T segments of whole frames",
    "stride": "T equidistant frames from a random start, the last {stride} before the end of their window",
    "jittered_ends": "T equidistant frames between ends that move by up to 5",
    "ends": "T equidistant frames from the first to the last",
}
Place = tuple[str, int]  # dataset, shots


def training_in_words(method: str, changes: dict[str, Any]) -> str:
    """How the suite trains a method: its own settings, then what the configs of datasets of real videos change.

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


def official_in_words(method: str, config: MethodConfig) -> str:
    """The published settings of a method, which `recipe=official` takes; empty where there are none.

    Args:
        method: name of its config.
        config: its config.

    Raises:
        ConfigError: a setting that does not exist.
    """
    recipes = published(method)
    if recipes is None:
        return ""
    datasets = {name: load("datasets", name).checked(DatasetConfig) for name in recipes.datasets}
    words = {
        (name, shot): _official(method, config, datasets[name], recipes, (name, shot))
        for name, shot in recipes.places()
    }
    common, other = _grouped(words)
    shots = in_words([part.shot for part in recipes.shots])
    line = (
        f"`recipe=official` takes the settings of {recipes.source}, published for `backbone={recipes.encoder}` on "
        f"{', '.join(recipes.datasets)} at {shots}: {', '.join(common)}."
    )
    if other:
        line += " Per dataset and shot: " + "; ".join(f"{text} ({on})" for text, on in other) + "."
    return f"{line} Not taken: {'; '.join(recipes.not_taken)}."


def _official(
    method: str, config: MethodConfig, dataset: DatasetConfig, recipes: RecipeConfig, place: Place
) -> dict[str, str]:
    """What is said of a recipe at one place, by part."""
    recipe, changes = recipes.at(*place) or Recipe(), dataset.methods.get(method, {})
    where = f"{place[0]}: {method}"
    values = merge(Train.defaults(), config.train or {}, where)
    for extra in (dataset.train, changes.get("train", {}), recipe.train):
        values = merge(values, extra, where)
    suite = flatten(overlay(config.method, changes.get("method", {})))
    ours = {key: value for key, value in flatten(recipe.method).items() if suite.get(key) != value}
    train = Train.of(values).with_effective_augmentation()
    words = _words(train, [])
    words["length"], words["queries"] = f"{train.episodes:,} episodes", f"{train.query_per_class} queries per class"
    words["pixels"] = _pixels(recipe.backbone)
    words["norm"] = (
        "batch norm in train mode, supports and queries apart (the suite: eval mode)"
        if recipe.backbone.get("train_batch_norm")
        else ""
    )
    words["method"] = ", ".join(f"`method.{key}={value}`" for key, value in ours.items())
    words["texts"] = _texts(recipe.class_texts)
    return words


def _pixels(backbone: Mapping[str, Any]) -> str:
    if "mean" not in backbone:
        return "pixels normalised as for the weights"
    mean, std = backbone["mean"][0], backbone["std"][0]
    if (mean, std) == (0, 1):
        return "pixels not normalised (the suite: as for the weights)"
    return f"pixels normalised by mean {mean:g} and standard deviation {std:g} (the suite: as for the weights)"


def _texts(texts: list[str]) -> str:
    if not texts:
        return ""
    few = ", ".join(f"`{text}`" for text in texts[:4])
    return f"class texts spelled as in its configs: {few}" + (f" and {len(texts) - 4} more" if len(texts) > 4 else "")


def _grouped(words: dict[Place, dict[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Texts that hold everywhere unless it is said otherwise, and the other ones with where they hold."""
    common: list[str] = []
    other: list[tuple[str, str]] = []
    for part in next(iter(words.values())):
        texts = {place: of_place[part] for place, of_place in words.items()}
        places = _places(texts)
        by_text: dict[str, dict[str, None]] = {}
        for place, text in texts.items():
            by_text.setdefault(text, {})[places[place]] = None
        if not all(places.values()):
            usual = next(text for place, text in texts.items() if not places[place])
            common += [usual] if usual else []
            del by_text[usual]
        other += [(text, ", ".join(on)) for text, on in by_text.items() if text]
    return common, other


def _places(texts: dict[Place, str]) -> dict[Place, str]:
    """Where each text holds: a dataset or a number of shots where these alone decide it; empty for the usual text."""
    if len(set(texts.values())) == 1:
        return dict.fromkeys(texts, "")
    if _decides(0, texts):
        return {place: place[0] for place in texts}
    if _decides(1, texts):
        return {place: in_words([place[1]]) for place in texts}
    usual = max(texts.values(), key=list(texts.values()).count)
    return {p: "" if text == usual else f"{p[0]} at {in_words([p[1]])}" for p, text in texts.items()}


def _decides(which: int, texts: dict[Place, str]) -> bool:
    """Whether the dataset (0) or the number of shots (1) alone decides the text."""
    return len({(place[which], text) for place, text in texts.items()}) == len({place[which] for place in texts})


def _train_on(base: Train, dataset: DatasetConfig, method: str, name: str) -> Train:
    values = {key: getattr(base, key) for key in Train.model_fields}
    for changes in (dataset.train, dataset.methods.get(method, {}).get("train", {})):
        values = merge(values, changes, f"{name}: train")
    return Train.of(values)


def _words(train: Train, allowing: list[str]) -> dict[str, str]:
    """What is said of a training, by part; `allowing` names the datasets that allow a flip."""
    of = "queries" if train.augmented == "queries" else "clips"
    crop = CROPS[train.crop].format(area=train.crop_area, ratio=train.crop_ratio)
    return {
        "optimizer": _optimizer(train),
        "rate": f"learning rate {train.optimizer.get('lr')}",
        "limit": f"gradient norm at most {train.clip_grad:g}" if train.clip_grad else "no limit of gradients",
        "schedule": _schedule(train),
        "length": f"{train.episodes:,} episodes of {train.query_per_class} queries per class",
        "shots": f"{train.shot}-shot episodes" if train.shot else "shots of the protocol",
        "step": f"{train.accumulate} episode{'s' if train.accumulate > 1 else ''} per optimiser step",
        "loss": f"losses times {train.loss_scale:g}" if train.loss_scale != 1 else "losses averaged over queries",
        "frames": FRAMES[train.sampling].format(stride=train.stride),
        "crop": f"{crop} of frames {'squeezed to a square' if train.squash else 'that keep their ratio'}",
        "flip": _flip(train, of, allowing),
        "colours": _colours(train, of),
        "precision": "float32" if train.amp == "off" else "bfloat16 on a GPU",
    }


def _optimizer(train: Train) -> str:
    optimizer = {key: value for key, value in train.optimizer.items() if key not in ("type", "lr")}
    kind = str(train.optimizer["type"])
    more = ", ".join([kind, *(f"{key.replace('_', ' ')} {value}" for key, value in optimizer.items())])
    if not optimizer.get("weight_decay"):
        return more
    how = "decoupled" if kind.endswith("W") else "inside the gradient"
    of = f"not of parameters named {', '.join(train.no_decay)}" if train.no_decay else "of all parameters"
    return f"{more} ({how}, {of})"


def _schedule(train: Train) -> str:
    if train.scheduler is None:
        return f"linear warm-up over {100 * train.warmup:g} % of the episodes, then a cosine to 0"
    schedulers = train.scheduler if isinstance(train.scheduler, list) else [train.scheduler]
    return " and ".join(map(_scheduler, schedulers))


def _scheduler(scheduler: Mapping[str, Any]) -> str:
    """A scheduler in words; steps at double speed with the episodes at which they are taken."""
    if scheduler.get("type") == "ConstantLR" and scheduler.get("factor") == 1:
        return "constant learning rate"
    if scheduler.get("type") != "DoubleSpeedSteps":
        return f"schedule {scheduler.get('type')}"
    epoch = scheduler["epoch"] * scheduler.get("episodes", 1)
    steps = zip(scheduler["factors"][1:], scheduler["steps"][1:], strict=True)
    taken = ", ".join(f"{factor:g} after {ceil(step / 2) * epoch:,}" for factor, step in steps)
    return (
        f"linear warm-up from {scheduler['start']:.3g} over {epoch:,} episodes, then steps (at double speed) to {taken}"
    )


def _flip(train: Train, of: str, allowing: list[str]) -> str:
    if train.flip == "off":
        return "no flip"
    where = f" where the dataset allows it ({', '.join(allowing)})" if train.flip == "if_allowed" else ""
    return f"half of the {of} mirrored{where}"


def _colours(train: Train, of: str) -> str:
    changes = [f"colours of the {of} jittered by {train.jitter:g}"] if train.jitter else []
    changes += [f"{of} grey with probability {train.grayscale:g}"] if train.grayscale else []
    return ", ".join(changes) or "no colour jitter"
