"""Folders of the user's machine."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def is_weight_file(pretrained: str) -> bool:
    """Whether a `pretrained` value names a file rather than a tag or hub id."""
    return not pretrained.startswith("hf-hub:") and (pretrained.endswith(WEIGHT_SUFFIXES) or os.sep in pretrained)


def weight_files(model: str, tag: str) -> list[Path]:
    """Files in the user's weights folder that stand for a tag of a model, in the order they are looked for."""
    return [cache_folder() / "weights" / f"{model}-{tag}{suffix}" for suffix in WEIGHT_SUFFIXES]


def data_folder() -> Path:
    """Folder of prepared datasets: $FSAR_BENCH_DATA, or datasets/ in the cache folder."""
    if folder := os.environ.get("FSAR_BENCH_DATA"):
        return Path(folder).expanduser()
    return cache_folder() / "datasets"


def annotation_file(annotation: str) -> Path:
    """File of a dataset's annotation: a path, "builtin:NAME" or "prepared:NAME"."""
    kind, colon, name = annotation.partition(":")
    if colon and kind == "builtin":
        return Path(__file__).with_name("data") / "builtin" / name / "annotation.json"
    if colon and kind == "prepared":
        return data_folder() / name / "annotation.json"
    return Path(annotation).expanduser()


def cache_folder() -> Path:
    """Folder of frames, features and weights: $FSAR_BENCH_CACHE, or fsar_bench in the user's cache folder."""
    if folder := os.environ.get("FSAR_BENCH_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fsar_bench"
