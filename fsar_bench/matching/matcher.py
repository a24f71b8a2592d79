"""The interface of matchers, and the distance between frames that they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.registry import MATCHERS, build, find


@dataclass(frozen=True)
class Alignment:
    """Which frames of a query a matcher compares with which frames of a class.

    Attributes:
        distance: cosine distance of frames, `[K, T, S]`.
        weight: share of each pair of frames in the matcher's distance, `[K, T, S]`, not negative.
        what: meaning of the weight, in words.
    """

    distance: Tensor
    weight: Tensor
    what: str


class Matcher(nn.Module):
    """Distance between queries and classes.

    Attributes:
        order_sensitive: the order of frames matters.
        learned: the matcher has parameters, and its constructor takes `width`, the C of the frames.
    """

    order_sensitive: bool = False
    learned: bool = False

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute the distance of each query to each class.

        Args:
            query: frame features `[E, Q, T, C]`.
            support: frame features `[E, N, K, T, C]`.

        Returns:
            Distances `[E, Q, N]`; lower is better.
        """
        raise NotImplementedError

    def index(self, frames: Tensor) -> dict[str, Tensor]:
        """Compute what the distance needs of each video alone, so that many episodes share it.

        Args:
            frames: `[..., T, C]`.

        Returns:
            Tensors by name, with the leading dimensions of the frames; empty, the default, where there is nothing to share.
        """
        return {}

    def indexed_distance(self, query: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> Tensor:
        """Compute the same distances as `forward`, to rounding, from what `index` gave, for a matcher that defines it.

        Args:
            query: leading dimensions `[E, Q]`.
            support: leading dimensions `[E, N, K]`.

        Returns:
            Distances `[E, Q, N]`.
        """
        raise NotImplementedError

    def alignment(self, query: Tensor, support: Tensor) -> Alignment | None:
        """Return the pairs of frames that the matcher compares, for pictures.

        Args:
            query: frame features `[T, C]`.
            support: frame features of one class, `[K, S, C]`.

        Returns:
            The alignment, or None (the default) for a matcher that compares whole videos.
        """
        return None


def influence(cost: Callable[[Tensor], Tensor], distance: Tensor) -> Tensor:
    """Compute the gradient of a cost with respect to each frame distance.

    For a minimum over paths the gradient is the path itself; for a relaxed minimum it is the share of paths through each pair.

    Args:
        cost: maps frame distances to costs, which are summed.
        distance: frame distances of any shape.

    Returns:
        The gradient, in the shape of the distances.
    """
    with torch.enable_grad():
        leaf = distance.detach().clone().requires_grad_(True)
        return torch.autograd.grad(cost(leaf).sum(), leaf)[0]


def build_matcher(config: dict, width: int) -> Matcher:
    """Build a matcher.

    Args:
        config: `dict(type=..., ...)` with the constructor's arguments.
        width: C of the frames.

    Raises:
        ConfigError: unknown type or arguments.
    """
    learned = getattr(find(MATCHERS, config.get("type")), "learned", False)
    return cast("Matcher", build(MATCHERS, config, **({"width": width} if learned else {})))


def frame_distance(query: Tensor, support: Tensor, *, epsilon: float) -> Tensor:
    """Cosine distance between every frame of the queries and every frame of the supports.

    1 - x.y / (|x| |y| + epsilon); the official code bases of OTAM, CLIP-FSAR and MoLo use epsilon = 0.01, so that equal
    frames of unit length have the distance 1 - 1/1.01.

    Args:
        query: `[E, Q, T, C]`.
        support: `[E, N, K, S, C]`; S is usually T.
        epsilon: added to the product of the norms.

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


def moved_frame_distance(
    query: Tensor, support: Tensor, query_move: Tensor, support_move: Tensor, *, epsilon: float
) -> Tensor:
    """Compute `frame_distance` of prototypes that depend on the query, without making them.

    A query q compares its frames f + a, with a of its own, to the frames g + b of class n, with b of q and n: their products
    and norms follow from products of f, g, a and b.

    Args:
        query: f, `[E, Q, T, C]`.
        support: g, `[E, N, S, C]`.
        query_move: a, `[E, Q, C]`.
        support_move: b, `[E, Q, N, C]`.
        epsilon: added to the product of the norms.

    Returns:
        `[E, Q, N, 1, T, S]`.
    """
    E, Q, T, _ = query.shape
    N, S = support.shape[1:3]
    f, g = query.flatten(1, 2), support.flatten(1, 2)
    move = torch.cat([support_move, query_move[:, :, None]], 2)  # [E, Q, N + 1, C]
    f_move = query @ move.transpose(-1, -2)  # [E, Q, T, N + 1]
    g_move = (
        (g @ move.flatten(1, 2).transpose(1, 2)).view(E, N, S, Q, N + 1).permute(0, 3, 1, 2, 4)
    )  # [E, Q, N, S, N + 1]
    g_own = g_move[..., :N].diagonal(dim1=2, dim2=4).transpose(2, 3)  # [E, Q, N, S]
    moves = (support_move * query_move[:, :, None]).sum(-1)  # [E, Q, N]
    product = (f @ g.transpose(1, 2)).view(E, Q, T, N, S).transpose(2, 3)
    product = product + (f_move[..., :N].transpose(2, 3) + moves[..., None])[..., None] + g_move[..., N][:, :, :, None]
    f_square = _square(query) + 2 * f_move[..., N] + _square(query_move)[..., None]  # [E, Q, T]
    g_square = _square(support)[:, None] + 2 * g_own + _square(support_move)[..., None]
    smallest = 1e-24 if epsilon == 0 else 0.0  # as `normalize` has it
    norms = f_square.clamp(min=smallest).sqrt()[:, :, None, :, None] * g_square.clamp(min=smallest).sqrt()[..., None, :]
    return (1 - product / (norms + epsilon))[:, :, :, None]


def _square(x: Tensor) -> Tensor:
    """Squared norms of vectors `[..., C]`, without an array of squares."""
    return torch.linalg.vector_norm(x, dim=-1).square()


class PairMatcher(Matcher):
    """A matcher that is a cost of the frame distances of a query and the shots of a class.

    Attributes:
        what: meaning of the cost's gradient in words, for `alignment`.

    Args:
        epsilon: added to the product of norms in the cosine.
    """

    what: str

    def __init__(self, epsilon: float = 0.0) -> None:
        super().__init__()
        self.epsilon = epsilon

    def cost(self, distance: Tensor) -> Tensor:
        """Compute the distance of a query to a class.

        Args:
            distance: frame distances `[..., K, T, S]`.

        Returns:
            Distances `[...]`.
        """
        raise NotImplementedError

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        return self.cost(frame_distance(query, support, epsilon=self.epsilon))

    def alignment(self, query: Tensor, support: Tensor) -> Alignment | None:
        """Return the share of each pair of frames in the cost: its gradient."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=self.epsilon)[0, 0, 0]
        return Alignment(distance, influence(self.cost, distance), self.what)
