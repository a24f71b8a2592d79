"""HyRSM (CVPR 2022, arXiv 2204.13423): relations within each video, then across the videos of a task, then Bi-MHM.

HyRSM++ (arXiv 2301.03330) is the same network with one more training loss, `temporal_weight`; its card is in its config.

Followed: the official code (alibaba-mmai-research/HyRSM): scaling and positions of the frames (frequencies fall twice as fast
as usual), attention with one LayerNorm before it within a video, attention with a LayerNorm after it over class means and
one query, Bi-MHM as sums over normalised frames, frame-level classification of training classes. The code has one class for
1 shot and one for 5 shots; here they are one, as both compute the same once a class is the mean of its shots.
Differs: nothing but the recipe of the suite. The official code also flips the queries of Something-Something and
EPIC-Kitchens, whose classes have directions; here `train.flip=on` does, and `recipe=official`.
Unknown: nothing; the class weight is per dataset (0.6 SSv2-Full, 0.4 Kinetics, 0.15 others), as are A and B (Kinetics
2048, 0.01).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import PreNormAttention, SinusoidalPositions, TaskAttention, query_cross_entropy
from fsar_bench.matching import PairMatcher, build_matcher, moved_frame_distance
from fsar_bench.method import (
    METHODS,
    Backbone,
    EpisodeBatch,
    FewShotMethod,
    Scores,
    Traits,
    Tuned,
    VideoFeatures,
)


def coherence_target(frames: int, window: int, balance: float, *, like: Tensor) -> Tensor:
    """Return the targets `[T, T]` of HyRSM++ for frames i and j: near ones are drawn together, far ones kept apart.

    1 / ((i - j)^2 + 1) up to `window` frames apart, beyond it 1 - exp(-(|i - j| - window)^2 / balance).
    """
    index = torch.arange(frames, device=like.device, dtype=like.dtype)
    apart = (index[:, None] - index).abs()
    return torch.where(apart <= window, 1 / (apart**2 + 1), 1 - torch.exp(-((apart - window) ** 2) / balance))


def coherence_loss(frames: Tensor, window: int, balance: float, far_weight: float) -> Tensor:
    """Compute the temporal coherence loss of HyRSM++ on frames `[..., T, C]`: near ones are drawn together, far ones kept apart.

    With D the cosine distance of two frames of a video and W the target: near W D + far_weight far relu(W - D), averaged over
    videos and over all T^2 pairs, those at most `window` frames apart being near. A scalar that is not negative.
    """
    unit = F.normalize(frames, dim=-1)
    distance = 1 - unit @ unit.transpose(-1, -2)
    target = coherence_target(frames.shape[-2], window, balance, like=frames)
    is_near = torch.ones_like(target).tril(window).triu(-window).bool()
    return torch.where(is_near, target * distance, far_weight * F.relu(target - distance)).mean()


def mean_of_shots(x: Tensor) -> Tensor:
    """Average `[E, N, K, ...]` over K; a single shot is not copied."""
    return x[:, :, 0] if x.shape[2] == 1 else x.mean(2)


@METHODS.register_module()
class HyRSM(FewShotMethod):
    """Hybrid relation module over frame features, and a matcher; every query gets its own prototypes.

    Args:
        backbone: image encoder.
        matcher: config of the matcher.
        tune: trained part of the backbone, "visual" or "none".
        class_weight: weight of the frame-level classification of training classes.
        heads: number of attention heads.
        input_scale: A; frames are multiplied by sqrt(C / A).
        position_scale: B, factor of the positions.
        temporal_weight: weight of HyRSM++'s temporal coherence loss; 0 is HyRSM.
        temporal_window: w, largest distance in time of frames that the loss draws together.
        temporal_balance: v, how slowly the distance that the loss demands of other frames grows.
        temporal_far_weight: g, factor of the pairs beyond the window.

    Raises:
        ConfigError: an unknown word for `tune`, or `heads` that do not divide the embedding width.
    """

    role_free = True
    classifier: nn.Linear  # of the training classes, made by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "visual",
        class_weight: float = 0.15,
        heads: int = 8,
        input_scale: float = 10.0,
        position_scale: float = 1.0,
        temporal_weight: float = 0.0,
        temporal_window: int = 1,
        temporal_balance: float = 51.0,
        temporal_far_weight: float = 10.0,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher, self.class_weight = build_matcher(matcher, C), class_weight
        self.temporal_weight = temporal_weight
        self.temporal = (temporal_window, temporal_balance, temporal_far_weight)
        self.factor = math.sqrt(C / input_scale)
        self.positions = SinusoidalPositions(
            C, scale=position_scale, dropout=0.1, frequency_power=2, pair_frequency=False
        )
        self.within, self.across = PreNormAttention(C, heads=heads), TaskAttention(C, heads=heads)
        self.merge = nn.Linear(2 * C, C)  # of a frame and of its video's place in the task
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def prepare(self, class_text: Tensor) -> None:
        """Make the classifier of the training classes."""
        self.classifier = nn.Linear(self.merge.out_features, len(class_text))

    def relate(self, frames: Tensor) -> Tensor:
        """Relate the frames of each video to each other: `[V, T, C]` to `[V, T, C]`."""
        return F.relu(self.within(self.positions(self.factor * frames)))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `merged` `[V, T, C]`, the frames' part of the merging layer, and `video` `[V, C]`, the mean related frame."""
        return self._encode(self.relate(features.frames))

    def _encode(self, related: Tensor) -> VideoFeatures:
        weight = self.merge.weight[:, : related.shape[-1]]
        return VideoFeatures(merged=F.linear(related, weight, self.merge.bias), video=related.mean(1))

    def place_in_task(self, support: VideoFeatures, query: VideoFeatures) -> tuple[Tensor, Tensor]:
        """Return the queries `[E, Q, T, C]` and the prototypes of each `[E, Q, N, T, C]`, with their places in its task."""
        Q, N = query.video.shape[1], support.video.shape[1]
        classes = support.video.mean(2)[:, None].expand(-1, Q, -1, -1)
        task = torch.cat([classes, query.video[:, :, None]], 2)  # [E, Q, N + 1, C]
        place = F.linear(F.relu(self.across(task)), self.merge.weight[:, task.shape[-1] :])
        prototypes = support.merged.mean(2)[:, None] + place[:, :, :N, None]
        return query.merged + place[:, :, N, None], prototypes

    def index(self, features: VideoFeatures) -> VideoFeatures:
        """Give `merged`, `task` and `outputs`, a video's part in the attention across a task, to a matcher of frame distances."""
        if not isinstance(self.matcher, PairMatcher):
            return features
        task, outputs = self.across.index(features.video)
        return VideoFeatures(merged=features.merged, task=task, outputs=outputs)

    def _indexed(self, support: VideoFeatures, query: VideoFeatures, matcher: PairMatcher) -> Scores:
        """The same scores, to rounding, from what `index` gave; no prototype is made."""
        merged, task, outputs = map(mean_of_shots, (support.merged, support.task, support.outputs))
        place = F.relu(self.across.of_tasks(task, outputs, query.task, query.outputs))
        moves = F.linear(place, self.merge.weight[:, place.shape[-1] :])
        distance = moved_frame_distance(
            query.merged, merged, moves[:, :, -1], moves[:, :, :-1], epsilon=matcher.epsilon
        )
        return Scores(-matcher.cost(distance))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -distance of a query to the prototypes that its task gives it."""
        if isinstance(self.matcher, PairMatcher) and "task" in query:
            return self._indexed(support, query, self.matcher)
        return self._compare(*self.place_in_task(support, query))

    def _compare(self, queries: Tensor, prototypes: Tensor) -> Scores:
        distance = self.matcher(queries.flatten(0, 1)[:, None], prototypes.flatten(0, 1)[:, :, None])
        return Scores(-distance.view(prototypes.shape[:3]))

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of the scores, the frame-level one over training classes, and temporal coherence if it has a weight."""
        related = self.relate(self.embed_videos(episodes).frames)
        queries, prototypes = self.place_in_task(*episodes.split(self._encode(related)))
        total = self._compare(queries, prototypes).total
        classes = episodes.video_classes()[:, None].expand(-1, related.shape[1])
        frame_loss = F.cross_entropy(self.classifier(related).flatten(0, 1), classes.flatten())
        losses = {
            "loss_metric": query_cross_entropy(total, episodes.labels),
            "loss_class": self.class_weight * frame_loss,
        }
        if self.temporal_weight:
            coherence = coherence_loss(prototypes, *self.temporal) + coherence_loss(queries, *self.temporal)
            losses["loss_temporal"] = self.temporal_weight * coherence
        return losses
