"""Tip-Adapter (ECCV 2022, arXiv 2207.09519), training-free and per episode: a cache of supports next to zero-shot text.

Followed: the official code (gaopengcuhk/Tip-Adapter): keys are normalised support features, values their one-hot labels,
logits = 100 v.w + alpha * sum over shots of exp(-beta (1 - v.key)). Videos are normalised means of normalised frames.
Differs: the cache holds the supports of one episode; alpha and beta are fixed, or selected once on val episodes.
Unknown: alpha and beta for episodes; the defaults 1 and 5.5 are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.method import (
    METHODS,
    Backbone,
    ConfigError,
    FewShotMethod,
    Scores,
    Traits,
    VideoFeatures,
    check_choice,
)

ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BETAS = (0.5, 1.0, 2.0, 5.5, 10.0, 20.0, 50.0)
Weights = Literal["fixed", "val"]


@METHODS.register_module()
class TipAdapter(FewShotMethod):
    """Zero-shot text plus a sharpened vote of the supports.

    Args:
        backbone: CLIP.
        alpha: weight of the vote; not negative.
        beta: sharpness of the vote; not negative.
        weights: "fixed" (alpha and beta as given) or "val" (the best of a grid on val episodes).
        temperature: factor of the cosine with the text.

    Raises:
        ConfigError: an unknown word for `weights`, or a negative alpha or beta.
    """

    role_free = True
    score_only = ("alpha", "beta", "weights", "temperature")

    def __init__(
        self,
        backbone: Backbone,
        *,
        alpha: float = 1.0,
        beta: float = 5.5,
        weights: Weights = "fixed",
        temperature: float = 100.0,
    ) -> None:
        super().__init__(backbone)
        check_choice("weights", weights, Weights)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise ConfigError(f"method.{name}={value} must not be negative.")
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.fits = weights == "val"
        self.shots_average = text_alone = alpha == 0 and not self.fits
        self.traits = Traits(
            uses_class_names=True,
            trainable=False,
            transductive=False,
            order_sensitive=False,
            ignores_supports=text_alone,
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, C]`, the normalised mean of normalised frames."""
        return VideoFeatures(video=F.normalize(F.normalize(features.frames, dim=-1).mean(1), dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = "text" + alpha * "cache"; the parts are the scaled cosine with the text and the vote of the supports."""
        cosine = torch.einsum("eqc,enkc->eqnk", query.video, support.video)
        cache = torch.exp(-self.beta * (1 - cosine)).sum(-1)
        text = self.temperature * query.video @ F.normalize(class_text, dim=-1).transpose(1, 2)
        return Scores(text + self.alpha * cache, {"text": text, "cache": cache})

    def fit(self, accuracy: Callable[[], float]) -> dict[str, float | str]:
        """Select the alpha and beta of the grid that are best on val; of equals the first."""
        return self.choose(accuracy, alpha=ALPHAS, beta=BETAS)
