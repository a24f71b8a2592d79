"""Episodic train, validation and test loops, registered with MMEngine."""

from __future__ import annotations

from time import perf_counter

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import BaseLoop

from fsar_bench.engine.bank import FeatureBank, build_bank
from fsar_bench.engine.episodes import Evaluation
from fsar_bench.engine.scoring import PlanScores, score_plan
from fsar_bench.registry import LOOPS


@METRICS.register_module()
class QueryAccuracy(BaseMetric):
    """Percent of queries whose highest score is that of their class."""

    default_prefix = "query"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        for sample in data_samples:
            self.results.append((int((sample["prediction"] == sample["labels"]).sum()), sample["prediction"].size))

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {"accuracy": 100.0 * sum(right for right, _ in results) / sum(total for _, total in results)}


@LOOPS.register_module()
class EpisodicTrainLoop(BaseLoop):
    """One training episode an iteration, drawn by number; validation at step 0, every `val_interval` and at the end.

    Args:
        max_iters: training episodes.
        val_interval: episodes between validations; a multiple of the accumulation.
    """

    def __init__(self, runner, dataloader, max_iters: int, val_interval: int) -> None:
        super().__init__(runner, dataloader)
        self._max_iters, self._iter, self.val_interval = max_iters, 0, val_interval

    @property
    def max_epochs(self) -> int:
        return 1

    @property
    def max_iters(self) -> int:
        return self._max_iters

    @property
    def epoch(self) -> int:
        return 0

    @property
    def iter(self) -> int:
        return self._iter

    def start_at(self, iteration: int) -> None:
        """Go on after `iteration` episodes; they are drawn by number, so nothing is replayed."""
        self._iter = iteration

    def run(self) -> object:
        """Train to the end; returns the model."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        if self._iter == 0:
            runner.val_loop.run()
        while self._iter < self._max_iters:
            runner.model.train()
            self.run_iter()
            if self._iter % self.val_interval == 0 or self._iter == self._max_iters:
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def run_iter(self) -> None:
        """One episode."""
        runner, number = self.runner, self._iter
        began = perf_counter()
        runner.seed_step(number)
        batch = self.dataloader[number]
        runner.call_hook("before_train_iter", batch_idx=number, data_batch=batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        self._iter += 1
        runner.training_seconds += perf_counter() - began
        runner.call_hook("after_train_iter", batch_idx=number, data_batch=batch, outputs=outputs)


class _EvaluationLoop(BaseLoop):
    """Encode the clips of a plan, score the plan, measure."""

    dataloader: Evaluation

    def __init__(self, runner, dataloader: Evaluation, evaluator) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = runner.build_evaluator(evaluator)
        self.scores: PlanScores | None = None

    def _evaluate(self, stage: str) -> dict[str, float]:
        source, model, report = self.dataloader, self.runner.model, self.runner.report
        folder, key = source.bank_store or (None, "")
        bank: FeatureBank = build_bank(
            model,
            source.split,
            source.plan.used_clips,
            source.class_text,
            source.source,
            store=folder,
            store_key=key,
            progress=lambda done, total: report(f"{stage}encoding", done, total),
        )
        self.encode_seconds = bank.seconds
        self.scores = score_plan(
            model,
            bank,
            source.plan,
            source.class_text,
            batch=source.batch,
            store=source.store,
            progress=lambda done, total: report(f"{stage}scoring", done, total),
        )
        self.evaluator.process([{"prediction": self.scores.prediction, "labels": source.plan.labels}])
        return self.evaluator.evaluate(len(source.plan))


@LOOPS.register_module()
class EpisodicValLoop(_EvaluationLoop):
    """Accuracy on the val episodes, the same ones every time."""

    def run(self) -> dict[str, float]:
        runner = self.runner
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        began = perf_counter()
        metrics = self._evaluate("validation: ")
        runner.training_seconds += perf_counter() - began
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics


@LOOPS.register_module()
class EpisodicTestLoop(_EvaluationLoop):
    """Scores of all test episodes."""

    def run(self) -> dict[str, float]:
        runner = self.runner
        runner.call_hook("before_test")
        runner.call_hook("before_test_epoch")
        metrics = self._evaluate("")
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics
