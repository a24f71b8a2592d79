"""Stores of results that tests make, without torch: plans, predictions and records that fit each other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from fsar_bench.plan import ClipList, EpisodePlan
from fsar_bench.results import store as results

SHA = "0" * 64


def make_plan(classes: int = 6, clips: int = 12, **changes) -> EpisodePlan:
    """A plan of 2-way 1-shot episodes over classes c0, c1, …"""
    missing = changes.pop("missing", frozenset())
    how = {"way": 2, "shot": 1, "query": 1, "episodes": 40, "seed": 0, "purpose": "test", **changes}
    clip_list = ClipList.of([(f"c{c}", f"c{c}_{i:02d}") for c in range(classes) for i in range(clips)])
    return EpisodePlan.sample(clip_list, missing=missing, **how)


def predictions(plan: EpisodePlan, accuracy: float, seed: int) -> np.ndarray:
    """Predictions `[E, Q]` that are right with a probability which differs by query clip."""
    rng = np.random.default_rng(seed)
    clips = int(max(plan.query.max(), plan.support.max())) + 1
    chance = np.clip(accuracy + rng.normal(0, 0.15, clips), 0, 1)[plan.query.reshape(len(plan), -1)]
    right = rng.random(chance.shape) < chance
    wrong = (plan.labels + rng.integers(1, plan.classes.shape[1], chance.shape)) % plan.classes.shape[1]
    return np.where(right, plan.labels, wrong).astype(np.uint8)


def store(
    root: Path,
    name: str,
    prediction: np.ndarray,
    plan: EpisodePlan,
    *,
    dataset: str = "toy",
    title: str | None = None,
    backbone: str = "b",
    train: dict | None = None,
    coverage: float = 1.0,
    fingerprint: str = SHA,
    synthetic: bool = True,
    pairs: bool = False,
    config: dict | None = None,
    cost: dict | None = None,
) -> Path:
    """Write a result below `root`; returns its folder."""
    pair = (prediction == plan.labels).astype(np.uint8) if pairs else None
    packed = results.pack_predictions(prediction, pair)
    way, shot, query = plan.classes.shape[1], plan.support.shape[2], plan.query.shape[2]
    identity = f"{name}{title}{plan.realised}{dataset}{backbone}{train}{config}{fingerprint}"
    record = results.Result(
        config_hash=hashlib.sha256(identity.encode()).hexdigest(),
        training_key=SHA if train else None,
        method=results.MethodRecord(name=name, title=title or name, paper="", config=config or {"type": name}, train=train),
        dataset=results.DatasetRecord(
            name=dataset, title=dataset.capitalize(), synthetic=synthetic, list_hash=plan.header["list"], fingerprint=fingerprint,
            classes=len(plan.names), clips=int(max(plan.query.max(), plan.support.max())) + 1, coverage=coverage,
            controls=["control"],
        ),
        protocol=results.ProtocolRecord(
            name="standard", split="test", way=way, shot=shot, query=query, episodes=len(plan),
            seed=plan.header["seed"], plan=plan.digest,
            realised=plan.realised, frames=8, sampling="midpoint", resize=60, crop=60, template="{}", class_names=SHA,
            selection_split="val" if train else None, reader="r 1.0",
        ),
        backbone=results.BackboneRecord(
            name=backbone, model="b", weights=SHA, pretraining="none", activation="GELU", precision="float32", mean=(0.5,),
            std=(0.2,),
        ),
        traits=results.TraitsRecord(
            uses_class_names=name == "zero_shot", trainable=bool(train), transductive=False, order_sensitive=False,
        ),
        metrics=results.measure(prediction, plan.labels, pair),
        parameters=results.ParametersRecord(trainable=len(name) * 100_000, total=2_000_000),
        predictions=hashlib.sha256(packed).hexdigest(),
    )  # fmt: skip
    plan.save(root / "plans" / results.plan_name(plan.realised))
    default = {"seconds": {"encode": 2.0, "score": 0.5, **({"train": 30.0} if train else {})}, "videos": 72}
    return results.write(
        root / "results", record, packed, {**default, "peak_memory_mb": {"host": 1234.5}, **(cost or {})}
    )
