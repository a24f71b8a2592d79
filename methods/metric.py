"""MetricMethod: a backbone and a matcher, and nothing else."""

from __future__ import annotations

from torch import Tensor

from fsar_bench.backbones import Backbone
from fsar_bench.errors import ConfigError
from fsar_bench.matching import build_matcher
from fsar_bench.method import FewShotMethod, Scores, Traits, VideoFeatures
from fsar_bench.registry import METHODS


@METHODS.register_module()
class MetricMethod(FewShotMethod):
    """A backbone and a matcher, and nothing else: training-free, or with the visual encoder fine-tuned.

    Args:
        backbone: image-text encoder.
        matcher: config of the matcher.
        tune: "none" (training-free) or "visual" (the whole image encoder is trained).
        scale: factor of the scores -distance; it matters for the training loss alone.
    """

    role_free = True

    def __init__(self, backbone: Backbone, matcher: dict, tune: str = "none", scale: float = 1.0) -> None:
        super().__init__(backbone)
        self.matcher, self.scale = build_matcher(matcher, backbone.embedding_width), scale
        self.tune(tune)
        if tune == "none" and self.matcher.learned:
            raise ConfigError(f"The matcher {matcher['type']} has parameters, so it cannot be used training-free.")
        self.traits = Traits(
            uses_class_names=False,
            trainable=tune == "visual",
            transductive=False,
            order_sensitive=self.matcher.order_sensitive,
        )

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -scale * distance of the frame features."""
        return Scores(-self.scale * self.matcher(query.frames, support.frames))
