"""ARN (ECCV 2020, arXiv 2001.03905): spatial attention, second-order pooling, and a CNN that relates two matrices.

Followed: the head of the official code (HongguangZhang/arn-eccv20-master, GPL-3), from its formulas and sizes alone; numbers of
its modules agree. Maps of 64 channels are weighted with 1 + a, where a comes from two 3-D convolutions that shrink time
and a sigmoid. X, 64 channels at n places in space and time, becomes R = X X^T / n, which is divided by its trace and goes
through 2 sigmoid(100 R) - 1. Shots are averaged. The CNN reads a class and a query as a picture of 64 x 64 with two channels; a
sigmoid gives their relation. Loss: squared error to the one-hot label.
Differs: a 1 x 1 convolution maps the backbone's maps to 64 channels, in the place of a 3-D CNN over 20 frames of 128 pixels;
time that is left after the two poolings (from 8 frames on) is reduced by its maximum. Batch norm has a momentum of 0.1; the
official 1 keeps nothing but the last episode. In training its statistics are those of the supports, the queries and all pairs
of an episode, as there; evaluation uses running statistics, so that no query sees another. No temporal attention,
jigsaw or rotation losses. Training: AdamW 1e-3 with warm-up and cosine, there Adam 1e-3, halved every 50,000 episodes.
Unknown: the weights of the self-supervised losses and how they are scheduled; training code is not public.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

WIDTH = 64  # channels of the maps; the CNN halves 64 x 64 four times
SHARPNESS = 100.0  # of the power normalisation
CHUNK = 256  # pairs that the CNN relates at a time in eval mode
FEWEST_FRAMES = 4  # two poolings over time


def second_order(maps: Tensor) -> Tensor:
    """Power-normalised second-order statistics of maps.

    Args:
        maps: X, `[V, c, T, h, w]`.

    Returns:
        2 sigmoid(100 R / trace R) - 1 with R = X X^T / n, `[V, c, c]`.
    """
    places = maps.flatten(2)
    R = places @ places.transpose(1, 2) / places.shape[-1]
    trace = R.diagonal(dim1=1, dim2=2).sum(-1).clamp_min(torch.finfo(R.dtype).tiny)
    return 2 * torch.sigmoid(SHARPNESS * R / trace[:, None, None]) - 1


class SpatialAttention(nn.Module):
    """Attention over the places of a map, one for all its frames (34,673 parameters).

    Args:
        momentum: of batch norm.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.shrink = nn.Sequential(
            nn.Conv3d(WIDTH, 16, 3, padding=1), nn.BatchNorm3d(16, momentum=momentum), nn.ReLU(), nn.MaxPool3d((2, 1, 1)),
            nn.Conv3d(16, 16, 3, padding=1), nn.BatchNorm3d(16, momentum=momentum), nn.ReLU(), nn.MaxPool3d((2, 1, 1)),
        )  # fmt: skip
        self.out = nn.Conv3d(16, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the attention `[V, 1, 1, h, w]` of maps `[V, 64, T, h, w]`."""
        return torch.sigmoid(self.out(self.shrink(maps).amax(2, keepdim=True)))


class Relation(nn.Module):
    """CNN that relates two matrices (120,721 parameters).

    Args:
        momentum: of batch norm.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH, momentum=momentum), nn.ReLU())
            for c in (2, WIDTH, WIDTH, WIDTH)
        )
        self.head = nn.Sequential(nn.Linear(WIDTH * (WIDTH // 16) ** 2, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        """Compute the logits `[B]` of pairs `[B, 2, 64, 64]`, the class first."""
        x = F.max_pool2d(self.layers[0](pairs), 2)
        for layer in self.layers[1:]:
            x = F.max_pool2d(x + layer(x), 2)
        return self.head(x.flatten(1))[:, 0]


@METHODS.register_module()
class ARN(FewShotMethod):
    """Second-order pooling of attended maps and a learned relation of every query to every class.

    Args:
        backbone: image encoder with feature maps of any size.
        tune: trained part of the backbone, "visual" or "none".
        momentum: of all batch norms of the head; the official code has 1.
        frames: T; the protocol's frames, at least 4.

    Raises:
        ConfigError: an unknown word for `tune`, a momentum outside (0, 1], or fewer than 4 frames.
    """

    role_free = True
    reads = "maps"

    def __init__(self, backbone: Backbone, *, tune: Tuned = "visual", momentum: float = 0.1, frames: int = 8) -> None:
        super().__init__(backbone)
        if not 0 < momentum <= 1:
            raise ConfigError(f"method.momentum={momentum:g} must be above 0 and at most 1, such as 0.1.")
        if (steps := backbone.time_steps(frames)) < FEWEST_FRAMES:
            raise ConfigError(
                f"ARN pools time twice, so it needs feature maps at {FEWEST_FRAMES} times or more, but there are {steps}: raise "
                "frames=."
            )
        self.tune(tune)
        self.reduce = nn.Conv2d(backbone.map_width, WIDTH, 1)
        self.attention, self.relation = SpatialAttention(momentum), Relation(momentum)
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def pool(self, maps: Tensor) -> Tensor:
        """Attend to maps `[V, 64, T, h, w]` and pool them: `[V, 64, 64]`."""
        return second_order(maps * (1 + self.attention(maps)))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `matrix` `[V, 64, 64]`."""
        reduced = self.reduce(features.maps.flatten(0, 1)).unflatten(0, features.leading(2))  # [V, T, 64, h, w]
        return VideoFeatures(matrix=self.pool(reduced.transpose(1, 2)))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = logit of the relation of a query and the mean of a class's shots; part "relation" is its sigmoid."""
        (E, N), Q = support.leading(2), len(query.matrix[0])
        classes = support.matrix.mean(2)[:, None].expand(-1, Q, -1, -1, -1)
        queries = query.matrix[:, :, None].expand(-1, -1, N, -1, -1)
        pairs = torch.stack([classes, queries], 3).flatten(0, 2)
        # Batch norm in training needs all pairs at once; in eval mode they are independent.
        parts = (pairs,) if self.training else pairs.split(CHUNK)
        total = torch.cat([self.relation(part) for part in parts]).view(E, Q, N)
        return Scores(total, {"relation": total.sigmoid()})

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Mean squared error of the relations to one-hot labels."""
        relation = self.score(*self.episode_features(episodes), episodes.class_text).parts["relation"]
        return {"loss": F.mse_loss(relation, F.one_hot(episodes.labels, relation.shape[-1]).to(relation.dtype))}
