"""Fit: the largest micro-batch of clips with which a training step stays within some bytes of memory."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fsar_bench.backbones.recompute import Recompute, replaced, why_together
from fsar_bench.config.fields import bytes_from_text
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, FewShotMethod, VideoFeatures
from fsar_bench.registry import HOOKS, OPTIMIZERS, build

SHARE = 0.9  # of the memory that tensors may take; the context of a GPU, its libraries and fragments take the rest
PROBE = 4096  # numbers of the parameter on which the state of an optimiser is measured
ALIGNED = 512  # bytes at multiples of which a GPU's memory is given out


@dataclass(frozen=True)
class Peak:
    """Memory that a piece of work takes beyond what there was.

    Attributes:
        highest: most bytes at a time.
        rest: bytes that are still taken at its end.
    """

    highest: int
    rest: int


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is entered, as long as they live; for the CPU.

    Attributes:
        live: bytes that are taken.
        highest: most bytes that were taken at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.highest = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Run an operation, and count what it returns in new memory."""
        known = {id(storage) for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in self._known and id(storage) not in known:
                self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), math.ceil(storage.nbytes() / ALIGNED) * ALIGNED

        def freed(_: object) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.highest = max(self.highest, self.live)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def peak_of(work: Callable[[], object], device: torch.device) -> Peak:
    """Memory of the tensors that some work makes: on a GPU what torch gave out, on the CPU what its operations returned."""
    if device.type != "cuda":
        with LiveTensors() as tensors:
            work()
        return Peak(tensors.highest, tensors.live)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Peak(peak - before, torch.cuda.memory_allocated(device) - before)


@dataclass(frozen=True)
class Call:
    """One call of `embed` in a training step: how many clips, and whether they have texts."""

    clips: int
    has_text: bool


@dataclass(frozen=True)
class Line:
    """Bytes that n clips take in `embed`, forward and backward: base + n * clip."""

    base: int
    clip: int

    def __call__(self, clips: int) -> int:
        """Bytes of some clips."""
        return self.base + self.clip * clips


