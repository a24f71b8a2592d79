"""CMN (ECCV 2018): multi-saliency embedding of a video, and the nearest class mean.

Followed: the re-implementation in FSL-Video (MCG-NJU/FSL-Video), which was read and run; the authors' repository holds class
lists alone. Eight saliency vectors h_j divide the frames p_i among themselves, a_ij = softmax over j of p_i.h_j / sqrt(C);
q_j = sum over i of a_ij (p_i - h_j), normalised; a linear layer maps the concatenated q_j to C channels and starts as their
sum; the score is the negated squared Euclidean distance to the class mean. All h_j start equal and so do all blocks of the
layer. Their gradients are then equal too, and training never tells them apart: that code learns one saliency vector, eight
times. `saliency_std` above 0 starts them apart.
Differs: the bias of the linear layer, which cancels in every distance, stays 0. The memory of the paper, which is read and
written by keys and abstracts, is not part of that code and is not built. Training: AdamW 1e-5 with warm-up and cosine, the
code's is Adam with a constant 1e-5.
Unknown: the authors' settings. The number of vectors is that of the frames in FSL-Video (8); here it is `saliencies`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures


class MultiSaliency(nn.Module):
    """Embedding of a set of frames by learned saliency vectors; the order of frames is ignored.

    The linear layer has 8 C^2 + C weights: 2,097,664 at C = 512 and 33,556,480 at C = 2048 (134 MB in float32).

    Args:
        width: C.
        saliencies: J, number of saliency vectors.
        std: standard deviation of the initial vectors around 1e-8; at 0 they are equal.
    """

    def __init__(self, width: int, *, saliencies: int, std: float) -> None:
        super().__init__()
        self.saliency = nn.Parameter(1e-8 + std * torch.randn(saliencies, width))
        self.merge = nn.Linear(saliencies * width, width)
        with torch.no_grad():
            self.merge.weight.copy_(torch.eye(width).repeat(1, saliencies))
            self.merge.bias.zero_()
        self.merge.bias.requires_grad_(False)  # it moves queries and prototypes alike

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames `[V, T, C]` to videos `[V, C]`."""
        attention = (frames @ self.saliency.T / math.sqrt(frames.shape[-1])).softmax(-1)  # [V, T, J]
        # sum_i a_ij (p_i - h_j), without an array of all T * J differences
        residual = attention.transpose(1, 2) @ frames - attention.sum(1)[..., None] * self.saliency
        return self.merge(F.normalize(residual, dim=-1).flatten(1))


@METHODS.register_module()
class CMN(FewShotMethod):
    """Multi-saliency embedding and squared Euclidean distance to class means.

    Args:
        backbone: image encoder.
        tune: trained part of the backbone, "visual" or "none".
        saliencies: number of saliency vectors.
        saliency_std: standard deviation of their initial values; 0 starts them equal, as the code that was followed does.

    Raises:
        ConfigError: an unknown word for `tune`, no saliency vector, or a negative `saliency_std`.
    """

    role_free = True

    def __init__(
        self, backbone: Backbone, *, tune: Tuned = "visual", saliencies: int = 8, saliency_std: float = 0.0
    ) -> None:
        super().__init__(backbone)
        if saliencies < 1:
            raise ConfigError(f"method.saliencies={saliencies} must be a whole number above 0; CMN has 8.")
        if saliency_std < 0:
            raise ConfigError(f"method.saliency_std={saliency_std:g} must not be negative; 0 starts all vectors equal.")
        self.tune(tune)
        self.embedding = MultiSaliency(backbone.embedding_width, saliencies=saliencies, std=saliency_std)
        self.traits = Traits(
            uses_class_names=False, trainable=True, transductive=False, order_sensitive=backbone.sees_order
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, C]`."""
        return VideoFeatures(video=self.embedding(features.frames))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = -|query - class mean|^2."""
        prototypes = support.video.mean(2)
        return Scores(-(query.video[:, :, None] - prototypes[:, None]).square().sum(-1))
