"""CLIP encoders through open_clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock, quarters
from fsar_bench.backbones.clip_weights import load_clip
from fsar_bench.backbones.weights import BUILTIN, fingerprint
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.registry import BACKBONES

open_clip.add_model_config(BUILTIN)


@BACKBONES.register_module()
class CLIPBackbone(Backbone):
    """A CLIP model of open_clip: an image tower (ViT or ModifiedResNet), a text tower and their joint space.

    Args:
        model: architecture, by its name in open_clip.
        pretrained: "builtin", a file (of open_clip, or of `CLIPModel` of transformers), a folder of either, an open_clip tag, a
            hub id "hf-hub:ORG/NAME", or None for random weights (tests).
        quick_gelu: whether the weights were trained with QuickGELU, as OpenAI's were; None reads it from the weights and
            refuses a file that does not contain it.
        resize: short side of a frame before the crop, in pixels.
        crop: side of the centre crop, in pixels; must be the model's image size.
        pretraining: data that the weights were trained on.
        train_batch_norm: see `Backbone`.
        mean: see `Backbone`; None takes that of the weights.
        std: as `mean`.

    Raises:
        ConfigError: unknown or unsupported architecture, or a crop that does not fit it.
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
        *,
        pretraining: str = "",
        train_batch_norm: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        config = open_clip.get_model_config(model)
        if config is None:
            raise ConfigError(f"open_clip has no model {model!r}.{suggest(model, open_clip.list_models())}")
        if config["vision_cfg"]["image_size"] != crop:
            raise ConfigError(
                f"crop={crop} does not fit {model}, whose images are {config['vision_cfg']['image_size']} pixels. Set crop= in "
                "the backbone's config to that number, or choose another backbone=."
            )
        clip, quick_gelu = load_clip(model, pretrained, quick_gelu)
        tower = clip.visual
        if not isinstance(tower, (VisionTransformer, ModifiedResNet)):
            raise ConfigError(
                f"The image tower of {model} is neither a ViT nor a ModifiedResNet of open_clip. Choose another backbone=."
            )
        super().__init__(
            model,
            resize=resize,
            crop=crop,
            pretraining=pretraining,
            activation="QuickGELU" if quick_gelu else "GELU",
            mean=mean or tower.image_mean,
            std=std or tower.image_std,
            train_batch_norm=train_batch_norm,
        )
        self.clip, self.is_resnet = clip, isinstance(tower, ModifiedResNet)
        self.embedding_width = config["embed_dim"]
        self.map_width, self.map_stride = _map_geometry(tower)
        halvings = (0, 0, 0, 0) if isinstance(tower, VisionTransformer) else (3, 2, 1, 0)
        self.pyramid_widths = tuple(self.map_width // 2**n for n in halvings)
        self.pyramid_strides = tuple(self.map_stride // 2**n for n in halvings)

    @property
    def visual(self) -> VisionTransformer | ModifiedResNet:
        """The image tower."""
        return self.clip.visual

    @property
    def logit_scale(self) -> float:
        """The learned factor of the image-text cosine, CLIP's exp(logit_scale)."""
        return float(self.clip.logit_scale.detach().exp())

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights of both towers."""
        return fingerprint(self.clip.state_dict())

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to frame features `[V, T, C]` in the joint space, not normalised."""
        return self.visual(self.images(frames)).unflatten(0, frames.shape[:2])

    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to feature maps `[V, T, D, h, w]`: patch tokens, or the last stage's output."""
        tower = self.visual
        if isinstance(tower, VisionTransformer):
            tokens = tower.ln_post(tower.transformer(tower.ln_pre(_embed(tower, self.normalise(frames)))))[:, 1:]
            maps = tokens.transpose(1, 2).unflatten(2, tower.grid_size)
        else:
            x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(self.images(frames))))))
            maps = self.as_usual(x)
        return maps.unflatten(0, frames.shape[:2])

    def beyond_maps(self) -> Iterable[nn.Parameter]:
        """Return the projection of a ViT, or the attention pooling of a ModifiedResNet."""
        tower = self.visual
        return [tower.proj] if isinstance(tower, VisionTransformer) else tower.attnpool.parameters()

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Encode texts to features `[len(texts), C]` in the joint space, not normalised."""
        return self.clip.encode_text(_tokenizer(self.name)(texts).to(self.device)).float()

    def _vit(self) -> VisionTransformer:
        """Return the image tower if it is a ViT, else refuse."""
        if not isinstance(self.visual, VisionTransformer):
            raise self._without("transformer blocks", "a ViT")
        return self.visual

    def blocks(self) -> list[ViTBlock]:
        """Return the transformer blocks of a ViT; see `Backbone`."""
        return [
            ViTBlock(block.ln_1, block.ln_2, partial(_attend, block), partial(_mlp, block), _weights(block))
            for block in self._vit().transformer.resblocks
        ]

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        """Compute the tokens that enter the first block of a ViT; see `Backbone`."""
        tower = self._vit()
        x = _embed(tower, self.normalise(frames))
        if offset is not None:
            x = (x.unflatten(0, frames.shape[:2]) + offset).flatten(0, 1)
        return tower.ln_pre(x)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Compute frame features from the tokens that leave the last block of a ViT; see `Backbone`."""
        tower = self._vit()
        return tower.ln_post(tokens[:, 0]) @ tower.proj

    def norm_tokens(self, tokens: Tensor) -> Tensor:
        """Apply the last LayerNorm of a ViT to tokens; see `Backbone`."""
        return self._vit().ln_post(tokens)

    def project_tokens(self, tokens: Tensor) -> Tensor:
        """Map tokens to the joint space; see `Backbone`."""
        return tokens @ self._vit().proj

    def encode_pyramid(self, frames: Tensor) -> list[Tensor]:
        """Encode frames to maps of four depths: the stages of a ModifiedResNet, the quarters of a ViT; see `Backbone`."""
        tower = self.visual
        if isinstance(tower, VisionTransformer):
            maps = self._quarters_of_vit(tower, frames)
        else:
            maps, x = [], tower.stem(self.images(frames))
            for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
                x = stage(x)
                maps.append(self.as_usual(x))
        return [level.unflatten(0, frames.shape[:2]) for level in maps]

    def _quarters_of_vit(self, tower: VisionTransformer, frames: Tensor) -> list[Tensor]:
        """Maps `[V * T, D, h, w]` of the patch tokens after each quarter of the blocks, the last one after the final norm."""
        x, after = self.embed_tokens(frames), []
        for block in tower.transformer.resblocks:
            x = block(x)
            after.append(x)
        tokens = [after[number] for number in quarters(len(after))]
        tokens[-1] = tower.ln_post(tokens[-1])
        return [level[:, 1:].transpose(1, 2).unflatten(2, tower.grid_size) for level in tokens]


