"""TEAM (CVPR 2025, arXiv 2504.05956): learned pattern tokens summarise a video, for and against each class.

Followed: the official code (leesb7426/TEAM): shots averaged frame by frame first, positions scaled by 0.1, one LayerNorm for
pattern tokens and frames, one attention head without projections at temperature sqrt(C / 8) (the code stores 8 heads and uses
none), instance tokens P + o and exclusive tokens P - o through one residual MLP, supports sharpened against every other class of
the episode, the farthest other class as the negative distance, cross-entropies of both distances, number of tokens per dataset.
The released variants TEAM_pos (`sharpen=False, negative=False`) and TEAM_pos_neg (`sharpen=False`) are settings.
Differs: evaluation on the suite's own episodes, selection on val (the official code looks at test). Training: AdamW with warm-up
and cosine instead of SGD with Nesterov momentum (learning rate 1e-4 for ViT, 1e-3 for ResNet-50) and steps to 0.5, 0.1 and 0.01;
the gradient's norm is limited; 20,000 episodes (there 10,000), 16 per step (4 for ViT), 5 queries per class (there 6).
Unknown: augmentation of the training clips (declared: random crop, flips where the dataset allows them).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import SinusoidalPositions, query_cross_entropy
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


@METHODS.register_module()
class TEAM(FewShotMethod):
    """Videos become sets of M tokens, compared token by token.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none".
        num_tokens: M, pattern tokens.
        sharpen: push the tokens of each class away from those of the other classes of the episode.
        negative: add the distance to the farthest other class; without it the exclusive tokens serve for nothing.
        position_scale: factor of the positions of frames.
        temperature_heads: h of the temperature sqrt(C / h) of the attention.
        dropout: of positions, attention and attended tokens.

    Raises:
        ConfigError: an unknown word for `tune`.
    """

    role_free = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        num_tokens: int = 60,
        sharpen: bool = True,
        negative: bool = True,
        position_scale: float = 0.1,
        temperature_heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(backbone)
        self.tune(tune)
        C = backbone.embedding_width
        self.sharpen, self.negative = sharpen, negative
        self.temperature = math.sqrt(C / temperature_heads)
        self.positions = SinusoidalPositions(C, scale=position_scale, dropout=dropout)
        self.patterns = nn.Parameter(torch.randn(num_tokens, C))
        self.norm, self.drop = nn.LayerNorm(C), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C))
        self.traits = Traits(
            uses_class_names=False, trainable=True, transductive=False, order_sensitive=position_scale > 0
        )

    def attend(self, frames: Tensor) -> Tensor:
        """Let the pattern tokens attend to frames `[..., T, C]`: o `[..., M, C]`."""
        keys = self.norm(self.positions(frames))
        weights = (self.norm(self.patterns) @ keys.transpose(-1, -2) / self.temperature).softmax(-1)
        return self.drop(self.drop(weights) @ keys)

    def tokens(self, moved: Tensor) -> Tensor:
        """Finish tokens from the pattern tokens moved by what they attended to: `[..., M, C]` to `[..., M, C]`."""
        return F.relu(moved + self.mlp(moved))

    def both_tokens(self, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the instance and the exclusive tokens of o `[..., M, C]`."""
        return self.tokens(self.patterns + attended), self.tokens(self.patterns - attended)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `frames` `[V, T, C]`, which supports need, and `instance` and `exclusive` tokens `[V, M, C]` for queries."""
        instance, exclusive = self.both_tokens(self.attend(features.frames))
        return VideoFeatures(frames=features.frames, instance=instance, exclusive=exclusive)

    def class_tokens(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the instance and exclusive tokens of the classes of an episode from their mean frames.

        Args:
            frames: `[E, N, T, C]`.

        Returns:
            Two tensors `[E, N, M, C]`.
        """
        attended = self.attend(frames)
        instance, exclusive = self.both_tokens(attended)
        if not self.sharpen:
            return instance, exclusive
        others = other_classes(frames)
        difference = attended[:, others] - attended[:, :, None]  # [E, N, N - 1, M, C]
        nearer = attended[:, :, None] - _similarity(instance, others) * difference
        farther = attended[:, :, None] - _similarity(exclusive, others) * difference
        return self.tokens(self.patterns + nearer).mean(2), self.tokens(self.patterns - farther).mean(2)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -(d_pos + d_neg); parts "positive" and "negative" are the two terms, with their signs."""
        frames = support.frames.mean(2)
        instance, exclusive = self.class_tokens(frames)
        positive = -token_distance(query.instance, instance)
        if not self.negative:
            return Scores(positive, {"positive": positive})
        others = other_classes(frames)
        crossed = (token_distance(query.exclusive, instance), token_distance(query.instance, exclusive))
        negative = -torch.stack([distance[..., others].amax(-1) for distance in crossed]).mean(0)
        return Scores(positive + negative, {"positive": positive, "negative": negative})

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropy of each part of the score."""
        parts = self.score(*self.episode_features(episodes), episodes.class_text).parts
        return {f"loss_{name}": query_cross_entropy(logits, episodes.labels) for name, logits in parts.items()}


def other_classes(frames: Tensor) -> Tensor:
    """Return the labels of the other classes of each class, `[N, N - 1]`, of frames `[E, N, ...]`."""
    N = frames.shape[1]
    label = torch.arange(N, device=frames.device)
    return (label[:, None] + label[1:]) % N


def _similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """Cosine of each token `[E, N, M, C]` of a class and of its other classes: `[E, N, N - 1, M, 1]`."""
    return F.cosine_similarity(tokens[:, :, None], tokens[:, others], dim=-1)[..., None]


def token_distance(query: Tensor, classes: Tensor) -> Tensor:
    """Sum of the cosine distances of equal tokens of queries `[E, Q, M, C]` and classes `[E, N, M, C]`: `[E, Q, N]`."""
    flat = [F.normalize(tokens, dim=-1).flatten(2) for tokens in (query, classes)]
    return query.shape[2] - flat[0] @ flat[1].transpose(1, 2)
