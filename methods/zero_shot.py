"""Text-only zero-shot CLIP: a control that never looks at a support.

Paper: CLIP (arXiv 2103.00020), applied to videos by averaging frames.

Followed: v = normalised mean of normalised frame features, score = 100 v.w with w the normalised text feature of the class.
Differs: nothing. Independent of the shot: the same at 1 and 5 shots.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fsar_bench.layers import cosine_logits
from fsar_bench.method import METHODS, Backbone, FewShotMethod, Scores, Traits, VideoFeatures


@METHODS.register_module()
class ZeroShot(FewShotMethod):
    """Cosine between the mean frame and the class text.

    Args:
        backbone: image-text encoder.
        temperature: factor of the cosine.
    """

    role_free = True
    score_only = ("temperature",)
    traits = Traits(
        uses_class_names=True, trainable=False, transductive=False, order_sensitive=False, ignores_supports=True
    )

    def __init__(self, backbone: Backbone, temperature: float = 100.0) -> None:
        super().__init__(backbone)
        self.temperature = temperature

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Scores from queries `[E, Q, T, C]` and texts `[E, N, C]` alone."""
        video = F.normalize(query.frames, dim=-1).mean(2)
        return Scores(cosine_logits(video, class_text, self.temperature))
