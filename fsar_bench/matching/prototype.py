"""Prototype matching: one vector a video, one prototype a class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fsar_bench.matching.matcher import Matcher
from fsar_bench.registry import MATCHERS


@MATCHERS.register_module()
class CosinePrototype(Matcher):
    """Cosine distance between the mean frame of a query and the mean frame of a class, blind to the order of frames.

    Frames are normalised, averaged over time and shots, and normalised again (training-free CLIP prototype).

    Args:
        temperature: factor of the distance; it sharpens probabilities and does not change the ranking.
    """

    def __init__(self, temperature: float = 100.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        x = F.normalize(F.normalize(query, dim=-1).mean(2), dim=-1)
        y = F.normalize(F.normalize(support, dim=-1).mean((2, 3)), dim=-1)
        return self.temperature * (1 - x @ y.transpose(1, 2))
