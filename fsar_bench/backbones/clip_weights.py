"""CLIP networks of open_clip from tags, hub ids, folders and files, with the activation that the weights were trained with."""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import Any, TypeAlias, cast

import open_clip

from fsar_bench.backbones.clip_shapes import whose
from fsar_bench.backbones.clip_transformers import NORMALISATION, describe, from_transformers, is_folder_of_transformers
from fsar_bench.backbones.reading import read_weights
from fsar_bench.backbones.weights import (
    OTHERS,
    UnfitError,
    Weights,
    file_in,
    first_line,
    folder_file,
    missing,
    resolve,
    unloadable,
)
from fsar_bench.errors import WeightsError

CLIPNetwork: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP

HUB, FOLDER = "hf-hub:", "local-dir:"  # open_clip's prefixes of models that bring their own config
CONFIG = "open_clip_config.json"


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
    source = None if pretrained is None else resolve(model, pretrained)
    logging.getLogger().info("loading %s from %s", model, source)
    if source is None:
        return _create(model, force_quick_gelu=bool(quick_gelu), load_weights=False), bool(quick_gelu)
    if source.startswith(HUB):
        return _load_hub(model, source, quick_gelu)
    if Path(source).is_dir():
        return _load_folder(model, Path(source), quick_gelu)
    tag = open_clip.get_pretrained_cfg(model, str(pretrained))  # empty if it is no tag of this model
    if Path(source).is_file():
        return _load_file(model, Path(source), quick_gelu, tag)
    quick_by_tag = bool(tag.get("quick_gelu", False)) if tag else None
    quick = _agree(f"The tag {pretrained!r} of {model}", "weights", quick_by_tag, quick_gelu)
    return _load_tag(model, source, quick), quick


def _create(name: str, **options: Any) -> CLIPNetwork:
    return cast("CLIPNetwork", open_clip.create_model(name, **options))  # annotated as a plain module there


def _agree(what: str, origin: str, trained_with: bool | None, configured: bool | None, hint: str = "") -> bool:
    """Whether the weights use QuickGELU, according to the weights and to the config, which may not contradict each other."""
    if trained_with is None and configured is None:
        raise WeightsError(
            f"{what} ({origin}) does not say which activation it was trained with. Set activation=quick_gelu (OpenAI's, DFN's "
            "and MetaCLIP's weights) or activation=gelu (LAION's and DataComp's): the wrong one silently gives worse features."
            f"{hint}"
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


def _load_file(model: str, file: Path, quick_gelu: bool | None, tag: dict) -> tuple[CLIPNetwork, bool]:
    """Load a file; one that replaces a tag has the tag's activation and normalisation."""
    weights = _read(model, file)
    quick_by_tag = bool(tag.get("quick_gelu", False)) if tag else None
    trained_with = quick_by_tag if weights.quick_gelu is None else weights.quick_gelu
    if trained_with is None and quick_gelu is None:  # of another model: that is said, not what else is unknown
        _fill(_create(model, load_weights=False), model, file, weights)
    hint = " Or name its folder, whose config.json says it." if is_folder_of_transformers(file.parent) else ""
    quick = _agree(f"The weights file {file}", weights.origin, trained_with, quick_gelu, hint)
    network = _create(model, force_quick_gelu=quick, load_weights=False)
    _fill(network, model, file, weights)
    if tag:
        network.visual.image_mean, network.visual.image_std = tuple(tag["mean"]), tuple(tag["std"])
    return network, quick


def _read(model: str, file: Path) -> Weights:
    try:
        return from_transformers(read_weights(file))
    except Exception as error:
        raise unloadable(model, file, error) from error


def _fill(network: CLIPNetwork, model: str, file: Path, weights: Weights) -> None:
    """Load weights into a network of the architecture `model`; the errors name the file."""
    masks = {name for name, _ in network.named_buffers()} - set(network.state_dict())  # traced, not trained
    try:
        tensors = weights.fit(network.state_dict(), library="open_clip", spare=masks.__contains__)
    except UnfitError as error:
        raise unloadable(model, file, _explained(error, model, weights)) from error
    network.load_state_dict(tensors)


def _explained(error: UnfitError, model: str, weights: Weights) -> UnfitError:
    """Say first whose weights they are, where their shapes tell."""
    reason = next((reason for state in weights.states.values() if (reason := whose(state, model))), "")
    kind = f"{weights.origin}: " if "transformers" in weights.origin else ""
    details = str(error)
    return UnfitError(
        f"{kind}{reason}. In detail: {details.removesuffix(f'. {OTHERS}')}" if reason else f"{kind}{details}"
    )


def _load_folder(model: str, folder: Path, quick_gelu: bool | None) -> tuple[CLIPNetwork, bool]:
    """Load a folder of open_clip, one of transformers, or the one weights file in a folder."""
    if (folder / CONFIG).is_file():
        return _load_open_clip(model, folder, quick_gelu)
    if not is_folder_of_transformers(folder):
        return _load_file(model, file_in(folder, model), quick_gelu, {})
    described = describe(folder, model)
    file = folder_file(folder, model)
    weights = _read(model, file)
    quick = _agree(f"The folder {folder}", "a model of transformers", described.quick_gelu, quick_gelu)
    network = _create(model, force_quick_gelu=quick, load_weights=False)
    _fill(network, model, file, weights)
    heads = tuple(tower.resblocks[0].attn.num_heads for tower in (network.visual.transformer, network.transformer))
    if heads != described.heads:
        raise WeightsError(
            f"The folder {folder} holds another model than {model}: its towers have {described.heads[0]} and "
            f"{described.heads[1]} attention heads, those of {model} {heads[0]} and {heads[1]}. Choose the backbone= that it "
            "belongs to."
        )
    if described.mean and described.std:
        network.visual.image_mean, network.visual.image_std = described.mean, described.std
    return network, quick


def _load_open_clip(model: str, folder: Path, quick_gelu: bool | None) -> tuple[CLIPNetwork, bool]:
    """Load a folder of open_clip: its config (with the normalisation of its images) and its weights."""
    try:
        config = open_clip.get_model_config(f"{FOLDER}{folder}")
        config = config.get("model_cfg", config)
        _compare(model, config, f"folder {folder}")
        network = _create(f"{FOLDER}{folder}", load_weights=False)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"The folder {folder} cannot be loaded ({first_line(error)}). It needs {CONFIG} and weights such as "
            "open_clip_model.safetensors."
        ) from error
    quick = _agree(f"The folder {folder}", "a model", bool(config.get("quick_gelu", False)), quick_gelu)
    file = folder_file(folder, model)
    _fill(network, model, file, _read(model, file))
    return network, quick


