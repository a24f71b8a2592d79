"""STRM (CVPR 2022, arXiv 2112.05132): patch- and frame-level enrichment in front of TRX.

Followed: the official code (Anirudh257/strm): 16 patches by maximum pooling, unscaled dot-product attention with a gate
that starts at 0, three-layer bottleneck, token and channel layers over the frames, TRX with pairs, a second head on
patch-enriched frames (nearest tuple of a class, weight 0.1 in loss and prediction), positions scaled by 0.1.
Differs: `second_head="trained"` trains the second head's projection, as the paper describes. The official code keeps that
projection outside the model: never trained, not saved, its dropout left on at test; `second_head="fixed"` is that random
projection, saved and without dropout at test. The official code also flips Something-Something, whose classes have
directions; here `train.flip=on` does, and `recipe=official`. Losses are averaged over queries, there summed.
Unknown: nothing.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import FrameEnrichment, PatchEnrichment, query_cross_entropy
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
    check_choice,
)

GRID = 4  # patches per side of a frame
CHUNK = 2**25  # floats in the largest intermediate array
SecondHead = Literal["trained", "fixed"]


def nearest_tuple_distance(query: Tensor, support: Tensor) -> Tensor:
    """Mean Euclidean distance of a query's tuples, each to the nearest tuple of a class.

    Args:
        query: `[E, Q, M, W]`, M tuples of a query.
        support: `[E, N, L, W]`, L tuples of all shots of a class.

    Returns:
        `[E, Q, N]`.
    """
    Q, M = query.shape[1:3]
    N, L = support.shape[1:3]
    step = max(1, CHUNK // (Q * M * N * L))
    parts = [
        torch.cdist(q.flatten(1, 2), s.flatten(1, 2)).view(-1, Q, M, N, L).amin(-1).mean(2)
        for q, s in zip(query.split(step), support.split(step), strict=True)
    ]
    return torch.cat(parts)


class TupleProjection(nn.Module):
    """ReLU of a linear layer over pairs of frames.

    Args:
        width: D.
        trained: the layer is trained; if False it stays random, and its weights are buffers so that they are saved.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, *, trained: bool) -> None:
        super().__init__()
        layer = nn.Linear(2 * width, width // 2)
        self.drop = nn.Dropout(0.1)
        for name, tensor in (("weight", layer.weight.detach()), ("bias", layer.bias.detach())):
            if trained:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, frames: Tensor) -> Tensor:
        """Project frames `[..., T, D]` to pairs `[..., T (T - 1) / 2, D / 2]`.

        Raises:
            ConfigError: a video has fewer than 2 frames.
        """
        if frames.shape[-2] < 2:
            raise ConfigError("STRM needs at least 2 frames of a video, for pairs: raise frames=.")
        frames = self.drop(frames)
        pairs = torch.tensor(list(combinations(range(frames.shape[-2]), 2)), device=frames.device)
        first, second = (frames @ w.T for w in self.weight.chunk(2, 1))  # a layer over two frames is a sum
        return F.relu(first[..., pairs[:, 0], :] + second[..., pairs[:, 1], :] + self.bias)


@METHODS.register_module()
class STRM(FewShotMethod):
    """Spatio-temporal enrichment of feature maps, TRX over pairs, and a second head.

    Args:
        backbone: image encoder.
        matcher: config of the matcher.
        tune: trained part of the backbone, "visual" or "none".
        second_head: "trained" or "fixed" (see the module's docstring).
        second_weight: weight of the second head in loss and prediction.
        frames: T; the protocol's frames.

    Raises:
        ConfigError: an unknown word for `tune` or `second_head`.
    """

    role_free = True
    reads = "maps"
    matched = "frame"

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "visual",
        second_head: SecondHead = "trained",
        second_weight: float = 0.1,
        frames: int = 8,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        check_choice("second_head", second_head, SecondHead)
        D = backbone.map_width
        self.matcher, self.second_weight = build_matcher(matcher, D), second_weight
        self.patches, self.frames = PatchEnrichment(D), FrameEnrichment(D, backbone.time_steps(frames))
        self.projection = TupleProjection(D, trained=second_head == "trained")
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `patch` `[V, T, D]`, patch-enriched frames, and `frame` `[V, T, D]`, enriched over time as well."""
        V, T = features.maps.shape[:2]
        pooled = F.adaptive_max_pool2d(features.maps.flatten(0, 1), GRID).flatten(2).transpose(1, 2)  # [V * T, 16, D]
        patch = self.patches(pooled).mean(1).view(V, T, -1)
        return VideoFeatures(patch=patch, frame=self.frames(patch))

    def index(self, features: VideoFeatures) -> VideoFeatures:
        """Add `pairs` `[V, T (T - 1) / 2, D / 2]`, the second head's pairs of frames, to what the matcher needs."""
        return VideoFeatures(**dict(super().index(features).items()), pairs=self.projection(features.patch))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -(matcher's distance) - second_weight * (second head's distance); parts "frame" and "patch"."""
        frame = -self.matched_distance(query, support)
        pairs, theirs = (x.pairs if "pairs" in x else self.projection(x.patch) for x in (query, support))
        patch = -nearest_tuple_distance(pairs, theirs.flatten(2, 3))
        return Scores(frame + self.second_weight * patch, {"frame": frame, "patch": patch})

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of the matcher's scores plus second_weight times that of the second head."""
        parts = self.score(*self.episode_features(episodes), episodes.class_text).parts
        return {
            "loss_frame": query_cross_entropy(parts["frame"], episodes.labels),
            "loss_patch": self.second_weight * query_cross_entropy(parts["patch"], episodes.labels),
        }
