"""CLIP encoders through open_clip."""

from __future__ import annotations

import logging
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from fsar_bench.backbones.weights import BUILTIN, fingerprint, missing, resolve
from fsar_bench.errors import ConfigError, WeightsError, suggest
from fsar_bench.registry import BACKBONES

open_clip.add_model_config(BUILTIN)


@BACKBONES.register_module()
class CLIPBackbone(nn.Module):
    """A CLIP model of open_clip: an image tower, a text tower and their joint space.

    Args:
        model: architecture, as open_clip names it.
        pretrained: "builtin", a file, an open_clip tag, or None for random weights (tests).
        quick_gelu: whether the weights were made for QuickGELU, as OpenAI's were; never guessed.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop; must be the model's image size.

    Attributes:
        clip: the open_clip model.
        visual: its image tower.
        embedding_width: C.
        logit_scale: the learned factor of the cosine, about 100.

    Raises:
        ConfigError: unknown architecture, or a crop that does not fit it.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    def __init__(
        self, model: str, pretrained: str | None, quick_gelu: bool, resize: int, crop: int, pretraining: str = ""
    ) -> None:
        super().__init__()
        config = open_clip.get_model_config(model)
        if config is None:
            raise ConfigError(f"open_clip has no model {model!r}.{suggest(model, open_clip.list_models())}")
        if config["vision_cfg"]["image_size"] != crop:
            raise ConfigError(
                f"crop={crop} does not fit {model}, whose images are {config['vision_cfg']['image_size']} pixels."
            )
        self.name, self.pretrained, self.resize, self.crop, self.pretraining = (
            model,
            pretrained,
            resize,
            crop,
            pretraining,
        )
        self.activation = "QuickGELU" if quick_gelu else "GELU"
        self.clip = self._load(model, pretrained, quick_gelu)
        self.visual = self.clip.visual
        self.tokenizer = open_clip.get_tokenizer(model)
        self.embedding_width: int = config["embed_dim"]
        self.register_buffer("mean", torch.tensor(self.visual.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.visual.image_std).view(3, 1, 1), persistent=False)

    @staticmethod
    def _load(model: str, pretrained: str | None, quick_gelu: bool) -> nn.Module:
        source = resolve(model, pretrained) if pretrained else None
        logging.getLogger().info("loading %s from %s", model, source)
        try:
            return open_clip.create_model(
                model, pretrained=source, force_quick_gelu=quick_gelu, load_weights=bool(source)
            )
        except Exception as error:
            if source is None:
                raise
            if not Path(source).is_file():
                raise missing(
                    model, str(pretrained), f"{type(error).__name__}: {error}".splitlines()[0][:200]
                ) from error
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise WeightsError(
                f"The weights file {source} cannot be loaded into {model} ({reason}). It is damaged or of another model: "
                "replace the file, or choose the backbone= that it belongs to."
            ) from error

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def logit_scale(self) -> float:
        return float(self.clip.logit_scale.detach().exp())

    def tune_visual(self) -> None:
        """Let the whole image tower be trained."""
        self.visual.requires_grad_(True)

    def fingerprint(self) -> str:
        """SHA-256 of the loaded weights."""
        return fingerprint(self.clip.state_dict())

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 frames `[V, T, 3, H, W]` to normalised float `[V * T, 3, H, W]`."""
        return (frames.flatten(0, 1).to(self.mean.dtype) / 255 - self.mean) / self.std

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Image features `[V, T, C]` of uint8 frames `[V, T, 3, H, W]`, in the joint space, not normalised."""
        return self.visual(self.normalise(frames)).unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Text features `[len(texts), C]` in the joint space, not normalised."""
        return self.clip.encode_text(self.tokenizer(texts).to(self.device)).float()
