"""Image, image-text and video encoders with one interface."""

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.clip import CLIPBackbone
from fsar_bench.backbones.image import ImageBackbone
from fsar_bench.backbones.side import SelfAttention, SideNetwork, start_layer
from fsar_bench.backbones.video import TransformersVideoBackbone

__all__ = [
    "Backbone",
    "CLIPBackbone",
    "ImageBackbone",
    "SelfAttention",
    "SideNetwork",
    "TransformersVideoBackbone",
    "ViTBlock",
    "start_layer",
]
