"""HyRSM (CVPR 2022, arXiv 2204.13423): relations within each video, then across the videos of a task, then Bi-MHM.

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

from fsar_bench.layers import PreNormAttention, SinusoidalPositions, query_cross_entropy
from fsar_bench.matching import build_matcher
from fsar_bench.method import (
    METHODS,
    Backbone,
    ConfigError,
    EpisodeBatch,
    FewShotMethod,
    Scores,
    Traits,
    Tuned,
    VideoFeatures,
)


class TaskAttention(nn.Module):
    """Multi-head self-attention over the videos of a task, with a skip connection and a LayerNorm after it.

    Args:
        width: C.
        heads: number of attention heads; must divide C.
        dropout: dropout of the output; that of the attention weights is fixed at 0.1.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.05) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"heads={heads} does not divide the embedding width {width}.")
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        for layer in (self.to_q, self.to_k, self.to_v):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (width + width // heads)))
        self.out, self.drop, self.norm = nn.Linear(width, width), nn.Dropout(dropout), nn.LayerNorm(width)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map the L videos of a task `[..., L, C]` to `[..., L, C]`."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3) for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        return self.norm(x + self.drop(self.out(attended.transpose(-2, -3).flatten(-2))))


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
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher, self.class_weight = build_matcher(matcher, C), class_weight
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

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -distance of a query to the prototypes that its task gives it."""
        E, Q, T, C = query.merged.shape
        N = support.merged.shape[1]
        classes = support.video.mean(2)[:, None].expand(-1, Q, -1, -1)
        task = torch.cat([classes, query.video[:, :, None]], 2)  # [E, Q, N + 1, C]
        place = F.linear(F.relu(self.across(task)), self.merge.weight[:, C:])
        prototypes = support.merged.mean(2)[:, None] + place[:, :, :N, None]  # [E, Q, N, T, C]
        queries = query.merged + place[:, :, N, None]
        distance = self.matcher(queries.reshape(E * Q, 1, T, C), prototypes.reshape(E * Q, N, 1, T, C))
        return Scores(-distance.view(E, Q, N))

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of the scores plus class_weight times the frame-level cross-entropy over training classes."""
        related = self.relate(self.embed_videos(episodes).frames)
        support, query = episodes.split(self._encode(related))
        total = self.score(support, query, episodes.class_text).total
        classes = episodes.video_classes()[:, None].expand(-1, related.shape[1])
        frame_loss = F.cross_entropy(self.classifier(related).flatten(0, 1), classes.flatten())
        return {
            "loss_metric": query_cross_entropy(total, episodes.labels),
            "loss_class": self.class_weight * frame_loss,
        }
