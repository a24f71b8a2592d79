"""Image encoders without text through timm: any of its models that gives one feature vector per image."""

from __future__ import annotations

import difflib
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import activations as timm_activations
from timm.models import PretrainedCfg, ResNet, VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fsar_bench.backbones.backbone import Backbone, ViTBlock, quarters
from fsar_bench.backbones.reading import read_weights
from fsar_bench.backbones.weights import UnfitError, Weights, file_in, first_line, missing, resolve, unloadable
from fsar_bench.errors import ConfigError
from fsar_bench.registry import BACKBONES

DEFAULT = "default"  # stands for timm's default tag of a model
GATES = ("Sigmoid", "Hardsigmoid", "HardSigmoid", "HardSigmoidMe", "Tanh", "Softmax", "MultiheadAttention", "Identity")
ACTIVATIONS = {
    "GELUTanh": "GELU (tanh)",
    "QuickGELU": "QuickGELU",
    "Hardswish": "hard swish",
    "HardSwish": "hard swish",
}


@BACKBONES.register_module()
class ImageBackbone(Backbone):
    """An image model of timm without its classifier: globally pooled features (ViT: the input of its classifier).

    Args:
        model: architecture, by its name in timm, without a tag.
        pretrained: a file, a folder with one, a timm tag such as "tv_in1k", "default" for timm's default tag of the model, or
            None for random weights (tests).
        resize: short side of a frame before the crop, in pixels; None takes the crop and timm's ratio of both for these weights.
        crop: side of the centre crop, in pixels; None takes the image size of these weights.
        pretraining: data that the weights were trained on; empty takes the tag.
        train_batch_norm: see `Backbone`.
        mean: see `Backbone`; None takes that of the weights.
        std: as `mean`.

    Raises:
        ConfigError: unknown architecture or tag, one without pooled features, or one that cannot take this crop.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    libraries = ("torch", "timm")
    network: nn.Module

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        resize: int | None = None,
        crop: int | None = None,
        *,
        pretraining: str = "",
        train_batch_norm: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if "." in model or not timm.is_model(model):
            raise ConfigError(f"timm has no model {model!r}.{_similar(model)}")
        tag = _tag(model, pretrained)
        config = _config(model, tag)
        side = config.input_size[-1]
        crop = side if crop is None else crop
        network = _load(model, tag if pretrained == DEFAULT else pretrained, crop)
        super().__init__(
            model,
            resize=math.floor(crop / config.crop_pct) if resize is None else resize,
            crop=crop,
            pretraining=pretraining or _pretraining(pretrained, tag),
            activation=_activation(network),
            mean=mean or config.mean,
            std=std or config.std,
            train_batch_norm=train_batch_norm,
        )
        self.network = network
        self.is_resnet = self.trains_channels_last = isinstance(network, ResNet)
        self.embedding_width, self.map_width, self.map_stride = _geometry(network, model, crop, side)
        self._set_pyramid()

    @property
    def visual(self) -> nn.Module:
        """The image tower: the whole network."""
        return self.network

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to pooled features `[V, T, C]`, not normalised."""
        return self.network(self.images(frames)).unflatten(0, frames.shape[:2])

    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to feature maps `[V, T, D, h, w]`: patch tokens, or the last stage's output.

        Raises:
            ConfigError: the model has no feature maps on one grid.
        """
        features = self.network.forward_features(self.images(frames))  # type: ignore[operator]  # a method of timm
        maps = self._as_maps(features)
        return self.as_usual(maps).unflatten(0, frames.shape[:2])

    def _set_pyramid(self) -> None:
        """Choose the four depths of `encode_pyramid`, where the model tells timm of at least four."""
        depths = list(cast("Iterable[dict[str, Any]]", getattr(self.network, "feature_info", None) or ()))
        self._depths: list[int] = []
        self.pyramid_widths, self.pyramid_strides = (), ()
        if len(depths) < 4 or not hasattr(self.network, "forward_intermediates"):
            return
        is_vit = len({int(depth["reduction"]) for depth in depths}) == 1  # a depth per block
        self._depths = quarters(len(depths)) if is_vit else list(range(len(depths)))[-4:]
        chosen = [depths[number] for number in self._depths]
        self.pyramid_widths = (*(int(depth["num_chs"]) for depth in chosen[:3]), self.map_width)
        self.pyramid_strides = tuple(int(depth["reduction"]) for depth in chosen)

    def encode_pyramid(self, frames: Tensor) -> list[Tensor]:
        """Encode frames to maps of four depths, the last of them as `encode_maps` does; see `Backbone`.

        Raises:
            NotApplicableError: the model has fewer than four depths, or maps that are not on one grid.
        """
        if not self._depths:
            raise self.without_pyramid()
        last, levels = self.network.forward_intermediates(  # type: ignore[operator]  # a method of timm
            self.images(frames), indices=self._depths
        )
        maps = [*levels[:3], self._as_maps(last)]
        return [self.as_usual(level).unflatten(0, frames.shape[:2]) for level in maps]

    def _as_maps(self, features: object) -> Tensor:
        """Convert what a model of timm gives before its pooling (maps or tokens) to maps `[B, D, h, w]`."""
        if isinstance(features, Tensor) and features.ndim == 4:
            is_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
            return features.permute(0, 3, 1, 2) if is_last else features
        if isinstance(features, Tensor) and features.ndim == 3:
            side = math.ceil(self.crop / self.map_stride) if self.map_stride else 0
            sides = [h for h in (side, self.crop // max(self.map_stride, 1)) if self._prefix(features, h) is not None]
            if sides:
                patches = features[:, cast("int", self._prefix(features, sides[0])) :]
                return patches.transpose(1, 2).unflatten(2, (sides[0], sides[0]))
        raise self._without("feature maps on one grid", "a ResNet, ConvNeXt, Swin or ViT")

    def _prefix(self, tokens: Tensor, side: int) -> int | None:
        """Number of tokens `[B, L, D]` before a grid of patches; None if they do not hold that grid."""
        known = getattr(self.network, "num_prefix_tokens", None)
        extra = tokens.shape[1] - side * side
        if known is None and extra == 1:
            known = int(hasattr(self.network, "cls_token"))
        return extra if extra == (known or 0) and side else None

    def beyond_maps(self) -> Iterable[nn.Parameter]:
        """Return the parameters that feature maps do not pass through, such as an attention pooling."""
        parameters = list(self.network.parameters())
        wanted = [p.requires_grad for p in parameters]
        self.network.requires_grad_(True)
        with torch.enable_grad():
            maps = self.encode_maps(torch.zeros(1, 1, 3, self.crop, self.crop, dtype=torch.uint8, device=self.device))
            gradients = torch.autograd.grad(maps.sum(), parameters, allow_unused=True)
        for parameter, flag in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(flag)
        return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]

    def _vit(self) -> VisionTransformer:
        """Return the network if it is a plain ViT with a class token and no further ones, else refuse."""
        network = self.network
        if not isinstance(network, VisionTransformer) or not all(isinstance(block, Block) for block in network.blocks):
            raise self._without("transformer blocks", "a ViT")
        if network.num_prefix_tokens != 1:
            raise ConfigError(
                f"{self.name} has {network.num_prefix_tokens} tokens before its patches, but adapters expect one, the class "
                "token. Choose another ViT with backbone=."
            )
        return network

    def blocks(self) -> list[ViTBlock]:
        """Return the transformer blocks of a ViT; see `Backbone`."""
        blocks = cast("list[Block]", list(self._vit().blocks))  # torch does not type a Sequential's items
        return [ViTBlock(block.norm1, block.norm2, partial(_attend, block), partial(_mlp, block)) for block in blocks]

    def embed_tokens(self, frames: Tensor, offset: Tensor | None = None) -> Tensor:
        """Compute the tokens that enter the first block of a ViT; see `Backbone`."""
        network = self._vit()
        x = network._pos_embed(network.patch_embed(self.normalise(frames)))
        if offset is not None:
            x = (x.unflatten(0, frames.shape[:2]) + offset).flatten(0, 1)
        return network.norm_pre(x)

    def read_tokens(self, tokens: Tensor) -> Tensor:
        """Compute frame features from the tokens that leave the last block of a ViT; see `Backbone`."""
        network = self._vit()
        return network.forward_head(network.norm(tokens), pre_logits=True)

    def norm_tokens(self, tokens: Tensor) -> Tensor:
        """Apply the last LayerNorm of a ViT to tokens; see `Backbone`."""
        return self._vit().norm(tokens)

    def project_tokens(self, tokens: Tensor) -> Tensor:
        """Return the tokens: an image model has no projection; see `Backbone`."""
        self._vit()
        return tokens


def _similar(model: str) -> str:
    """Suggest names of timm's models."""
    name, _, tag = model.partition(".")
    if tag and timm.is_model(name):
        return f" The tag stands apart from the model: model={name!r}, pretrained={tag!r}."
    known = timm.list_models()
    word = max(re.findall(r"[a-z]+\d*|\d+", model.lower()), key=len, default=model)
    holding = [name for name in known if word in name.replace("_", "") or word in name]
    similar = list(dict.fromkeys([*_close(model.lower().replace("-", "_"), known), *holding[:8]]))
    hint = f" Did you mean {', '.join(map(repr, similar[:8]))}?" if similar else ""
    return f"{hint} All {len(known)} are listed by timm.list_models()."