def _load_hub(model: str, source: str, quick_gelu: bool | None) -> tuple[CLIPNetwork, bool]:
    """Load a hub repository of open_clip, its config (with the normalisation of its images) and weights, or of transformers."""
    place = source.removeprefix(HUB)
    try:
        config = open_clip.get_model_config(source)
        config = config.get("model_cfg", config)
        network = _create(source, require_pretrained=True)
    except Exception as error:
        if folder := _of_transformers(place):
            return _load_folder(model, folder, quick_gelu)
        fetch = f"import open_clip; open_clip.create_model('{source}')"
        raise missing(model, source, first_line(error), fetch) from error
    _compare(model, config, f"hub repository {place}")
    quick = _agree(f"The hub repository {place}", "a model", bool(config.get("quick_gelu", False)), quick_gelu)
    return network, quick


def _of_transformers(repository: str) -> Path | None:
    """Return the folder of a hub repository in the format of transformers, in the hub's cache; None if it is not to be had."""
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(hf_hub_download(repository, "config.json")).parent
    except Exception:  # not there, or no network: what open_clip said of it is told
        return None
    with contextlib.suppress(Exception):  # without it, the normalisation is CLIP's
        hf_hub_download(repository, NORMALISATION)
    for name in ("model.safetensors", "pytorch_model.bin"):
        with contextlib.suppress(Exception):
            hf_hub_download(repository, name)
            return folder if is_folder_of_transformers(folder) else None
    return None


def _compare(model: str, config: dict, where: str) -> None:
    wanted = open_clip.get_model_config(model)
    for tower in ("embed_dim", "vision_cfg", "text_cfg"):
        if _tower(config.get(tower)) != _tower(wanted[tower]):
            raise WeightsError(
                f"The {where} holds another model than {model} ({tower} differs). Choose the backbone= that it belongs to."
            )


def _tower(config: object) -> object:
    """Drop the entries of a part of a model's config that are None."""
    return {k: v for k, v in config.items() if v is not None} if isinstance(config, dict) else config
