"""What the episodic loops read from: training episodes by index, and a split with its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fsar_bench.data.dataset import Dataset, Split
from fsar_bench.data.decode import Request
from fsar_bench.data.frames import FrameSource
from fsar_bench.data.importing.audit import recordings
from fsar_bench.engine.bank import frames_to_tensor
from fsar_bench.errors import ProtocolError
from fsar_bench.method import EpisodeBatch
from fsar_bench.plan import EpisodePlan

TextEncoder = Callable[[Split], Tensor]  # text features `[classes, C]` of a split


def known_recordings(dataset: Dataset, split: Split) -> np.ndarray:
    """Number of the source recording of each clip, int64 `[clips]`.

    Raises:
        ProtocolError: the names of the clips do not tell it.
    """
    recording = recordings(dataset.name, split)
    if recording is None:
        raise ProtocolError(
            f"The names of the clips of {dataset.name} do not tell their source recording, so group_disjoint=true cannot hold "
            "there."
        )
    return recording


class TrainEpisodes:
    """Training episodes by number: number i is the same whatever was drawn before it.

    Args:
        split: the train split.
        class_text: `[classes, C]`.
        source: where frames come from.
        train: the training config (way, shot, query_per_class, episodes).
        seed: of episodes and frames.
        recording: number of the source recording of each clip where supports may share none with queries, or None.
    """

    def __init__(
        self,
        split: Split,
        class_text: Tensor,
        source: FrameSource,
        train: dict,
        *,
        seed: int,
        device: torch.device,
        recording: np.ndarray | None = None,
    ) -> None:
        self.split, self.class_text, self.source, self.device, self.seed = split, class_text, source, device, seed
        self.plan = EpisodePlan.sample(
            split.list,
            way=train["way"],
            shot=train["shot"],
            query=train["query_per_class"],
            episodes=train["episodes"],
            seed=seed,
            purpose="train",
            missing=split.missing,
            recording=recording,
        )
        self.dataset = split  # MMEngine's hooks look for a loader's dataset
        self._ahead: dict[int, tuple[list[Request], list]] = {}

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> EpisodeBatch:
        """Episode `number`; the next one is read ahead meanwhile."""
        requests, pending = self._ahead.pop(number, None) or self._begin(number)
        if number + 1 < len(self):
            self._ahead = {number + 1: self._begin(number + 1)}
        frames = frames_to_tensor(self.source.collect(requests, pending), self.device)
        classes = torch.from_numpy(self.plan.classes[number].astype(np.int64)).to(self.device)
        N, K = self.plan.support.shape[1:]
        return EpisodeBatch(
            support=frames[: N * K].unflatten(0, (1, N, K)),
            query=frames[N * K :].unsqueeze(0),
            labels=torch.from_numpy(self.plan.labels).to(self.device)[None],
            classes=classes[None],
            class_text=self.class_text[classes][None],
        )

    def _begin(self, number: int) -> tuple[list[Request], list]:
        clips = [*self.plan.support[number].ravel(), *self.plan.query[number].ravel()]
        requests = [Request(self.split.clips[clip], (self.seed, number, place)) for place, clip in enumerate(clips)]
        return requests, self.source.prefetch(requests)


@dataclass
class Evaluation:
    """A split with its plan, opened when it is first used.

    Attributes:
        dataset: where the split is opened.
        name: name of the split.
        episodes: arguments of `EpisodePlan.sample` beside list and purpose.
        encode_text: gives the text features of a split.
        source: where frames come from.
        batch: episodes scored at a time.
        store: folder of score parts, or None.
        bank_store: folder of encoded chunks, or None, and the key of what they depend on.
        group_disjoint: supports share no source recording with the queries of their class.
    """

    dataset: Dataset
    name: str
    episodes: dict
    encode_text: TextEncoder
    source: FrameSource
    batch: int
    store: Path | None = None
    bank_store: tuple[Path, str] | None = None
    group_disjoint: bool = False

    @cached_property
    def split(self) -> Split:
        return self.dataset.split(self.name)

    @cached_property
    def plan(self) -> EpisodePlan:
        recording = known_recordings(self.dataset, self.split) if self.group_disjoint else None
        return EpisodePlan.sample(
            self.split.list, purpose=self.name, missing=self.split.missing, recording=recording, **self.episodes
        )

    @cached_property
    def class_text(self) -> Tensor:
        return self.encode_text(self.split)

    def __len__(self) -> int:
        return self.episodes["episodes"]