def _close(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=5, cutoff=0.5)


def _tags(model: str) -> list[str]:
    """Return the tags of the pretrained weights of a model."""
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]


def _tag(model: str, pretrained: str | None) -> str | None:
    """Return the timm tag that `pretrained` names; None for random weights, files and folders.

    Raises:
        ConfigError: it is neither a tag nor a file, or the default of a model that has no weights.
    """
    if pretrained is None:
        return None
    if not isinstance(pretrained, str) or not pretrained.strip():
        resolve(model, pretrained)  # refuses it
    tags = _tags(model)
    if pretrained == DEFAULT:
        config = timm.get_pretrained_cfg(model)
        if config is None or not config.has_weights:
            raise ConfigError(
                f"timm has no pretrained weights of {model}. Set pretrained=/path/to/file or, for random weights, "
                "pretrained=none, or choose another backbone=."
            )
        return config.tag
    if pretrained in tags:
        return pretrained
    if Path(resolve(model, pretrained)).exists():  # also a file that stands for a tag of the user's
        return None
    close = _close(pretrained, tags)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    choices = f" Choose from: {', '.join(tags)}." if tags else ""
    raise ConfigError(f"timm has no weights {pretrained!r} of {model}.{hint}{choices} Or name a file with pretrained=.")


def _config(model: str, tag: str | None) -> PretrainedCfg:
    """Return image size, crop ratio and normalisation: those of a tag, wherever its weights are, or of the model."""
    config = timm.get_pretrained_cfg(f"{model}.{tag}" if tag else model)
    if config is None or config.mean is None or config.std is None:
        raise ConfigError(
            f"timm has no image normalisation for {model}. Choose another model= in the backbone's config."
        )
    return config


