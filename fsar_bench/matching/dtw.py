"""DTW (Sakoe and Chiba, 1978) and soft-DTW (Cuturi and Blondel, ICML 2017) over frames."""

from __future__ import annotations

import torch
from torch import Tensor

from fsar_bench.errors import ConfigError
from fsar_bench.matching.matcher import PairMatcher
from fsar_bench.registry import MATCHERS

WALL = 1e10  # cost outside the grid; finite, so that gradients are


def soft_minimum(costs: Tensor, smoothing: float) -> Tensor:
    """Minimum over the first dimension: hard at 0, otherwise -smoothing * log(sum(exp(-x / smoothing)))."""
    return costs.amin(0) if smoothing == 0 else -smoothing * torch.logsumexp(costs * (-1 / smoothing), 0)


def dtw(distance: Tensor, smoothing: float) -> Tensor:
    """Cost of the cheapest warping path from the first pair of frames to the last one.

    R[i, j] = d[i, j] + smin(R[i-1, j-1], R[i-1, j], R[i, j-1]), R[0, 0] = d[0, 0], and the cost is R[T-1, S-1]. All pairs of one
    anti-diagonal i + j are computed at once, as they depend on the two anti-diagonals before it alone.

    Args:
        distance: frame distances `[..., T, S]`.
        smoothing: gamma of soft-DTW; 0 is DTW.

    Returns:
        Costs `[...]`; those of soft-DTW may be negative.
    """
    T, S = distance.shape[-2:]
    pairs = distance.movedim((-2, -1), (0, 1))
    rows = torch.arange(T, device=distance.device)
    wall = pairs.new_full((T + 1, *pairs.shape[2:]), WALL)  # row i is at i + 1
    last, before = wall, torch.cat([torch.zeros_like(wall[:1]), wall[1:]])  # a path begins with R[-1, -1] = 0
    for step in range(T + S - 1):
        low, high = max(0, step - S + 1), min(T - 1, step) + 1
        inside = rows[low:high]
        choices = torch.stack([before[low:high], last[low:high], last[low + 1 : high + 1]])
        costs = pairs[inside, step - inside] + soft_minimum(choices, smoothing)
        last, before = torch.cat([wall[: low + 1], costs, wall[high + 1 :]]), last
    return last[T]


@MATCHERS.register_module()
class DTW(PairMatcher):
    """Dynamic time warping with both ends fixed, averaged over the shots of a class.

    OTAM differs: its ends are free, and inside, every step moves on in one of the two videos.

    Args:
        smoothing: gamma of soft-DTW; 0 is DTW.
        epsilon: added to the product of norms in the cosine.

    Raises:
        ConfigError: a negative smoothing.
    """

    order_sensitive = True
    what = "share of the warping paths"

    def __init__(self, *, smoothing: float = 0.0, epsilon: float = 0.0) -> None:
        super().__init__(epsilon)
        if not smoothing >= 0:
            raise ConfigError(f"smoothing={smoothing:g} of DTW must not be negative; 0 is the hard minimum.")
        self.smoothing = smoothing

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to the mean cost over the shots `[...]`."""
        return dtw(distance, self.smoothing).mean(-1)
