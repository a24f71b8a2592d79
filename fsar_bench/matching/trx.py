"""TRX: query-specific class prototypes over tuples of frames (Perrett et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import combinations
from math import comb
from operator import add
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar_bench.errors import ConfigError
from fsar_bench.layers import SinusoidalPositions
from fsar_bench.matching.matcher import Alignment, Matcher, frame_distance
from fsar_bench.matching.tuple_index import index_tuples, indexed_distance
from fsar_bench.registry import MATCHERS

# Floats in the largest intermediate array, chosen for the caches of a CPU and the memory of a GPU.
CHUNK = {"cpu": 2**23, "cuda": 2**27}
INDEXED_CHUNK = {"cpu": 2**19, "cuda": 2**26}  # of distances from indices, which have no width in their largest array


class _Part(Mapping[str, Tensor]):
    """Some episodes of the index of one size, by its own names; what is not read is not touched, so that it is not gathered."""

    def __init__(self, index: Mapping[str, Tensor], number: int, episodes: slice) -> None:
        self._index, self._prefix, self._episodes = index, f"{number}_", episodes

    def __getitem__(self, name: str) -> Tensor:
        return self._index[self._prefix + name][self._episodes]

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._index

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._index if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def tuple_attention(query_key: Tensor, support_key: Tensor) -> Tensor:
    """Compute the attention of each tuple of a query over all tuples of a class.

    Args:
        query_key: `[E, Q, M, W]`, as in `tuple_distance`.
        support_key: `[E, N, L, W]`.

    Returns:
        `[E, Q, N, M, L]`; sums to 1 over L.
    """
    return (query_key[:, :, None] @ support_key[:, None].transpose(-1, -2) / query_key.shape[-1] ** 0.5).softmax(-1)


def tuple_distance(query_key: Tensor, query_value: Tensor, support_key: Tensor, support_value: Tensor) -> Tensor:
    """Distance of queries to prototypes that each of their tuples composes, by attention, from the tuples of a class.

    a = softmax over all tuples of a class of k_q . k_s / sqrt(W); distance = sum over query tuples |v_q - a v_s|^2 / tuples.

    Args:
        query_key: `[E, Q, M, W]`, M tuples of a query.
        query_value: `[E, Q, M, W]`.
        support_key: `[E, N, L, W]`, L tuples of all shots of a class.
        support_value: `[E, N, L, W]`.

    Returns:
        Distances `[E, Q, N]`, not negative.
    """
    M = query_key.shape[-2]
    attention = tuple_attention(query_key, support_key)
    prototype = attention @ support_value[:, None]  # [E, Q, N, M, W]
    return (query_value[:, :, None] - prototype).square().sum((-1, -2)) / M


class TupleTransformer(nn.Module):
    """Keys and values of all ordered tuples of `cardinality` frames.

    A linear layer over concatenated frames is a sum of one linear layer per place, so frames are projected once per place
    and the tuples only add: exact, and cheaper than projecting every tuple.

    Args:
        width: C of the frames.
        cardinality: number of frames in a tuple.
        out: W, width of keys and values.
    """

    def __init__(self, width: int, cardinality: int, out: int) -> None:
        super().__init__()
        self.cardinality = cardinality
        self.key, self.value = nn.Linear(width * cardinality, out), nn.Linear(width * cardinality, out)
        self.norm = nn.LayerNorm(out)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the keys and values `[..., M, W]` of frames `[..., T, C]`.

        Raises:
            ConfigError: a video has fewer frames than a tuple.
        """
        T = frames.shape[-2]
        if self.cardinality > T:
            raise ConfigError(f"TRX makes tuples of {self.cardinality} frames, but a video has {T}: raise frames=.")
        tuples = torch.tensor(list(combinations(range(T), self.cardinality)), device=frames.device)
        return self.norm(self._project(self.key, frames, tuples)), self._project(self.value, frames, tuples)

    def _project(self, layer: nn.Linear, frames: Tensor, tuples: Tensor) -> Tensor:
        places = layer.weight.chunk(self.cardinality, 1)
        return reduce(add, ((frames @ w.T)[..., tuples[:, i], :] for i, w in enumerate(places))) + layer.bias


