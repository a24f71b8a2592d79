"""CLIP weights in the format of the library transformers, under the names of open_clip."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsar_bench.backbones.weights import States, UnfitError, Weights
from fsar_bench.errors import WeightsError

FORMAT = "the format of the library transformers"
MARK = re.compile(
    r"^(.*?)(?:vision_model\.embeddings\.class_embedding|text_model\.embeddings\.token_embedding\.weight)$"
)
SIGLIP = re.compile(r"(^|\.)(vision_model\.head\.probe|text_model\.head\.weight|logit_bias)$")
NORMALISATION = "preprocessor_config.json"
ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # the library's names, and whether this is QuickGELU
TOWERS = {"vision_model.": "visual.", "text_model.": ""}
NAMES = (  # within a tower, in their order: name there, name in open_clip
    (re.compile(r"^embeddings\.class_embedding$"), "class_embedding"),
    (re.compile(r"^embeddings\.patch_embedding\.weight$"), "conv1.weight"),
    (re.compile(r"^embeddings\.position_embedding\.weight$"), "positional_embedding"),
    (re.compile(r"^embeddings\.token_embedding\.weight$"), "token_embedding.weight"),
    (re.compile(r"^pre_layrnorm\."), "ln_pre."),  # spelt like this there
    (re.compile(r"^post_layernorm\."), "ln_post."),
    (re.compile(r"^final_layer_norm\."), "ln_final."),
    (re.compile(r"^encoder\.layers\.(\d+)\.layer_norm(\d)\."), r"transformer.resblocks.\1.ln_\2."),
    (re.compile(r"^encoder\.layers\.(\d+)\.mlp\.fc1\."), r"transformer.resblocks.\1.mlp.c_fc."),
    (re.compile(r"^encoder\.layers\.(\d+)\.mlp\.fc2\."), r"transformer.resblocks.\1.mlp.c_proj."),
    (re.compile(r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\."), r"transformer.resblocks.\1.attn.out_proj."),
)
INPUT = re.compile(r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)$")  # one matrix in open_clip
PROJECTIONS = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}  # transposed there


def from_transformers(weights: Weights) -> Weights:
    """Return weights of `transformers.CLIPModel` under the names of open_clip; other sets of tensors stay as they are.

    Raises:
        UnfitError: they are of SigLIP, or a projection of the attention is missing.
    """
    states: States = {}
    is_converted = False
    for key, state in weights.states.items():
        marks = [match for name in state if (match := MARK.match(name))]
        if marks and any(SIGLIP.search(name) for name in state):
            raise UnfitError(
                f"it holds weights of SigLIP in {FORMAT}, whose loss and text tower are others than CLIP's. Choose a backbone of "
                "timm, or weights of CLIP"
            )
        states[key] = _renamed(state, marks[0][1]) if marks else state
        is_converted = is_converted or bool(marks)
    origin = f"CLIP weights in {FORMAT}" if is_converted else weights.origin
    return Weights(states, weights.quick_gelu, origin)


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Name the tensors of a set as open_clip does; what has no name there keeps its own."""
    out: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for full, tensor in state.items():
        name = full.removeprefix(prefix)
        if name.endswith("embeddings.position_ids"):
            continue  # a buffer that counts 0, 1, 2, …
        tower = next((tower for tower in TOWERS if name.startswith(tower)), "")
        inner = name.removeprefix(tower)
        if tower and (match := INPUT.match(inner)):
            parts.setdefault((f"{TOWERS[tower]}transformer.resblocks.{match[1]}.attn", match[3]), {})[match[2]] = tensor
        elif name in PROJECTIONS and tensor.ndim == 2:
            out[PROJECTIONS[name]] = tensor.T
        else:
            out[f"{TOWERS[tower]}{_inner(inner)}" if tower else name] = tensor
    for (attention, kind), tensors in parts.items():
        if set(tensors) != set("qkv"):
            lacking = " and ".join(part for part in "qkv" if part not in tensors)
            raise UnfitError(f"it lacks the projection {lacking} of {attention} ({kind}). Download it again")
        out[f"{attention}.in_proj_{kind}"] = torch.cat([tensors[part] for part in "qkv"])
    return out


def _inner(name: str) -> str:
    for pattern, replacement in NAMES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name


@dataclass(frozen=True)
class Described:
    """What a folder in the format of transformers says of its model.

    Attributes:
        quick_gelu: whether it was trained with QuickGELU.
        heads: attention heads of the image and the text tower.
        mean: RGB mean of its images' normalisation; None if the folder does not say.
        std: RGB standard deviation.
    """

    quick_gelu: bool
    heads: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def is_folder_of_transformers(folder: Path) -> bool:
    """Whether a folder is in the format of transformers."""
    return (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file()


def describe(folder: Path, model: str) -> Described:
    """Read the description of a folder in the format of transformers.

    Args:
        folder: with config.json, and perhaps the normalisation of its images.
        model: the architecture in open_clip that is wanted, for messages.

    Raises:
        WeightsError: it is not of CLIP, or of a CLIP that open_clip cannot build.
    """
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind != "clip":
        raise WeightsError(
            f"The folder {folder} holds a model of type {kind!r} of transformers, and {model} loads 'clip' alone. Choose the "
            "backbone= that it belongs to."
        )
    vision, text = (config.get(f"{tower}_config") or {} for tower in ("vision", "text"))
    acts = {str(tower.get("hidden_act", "quick_gelu")) for tower in (vision, text)}  # the library's default
    if len(acts) != 1 or not acts <= set(ACTIVATIONS):
        raise WeightsError(
            f"The folder {folder} holds a CLIP with the activation {' and '.join(sorted(acts))}; open_clip has "
            f"{' or '.join(ACTIVATIONS)}, the same in both towers. Choose other weights."
        )
    if any(float(tower.get("layer_norm_eps", 1e-5)) != 1e-5 for tower in (vision, text)):
        raise WeightsError(
            f"The folder {folder} holds a CLIP with another layer_norm_eps than open_clip's 1e-05. Choose other weights."
        )
    images = _json(folder / NORMALISATION) if (folder / NORMALISATION).is_file() else {}
    mean, std = images.get("image_mean"), images.get("image_std")
    return Described(
        ACTIVATIONS[acts.pop()],
        (int(vision.get("num_attention_heads", 12)), int(text.get("num_attention_heads", 8))),
        tuple(mean) if mean else None,
        tuple(std) if std else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise WeightsError(f"{path} is no JSON object. Download it again.") from error
    return value
