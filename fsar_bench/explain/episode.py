"""One episode of a result, taken apart: frames, the score of each class in its parts, and which frames were set against which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fsar_bench.config.overrides import parse_pairs
from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError, ResultError
from fsar_bench.matching.matcher import Matcher
from fsar_bench.results.store import Result

if TYPE_CHECKING:
    from fsar_bench.engine.episodes import Evaluation
    from fsar_bench.method import FewShotMethod


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


def cell_of(result: Result, extra: list[str]) -> tuple[dict, dict]:
    """The cell and run options that made a result, found again from its record; its config hash proves them.

    Args:
        extra: settings that a record does not tell (pretrained=, checkpoint=, methods= for a method of one's own), and run
        options.

    Raises:
        ResultError: no cell with the config hash of the result comes out.
    """
    p, given = result.protocol, parse_pairs(extra)
    told = {
        "methods": result.method.name, "dataset": result.dataset.name, "backbone": result.backbone.name, "way": p.way,
        "shot": p.shot, "query": p.query, "episodes": p.episodes, "seed": p.seed, "frames": p.frames, "template": p.template,
        "protocol": p.name, "controls": "false", "group_disjoint": str(p.group_disjoint).lower(),
    }  # fmt: skip
    if p.reader.startswith("av "):
        told["reader"] = "pyav"
    pairs = {key: str(value) for key, value in told.items()} | given
    plain = resolve([f"{key}={value}" for key, value in pairs.items()])
    cell = plain.cells[0]
    if cell["method"].get("matcher", {}).get("type") != result.method.config.get("matcher", {}).get("type"):
        pairs["matcher"] = result.method.config["matcher"]["type"]
        cell = resolve([f"{key}={value}" for key, value in pairs.items()]).cells[0]
    for root, now, then in (
        ("method", cell["method"], result.method.config),
        ("train", cell.get("train"), result.method.train),
    ):
        pairs |= {f"{root}.{key}": _text(value) for key, value in _changed(now or {}, then or {}).items()}
    run = resolve([f"{key}={value}" for key, value in pairs.items()])
    if len(run.cells) != 1 or run.cells[0]["hash"] != result.config_hash:
        raise ResultError(
            f"The settings of this result do not give its config hash {result.config_hash[:8]} on this machine. Other weights, "
            "data or code made it; name what its record does not tell: pretrained=, activation=, checkpoint=, or "
            "methods=./my_method.py."
        )
    return run.cells[0], run.options


def _changed(now: dict, then: dict, prefix: str = "") -> dict:
    """Values of `then` that differ from those of `now`, by dotted key."""
    out: dict = {}
    for key, value in then.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict) and isinstance(now.get(key), dict):
            out |= _changed(now[key], value, f"{dotted}.")
        elif now.get(key) != (tuple(value) if isinstance(now.get(key), tuple) else value):
            out[dotted] = value
    return out


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@torch.no_grad()
def explain(method: FewShotMethod, test: Evaluation, episode: int, realised: str) -> Explained:
    """Encode and score one episode of the test plan.

    Args:
        realised: hash of the episodes of the result.

    Raises:
        ConfigError: there is no such episode.
        ResultError: other clips are missing here than where the result was made.
    """
    from fsar_bench.data.decode import Request
    from fsar_bench.engine.bank import build_bank

    plan = test.plan
    if not 0 <= episode < len(plan):
        raise ConfigError(f"--episode {episode} does not exist: the plan has episodes 0 to {len(plan) - 1}.")
    if plan.realised != realised:
        raise ResultError(
            "The episodes on this disk are not those of the result: other clips are missing here. Complete the data, or "
            "explain it where it was made."
        )
    classes, support, query = plan.classes[episode], plan.support[episode], plan.query[episode].ravel()
    clips = np.unique(np.concatenate([support.ravel(), query]))
    bank = build_bank(method, test.split, clips, test.class_text, test.source)
    features = bank.episodes(plan, slice(episode, episode + 1))
    seen: dict[str, tuple] = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: inputs}))
        for name, module in method.named_modules()
        if isinstance(module, Matcher)
    ]
    method.eval()
    try:
        text = test.class_text[torch.from_numpy(classes.astype(np.int64)).to(test.class_text.device)][None]
        scores = method.score(*features, text)
    finally:
        for hook in hooks:
            hook.remove()
    frames = test.source.read([Request(test.split.clips[i]) for i in [*support.ravel(), *query]])
    N, K = support.shape
    named = {"total": scores.total, **scores.parts}
    matchers = dict(method.named_modules())
    return Explained(
        episode,
        [test.split.texts[c] for c in classes],
        plan.labels,
        scores.total[0].argmax(-1).cpu().numpy(),
        {name: tensor[0].float().cpu().numpy() for name, tensor in named.items()},
        frames[: N * K].reshape(N, K, *frames.shape[1:]),
        frames[N * K :],
        [
            [m for name, inputs in seen.items() if (m := _matched(name, matchers[name], inputs, j))]
            for j in range(len(query))
        ],
    )


def _matched(name: str, matcher: Matcher, inputs: tuple, j: int) -> Matched | None:
    """The alignments of query number j. A method may hand its queries to the matcher as one episode or as one episode each."""
    query, support = inputs
    query, support = (query[0, j], support[0]) if len(query) == 1 else (query[j, 0], support[j])
    found = [matcher.alignment(query, of_class) for of_class in support]
    if any(one is None for one in found):
        return None
    label = type(matcher).__name__ + (f" ({name})" if name != "matcher" else "")
    distance, weight = (
        torch.stack([getattr(one, kind) for one in found]).float().cpu().numpy() for kind in ("distance", "weight")
    )
    return Matched(label, found[0].what, distance, weight)
