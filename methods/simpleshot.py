"""SimpleShot (arXiv 1911.04623) on videos: the nearest class mean of frozen features, after centring and normalisation.

Followed: the paper's three transforms of a feature: none (UN), division by its length (L2N), and the same after the mean of
the training classes is subtracted (CL2N); the score is the negative squared distance to the mean of a class's shots.
Differs: a feature is the mean frame of a video; the mean is taken over the clips of the train split; nothing is trained (the
paper trains a classifier of the training classes first).
Unknown: a version for videos; the mean over frames is ours.
"""

from __future__ import annotations

from typing import Literal

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

Centering = Literal["un", "l2n", "cl2n"]


@METHODS.register_module()
class SimpleShot(FewShotMethod):
    """Nearest class mean of transformed mean frames.

    Args:
        backbone: image encoder.
        centering: "un" (features as they are), "l2n" (of length 1) or "cl2n" (of length 1 after centring).

    Raises:
        ConfigError: an unknown word for `centering`.
    """

    role_free = True
    train_mean: Tensor | None  # of the train split, [C]

    def __init__(self, backbone: Backbone, *, centering: Centering = "cl2n") -> None:
        super().__init__(backbone)
        check_choice("centering", centering, Centering)
        self.centering = centering
        self.reads_train_bank = centering == "cl2n"
        self.register_buffer("train_mean", None)
        self.traits = Traits(
            uses_class_names=False, trainable=False, transductive=False, order_sensitive=backbone.sees_order
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, C]`, the mean frame."""
        return VideoFeatures(video=features.frames.mean(1))

    def learn_from_bank(self, features: VideoFeatures, classes: Tensor) -> None:
        """Keep the mean over all clips of the train split."""
        self.train_mean = features.video.mean(0)

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -squared distance of the transformed query to the mean of the transformed shots."""
        prototype = self._transform(support.video).mean(2)
        return Scores(-(self._transform(query.video)[:, :, None] - prototype[:, None]).square().sum(-1))

    def _transform(self, video: Tensor) -> Tensor:
        if self.centering == "un":
            return video
        if self.centering == "l2n":
            return F.normalize(video, dim=-1)
        if self.train_mean is None:
            raise ConfigError(
                "method.centering='cl2n' needs the mean of the train split, which was not learned: call learn_from_bank "
                "before score, or choose 'l2n'."
            )
        return F.normalize(video - self.train_mean, dim=-1)
