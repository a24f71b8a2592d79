"""BiLSTM pooling: a bidirectional LSTM over frames, the mean of its states, and cosine prototypes.

Followed: re-implementation of a common baseline, settings declared: one layer whose two directions have half the width of the
frames each; the prototype is the mean of a class's normalised shots; the scores are cosines times a learned factor.
Differs: nothing that could be compared.
Unknown: every setting. The factor starts at 10, the image encoder is frozen, and there is no dropout; the training is the suite's
common one with a learning rate of 1e-3 (in the style of other heads on frozen features).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.layers import cosine_logits
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures


@METHODS.register_module()
class BiLSTM(FewShotMethod):
    """Cosine prototypes of videos that a bidirectional LSTM pools.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "none" or "visual".
        scale: initial value of the learned factor of the cosine.

    Raises:
        ConfigError: an unknown word for `tune`, or an odd embedding width.
    """

    role_free = True

    def __init__(self, backbone: Backbone, *, tune: Tuned = "none", scale: float = 10.0) -> None:
        super().__init__(backbone)
        self.tune(tune)
        C = backbone.embedding_width
        if C % 2:
            raise ConfigError(f"The two directions of the LSTM share the embedding width {C}, which is odd.")
        self.lstm = nn.LSTM(C, C // 2, batch_first=True, bidirectional=True)
        self.scale = nn.Parameter(torch.tensor(scale))
        self.traits = Traits(uses_class_names=False, trainable=True, transductive=False, order_sensitive=True)

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, C]`, the normalised mean of the states."""
        states, _ = self.lstm(features.frames)
        return VideoFeatures(video=F.normalize(states.mean(1), dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = scale * cosine of the query and the mean of the shots."""
        return Scores(cosine_logits(query.video, support.video.mean(2), self.scale))
