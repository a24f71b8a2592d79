"""Backbone: what methods and engine ask of an image encoder, whatever library built it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsar_bench.backbones.weights import fingerprint
from fsar_bench.errors import ConfigError


@dataclass(frozen=True)
class ViTBlock:
    """The parts of one transformer block, for adapters that work inside it.

    Attributes:
        norm1: LayerNorm before the attention.
        norm2: LayerNorm before the MLP.
        attend: `(tokens [B, L, D], rows)` to `[B, rows, D]`: what the first `rows` tokens become by attending to all L.
        mlp: `[B, L, D]` to `[B, L, D]`.
    """

    norm1: nn.Module
    norm2: nn.Module
    attend: object
    mlp: object


class Backbone(nn.Module):
    """An image encoder, with a text encoder or without.

    Args:
        name: architecture.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop.
        pretraining: what the weights were trained on, for the leaderboard.
        activation: for the record.
        mean: RGB mean of the normalisation, of values in 0..1.
        std: RGB standard deviation.
        train_batch_norm: let batch norm use the statistics of the batch while training. Off by default: an episode is too small
            and too alike for them, and supports and queries could not be encoded apart. A frozen one never does.

    Attributes:
        embedding_width: C, width of frame features.
        map_width: channels D of feature maps.
        map_stride: pixels of a frame to one position of its map.
        has_text: whether there is a text encoder in the same space.
        libraries: packages whose version can change its features.
    """

    embedding_width: int
    map_width: int
    map_stride: int
    has_text: bool = False
    libraries: tuple[str, ...] = ("torch",)

    def __init__(
        self,
        name: str,
        *,
        resize: int,
        crop: int,
        pretraining: str,
        activation: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.resize, self.crop = name, resize, crop
        self.pretraining, self.activation, self.train_batch_norm = pretraining, activation, train_batch_norm
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def visual(self) -> nn.Module:
        """The image tower."""

    @abstractmethod
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Frame features `[V, T, C]` of uint8 frames `[V, T, 3, H, W]`, not normalised."""

    @abstractmethod
    def encode_maps(self, frames: Tensor) -> Tensor:
        """Last feature maps `[V, T, D, h, w]` of uint8 frames `[V, T, 3, H, W]` (ViT: its patch tokens, after the last norm)."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Text features `[len(texts), C]` in the joint space, not normalised.

        Raises:
            ConfigError: there is no text encoder.
        """
        raise self._without("text encoder", "a CLIP backbone")

    def blocks(self) -> list[ViTBlock]:
        """The transformer blocks of a ViT.

        Raises:
            ConfigError: the image tower is not a ViT.
        """
        raise self._without("transformer blocks", "a ViT")

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        """Tokens `[V * T, 1 + P, D]` that enter the first block, class token first.

        Args:
            frames: uint8 `[V, T, 3, H, W]`.
            offset: added to every token of a frame, `[T, 1, D]`, before the first norm (a temporal embedding).
        """
        raise self._without("tokens", "a ViT")

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Frame features `[V * T, C]` of the tokens `[V * T, 1 + P, D]` that leave the last block."""
        raise self._without("tokens", "a ViT")

    def _without(self, what: str, instead: str) -> ConfigError:
        return ConfigError(f"The backbone {self.name} has no {what}: choose {instead} with backbone=.")

    @property
    def logit_scale(self) -> float:
        """The learned factor of the image-text cosine."""
        raise self._without("text encoder", "a CLIP backbone")

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def tune_visual(self, *, maps: bool = False) -> None:
        """Let the whole image tower be trained; with `maps`, as far as feature maps need it."""
        self.visual.requires_grad_(True)
        if maps:
            for parameter in self.beyond_maps():
                parameter.requires_grad_(False)

    def beyond_maps(self) -> list[nn.Parameter]:
        """Parameters of the image tower that feature maps do not pass through."""
        return []

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and self.train_batch_norm and module.weight.requires_grad)
        return self

    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return fingerprint(self.state_dict())

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 frames `[V, T, 3, H, W]` to normalised float `[V * T, 3, H, W]`."""
        return (frames.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std
