"""OTAM: ordered temporal alignment (Cao et al., CVPR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsar_bench.errors import ConfigError
from fsar_bench.matching.matcher import Alignment, Matcher, frame_distance, influence
from fsar_bench.registry import MATCHERS


def otam(distance: Tensor, smoothing: float) -> Tensor:
    """Relaxed cost of the cheapest ordered alignment of two sequences, in one direction.

    With d the distances padded by a zero column on either side and smin(x) = -smoothing * log(sum(exp(-x / smoothing))):

        G[0, m] = d[0, m] + G[0, m-1]                                       the first row is a plain sum
        G[l, 1] = d[l, 1] + smin(G[l-1, 0], G[l-1, 1], G[l, 0])
        G[l, m] = d[l, m] + smin(G[l-1, m-1], G[l, m-1])                    m = 2..S
        G[l, S+1] = smin(G[l-1, S], G[l-1, S+1], G[l, S])

    and the cost is G[T-1, S+1]. Computed in the log domain (finite where the literal exponentials overflow), one column
    at a time: except for the first, each column depends only on the previous one, and the last is a single log-sum-exp.

    Args:
        distance: frame distances `[..., T, S]`.
        smoothing: lambda, greater than 0; OTAM uses 0.1, CLIP-FSAR's code 0.5.

    Returns:
        Costs `[...]`; may be slightly negative.
    """
    T, S = distance.shape[-2:]
    scores = distance.movedim((-2, -1), (0, 1)) * (-1 / smoothing)  # [T, S, ...]: -d / lambda
    rows = [scores[0, 0]]
    two = torch.full_like(rows[0], math.log(2.0))
    for row in range(1, T):  # first column: G[l-1, 0] = G[l, 0] = 0 offer two paths of cost 0
        rows.append(scores[row, 0] + torch.logaddexp(two, rows[-1]))
    column = torch.stack(rows)
    for m in range(1, S):
        first = scores[:1, m] + column[:1]
        column = torch.cat([first, scores[1:, m] + torch.logaddexp(column[1:], column[:-1])]) if T > 1 else first
    # Every row ends in the last padded column once, and once more from the row below it.
    twice = torch.full((T,), math.log(2.0), dtype=column.dtype, device=column.device)
    twice[-1] = 0.0
    return -smoothing * torch.logsumexp(column + twice.view(T, *[1] * (column.ndim - 1)), dim=0)


@MATCHERS.register_module()
class OTAM(Matcher):
    """Ordered temporal alignment with a relaxed minimum, averaged over the shots of a class.

    Args:
        smoothing: lambda of the relaxed minimum.
        bidirectional: add the cost of aligning support to query (as all official code bases do).
        epsilon: added to the product of norms in the cosine.

    Raises:
        ConfigError: a smoothing that is not above 0.
    """

    order_sensitive = True

    def __init__(self, *, smoothing: float = 0.1, bidirectional: bool = True, epsilon: float = 0.01) -> None:
        super().__init__()
        if not smoothing > 0:
            raise ConfigError(f"smoothing={smoothing:g} of OTAM must be above 0.")
        self.smoothing, self.bidirectional, self.epsilon = smoothing, bidirectional, epsilon

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        distance = frame_distance(query, support, epsilon=self.epsilon)
        cost = otam(distance, self.smoothing)
        if self.bidirectional:
            cost = cost + otam(distance.transpose(-1, -2), self.smoothing)
        return cost.mean(-1)

    def alignment(self, query: Tensor, support: Tensor) -> Alignment:
        """Return the share of alignments through each pair of frames; with `bidirectional`, summed over both directions."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=self.epsilon)[0, 0, 0]

        def cost(d: Tensor) -> Tensor:
            forward = otam(d, self.smoothing)
            return forward + otam(d.transpose(-1, -2), self.smoothing) if self.bidirectional else forward

        direction = "both ways" if self.bidirectional else "query to support"
        return Alignment(distance, influence(cost, distance), f"share of the alignments, {direction}")
