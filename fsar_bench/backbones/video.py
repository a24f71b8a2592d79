"""Video encoders through the library transformers, which is an extra: VideoMAE and TimeSformer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fsar_bench.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from fsar_bench.backbones.reading import read_weights
from fsar_bench.backbones.weights import UnfitError, Weights, first_line, missing, resolve, unloadable
from fsar_bench.errors import ConfigError, WeightsError, suggest
from fsar_bench.registry import BACKBONES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HUB = "hf-hub:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
IN_PARTS = tuple(f"{name}.index.json" for name in WEIGHTS)  # of folders alone: a hub's parts would have to be fetched
CLASSES = {"videomae": "VideoMAE", "timesformer": "Timesformer"}  # the library's names of configs and models
NORMALISATION = {  # of the published weights; preprocessor_config.json next to weights says otherwise
    "videomae": (IMAGENET_MEAN, IMAGENET_STD),
    "timesformer": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}
ACTIVATIONS = {"gelu": "GELU", "gelu_new": "GELU (tanh)", "quick_gelu": "QuickGELU", "relu": "ReLU", "silu": "SiLU"}


@BACKBONES.register_module()
class TransformersVideoBackbone(Backbone):
    """VideoMAE or TimeSformer: a clip in, one feature per step of time out.

    A step is a tubelet of VideoMAE (2 frames: T' = T / 2) or a frame of TimeSformer (T' = T). Its feature is the mean of its
    patch tokens after the model's last norm; the class token of TimeSformer is not used. Fine-tuned VideoMAE weights have a
    norm after the mean, which is applied per step.

    Args:
        model: "videomae" or "timesformer".
        pretrained: a folder in the format of transformers, a hub id "hf-hub:ORG/NAME", a weights file of the architecture that
            `architecture` describes, or None for random weights.
        frames: T; the protocol's frames. It must be the number that the model is made for.
        resize: short side of a frame before the crop, in pixels; None takes the crop.
        crop: side of the centre crop, in pixels; None takes the model's image size.
        architecture: fields of the library's config that differ from its base model, such as `hidden_size`; only with random
            weights or a file, for a folder or hub repository brings its own.
        pretraining: data that the weights were trained on.
        mean: see `Backbone`; None takes that of the weights.
        std: as `mean`.

    Raises:
        ConfigError: transformers is not installed, an unknown model or field, or frames or a crop that do not fit it.
        WeightsError: weights that are missing, damaged or of another architecture.
    """

    sees_order = True
    libraries = ("torch", "transformers")

    def __init__(
        self,
        model: str,
        pretrained: str | None,
        frames: int | None = None,
        resize: int | None = None,
        crop: int | None = None,
        *,
        architecture: dict[str, Any] | None = None,
        pretraining: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if model not in CLASSES:
            raise ConfigError(f"model={model!r} of a video backbone is unknown.{suggest(model, CLASSES)}")
        if find_spec("transformers") is None:
            raise ConfigError(
                f"The backbone {model} needs the library transformers: pip install 'fsar-bench[video]', or choose another "
                "backbone=."
            )
        source = _source(model, pretrained)
        config = _config(model, source, architecture or {}, frames)
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        if crop not in (None, size):
            raise ConfigError(
                f"crop={crop} does not fit the weights of {model}, whose images are {size} pixels. Set crop={size}, or for "
                "random weights architecture=dict(image_size=...) in the backbone's config."
            )
        of_weights = _normalisation(model, source)
        super().__init__(
            model,
            resize=resize or size,
            crop=size,
            pretraining=pretraining or (Path(pretrained).name if pretrained else "none (random weights)"),
            activation=ACTIVATIONS.get(config.hidden_act, str(config.hidden_act)),
            mean=mean or of_weights[0],
            std=std or of_weights[1],
        )
        self.frames = config.num_frames
        self.tubelet = getattr(config, "tubelet_size", 1)
        self.time_steps(self.frames if frames is None else frames)
        if self.frames % self.tubelet:
            raise ConfigError(f"{model} takes frames in groups of {self.tubelet}: frames={self.frames} is no multiple.")
        self.network, self.norm = _load(model, source, config)
        self.embedding_width = self.map_width = config.hidden_size
        self.map_stride = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]

    def time_steps(self, frames: int) -> int:
        """Return the tubelets of a clip of T frames; see `Backbone`."""
        return super().time_steps(frames) // self.tubelet

    def encode_maps(self, frames: Tensor) -> Tensor:
        """Encode uint8 frames `[V, T, 3, H, W]` to patch tokens after the model's last norm, `[V, T', D, h, w]`."""
        V, T = frames.shape[:2]
        steps, side = self.time_steps(T), self.crop // self.map_stride
        tokens = self.network(self.normalise(frames).unflatten(0, (V, T))).last_hidden_state
        if self.name == "timesformer":  # [V, 1 + h * w * T, D]: a class token, then the frames of each patch
            tokens = tokens[:, 1:].unflatten(1, (side * side, steps)).transpose(1, 2)
        else:  # [V, T' * h * w, D]
            tokens = tokens.unflatten(1, (steps, side * side))
        return tokens.transpose(2, 3).unflatten(3, (side, side))

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode clips uint8 `[V, T, 3, H, W]` to features `[V, T', C]`, not normalised."""
        return self.norm(self.encode_maps(frames).mean((-1, -2)))

    def beyond_maps(self) -> list[nn.Parameter]:
        """Return the norm after the mean over patches."""
        return list(self.norm.parameters())


def _source(model: str, pretrained: str | None) -> str | None:
    """Return what `pretrained` names: a file, a folder or "hf-hub:ORG/NAME"; None for random weights."""
    if pretrained is None:
        return None
    source = resolve(model, pretrained)
    if not (source.startswith(HUB) or Path(source).exists()):
        raise WeightsError(
            f"pretrained={pretrained!r} of {model} is neither a folder, a file nor a hub id: name one of these, a hub id as "
            "hf-hub:ORG/NAME."
        )
    logging.getLogger().info("loading %s from %s", model, source)
    return source


def _config(model: str, source: str | None, architecture: dict[str, Any], frames: int | None) -> PretrainedConfig:
    """Return the library's config: the one that comes with the weights, or the base model's with what differs from it."""
    import transformers

    kind = getattr(transformers, f"{CLASSES[model]}Config")
    if source is None or Path(source).is_file():
        known = {key for key in kind().to_dict() if "attn_implementation" not in key}  # may name code of a hub
        if unknown := sorted(set(architecture) - known):
            raise ConfigError(f"architecture has no field {unknown[0]!r} for {model}.{suggest(unknown[0], known)}")
        sized = {"num_frames": frames} if frames and source is None else {}  # random weights fit any number of frames
        return kind(**{**sized, **architecture})
    path = _needed(model, source, "config.json")
    described = json.loads(path.read_text(encoding="utf-8"))
    if described.get("model_type") != model:
        raise WeightsError(
            f"{source} holds a model of type {described.get('model_type')!r}, not {model}. Choose the backbone= that it "
            "belongs to."
        )
    if architecture:
        raise ConfigError(f"{source} brings its own config.json: leave architecture out of the backbone's config.")
    # transformers would fetch a kernel, which is code, by the name of an implementation of attention
    return kind.from_dict({key: value for key, value in described.items() if "attn_implementation" not in key})


def _needed(model: str, source: str, *names: str) -> Path:
    """Return the first file of `names` that a folder or hub repository has.

    Raises:
        WeightsError: it has none of them, or cannot be reached.
    """
    for name in names:
        if path := _fetched(model, source, name):
            return path
    raise WeightsError(
        f"{source} has no {' or '.join(names)}: it is not in the format of transformers. Name a folder that save_pretrained() "
        f"wrote for {model}, or the hub id of one."
    )


def _fetched(model: str, source: str, name: str) -> Path | None:
    """Return a file of a folder or hub repository, from the hub's cache or the network; None if it has no such file."""
    if not source.startswith(HUB):
        return Path(source, name) if Path(source, name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository = source.removeprefix(HUB)
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:
        is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        if is_absent or isinstance(try_to_load_from_cache(repository, "config.json"), str):
            return None  # offline, a repository in the cache has what was fetched of it
        fetch = f"import transformers; transformers.{CLASSES[model]}Model.from_pretrained('{repository}')"
        raise missing(model, source, first_line(error, 200), fetch) from error


def _normalisation(model: str, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the RGB mean and standard deviation that come with the weights, or those of the published ones."""
    if source is None or Path(source).is_file():
        return NORMALISATION[model]
    path = _fetched(model, source, "preprocessor_config.json")
    if path is None:
        return NORMALISATION[model]
    described = json.loads(path.read_text(encoding="utf-8"))
    return tuple(described["image_mean"]), tuple(described["image_std"])


def _load(model: str, source: str | None, config: PretrainedConfig) -> tuple[nn.Module, nn.Module]:
    """Build a network, and the norm after the mean over patches, with their weights."""
    import transformers

    network = getattr(transformers, f"{CLASSES[model]}Model")(config)
    norm: nn.Module = nn.Identity()
    if source is None:
        return network, norm
    names = WEIGHTS if source.startswith(HUB) else (*WEIGHTS, *IN_PARTS)
    file = Path(source) if Path(source).is_file() else _needed(model, source, *names)
    try:
        weights = read_weights(file)
        if any(name.endswith("query.bias") for name in network.state_dict()):
            weights = weights.converted(_renamed)
        network.load_state_dict(weights.fit(network.state_dict(), library="transformers", spare=_is_head))
        if getattr(config, "use_mean_pooling", False):
            norm = _norm_after_mean(weights, config.hidden_size)
    except Exception as error:
        raise unloadable(model, file, error) from error
    return network, norm


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the biases of VideoMAE's attention as the library does since it stores them in its linear layers."""
    return {re.sub(r"attention\.attention\.([qv])_bias$", _bias, name): tensor for name, tensor in state.items()}


def _bias(match: re.Match[str]) -> str:
    return f"attention.attention.{'query' if match[1] == 'q' else 'value'}.bias"


def _is_head(name: str) -> bool:
    return name.startswith(("fc_norm.", "classifier."))


def _norm_after_mean(weights: Weights, width: int) -> nn.Module:
    """Return the norm of fine-tuned weights; the identity where they have none."""
    norm = nn.LayerNorm(width)
    for state in weights.states.values():
        if "fc_norm.weight" in state:
            wanted = {f"fc_norm.{name}": tensor for name, tensor in norm.state_dict().items()}
            if any(state.get(name, torch.empty(0)).shape != tensor.shape for name, tensor in wanted.items()):
                raise UnfitError(f"its fc_norm is not of width {width}. Choose the backbone= that it belongs to")
            norm.load_state_dict({name: state[f"fc_norm.{name}"] for name in norm.state_dict()})
            return norm
    return nn.Identity()
