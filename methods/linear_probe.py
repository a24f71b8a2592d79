"""Linear probe: a logistic regression on the supports of each episode, solved exactly.

Followed: scikit-learn's convention: multinomial, loss_weight (its C) times the sum of cross-entropies plus half the squared
weights, bias not penalised. Features are normalised.
Differs: Newton's method, with conjugate gradients, in float64 for all episodes of a batch at once, in an orthonormal basis of
the span of the supports, in which the minimiser lies.
Unknown: a published setting for few-shot videos; the points (mean frames of videos, or all frames with their logits averaged)
and the weight 1 are ours.
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

On = Literal["videos", "frames"]
STEPS = 100  # of Newton; about 8 are needed
CG_STEPS = 200  # of conjugate gradients within one step; about 10 are needed
TOLERANCE = 1e-10  # largest gradient at the minimum, relative to the loss's weight
CHUNK = 2**24  # numbers in the points that are fitted together


def fit_logistic(points: Tensor, labels: Tensor, classes: int, loss_weight: float) -> tuple[Tensor, Tensor]:
    """Minimise loss_weight * (sum of cross-entropies) + |W|^2 / 2 over W and b, for many sets of points.

    Args:
        points: float64 `[E, M, D]`.
        labels: int64 `[M]`, the same for all sets.
        classes: N.
        loss_weight: factor of the losses.

    Returns:
        W `[E, N, D]` and b `[E, N]`, whose sum over the classes is 0.

    Raises:
        ConfigError: no convergence.
    """
    basis, _ = torch.linalg.qr(points.transpose(1, 2))  # [E, D, R]
    x = F.pad(points @ basis, (0, 1), value=1.0)  # the last coordinate belongs to the bias
    E, _, R = x.shape
    penalty = torch.ones(R, dtype=x.dtype, device=x.device)
    penalty[-1] = 0
    factor = torch.linalg.cholesky(loss_weight / classes * x.transpose(1, 2) @ x + torch.diag(penalty))
    target = F.one_hot(labels, classes).to(x)

    def objective(w: Tensor) -> Tensor:  # [E]
        losses = -((x @ w.transpose(1, 2)).log_softmax(-1) * target).sum((1, 2))
        return loss_weight * losses + (penalty * w.square()).sum((1, 2)) / 2

    w = x.new_zeros(E, classes, R)
    for _ in range(STEPS):
        p = (x @ w.transpose(1, 2)).softmax(-1)  # [E, M, N]
        gradient = loss_weight * (p - target).transpose(1, 2) @ x + penalty * w
        unsolved = gradient.abs().amax((1, 2), keepdim=True) > TOLERANCE * max(1.0, loss_weight)
        if not bool(unsolved.any()):
            return w[..., :-1] @ basis.transpose(1, 2), w[..., -1]
        gradient = gradient * unsolved  # a set that is solved stays: its next steps would be rounding errors
        w = _line_search(objective, w, gradient, _newton_step(x, p, gradient, factor, penalty, loss_weight))
    raise ConfigError(f"The logistic regression did not converge. Lower method.loss_weight={loss_weight:g}.")


def _newton_step(x: Tensor, p: Tensor, gradient: Tensor, factor: Tensor, penalty: Tensor, loss_weight: float) -> Tensor:
    """Solve Hessian * step = gradient by conjugate gradients to a share of 1e-3: `[E, N, R]`.

    Args:
        x: `[E, M, R]`.
        p: probabilities `[E, M, N]`.
        gradient: `[E, N, R]`; sums to 0 over the classes, as all steps do, and there the Hessian is positive definite.
        factor: Cholesky factor of the Hessian at equal probabilities, `[E, R, R]`: the preconditioner.
        penalty: `[R]`.
        loss_weight: factor of the losses.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    def precondition(a: Tensor) -> Tensor:
        z = torch.cholesky_solve(a.transpose(1, 2), factor).transpose(1, 2)
        return z - z.mean(1, keepdim=True)  # rounding must not add what all classes share: nothing would take it back

    step, residual = torch.zeros_like(gradient), gradient
    direction = z = precondition(residual)
    size = dot(residual, z)
    enough, least = 1e-6 * size, torch.finfo(x.dtype).tiny
    for _ in range(CG_STEPS):
        change = p * (x @ direction.transpose(1, 2))
        change = change - p * change.sum(-1, keepdim=True)
        curved = loss_weight * change.transpose(1, 2) @ x + penalty * direction
        bend = dot(direction, curved)
        goes_on = (size > enough) & (bend > 0)
        length = torch.where(goes_on, size / bend.clamp_min(least), 0.0)
        step, residual = step + length * direction, residual - length * curved
        z = precondition(residual)
        before, size = size, torch.where(goes_on, dot(residual, z), size)
        if not bool(goes_on.any()):
            break
        direction = z + (size / before.clamp_min(least)) * direction
    return step


def _line_search(objective: Callable[[Tensor], Tensor], w: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """Halve the step of each set until its objective falls enough."""
    before, slope = objective(w), (gradient * step).sum((1, 2))
    size = torch.ones_like(before)
    for _ in range(30):
        rises = objective(w - size[:, None, None] * step) > before - 1e-4 * size * slope + 1e-12 * before.abs()
        if not rises.any():
            break
        size = torch.where(rises, size / 2, size)
    return w - size[:, None, None] * step


@METHODS.register_module()
class LinearProbe(FewShotMethod):
    """Multinomial logistic regression on the supports of each episode.

    Args:
        backbone: image encoder.
        on: the points: "videos" (their mean frames) or "frames" (all of them; the score is the mean over the query's frames).
        loss_weight: factor of the sum of losses, scikit-learn's C.

    Raises:
        ConfigError: an unknown word for `on`, or a weight that is not above 0.
    """

    role_free = True
    shots_average = False

    def __init__(self, backbone: Backbone, *, on: On = "videos", loss_weight: float = 1.0) -> None:
        super().__init__(backbone)
        check_choice("on", on, On)
        if not loss_weight > 0:
            raise ConfigError(f"method.loss_weight={loss_weight:g} must be above 0.")
        self.on, self.loss_weight = on, loss_weight
        self.traits = Traits(
            uses_class_names=False, trainable=False, transductive=False, order_sensitive=backbone.sees_order
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `points` `[V, P, C]`: the normalised mean frame (P = 1) or all normalised frames (P = T)."""
        frames = features.frames.mean(1, keepdim=True) if self.on == "videos" else features.frames
        return VideoFeatures(points=F.normalize(frames, dim=-1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = mean over the query's points of W x + b."""
        W, b = self.fit_episodes(support)
        return Scores((query.points.double().mean(2) @ W.transpose(1, 2) + b[:, None]).to(query.points.dtype))

    def fit_episodes(self, support: VideoFeatures) -> tuple[Tensor, Tensor]:
        """Fit W `[E, N, C]` and b `[E, N]` of each episode, in float64."""
        points = support.points.double()
        E, N, K, P, C = points.shape
        labels = torch.arange(N, device=points.device).repeat_interleave(K * P)
        chunk = max(1, CHUNK // (N * K * P * C))
        fitted = [fit_logistic(x, labels, N, self.loss_weight) for x in points.reshape(E, -1, C).split(chunk)]
        return torch.cat([W for W, _ in fitted]), torch.cat([b for _, b in fitted])
