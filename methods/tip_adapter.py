"""Tip-Adapter (ECCV 2022, arXiv 2207.09519), training-free, by episode: a cache of supports beside zero-shot text.

Followed: the official code (gaopengcuhk/Tip-Adapter): keys are normalised support features, values their one-hot labels,
logits = 100 v.w + alpha * sum over shots of exp(-beta (1 - v.key)). Videos are normalised means of normalised frames.
Differs: the cache holds the supports of one episode; alpha and beta are fixed, or chosen once on val episodes.
Unknown: alpha and beta for episodes; the defaults 1 and 5.5 are ours.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.backbones import Backbone
from fsar_bench.errors import ConfigError
from fsar_bench.method import FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.registry import METHODS

ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
BETAS = (0.5, 1.0, 2.0, 5.5, 10.0, 20.0, 50.0)


@METHODS.register_module()
class TipAdapter(FewShotMethod):
    """Zero-shot text plus a sharpened vote of the supports.

    Args:
        backbone: CLIP.
        alpha: weight of the vote.
        beta: its sharpness.
        weights: "fixed" (alpha and beta as given) or "val" (the best of a grid on val episodes).
        temperature: factor of the cosine with the text.
    """

    role_free = True
    score_only = ("alpha", "beta", "weights", "temperature")
    traits = Traits(uses_class_names=True, trainable=False, transductive=False, order_sensitive=False)

    def __init__(
        self,
        backbone: Backbone,
        alpha: float = 1.0,
        beta: float = 5.5,
        weights: str = "fixed",
        temperature: float = 100.0,
    ) -> None:
        super().__init__(backbone)
        if weights not in ("fixed", "val"):
            raise ConfigError(f"method.weights={weights!r} is unknown. Choose from: fixed, val.")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise ConfigError(f"method.{name}={value} must not be below 0.")
        self.alpha, self.beta, self.temperature, self.fits = alpha, beta, temperature, weights == "val"
        self.shots_average = alpha == 0 and not self.fits

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Give `video` `[V, C]`, the normalised mean of normalised frames."""
        return VideoFeatures(video=F.normalize(F.normalize(features.frames, dim=-1).mean(1), dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Parts "text" (scaled cosine) and "cache" (the vote before alpha)."""
        cosine = torch.einsum("eqc,enkc->eqnk", query.video, support.video)
        cache = torch.exp(-self.beta * (1 - cosine)).sum(-1)
        text = self.temperature * query.video @ F.normalize(class_text, dim=-1).transpose(1, 2)
        return Scores(text + self.alpha * cache, {"text": text, "cache": cache})

    def fit(self, accuracy) -> dict[str, float | str]:
        """Take the alpha and beta of the grid that are best on val; the first of equals."""
        best = -1.0
        for alpha, beta in product(ALPHAS, BETAS):
            self.alpha, self.beta = alpha, beta
            if (reached := accuracy()) > best:
                best, chosen = reached, (alpha, beta)
        self.alpha, self.beta = chosen
        return {"alpha": self.alpha, "beta": self.beta}
