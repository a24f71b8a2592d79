"""FewShotMethod: the contract between a method and the engine, and the values that they exchange.

One import line serves most method files:

    from fsar_bench.method import METHODS, Backbone, EpisodeBatch, FewShotMethod, Scores, Traits, VideoFeatures

Tensor legend used everywhere: E episodes in a batch, N ways, K shots, Q queries of one episode, V videos, T frames,
P patch tokens, D visual width, C joint image-text embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import EllipsisType
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.backbones.recompute import Recompute
from fsar_bench.config.cell import Traits
from fsar_bench.errors import ConfigError, TrainingError
from fsar_bench.layers import query_cross_entropy
from fsar_bench.registry import METHODS

__all__ = [
    "METHODS",
    "Backbone",
    "ConfigError",
    "EpisodeBatch",
    "FewShotMethod",
    "Scores",
    "Traits",
    "Tuned",
    "VideoFeatures",
    "check_choice",
    "check_share",
]

Tuned = Literal["none", "visual"]  # the trained part of the backbone: nothing, or the whole image tower
Index: TypeAlias = int | slice | Tensor | EllipsisType | tuple[int | slice | Tensor | EllipsisType | None, ...] | None


OF_MATCHER = "matcher."  # in front of what a matcher computes of each video alone


class VideoFeatures:
    """Named tensors that share their leading dimensions and are indexed, reshaped and moved together.

    `features.frames` returns the tensor of that name; `features[index]`, `features.view(n, k)` and `features.to(device)` apply
    to every tensor.

    Args:
        **tensors: the tensors by name; their first dimensions must agree.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors: Mapping[str, Tensor] = tensors

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> VideoFeatures:
        """Features of a mapping that is kept as it is: one that makes its tensors when they are read makes no others."""
        features = cls()
        features._tensors = tensors
        return features

    def __getattr__(self, name: str) -> Tensor:
        """Return the tensor of this name."""
        try:
            return self.__dict__["_tensors"][name]
        except KeyError:
            raise AttributeError(f"These features hold {', '.join(self._tensors)}, not {name!r}.") from None

    def __getitem__(self, index: Index) -> VideoFeatures:
        """Index the leading dimensions of every tensor."""
        return self._map(lambda tensor: tensor[index])

    def __len__(self) -> int:
        """Size of the first dimension."""
        return len(next(iter(self._tensors.values())))

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._tensors

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._tensors)

    def leading(self, dims: int) -> tuple[int, ...]:
        """Return the sizes of the first `dims` dimensions, which all tensors share."""
        return tuple(next(iter(self._tensors.values())).shape[:dims])

    def items(self) -> ItemsView[str, Tensor]:
        """Return the (name, tensor) pairs."""
        return self._tensors.items()

    def _map(self, function: Callable[[Tensor], Tensor]) -> VideoFeatures:
        return VideoFeatures(**{name: function(tensor) for name, tensor in self._tensors.items()})

    def to(self, *args: Any, **kwargs: Any) -> VideoFeatures:
        """Move or convert every tensor; arguments as in `Tensor.to`."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def view(self, *leading: int) -> VideoFeatures:
        """Split the first dimension of every tensor into `leading` dimensions, one of which may be -1."""
        return self._map(lambda tensor: tensor.reshape(*leading, *tensor.shape[1:]))

    @staticmethod
    def cat(parts: Sequence[VideoFeatures]) -> VideoFeatures:
        """Concatenate features that hold the same names along their first dimension."""
        return VideoFeatures(**{name: torch.cat([p._tensors[name] for p in parts]) for name, _ in parts[0].items()})


class OfMatcher(Mapping[str, Tensor]):
    """What features hold of a matcher, by the matcher's own names; a tensor is read from them when it is asked for.

    Args:
        features: those that `FewShotMethod.index` returned, or others, of which there is nothing.
    """

    def __init__(self, features: VideoFeatures) -> None:
        self._features = features

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of this name."""
        if name not in self:
            raise KeyError(name)
        return cast("Tensor", getattr(self._features, OF_MATCHER + name))

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of this name."""
        return f"{OF_MATCHER}{name}" in self._features

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return (name.removeprefix(OF_MATCHER) for name in self._features.names() if name.startswith(OF_MATCHER))

    def __len__(self) -> int:
        """Count the tensors."""
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Scores:
    """Scores of queries; higher is better.

    Attributes:
        total: `[E, Q, N]`; the class with the highest total is predicted.
        parts: named components `[E, Q, N]` of the total, kept for explanations.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeBatch:
    """A batch of training episodes.

    Attributes:
        support: frames of the supports, uint8 `[E, N, K, T, 3, H, W]`.
        query: frames of the queries, uint8 `[E, Q, T, 3, H, W]`.
        labels: label of each query within its episode (0 to N - 1), int64 `[E, Q]`.
        classes: dataset-wide class number of each label, int64 `[E, N]`.
        class_text: text feature of each label, `[E, N, C]`; C is 0 without a text encoder.
    """

    support: Tensor
    query: Tensor
    labels: Tensor
    classes: Tensor
    class_text: Tensor

    def videos(self) -> Tensor:
        """Frames of all videos of the batch, supports first: uint8 `[E * N * K + E * Q, T, 3, H, W]`."""
        return torch.cat([self.support.flatten(0, 2), self.query.flatten(0, 1)])

    def video_classes(self) -> Tensor:
        """Dataset-wide class number of each of `videos`: int64 `[E * N * K + E * Q]`."""
        support = self.classes[:, :, None].expand(-1, -1, self.support.shape[2])
        return torch.cat([support.flatten(), self.classes.gather(1, self.labels).flatten()])

    def split(self, features: VideoFeatures) -> tuple[VideoFeatures, VideoFeatures]:
        """Split features of `videos` into supports `[E, N, K, ...]` and queries `[E, Q, ...]`."""
        E, N, K = self.support.shape[:3]
        return features[: E * N * K].view(E, N, K), features[E * N * K :].view(E, self.query.shape[1])


