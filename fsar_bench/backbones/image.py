"""Image encoders without text (ImageNet ResNets and ViTs) through timm."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from timm.models import ResNet, VisionTransformer
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.weights import missing, resolve
from fsar_bench.errors import ConfigError, WeightsError, suggest
from fsar_bench.registry import BACKBONES


@BACKBONES.register_module()
class ImageBackbone(Backbone):
    """A ResNet or ViT of timm without its classifier: globally pooled features (ViT: what its classifier reads).

    Args:
        model: architecture, as timm names it.
        pretrained: a file, a timm tag such as "tv_in1k", or None for random weights (tests).
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop.
        pretraining: what the weights were trained on.
        train_batch_norm: see `Backbone`.

    Raises:
        ConfigError: unknown architecture, or one that is neither a ResNet nor a ViT.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    libraries = ("torch", "timm")

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        resize: int,
        crop: int,
        pretraining: str = "",
        train_batch_norm: bool = False,
    ) -> None:
        if not timm.is_model(model):
            raise ConfigError(f"timm has no model {model!r}.{suggest(model, timm.list_models())}")
        network = self._load(model, pretrained, crop)
        if not isinstance(network, (ResNet, VisionTransformer)):
            raise ConfigError(f"{model} is a {type(network).__name__}: only ResNets and ViTs of timm are known here.")
        # Weights of a tag were made for the tag's normalisation, wherever they were found.
        known = timm.get_pretrained_cfg(f"{model}.{pretrained}") if pretrained in _tags(model) else None
        made_for = known or timm.get_pretrained_cfg(model)
        super().__init__(
            model,
            resize=resize,
            crop=crop,
            pretraining=pretraining,
            activation="ReLU" if isinstance(network, ResNet) else "GELU",
            mean=made_for.mean,
            std=made_for.std,
            train_batch_norm=train_batch_norm,
        )
        self.network = network
        self.embedding_width = self.map_width = network.num_features
        if self._is_vit:
            self.map_stride = network.patch_embed.patch_size[0]
        else:
            self.map_stride = network.feature_info[-1]["reduction"]

    @staticmethod
    def _load(model: str, pretrained: str | None, crop: int) -> nn.Module:
        source = resolve(model, pretrained) if pretrained else None
        logging.getLogger().info("loading %s from %s", model, source)
        if source is not None and not Path(source).is_file():
            try:
                return _build(f"{model}.{source}", crop, pretrained=True)
            except Exception as error:
                fetch = f"import timm; timm.create_model('{model}.{source}', pretrained=True)"
                raise missing(model, source, f"{type(error).__name__}: {error}".splitlines()[0][:200], fetch) from error
        try:
            network = _build(model, crop)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise ConfigError(f"timm cannot build {model} for images of crop={crop} pixels ({reason}).") from error
        if source is None:
            return network
        try:
            file = Path(source)
            state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
            head = network.pretrained_cfg["classifier"]
            network.load_state_dict({k: v for k, v in state.items() if not k.startswith(f"{head}.")})
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise WeightsError(
                f"The weights file {source} cannot be loaded into {model} ({reason}). It is damaged or of another model: "
                "replace the file, or choose the backbone= that it belongs to."
            ) from error
        return network

    @property
    def _is_vit(self) -> bool:
        return isinstance(self.network, VisionTransformer)

    @property
    def visual(self) -> nn.Module:
        return self.network

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.network(self.normalise(frames)).unflatten(0, frames.shape[:2])

    def encode_maps(self, frames: Tensor) -> Tensor:
        maps = self.network.forward_features(self.normalise(frames))
        if self._is_vit:
            grid = self.network.patch_embed.grid_size
            maps = maps[:, self.network.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        return maps.unflatten(0, frames.shape[:2])

    def blocks(self) -> list[ViTBlock]:
        if not self._is_vit:
            return super().blocks()
        return [
            ViTBlock(block.norm1, block.norm2, partial(_attend, block), partial(_mlp, block))
            for block in self.network.blocks
        ]

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        if not self._is_vit:
            return super().embed_tokens(frames, offset)
        if self.network.num_prefix_tokens != 1:
            raise ConfigError(f"{self.name} has {self.network.num_prefix_tokens} prefix tokens; adapters expect one.")
        x = self.network._pos_embed(self.network.patch_embed(self.normalise(frames)))
        if offset is not None:
            x = (x.unflatten(0, frames.shape[:2]) + offset).flatten(0, 1)
        return self.network.norm_pre(x)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        return self.network.forward_head(self.network.norm(tokens), pre_logits=True)


def _build(name: str, crop: int, *, pretrained: bool = False) -> nn.Module:
    """A timm model without its classifier; ViTs are sized to the crop, ResNets take any."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=crop)
    except TypeError:  # not an argument of this architecture
        return timm.create_model(name, pretrained=pretrained, num_classes=0)


def _tags(model: str) -> set[str]:
    return {name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")}


def _attend(block: nn.Module, tokens: Tensor, rows: int) -> Tensor:
    return block.ls1(block.attn(tokens)[:, :rows])


def _mlp(block: nn.Module, tokens: Tensor) -> Tensor:
    return block.ls2(block.mlp(tokens))
