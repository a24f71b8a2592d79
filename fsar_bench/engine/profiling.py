"""Where the time of a method goes: encoding, scoring and a training step, on some clips and episodes of its dataset.

Everything is measured as a run does it, with random or pretrained weights: what is trained has not been trained, which changes no
time. Clips of a few episodes stand for all: their features are repeated in a bank of the size of a real one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmengine.optim import build_optim_wrapper
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from fsar_bench.config.cell import Cell
from fsar_bench.config.settings import RunOptions
from fsar_bench.data.dataset import open_dataset
from fsar_bench.engine.bank import CHUNK, FeatureBank, build_bank, clip_bytes
from fsar_bench.engine.components import build_method
from fsar_bench.engine.device import MemoryMeter, choose_device, environment
from fsar_bench.engine.episodes import encode_class_text, prepare_method
from fsar_bench.engine.forecast import backbone_of, method_of
from fsar_bench.engine.machine import MethodProfile
from fsar_bench.engine.run import episodes_of, source_of
from fsar_bench.engine.scoring import score_plan
from fsar_bench.engine.training import Plans, training_config
from fsar_bench.io import write_atomically
from fsar_bench.method import EpisodeBatch, FewShotMethod, VideoFeatures
from fsar_bench.plan import EpisodePlan
from fsar_bench.registry import DATASETS

EPISODES = 4  # whose clips are encoded
BANK_CLIPS, BANK_BYTES = 2400, 1 << 28  # of the bank that is scored from, at most
SECONDS = 1.0  # that scoring is measured for, at most
STEPS, STEP_SECONDS = 3, 5.0  # training steps that are measured at least, and seconds of them
TRACED = 100  # episodes whose scoring is traced, at most
OPERATORS = 10  # most expensive ones that are told


@dataclass(frozen=True)
class Operator:
    """A torch operator: its name, how often it ran, and the milliseconds that it took itself."""

    name: str
    calls: int
    milliseconds: float


@dataclass(frozen=True)
class Step:
    """Milliseconds of a training step, each the mean of several, and what it adds to memory.

    Attributes:
        whole: from the frames to the updated weights, without waiting for frames.
        forward: the losses.
        backward: their gradients.
        optimizer: an update, of which there is one in `train.accumulate` episodes.
        wait: until the frames of the episode were there.
        memory: bytes that the steps added at most.
        clips: of the episode.
    """

    whole: float
    forward: float
    backward: float
    optimizer: float
    wait: float
    memory: int
    clips: int


@dataclass(frozen=True)
class MethodTimes:
    """What a method takes.

    Attributes:
        device: where it was measured, with its threads.
        roles: how often a clip is encoded.
        encode: milliseconds per clip and role, without decoding.
        index: milliseconds per clip, of what is computed once a video before episodes are scored.
        batched: milliseconds per episode, as a run scores a plan; of smaller batches where one would take more than a second.
        single: milliseconds of an episode that is scored alone.
        step: a training step; None where nothing is trained.
        stored: bytes of an encoded clip.
        indexed: the same with what is computed of it once.
        arrays: arrays of scores of an episode.
        process: bytes of the process with the method loaded.
        scoring: bytes that encoding and scoring added at most.
        operators: the most expensive ones of all that was profiled.
        operators_total: milliseconds of all of them.
        trained: number of trained parameters.
        shares: encoded clips are stored once for all methods.
    """

    device: str
    roles: int
    encode: float
    index: float
    batched: float
    single: float
    step: Step | None
    stored: int
    indexed: int
    arrays: int
    process: int
    scoring: int
    operators: list[Operator]
    operators_total: float
    trained: int
    shares: bool

    def for_machine(self, cell: Cell) -> MethodProfile:
        """What a machine profile keeps of it."""
        step = self.step
        return MethodProfile(
            method=method_of(cell),
            backbone=backbone_of(cell),
            title=f"{cell.label.row}, {cell.identity.backbone['name']}",
            roles=self.roles,
            encode=self.encode / 1e3,
            score=self.batched / 1e3,
            train=step.whole / 1e3 / step.clips if step else None,
            clip=self.stored,
            indexed=self.indexed,
            shared=self.shares,
            arrays=self.arrays,
            trained=self.trained,
            process=self.process,
            training=step.memory if step else 0,
            training_clips=step.clips if step else 0,
        )


def measure_method(cell: Cell, options: RunOptions, trace: Path) -> MethodTimes:
    """Measure a method.

    Args:
        cell: it, on its dataset and under its protocol.
        options: how it would run.
        trace: where the trace of torch's profiler is written, for chrome://tracing or ui.perfetto.dev.

    Raises:
        FsarBenchError: the method cannot be built, or the data cannot be read.
    """
    bench = _Bench.of(cell, options)
    memory = MemoryMeter(bench.device)
    bank, encode = bench.encode()
    index, indexed = bench.index(bank)
    large, plan = bench.enlarged(bank)
    single, arrays = bench.score(large, plan, 1)
    affordable = max(
        1, min(options.score_batch, int(1e3 * SECONDS / single))
    )  # some methods take seconds for an episode
    batched, _ = bench.score(large, plan, affordable)
    scoring, process = memory.added, memory.before
    trainer = _Trainer.of(bench, options) if cell.identity.train and not cell.setup.checkpoint else None
    step = trainer.measure() if trainer else None
    operators, total = _trace(bench, large, _first(plan, min(TRACED, affordable)), trainer, trace)
    counts = bench.method.parameter_counts()
    threads = "" if bench.device.type == "cuda" else f", threads: {torch.get_num_threads()}"
    return MethodTimes(
        device=environment(bench.device).device + threads,
        roles=bench.roles,
        encode=encode,
        index=index,
        batched=batched,
        single=single,
        step=step,
        stored=clip_bytes(bank.support),
        indexed=indexed,
        arrays=arrays,
        process=process,
        scoring=scoring,
        operators=operators,
        operators_total=total,
        trained=counts["trainable"],
        shares=bench.method.shares_embedding,
    )


@dataclass
class _Bench:
    """A method with some of its data.

    Attributes:
        cell: it.
        device: where the method is.
        method: built, on the device, in eval mode.
        plan: a few episodes.
        text: of the classes of the tested split.
        class_text: of the training classes; None where nothing is trained.
    """

    cell: Cell
    device: torch.device
    method: FewShotMethod
    split: Any
    source: Any
    plan: EpisodePlan
    text: Tensor
    plans: Plans
    class_text: Tensor | None = None

    @classmethod
    def of(cls, cell: Cell, options: RunOptions) -> _Bench:
        """Build the method and open its data."""
        device, method = choose_device(options.device), build_method(cell)
        dataset, train_dataset = (open_dataset(**d.model_dump()) for d in (cell.dataset, cell.train_dataset))
        source, train_source = (source_of(cell, options, method, d) for d in (dataset, train_dataset))
        p = cell.protocol
        test = episodes_of(cell, options, source.plan, p.split, p.way, p.shot, p.query, EPISODES)
        method.to(device)
        class_text = None
        if method.traits.trainable:
            class_text = prepare_method(method, train_dataset, p.template, cell.identity.class_texts)
        method.to(device).eval()  # with what it made for the training classes
        text = encode_class_text(method.backbone, test.split, p.template, cell.identity.class_texts)
        plans = Plans(train_source.plan, source.plan)
        return cls(cell, device, method, test.split, source, test.plan, text, plans, class_text)

    @property
    def roles(self) -> int:
        """How often a clip is encoded."""
        return 1 if self.method.role_free else 2

    def bank(self, clips: np.ndarray) -> FeatureBank:
        """Encoded clips."""
        return build_bank(
            self.method, self.split, clips, self.text, self.source, frames_as=self.cell.protocol.frames_as
        )

    def encode(self) -> tuple[FeatureBank, float]:
        """The clips of the plan, and milliseconds per clip and role; the first ones pay for what libraries load."""
        clips = self.plan.used_clips
        self.bank(clips[:1])
        bank = self.bank(clips)
        if self.method.reads_train_bank:  # statistics of these clips: other numbers, the same time
            classes = torch.from_numpy(np.array(self.split.class_of)[clips].astype(np.int64)).to(self.device)
            self.method.learn_from_bank(bank.query, classes)
        return bank, 1e3 * bank.seconds / (len(clips) * self.roles)

    @torch.no_grad()
    def index(self, bank: FeatureBank) -> tuple[float, int]:
        """Milliseconds per clip of the index, and bytes of a clip with it."""
        clips = bank.support[:CHUNK]
        seconds = _repeated(lambda: self.method.index(clips), self.device, SECONDS / 4)
        return 1e3 * seconds / len(clips), clip_bytes(self.method.index(clips))

    def enlarged(self, bank: FeatureBank) -> tuple[FeatureBank, EpisodePlan]:
        """A bank of the size of a real one, and a plan of many episodes on it; the clips are repeated."""
        count = int(min(BANK_CLIPS, max(len(bank.support), BANK_BYTES // max(1, clip_bytes(bank.support)))))
        rows = torch.arange(count, device=next(tensor for _, tensor in bank.support.items()).device) % len(bank.support)
        support = bank.support[rows]
        query = support if bank.query is bank.support else bank.query[rows]
        random = np.random.default_rng(0)
        episodes = np.resize(np.arange(len(self.plan)), 1000)
        plan = replace(
            self.plan,
            classes=self.plan.classes[episodes],
            support=random.integers(0, count, (1000, *self.plan.support.shape[1:]), dtype=np.int32),
            query=random.integers(0, count, (1000, *self.plan.query.shape[1:]), dtype=np.int32),
        )
        return FeatureBank(np.arange(count), query, support, 0.0), plan

    def score(self, bank: FeatureBank, plan: EpisodePlan, batch: int) -> tuple[float, int]:
        """Milliseconds per episode of scoring, and how many arrays of scores there are; what is indexed once is left out."""
        with torch.no_grad():
            ready = bank.indexed(self.method.index)
        with _no_index(self.method):
            part = _first(plan, batch)
            while True:
                began = perf_counter()
                scores = score_plan(self.method, ready, part, self.text, batch=batch)
                _synchronise(self.device)
                seconds = perf_counter() - began
                if seconds >= SECONDS / 2 or len(part) == len(plan):
                    return 1e3 * seconds / len(part), 1 + len(scores.parts)
                part = _first(plan, 4 * len(part))


@dataclass
class _Trainer:
    """Training steps of a method, with clocks at its optimiser.

    Attributes:
        milliseconds: of the parts of each step, by their names.
    """

    bench: _Bench
    episodes: Any
    optimizer: Any
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    _number: int = 0
    _spent: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: _Bench, options: RunOptions) -> _Trainer:
        """The training of the cell: its episodes, its optimiser."""
        cell = bench.cell
        with tempfile.TemporaryDirectory() as folder:
            config = training_config(cell, options, bench.plans, Path(folder), "", None, bench.device)
        optimizer = build_optim_wrapper(bench.method, {**config["optim_wrapper"], "accumulative_counts": 1})
        trainer = cls(bench, DATASETS.build(config["train_dataloader"]["dataset"]), optimizer)
        for name in ("backward", "step", "zero_grad"):
            setattr(optimizer, name, trainer._clocked(name, getattr(optimizer, name)))
        return trainer

    def _clocked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*arguments: Any, **settings: Any) -> Any:
            began = self._now()
            result = function(*arguments, **settings)
            self._spent[name] = self._spent.get(name, 0.0) + self._now() - began
            return result

        return clocked

    def _now(self) -> float:
        _synchronise(self.bench.device)
        return perf_counter()

    def batch(self) -> EpisodeBatch:
        """The next episode."""
        assert self.bench.class_text is not None, "a method that is trained was prepared"
        batch: EpisodeBatch = self.episodes[self._number % len(self.episodes)].batch(self.bench.class_text)
        self._number += 1
        return batch

    def step(self) -> int:
        """One step; the number of clips in its episode."""
        began = self._now()
        batch = self.batch()
        there, self._spent = self._now(), {}
        self.bench.method.train()
        self.bench.method.train_step(batch, self.optimizer)
        whole = self._now() - there
        update = self._spent.get("step", 0.0) + self._spent.get("zero_grad", 0.0)
        backward = self._spent.get("backward", 0.0)
        parts = {"wait": there - began, "whole": whole, "backward": backward, "optimizer": update}
        for name, seconds in {**parts, "forward": whole - backward - update}.items():
            self.milliseconds.setdefault(name, []).append(1e3 * seconds)
        return len(batch.videos())

    def measure(self) -> Step:
        """Several steps after one that is not counted."""
        memory = MemoryMeter(self.bench.device)
        clips = self.step()
        self.milliseconds.clear()
        while len(self.milliseconds.get("whole", ())) < STEPS or sum(self.milliseconds["whole"]) < 1e3 * STEP_SECONDS:
            self.step()
            if len(self.milliseconds["whole"]) >= 10 * STEPS:
                break
        parts = {name: float(np.mean(values)) for name, values in self.milliseconds.items()}
        return Step(**parts, memory=memory.added, clips=clips)


def _trace(
    bench: _Bench, bank: FeatureBank, plan: EpisodePlan, trainer: _Trainer | None, path: Path
) -> tuple[list[Operator], float]:
    """Profile one of each by torch's profiler; the most expensive operators, and milliseconds of all."""
    is_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    clips = bench.plan.used_clips[:CHUNK]
    with profile(activities=activities, acc_events=True) as profiler:
        with record_function("encoding"):
            bench.bank(clips)
        with record_function("scoring"):
            score_plan(bench.method, bank, plan, bench.text, batch=len(plan))
        if trainer is not None:
            with record_function("training step"):
                trainer.step()
    bench.method.eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        write_atomically(path, file.read_bytes())
    key = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    labels = ("encoding", "scoring", "training step")
    events = [event for event in profiler.key_averages() if event.key not in labels]
    events.sort(key=lambda event: getattr(event, key), reverse=True)
    told = [Operator(event.key, event.count, getattr(event, key) / 1e3) for event in events[:OPERATORS]]
    return told, sum(getattr(event, key) for event in events) / 1e3


@contextmanager
def _no_index(method: FewShotMethod) -> Iterator[None]:
    """Let a method add nothing to features that have its index already."""
    before = method.__dict__.get("index")

    def as_it_is(features: VideoFeatures) -> VideoFeatures:
        return features

    method.__dict__["index"] = as_it_is
    try:
        yield
    finally:
        del method.__dict__["index"]
        if before is not None:
            method.__dict__["index"] = before


def _first(plan: EpisodePlan, count: int) -> EpisodePlan:
    return replace(plan, classes=plan.classes[:count], support=plan.support[:count], query=plan.query[:count])


def _repeated(function: Callable[[], object], device: torch.device, least: float) -> float:
    """Seconds of a call, the least of several."""
    function()
    taken: list[float] = []
    while sum(taken) < least:
        _synchronise(device)
        began = perf_counter()
        function()
        _synchronise(device)
        taken.append(perf_counter() - began)
    return min(taken)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
