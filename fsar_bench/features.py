"""VideoFeatures: what is known of encoded videos, as tensors that share their leading dimensions.

Tensor legend used everywhere: E episodes in a batch, N ways, K shots, Q queries of one episode, V videos, T frames,
P patch tokens, D visual width, C joint image-text embedding width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class VideoFeatures:
    """Named tensors with common leading dimensions, indexed and moved as one.

    `features.frames` and so on read a tensor; `features[index]`, `features.view(n, k)` and `features.to(device)` act on all.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors = tensors

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self.__dict__["_tensors"][name]
        except KeyError:
            raise AttributeError(f"These features hold {', '.join(self._tensors)}, not {name!r}.") from None

    def __getitem__(self, index: object) -> VideoFeatures:
        return self._map(lambda tensor: tensor[index])

    def __len__(self) -> int:
        return len(next(iter(self._tensors.values())))

    def leading(self, dims: int) -> tuple[int, ...]:
        """Sizes of the first `dims` dimensions, which all tensors share."""
        return tuple(next(iter(self._tensors.values())).shape[:dims])

    def items(self):
        return self._tensors.items()

    def _map(self, function: Callable[[Tensor], Tensor]) -> VideoFeatures:
        return VideoFeatures(**{name: function(tensor) for name, tensor in self._tensors.items()})

    def to(self, *args: object, **kwargs: object) -> VideoFeatures:
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def view(self, *leading: int) -> VideoFeatures:
        """Split the first dimension into `leading` dimensions."""
        return self._map(lambda tensor: tensor.reshape(*leading, *tensor.shape[1:]))

    @staticmethod
    def cat(parts: list[VideoFeatures]) -> VideoFeatures:
        return VideoFeatures(**{name: torch.cat([p._tensors[name] for p in parts]) for name, _ in parts[0].items()})