@dataclass
class StepMemory:
    """Memory of a training step, measured in pieces: `embed` of one clip and of two, and what follows it on a whole episode.

    The estimate is an upper bound as far as memory is linear in the clips of `embed`.

    Args:
        method: prepared, on its device, in training mode; it is left as it was.
        episodes: a batch of one episode of the training's form, with any frames.
        optimizer: config of the optimiser.
        context: what the loss is computed in, such as autocast.
    """

    method: FewShotMethod
    episodes: EpisodeBatch
    optimizer: dict[str, Any]
    context: Callable[[], Any]
    _lines: dict[bool, Line] = field(default_factory=dict, init=False)

    @cached_property
    def fixed(self) -> int:
        """Bytes of weights, gradients, the state of the optimiser and the frames of an episode."""
        tensors = [*self.method.parameters(), *self.method.buffers(), *vars(self.episodes).values()]
        return sum(map(_bytes, tensors)) + self.trained + self._optimizer_state()

    @cached_property
    def trained(self) -> int:
        """Bytes of the trained parameters, and so of their gradients."""
        return sum(_bytes(p) for p in self.method.parameters() if p.requires_grad)

    @cached_property
    def _held(self) -> int:
        """Bytes of the frames that are kept until they are encoded again."""
        return sum(_bytes(frames) for frames, _ in self._inputs)

    @cached_property
    def calls(self) -> list[Call]:
        """The calls of `embed` in a training step."""
        return [Call(len(frames), text is not None) for frames, text in self._inputs]

    @cached_property
    def why_together(self) -> str:
        """Why clips cannot be encoded some at a time; empty if they can."""
        for frames, text in self._one_per_role():
            with self._unchanged():
                if why := why_together(self.method, frames[:1], None if text is None else text[:1]):
                    return why
        return ""

    @cached_property
    def head(self) -> Peak:
        """What follows `embed`, forward and backward, for a whole episode."""
        return self._head(Recompute())

    @cached_property
    def head_by_blocks(self) -> Peak:
        """The same with blocks that are computed again."""
        return self._head(Recompute(blocks=True))

    def of(self, recompute: Recompute) -> int:
        """Estimate the peak of a training step, in bytes."""
        line = self.line(blocks=recompute.blocks)
        head = self.head_by_blocks if recompute.blocks else self.head
        most = max((call.clips for call in self.calls), default=0)
        if recompute.clips is None:
            step = head.highest + line(sum(call.clips for call in self.calls))
        else:
            encoding = (
                head.rest + self.trained + line(min(recompute.clips, most))
            )  # gradients of the micro-batches before
            step = self._held + max(head.highest, encoding)
        update = 2 * self.trained  # temporaries of an optimiser that updates all parameters at once
        return self.fixed + max(step, update)

    def line(self, *, blocks: bool) -> Line:
        """Bytes of `embed`, forward and backward, in the role that takes more."""
        if blocks not in self._lines:
            lines = [self._line(*inputs, Recompute(blocks=blocks)) for inputs in self._one_per_role()]
            self._lines[blocks] = max(lines, key=lambda line: line(2), default=Line(0, 0))
        return self._lines[blocks]

    @cached_property
    def _inputs(self) -> list[tuple[Tensor, Tensor | None]]:
        """Arguments of the calls of `embed` in a training step, which encodes one clip of each here."""
        inputs: list[tuple[Tensor, Tensor | None]] = []
        embed = self.method.embed

        def note(frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
            inputs.append((frames, class_text))
            one = embed(frames[:1], None if class_text is None else class_text[:1])
            return VideoFeatures(**{name: _stand_in(tensor, len(frames)) for name, tensor in one.items()})

        with replaced(self.method, "embed", note), self._unchanged():
            self._loss()
        return inputs

    def _one_per_role(self) -> list[tuple[Tensor, Tensor | None]]:
        return list({text is None: (frames, text) for frames, text in self._inputs}.values())

    def _line(self, frames: Tensor, text: Tensor | None, recompute: Recompute) -> Line:
        def encode(clips: int) -> None:
            with self.context():
                features = self.method.embed(frames[:clips], None if text is None else text[:clips])
            trained = [tensor for _, tensor in features.items() if tensor.requires_grad]
            if trained:
                torch.autograd.backward(trained, [torch.ones_like(tensor) for tensor in trained])

        if len(frames) == 1:
            frames, text = torch.cat([frames, frames]), None if text is None else torch.cat([text, text])
        peaks = []
        for clips in (1, 2):
            with recompute.inside(self.method), self._unchanged():
                peaks.append(peak_of(partial(encode, clips), frames.device).highest)
        return Line(2 * peaks[0] - peaks[1], peaks[1] - peaks[0])

    def _head(self, recompute: Recompute) -> Peak:
        left = iter([self._one(frames, text) for frames, text in self._inputs])

        def stand_in(frames: Tensor, class_text: Tensor | None) -> VideoFeatures:
            tensors = {name: _stand_in(tensor, len(frames)) for name, tensor in next(left).items()}
            return VideoFeatures(**tensors)

        with replaced(self.method, "embed", stand_in), recompute.inside(self.method), self._unchanged():
            return peak_of(lambda: self._loss().backward(), self.episodes.labels.device)

    def _one(self, frames: Tensor, text: Tensor | None) -> VideoFeatures:
        """Features of the first clip, as leaves that need a gradient if those of `embed` do."""
        with self._unchanged(), self.context():
            one = self.method.embed(frames[:1], None if text is None else text[:1])
        return VideoFeatures(**{name: t.detach().requires_grad_(t.requires_grad) for name, t in one.items()})

    def _loss(self) -> Tensor:
        with self.context():
            return self.method.parse_losses(self.method(self.episodes))[0]

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Leave gradients, buffers and the random state as they were."""
        device = self.episodes.labels.device
        parameters = list(self.method.parameters())
        gradients = [p.grad for p in parameters]
        buffers = {buffer: buffer.clone() for module in self.method.modules() for buffer in module.buffers(False)}
        for parameter in parameters:
            parameter.grad = None
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                yield
        finally:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, before in buffers.items():
                    buffer.copy_(before)

    def _optimizer_state(self) -> int:
        """Bytes of the optimiser's state: those of one step on a small parameter, scaled."""
        parameter = nn.Parameter(torch.zeros(PROBE))
        parameter.grad = torch.ones_like(parameter)
        optimizer = build(OPTIMIZERS, copy.deepcopy(self.optimizer), params=[parameter])
        optimizer.step()
        state = sum(
            map(_bytes, (leaf for leaf in tree_leaves(optimizer.state_dict()["state"]) if isinstance(leaf, Tensor)))
        )
        return self.trained * (state // _bytes(parameter))


def _stand_in(tensor: Tensor, clips: int) -> Tensor:
    """Features of some clips in the form of those of one clip, none equal to another."""
    features = tensor.detach().repeat(clips, *[1] * (tensor.ndim - 1))
    if features.is_floating_point():
        features += 0.1 * torch.randn_like(features)
    return features.requires_grad_(tensor.requires_grad)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def choose_recompute(memory: StepMemory, budget: int, text: str) -> Recompute:
    """Choose the largest micro-batch that stays within a budget.

    Args:
        memory: of a training step.
        budget: bytes of the device.
        text: the budget as the user wrote it.

    Raises:
        ConfigError: nothing fits; says how much is needed.
    """
    room = int(SHARE * budget)
    if memory.of(Recompute()) <= room:
        return Recompute()
    for blocks in (False, True):
        least = Recompute(None if memory.why_together else 1, blocks=blocks)
        if memory.of(least) <= room and least != Recompute():
            return _largest(memory, room, blocks=blocks) if least.clips else least
    raise ConfigError(_needs(memory, text))


def _largest(memory: StepMemory, room: int, *, blocks: bool) -> Recompute:
    most = max(call.clips for call in memory.calls)
    sizes = (Recompute(clips, blocks=blocks) for clips in range(most, 0, -1))
    return next(recompute for recompute in sizes if memory.of(recompute) <= room)


def _needs(memory: StepMemory, text: str) -> str:
    """What is said where nothing fits."""
    together = memory.why_together
    least = memory.of(Recompute(None if together else 1, blocks=True))
    how = (
        f"with all clips at once, because {together}"
        if together
        else "even with one clip at a time and blocks computed again"
    )
    after = memory.fixed + memory.head_by_blocks.highest
    where = (
        f" What {type(memory.method).__name__} does after `embed` takes {_in_gb(after)} of it and sees the whole episode."
        if after > 0.9 * least and not together
        else ""
    )
    return (
        f"fit={text} is too small: a training step of {type(memory.method).__name__} needs about {_in_gb(least / SHARE)}, {how}."
        f"{where} Raise fit=, or lower frames=, train.query_per_class= or train.shot=, or choose a smaller backbone=."
    )


def _in_gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def in_words(recompute: Recompute, memory: StepMemory) -> str:
    """What was chosen, and the estimated peak, for the log."""
    if recompute == Recompute():
        how = "all clips of an episode are encoded at once"
    else:
        how = "all clips at once" if recompute.clips is None else f"{recompute.clips} clips at a time"
        how = f"an episode is encoded {how}, twice" if recompute.clips else f"an episode is encoded with {how}"
        how += ", with blocks computed again" if recompute.blocks else ""
        how += f"; all at once and stored: {_in_gb(memory.of(Recompute()))}"
    return f"estimated peak of a training step {_in_gb(memory.of(recompute))}: {how}"


def any_episode(way: int, shot: int, queries: int, frames: int, crop: int, class_text: Tensor) -> EpisodeBatch:
    """A batch of one episode with random frames.

    Args:
        way: N.
        shot: K.
        queries: per class.
        frames: T.
        crop: side of a frame in pixels.
        class_text: of the training classes `[classes, C]`; the first N take part.
    """
    device = class_text.device
    generator = torch.Generator(device).manual_seed(0)
    size = (frames, 3, crop, crop)
    draw = partial(torch.randint, 0, 256, dtype=torch.uint8, device=device, generator=generator)
    return EpisodeBatch(
        support=draw((1, way, shot, *size)),
        query=draw((1, way * queries, *size)),
        labels=torch.arange(way, device=device).repeat_interleave(queries)[None],
        classes=torch.arange(way, device=device)[None],
        class_text=class_text[None, :way],
    )


@HOOKS.register_module()
class FitMemory(Hook):
    """Before a training, choose how a step stays within the memory that `fit=` allows.

    Args:
        budget: a size, such as "11GB".
        optimizer: config of the optimiser.
        episode: `way`, `shot`, `queries` per class, `frames` and `crop` of training episodes.
    """

    def __init__(self, budget: str, optimizer: dict[str, Any], episode: dict[str, int]) -> None:
        self.budget, self.optimizer, self.episode = budget, optimizer, episode

    def before_train(self, runner: Runner) -> None:
        """Measure a training step in pieces and set `FewShotMethod.recompute`.

        Raises:
            ConfigError: not even one clip at a time fits.
        """
        method: FewShotMethod = runner.model
        method.train()
        episodes = any_episode(**self.episode, class_text=runner.train_loop.class_text)
        context = partial(runner.optim_wrapper.optim_context, method)
        memory = StepMemory(method, episodes, self.optimizer, context)
        method.recompute = choose_recompute(memory, bytes_from_text(self.budget), self.budget)
        runner.logger.info("fit=%s: %s", self.budget, in_words(method.recompute, memory))
