"""FewShotMethod: the contract that a method fulfils, and the values that it exchanges with the engine.

Tensor legend used everywhere: E episodes in a batch, N ways, K shots, Q queries of one episode, V videos, T frames,
P patch tokens, D visual width, C joint image-text embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.config.cell import Traits
from fsar_bench.errors import ConfigError, TrainingError


class VideoFeatures:
    """Named tensors with common leading dimensions, indexed and moved as one.

    `features.frames` and so on read a tensor; `features[index]`, `features.view(n, k)` and `features.to(device)` act on all.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors = tensors

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_tensors"][name]
        except KeyError:
            raise AttributeError(f"These features hold {', '.join(self._tensors)}, not {name!r}.") from None

    def __getitem__(self, index: object) -> VideoFeatures:
        return self._map(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def leading(self, dims: int) -> tuple[int, ...]:
        """Sizes of the first `dims` dimensions, which all tensors share."""
        return tuple(next(iter(self._tensors.values())).shape[:dims])

    def items(self):
        return self._tensors.items()

    def _map(self, function: Callable[[Tensor], Tensor]) -> VideoFeatures:
        return VideoFeatures(**{name: function(tensor) for name, tensor in self._tensors.items()})

    def to(self, *args: object, **kwargs: object) -> VideoFeatures:
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def view(self, *leading: int) -> VideoFeatures:
        """Split the first dimension into `leading` dimensions."""
        return self._map(lambda tensor: tensor.reshape(*leading, *tensor.shape[1:]))

    @staticmethod
    def cat(parts: list[VideoFeatures]) -> VideoFeatures:
        return VideoFeatures(**{name: torch.cat([p._tensors[name] for p in parts]) for name, _ in parts[0].items()})


@dataclass(frozen=True)
class Scores:
    """Scores of queries, higher is better.

    Attributes:
        total: `[E, Q, N]`, what decides.
        parts: components by name, each `[E, Q, N]`, kept for refitting and explanation.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeBatch:
    """Training episodes.

    Attributes:
        support: frames uint8 `[E, N, K, T, 3, H, W]`.
        query: frames uint8 `[E, Q, T, 3, H, W]`.
        labels: label of each query within its episode, int64 `[E, Q]`.
        classes: dataset-wide class number of each label, int64 `[E, N]`.
        class_text: text feature of each label, `[E, N, C]`.
    """

    support: Tensor
    query: Tensor
    labels: Tensor
    classes: Tensor
    class_text: Tensor

    def video_classes(self) -> Tensor:
        """Dataset-wide class number of all videos, supports first: int64 `[E * N * K + E * Q]`."""
        support = self.classes[:, :, None].expand(-1, -1, self.support.shape[2])
        return torch.cat([support.flatten(), self.classes.gather(1, self.labels).flatten()])


class FewShotMethod(BaseModel):
    """Base of all methods.

    Work splits into a part per video (`embed`, `encode`: expensive, done once a video and role) and a part per episode
    (`score`: cheap, batched). A video plays the support role when its class text is given, the query role when it is None.

    Attributes:
        traits: declared properties.
        reads: what the plain backbone gives `encode`: "frames" (features `[V, T, C]`) or "maps" (`[V, T, D, h, w]`).
        role_free: `embed` and `encode` ignore role and class text, so one bank serves both roles.
        score_only: constructor arguments that change `score` alone; cells that differ in them share one training.
        shots_average: K copies of one support score as that support alone; False where shots are summed.
        fits: `fit` chooses weights on val.
    """

    traits: Traits
    reads: Literal["frames", "maps"] = "frames"
    role_free: bool = False
    score_only: tuple[str, ...] = ()
    shots_average: bool = True
    fits: bool = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.requires_grad_(False)

    def tune(self, what: str) -> None:
        """Choose what of the backbone is trained: "none" or "visual" (the whole image tower).

        Raises:
            ConfigError: any other word.
        """
        if what not in ("none", "visual"):
            raise ConfigError(f"method.tune={what!r} is unknown. Choose from: none, visual.")
        if what == "visual":
            self.backbone.tune_visual(maps=self.reads == "maps")

    def prepare(self, class_text: Tensor) -> None:
        """Take the text features of all training classes `[classes, C]` before training; default: not needed.

        Without a text encoder C is 0; the number of classes still tells how many there are.
        """

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the backbone on videos.

        Args:
            frames: uint8 `[V, T, 3, H, W]`.
            class_text: `[V, C]` in the support role, None in the query role.

        Returns:
            Features with leading dimension V. The default gives what `reads` says of the plain image encoder.
        """
        if self.reads == "maps":
            return VideoFeatures(maps=self.backbone.encode_maps(frames))
        return VideoFeatures(frames=self.backbone.encode_frames(frames))

    @property
    def role_blind_embedding(self) -> bool:
        """Whether `embed` is the plain backbone, so that one pass serves both roles."""
        return type(self).embed is FewShotMethod.embed

    @property
    def shares_embedding(self) -> bool:
        """Whether `embed` is the plain frozen backbone, so that its features can be cached for all methods.

        Feature maps are too large to keep: they are only read by `encode`.
        """
        frozen = not any(p.requires_grad for p in self.backbone.parameters())
        return self.role_blind_embedding and self.reads == "frames" and frozen

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """The method's own work per video; default: none. Arguments as in `embed`."""
        return features

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Score every query against every class of its episode.

        Args:
            support: features `[E, N, K, ...]`.
            query: features `[E, Q, ...]`.
            class_text: `[E, N, C]`.
        """
        raise NotImplementedError

    @classmethod
    def from_official(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trained state (see `checkpoint.trainable_state`) of the tensors of an official checkpoint, by their names there.

        Raises:
            ConfigError: there is no official code, or the tensors are not what it writes.
        """
        raise ConfigError(f"{cls.__name__} has no official checkpoints to convert.")

    def fit(self, accuracy: Callable[[], float]) -> dict[str, float | str]:
        """Choose weights of the score on val; called after training, once, if `fits`.

        Args:
            accuracy: scores the val episodes with the method as it is now and gives the percentage of right queries.

        Returns:
            What was chosen, by name, for the record. The method must be left with these values.
        """
        raise NotImplementedError

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Losses of training episodes; keys that contain "loss" are summed. Default: cross-entropy of the total scores."""
        support, query = self.episode_features(episodes)
        total = self.score(support, query, episodes.class_text).total
        return {"loss": F.cross_entropy(total.flatten(0, 1), episodes.labels.flatten())}

    def episode_features(self, episodes: EpisodeBatch) -> tuple[VideoFeatures, VideoFeatures]:
        """Encode the supports `[E, N, K, ...]` and queries `[E, Q, ...]` of training episodes: the path of evaluation."""
        E, N, K = episodes.support.shape[:3]
        Q = episodes.query.shape[1]
        text = episodes.class_text[:, :, None].expand(-1, -1, K, -1).reshape(E * N * K, -1)
        if self.role_blind_embedding:
            both = self.embed(torch.cat([episodes.support.flatten(0, 2), episodes.query.flatten(0, 1)]), None)
            embedded = both[: E * N * K], both[E * N * K :]
        else:
            embedded = self.embed(episodes.support.flatten(0, 2), text), self.embed(episodes.query.flatten(0, 1), None)
        support, query = self.encode(embedded[0], text), self.encode(embedded[1], None)
        return support.view(E, N, K), query.view(E, Q)

    def forward(self, episodes: EpisodeBatch, mode: str = "loss") -> dict[str, Tensor]:
        """MMEngine's entry point; training only."""
        if mode != "loss":
            raise ConfigError(f"A few-shot method runs in mode='loss', not {mode!r}: scoring goes through `score`.")
        return self.loss(episodes)

    def train_step(self, data: EpisodeBatch, optim_wrapper) -> dict[str, Tensor]:
        """One forward, backward and, at the end of an accumulation, update.

        Raises:
            TrainingError: the loss is not finite; nothing is updated then.
        """
        with optim_wrapper.optim_context(self):
            losses = self(data)
        total, log = self.parse_losses(losses)
        if not torch.isfinite(total):
            raise TrainingError(
                f"The loss is {total.item()} ({', '.join(f'{k} {v.item():.4g}' for k, v in log.items())}). The last checkpoint "
                "is kept. Lower train.optimizer.lr, or check the frames of this episode."
            )
        optim_wrapper.update_params(total)
        return log

    def val_step(self, data: object) -> list:
        raise ConfigError("Validation goes through the episodic loop, not through val_step.")

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of trainable and of all parameters, the backbone with its text encoder included."""
        parameters = list(self.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        return {"trainable": trainable, "total": sum(p.numel() for p in parameters)}
