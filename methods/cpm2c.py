"""CLIP-CPM2C (arXiv 2312.01083): supports with their class text and queries with a learned token, for frames and for motion.

Followed: the official code (cofly2014/CPM-MC): motion as the difference of neighbouring frames after two convolutions over
time, one modulation block (that of CLIP-FSAR) for both streams, the class text or the learned token of the stream as first
position and, times 0.1, added to all others (supports get 0.1 of the token as well), shots averaged after the block, OTAM
(lambda 0.5) on both streams, video-text cross-entropy with a learned scale that starts at 1, and consistency between the
branches with text and with token.
Differs: no label leak. The released code adds 0.1 times the text of each query's true class to its frames, at test too, and
goes on with these frames into the matching; published accuracies made with it are not comparable. Here a query never sees a
text, except for the text branch of the consistency loss in training, which reaches no score (`consistency="released"` also
adds the text to the other side of that loss, as the code does). Evaluation on the suite's own episodes, selection on val.
Training: AdamW with warm-up and cosine instead of Adam with a constant rate; the gradient's norm is limited; weight 0.001 of
the consistency is that of one of 16 episodes per step there, hence 0.016.
Unknown: learning rates (1e-3 is the code's default; declared: 1e-5, as in the sister repositories), augmentation (declared:
random crop, flips where the dataset allows them).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import ModulationBlock, query_cross_entropy
from fsar_bench.matching import build_matcher, frame_distance
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

Consistency = Literal["clean", "released"]
EPSILON = 0.01  # added to the product of norms in every cosine of the official code


@METHODS.register_module()
class CPM2C(FewShotMethod):
    """Two streams, frames and motion, modulated with a class text (supports) or a learned token (queries).

    Args:
        backbone: CLIP.
        matcher: config of the matcher of both streams.
        tune: "visual" or "none" (the image tower is frozen).
        added: share of the text and of the token that is added to every position of a stream.
        motion_weight: factor of the motion's distance.
        global_weight: factor of the distance of all positions of a query to the first positions of the supports, summed over
            shots; the official code has it, with weight 0.
        class_weight: weight of the video-text loss.
        consistency_weight: weight of the consistency loss.
        consistency: what the token branch of a query holds in that loss: "clean", or the text of its class too, as "released".
        ffn_width: hidden width of the block's FFN.
        dropout: dropout of the block's attention.

    Raises:
        ConfigError: an unknown word for `tune` or `consistency`.
    """

    train_text: Tensor  # text features of all training classes `[classes, C]`, set by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "visual",
        added: float = 0.1,
        motion_weight: float = 1.0,
        global_weight: float = 0.0,
        class_weight: float = 0.5,
        consistency_weight: float = 0.016,
        consistency: Consistency = "clean",
        ffn_width: int = 2048,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(backbone)
        check_choice("consistency", consistency, Consistency)
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher, self.added = build_matcher(matcher, C), added
        self.motion_weight, self.global_weight = motion_weight, global_weight
        self.class_weight, self.consistency_weight = class_weight, consistency_weight
        self.consistency = consistency
        self.modulation = ModulationBlock(C, ffn_width=ffn_width, dropout=dropout)
        self.motion_convs = nn.Sequential(*(nn.Conv1d(C, C, 3, padding=1) for _ in range(2)))
        self.frames_token, self.motion_token = (nn.Parameter(torch.randn(1, 1, C)) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.shots_average = global_weight == 0
        self.traits = Traits(uses_class_names=True, trainable=True, transductive=False, order_sensitive=True)

    def prepare(self, class_text: Tensor) -> None:
        """Keep the text features `[classes, C]` of all training classes for the losses."""
        self.train_text = class_text

    def motion(self, frames: Tensor) -> Tensor:
        """Compute the motion `[V, T - 1, C]` between neighbouring frames `[V, T, C]`, the mean over both directions of time.

        Raises:
            ConfigError: there is one frame.
        """
        if frames.shape[1] < 2:
            raise ConfigError(f"Motion needs at least 2 frames per clip, not {frames.shape[1]}: set frames=2 or more.")
        moved = self.motion_convs(frames.transpose(1, 2)).transpose(1, 2)
        return (moved[:, 1:] - frames[:, :-1] + moved[:, :-1] - frames[:, 1:]) / 2

    def streams(self, frames: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, by name, the two streams of videos `[V, T, C]` and the learned token `[1, 1, C]` of each."""
        return {"frames": (frames, self.frames_token), "motion": (self.motion(frames), self.motion_token)}

    def modulate(self, x: Tensor, first: Tensor, *added: Tensor) -> Tensor:
        """Modulate a stream after its first position.

        Args:
            x: `[V, L, C]`.
            first: the first position, `[V, 1, C]` or `[1, 1, C]`.
            *added: vectors of that shape; their sum times `added` joins all other positions.

        Returns:
            `[V, 1 + L, C]`.
        """
        x = x + self.added * sum(added)
        return self.modulation(torch.cat([first.expand(len(x), -1, -1), x], 1))

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return modulated `frames` `[V, 1 + T, C]` and `motion` `[V, T, C]`, and the plain mean frame `video` `[V, C]`."""
        modulated = {}
        for name, (x, token) in self.streams(features.frames).items():
            if class_text is None:
                modulated[name] = self.modulate(x, token, token)
            else:
                modulated[name] = self.modulate(x, class_text[:, None], token, class_text[:, None])
        return VideoFeatures(**modulated, video=features.frames.mean(1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = part "local" plus the weighted part "global", both of them distances of frames and motion, with a minus."""
        aligned, pooled = [], []
        for s, q in ((support.frames, query.frames), (support.motion, query.motion)):
            aligned.append(self.matcher(q[:, :, 1:], s.mean(2)[:, :, None, 1:]))
            pooled.append(frame_distance(q, s[:, :, :, :1], epsilon=EPSILON).sum((-3, -2, -1)))
        local, whole = (-frames - self.motion_weight * motion for frames, motion in (aligned, pooled))
        return Scores(local + self.global_weight * whole, {"local": local, "global": whole})

    def class_logits(self, video: Tensor, class_text: Tensor) -> Tensor:
        """Compute scale * cosine of videos `[V, C]` and texts `[N, C]`: `[V, N]`."""
        distance = frame_distance(video[None, :, None], class_text[None, :, None, None], epsilon=EPSILON)
        return self.scale * (1 - distance.flatten(2)[0])

    def consistency_distance(self, support: Tensor, query: Tensor, support_text: Tensor, query_text: Tensor) -> Tensor:
        """Squared distance of the branches with token and with text, averaged over videos, summed over roles and streams.

        Args:
            support: frames `[V, T, C]` of supports.
            query: frames of queries.
            support_text: text of each support's class `[V, C]`.
            query_text: text of each query's class.

        Returns:
            A scalar.
        """
        support_text, query_text = support_text[:, None], query_text[:, None]
        known = [query_text] if self.consistency == "released" else []
        queries, total = self.streams(query), support.new_zeros(())
        for name, (s, token) in self.streams(support).items():
            q, weight = queries[name][0], self.motion_weight if name == "motion" else 1.0
            by_text = self.modulate(s, support_text, token, support_text), self.modulate(q, query_text, query_text)
            by_token = self.modulate(s, token, token), self.modulate(q, token, token, *known)
            for a, b in zip(by_text, by_token, strict=True):
                total = total + weight * (a - b).square().sum((1, 2)).mean()
        return total

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Cross-entropies of the score and of videos and texts of training classes, and consistency of the two branches."""
        frames, classes = self.embed_videos(episodes).frames, episodes.video_classes()
        E, N, K = episodes.support.shape[:3]
        supports = E * N * K
        text = self.train_text[classes]
        support = self.encode(VideoFeatures(frames=frames[:supports]), text[:supports])
        query = self.encode(VideoFeatures(frames=frames[supports:]), None)
        total = self.score(support.view(E, N, K), query.view(E, -1), episodes.class_text).total
        logits = self.class_logits(frames.mean(1), self.train_text)
        apart = self.consistency_distance(frames[:supports], frames[supports:], text[:supports], text[supports:])
        return {
            "loss_metric": query_cross_entropy(total, episodes.labels),
            "loss_class": self.class_weight * F.cross_entropy(logits, classes),
            "loss_consistency": self.consistency_weight * apart,
        }