def _pretraining(pretrained: str | None, tag: str | None) -> str:
    if not pretrained:
        return "none (random weights)"
    return Path(pretrained).name if tag is None else tag


def _load(model: str, pretrained: str | None, crop: int) -> nn.Module:
    """Build a network and load its weights from a tag, from a file or folder, or not at all."""
    source = None if pretrained is None else resolve(model, pretrained)
    logging.getLogger().info("loading %s from %s", model, source)
    if source and not Path(source).exists():
        name = f"{model}.{source}"
        try:
            return _build(name, crop, pretrained=True)
        except Exception as error:
            fetch = f"import timm; timm.create_model('{name}', pretrained=True)"
            raise missing(model, source, first_line(error, 200), fetch) from error
    try:
        network = _build(model, crop)
    except Exception as error:
        raise _unfit_crop(model, crop, error) from error
    if source:
        _load_file(network, file_in(Path(source), model) if Path(source).is_dir() else Path(source), model)
    return network


def _unfit_crop(model: str, crop: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"timm cannot build {model} for images of crop={crop} pixels ({first_line(error, 200)}). Choose another crop= or "
        "model= in the backbone's config."
    )


def _load_file(network: nn.Module, file: Path, model: str) -> None:
    """Load the weights of a file, without those of its classifier."""
    try:
        network.load_state_dict(_fit(network, read_weights(file)))
    except Exception as error:
        raise unloadable(model, file, error) from error


def _fit(network: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """Choose a network's tensors, with timm's own conversion (names of official code, other image sizes) where it is needed."""
    names = cast("dict[str, Any]", network.pretrained_cfg).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    wanted, spare = network.state_dict(), cast("Callable[[str], bool]", lambda name: name.startswith(heads))
    try:
        return weights.fit(wanted, library="timm", spare=spare)
    except UnfitError as error:
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            raise
        try:
            fitted = weights.converted(partial(_convert, convert, network)).fit(wanted, library="timm", spare=spare)
        except UnfitError:
            raise error from None
    logging.getLogger().info("the weights were converted by timm: names of other code, or another image size")
    return fitted


def _convert(function: Callable[..., Any], network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return function(state, network)


def _build(name: str, crop: int, *, pretrained: bool = False) -> nn.Module:
    """Build a timm model without its classifier; models with an image size are sized to the crop."""
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=crop)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(name, pretrained=pretrained, num_classes=0)  # one that takes images of any size


@torch.no_grad()
def _geometry(network: nn.Module, model: str, crop: int, side: int) -> tuple[int, int, int]:
    """Return C, D and pixels per position (0 without maps) of a model.

    The model says them itself; one frame is encoded where it does not, or where the crop is not its own image size.

    Raises:
        ConfigError: the model cannot take the crop, or gives no feature vector.
    """
    width = getattr(network, "head_hidden_size", None) or getattr(network, "num_features", 0)
    try:
        stride = int(network.feature_info[-1]["reduction"])  # type: ignore[union-attr,index]
    except (AttributeError, KeyError, IndexError, TypeError):
        stride = 0
    if not (width and stride) or crop != side:
        network.eval()
        try:
            pooled = network(torch.zeros(1, 3, crop, crop))
        except Exception as error:
            raise _unfit_crop(model, crop, error) from error
        finally:
            network.train()
        if not isinstance(pooled, Tensor) or pooled.ndim != 2:
            raise ConfigError(f"{model} of timm gives no feature vector of an image. Choose another backbone=.")
        width = pooled.shape[1]
    return width, int(getattr(network, "num_features", 0) or width), stride


def _activation(network: nn.Module) -> str:
    """Return the names of the activation functions of a network, gates aside; empty if it has none as modules."""
    rooms = (nn.modules.activation.__name__, timm_activations.__name__)
    kinds = {type(m).__name__ for m in network.modules() if type(m).__module__ in rooms}
    return ", ".join(sorted(ACTIVATIONS.get(kind, kind) for kind in kinds if kind not in GATES))


def _attend(block: Block, tokens: Tensor, rows: int) -> Tensor:
    return block.ls1(block.attn(tokens)[:, :rows])


def _mlp(block: Block, tokens: Tensor) -> Tensor:
    return block.ls2(block.mlp(tokens))
