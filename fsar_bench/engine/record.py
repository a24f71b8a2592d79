"""The record and the cost of a cell that was run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch import Tensor

from fsar_bench.config.settings import KEPT_AS
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.device import environment, peak_memory
from fsar_bench.engine.episodes import prompts_of
from fsar_bench.engine.scoring import PlanScores
from fsar_bench.engine.speed import speed_of
from fsar_bench.results.record import (
    BackboneRecord,
    Cost,
    DataRecord,
    EpisodesRecord,
    FramesRecord,
    MetricsRecord,
    ParametersRecord,
    Result,
    Seconds,
)

if TYPE_CHECKING:
    from fsar_bench.engine.run import CellRun


def make_result(run: CellRun, metrics: MetricsRecord, predictions: bytes) -> Result:
    """Everything about a cell that repeats.

    Args:
        run: the cell after its stages.
        metrics: of its predictions.
        predictions: packed.
    """
    plan = run.source.plan
    return Result(
        config_hash=run.cell.hash,
        training_key=run.keys.training,
        cell=run.cell,
        fitted=run.fitted,
        data=_data(run),
        episodes=_episodes(run),
        frames=FramesRecord(reader=run.source.reader_version, resize=plan.resize, crop=plan.crop),
        backbone=_backbone(run),
        traits=run.method.traits,
        metrics=metrics,
        parameters=ParametersRecord(**run.method.parameter_counts()),
        predictions=hashlib.sha256(predictions).hexdigest(),
    )


def make_cost(run: CellRun, bank: FeatureBank, scores: PlanScores) -> Cost:
    """Times, memory and environment of a cell."""
    train = run.trained.seconds if run.trained else None
    return Cost(
        seconds=Seconds(train=train, encode=bank.seconds, score=scores.seconds),
        videos=len(run.test.plan.used_clips) * (1 if run.method.role_free else 2),
        memory=peak_memory(run.device),
        training=speed_of(run.training_folder) if run.trained else None,
        environment=environment(run.device),
    )


def _data(run: CellRun) -> DataRecord:
    split, plan = run.test.split, run.test.plan
    return DataRecord(
        list_hash=split.list.digest,
        fingerprint=split.fingerprint,
        classes=len(split.list.classes),
        class_names=split.list.names_digest,
        clips=split.size,
        coverage=float(split.coverage),
        recordings=plan.recordings_digest,
        learned_from=run.learned_from,
    )


def _episodes(run: CellRun) -> EpisodesRecord:
    prompts = "\n".join(prompts_of(run.test.split, run.test.template, run.test.class_texts))
    return EpisodesRecord(
        plan=run.test.plan.digest,
        realised=run.test.plan.realised,
        class_names=hashlib.sha256(prompts.encode()).hexdigest(),
        selection_split="val" if run.keys.training or run.fitted else None,
    )


def _backbone(run: CellRun) -> BackboneRecord:
    backbone, kept = run.method.backbone, run.cell.protocol.features
    return BackboneRecord(
        model=backbone.name,
        weights=run.keys.weights,
        pretraining=backbone.pretraining,
        activation=backbone.activation,
        precision=KEPT_AS if kept == KEPT_AS else f"{KEPT_AS}, features kept in {kept}",
        mean=_rounded(backbone.mean),
        std=_rounded(backbone.std),
    )


def _rounded(constants: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in constants.flatten().tolist())
