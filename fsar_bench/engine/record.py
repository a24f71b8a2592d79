"""From a scored cell to its stored result."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from fsar_bench.engine.device import environment, peak_memory
from fsar_bench.engine.scoring import pair_outcomes
from fsar_bench.results import store as results

if TYPE_CHECKING:
    import torch

    from fsar_bench.engine.run import Keys
    from fsar_bench.engine.runner import EpisodicRunner
    from fsar_bench.method import FewShotMethod


def store_result(
    cell: dict,
    options: dict,
    method: FewShotMethod,
    runner: EpisodicRunner,
    keys: Keys,
    device: torch.device,
    seconds: dict,
    fitted: dict | None,
) -> Path:
    """Write the record, predictions and cost of a scored cell, and its plan; returns the folder of the result."""
    test, loop = runner.test_loop.dataloader, runner.test_loop
    split, plan, protocol = test.split, test.plan, cell["protocol"]
    prediction = loop.scores.prediction
    pair = pair_outcomes(loop.scores, plan, split.reverse)
    packed = results.pack_predictions(prediction, pair)
    backbone = method.backbone
    class_names = "\n".join(protocol["template"].format(text) for text in split.texts)
    result = results.Result(
        config_hash=cell["hash"],
        training_key=keys.training,
        method=results.MethodRecord(
            name=cell["name"],
            title=cell["title"],
            paper=cell["paper"],
            config=cell["method"],
            train=cell.get("train") if keys.training else None,
            fitted=fitted,
        ),
        dataset=results.DatasetRecord(
            name=cell["dataset"]["name"],
            title=cell["dataset_title"],
            synthetic=cell["synthetic"],
            list_hash=split.list.digest,
            fingerprint=split.fingerprint,
            classes=len(split.list.classes),
            clips=len(split.clips),
            coverage=split.coverage,
            controls=cell["controls"],
        ),
        protocol=results.ProtocolRecord(
            name=cell["protocol_name"],
            **{
                k: protocol[k]
                for k in ("split", "way", "shot", "query", "episodes", "seed", "frames", "sampling", "template")
            },
            group_disjoint=protocol.get("group_disjoint", False),
            plan=plan.digest,
            realised=plan.realised,
            resize=backbone.resize,
            crop=backbone.crop,
            class_names=hashlib.sha256(class_names.encode()).hexdigest(),
            selection_split="val" if keys.training or fitted else None,
            reader=test.source.reader_version,
        ),
        backbone=results.BackboneRecord(
            name=cell["backbone"]["name"],
            model=backbone.name,
            weights=keys.weights,
            pretraining=backbone.pretraining,
            activation=backbone.activation,
            precision="float32",
            mean=_rounded(backbone.mean),
            std=_rounded(backbone.std),
        ),
        traits=results.TraitsRecord(**method.traits.as_dict()),
        metrics=results.measure(prediction, plan.labels, pair),
        parameters=results.ParametersRecord(**method.parameter_counts()),
        predictions=hashlib.sha256(packed).hexdigest(),
    )
    out = Path(options["out"])
    cost = {
        "seconds": {**seconds, "encode": loop.encode_seconds, "score": loop.scores.seconds},
        "videos": len(plan.used_clips) * (1 if method.role_free else 2),
        "peak_memory_mb": peak_memory(device),
        "environment": environment(device),
    }
    plan.save(out / "plans" / results.plan_name(plan.realised))
    return results.write(out / "results", result, packed, cost)


def _rounded(constants) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in constants.flatten().tolist())
