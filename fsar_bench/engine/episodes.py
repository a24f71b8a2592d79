"""Episodes as MMEngine datasets: training episodes by number, and a split with the plan that evaluates it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from operator import add
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from fsar_bench.backbones.backbone import Backbone
from fsar_bench.data.augment import Augmentation
from fsar_bench.data.dataset import Dataset, Split, open_dataset
from fsar_bench.data.decode import ReadPlan, Request
from fsar_bench.data.frames import FrameSource, frame_source
from fsar_bench.data.importing.audit import known_recordings, recordings
from fsar_bench.engine.bank import frames_to_tensor
from fsar_bench.method import EpisodeBatch, FewShotMethod
from fsar_bench.plan import EpisodePlan
from fsar_bench.registry import DATASETS, FUNCTIONS


def prompts_of(split: Split, template: str, class_texts: Sequence[str] = ()) -> list[str]:
    """What a text encoder reads of each class of a split.

    Args:
        split: whose classes.
        template: {} stands for the class text.
        class_texts: other spellings; one replaces the text of the class whose letters and digits it has.
    """
    spelled = {_letters(text): text for text in class_texts}
    return [template.format(spelled.get(_letters(text), text)) for text in split.texts]


def _letters(text: str) -> str:
    """A text without case, spaces and signs."""
    return re.sub(r"[\W_]", "", text).casefold()


def encode_class_text(backbone: Backbone, split: Split, template: str, class_texts: Sequence[str] = ()) -> Tensor:
    """Text features `[classes, C]` of a split's classes; C is 0 for a backbone without a text encoder.

    Args:
        backbone: encodes them.
        split: see `prompts_of`, as for the other arguments.
        template: as there.
        class_texts: as there.
    """
    if not backbone.has_text:
        return torch.zeros(len(split.texts), 0, device=backbone.device)
    return backbone.encode_text(prompts_of(split, template, class_texts))


def prepare_method(method: FewShotMethod, dataset: Dataset, template: str, class_texts: Sequence[str] = ()) -> Tensor:
    """Give a method the text features of all training classes, once, and return them.

    What a method builds for its training classes is not built again when it is prepared already.
    """
    text = encode_class_text(method.backbone, dataset.split("train"), template, class_texts)
    if not getattr(method, "is_prepared", False):
        method.prepare(text)
        method.to(text.device)  # what it built
        method.is_prepared = True
    return text


@dataclass(frozen=True)
class Episode:
    """One training episode on the CPU.

    Attributes:
        support: frames uint8 `[N, K, T, 3, H, W]`.
        query: frames uint8 `[Q, T, 3, H, W]`.
        labels: label of each query, int64 `[Q]`.
        classes: class number of each label in the split, int64 `[N]`.
    """

    support: Tensor
    query: Tensor
    labels: Tensor
    classes: Tensor

    def batch(self, class_text: Tensor) -> EpisodeBatch:
        """A batch of this episode on the device of the text features `[classes of the split, C]`."""
        device = class_text.device
        classes = self.classes.to(device)
        return EpisodeBatch(
            support=self.support.to(device)[None],
            query=self.query.to(device)[None],
            labels=self.labels.to(device)[None],
            classes=classes[None],
            class_text=class_text[classes][None],
        )


@FUNCTIONS.register_module()
def single_episode(episode: Episode) -> Episode:
    """Collate function of dataloaders without batches: the episode itself."""
    return episode


class _Episodes(TorchDataset):
    """What training and evaluation episodes share: a dataset, its frames and the rules of drawing.

    Args:
        dataset: arguments of `open_dataset` (name, annotation, groups).
        frames: arguments of `ReadPlan`, and `workers` and `seconds` of `frame_source`.
        template: prompt template of class texts.
        way: classes per episode.
        shot: supports per class.
        query: queries per class.
        episodes: number of episodes.
        seed: of episodes and, in training, of frames.
        group_disjoint: supports share no source recording with the queries of their class.
        class_texts: other spellings of class texts, see `prompts_of`.
    """

    def __init__(
        self,
        *,
        dataset: dict[str, Any],
        frames: dict[str, Any],
        template: str,
        way: int,
        shot: int,
        query: int,
        episodes: int,
        seed: int,
        group_disjoint: bool = False,
        class_texts: Sequence[str] = (),
    ) -> None:
        reading = {key: value for key, value in frames.items() if key not in ("workers", "seconds")}
        lists = {key: tuple(reading.get(key, ())) for key in ("modules", "folders")}
        self.dataset = open_dataset(**dataset)
        self.source: FrameSource = frame_source(
            ReadPlan(**{**reading, **lists}),
            workers=frames["workers"],
            seconds=frames["seconds"],
        )
        self.template, self.group_disjoint, self.class_texts = template, group_disjoint, tuple(class_texts)
        self._drawing = {"way": way, "shot": shot, "query": query, "episodes": episodes, "seed": seed}

    def __len__(self) -> int:
        return self._drawing["episodes"]

    def _draw(self, split: Split, purpose: str) -> EpisodePlan:
        recording = known_recordings(self.dataset.name, split) if self.group_disjoint else None
        return EpisodePlan.sample(
            split.list, purpose=purpose, missing=split.missing, recording=recording, **self._drawing
        )


@DATASETS.register_module()
class TrainEpisodes(_Episodes):
    """Training episodes by number: episode i depends on the seed and i alone.

    Args:
        augmentation: arguments of `Augmentation`; None takes the evaluation's centre crop.
        augmented: "all", or "queries": supports are cropped alone.
        prefetch: episodes after the present one whose clips are read ahead.
        arguments: as in `_Episodes`.

    Attributes:
        following: gives the number of the episode that is asked for after one; where several ranks train, they take turns.
        waited: seconds that episodes took until they were there.
    """

    def __init__(
        self,
        *,
        augmentation: dict[str, Any] | None = None,
        augmented: str = "all",
        prefetch: int = 1,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.of_queries = None if augmentation is None else Augmentation(**augmentation)
        self.of_supports = self.of_queries
        if self.of_queries is not None and augmented == "queries":
            self.of_supports = self.of_queries.crop_alone
        self.split = self.dataset.split("train")
        self.plan = self._draw(self.split, "train")
        self.prefetch = prefetch
        self._ahead: dict[int, tuple[list[Request], list[Any]]] = {}
        self.following: Callable[[int], int] = partial(add, 1)
        self.waited = 0.0

    def __getitem__(self, number: int) -> Episode:
        """Episode `number`; the next ones are read ahead meanwhile."""
        began = perf_counter()
        requests, pending = self._ahead.pop(number) if number in self._ahead else self._begin(number)
        wanted = islice(self._after(number), self.prefetch)
        self._ahead = {n: self._ahead[n] if n in self._ahead else self._begin(n) for n in wanted}
        frames = frames_to_tensor(self.source.collect(requests, pending), torch.device("cpu"))
        self.waited += perf_counter() - began
        N, K = self.plan.support.shape[1:]
        return Episode(
            support=frames[: N * K].unflatten(0, (N, K)),
            query=frames[N * K :],
            labels=torch.from_numpy(self.plan.labels),
            classes=torch.from_numpy(self.plan.classes[number].astype(np.int64)),
        )

    @property
    def clips(self) -> int:
        """Clips of an episode."""
        return int(self.plan.support[0].size + self.plan.query[0].size)

    def _after(self, number: int) -> Iterator[int]:
        while (number := self.following(number)) < len(self):
            yield number

    def _begin(self, number: int) -> tuple[list[Request], list[Any]]:
        clips = [*self.plan.support[number].ravel(), *self.plan.query[number].ravel()]
        seed = self._drawing["seed"]
        supports = self.plan.support[number].size
        requests = [
            Request(
                self.split.clips[clip],
                (seed, number, place),
                self.of_supports if place < supports else self.of_queries,
            )
            for place, clip in enumerate(clips)
        ]
        return requests, self.source.prefetch(requests)


@DATASETS.register_module()
class EvaluationEpisodes(_Episodes):
    """A split and the plan that evaluates it, opened when they are first used; item 0 is the plan itself.

    Args:
        split: name of the split.
        arguments: as in `_Episodes`.
    """

    def __init__(self, *, split: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.name = split

    @cached_property
    def split(self) -> Split:
        """The split.

        Raises:
            ProtocolError: it is closed, because a training is going on, or does not exist.
        """
        return self.dataset.split(self.name)

    @cached_property
    def plan(self) -> EpisodePlan:
        """The episodes, with the source recordings of the clips where they are known."""
        return self._draw(self.split, self.name).with_recordings(recordings(self.dataset.name, self.split))

    def __getitem__(self, number: int) -> EpisodePlan:
        """The whole plan: episodes are evaluated together."""
        return self.plan
