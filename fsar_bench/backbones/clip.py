"""CLIP encoders through open_clip."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock
from fsar_bench.backbones.weights import BUILTIN, fingerprint, missing, read_weights, resolve
from fsar_bench.errors import ConfigError, WeightsError, suggest
from fsar_bench.registry import BACKBONES

open_clip.add_model_config(BUILTIN)


@BACKBONES.register_module()
class CLIPBackbone(Backbone):
    """A CLIP model of open_clip: an image tower (ViT or ModifiedResNet), a text tower and their joint space.

    Args:
        model: architecture, as open_clip names it.
        pretrained: "builtin", a file, a folder of open_clip, an open_clip tag, or None for random weights (tests).
        quick_gelu: whether the weights were made for QuickGELU, as OpenAI's were; never guessed.
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
        quick_gelu: bool,
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
        clip = self._load(model, pretrained, quick_gelu)
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

    @staticmethod
    def _load(model: str, pretrained: str | None, quick_gelu: bool) -> nn.Module:
        source = resolve(model, pretrained) if pretrained else None
        logging.getLogger().info("loading %s from %s", model, source)
        if source is not None and Path(source).is_dir():
            return CLIPBackbone._load_folder(model, Path(source), quick_gelu)
        if source is None or not Path(source).is_file():
            try:
                return open_clip.create_model(
                    model, pretrained=source, force_quick_gelu=quick_gelu, load_weights=bool(source)
                )
            except Exception as error:
                if source is None:
                    raise
                fetch = f"import open_clip; open_clip.create_model('{model}', pretrained='{pretrained}')"
                raise missing(
                    model, str(pretrained), f"{type(error).__name__}: {error}".splitlines()[0][:200], fetch
                ) from error
        network = open_clip.create_model(model, force_quick_gelu=quick_gelu, load_weights=False)
        try:
            weights = read_weights(Path(source))
            masks = {name for name, _ in network.named_buffers()} - set(network.state_dict())  # traced, not trained
            network.load_state_dict({name: t for name, t in weights.tensors.items() if name not in masks})
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise WeightsError(
                f"The weights file {source} cannot be loaded into {model} ({reason}). It is damaged or of another model: "
                "replace the file, or choose the backbone= that it belongs to."
            ) from error
        if weights.quick_gelu is not None and weights.quick_gelu != quick_gelu:
            made, said = ("QuickGELU", "GELU") if weights.quick_gelu else ("GELU", "QuickGELU")
            raise WeightsError(
                f"The weights file {source} is {weights.origin} made for {made}, but the backbone's config says {said}. "
                f"Use a config with quick_gelu={weights.quick_gelu}."
            )
        return network

    @staticmethod
    def _load_folder(model: str, folder: Path, quick_gelu: bool) -> nn.Module:
        """A folder of open_clip: its config (with the normalisation of its images) and its weights."""
        try:
            found = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
            found = found.get("model_cfg", found)
            network = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise WeightsError(
                f"The folder {folder} cannot be loaded ({reason}). It needs open_clip_config.json and weights such as "
                "open_clip_model.safetensors."
            ) from error
        wanted = open_clip.get_model_config(model)
        for tower in ("embed_dim", "vision_cfg", "text_cfg"):
            if found.get(tower) != wanted[tower]:
                raise WeightsError(
                    f"The folder {folder} holds another model than {model} ({tower} differs). Choose the backbone= that it is of."
                )
        made = bool(found.get("quick_gelu", False))
        if made != quick_gelu:
            raise WeightsError(
                f"The config in {folder} says quick_gelu={made}, the backbone's config quick_gelu={quick_gelu}. Use a backbone "
                "config that agrees with the weights."
            )
        return network

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
