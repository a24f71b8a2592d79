"""Scoring: episodes from a bank as the engine scores them, beside one at a time and a naive loop in the plain form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fsar_bench.config.settings import RunOptions
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.scoring import score_plan
from fsar_bench.method import Backbone, FewShotMethod, VideoFeatures
from fsar_bench.methods.clip_fsar import CLIPFSAR
from fsar_bench.methods.hyrsm import HyRSM
from fsar_bench.methods.ma_clip import MACLIP
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.plan import ClipList, EpisodePlan
from tools.performance.floors import FLOORS, Sizes, Work
from tools.performance.machine import synchronise

CLASSES, CLIPS = 24, 100  # the size of the field's test splits
REPEATS = 3
TOGETHER = 512  # clips that are encoded at a time


class GivenFeatures(Backbone):
    """A stand-in for a backbone where features are given."""

    has_text = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding_width, self.map_width, self.map_stride = width, width, 16

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Never called."""
        raise NotImplementedError("features are given to score()")


def _metric(kind: str, width: int, **settings: object) -> FewShotMethod:
    tune = "visual" if kind == "TRX" else "none"
    return MetricMethod(GivenFeatures(width), {"type": kind, **settings}, tune=tune)


def _clip_fsar(width: int) -> FewShotMethod:
    return CLIPFSAR(GivenFeatures(width), {"type": "OTAM", "smoothing": 0.5}, mode="ensemble")


def _ma_clip(width: int) -> FewShotMethod:
    plain = {"multimodal": False, "temporal": False, "joint": False}
    return MACLIP(GivenFeatures(width), {"type": "OTAM"}, temperature=100.0, **plain)


HEADS: dict[str, tuple[str, Callable[[int], FewShotMethod]]] = {  # title, and the method for a width C
    "prototype": ("Prototype", partial(_metric, "CosinePrototype")),
    "matching_net": ("MatchingNet", partial(_metric, "MatchingNetwork")),
    "otam": ("OTAM", partial(_metric, "OTAM")),
    "bi_mhm": ("Bi-MHM", partial(_metric, "BiMHM")),
    "clip_fsar": ("CLIP-FSAR, ensemble", _clip_fsar),
    "ma_clip": ("MA-CLIP", _ma_clip),
    "hyrsm": ("HyRSM", lambda width: HyRSM(GivenFeatures(width), {"type": "BiMHM"})),
    "trx, pairs": ("TRX, pairs", partial(_metric, "TRX", cardinalities=(2,))),
    "trx": ("TRX, pairs and triples", partial(_metric, "TRX")),
}


def names_of(classes: int, clips: int) -> ClipList:
    """A list of classes with as many clips each."""
    return ClipList.of([(f"c{c:03d}", f"c{c:03d}_{i:06d}") for c in range(classes) for i in range(clips)])


def draw(names: ClipList, sizes: Sizes, episodes: int) -> EpisodePlan:
    """A plan of episodes of some sizes."""
    how = {"way": sizes.way, "shot": sizes.shot, "query": sizes.query, "episodes": episodes}
    return EpisodePlan.sample(names, **how, seed=0, purpose="test")


