"""Tied Gaussian (linear discriminant analysis) on frames: one Gaussian per class, all with the same covariance.

Followed: the textbook classifier: class means over the frames of all shots, within-class covariances averaged over the
classes, shrunk towards a multiple of the identity with the same trace; a frame scores f P m - m P m / 2 with P the inverse.
Differs: covariance="train" takes the covariance of the training classes instead of the episode's own.
Unknown: a published setting for few-shot videos; frames as points, features as they are and a shrinkage of 0.5 are ours.
"""

from __future__ import annotations

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

Covariance = Literal["episode", "train"]
LEAST_VARIANCE = 1e-12  # where all frames of a class are equal, the nearest mean wins


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """Return (1 - a) S + a tr(S) / C I for covariances S `[..., C, C]`."""
    C = covariance.shape[-1]
    identity = torch.eye(C, dtype=covariance.dtype, device=covariance.device)
    spread = (shrinkage * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)).clamp_min(LEAST_VARIANCE)
    return (1 - shrinkage) * covariance + spread[..., None, None] * identity


def precision_times(means: Tensor, residuals: Tensor, shrinkage: float) -> Tensor:
    """Multiply means by the inverse of the shrunk covariance of residuals, in whichever form has the smaller matrix.

    Args:
        means: `[E, N, C]`.
        residuals: deviations from the class means, `[E, M, C]`; the covariance is X'X / M.
        shrinkage: a, above 0.

    Returns:
        `[E, N, C]`.
    """
    _, M, C = residuals.shape
    if C <= M:
        covariance = shrunk(residuals.transpose(1, 2) @ residuals / M, shrinkage)
        return torch.linalg.solve(covariance, means.transpose(1, 2)).transpose(1, 2)
    # Woodbury: (s I + c X'X)^-1 = (I - c X' (s I + c X X')^-1 X) / s
    s = (shrinkage * residuals.square().sum((1, 2)) / (M * C)).clamp_min(LEAST_VARIANCE)[:, None, None]
    c = (1 - shrinkage) / M
    inner = s * torch.eye(M, dtype=means.dtype, device=means.device) + c * residuals @ residuals.transpose(1, 2)
    return (means - c * torch.linalg.solve(inner, residuals @ means.transpose(1, 2)).transpose(1, 2) @ residuals) / s


@METHODS.register_module()
class TiedGaussian(FewShotMethod):
    """Gaussian classes with one covariance, over frames.

    Args:
        backbone: image encoder.
        shrinkage: share of the multiple of the identity; above 0, and at 1 the nearest mean wins.
        covariance: "episode" (of the supports) or "train" (of the clips of the train split).

    Raises:
        ConfigError: a shrinkage outside (0, 1], or an unknown word for `covariance`.
    """

    role_free = True
    precision: Tensor | None  # inverse of the shrunk covariance of the train split, float64 [C, C]

    def __init__(self, backbone: Backbone, *, shrinkage: float = 0.5, covariance: Covariance = "episode") -> None:
        super().__init__(backbone)
        check_choice("covariance", covariance, Covariance)
        if not 0 < shrinkage <= 1:
            raise ConfigError(f"method.shrinkage={shrinkage} must be above 0 and at most 1.")
        self.shrinkage, self.covariance = shrinkage, covariance
        self.reads_train_bank = covariance == "train"
        self.register_buffer("precision", None)
        self.traits = Traits(
            uses_class_names=False, trainable=False, transductive=False, order_sensitive=backbone.sees_order
        )

    def learn_from_bank(self, features: VideoFeatures, classes: Tensor) -> None:
        """Keep the inverse of the shrunk covariance within the training classes, each class counting alike."""
        frames, own = features.frames.double().flatten(0, 1), classes.repeat_interleave(features.frames.shape[1])
        members = F.one_hot(own).T.to(frames)  # [classes, frames]
        members = members[members.sum(1) > 0]
        share = members / members.sum(1, keepdim=True)
        residuals = frames - members.T @ (share @ frames)
        residuals *= share.mean(0).sqrt()[:, None]  # in place: there are millions of frames
        covariance = residuals.T @ residuals
        self.precision = torch.linalg.inv(shrunk(covariance, self.shrinkage))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = mean over frames f of f P m - m P m / 2, computed from the mean frame."""
        frames = support.frames.double().flatten(2, 3)  # [E, N, K * T, C]
        means = frames.mean(2)
        weights = self._weights(means, frames)
        bias = (weights * means).sum(-1) / 2
        total = query.frames.double().mean(2) @ weights.transpose(1, 2) - bias[:, None]
        return Scores(total.to(query.frames.dtype))

    def _weights(self, means: Tensor, frames: Tensor) -> Tensor:
        if self.covariance == "episode":
            return precision_times(means, (frames - means[:, :, None]).flatten(1, 2), self.shrinkage)
        if self.precision is None:
            raise ConfigError(
                "method.covariance='train' needs the covariance of the train split, which was not learned: call learn_from_bank "
                "before score, or choose 'episode'."
            )
        return means @ self.precision.to(means.dtype)