@cache
def _tokenizer(model: str) -> Callable[[list[str]], Tensor]:
    """Return the tokenizer of an architecture; its vocabulary is large, so all backbones and their copies share it."""
    return open_clip.get_tokenizer(model)


def _map_geometry(tower: VisionTransformer | ModifiedResNet) -> tuple[int, int]:
    """Return the channels of feature maps and the pixels per position."""
    if isinstance(tower, VisionTransformer):
        return tower.conv1.out_channels, tower.conv1.stride[0]
    return tower.attnpool.k_proj.in_features, 32


def _embed(tower: VisionTransformer, pixels: Tensor) -> Tensor:
    """Embed images `[B, 3, H, W]` as tokens `[B, 1 + P, D]` with positions, class token first."""
    x = tower.conv1(pixels).flatten(2).transpose(1, 2)  # [B, P, D]
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1)
    return x + tower.positional_embedding.to(x.dtype)


def _attend(block: ResidualAttentionBlock, tokens: Tensor, rows: int) -> Tensor:
    return block.ls_1(block.attention(tokens[:, :rows], k_x=tokens, v_x=tokens))


def _weights(block: ResidualAttentionBlock) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the weight and bias of each linear layer of a block, as `ViTBlock` names them."""
    attention = block.attn
    thirds = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
    layers = {"out": attention.out_proj, "fc1": block.mlp.c_fc, "fc2": block.mlp.c_proj}
    return dict(zip("qkv", thirds, strict=True)) | {name: (layer.weight, layer.bias) for name, layer in layers.items()}


def _mlp(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    return block.ls_2(block.mlp(tokens))