@dataclass(frozen=True)
class Scene:
    """What is scored: random features of the frames of a split, its class texts and a plan.

    Attributes:
        frames: of all clips, class by class, `[clips, T, C]`.
        text: of the classes, `[classes, C]`.
        names: of all clips.
        plan: the episodes.
        sizes: of an episode.
    """

    frames: Tensor
    text: Tensor
    names: ClipList
    plan: EpisodePlan
    sizes: Sizes

    @classmethod
    def of(
        cls, sizes: Sizes, episodes: int, device: torch.device, *, classes: int = CLASSES, clips: int = CLIPS
    ) -> Scene:
        """A scene of `classes` classes of `clips` clips, the same for the same arguments."""
        names = names_of(classes, clips)
        random = torch.Generator().manual_seed(0)
        frames = torch.randn(classes * clips, sizes.frames, sizes.width, generator=random).to(device)
        text = torch.randn(classes, sizes.width, generator=random).to(device)
        return cls(frames, text, names, draw(names, sizes, episodes), sizes)

    @torch.no_grad()
    def bank(self, method: FewShotMethod) -> FeatureBank:
        """The features that a method encodes, and no others: those are what a run gathers."""
        texts = self.text.repeat_interleave(len(self.frames) // len(self.text), 0)

        def encoded(texts: Tensor | None) -> VideoFeatures:
            parts = [
                dict(
                    method.encode(
                        VideoFeatures(frames=self.frames[rows]), None if texts is None else texts[rows]
                    ).items()
                )
                for rows in (slice(start, start + TOGETHER) for start in range(0, len(self.frames), TOGETHER))
            ]
            return VideoFeatures(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

        query = encoded(None)
        support = query if method.role_free else encoded(texts)
        return FeatureBank(np.arange(len(self.frames)), query, support, 0.0)

    def drawn(self, episodes: int) -> EpisodePlan:
        """Another plan of the same sizes."""
        return draw(self.names, self.sizes, episodes)

    def first(self, episodes: int) -> EpisodePlan:
        """The first episodes of the plan."""
        plan = self.plan
        return replace(
            plan, classes=plan.classes[:episodes], support=plan.support[:episodes], query=plan.query[:episodes]
        )


def built(name: str, sizes: Sizes, device: torch.device) -> FewShotMethod:
    """A head in eval mode; frozen, so that the plain form of training records no graph."""
    torch.manual_seed(0)
    return HEADS[name][1](sizes.width).to(device).eval().requires_grad_(False)


def indexed(method: FewShotMethod, bank: FeatureBank) -> FeatureBank:
    """The bank with what the method computes of each video alone; the method computes it no more."""
    with torch.no_grad():
        bank = bank.indexed(method.index)
    method.index = lambda features: features  # type: ignore[method-assign]
    return bank


def naive(method: FewShotMethod, bank: FeatureBank, scene: Scene, plan: EpisodePlan) -> np.ndarray:
    """Scores `[E, Q, N]` of one episode after the other by the form that training has: nothing is computed once a video."""
    totals = []
    for episode in range(len(plan)):
        text = scene.text[torch.from_numpy(plan.classes[episode : episode + 1].astype(int)).to(scene.text.device)]
        support, query = bank.episodes(plan, slice(episode, episode + 1))
        totals.append(method.score(support, query, text).total)
    return torch.cat(totals).cpu().numpy()


@dataclass(frozen=True)
class Timed:
    """Milliseconds of a head.

    Attributes:
        name: of the head.
        index: of what is computed once a video.
        batched: of an episode, as the engine scores a plan.
        single: of an episode, scored alone.
        naive: of an episode in the naive loop.
        difference: largest difference of scores to the naive loop, relative to the largest score.
        work: the least that an episode costs.
    """

    name: str
    index: float
    batched: float
    single: float
    naive: float
    difference: float
    work: Work

    @property
    def title(self) -> str:
        """Of the head."""
        return HEADS[self.name][0]


def timed_heads(scene: Scene, device: torch.device, *, quick: bool) -> Iterator[Timed]:
    """Every head on a scene; the three ways of scoring take turns, and the quickest turn of each counts."""
    batch = RunOptions.model_fields["score_batch"].default
    few = 10 if quick else 100
    for name in HEADS:
        method = built(name, scene.sizes, device)
        encoded = scene.bank(method)
        plain = naive(method, encoded, scene, scene.first(few))  # before the method is told to index no more
        seconds, bank = _timed(lambda m=method, b=encoded: indexed(m, b), device)
        index, many = seconds / len(scene.frames), _affordable(method, bank, scene, quick=quick)
        ways = {
            "batched": (many, lambda plan, m=method, b=bank: score_plan(m, b, plan, scene.text, batch=batch).total),
            "single": (few, lambda plan, m=method, b=bank: score_plan(m, b, plan, scene.text, batch=1).total),
            "naive": (few, lambda plan, m=method, b=encoded: naive(m, b, scene, plan)),
        }
        least, scores = dict.fromkeys(ways, float("inf")), {}
        for _ in range(1 if quick else REPEATS):
            for way, (episodes, score) in ways.items():
                seconds, scores[way] = _timed(lambda s=score, e=episodes: s(scene.first(e)), device)
                least[way] = min(least[way], 1000 * seconds / episodes)
        difference = float(np.abs(scores["batched"][:few] - plain).max() / np.abs(plain).max())
        yield Timed(name, 1000 * index, **least, difference=difference, work=FLOORS[name](scene.sizes))


def _affordable(method: FewShotMethod, bank: FeatureBank, scene: Scene, *, quick: bool) -> int:
    """Episodes that take about two seconds, at most those of the plan."""
    if quick:
        return 50

    def some() -> object:
        return score_plan(method, bank, scene.first(50), scene.text, batch=50)

    some()
    seconds = min(_timed(some, scene.text.device)[0] for _ in range(REPEATS))  # a pause of the machine counts once
    return int(min(len(scene.plan), max(200, 50 * 2 / seconds)))


def _timed(function: Callable[[], object], device: torch.device) -> tuple[float, object]:
    synchronise(device)
    began = perf_counter()
    result = function()
    synchronise(device)
    return perf_counter() - began, result
