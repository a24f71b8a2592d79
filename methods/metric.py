"""MetricMethod: a backbone and a matcher, and nothing else."""

from __future__ import annotations

from torch import Tensor

from fsar_bench.matching import build_matcher
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures


@METHODS.register_module()
class MetricMethod(FewShotMethod):
    """A backbone and a matcher, and nothing else: training-free, or with the image encoder fine-tuned.

    Args:
        backbone: image encoder.
        matcher: config of the matcher.
        tune: "none" (training-free) or "visual" (the whole image encoder is trained).
        scale: factor of the scores -distance; it affects the training loss alone, not the ranking.

    Raises:
        ConfigError: the matcher has parameters, and `tune` is "none".
    """

    role_free = True
    matched = "frames"

    def __init__(self, backbone: Backbone, matcher: dict, *, tune: Tuned = "none", scale: float = 1.0) -> None:
        super().__init__(backbone)
        self.matcher, self.scale = build_matcher(matcher, backbone.embedding_width), scale
        self.tune(tune)
        if tune == "none" and self.matcher.learned:
            raise ConfigError(
                f"The matcher {matcher['type']} has parameters, so it cannot be used training-free. Choose another matcher=, or "
                "method.tune=visual with a train section."
            )
        self.traits = Traits(
            uses_class_names=False,
            trainable=tune == "visual",
            transductive=False,
            order_sensitive=self.matcher.order_sensitive or backbone.sees_order,
        )

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -scale * distance of the frame features."""
        return Scores(-self.scale * self.matched_distance(query, support))
