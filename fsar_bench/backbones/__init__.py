"""Image and image-text encoders with one interface."""

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.clip import CLIPBackbone
from fsar_bench.backbones.image import ImageBackbone

__all__ = ["Backbone", "CLIPBackbone", "ImageBackbone", "ViTBlock"]