def check_choice(name: str, value: object, choices: object) -> None:
    """Check a constructor argument of a method that takes one of a few words.

    Args:
        name: name of the argument.
        value: its value.
        choices: its type, such as `Literal["before", "after"]`.

    Raises:
        ConfigError: the value is none of the choices; the message lists them.
    """
    known = get_args(choices)
    if value not in known:
        raise ConfigError(f"method.{name}={value!r} is unknown. Choose from: {', '.join(known)}.")


def check_share(name: str, value: object) -> None:
    """Check a constructor argument of a method that is a share or a weight between 0 and 1.

    Raises:
        ConfigError: the value is not a number from 0 to 1.
    """
    if not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ConfigError(f"method.{name}={value} must be a number from 0 to 1.")


class FewShotMethod(BaseModel):
    """Base class of all methods.

    The work is divided into a part per video (`embed` and `encode`: expensive, done once per video and role) and a part per
    episode (`score`: cheap, batched over episodes). A video takes the support role when its class text is given and the query
    role when the class text is None.

    Args:
        backbone: the image encoder; frozen until `tune` says otherwise.

    Attributes:
        traits: declared properties; set on the class or in the constructor.
        reads: input of `encode` that the default `embed` takes from the backbone: "frames" (features `[V, T, C]`), "maps"
            (feature maps `[V, T, D, h, w]`) or "pyramid" (maps of four depths `level0` to `level3`, `[V, T, D_i, h_i, w_i]`).
        role_free: `embed` and `encode` ignore role and class text, so one feature bank serves both roles.
        score_only: names of constructor arguments that change `score` alone; cells that differ only in these share one training.
        shots_average: duplicating a shot leaves the scores unchanged; False where shots are summed.
        matcher: what compares videos, if it is a `Matcher`.
        matched: name of the encoded tensor `[V, T, C]` that `matched_distance` gives to `matcher`.
        fits: `fit` selects weights of the score on val.
        loss_scale: factor of an episode's loss before its gradient; the training sets it.
        recompute: how a training step keeps its activations small; the training sets it (`fit=`).
        reads_train_bank: the score needs statistics of the train split, which `learn_from_bank` is given; for methods that are
            not trained.
    """

    traits: Traits
    matcher: Any
    reads: Literal["frames", "maps", "pyramid"] = "frames"
    role_free: bool = False
    score_only: tuple[str, ...] = ()
    shots_average: bool = True
    matched: str = ""
    fits: bool = False
    loss_scale: float = 1.0
    recompute = Recompute()
    reads_train_bank: bool = False

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.requires_grad_(False)

    def init_weights(self) -> None:
        """Do nothing: a method is initialised by its constructor, and MMEngine's Runner calls this before training."""

    def tune(self, part: Tuned) -> None:
        """Choose the part of the backbone that is trained.

        Args:
            part: "none" or "visual" (the whole image tower, as far as `reads` needs it).

        Raises:
            ConfigError: any other word.
        """
        check_choice("tune", part, Tuned)
        if part == "visual":
            self.backbone.tune_visual(maps=self.reads != "frames")

    def prepare(self, class_text: Tensor) -> None:
        """Receive the text features of all training classes; called once before training. The default needs none.

        Args:
            class_text: `[classes, C]`. Without a text encoder C is 0, and the first dimension still counts the classes.
        """

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the backbone on videos.

        The default runs the plain image encoder and returns `frames`, `maps` or `level0` to `level3`, as `reads` says.

        Args:
            frames: uint8 `[V, T, 3, H, W]`.
            class_text: text feature of each video's class `[V, C]` in the support role, None in the query role.

        Returns:
            Features with leading dimension V.
        """
        if self.reads == "maps":
            return VideoFeatures(maps=self.backbone.encode_maps(frames))
        if self.reads == "pyramid":
            levels = self.backbone.encode_pyramid(frames)
            return VideoFeatures(**{f"level{number}": level for number, level in enumerate(levels)})
        return VideoFeatures(frames=self.backbone.encode_frames(frames))

    @property
    def embeds_plainly(self) -> bool:
        """Whether `embed` is the plain backbone."""
        return type(self).embed is FewShotMethod.embed

    @property
    def role_blind_embedding(self) -> bool:
        """Whether `embed` ignores the class text, so that one pass serves both roles; the plain backbone does."""
        return self.embeds_plainly

    @property
    def shares_embedding(self) -> bool:
        """Whether `embed` is the plain frozen backbone, so that its features can be cached for all methods.

        Feature maps are too large to cache; they are consumed by `encode` and dropped.
        """
        frozen = not any(p.requires_grad for p in self.backbone.parameters())
        return self.embeds_plainly and self.reads == "frames" and frozen

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Apply the method's own layers to each video; the default returns the features unchanged.

        Args:
            features: output of `embed`, leading dimension V.
            class_text: as in `embed`.

        Returns:
            Features with leading dimension V.
        """
        return features

    def index(self, features: VideoFeatures) -> VideoFeatures:
        """Add to encoded videos what `score` needs of each of them alone, before many episodes are scored.

        It is kept in memory alone, and only where episodes are scored from a bank: training, where `score` is given what
        `encode` returns, does without. The default adds what `matcher` computes of the tensor that `matched` names.

        Args:
            features: output of `encode`, leading dimension V.

        Returns:
            The features and what was added, leading dimension V.
        """
        is_matched = self.matched in features and not self.is_set_wise  # `encode_set` would change what is indexed
        index = self.matcher.index(getattr(features, self.matched)) if is_matched else {}
        return VideoFeatures(**dict(features.items()), **{OF_MATCHER + name: tensor for name, tensor in index.items()})

    def matched_distance(self, query: VideoFeatures, support: VideoFeatures, *, mean_of_shots: bool = False) -> Tensor:
        """Compare by `matcher` the tensors `[..., T, C]` that `matched` names, or what `index` added to them.

        Args:
            query: `[E, Q, ...]`.
            support: `[E, N, K, ...]`.
            mean_of_shots: a class is the mean of its shots.

        Returns:
            Distances `[E, Q, N]`.
        """
        ours, theirs = OfMatcher(query), OfMatcher(support)
        if ours and theirs and not (mean_of_shots and support.leading(3)[2] > 1):
            return self.matcher.indexed_distance(ours, theirs)
        frames: Tensor = getattr(support, self.matched)
        return self.matcher(getattr(query, self.matched), frames.mean(2, keepdim=True) if mean_of_shots else frames)

    def learn_from_bank(self, features: VideoFeatures, classes: Tensor) -> None:
        """Receive every clip of the train split, encoded in the query role; called once before scoring if `reads_train_bank`.

        What is learned here is a fixed statistic of the train split, such as its mean: val and test never reach it.

        Args:
            features: output of `encode`, leading dimension V, the clips in the order of the split. Where they are larger than
                `bank_budget=`, they are in a mapped file: a copy of all of them needs the memory that they do not take.
            classes: class number of each clip among the training classes, int64 `[V]`.
        """
        raise NotImplementedError

    def encode_set(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Encode the videos of a set together, between `encode` and `score`; the default returns them unchanged.

        For layers inside which videos see each other. A method that defines it is set-wise: `encode` is still done once per
        video, this once per episode and role, which costs far more and makes the queries of an episode depend on each other
        unless the method keeps them apart. The label of a query never reaches it.

        Args:
            features: output of `encode`: the supports of each episode `[E, N * K, ...]`, class by class, or its queries
                `[E, Q, ...]`.
            class_text: the texts of the episode's classes `[E, N, C]` for supports, None for queries.

        Returns:
            Features with the same two leading dimensions.
        """
        return features

    @property
    def is_set_wise(self) -> bool:
        """Whether `encode_set` does anything."""
        return type(self).encode_set is not FewShotMethod.encode_set

    def score_episodes(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Score encoded supports `[E, N, K, ...]` and queries `[E, Q, ...]`: `encode_set`, where it is defined, then `score`."""
        if self.is_set_wise:
            N, K = support.leading(3)[1:]
            together = VideoFeatures(**{name: tensor.flatten(1, 2) for name, tensor in support.items()})
            encoded = self.encode_set(together, class_text)
            support = VideoFeatures(**{name: tensor.unflatten(1, (N, K)) for name, tensor in encoded.items()})
            query = self.encode_set(query, None)
        return self.score(support, query, class_text)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Score every query against every class of its episode.

        Args:
            support: features `[E, N, K, ...]`.
            query: features `[E, Q, ...]`.
            class_text: `[E, N, C]`.

        Returns:
            Scores whose total is `[E, Q, N]`.
        """
        raise NotImplementedError

    @classmethod
    def from_official(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert the tensors of an official checkpoint to this method's trained state.

        Args:
            state: the tensors by their names in the official checkpoint.

        Returns:
            The tensors by our names, as `checkpoint.trainable_state` gives them.

        Raises:
            ConfigError: no official code is known, or the tensors are not those that it writes.
        """
        raise ConfigError(f"{cls.__name__} has no official checkpoints to convert.")

    def fit(self, accuracy: Callable[[], float]) -> dict[str, float | str]:
        """Select weights of the score on val; called once, after training, if `fits` is True.

        Args:
            accuracy: scores the val episodes with the method in its present state and returns the accuracy in percent.

        Returns:
            The selected values by name, for the record. The method must be left with these values.
        """
        raise NotImplementedError

    def choose(self, accuracy: Callable[[], float], **grids: Sequence[float]) -> dict[str, float | str]:
        """Set attributes to the point of a grid with the highest accuracy; of equal points the first one. For use in `fit`.

        Args:
            accuracy: as in `fit`.
            **grids: candidate values by attribute name; the last attribute varies fastest.

        Returns:
            The selected values by attribute name.
        """

        def accuracy_at(point: dict[str, float | str]) -> float:
            for name, value in point.items():
                setattr(self, name, value)
            return accuracy()

        points: list[dict[str, float | str]] = [
            dict(zip(grids, values, strict=True)) for values in product(*grids.values())
        ]
        best = max(points, key=accuracy_at)
        for name, value in best.items():
            setattr(self, name, value)
        return best

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Compute the losses of training episodes; the default is the cross-entropy of the total scores.

        Returns:
            Scalars by name. Training minimises the sum of those whose name contains "loss"; the rest are only logged.
        """
        support, query = self.episode_features(episodes)
        total = self.score_episodes(support, query, episodes.class_text).total
        return {"loss": query_cross_entropy(total, episodes.labels)}

    def episode_features(self, episodes: EpisodeBatch) -> tuple[VideoFeatures, VideoFeatures]:
        """Encode the supports `[E, N, K, ...]` and queries `[E, Q, ...]` of training episodes, as evaluation does."""
        E, N, K = episodes.support.shape[:3]
        Q = episodes.query.shape[1]
        text = episodes.class_text[:, :, None].expand(-1, -1, K, -1).reshape(E * N * K, -1)
        if self.role_blind_embedding:
            both = self.embed_videos(episodes)
            support, query = both[: E * N * K], both[E * N * K :]
        else:
            support = self.embed(episodes.support.flatten(0, 2), text)
            query = self.embed(episodes.query.flatten(0, 1), None)
        return self.encode(support, text).view(E, N, K), self.encode(query, None).view(E, Q)

    def embed_videos(self, episodes: EpisodeBatch) -> VideoFeatures:
        """Run the plain backbone on `episodes.videos()`; where batch norm is trained, on supports and queries apart.

        Batches of supports and of queries are what official code gives to batch norm.
        """
        if not (self.training and self.backbone.train_batch_norm):
            return self.embed(episodes.videos(), None)
        support = self.embed(episodes.support.flatten(0, 2), None)
        query = self.embed(episodes.query.flatten(0, 1), None)
        return VideoFeatures(**{name: torch.cat([tensor, getattr(query, name)]) for name, tensor in support.items()})

    def forward(self, episodes: EpisodeBatch, mode: str = "loss") -> dict[str, Tensor]:
        """Return the losses: MMEngine's entry point, for training only.

        Raises:
            ConfigError: any mode but "loss".
        """
        if mode != "loss":
            raise ConfigError(f"A few-shot method runs in mode='loss', not {mode!r}: scoring goes through `score`.")
        return self.loss(episodes)

    def train_step(self, data: EpisodeBatch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Run one forward and backward pass and, at the end of an accumulation, one update.

        Returns:
            The losses by name, for the log.

        Raises:
            TrainingError: the loss is not finite; the parameters are left as they are.
        """
        with self.recompute.inside(self):
            return self._step(data, optim_wrapper)

    def _step(self, data: EpisodeBatch, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        with optim_wrapper.optim_context(self):
            losses = self(data)
        total, log = self.parse_losses(losses)
        if not torch.isfinite(total):
            raise TrainingError(
                f"The loss is {total.item()} ({', '.join(f'{k} {v.item():.4g}' for k, v in log.items())}). The last checkpoint "
                "is kept. Lower train.optimizer.lr, or check the frames of this episode."
            )
        optim_wrapper.update_params(total * self.loss_scale)
        return log

    def val_step(self, data: object) -> list:
        """Refuse: validation runs whole episodes through the episodic loop.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("Validation goes through the episodic loop, not through val_step.")

    def parameter_counts(self) -> dict[str, int]:
        """Count the parameters, the backbone with its text encoder included.

        Returns:
            "trainable" and "total".
        """
        parameters = list(self.parameters())
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        return {"trainable": trainable, "total": sum(p.numel() for p in parameters)}
