"""CLIP-FSAR (IJCV 2023, arXiv 2303.02982): video-text contrast over training classes and text-modulated prototypes.

Followed: the official code (alibaba-mmai-research/CLIP-FSAR) for the modulation block, the epsilon in the metric's cosine,
the learned scale that starts at 1, the three test modes (visual, text, ensemble with distances over 8 for any number of
frames) and shots merged after or before the block.
Differs: without `recipe=official` the cosine of the video-text loss has no epsilon (the code adds 0.01 to the product of the
norms: up to 4e-5 of the loss). Paper and code disagree on OTAM's lambda (0.1 against 0.5): the config follows the code,
`method.matcher.smoothing=0.1` the paper.
Unknown: settings of the ViT rows and of the ensemble rows (no published config has them).
"""

from __future__ import annotations

import re
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import ModulationBlock, cosine_logits, query_cross_entropy
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

Mode = Literal["visual", "text", "ensemble"]
VISUAL_SCALE = 8  # of the distances in the ensemble: a constant of the official code, whatever the number of frames
OFFICIAL_BLOCK = {  # names of the block's parts in the official code, and ours
    "0.0.norm": "norm", "0.0.fn.to_q": "to_q", "0.0.fn.to_k": "to_k", "0.0.fn.to_v": "to_v", "0.0.fn.to_out.0": "out",
    "0.1.net.0": "ffn.0", "0.1.net.3": "ffn.3",
}  # fmt: skip


@METHODS.register_module()
class CLIPFSAR(FewShotMethod):
    """Fine-tuned CLIP: the whole image tower is trained, with one modulation block for supports and queries.

    Args:
        backbone: CLIP.
        matcher: config of the matcher.
        mode: "visual" (score -D), "text" (scaled cosine of video and class text) or "ensemble" (their weighted product).
        text_weight: g of the ensemble p_text^g p_visual^(1-g), from 0 to 1.
        class_weight: lambda_c, weight of the video-text loss.
        class_epsilon: added to the product of norms in the cosine of the video-text loss; the official code has 0.01.
        merge_before: average the shots before the modulation instead of after it.
        tune: "visual" or "none" (the modulation block alone is trained).
        ffn_width: hidden width of the block's FFN.
        dropout: dropout of the block's attention.

    Raises:
        ConfigError: an unknown word for `mode` or `tune`, or a `text_weight` outside 0 to 1.
    """

    score_only = ("mode", "text_weight")
    train_text: Tensor  # text features of all training classes `[classes, C]`, set by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        mode: Mode = "visual",
        text_weight: float = 0.9,
        class_weight: float = 1.5,
        class_epsilon: float = 0.0,
        merge_before: bool = False,
        tune: Tuned = "visual",
        ffn_width: int = 2048,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(backbone)
        check_choice("mode", mode, Mode)
        check_share("text_weight", text_weight)
        self.tune(tune)
        self.matcher = build_matcher(matcher, backbone.embedding_width)
        self.mode, self.text_weight = mode, text_weight
        self.class_weight, self.class_epsilon, self.merge_before = class_weight, class_epsilon, merge_before
        self.matched = "" if merge_before else "modulated"
        self.modulation = ModulationBlock(backbone.embedding_width, ffn_width=ffn_width, dropout=dropout)
        self.scale = nn.Parameter(torch.tensor(1.0))
        text_alone = mode == "text" or (mode == "ensemble" and text_weight == 1)
        self.traits = Traits(
            uses_class_names=True,
            trainable=True,
            transductive=False,
            order_sensitive=not text_alone and self.matcher.order_sensitive,
            ignores_supports=text_alone,
        )

    @classmethod
    def from_official(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert the image tower, the modulation block and the scale of a checkpoint of alibaba-mmai-research/CLIP-FSAR.

        Its text features and all other tensors are dropped: texts are encoded again from the class names of the protocol.
        See the base class for arguments and errors.
        """
        head = {re.sub(r"^(module\.)?(head\.)?", "", name): tensor for name, tensor in state.items()}
        converted = {
            f"backbone.clip.visual.{name.removeprefix('backbone.')}": tensor
            for name, tensor in head.items()
            if name.startswith("backbone.")
        }
        for name, tensor in head.items():
            for theirs, ours in OFFICIAL_BLOCK.items():
                if name.startswith(f"context2.layers.{theirs}."):
                    converted[f"modulation.{ours}.{name.rpartition('.')[2]}"] = tensor
        deeper = [name for name in head if name.startswith("context2.layers.1.")]
        if "scale" not in head or len(converted) < 2 or deeper:
            why = "its transformer has more than one layer" if deeper else "it lacks backbone., context2. or scale"
            raise ConfigError(
                f"This is not a checkpoint of CLIP-FSAR that can be converted: {why}. Choose a checkpoint that the official code "
                "wrote with one transformer layer."
            )
        converted = {name: t.float() if t.is_floating_point() else t for name, t in converted.items()}
        return converted | {"scale": head["scale"].float().reshape(())}

    def prepare(self, class_text: Tensor) -> None:
        """Keep the text features `[classes, C]` of all training classes for the video-text loss."""
        self.train_text = class_text

    def modulate(self, frames: Tensor, class_text: Tensor | None) -> Tensor:
        """Modulate frames `[V, T, C]`; supports attend to the text `[V, C]` of their class as one more token."""
        if class_text is None:
            return self.modulation(frames)
        return self.modulation(torch.cat([frames, class_text[:, None]], 1))[:, :-1]

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `modulated` `[V, T, C]` and the plain mean frame `video` `[V, C]`.

        With `merge_before`, supports are modulated by `score`, after their mean; `modulated` then holds the plain frames.
        """
        frames = features.frames
        in_score = class_text is not None and self.merge_before
        return VideoFeatures(modulated=frames if in_score else self.modulate(frames, class_text), video=frames.mean(1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total as `mode` says; parts "visual" (-D) and "text" (scaled cosine)."""
        E, N, _ = class_text.shape
        if self.merge_before:
            prototypes = self.modulate(support.modulated.mean(2).flatten(0, 1), class_text.flatten(0, 1))
            visual = -self.matcher(query.modulated, prototypes.unflatten(0, (E, N))[:, :, None])
        else:
            visual = -self.matched_distance(query, support, mean_of_shots=True)
        text = cosine_logits(query.video, class_text, self.scale)
        parts = {"visual": visual, "text": text}
        if self.mode != "ensemble":
            return Scores(parts[self.mode], parts)
        log_visual = ((VISUAL_SCALE + visual) / VISUAL_SCALE).log_softmax(-1)
        return Scores(self.text_weight * text.log_softmax(-1) + (1 - self.text_weight) * log_visual, parts)

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Metric cross-entropy plus class_weight times the video-text cross-entropy over all training classes."""
        support, query = self.episode_features(episodes)
        visual = self.score(support, query, episodes.class_text).parts["visual"]
        videos = torch.cat([support.video.flatten(0, 2), query.video.flatten(0, 1)])
        logits = cosine_logits(videos, self.train_text, self.scale, epsilon=self.class_epsilon)
        return {
            "loss_metric": query_cross_entropy(visual, episodes.labels),
            "loss_class": self.class_weight * F.cross_entropy(logits, episodes.video_classes()),
        }
