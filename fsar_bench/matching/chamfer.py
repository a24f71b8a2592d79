"""Chamfer matching and its simple relatives (Bertrand et al., arXiv 2303.16084).

The paper writes them as similarities of cosines; the same reductions of 1 - cosine give distances that rank alike.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError
from fsar_bench.matching.matcher import Alignment, Matcher, PairMatcher, frame_distance
from fsar_bench.registry import MATCHERS

Direction = Literal["both", "query", "support"]


def chamfer(distance: Tensor, direction: Direction = "both") -> Tensor:
    """Mean distance of each frame to the nearest frame of the other video.

    Args:
        distance: frame distances `[..., T, S]`.
        direction: whose frames look for their nearest: the "query"'s (T), the "support"'s (S), or the mean of "both".

    Returns:
        Distances `[...]`.
    """
    if direction == "query":
        return distance.amin(-1).mean(-1)
    if direction == "support":
        return distance.amin(-2).mean(-1)
    return (distance.amin(-1).mean(-1) + distance.amin(-2).mean(-1)) / 2


def class_chamfer(distance: Tensor, direction: Direction, *, joint: bool) -> Tensor:
    """Chamfer distance to a class.

    Args:
        distance: frame distances `[..., K, T, S]`.
        direction: as in `chamfer`.
        joint: join the shots to one support of K * S frames, instead of averaging over the shots.

    Returns:
        Distances `[...]`.
    """
    if joint:
        return chamfer(distance.transpose(-3, -2).flatten(-2), direction)
    return chamfer(distance, direction).mean(-1)


def frame_tuples(frames: Tensor, length: int) -> Tensor:
    """Concatenate all ordered tuples of frames.

    Args:
        frames: `[..., T, C]`.
        length: number of frames in a tuple, at most T.

    Returns:
        `[..., M, length * C]`, with M = T over `length`.

    Raises:
        ConfigError: a video has fewer frames than a tuple.
    """
    T = frames.shape[-2]
    if length > T:
        raise ConfigError(f"matcher.tuples={length} makes tuples of {length} frames, but a video has {T}: lower it.")
    tuples = torch.tensor(list(combinations(range(T), length)), device=frames.device)
    return frames[..., tuples, :].flatten(-2)


def _check_chamfer(direction: str, tuples: int) -> None:
    if direction not in get_args(Direction):
        raise ConfigError(f"matcher.direction={direction!r} is unknown. Choose from: {', '.join(get_args(Direction))}.")
    if tuples < 1:
        raise ConfigError(f"matcher.tuples={tuples} must be at least 1, the single frame.")


@MATCHERS.register_module()
class Chamfer(PairMatcher):
    """Chamfer distance of frames regardless of their order. With the plain cosine Bi-MHM is 2T times its `direction="both"`.

    Args:
        direction: whose frames look for their nearest: "query", "support" or "both".
        joint: join the shots of a class to one long support instead of averaging over them; with "query" that is NBNN.
        epsilon: added to the product of norms in the cosine.

    Raises:
        ConfigError: an unknown direction.
    """

    what = "nearest frames"

    def __init__(self, *, direction: Direction = "both", joint: bool = False, epsilon: float = 0.01) -> None:
        super().__init__(epsilon)
        _check_chamfer(direction, 1)
        self.direction: Direction = direction
        self.joint = joint

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to `[...]`."""
        return class_chamfer(distance, self.direction, joint=self.joint)


