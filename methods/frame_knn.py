"""kNN of frames: each frame of a query votes for the classes of its nearest support frames.

Followed: the textbook classifier with the cosine; votes are averaged over the frames of a query.
Differs: between classes with equal votes, the mean similarity of the query's frames to their nearest frames of the class
decides; its weight is too small to overrule a vote.
Unknown: a published setting for few-shot videos; k = 1 is ours.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fsar_bench.matching import chamfer, frame_distance
from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, VideoFeatures


@METHODS.register_module()
class FrameKNN(FewShotMethod):
    """Votes of the k nearest support frames of each query frame.

    Args:
        backbone: image encoder.
        k: number of voters per frame; all support frames vote where there are fewer.

    Raises:
        ConfigError: k below 1.
    """

    role_free = True

    def __init__(self, backbone: Backbone, *, k: int = 1) -> None:
        super().__init__(backbone)
        if k < 1:
            raise ConfigError(f"method.k={k} must be at least 1.")
        self.k = k
        self.shots_average = k == 1
        self.traits = Traits(
            uses_class_names=False, trainable=False, transductive=False, order_sensitive=backbone.sees_order
        )

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = "votes" + a small multiple of "similarity"; the parts are shares of votes and mean best cosines."""
        distance = frame_distance(query.frames, support.frames, epsilon=0.0)  # [E, Q, N, K, T, S]
        N, K, T, S = distance.shape[2:]
        by_frame = distance.movedim(4, 2).flatten(3)  # [E, Q, T, N * K * S]
        k = min(self.k, N * K * S)
        nearest = by_frame.topk(k, dim=-1, largest=False).indices
        votes = F.one_hot(nearest // (K * S), N).sum((2, 3)).to(distance) / (T * k)
        similarity = 1 - chamfer(distance.transpose(3, 4).flatten(4), "query")
        # Cosines differ by at most 2, votes by at least 1 / (T k).
        return Scores(votes + similarity / (4 * T * k), {"votes": votes, "similarity": similarity})
