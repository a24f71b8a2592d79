"""Backbones: image-text encoders behind one interface."""

from fsar_bench.backbones.clip import CLIPBackbone

__all__ = ["CLIPBackbone"]