@MATCHERS.register_module()
class TupleChamfer(Matcher):
    """Chamfer++: joint Chamfer distance between ordered tuples of frames after a learned projection.

    distance = temperature * w * Chamfer of 1 - cosine of LayerNorm(W tuple + b), with a learned factor w.

    Args:
        width: C of the frames; filled by the method.
        tuples: number of frames in a tuple; 3 in the paper.
        out: width of the projection; 1152 in the official code.
        direction: as in `Chamfer`.
        joint: as in `Chamfer`.
        temperature: fixed factor of the distance.
        epsilon: added to the product of norms in the cosine.

    Raises:
        ConfigError: an unknown direction, or tuples of less than one frame.
    """

    order_sensitive = True
    learned = True

    def __init__(
        self,
        width: int,
        *,
        tuples: int = 3,
        out: int = 1152,
        direction: Direction = "both",
        joint: bool = True,
        temperature: float = 10.0,
        epsilon: float = 0.01,
    ) -> None:
        super().__init__()
        _check_chamfer(direction, tuples)
        self.tuples, self.joint, self.temperature, self.epsilon = tuples, joint, temperature, epsilon
        self.direction: Direction = direction
        self.order_sensitive = tuples > 1
        self.project = nn.Sequential(nn.Linear(tuples * width, out), nn.LayerNorm(out))
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`."""
        distances = [  # episode by episode: the distances of all pairs of tuples are large
            frame_distance(*(self.project(frame_tuples(x, self.tuples)) for x in episode), epsilon=self.epsilon)
            for episode in zip(query.split(1), support.split(1), strict=True)
        ]
        cost = torch.cat([class_chamfer(distance, self.direction, joint=self.joint) for distance in distances])
        return self.temperature * self.weight * cost


@MATCHERS.register_module()
class Diagonal(PairMatcher):
    """Mean distance of frames in the same place, averaged over the shots.

    Args:
        epsilon: added to the product of norms in the cosine.
    """

    order_sensitive = True
    what = "frames in the same place"

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to `[...]`."""
        return distance.diagonal(dim1=-2, dim2=-1).mean((-2, -1))


@MATCHERS.register_module()
class NearestPair(PairMatcher):
    """Distance of the nearest pair of frames ("max" in the paper), averaged over the shots.

    Args:
        epsilon: added to the product of norms in the cosine.
    """

    what = "the nearest pair"

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to `[...]`."""
        return distance.amin((-2, -1)).mean(-1)


@MATCHERS.register_module()
class AllPairs(PairMatcher):
    """Summed distances to all frames of a shot ("mean" in the paper), averaged over the query's frames and the shots.

    Args:
        epsilon: added to the product of norms in the cosine.
    """

    what = "all pairs alike"

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to `[...]`."""
        return distance.sum(-1).mean((-2, -1))


@MATCHERS.register_module()
class LinearPairs(PairMatcher):
    """Learned weighted sum of the frame distances ("linear" in the paper), averaged over the shots.

    The weights start as those of `AllPairs`. A video of another length meets the grid of weights resized by averaging over areas,
    with the sum of the weights unchanged.

    Args:
        width: C of the frames; filled by the method and not used.
        frames: side of the grid of weights, the T that it is exact for.
        epsilon: added to the product of norms in the cosine.

    Raises:
        ConfigError: `frames` below 1.
    """

    order_sensitive = True
    learned = True

    def __init__(self, width: int, *, frames: int = 8, epsilon: float = 0.01) -> None:
        super().__init__(epsilon)
        if frames < 1:
            raise ConfigError(f"matcher.frames={frames} must be at least 1.")
        self.weight = nn.Parameter(torch.full((frames, frames), 1 / frames))

    def grid(self, shape: tuple[int, ...]) -> Tensor:
        """Weights of `shape` `[T, S]`, for queries of T frames and supports of S frames."""
        if self.weight.shape == shape:
            return self.weight
        resized = F.interpolate(self.weight[None, None], shape, mode="area")[0, 0]
        return resized * (self.weight.numel() / resized.numel())

    def cost(self, distance: Tensor) -> Tensor:
        """Reduce frame distances `[..., K, T, S]` to `[...]`."""
        return (distance * self.grid(distance.shape[-2:])).sum((-2, -1)).mean(-1)

    def alignment(self, query: Tensor, support: Tensor) -> Alignment:
        """Return the size of the weight of each pair of frames, the same for all videos."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=self.epsilon)[0, 0, 0]
        weight = self.grid(distance.shape[-2:]).detach().abs().expand_as(distance)
        return Alignment(distance, weight, "size of the learned weights")
