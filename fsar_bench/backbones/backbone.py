"""Backbone: the interface of image and video encoders to methods and engine, regardless of the library that built them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from fsar_bench.backbones.weights import fingerprint
from fsar_bench.errors import ConfigError, NotApplicableError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def quarters(blocks: int) -> list[int]:
    """Return the numbers, from 0, of the blocks that end each quarter of a ViT; fewer than four blocks are taken repeatedly."""
    return [ceil(blocks * quarter / 4) - 1 for quarter in (1, 2, 3, 4)]


@dataclass(frozen=True)
class ViTBlock:
    """The parts of one transformer block, for adapters that work inside it.

    Attributes:
        norm1: LayerNorm before the attention.
        norm2: LayerNorm before the MLP.
        attend: maps `(tokens [B, L, D], rows)` to `[B, rows, D]`: the outputs of the first `rows` tokens, which attend to all L.
        mlp: maps `[B, L, D]` to `[B, L, D]`.
        weights: weight and bias of its linear layers "q", "k", "v", "out", "fc1" and "fc2", for networks that start from them;
            empty where the backbone does not give them.
    """

    norm1: nn.Module
    norm2: nn.Module
    attend: Callable[[Tensor, int], Tensor]
    mlp: Callable[[Tensor], Tensor]
    weights: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the block as it is on tokens `[B, L, D]`."""
        x = x + self.attend(self.norm1(x), x.shape[1])
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module, ABC):
    """An encoder of the frames of a clip, one by one (an image encoder) or together (a video encoder).

    A subclass implements `encode_frames` and sets `embedding_width`; that is all that methods which read frame features need.
    For methods that read feature maps it implements `encode_maps` and sets `map_width` and `map_stride`; a video encoder
    implements `time_steps` where it gives another number of features than it takes frames. A ViT may implement `blocks`,
    `embed_tokens`, `read_tokens`, `norm_tokens` and `project_tokens` for adapters, a network with maps of several depths
    `encode_pyramid`, `pyramid_widths` and `pyramid_strides`, an image-text model `encode_text` and `logit_scale`. What is
    not implemented is refused with one clear error where a method needs it.

    Args:
        name: architecture; the class's name unless it is given.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop, in pixels.
        pretraining: data that the weights were trained on, for the leaderboard.
        activation: activation function, for the record.
        mean: RGB mean of the normalisation, of values from 0 to 1; ImageNet's unless it is given.
        std: RGB standard deviation of the normalisation.
        train_batch_norm: let batch norm use batch statistics while training. Off by default: an episode is too small and
            homogeneous for them, and they would couple supports and queries. A frozen batch norm never uses them.

    Attributes:
        embedding_width: C, width of frame features.
        map_width: D, channels of feature maps.
        map_stride: pixels of a frame per position of its feature map.
        pyramid_widths: D_i of the maps of `encode_pyramid`; empty where there are none.
        pyramid_strides: pixels of a frame per position of each of them.
        has_text: whether there is a text encoder in the same space.
        sees_order: whether the features depend on the order of frames, as those of a video encoder do.
        frames: T of the only clips that the encoder takes; None for any.
        libraries: packages whose version can change the features.
        is_resnet: whether the image tower is a ResNet, which a CPU encodes faster from images in the order channels last.
        trains_channels_last: whether it also computes gradients faster in that order.
    """

    mean: Tensor
    std: Tensor
    embedding_width: int
    map_width: int
    map_stride: int
    pyramid_widths: tuple[int, ...] = ()
    pyramid_strides: tuple[int, ...] = ()
    has_text: bool = False
    sees_order: bool = False
    frames: int | None = None
    libraries: tuple[str, ...] = ("torch",)
    is_resnet: bool = False
    trains_channels_last: bool = False

    def __init__(
        self,
        name: str = "",
        *,
        resize: int = 256,
        crop: int = 224,
        pretraining: str = "",
        activation: str = "",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        train_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.resize, self.crop = name or type(self).__name__, resize, crop
        self.pretraining, self.activation, self.train_batch_norm = pretraining, activation, train_batch_norm
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def __getattr__(self, name: str) -> Any:
        """Say what a subclass left out; everything else as in torch.

        Raises:
            ConfigError: a width that the class did not set.
        """
        if name == "embedding_width":
            raise ConfigError(
                f"The backbone {type(self).__name__} does not say how wide its features are: set self.embedding_width in its "
                "constructor."
            )
        if name in ("map_width", "map_stride"):
            raise self._without("feature maps", "an image encoder with feature maps")
        return super().__getattr__(name)

    @property
    def visual(self) -> nn.Module:
        """The image tower: what is trained where a method fine-tunes the encoder. The default is all of the backbone."""
        return self

    @abstractmethod
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode a clip's frames.

        Args:
            frames: uint8 `[V, T, 3, H, W]`.

        Returns:
            Features `[V, T', C]`, not normalised. T' is `time_steps(T)`: T for an image encoder, which encodes each frame alone.
        """

    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to the last feature maps `[V, T', D, h, w]` (ViT: patch tokens after its norm).

        Raises:
            ConfigError: the encoder has no feature maps.
        """
        raise self._without("feature maps", "an image encoder with feature maps")

    def time_steps(self, frames: int) -> int:
        """Return T', the number of features over time that `encode_frames` gives of a clip.

        Methods with layers that are sized by time ask this, rather than take the protocol's number of frames.

        Args:
            frames: T, frames of the clip.

        Raises:
            ConfigError: the encoder does not take clips of so many frames.
        """
        if self.frames not in (None, frames):
            raise ConfigError(
                f"The backbone {self.name} takes clips of {self.frames} frames, not {frames}: set frames={self.frames}."
            )
        return frames

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

    def norm_tokens(self, tokens: Tensor) -> Tensor:
        """Apply the last LayerNorm of a ViT, which `read_tokens` applies to the class token, to tokens `[..., D]`.

        Raises:
            NotApplicableError: the image tower is not a ViT.
        """
        raise self._without("tokens", "a ViT")

    def project_tokens(self, tokens: Tensor) -> Tensor:
        """Map tokens `[..., D]` after `norm_tokens` to the width of frame features `[..., C]`: CLIP's projection, else nothing.

        Raises:
            NotApplicableError: the image tower is not a ViT.
        """
        raise self._without("tokens", "a ViT")

    def encode_pyramid(self, frames: Tensor) -> list[Tensor]:
        """Encode uint8 frames `[V, T, 3, H, W]` to maps of four depths `[V, T, D_i, h_i, w_i]`, from the first to the last.

        They are the last four stages of a network of stages, such as a ResNet, and the patch tokens of a ViT after each quarter
        of its blocks (rounded up), all of one size. The last one is what `encode_maps` gives; of a ViT, only it is normalised.

        Raises:
            NotApplicableError: the encoder has no such maps.
        """
        raise self.without_pyramid()

    def without_pyramid(self) -> NotApplicableError:
        """Return the error of an encoder whose maps are not of four depths."""
        return self._without("maps of four depths", "a ResNet or a ViT")

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
        tuned = any(parameter.requires_grad for parameter in self.parameters())
        for module in self.modules():
            if keeps_statistics(module):
                weight = getattr(module, "weight", None)
                module.train(mode and self.train_batch_norm and (tuned if weight is None else weight.requires_grad))
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights."""
        return fingerprint(self.state_dict())

    def normalise(self, frames: Tensor) -> Tensor:
        """Convert uint8 frames `[V, T, 3, H, W]` to normalised floats `[V * T, 3, H, W]`."""
        return (frames.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std

    @property
    def is_channels_last(self) -> bool:
        """Whether `images` are in the order channels last, which changes the last digits of features."""
        is_faster = self.trains_channels_last or not torch.is_grad_enabled()
        return self.is_resnet and is_faster and self.device.type == "cpu"

    def images(self, frames: Tensor) -> Tensor:
        """Convert uint8 frames `[V, T, 3, H, W]` to the normalised floats `[V * T, 3, H, W]` that an image tower takes.

        Its convolutions keep the order of memory of their input; its weights stay in the order in which they are stored.
        """
        images = self.normalise(frames)
        return images.contiguous(memory_format=torch.channels_last) if self.is_channels_last else images

    def as_usual(self, maps: Tensor) -> Tensor:
        """Convert maps `[B, D, h, w]` of `images` to the order of memory that methods expect, channels first."""
        return maps.contiguous() if self.is_channels_last else maps


def keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm, of torch or of another kind that keeps running statistics of batches."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or module._buffers.get("running_var") is not None
