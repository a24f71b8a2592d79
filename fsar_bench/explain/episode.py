"""One episode of a result, taken apart: frames, the score of each class in its parts, and which frames were set against which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fsar_bench.data.decode import Request
from fsar_bench.engine.bank import build_bank
from fsar_bench.engine.memory import Room
from fsar_bench.engine.run import CellRun
from fsar_bench.errors import ResultError
from fsar_bench.explain.reopen import reopen
from fsar_bench.matching.matcher import Matcher
from fsar_bench.method import FewShotMethod, Scores, VideoFeatures
from fsar_bench.results.store import Stored


@dataclass(frozen=True)
class Matched:
    """What a matcher of the method set against what, of one query and all classes.

    Attributes:
        matcher: its class, and its name within the method.
        what: what the weights are, in words.
        distance: cosine distance of frames, `[N, K, T, S]`; K is 1 where the method merges shots first.
        weight: `[N, K, T, S]`.
    """

    matcher: str
    what: str
    distance: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Explained:
    """One episode.

    Attributes:
        episode: its number.
        names: text of each class, N.
        labels: true label of each query, Q.
        prediction: label that each query got, Q.
        scores: by name, total first, each `[Q, N]`.
        support: frames uint8 `[N, K, T, H, W, 3]`.
        query: frames uint8 `[Q, T, H, W, 3]`.
        matched: for each query, by matcher; empty where the method compares whole videos.
    """

    episode: int
    names: list[str]
    labels: np.ndarray
    prediction: np.ndarray
    scores: dict[str, np.ndarray]
    support: np.ndarray
    query: np.ndarray
    matched: list[list[Matched]]


def explain_stored(stored: Stored, pairs: list[str], episode: int) -> Explained:
    """Run the method of a result on one episode again, with the weights that the result was made with.

    Args:
        stored: the result.
        pairs: where files are on this machine, and run options; see `reopen`.
        episode: number of the episode.

    Raises:
        ResultError: the trained weights or other files are not those of the result, or other clips are missing here.
    """
    cell, options = reopen(stored, pairs)
    with CellRun.open(cell, options) as run:
        run.need_training()
        run.train()
        run.learn()
        run.choose()
        return explain(run, episode, stored.result.episodes.realised)


@torch.no_grad()
def explain(run: CellRun, episode: int, realised: str) -> Explained:
    """Encode and score one episode of the test plan.

    Args:
        run: with its trained weights.
        episode: number of the episode.
        realised: hash of the episodes of the result.

    Raises:
        ResultError: other clips are missing here than where the result was made.
    """
    plan, split = run.test.plan, run.test.split
    if plan.realised != realised:
        raise ResultError(
            "The episodes on this disk are not those of the result: other clips are missing here. Complete the data, or "
            "explain it where it was made."
        )
    classes, support, query = plan.classes[episode], plan.support[episode], plan.query[episode].ravel()
    clips = np.unique(np.concatenate([support.ravel(), query]))
    control = run.cell.protocol.frames_as
    room = Room(is_half=run.cell.protocol.features == "float16")
    bank = build_bank(run.method, split, clips, run.test_text, run.source, frames_as=control, room=room)
    text = run.test_text[torch.from_numpy(classes.astype(np.int64)).to(run.device)][None]
    scores, inputs = _score(run.method, *bank.episodes(plan, slice(episode, episode + 1)), text)
    frames = run.source.read([Request(split.clips[i]) for i in [*support.ravel(), *query]])
    N, K = support.shape
    named = {"total": scores.total, **scores.parts}
    return Explained(
        episode=episode,
        names=[split.texts[c] for c in classes],
        labels=plan.labels,
        prediction=scores.total[0].argmax(-1).cpu().numpy(),
        scores={name: tensor[0].float().cpu().numpy() for name, tensor in named.items()},
        support=frames[: N * K].reshape(N, K, *frames.shape[1:]),
        query=frames[N * K :],
        matched=[_all_matched(run.method, inputs, j) for j in range(len(query))],
    )


def _score(
    method: FewShotMethod, support: VideoFeatures, query: VideoFeatures, text: Tensor
) -> tuple[Scores, dict[str, tuple[Tensor, Tensor]]]:
    """Scores of one episode, and what each matcher of the method compared, by its name."""
    inputs: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, Tensor], output: Tensor) -> None:
            inputs[name] = arguments

        return hook

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in method.named_modules()
        if isinstance(module, Matcher)
    ]
    method.eval()
    try:
        return method.score_episodes(support, query, text), inputs
    finally:
        for hook in hooks:
            hook.remove()


def _all_matched(method: FewShotMethod, inputs: dict[str, tuple[Tensor, Tensor]], j: int) -> list[Matched]:
    """The alignments of query number j, one per matcher that has any."""
    matchers = dict(method.named_modules())
    alignments = (_matched(name, matchers[name], arguments, j) for name, arguments in inputs.items())
    return [alignment for alignment in alignments if alignment is not None]


def _matched(name: str, matcher: nn.Module, inputs: tuple[Tensor, Tensor], j: int) -> Matched | None:
    """The alignment of query number j; None where the matcher has none.

    A method may hand its queries to the matcher as one episode, or as one episode each.
    """
    assert isinstance(matcher, Matcher)
    query, support = inputs
    query, support = (query[0, j], support[0]) if len(query) == 1 else (query[j, 0], support[j])
    alignments = [alignment for shots in support if (alignment := matcher.alignment(query, shots)) is not None]
    if len(alignments) < len(support):
        return None
    label = type(matcher).__name__ + (f" ({name})" if name != "matcher" else "")
    distance = torch.stack([alignment.distance for alignment in alignments]).float().cpu().numpy()
    weight = torch.stack([alignment.weight for alignment in alignments]).float().cpu().numpy()
    return Matched(label, alignments[0].what, distance, weight)
