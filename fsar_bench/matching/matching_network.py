"""Matching network over frames (after Vinyals et al., NeurIPS 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from fsar_bench.matching.matcher import Alignment, Matcher, frame_distance
from fsar_bench.registry import MATCHERS


def class_log_probability(similarity: Tensor) -> Tensor:
    """Attention of query frames over all support frames of an episode, summed over the frames of each class.

    p(c) = mean over t of sum over shots and frames of class c of softmax(similarity of frame t to all support frames).

    Args:
        similarity: `[..., N, K, T, S]` of T query frames and S frames of each support.

    Returns:
        log p `[..., N]`; p sums to 1 over the classes.
    """
    T = similarity.shape[-2]
    by_frame = similarity.movedim(-2, -4).flatten(-2)  # [..., T, N, K * S]
    total = by_frame.flatten(-2).logsumexp(-1)[..., None]
    return torch.logsumexp(by_frame.logsumexp(-1) - total, -2) - torch.log(by_frame.new_tensor(T))


@MATCHERS.register_module()
class MatchingNetwork(Matcher):
    """Each query frame attends to all support frames of the episode, regardless of their order.

    The distance of a class is -log of the attention it receives, so that cross-entropy of the negated distances is the
    network's own loss.

    Args:
        temperature: factor of the cosine inside the softmax; 1 is the plain cosine of the original.
        epsilon: added to the product of norms in the cosine.
    """

    def __init__(self, temperature: float = 1.0, epsilon: float = 0.01) -> None:
        super().__init__()
        self.temperature, self.epsilon = temperature, epsilon

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        cosine = 1 - frame_distance(query, support, epsilon=self.epsilon)
        return -class_log_probability(self.temperature * cosine)

    def alignment(self, query: Tensor, support: Tensor) -> Alignment:
        """Return the attention of each query frame over the frames of this class."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=self.epsilon)[0, 0, 0]
        K, T, S = distance.shape
        attention = (self.temperature * (1 - distance)).transpose(0, 1).reshape(T, K * S).softmax(-1)
        return Alignment(
            distance, attention.view(T, K, S).transpose(0, 1), "attention of the query's frames within the class"
        )
