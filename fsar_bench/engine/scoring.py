"""Scoring: a plan over a bank, in batches of episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from fsar_bench.engine.bank import FeatureBank
from fsar_bench.errors import ProtocolError
from fsar_bench.io import write_cached
from fsar_bench.method import FewShotMethod, Scores
from fsar_bench.plan import EpisodePlan

PART = 1000  # episodes of one stored part


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


@torch.inference_mode()
def score_plan(
    method: FewShotMethod,
    bank: FeatureBank,
    plan: EpisodePlan,
    class_text: Tensor,
    *,
    batch: int,
    store: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PlanScores:
    """Score all episodes, `batch` at a time.

    Args:
        method: with its weights as they are; it is set to eval mode.
        bank: features of the clips that the plan uses.
        plan: the episodes.
        class_text: text features of all classes of the split, `[classes, C]`.
        batch: episodes scored at a time.
        store: folder that keeps parts of `PART` episodes, so that an interrupted scoring can be resumed; None keeps nothing.
        progress: called with (episodes scored, episodes in all).
    """
    method.eval()
    stored: list[dict[str, np.ndarray]] = []
    if progress:
        progress(0, len(plan))
    for start in range(0, len(plan), PART):
        stop = min(start + PART, len(plan))
        path = store and store / f"scores_{start:06d}.npz"
        part = _load(path, stop - start)
        if part is None:
            began = perf_counter()
            batches = [slice(i, min(i + batch, stop)) for i in range(start, stop, batch)]
            scores = [_score(method, bank, plan, class_text, rows) for rows in batches]
            part = {name: np.concatenate([s[name] for s in scores]) for name in scores[0]}
            part["seconds"] = np.array([perf_counter() - began])
            _save(path, part)
        stored.append(part)
        if progress:
            progress(stop, len(plan))
    joined = {name: np.concatenate([part[name] for part in stored]) for name in stored[0]}
    return PlanScores(total=joined.pop("total"), seconds=float(joined.pop("seconds").sum()), parts=joined)


def _score(
    method: FewShotMethod, bank: FeatureBank, plan: EpisodePlan, class_text: Tensor, rows: slice
) -> dict[str, np.ndarray]:
    support, query = bank.episodes(plan, rows)
    text = class_text[torch.from_numpy(plan.classes[rows].astype(np.int64)).to(class_text.device)]
    scores: object = method.score(support, query, text)
    expected = (*query.leading(2), plan.classes.shape[1])
    if not isinstance(scores, Scores):
        raise ProtocolError(
            f"score() returned a {type(scores).__name__}: return Scores(total), with total [E, Q, N] = {expected}."
        )
    if tuple(scores.total.shape) != expected:
        raise ProtocolError(f"score() gave a total of shape {tuple(scores.total.shape)}, not [E, Q, N] = {expected}.")
    if torch.isnan(scores.total).any():
        raise ProtocolError(
            "score() gave scores that are not numbers (NaN). Look for a division by zero in the method."
        )
    named = {"total": scores.total, **scores.parts}
    return {name: tensor.float().cpu().numpy() for name, tensor in named.items()}


def _load(path: Path | None, episodes: int) -> dict[str, np.ndarray] | None:
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as store:
            part = {name: store[name] for name in store.files}
        if len(part["total"]) == episodes:
            return part
    except Exception:  # whatever is wrong with the file, the answer is to score again
        pass
    path.unlink()
    return None


def _save(path: Path | None, part: dict[str, np.ndarray]) -> None:
    if path is None:
        return
    write_cached(path, lambda file: np.savez(file, **part))  # type: ignore[arg-type]  # numpy's stub takes keywords for its option
