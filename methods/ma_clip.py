"""MA-CLIP (arXiv 2308.01532 v1; v2 is titled MA-FSAR): multimodal adaptation of frozen CLIP.

Re-implementation from the paper: no official code is public.

Followed: figures 2 to 4 (adapters in every block of the frozen image tower, text-guided prototype construction) and tables 3 to 8
(which parts there are, parameter counts).
Differs: nothing that could be checked, because no official code is public.
Unknown: alpha, temperature, the target of the KL terms (`label_sharpness`), the classes of the support-to-text term,
whether the text terms read features before or after the prototype module, the prompt (protocol `template`), joint_scale,
temporal_embedding, num_temporal_adapters, the skips inside the adapters, OTAM's lambda, width and dropout of the prototype
module, the start of the text layers (`text_start`, a key of custom configs), the optimiser with its learning rate, weight decay
and accumulation, and crop, flip and colours of training clips. All are config keys. Crop and flip are declared: the random crop
of the code of every compared method, no flip as in CLIP-FSAR's; heads (8) and FFN dropout (0.05) are CLIP-FSAR's, fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.backbones.adapters import Adaptation
from fsar_bench.layers import ModulationBlock, cosine_logits, log_mixture, query_cross_entropy, soft_divergence
from fsar_bench.matching import build_matcher
from fsar_bench.method import (
    METHODS,
    Backbone,
    EpisodeBatch,
    FewShotMethod,
    Scores,
    Traits,
    Tuned,
    VideoFeatures,
    check_choice,
    check_share,
)

Prototype = Literal["none", "transformer", "multimodal_transformer", "text_guided"]
TextFeatures = Literal["before", "after"]
S2TClasses = Literal["episode", "train"]
ALPHA_GRID = tuple(i / 20 for i in range(21))


@METHODS.register_module()
class MACLIP(FewShotMethod):
    """Adapters inside a frozen ViT, prototypes guided by text, a prediction that mixes text and matching.

    Args:
        backbone: CLIP, with a ViT image tower if there is any adaptation.
        matcher: config of the matcher (any).
        tune: "none" (the image tower is frozen) or "visual" (all of it is trained).
        prototype: "text_guided" (TPCM), "multimodal_transformer" (frames and text attend to each other), "transformer" (frames
            alone) or "none" (table 6).
        alpha: weight of the text terms in the loss and in the prediction, from 0 to 1.
        predict_alpha: alpha of the prediction alone; None means `alpha`, "val" selects it on val after training.
        temperature: factor of the cosines in the text terms; None takes the backbone's learned scale (CLIP: 100).
        label_sharpness: None for one-hot targets (the KL terms are cross-entropies then); a number s for softmax(s * one-hot).
        text_features: the text terms read the mean frame "before" or "after" the prototype module.
        s2t_classes: the loss compares a support with the texts of its "episode", or of all "train" classes.
        ffn_width: hidden width of the FFN in the prototype module.
        dropout: dropout of the attention in the prototype module.
        **adaptation: fields of `Adaptation` in `fsar_bench/backbones/adapters.py`, the parts in the blocks of the image tower.

    Raises:
        ConfigError: an unknown word, an alpha outside 0 to 1, or an adaptation of a backbone without transformer blocks.
    """

    score_only = ("predict_alpha",)
    matched = "matched"
    train_text: Tensor  # text features of all training classes `[classes, C]`, set by `prepare`

    def __init__(
        self,
        backbone: Backbone,
        matcher: dict,
        *,
        tune: Tuned = "none",
        prototype: Prototype = "text_guided",
        alpha: float = 0.5,
        predict_alpha: float | Literal["val"] | None = None,
        temperature: float | None = None,
        label_sharpness: float | None = None,
        text_features: TextFeatures = "before",
        s2t_classes: S2TClasses = "episode",
        ffn_width: int = 2048,
        dropout: float = 0.2,
        **adaptation: Any,
    ) -> None:
        super().__init__(backbone)
        check_choice("prototype", prototype, Prototype)
        check_choice("text_features", text_features, TextFeatures)
        check_choice("s2t_classes", s2t_classes, S2TClasses)
        self.tune(tune)
        C = backbone.embedding_width
        self.matcher = build_matcher(matcher, C)
        self.fits = predict_alpha == "val"
        check_share("alpha", alpha)
        self.alpha = alpha
        self.predict_alpha = alpha if predict_alpha is None or predict_alpha == "val" else predict_alpha
        check_share("predict_alpha", self.predict_alpha)
        self.temperature = backbone.logit_scale if temperature is None else temperature
        self.label_sharpness = None if label_sharpness is None else float(label_sharpness)
        self.text_features, self.s2t_classes = text_features, s2t_classes
        self.adaptation = Adaptation(**adaptation)
        self.adapted, self.temporal_embedding = self.adaptation.build(backbone)
        self.text_in_prototype = prototype in ("multimodal_transformer", "text_guided")
        self.guides = prototype == "text_guided"
        self.prototype = None if prototype == "none" else ModulationBlock(C, ffn_width=ffn_width, dropout=dropout)
        self.traits = self._traits()

    def _traits(self) -> Traits:
        text_decides = self.fits or self.predict_alpha > 0
        matcher_decides = self.fits or self.predict_alpha < 1
        sees_order = matcher_decides and self.matcher.order_sensitive
        return Traits(
            uses_class_names=text_decides or self.text_in_prototype or self.adaptation.reads_text,
            trainable=any(p.requires_grad for p in self.parameters()),
            transductive=False,
            order_sensitive=self.temporal_embedding is not None or sees_order,
            ignores_supports=not matcher_decides,
        )

    def prepare(self, class_text: Tensor) -> None:
        """Keep the text features `[classes, C]` of all training classes."""
        self.train_text = class_text

    @property
    def embeds_plainly(self) -> bool:
        """Whether nothing is adapted, so that `embed` is the plain backbone."""
        return not len(self.adapted)

    def embed(self, frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
        """Run the adapted image tower: support mode when `class_text` `[V, C]` is given, else query mode."""
        if not len(self.adapted):
            return super().embed(frames, class_text)
        V, T = frames.shape[:2]
        x = self.backbone.embed_tokens(frames, self.temporal_embedding)
        for adapted, block in zip(self.adapted, self.backbone.blocks(), strict=True):
            x = adapted(x, block, T, class_text)
        return VideoFeatures(frames=self.backbone.read_tokens(x).unflatten(0, (V, T)))

    def construct(self, frames: Tensor, class_text: Tensor | None) -> Tensor:
        """Run the prototype module (figure 4) on frames `[V, T, C]`, supports with the text `[V, C]` of their class."""
        if self.prototype is None:
            return frames
        if class_text is None or not self.text_in_prototype:
            return self.prototype(frames)
        text = class_text[:, None]
        if self.guides:
            return self.prototype(frames + text, torch.cat([text, frames], 1))
        return self.prototype(torch.cat([frames, text], 1))[:, :-1]

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `matched` `[V, T, C]`, after the prototype module, and `video` `[V, C]`, the mean frame of the text terms."""
        matched = self.construct(features.frames, class_text)
        for_text = features.frames if self.text_features == "before" else matched
        return VideoFeatures(matched=matched, video=for_text.mean(1))

    def text_logits(self, video: Tensor, class_text: Tensor) -> Tensor:
        """Compute temperature * cosine of videos `[E, V, C]` and texts `[E, N, C]`: `[E, V, N]`."""
        return cosine_logits(video, class_text, self.temperature)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = log(alpha p_Q2T + (1 - alpha) p_Q2S); parts "visual" and "text" are the logits of p_Q2S and p_Q2T."""
        visual = -self.matched_distance(query, support, mean_of_shots=True)
        text = self.text_logits(query.video, class_text)
        return Scores(log_mixture(text, visual, self.predict_alpha), {"visual": visual, "text": text})

    def fit(self, accuracy: Callable[[], float]) -> dict[str, float | str]:
        """Select the alpha of the prediction, in steps of 0.05, that is best on val; of equals the smallest."""
        return self.choose(accuracy, predict_alpha=ALPHA_GRID)

    def text_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the divergence of similarities `[E, V, N]` from the distribution of labels `[E, V]`, averaged over videos."""
        if self.label_sharpness is None:
            return query_cross_entropy(logits, labels)
        same = F.one_hot(labels.flatten(), logits.shape[-1])
        return soft_divergence(logits.flatten(0, 1), same, self.label_sharpness)

    def loss(self, episodes: EpisodeBatch) -> dict[str, Tensor]:
        """Compute alpha * (L_S2T + L_Q2T) / 2 + (1 - alpha) * L_Q2S, term by term."""
        support, query = self.episode_features(episodes)
        parts = self.score(support, query, episodes.class_text).parts
        E, N, K = episodes.support.shape[:3]
        if self.s2t_classes == "train":
            support_labels = episodes.classes.repeat_interleave(K, 1)
            texts = self.train_text.expand(E, -1, -1)
        else:
            support_labels = torch.arange(N, device=parts["text"].device).repeat_interleave(K).expand(E, -1)
            texts = episodes.class_text
        s2t = self.text_logits(support.video.flatten(1, 2), texts)
        return {
            "loss_s2t": self.alpha / 2 * self.text_loss(s2t, support_labels),
            "loss_q2t": self.alpha / 2 * self.text_loss(parts["text"], episodes.labels),
            "loss_q2s": (1 - self.alpha) * query_cross_entropy(parts["visual"], episodes.labels),
        }
