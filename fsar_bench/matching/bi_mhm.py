"""Bi-MHM: bidirectional mean Hausdorff metric in the form of HyRSM's code (Wang et al., CVPR 2022)."""

from __future__ import annotations

from torch import Tensor

from fsar_bench.matching.matcher import Alignment, PairMatcher, frame_distance, influence
from fsar_bench.registry import MATCHERS


def bi_mhm(distance: Tensor) -> Tensor:
    """Sum over the frames of both videos of the distance to the nearest frame of the other video (sums, as the official code).

    Args:
        distance: frame distances `[..., T, S]`.

    Returns:
        Distances `[...]`.
    """
    return distance.amin(-1).sum(-1) + distance.amin(-2).sum(-1)


@MATCHERS.register_module()
class BiMHM(PairMatcher):
    """Set-to-set matching of frames regardless of their order, averaged over the shots of a class.

    Args:
        epsilon: added to the product of norms in the cosine; HyRSM uses 0, MoLo 0.01.
    """

    def cost(self, distance: Tensor) -> Tensor:
        """Average over the shots of frame distances `[..., K, T, S]`: `[...]`."""
        return bi_mhm(distance).mean(-1)

    def alignment(self, query: Tensor, support: Tensor) -> Alignment:
        """Mark nearest frames: 1 where a frame is the nearest of the other video in one direction, 2 in both directions."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=self.epsilon)[0, 0, 0]
        return Alignment(distance, influence(bi_mhm, distance), "nearest frames, one way or both")
