"""Backbone: the interface of image encoders to methods and engine, regardless of the library that built them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsar_bench.backbones.weights import fingerprint
from fsar_bench.errors import NotApplicableError


@dataclass(frozen=True)
class ViTBlock:
    """The parts of one transformer block, for adapters that work inside it.

    Attributes:
        norm1: LayerNorm before the attention.
        norm2: LayerNorm before the MLP.
        attend: maps `(tokens [B, L, D], rows)` to `[B, rows, D]`: the outputs of the first `rows` tokens, which attend to all L.
        mlp: maps `[B, L, D]` to `[B, L, D]`.
    """

    norm1: nn.Module
    norm2: nn.Module
    attend: Callable[[Tensor, int], Tensor]
    mlp: Callable[[Tensor], Tensor]


class Backbone(nn.Module, ABC):
    """An image encoder, with or without a text encoder.

    Subclasses implement `visual`, `encode_frames` and `encode_maps`; without them they cannot be instantiated. A ViT also
    implements `blocks`, `embed_tokens` and `read_tokens`, an image-text model `encode_text` and `logit_scale`.

    Args:
        name: architecture.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop, in pixels.
        pretraining: data that the weights were trained on, for the leaderboard.
        activation: activation function, for the record.
        mean: RGB mean of the normalisation, of values from 0 to 1.
        std: RGB standard deviation of the normalisation.
        train_batch_norm: let batch norm use batch statistics while training. Off by default: an episode is too small and
            homogeneous for them, and they would couple supports and queries. A frozen batch norm never uses them.

    Attributes:
        embedding_width: C, width of frame features.
        map_width: D, channels of feature maps.
        map_stride: pixels of a frame per position of its feature map.
        has_text: whether there is a text encoder in the same space.
        libraries: packages whose version can change the features.
    """

    mean: Tensor
    std: Tensor
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
        """Encode uint8 frames `[V, T, 3, H, W]` to frame features `[V, T, C]`, not normalised."""

    @abstractmethod
    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to the last feature maps `[V, T, D, h, w]` (ViT: patch tokens after its norm)."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Encode texts to features `[len(texts), C]` in the joint space, not normalised.

        Raises:
            NotApplicableError: there is no text encoder.
        """
        raise self._without("text encoder", "a CLIP backbone")

    def blocks(self) -> list[ViTBlock]:
        """Return the transformer blocks of a ViT, first to last.

        Raises:
            NotApplicableError: the image tower is not a ViT.
        """
        raise self._without("transformer blocks", "a ViT")

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        """Compute the tokens `[V * T, 1 + P, D]` that enter the first block, class token first.

        Args:
            frames: uint8 `[V, T, 3, H, W]`.
            offset: added to every token of a frame, `[T, 1, D]`, before the first norm (a temporal embedding).

        Raises:
            NotApplicableError: the image tower is not a ViT, or one with other extra tokens than a class token.
        """
        raise self._without("tokens", "a ViT")

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Compute frame features `[V * T, C]` from the tokens `[V * T, 1 + P, D]` that leave the last block.

        Raises:
            NotApplicableError: the image tower is not a ViT.
        """
        raise self._without("tokens", "a ViT")

    def _without(self, what: str, instead: str) -> NotApplicableError:
        return NotApplicableError(f"The backbone {self.name} has no {what}: choose {instead} with backbone=.")

    @property
    def logit_scale(self) -> float:
        """The learned factor of the image-text cosine.

        Raises:
            NotApplicableError: there is no text encoder.
        """
        raise self._without("text encoder", "a CLIP backbone")

    @property
    def device(self) -> torch.device:
        """The device that holds the backbone."""
        return self.mean.device

    def tune_visual(self, *, maps: bool = False) -> None:
        """Unfreeze the image tower.

        Args:
            maps: leave out the layers that feature maps do not pass through (`beyond_maps`).
        """
        self.visual.requires_grad_(True)
        if maps:
            for parameter in self.beyond_maps():
                parameter.requires_grad_(False)

    def beyond_maps(self) -> Iterable[nn.Parameter]:
        """Return the parameters of the image tower that feature maps do not pass through."""
        return []

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; batch norm follows only where `train_batch_norm` allows it and it is not frozen."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(mode and self.train_batch_norm and module.weight.requires_grad)
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights."""
        return fingerprint(self.state_dict())

    def normalise(self, frames: Tensor) -> Tensor:
        """Convert uint8 frames `[V, T, 3, H, W]` to normalised floats `[V * T, 3, H, W]`."""
        return (frames.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std
