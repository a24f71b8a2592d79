"""Prototype matching (Snell et al., NeurIPS 2017): one vector per video, one prototype per class; frame order is ignored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar_bench.matching.matcher import Matcher
from fsar_bench.registry import MATCHERS


@MATCHERS.register_module()
class CosinePrototype(Matcher):
    """Cosine distance between the mean frame of a query and the mean frame of a class; the order of frames is ignored.

    Frames are normalised, averaged over time and shots, and normalised again (training-free CLIP prototype).

    Args:
        temperature: factor of the distance; it sharpens probabilities without changing the ranking.
    """

    def __init__(self, temperature: float = 100.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        x = F.normalize(F.normalize(query, dim=-1).mean(2), dim=-1)
        y = F.normalize(F.normalize(support, dim=-1).mean((2, 3)), dim=-1)
        return self.temperature * (1 - x @ y.transpose(1, 2))


@MATCHERS.register_module()
class MeanCosine(Matcher):
    """Cosine distance of mean frames, averaged over the shots of a class instead of averaging their features.

    1 - x.y / (|x| |y| + epsilon) with plain means over time: the default of the TRX authors' code base for its prototype row.

    Args:
        epsilon: added to the product of norms.
        temperature: factor of the distance; 1 in that code base, which keeps the loss soft (at least 0.43 at 5 ways).
    """

    def __init__(self, epsilon: float = 0.01, temperature: float = 1.0) -> None:
        super().__init__()
        self.epsilon, self.temperature = epsilon, temperature

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        x, y = query.mean(2), support.mean(3)
        norms = torch.einsum("eq,enk->eqnk", x.norm(dim=-1), y.norm(dim=-1))
        cosine = torch.einsum("eqc,enkc->eqnk", x, y) / (norms + self.epsilon)
        return self.temperature * (1 - cosine).mean(-1)


@MATCHERS.register_module()
class EuclideanPrototype(Matcher):
    """Squared Euclidean distance between the mean frame of a query and that of a class.

    Args:
        scale: factor of the squared distance.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        x, y = query.mean(2), support.mean((2, 3))
        return self.scale * (x[:, :, None] - y[:, None]).square().sum(-1)
