"""Which CLIP a file's tensors are of, by their shapes: its architecture in open_clip, its image size, or one tower alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import open_clip
from torch import Tensor

Shape = dict[str, Any]
WORDS = {  # part of a shape: how it is said
    "width": "width {}",
    "layers": "{} layers",
    "patch": "patches of {} pixels",
    "image": "images of {} pixels",
    "joint": "joint width {}",
    "text width": "text width {}",
    "text layers": "{} text layers",
    "context": "texts of {} tokens",
    "vocabulary": "{} kinds of tokens",
}


def whose(tensors: Mapping[str, Tensor], model: str) -> str:
    """Say whose weights tensors are, where they are of another CLIP than wanted, or of one tower alone.

    Args:
        tensors: named as in open_clip, perhaps behind a prefix.
        model: the wanted architecture, by its name in open_clip.

    Returns:
        The end of a sentence, without a full stop; empty if they are of the model, or of no CLIP.
    """
    image, text = _tower(tensors, "visual."), _text(tensors)
    if not image and (bare := _tower(tensors, "")):
        image, text = bare, {}
    wanted = _of_config(model)
    if not wanted or not (image or text):
        return ""
    got = {**image, **text}
    other = {part: got[part] for part in got if part in wanted and got[part] != wanted[part]}
    has, lacks = ("image", "text") if image else ("text", "image")
    alone = "" if image and text else f" alone, without the {lacks} tower"
    if not other:
        return f"it holds the {has} tower{alone}. Take the file of the whole {model}" if alone else ""
    if not alone and set(other) == {"image"}:
        return (
            f"it is for images of {got['image']} pixels, the model for {wanted['image']}. Take the weights for "
            f"{wanted['image']} pixels{_named(got, ', or the model ')}"
        )
    name = _named(got, "")
    return (
        f"it holds {f'the {has} tower' if alone else 'weights'} of {name or 'another CLIP'} ({_said(got, other)}){alone}, not of "
        f"{model} ({_said(wanted, other)}). Choose the backbone= that it belongs to, or weights of {model}"
    )


def _said(shape: Shape, parts: Mapping[str, Any]) -> str:
    return ", ".join(words.format(_value(shape[part])) for part, words in WORDS.items() if part in parts)


def _value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _named(got: Shape, before: str) -> str:
    """Name the architecture of open_clip with such shapes; the shortest name, for activations are not seen in shapes."""
    names = [name for name in open_clip.list_models() if "quickgelu" not in name and _fits(_of_config(name), got)]
    return f"{before}{min(names, key=lambda name: (len(name), name))}" if names else ""


def _fits(shape: Shape, got: Shape) -> bool:
    return bool(shape) and all(shape.get(part) == value for part, value in got.items())


def _of_config(model: str) -> Shape:
    """Return the shapes of an architecture of open_clip; empty if it is no ViT or ModifiedResNet with a text transformer."""
    config = open_clip.get_model_config(model) or {}
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    if "timm_model_name" in vision or "hf_model_name" in text or "multimodal_cfg" in config or "layers" not in vision:
        return {}
    layers = vision["layers"]
    is_resnet = isinstance(layers, list)
    shape = {
        "width": vision["width"],
        "layers": tuple(layers) if is_resnet else layers,
        "patch": 32 if is_resnet else vision.get("patch_size", 16),
        "image": vision["image_size"],
        "joint": config["embed_dim"],
    }
    return shape | {
        "text width": text.get("width", 512),
        "text layers": text.get("layers", 12),
        "context": text.get("context_length", 77),
        "vocabulary": text.get("vocab_size", 49408),
    }


def _tower(tensors: Mapping[str, Tensor], within: str) -> Shape:
    """Return the shapes of an image tower, whose names start with `within` behind any prefix; empty if there is none."""
    for mark, of in (("class_embedding", _of_vit), ("attnpool.positional_embedding", _of_resnet)):
        for name in tensors:
            if name.endswith(f"{within}{mark}"):
                try:
                    shape = of(tensors, name.removesuffix(mark))
                    return shape if shape["layers"] else {}  # a part of a file tells nothing
                except (KeyError, ValueError, IndexError, TypeError):  # it lacks what would tell
                    return {}
    return {}


def _of_vit(tensors: Mapping[str, Tensor], prefix: str) -> Shape:
    width, _, patch, _ = tensors[f"{prefix}conv1.weight"].shape
    positions = len(tensors[f"{prefix}positional_embedding"]) - 1
    return {
        "width": width,
        "layers": _count(tensors, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        "patch": patch,
        "image": math.isqrt(positions) * patch,
        "joint": tensors[f"{prefix}proj"].shape[1],
    }


def _of_resnet(tensors: Mapping[str, Tensor], prefix: str) -> Shape:
    positions = len(tensors[f"{prefix}attnpool.positional_embedding"]) - 1
    layers = tuple(_count(tensors, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in range(1, 5))
    return {
        "width": len(tensors[f"{prefix}layer1.0.conv1.weight"]),
        "layers": layers,
        "patch": 32,
        "image": math.isqrt(positions) * 32,
        "joint": len(tensors[f"{prefix}attnpool.c_proj.weight"]),
    }


def _text(tensors: Mapping[str, Tensor]) -> Shape:
    """Return the shapes of a text tower; empty if there is none."""
    mark = "token_embedding.weight"
    name = next((name for name in tensors if name.endswith(mark)), "")
    prefix = name.removesuffix(mark)
    positions = tensors.get(f"{prefix}positional_embedding")
    if not name or positions is None or positions.ndim != 2 or tensors[name].ndim != 2:
        return {}
    vocabulary, width = tensors[name].shape
    layers = _count(tensors, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\.")
    if not layers:
        return {}
    return {
        "text width": width,
        "text layers": layers,
        "context": len(positions),
        "vocabulary": vocabulary,
    }


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1)
