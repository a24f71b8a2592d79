"""Image encoders without text (ImageNet ResNets and ViTs) through timm."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import cast

import timm
import torch
from safetensors.torch import load_file
from timm.models import ResNet, VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.weights import missing, resolve
from fsar_bench.errors import ConfigError, WeightsError, suggest
from fsar_bench.registry import BACKBONES


@BACKBONES.register_module()
class ImageBackbone(Backbone):
    """A ResNet or ViT of timm without its classifier: globally pooled features (ViT: the input of its classifier).

    Args:
        model: architecture, by its name in timm.
        pretrained: a file, a timm tag such as "tv_in1k", or None for random weights (tests).
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop, in pixels.
        pretraining: data that the weights were trained on.
        train_batch_norm: see `Backbone`.

    Raises:
        ConfigError: unknown architecture, one that is neither a ResNet nor a ViT, or one that cannot take this crop.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    libraries = ("torch", "timm")
    network: ResNet | VisionTransformer

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        resize: int,
        crop: int,
        *,
        pretraining: str = "",
        train_batch_norm: bool = False,
    ) -> None:
        if not timm.is_model(model):
            raise ConfigError(f"timm has no model {model!r}.{suggest(model, timm.list_models())}")
        network = _load(model, pretrained, crop)
        mean, std = _normalisation(model, pretrained)
        super().__init__(
            model,
            resize=resize,
            crop=crop,
            pretraining=pretraining,
            activation="ReLU" if isinstance(network, ResNet) else "GELU",
            mean=mean,
            std=std,
            train_batch_norm=train_batch_norm,
        )
        self.network = network
        self.embedding_width = self.map_width = network.num_features
        if isinstance(network, VisionTransformer):
            self.map_stride = network.patch_embed.patch_size[0]
        else:
            self.map_stride = cast("int", network.feature_info[-1]["reduction"])

    @property
    def visual(self) -> ResNet | VisionTransformer:
        """The image tower: the whole network."""
        return self.network

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to pooled features `[V, T, C]`, not normalised."""
        return self.network(self.normalise(frames)).unflatten(0, frames.shape[:2])

    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to feature maps `[V, T, D, h, w]`: patch tokens, or the last stage's output."""
        network = self.network
        maps = network.forward_features(self.normalise(frames))
        if isinstance(network, VisionTransformer):
            grid = network.patch_embed.grid_size
            maps = maps[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        return maps.unflatten(0, frames.shape[:2])

    def _vit(self) -> VisionTransformer:
        """Return the network if it is a ViT, else refuse."""
        if not isinstance(self.network, VisionTransformer):
            raise self._without("transformer blocks", "a ViT")
        return self.network

    def blocks(self) -> list[ViTBlock]:
        """Return the transformer blocks of a ViT; see `Backbone`."""
        blocks = cast("list[Block]", list(self._vit().blocks))  # torch does not type a Sequential's items
        return [ViTBlock(block.norm1, block.norm2, partial(_attend, block), partial(_mlp, block)) for block in blocks]

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        """Compute the tokens that enter the first block of a ViT; see `Backbone`."""
        network = self._vit()
        if network.num_prefix_tokens != 1:
            raise ConfigError(
                f"{self.name} has {network.num_prefix_tokens} prefix tokens, but adapters expect one, the class token. Choose "
                "another ViT with backbone=."
            )
        x = network._pos_embed(network.patch_embed(self.normalise(frames)))
        if offset is not None:
            x = (x.unflatten(0, frames.shape[:2]) + offset).flatten(0, 1)
        return network.norm_pre(x)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Compute frame features from the tokens that leave the last block of a ViT; see `Backbone`."""
        network = self._vit()
        return network.forward_head(network.norm(tokens), pre_logits=True)


def _load(model: str, pretrained: str | None, crop: int) -> ResNet | VisionTransformer:
    """Build a network and load its weights from a tag, from a file or not at all."""
    source = resolve(model, pretrained) if pretrained else None
    logging.getLogger().info("loading %s from %s", model, source)
    if source is not None and not Path(source).is_file():
        try:
            return _build(f"{model}.{source}", crop, pretrained=True)
        except ConfigError:
            raise
        except Exception as error:
            fetch = f"import timm; timm.create_model('{model}.{source}', pretrained=True)"
            raise missing(model, source, _first_line(error, 200), fetch) from error
    try:
        network = _build(model, crop)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"timm cannot build {model} for images of crop={crop} pixels ({_first_line(error, 200)}). Choose another crop= or "
            "model= in the backbone's config."
        ) from error
    if source is not None:
        _load_file(network, Path(source), model)
    return network


def _load_file(network: ResNet | VisionTransformer, file: Path, model: str) -> None:
    """Load the weights of a file, without those of its classifier."""
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        head = cast("dict[str, object]", network.pretrained_cfg)["classifier"]
        network.load_state_dict({k: v for k, v in state.items() if not k.startswith(f"{head}.")})
    except Exception as error:
        raise WeightsError(
            f"The weights file {file} cannot be loaded into {model} ({_first_line(error, 300)}). It is damaged or of another "
            "model: replace the file, or choose the backbone= that it belongs to."
        ) from error


def _build(name: str, crop: int, *, pretrained: bool = False) -> ResNet | VisionTransformer:
    """Build a timm model without its classifier; ViTs are sized to the crop, ResNets take any."""
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=crop)
    except TypeError:  # not an argument of this architecture
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    if not isinstance(network, (ResNet, VisionTransformer)):
        raise ConfigError(
            f"{name} is a {type(network).__name__}: only ResNets and ViTs of timm are supported. Choose one of these as model= "
            "in the backbone's config."
        )
    return network


def _normalisation(model: str, pretrained: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """RGB mean and standard deviation: those of the tag, regardless of where its weights were found, or of the model."""
    tagged = timm.get_pretrained_cfg(f"{model}.{pretrained}") if pretrained in _tags(model) else None
    config = tagged or timm.get_pretrained_cfg(model)
    if config is None:
        raise ConfigError(
            f"timm has no image normalisation for {model}. Choose another model= in the backbone's config."
        )
    return config.mean, config.std


def _tags(model: str) -> set[str]:
    return {name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")}


def _first_line(error: Exception, length: int) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:length]


def _attend(block: Block, tokens: Tensor, rows: int) -> Tensor:
    return block.ls1(block.attn(tokens)[:, :rows])


def _mlp(block: Block, tokens: Tensor) -> Tensor:
    return block.ls2(block.mlp(tokens))
