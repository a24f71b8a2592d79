"""Stores of results that tests make, without torch: plans, predictions and records that fit each other."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from fsar_bench.config.cell import ENGINE, Cell, DatasetSource, Identity, Label, Traits
from fsar_bench.config.settings import Protocol, Train
from fsar_bench.io import to_json
from fsar_bench.plan import ClipList, EpisodePlan, digest_of_names
from fsar_bench.results import store as results
from fsar_bench.results.predictions import measure, pack_predictions
from fsar_bench.results.record import (
    BackboneRecord,
    Cost,
    DataRecord,
    EpisodesRecord,
    FramesRecord,
    ParametersRecord,
    Result,
)

SHA = "0" * 64


def make_plan(classes: int = 6, clips: int = 12, **changes) -> EpisodePlan:
    """A plan of 2-way 1-shot episodes over classes c0, c1, …; `recordings` are of all clips."""
    missing, recordings = changes.pop("missing", frozenset()), changes.pop("recordings", None)
    how = {"way": 2, "shot": 1, "query": 1, "episodes": 40, "seed": 0, "purpose": "test", **changes}
    clip_list = ClipList.of([(f"c{c}", f"c{c}_{i:02d}") for c in range(classes) for i in range(clips)])
    return EpisodePlan.sample(clip_list, missing=missing, **how).with_recordings(recordings)


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
    changed: dict[str, str] | None = None,
    backbone: str = "b",
    train: dict | None = None,
    coverage: float = 1.0,
    fingerprint: str = SHA,
    synthetic: bool = True,
    submitted: bool = False,
    transductive: bool = False,
    pairs: bool = False,
    config: dict | None = None,
    reader: str = "r 1.0",
    cost: dict | None = None,
) -> Path:
    """Write a result below `root`; returns its folder."""
    pair = (prediction == plan.labels).astype(np.uint8) if pairs else None
    packed = pack_predictions(prediction, pair)
    identity = Identity(
        engine=ENGINE,
        name=name,
        method={"type": name, **(config or {}), **(changed or {})},
        train=Train.of(train) if train else None,
        custom_imports=[],
        dataset=DatasetSource(name=dataset, annotation=f"builtin:{dataset}"),
        backbone={"name": backbone, "type": "B"},
        protocol=protocol_of(plan),
        reader=word if (word := reader.split()[0]).isidentifier() else "r",
        inputs={"annotation": SHA},
    )
    label = Label(
        title=title or name, paper="", changed=changed or {}, dataset=dataset.capitalize(), synthetic=synthetic,
        protocol="standard", control=name == "control",
    )  # fmt: skip
    cell = Cell(identity=identity, label=label)
    record = Result(
        config_hash=cell.hash,
        training_key=SHA if train else None,
        cell=cell,
        submitted=submitted,
        data=DataRecord(
            list_hash=plan.header["list"], fingerprint=fingerprint, classes=len(plan.names),
            class_names=digest_of_names(plan.names),
            clips=count_clips(plan), coverage=coverage,
            recordings=plan.recordings_digest,
        ),
        episodes=EpisodesRecord(
            plan=plan.digest, realised=plan.realised, class_names=SHA, selection_split="val" if train else None,
        ),
        frames=FramesRecord(reader=reader, resize=60, crop=60),
        backbone=BackboneRecord(
            model="b", weights=SHA, pretraining="none", activation="GELU", precision="float32", mean=(0.5,), std=(0.2,),
        ),
        traits=Traits(
            uses_class_names=name == "zero_shot", trainable=bool(train), transductive=transductive, order_sensitive=False,
            ignores_supports=name == "zero_shot",
        ),
        metrics=measure(prediction, plan.labels, pair),
        parameters=ParametersRecord(trainable=len(name) * 100_000, total=2_000_000),
        predictions=hashlib.sha256(packed).hexdigest(),
    )  # fmt: skip
    plan.save(root / "plans" / record.plan_name)
    seconds = {"encode": 2.0, "score": 0.5, **({"train": 30.0} if train else {})}
    spent = {"seconds": seconds, "videos": 72, "memory": {"host": 1234.5}, **(cost or {})}
    return results.write(root / "results", record, packed, Cost.model_validate(spent)).folder


def count_clips(plan: EpisodePlan) -> int:
    """Clips of the list of a plan: as many as have a recording, else up to the last one that is used."""
    return int(plan.used_clips[-1]) + 1 if plan.recordings is None else len(plan.recordings)


def protocol_of(plan: EpisodePlan) -> Protocol:
    """The protocol that a plan was drawn for."""
    _, way, shot = plan.support.shape
    header = plan.header
    return Protocol(
        split=header["purpose"], way=way, shot=shot, query=plan.query.shape[2], episodes=len(plan), seed=header["seed"],
        template="{}", frames=8,
    )  # fmt: skip


def fill(root: Path, count: int, plan: EpisodePlan, *, seed: int = 0, **how) -> None:
    """Write many results of one plan: methods m0, m1, … of which each is right a little less often than the one before.

    Clips differ in difficulty, and methods agree on most of them, as methods do. Much faster than `store`.

    Args:
        root: of the store.
        count: how many.
        plan: their episodes.
        seed: of the predictions.
        how: as of `store`.
    """
    first = store(root, "m", predictions(plan, 0.9, seed), plan, **how)
    template, cost = json.loads((first / "result.json").read_bytes()), (first / "cost.json").read_bytes()
    shutil.rmtree(first)
    rng = np.random.default_rng(seed)
    shape = (len(plan), len(plan.labels))
    clip = rng.normal(0, 0.8, int(max(plan.query.max(), plan.support.max())) + 1)[plan.query.reshape(shape)]
    for number in range(count):
        right = clip + rng.normal(0, 1, shape) + 1.5 - 1.2 * number / count > 0
        prediction = np.where(right, plan.labels, (plan.labels + 1) % plan.classes.shape[1]).astype(np.uint8)
        packed = pack_predictions(prediction, None)
        template["cell"]["identity"]["name"] = f"m{number}"
        template["cell"]["label"]["title"] = f"M{number}"
        cell = Cell.model_validate(template["cell"])
        metrics = measure(prediction, plan.labels, None).model_dump(mode="json")
        record = {**template, "config_hash": cell.hash, "metrics": metrics}
        record["predictions"] = hashlib.sha256(packed).hexdigest()
        folder = root / "results" / cell.folder
        folder.mkdir(parents=True)
        for name, data in (("predictions.npz", packed), ("cost.json", cost), ("result.json", to_json(record))):
            (folder / name).write_bytes(data)
