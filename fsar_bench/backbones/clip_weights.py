"""CLIP networks of open_clip from tags, hub ids, folders and files, with the activation that the weights were trained with."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, TypeAlias, cast

import open_clip

from fsar_bench.backbones.weights import UnfitError, Weights, first_line, missing, read_weights, resolve, unloadable
from fsar_bench.errors import WeightsError

CLIPNetwork: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP

HUB, FOLDER = "hf-hub:", "local-dir:"  # open_clip's prefixes of models that bring their own config


def load_clip(model: str, pretrained: str | None, quick_gelu: bool | None) -> tuple[CLIPNetwork, bool]:
    """Build a network and load its weights.

    Args:
        model: architecture, by its name in open_clip.
        pretrained: see `CLIPBackbone`.
        quick_gelu: whether the weights were trained with QuickGELU, as far as the caller knows; None reads it from the weights.

    Returns:
        The network and whether it uses QuickGELU.

    Raises:
        WeightsError: weights that are missing, damaged, of another architecture or activation, or, with None, a file that does
            not contain its activation.
    """
    source = resolve(model, pretrained) if pretrained else None
    logging.getLogger().info("loading %s from %s", model, source)
    if source is None:
        return _create(model, force_quick_gelu=bool(quick_gelu), load_weights=False), bool(quick_gelu)
    if source.startswith(HUB) or Path(source).is_dir():
        return _load_described(model, source if source.startswith(HUB) else f"{FOLDER}{source}", quick_gelu)
    tag = open_clip.get_pretrained_cfg(model, str(pretrained))  # empty if it is no tag of this model
    quick_by_tag = bool(tag.get("quick_gelu", False)) if tag else None
    if not Path(source).is_file():
        quick = _agree(f"The tag {pretrained!r} of {model}", "weights", quick_by_tag, quick_gelu)
        return _load_tag(model, source, quick), quick
    try:
        weights = read_weights(Path(source))
    except Exception as error:
        raise unloadable(model, source, error) from error
    trained_with = quick_by_tag if weights.quick_gelu is None else weights.quick_gelu
    quick = _agree(f"The weights file {source}", weights.origin, trained_with, quick_gelu)
    return _load_file(model, source, weights, quick, tag), quick


def _create(name: str, **options: Any) -> CLIPNetwork:
    return cast("CLIPNetwork", open_clip.create_model(name, **options))  # annotated as a plain module there


def _agree(what: str, origin: str, trained_with: bool | None, configured: bool | None) -> bool:
    """Whether the weights use QuickGELU, according to the weights and to the config, which may not contradict each other."""
    if trained_with is None and configured is None:
        raise WeightsError(
            f"{what} ({origin}) does not say which activation it was trained with. Set activation=quick_gelu (OpenAI's, DFN's "
            "and MetaCLIP's weights) or activation=gelu (LAION's and DataComp's): the wrong one silently gives worse features."
        )
    if trained_with is not None and configured is not None and trained_with != configured:
        names = {True: "QuickGELU", False: "GELU"}
        raise WeightsError(
            f"{what} is {origin} trained with {names[trained_with]}, but the config or activation= says {names[configured]}. Use "
            f"activation={'quick_gelu' if trained_with else 'gelu'}, or a backbone config with quick_gelu={trained_with}."
        )
    return bool(configured if trained_with is None else trained_with)


def _load_tag(model: str, tag: str, quick_gelu: bool) -> CLIPNetwork:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the activation was compared before
            return _create(model, pretrained=tag, force_quick_gelu=quick_gelu)
    except Exception as error:
        fetch = f"import open_clip; open_clip.create_model('{model}', pretrained='{tag}')"
        raise missing(model, tag, first_line(error), fetch) from error


def _load_file(model: str, source: str, weights: Weights, quick_gelu: bool, tag: dict) -> CLIPNetwork:
    network = _create(model, force_quick_gelu=quick_gelu, load_weights=False)
    masks = {name for name, _ in network.named_buffers()} - set(network.state_dict())  # traced, not trained
    try:
        tensors = weights.fit(network.state_dict(), library="open_clip", spare=masks.__contains__)
    except UnfitError as error:
        raise unloadable(model, source, error) from error
    network.load_state_dict(tensors)
    if tag:  # a file that replaces a tag has the tag's normalisation
        network.visual.image_mean, network.visual.image_std = tuple(tag["mean"]), tuple(tag["std"])
    return network


def _load_described(model: str, source: str, quick_gelu: bool | None) -> tuple[CLIPNetwork, bool]:
    """Load a folder or hub repository of open_clip: its config (with the normalisation of its images) and its weights."""
    kind = "folder" if source.startswith(FOLDER) else "hub repository"
    place = source.partition(":")[2]
    try:
        config = open_clip.get_model_config(source)
        config = config.get("model_cfg", config)
        network = _create(source, require_pretrained=True)
    except Exception as error:
        if kind == "hub repository":
            fetch = f"import open_clip; open_clip.create_model('{source}')"
            raise missing(model, source, first_line(error), fetch) from error
        raise WeightsError(
            f"The folder {place} cannot be loaded ({first_line(error)}). It needs open_clip_config.json and weights such as "
            "open_clip_model.safetensors."
        ) from error
    wanted = open_clip.get_model_config(model)
    for tower in ("embed_dim", "vision_cfg", "text_cfg"):
        if _tower(config.get(tower)) != _tower(wanted[tower]):
            raise WeightsError(
                f"The {kind} {place} holds another model than {model} ({tower} differs). Choose the backbone= that it belongs to."
            )
    quick = _agree(f"The {kind} {place}", "a model", bool(config.get("quick_gelu", False)), quick_gelu)
    return network, quick


def _tower(config: object) -> object:
    """Drop the entries of a part of a model's config that are None."""
    return {k: v for k, v in config.items() if v is not None} if isinstance(config, dict) else config
