"""What a dataset suffices for, and the command that runs on it on this machine: the end of `data prepare` and `data stats`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar_bench.config.files import BackboneConfig, DatasetConfig, MethodConfig, load, names, protocol_of
from fsar_bench.config.settings import Train
from fsar_bench.data.importing.summary import SplitSize
from fsar_bench.io import is_weight_file, user_path, weight_files

SHORT = ("train.episodes=416", "train.val_interval=208", "--dry-run")  # the methods' own trainings may take days


@dataclass(frozen=True)
class FirstRun:
    """Advice on the first run on a dataset.

    Attributes:
        notes: what the splits suffice for, one line each.
        command: a command that runs on this machine; None where no episode can be drawn.
        training: a command that tells how long a short training takes; None where nothing can be trained.
        weights: where the command's backbone is a toy, how to get real numbers; else empty.
    """

    notes: tuple[str, ...]
    command: str | None
    training: str | None
    weights: str


def first_run(name: str, config: DatasetConfig, sizes: list[SplitSize]) -> FirstRun:
    """What a dataset suffices for, and commands that run on it.

    Args:
        name: the dataset as a command names it.
        config: its config.
        sizes: of its splits.
    """
    _, protocol = protocol_of(config, {})
    by_split = {size.split: size for size in sizes}
    notes = [f"{size}{_other_way(size, protocol.way)}" for size in sizes]
    test = by_split.get("test")
    if test is None or not test.has_episodes:
        notes.append("Nothing can be evaluated, because the test split gives no episodes.")
        return FirstRun(tuple(notes), None, None, "")
    settings = []
    if test.classes < protocol.way:
        settings.append(f"way={test.classes}")
    if test.available < protocol.shot + protocol.query:  # but not fewer than 2
        settings += [f"{key}=1" for key in ("shot", "query") if getattr(protocol, key) > 1]
    backbone, weights = _backbone(config.backbone)
    dataset = [f"dataset={name}", *backbone]
    command = _command(f"methods={','.join(_cheap(config))}", *dataset, *settings)
    training, reason = _training(by_split, protocol.way, settings)
    if reason:
        notes.append(f"Nothing can be trained on it: {reason}. Methods without training run.")
    return FirstRun(tuple(notes), command, None if training is None else _short_training(dataset, training), weights)


def _short_training(dataset: list[str], settings: list[str]) -> str:
    return _command(f"methods={next(_methods(trained=True))}", *dataset, *settings, *SHORT)


def _command(*pairs: str) -> str:
    return shlex.join(["fsar-bench", "run", *pairs])


def _other_way(size: SplitSize, way: int) -> str:
    if not size.has_episodes or size.classes >= way:
        return ""
    return f"; {way}-way does not work, way={size.classes} does"


def _training(splits: dict[str, SplitSize], way: int, settings: list[str]) -> tuple[list[str] | None, str]:
    """Settings with which every method can be trained; or None and the reason."""
    for name, purpose in (("train", "to train on"), ("val", "to choose the checkpoint on")):
        if name not in splits:
            return None, f"there is no {name} split {purpose}"
        if not splits[name].has_episodes:
            return None, f"the {name} split gives no episodes {purpose}"
    ways = min(way, *(size.classes for size in splits.values()))
    queries = Train.model_fields["query_per_class"].default
    spare = splits["train"].available - 1  # shot=1
    training = [setting for setting in settings if not setting.startswith("way=")]
    training += [f"way={ways}"] if ways < way else []
    training += [f"train.query_per_class={spare}"] if spare < queries else []
    return training, ""


def _cheap(config: DatasetConfig) -> list[str]:
    """Methods for a first look: the dataset's controls and, of those without training, the one that is first by name."""
    matched = (name for name in _methods(trained=False) if "matcher" in load("methods", name).values["method"])
    return list(dict.fromkeys([*config.controls, next(matched)]))


def _methods(*, trained: bool) -> Iterator[str]:
    """Methods that are trained, or those that are not, by name."""
    configs = ((name, load("methods", name).checked(MethodConfig)) for name in names("methods"))
    return (name for name, config in configs if (config.train is not None) == trained)


def _backbone(default: str) -> tuple[list[str], str]:
    """The setting of the backbone where the default one has no weights on this machine, and what to say about it."""
    config = load("backbones", default).checked(BackboneConfig).backbone
    if has_weights(config):
        return [], ""
    toy = next(
        name
        for name in names("backbones")
        if load("backbones", name).checked(BackboneConfig).backbone.get("pretrained") == "builtin"
    )
    return [f"backbone={toy}"], (
        f"The weights of {default} are not on this machine, so this command takes {toy}, a toy whose weights ship with "
        f"fsar-bench: its numbers mean nothing. For real ones: backbone={default} pretrained=/path/to/{config['model']}.pt"
    )


def has_weights(backbone: dict[str, Any]) -> bool:
    """Whether the weights that a backbone's config names are on this machine, as far as one sees without loading them.

    Args:
        backbone: config of the backbone, by registered type.
    """
    model, pretrained = str(backbone.get("model", "")), backbone.get("pretrained")
    if not pretrained or pretrained == "builtin":
        return True
    path = user_path(pretrained)
    if is_weight_file(pretrained) or path.is_dir():
        return path.exists()
    if any(file.is_file() for file in weight_files(model, pretrained)):
        return True
    from huggingface_hub.constants import HF_HUB_CACHE

    hub = Path(HF_HUB_CACHE)
    if pretrained.startswith("hf-hub:"):
        return _holds(hub, pretrained.removeprefix("hf-hub:"))
    downloads = [user_path("~/.cache/clip"), user_path("~/.cache/torch/hub/checkpoints")]
    if not any(hub.glob("models--*")) and not any(folder.is_dir() for folder in downloads):
        return False  # without the seconds that importing the libraries takes
    for hub_id, url in _origins(model, pretrained):
        file = url.rpartition("/")[2]
        if (hub_id and _holds(hub, hub_id)) or (file and any((folder / file).is_file() for folder in downloads)):
            return True
    return False


def _holds(hub: Path, repository: str) -> bool:
    """Whether the hub's cache has files of a repository."""
    return any(hub.glob(f"models--{repository.strip('/').replace('/', '--')}/snapshots/*/*"))


def _origins(model: str, tag: str) -> list[tuple[str, str]]:
    """(hub id, URL) from which the libraries would load a tag."""
    import open_clip
    import timm

    clip = open_clip.get_pretrained_cfg(model, tag) or {}
    image = timm.get_pretrained_cfg(f"{model}.{tag}", allow_unregistered=True)
    origins = [(str(clip.get("hf_hub") or ""), str(clip.get("url") or ""))]
    return [*origins, (image.hf_hub_id or "", str(image.url or ""))] if image else origins
