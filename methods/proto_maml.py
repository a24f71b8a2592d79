"""ProtoMAML (Triantafillou et al., ICLR 2020): a linear classifier starts at the prototypes and takes steps on the supports.

Re-implementation after the MAML rows of video tables (CMN, ECCV 2018; OTAM, CVPR 2020), settings declared.

Followed: ProtoMAML's head over mean frames: w_c = 2 p_c and b_c = -|p_c|^2 for the class means p_c, so that the logits of a query
start as squared Euclidean distances; S steps of gradient descent on the cross-entropy of the supports. Both depend on the
features, and training goes through them.
Differs: MAML's head starts at weights that are learned for each label, so its scores depend on how classes are numbered; this
one starts at the class means. The inner steps change the head alone, not the encoder as MAML's do. The gradient of the
inner loss is written out instead of being left to autograd, which gives the same numbers.
Unknown: all settings of the published rows. Declared: 10 steps at a learning rate of 0.01, no momentum or weight decay, the
mean over supports, first-order training (`second_order=False`: the inner gradients are constants), AdamW 1e-5. Where
features are long, the loss of one support is near 0 from the start, and the steps change nothing: on SynthAct at 1 shot all
predictions are those of ProtoNet.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.method import METHODS, Backbone, ConfigError, FewShotMethod, Scores, Traits, Tuned, VideoFeatures


def adapt(
    support: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, *, steps: int, lr: float, second_order: bool
) -> tuple[Tensor, Tensor]:
    """Take steps of gradient descent on the cross-entropy of linear classifiers, one per episode.

    With p the softmax of x W + b and y one-hot labels, the gradients are x^T (p - y) / V and the mean of p - y.

    Args:
        support: x, videos of each episode `[E, V, C]`.
        labels: label of each video `[V]`, 0 to N - 1, the same in all episodes.
        weight: W at the start `[E, C, N]`.
        bias: b at the start `[E, N]`.
        steps: S.
        lr: learning rate.
        second_order: the gradients are part of the graph; otherwise they are constants, as in first-order MAML.

    Returns:
        W and b after the last step.
    """
    target = F.one_hot(labels, weight.shape[-1]).to(support.dtype)
    for _ in range(steps):
        error = ((support @ weight + bias[:, None]).softmax(-1) - target) / len(labels)  # [E, V, N]
        gradients = support.transpose(1, 2) @ error, error.sum(1)
        by_weight, by_bias = gradients if second_order else (gradient.detach() for gradient in gradients)
        weight, bias = weight - lr * by_weight, bias - lr * by_bias
    return weight, bias


@METHODS.register_module()
class ProtoMAML(FewShotMethod):
    """A linear classifier of mean frames, adapted to the supports of each episode.

    Args:
        backbone: image encoder.
        tune: "none" (training-free) or "visual" (the whole image encoder is trained).
        steps: S, inner steps; 0 is the nearest class mean.
        inner_lr: learning rate of the inner steps.
        second_order: differentiate the inner gradients in training.

    Raises:
        ConfigError: an unknown word for `tune`, a negative number of steps, or a learning rate that is not above 0.
    """

    role_free = True

    def __init__(
        self,
        backbone: Backbone,
        *,
        tune: Tuned = "visual",
        steps: int = 10,
        inner_lr: float = 0.01,
        second_order: bool = False,
    ) -> None:
        super().__init__(backbone)
        if steps < 0:
            raise ConfigError(f"method.steps={steps} must not be negative; 0 is the nearest class mean.")
        if not inner_lr > 0:
            raise ConfigError(f"method.inner_lr={inner_lr:g} must be above 0, such as 0.01.")
        self.tune(tune)
        self.steps, self.inner_lr, self.second_order = steps, inner_lr, second_order
        self.traits = Traits(
            uses_class_names=False, trainable=tune == "visual", transductive=False, order_sensitive=backbone.sees_order
        )

    def encode(self, features: VideoFeatures, class_text: Tensor | None) -> VideoFeatures:
        """Return `video` `[V, C]`, the mean frame."""
        return VideoFeatures(video=features.frames.mean(1))

    def score(self, support: VideoFeatures, query: VideoFeatures, class_text: Tensor) -> Scores:
        """Total = logits of the adapted classifier minus |query|^2: -|query - class mean|^2 at 0 steps."""
        N, K = support.video.shape[1:3]
        prototypes = support.video.mean(2)
        weight, bias = adapt(
            support.video.flatten(1, 2),
            torch.arange(N, device=prototypes.device).repeat_interleave(K),
            2 * prototypes.transpose(1, 2),
            -prototypes.square().sum(-1),
            steps=self.steps,
            lr=self.inner_lr,
            second_order=self.second_order,
        )
        return Scores(query.video @ weight + bias[:, None] - query.video.square().sum(-1, keepdim=True))
