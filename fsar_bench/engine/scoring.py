"""Scoring: a plan over a bank, in batches of episodes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fsar_bench.engine.bank import FeatureBank, RepeatedGathering, clip_bytes
from fsar_bench.errors import NotNumbersError, ProtocolError
from fsar_bench.io import read_whole, write_cached
from fsar_bench.method import FewShotMethod, Scores, VideoFeatures
from fsar_bench.plan import EpisodePlan
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import DamagedError, unseal, write_sealed

PART = 1000  # episodes of one stored part
GATHERED = 1 << 24  # bytes of features gathered at a time: with what is made of them they stay in a CPU's cache
GATHERED_ON_GPU = 1 << 28
INDEXED = 1 << 32  # bytes of what is computed once a video; where it is more, it is made for the videos of each batch


@dataclass(frozen=True)
class ScoreStore:
    """A folder that keeps parts of `PART` episodes, so that an interrupted scoring can be resumed.

    Attributes:
        folder: where they are stored.
        key: everything that they depend on.
    """

    folder: Path
    key: str


@dataclass(frozen=True)
class PlanScores:
    """Scores of all queries of a plan.

    Attributes:
        total: float32 `[E, Q, N]`.
        parts: by name, float32 `[E, Q, N]`.
        seconds: seconds of scoring; reused parts count their original time.
    """

    total: np.ndarray
    parts: dict[str, np.ndarray]
    seconds: float

    @property
    def prediction(self) -> np.ndarray:
        """Predicted label of each query, uint8 `[E, Q]`; the lowest label where scores tie."""
        return self.total.argmax(-1).astype(np.uint8)


@torch.no_grad()
def score_plan(
    method: FewShotMethod,
    bank: FeatureBank,
    plan: EpisodePlan,
    class_text: Tensor,
    *,
    batch: int,
    store: ScoreStore | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PlanScores:
    """Score all episodes, `batch` at a time.

    Args:
        method: with its weights as they are; it is set to eval mode.
        bank: features of the clips that the plan uses.
        plan: the episodes.
        class_text: text features of all classes of the split, `[classes, C]`.
        batch: episodes scored at a time; fewer where their features are larger than `GATHERED`.
        store: keeps scores; None keeps nothing.
        progress: called with (episodes scored, episodes in all).
    """
    method.eval()
    episodes = _Episodes(method, bank, plan)
    most = GATHERED if class_text.device.type == "cpu" else GATHERED_ON_GPU
    batch = max(1, min(batch, most // max(1, episodes.bytes)))
    joined: dict[str, np.ndarray] = {}
    seconds, shape = 0.0, (plan.query[0].size, plan.classes.shape[1])
    if progress:
        progress(0, len(plan))
    for start in range(0, len(plan), PART):
        stop = min(start + PART, len(plan))
        path = store.folder / f"scores_{start:06d}.npz" if store else None
        key = f"{store.key}|{start}:{stop}" if store else ""
        part = _stored(path, key, (stop - start, *shape), {*joined, "seconds"} if joined else None)
        if part is None:
            began = perf_counter()
            batches = [slice(i, min(i + batch, stop)) for i in range(start, stop, batch)]
            scores = [_score(method, episodes, class_text, rows) for rows in batches]
            part = {name: np.concatenate([s[name] for s in scores]) for name in scores[0]}
            part["seconds"] = np.array([perf_counter() - began])
            _save(path, part, key)
        seconds += float(part.pop("seconds").sum())
        for (
            name,
            array,
        ) in part.items():  # into one array: small ones between large that are freed would keep their memory
            if name not in joined:
                joined[name] = np.empty((len(plan), *array.shape[1:]), array.dtype)
            joined[name][start:stop] = array
        if progress:
            progress(stop, len(plan))
    return PlanScores(total=joined.pop("total"), seconds=seconds, parts=joined)


class _Episodes:
    """Features of episodes, with what the method computes of each video alone; those of one batch at a time.

    Attributes:
        plan: the episodes.
        bytes: of the features of one of them.
    """

    def __init__(self, method: FewShotMethod, bank: FeatureBank, plan: EpisodePlan) -> None:
        self._method, self._bank, self.plan = method, bank, plan
        one = bank.restricted(plan.query[0].flatten()[:1]).indexed(method.index)
        self.bytes = one.episode_bytes(plan)
        clips = max(len(bank.query), len(bank.support))
        self._is_small = clips * clip_bytes(one.support) <= INDEXED
        self._gathering = RepeatedGathering()

    @cached_property
    def _indexed(self) -> FeatureBank:
        return self._bank.indexed(self._method.index)

    def __getitem__(self, rows: slice) -> tuple[VideoFeatures, VideoFeatures]:
        """Supports `[E, N, K, ...]` and queries `[E, Q, ...]`, which overwrite those before."""
        if self._is_small:
            return self._indexed.episodes(self.plan, rows, self._gathering)
        clips = np.unique(np.concatenate([self.plan.support[rows].ravel(), self.plan.query[rows].ravel()]))
        return self._bank.restricted(clips).indexed(self._method.index).episodes(self.plan, rows, self._gathering)


def _score(method: FewShotMethod, episodes: _Episodes, class_text: Tensor, rows: slice) -> dict[str, np.ndarray]:
    plan = episodes.plan
    support, query = episodes[rows]
    text = class_text[torch.from_numpy(plan.classes[rows].astype(np.int64)).to(class_text.device)]
    scores: object = method.score_episodes(support, query, text)
    expected = (*query.leading(2), plan.classes.shape[1])
    if not isinstance(scores, Scores):
        raise ProtocolError(
            f"score() returned a {type(scores).__name__}: return Scores(total), with total [E, Q, N] = {expected}."
        )
    if tuple(scores.total.shape) != expected:
        raise ProtocolError(f"score() gave a total of shape {tuple(scores.total.shape)}, not [E, Q, N] = {expected}.")
    if torch.isnan(scores.total).any():
        raise NotNumbersError(
            "score() gave scores that are not numbers (NaN). Look for a division by zero in the method."
        )
    named = {"total": scores.total, **scores.parts}
    # copies: a score may be a view of features, which the next batch overwrites
    return {name: tensor.float().cpu().numpy().copy() for name, tensor in named.items()}


def _stored(
    path: Path | None, key: str, shape: tuple[int, ...], names: set[str] | None
) -> dict[str, np.ndarray] | None:
    """A part of the scores, `[E, Q, N]`, with the names of other parts, if it is stored."""
    if path is None:
        return None
    read = partial(_load, key=key, shape=shape, names=names)
    return recall(path, read, "scores", again="They are computed again")


def _load(path: Path, key: str, shape: tuple[int, ...], names: set[str] | None) -> dict[str, np.ndarray]:
    """What `_save` wrote; raises an `OSError` or a `DamagedError`."""
    content = unseal(read_whole(path), key)
    try:
        with np.load(BytesIO(content), allow_pickle=False) as store:
            part = {name: store[name] for name in store.files}
    except (
        EOFError,
        OSError,
        ValueError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:  # sealed, and no arrays all the same
        raise DamagedError("it holds no arrays") from error
    if not _is_right(part, shape) or (names is not None and names != set(part)):
        raise DamagedError("it holds no scores of these episodes")
    return part


def _is_right(part: dict[str, np.ndarray], shape: tuple[int, ...]) -> bool:
    """Whether arrays are scores of a shape, with the seconds that they took."""
    scores = {name: array for name, array in part.items() if name != "seconds"}
    if (
        scores.keys() == part.keys()
        or "total" not in scores
        or not all(isinstance(a, np.ndarray) for a in part.values())
    ):
        return False
    seconds = part["seconds"]
    return (
        seconds.shape == (1,)
        and 0 <= seconds[0] < math.inf
        and all(array.shape == shape and array.dtype == np.float32 for array in scores.values())
        and not np.isnan(scores["total"]).any()
    )


def _save(path: Path | None, part: dict[str, np.ndarray], key: str) -> None:
    if path is None:
        return
    packed = BytesIO()
    np.savez(packed, **part)  # type: ignore[arg-type]  # numpy's stub takes keywords for its option
    write_cached(path, lambda file: write_sealed(file, key, lambda out: out.write(packed.getbuffer())))
