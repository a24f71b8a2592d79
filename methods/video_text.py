"""Fine-tuning of CLIP on videos with the video-text loss, then a few-shot test by frames, by class names or by both.

The cards of its two forms are their configs: `vifi_clip` (mean of frames, cross-entropy) and `actionclip` (a temporal
transformer, KL divergence both ways).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import NotApplicableError
from fsar_bench.layers import TransformerBlock, cosine_logits, soft_divergence
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
    check_share,
)

Mode = Literal["visual", "text", "product"]
MEAN_FRAME = {"type": "CosinePrototype", "temperature": 100.0}


@METHODS.register_module()
class VideoText(FewShotMethod):
    """The image tower is trained to bring videos near the texts of their classes; no episode is needed for its loss.

    Args:
        backbone: CLIP; its texts are fixed features, so that the image tower alone is trained.
        matcher: config of the matcher of the visual score; one without parameters, because the loss does not train it.
        mode: "visual" (score -D), "text" (scaled cosine of video and class text) or "product" (of both probabilities).
        text_weight: g of the product p_text^g p_visual^(1-g), from 0 to 1.
        tune: "visual" or "none" (the temporal transformer alone is trained).
        temperature: factor of the cosines; None takes the backbone's learned scale (CLIP: 100).
        normalise_frames: scale frames to unit length before their mean.
        temporal_layers: blocks of a transformer over time, which is added to the frames; 0 means none.
        frames: T of the positions that this transformer learns; the protocol's frames.
        label_sharpness: None for the cross-entropy; a number s for the KL divergence both ways with softmax(s * one-hot).

    Raises:
        ConfigError: an unknown word, a `text_weight` outside 0 to 1, or a matcher with parameters.
        NotApplicableError: the backbone has no text encoder, which the loss needs in any mode.
    """

    role_free = True
    matched = "frames"
    score_only = ("mode", "matcher", "text_weight")
    train_text: Tensor  # text features of all training classes `[classes, C]`, set by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        *,
        matcher: dict = MEAN_FRAME,
        mode: Mode = "visual",
        text_weight: float = 0.5,
        tune: Tuned = "visual",
        temperature: float | None = None,
        normalise_frames: bool = True,
        temporal_layers: int = 0,
        frames: int = 8,
        label_sharpness: float | None = None,
    ) -> None:
        super().__init__(backbone)
        check_choice("mode", mode, Mode)
        check_share("text_weight", text_weight)
        if not backbone.has_text:
            raise NotApplicableError(
                f"The video-text loss compares videos with class names, and the backbone {backbone.name} has no text encoder: "
                "choose a CLIP backbone with backbone=."
            )
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher = build_matcher(matcher, C)
        if self.matcher.learned:
            raise ConfigError(
                f"The matcher {matcher['type']} has parameters, which the video-text loss does not train. Choose another "
                "method.matcher.type, such as OTAM."
            )
        self.mode, self.text_weight, self.normalise_frames = mode, text_weight, normalise_frames
        self.temperature = backbone.logit_scale if temperature is None else temperature
        self.label_sharpness = label_sharpness
        self.temporal = nn.Sequential(*(TransformerBlock(C, heads=max(1, C // 64)) for _ in range(temporal_layers)))
        T = backbone.time_steps(frames) if temporal_layers else 0
        self.positions = nn.Parameter(0.02 * torch.randn(T, C)) if temporal_layers else None
        reads_matcher = mode == "visual" or (mode == "product" and text_weight < 1)
        in_time = self.positions is not None or backbone.sees_order
        self.traits = Traits(
            uses_class_names=mode == "text" or (mode == "product" and text_weight > 0),
            trainable=any(p.requires_grad for p in self.parameters()),
            transductive=False,
            order_sensitive=in_time or (reads_matcher and self.matcher.order_sensitive),
            ignores_supports=not reads_matcher,
        )

    def prepare(self, class_text: Tensor) -> None:
        """Keep the text features `[classes, C]` of all training classes for the loss."""
        self.train_text = class_text

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `frames` `[V, T, C]`, after the temporal transformer if there is one, and their mean `video` `[V, C]`."""
        frames = features.frames
        if self.positions is not None:
            frames = frames + self.temporal(frames + self.positions)
        each = F.normalize(frames, dim=-1) if self.normalise_frames else frames
        return VideoFeatures(frames=frames, video=each.mean(1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total as `mode` says; parts "visual" (-D) and "text" (scaled cosine)."""
        parts = {
            "visual": -self.matched_distance(query, support),
            "text": cosine_logits(query.video, class_text, self.temperature),
        }
        if self.mode != "product":
            return Scores(parts[self.mode], parts)
        logs = {name: part.log_softmax(-1) for name, part in parts.items()}
        return Scores(self.text_weight * logs["text"] + (1 - self.text_weight) * logs["visual"], parts)

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Compare all videos of the episodes with the texts of all training classes.

        With `label_sharpness` each text of the videos' classes is also compared with all videos.
        """
        support, query = self.episode_features(episodes)
        videos = torch.cat([support.video.flatten(0, 2), query.video.flatten(0, 1)])
        labels = episodes.video_classes()
        logits = cosine_logits(videos, self.train_text, self.temperature)
        if self.label_sharpness is None:
            return {"loss": F.cross_entropy(logits, labels)}
        same = F.one_hot(labels, len(self.train_text)).to(logits.dtype)
        present = labels.unique()
        to_video = soft_divergence(logits[:, present].T, same[:, present].T, self.label_sharpness)
        return {
            "loss_text": soft_divergence(logits, same, self.label_sharpness) / 2,
            "loss_video": to_video / 2,
        }
