"""CLIP encoders through open_clip."""

from __future__ import annotations

from functools import partial

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.clip_weights import load_clip
from fsar_bench.backbones.weights import BUILTIN, fingerprint
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.registry import BACKBONES

open_clip.add_model_config(BUILTIN)


@BACKBONES.register_module()
class CLIPBackbone(Backbone):
    """A CLIP model of open_clip: an image tower (ViT or ModifiedResNet), a text tower and their joint space.

    Args:
        model: architecture, as open_clip names it.
        pretrained: "builtin", a file, a folder of open_clip, an open_clip tag, a hub id "hf-hub:ORG/NAME", or None for random
            weights (tests).
        quick_gelu: whether the weights were made for QuickGELU, as OpenAI's were; None takes it from the weights, and refuses a
            file that does not tell.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop; must be the model's image size.
        pretraining: what the weights were trained on.
        train_batch_norm: see `Backbone`.

    Raises:
        ConfigError: unknown architecture, or a crop that does not fit it.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    has_text = True
    libraries = ("torch", "open_clip_torch")

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        quick_gelu: bool | None,
        resize: int,
        crop: int,
        pretraining: str = "",
        train_batch_norm: bool = False,
    ) -> None:
        config = open_clip.get_model_config(model)
        if config is None:
            raise ConfigError(f"open_clip has no model {model!r}.{suggest(model, open_clip.list_models())}")
        if config["vision_cfg"]["image_size"] != crop:
            raise ConfigError(
                f"crop={crop} does not fit {model}, whose images are {config['vision_cfg']['image_size']} pixels."
            )
        clip, quick_gelu = load_clip(model, pretrained, quick_gelu)
        super().__init__(
            model,
            resize=resize,
            crop=crop,
            pretraining=pretraining,
            activation="QuickGELU" if quick_gelu else "GELU",
            mean=clip.visual.image_mean,
            std=clip.visual.image_std,
            train_batch_norm=train_batch_norm,
        )
        self.clip = clip
        self.tokenizer = open_clip.get_tokenizer(model)
        self.embedding_width = config["embed_dim"]
        if self._is_vit:
            self.map_width, self.map_stride = self.visual.conv1.out_channels, self.visual.conv1.stride[0]
        elif isinstance(self.visual, ModifiedResNet):
            self.map_width, self.map_stride = self.visual.attnpool.k_proj.in_features, 32
        else:
            raise ConfigError(f"The image tower of {model} is neither a ViT nor a ModifiedResNet of open_clip.")

    @property
    def _is_vit(self) -> bool:
        return hasattr(self.visual, "transformer")

    @property
    def visual(self) -> nn.Module:
        return self.clip.visual

    @property
    def logit_scale(self) -> float:
        return float(self.clip.logit_scale.detach().exp())

    def fingerprint(self) -> str:
        return fingerprint(self.clip.state_dict())

    def encode_frames(self, frames: Tensor) -> Tensor:
        return self.visual(self.normalise(frames)).unflatten(0, frames.shape[:2])

    def encode_maps(self, frames: Tensor) -> Tensor:
        visual = self.visual
        if self._is_vit:
            tokens = visual.ln_post(visual.transformer(visual.ln_pre(self._tokens(frames))))[:, 1:]
            maps = tokens.transpose(1, 2).unflatten(2, visual.grid_size)
        else:
            maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(self.normalise(frames))))))
        return maps.unflatten(0, frames.shape[:2])

    def beyond_maps(self) -> list[nn.Parameter]:
        return [self.visual.proj] if self._is_vit else list(self.visual.attnpool.parameters())

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        return self.clip.encode_text(self.tokenizer(texts).to(self.device)).float()

    def blocks(self) -> list[ViTBlock]:
        if not self._is_vit:
            return super().blocks()
        return [
            ViTBlock(block.ln_1, block.ln_2, partial(_attend, block), partial(_mlp, block))
            for block in self.visual.transformer.resblocks
        ]

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        x = self._tokens(frames)
        if offset is not None:
            x = (x.unflatten(0, frames.shape[:2]) + offset).flatten(0, 1)
        return self.visual.ln_pre(x)

    def _tokens(self, frames: Tensor) -> Tensor:
        visual = self.visual
        x = visual.conv1(self.normalise(frames)).flatten(2).transpose(1, 2)  # [V * T, P, D]
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1)
        return x + visual.positional_embedding.to(x.dtype)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        return self.visual.ln_post(tokens[:, 0]) @ self.visual.proj


def _attend(block: nn.Module, tokens: Tensor, rows: int) -> Tensor:
    return block.ls_1(block.attention(tokens[:, :rows], k_x=tokens, v_x=tokens))


def _mlp(block: nn.Module, tokens: Tensor) -> Tensor:
    return block.ls_2(block.mlp(tokens))
