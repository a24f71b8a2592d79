"""Recompute: what a training step encodes again for its gradient instead of storing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fsar_bench.backbones.backbone import Backbone, ViTBlock, keeps_statistics

Embed: TypeAlias = Callable[[Tensor, Tensor | None], Any]  # `FewShotMethod.embed`: of videos, with or without texts
LISTS = (nn.ModuleList, nn.ModuleDict)  # are never called themselves


@dataclass
class Recompute:
    """How the activations of a training step are kept small. The default stores all of them.

    An episode's clips are encoded by `embed` some at a time, without their activations; the loss of the episode reads the
    features; and in the backward pass each of these micro-batches is encoded again, with its activations, to carry the gradient
    of its features into the weights. Clips do not see each other in `embed`, so that no number changes beyond the order of float
    operations; what follows `embed` sees the whole episode. All of it is one backward pass: a parameter's gradient is gathered
    over the episode before it is added to that of earlier episodes.

    Attributes:
        clips: clips that `embed` is given at a time; None for all at once, with their activations stored.
        blocks: store the inputs of blocks alone, and compute each again: whatever stands in a `ModuleList` or `Sequential`, and
            attention and MLP of `Backbone.blocks`. Dropout repeats, because the random state is stored with the inputs.
    """

    clips: int | None = None
    blocks: bool = False
    _is_in_block: bool = field(default=False, init=False, repr=False, compare=False)

    @contextmanager
    def inside(self, method: Any) -> Iterator[None]:
        """Let a `FewShotMethod` train in this way, forward and backward; afterwards it is as before."""
        with ExitStack() as changes:
            if self.clips is not None:
                changes.enter_context(replaced(method, "embed", self._in_micro_batches(self.clips, method.embed)))
            if self.blocks:
                for block in blocks_of(method):
                    changes.enter_context(replaced(block, "forward", self._recomputed(block.forward)))
                vit = method.backbone
                changes.enter_context(replaced(vit, "blocks", self._recomputed_vit(vit)))
            yield

    @staticmethod
    def _in_micro_batches(clips: int, embed: Embed) -> Embed:
        def embed_in_micro_batches(frames: Tensor, class_text: Tensor | None) -> Any:
            if not torch.is_grad_enabled():
                return embed(frames, class_text)
            parts = frames.split(clips)
            texts = [None] * len(parts) if class_text is None else class_text.split(clips)
            encoded = [checkpoint(embed, *part, use_reentrant=False) for part in zip(parts, texts, strict=True)]
            joined = {name: in_one([dict(part.items())[name] for part in encoded]) for name, _ in encoded[0].items()}
            return type(encoded[0])(**joined)

        return embed_in_micro_batches

    def _recomputed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is computed again in the backward pass; inside another one of them it is called as it is."""

        def entered(*arguments: Any, **options: Any) -> Any:
            self._is_in_block = True
            try:
                return function(*arguments, **options)
            finally:
                self._is_in_block = False

        def recomputed(*arguments: Any, **options: Any) -> Any:
            if self._is_in_block or not torch.is_grad_enabled():
                return function(*arguments, **options)
            return checkpoint(entered, *arguments, use_reentrant=False, **options)

        return recomputed

    def _recomputed_vit(self, backbone: Backbone) -> Callable[[], list[ViTBlock]]:
        blocks = backbone.blocks

        def recomputed() -> list[ViTBlock]:
            return [
                replace(block, attend=self._recomputed(block.attend), mlp=self._recomputed(block.mlp))
                for block in blocks()
            ]

        return recomputed


def in_one(parts: list[Tensor]) -> Tensor:
    """Concatenate tensors along their first dimension, in the order of memory that they have.

    A dropout draws in the order of memory: of maps in another order it would drop other places.
    """
    order = sorted(range(parts[0].ndim), key=lambda dim: -parts[0].stride()[dim])
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat([part.permute(order) for part in parts], order.index(0)).permute(back)


def blocks_of(method: nn.Module) -> list[nn.Module]:
    """Composite modules that stand in a list or a sequence, such as transformer blocks and residual blocks.

    Those with a batch norm that follows batches are left out: a second pass would update its statistics twice.
    """
    found = {
        id(child): child
        for container in method.modules()
        if isinstance(container, (nn.ModuleList, nn.Sequential))
        for child in container.children()
        if next(child.children(), None) is not None and not isinstance(child, LISTS)
    }
    return [block for block in found.values() if not any(map(follows_batches, block.modules()))]


def follows_batches(module: nn.Module) -> bool:
    """Whether a module is a batch norm that uses, and learns, the statistics of the batch it is given."""
    return module.training and keeps_statistics(module)


@contextmanager
def replaced(owner: object, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object for a while."""
    attributes = vars(owner)
    before = {name: attributes[name]} if name in attributes else {}
    attributes[name] = value
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(before)


@torch.no_grad()
def why_together(method: Any, frames: Tensor, class_text: Tensor | None) -> str:
    """Tell why a method cannot encode the clips of a training step some at a time, as half a sentence; empty if it can.

    Args:
        method: a `FewShotMethod` in training mode; statistics that it learns from batches are changed.
        frames: uint8 `[V, T, 3, H, W]` of any clips.
        class_text: as `embed` takes it.
    """
    names: list[str] = []
    with ExitStack() as hooks:
        for module in filter(follows_batches, method.modules()):
            handle = module.register_forward_pre_hook(lambda module, _: names.append(type(module).__name__))
            hooks.callback(handle.remove)
        before = random_state(frames.device)
        method.embed(frames, class_text)
        draws = not torch.equal(before, random_state(frames.device))
    if names:
        return f"{names[0]} uses the statistics of all clips that it is given (train_batch_norm)"
    if draws:
        return "embed draws random numbers, such as a dropout, and would draw others"
    return ""


def random_state(device: torch.device) -> Tensor:
    """State of torch's generator of a device."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
