"""What every matcher fulfils, and the distance between frames that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.registry import MATCHERS, build


@dataclass(frozen=True)
class Alignment:
    """Which frames of a query a matcher set against which frames of a class.

    Attributes:
        distance: cosine distance of frames, `[K, T, S]`.
        weight: how much each pair of frames counts, `[K, T, S]`, not negative.
        what: what the weight is, in words.
    """

    distance: Tensor
    weight: Tensor
    what: str


class Matcher(nn.Module):
    """Distance between queries and classes.

    Attributes:
        order_sensitive: whether the order of frames matters.
        learned: it has parameters; its constructor takes `width`, the C of the frames.
    """

    order_sensitive: bool = False
    learned: bool = False

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Distance of each query to each class.

        Args:
            query: frame features `[E, Q, T, C]`.
            support: frame features `[E, N, K, T, C]`.

        Returns:
            Distances `[E, Q, N]`, lower is better.
        """
        raise NotImplementedError

    def alignment(self, query: Tensor, support: Tensor) -> Alignment | None:
        """What the matcher sets against what, for pictures; None for one that compares whole videos.

        Args:
            query: frame features `[T, C]`.
            support: frame features of one class, `[K, S, C]`.
        """
        return None


def influence(cost: Callable[[Tensor], Tensor], distance: Tensor) -> Tensor:
    """How a cost changes with each frame distance: its gradient, in the shape of the distances.

    For a minimum over paths this is the path itself, for a relaxed one the share of paths through each pair.
    """
    with torch.enable_grad():
        leaf = distance.detach().clone().requires_grad_(True)
        return torch.autograd.grad(cost(leaf).sum(), leaf)[0]


def build_matcher(config: dict, width: int) -> Matcher:
    """Build a matcher from `dict(type=..., ...)` for frames of width C.

    Raises:
        ConfigError: unknown type or arguments.
    """
    MATCHERS.import_from_location()
    learned = getattr(MATCHERS.get(str(config.get("type"))), "learned", False)
    return build(MATCHERS, config, **({"width": width} if learned else {}))


def frame_distance(query: Tensor, support: Tensor, *, epsilon: float) -> Tensor:
    """Cosine distance between every frame of queries and of supports.

    1 - x.y / (|x| |y| + epsilon); the official code bases of OTAM, CLIP-FSAR and MoLo use epsilon = 0.01, so that equal
    frames are 1 - 1/1.01 apart when they have unit length.

    Args:
        query: `[E, Q, T, C]`.
        support: `[E, N, K, S, C]`; S frames, mostly T.

    Returns:
        `[E, Q, N, K, T, S]`.
    """
    E, Q, T, C = query.shape
    _, N, K, S, _ = support.shape
    x, y = query.reshape(E, Q * T, C), support.reshape(E, N * K * S, C)
    if epsilon == 0:
        cosine = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).transpose(1, 2)
    else:
        norms = x.norm(dim=-1)[:, :, None] * y.norm(dim=-1)[:, None]
        cosine = (x @ y.transpose(1, 2)) / (norms + epsilon)
    return 1 - cosine.view(E, Q, T, N, K, S).permute(0, 1, 3, 4, 2, 5)