@MATCHERS.register_module()
class TRX(Matcher):
    """Temporal-relational cross-transformer: attention between tuples of frames, averaged over cardinalities.

    Args:
        width: C of the frames; filled by the method.
        cardinalities: numbers of frames in a tuple, such as (2, 3) for pairs and triples.
        out: width of keys and values; 1152 in the official code.
        position_scale: factor of the sinusoidal positions added to the frames.
        dropout: dropout of the frames after the positions are added, in training.

    Raises:
        ConfigError: no cardinality, or one below 1.
    """

    order_sensitive = True
    learned = True

    def __init__(
        self,
        width: int,
        *,
        cardinalities: tuple[int, ...] = (2, 3),
        out: int = 1152,
        position_scale: float = 0.1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not cardinalities or min(cardinalities) < 1:
            raise ConfigError(f"matcher.cardinalities={cardinalities!r} must be whole numbers above 0, such as (2, 3).")
        self.positions = SinusoidalPositions(width, scale=position_scale, dropout=dropout)
        self.transformers = nn.ModuleList(TupleTransformer(width, size, out) for size in cardinalities)

    def index(self, frames: Tensor) -> dict[str, Tensor]:
        """Compute what a distance needs of each video alone; see `index_tuples`, whose names follow the number of a size here."""
        placed = self.positions(frames)
        return {
            f"{number}_{name}": tensor
            for number, layers in enumerate(self._transformers())
            for name, tensor in index_tuples(placed, layers.key, layers.value, layers.norm, layers.cardinality).items()
        }

    def indexed_distance(self, query: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> Tensor:
        """Compute distances `[E, Q, N]` from indices `[E, Q, ...]` and `[E, N, K, ...]`."""
        sizes = [transformer.cardinality for transformer in self._transformers()]
        parts = [self._indexed(number, size, query, support) for number, size in enumerate(sizes)]
        return reduce(add, parts) / len(parts)

    @staticmethod
    def _indexed(number: int, size: int, query: Mapping[str, Tensor], support: Mapping[str, Tensor]) -> Tensor:
        Q, M = query[f"{number}_scale"].shape[1:]
        E, N, K, L = support[f"{number}_scale"].shape
        step = max(1, INDEXED_CHUNK[support[f"{number}_scale"].device.type] // max(1, Q * N * M * K * L))
        parts = [slice(start, start + step) for start in range(0, E, step)]
        return torch.cat(
            [indexed_distance(_Part(query, number, part), _Part(support, number, part), size) for part in parts]
        )

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Compute distances `[E, Q, N]` of queries `[E, Q, T, C]` to classes `[E, N, K, T, C]`.

        Where no gradient is asked for, in inner products of frames: the same distances, to rounding, in a fraction of the time.
        """
        if not torch.is_grad_enabled():
            return self.indexed_distance(self.index(query), self.index(support))
        query, support = self.positions(query), self.positions(support)
        transformers = self._transformers()
        total = reduce(add, (self._distance(transformer, query, support) for transformer in transformers))
        return total / len(transformers)

    def _transformers(self) -> list[TupleTransformer]:
        return cast("list[TupleTransformer]", list(self.transformers))  # torch does not type a ModuleList's items

    @staticmethod
    def _distance(transformer: TupleTransformer, query: Tensor, support: Tensor) -> Tensor:
        (Q, T), (N, K, S), w = query.shape[1:3], support.shape[1:4], transformer.cardinality
        largest = Q * N * comb(T, w) * max(transformer.key.out_features, K * comb(S, w))
        step = max(1, CHUNK[query.device.type] // max(1, largest))
        parts = []
        for query_chunk, support_chunk in zip(query.split(step), support.split(step), strict=True):
            keys, values = transformer(query_chunk)
            support_keys, support_values = (x.flatten(2, 3) for x in transformer(support_chunk))
            parts.append(tuple_distance(keys, values, support_keys, support_values))
        return torch.cat(parts)

    def alignment(self, query: Tensor, support: Tensor) -> Alignment:
        """Assign the attention between tuples to the frames in the same place of both, averaged over tuples, places and sizes."""
        distance = frame_distance(query[None, None], support[None, None], epsilon=0.0)[0, 0, 0]
        K, T, S = distance.shape
        weight = torch.zeros_like(distance)
        placed_query, placed_support = self.positions(query[None, None]), self.positions(support[None, None])
        transformers = self._transformers()
        for transformer in transformers:
            w = transformer.cardinality
            keys, support_keys = transformer(placed_query)[0], transformer(placed_support)[0].flatten(2, 3)
            attention = tuple_attention(keys, support_keys)[0, 0, 0].unflatten(1, (K, -1))  # [M, K, L]
            query_tuples, support_tuples = (
                torch.tensor(list(combinations(range(n), w)), device=query.device) for n in (T, S)
            )
            for place in range(w):
                rows = F.one_hot(query_tuples[:, place], T).float()
                columns = F.one_hot(support_tuples[:, place], S).float()
                share = torch.einsum("mkl,mt,ls->kts", attention, rows, columns)
                weight += share / (w * len(query_tuples) * len(transformers))
        return Alignment(distance, weight, "attention between tuples, on the frames in the same place")
