"""Episodic train, validation and test loops and their metric, registered with MMEngine."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.evaluator import BaseMetric
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from fsar_bench.engine.bank import BankStore, build_bank, encode_for_first
from fsar_bench.engine.checkpoint import trainable_state
from fsar_bench.engine.episodes import EvaluationEpisodes, TrainEpisodes, encode_class_text, prepare_method
from fsar_bench.engine.exchange import Exchange
from fsar_bench.engine.memory import Room
from fsar_bench.engine.scoring import PlanScores, score_plan
from fsar_bench.engine.updates import SharedUpdates
from fsar_bench.method import EpisodeBatch, FewShotMethod
from fsar_bench.progress.events import counter
from fsar_bench.registry import LOOPS, METRICS


@METRICS.register_module()
class QueryAccuracy(BaseMetric):
    """Percent of queries whose highest score is that of their class."""

    default_prefix = "query"

    def process(self, data_batch: object, data_samples: list[dict[str, Any]]) -> None:
        """Count right queries of predictions `[E, Q]` and labels `[Q]`."""
        for sample in data_samples:
            self.results.append((int((sample["prediction"] == sample["labels"]).sum()), sample["prediction"].size))

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict[str, float]:
        """Accuracy in percent."""
        return {"accuracy": 100.0 * sum(right for right, _ in results) / sum(total for _, total in results)}

    def evaluate(self, size: int) -> dict[str, float]:
        """Metrics with their prefix; of several ranks the first one has scored all episodes, and tells the others."""
        metrics = self.compute_metrics(self.results) if self.results else {}
        told = [{f"{self.prefix}/{name}": value for name, value in metrics.items()}]
        self.results.clear()
        broadcast_object_list(told)
        return told[0]


@LOOPS.register_module()
class EpisodicTrainLoop(BaseLoop):
    """One training episode per iteration, drawn by its number; validation before the first, every `val_interval` and at the end.

    Where several ranks train together, each computes some of the episodes of an update, and hooks see all of them.

    Args:
        runner: the runner.
        dataloader: of `TrainEpisodes`; episodes are taken from the dataset by number, so a resumed training replays nothing.
        max_iters: training episodes.
        val_interval: episodes between validations; a multiple of the accumulation.
        loss_scale: factor of an episode's loss before its gradient.

    Attributes:
        validated: number of episodes after which the last validation was; None before the first.
    """

    def __init__(
        self, runner: Runner, dataloader: Any, max_iters: int, val_interval: int, loss_scale: float = 1.0
    ) -> None:
        super().__init__(runner, dataloader)
        runner.model.loss_scale = loss_scale
        self._max_iters, self._iter, self.val_interval = max_iters, 0, val_interval
        self.validated: int | None = None
        self._seconds_before, self._began = 0.0, perf_counter()
        self.episodes: TrainEpisodes = self.dataloader.dataset
        # Before the optimiser is built: a method may add parameters for its training classes.
        self.class_text = prepare_method(
            runner.model, self.episodes.dataset, self.episodes.template, self.episodes.class_texts
        )
        self.exchange = Exchange.current()
        self.shared = SharedUpdates(self, self.exchange) if self.exchange else None

    @property
    def max_epochs(self) -> int:
        """Training knows no epochs: one."""
        return 1

    @property
    def max_iters(self) -> int:
        """Training episodes."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Always 0."""
        return 0

    @property
    def iter(self) -> int:
        """Training episodes that are done."""
        return self._iter

    @property
    def seconds(self) -> float:
        """Seconds of training and validation so far, those before a resume included."""
        return self._seconds_before + perf_counter() - self._began

    def validates_after(self, episodes: int) -> bool:
        """Whether a validation is due after that many episodes, and not done yet."""
        due = episodes % self.val_interval == 0 or episodes == self._max_iters
        return due and self.validated != episodes

    def resume_at(self, iteration: int, *, validated: int | None, seconds: float) -> None:
        """Continue after `iteration` episodes."""
        self._iter, self.validated, self._seconds_before = iteration, validated, seconds

    def run(self) -> nn.Module:
        """Train to the end; returns the model."""
        self._began = perf_counter()
        self.runner.call_hook("before_train")
        if self.exchange:
            self.exchange.wait()  # all have read the checkpoint that rank 0 writes
        self.runner.call_hook("before_train_epoch")
        self._validate_if_due()
        while self._iter < self._max_iters:
            self.runner.model.train()
            if self.shared:
                self.shared.run_round()
            else:
                self.run_iter()
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self) -> None:
        """One episode."""
        number = self._iter
        batch = self.episodes[number].batch(self.class_text)
        self.begin(number, batch)
        self.end(number, batch, self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper))

    def begin(self, number: int, batch: EpisodeBatch | None) -> None:
        """Tell the hooks that an episode begins; its batch is None where another rank has it."""
        self._iter = number
        self.runner.call_hook("before_train_iter", batch_idx=number, data_batch=batch)

    def end(self, number: int, batch: EpisodeBatch | None, outputs: dict[str, Tensor] | None) -> None:
        """Tell the hooks that an episode is done, with its losses."""
        self._iter = number
        self.runner.call_hook("after_train_iter", batch_idx=number, data_batch=batch, outputs=outputs)
        self._iter += 1  # after the hooks, as in MMEngine's loops

    def _validate_if_due(self) -> None:
        if self.validates_after(self._iter):
            if self.exchange:
                self.exchange.check_agreement(trainable_state(self.runner.model), self._iter)
            self.validated = self._iter
            self.runner.val_loop.run()


class _EvaluationLoop(BaseLoop):
    """Encode the clips of a plan, score the plan, measure. Several ranks share the encoding, and the first one scores.

    Args:
        runner: the runner.
        dataloader: of `EvaluationEpisodes`.
        evaluator: MMEngine evaluator or its config.
        batch: episodes scored at a time.
        store: arguments of `BankStore` that keep encoded clips, or None.
        bank_budget: memory for encoded clips, as in `RunOptions`; what does not fit is kept in a file in the work folder.

    Attributes:
        scores: of the last evaluation, in the first rank.
        metrics: of the last evaluation.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        batch: int = 250,
        store: dict[str, str] | None = None,
        bank_budget: str = "auto",
    ) -> None:
        super().__init__(runner, dataloader)
        self.evaluator = runner.build_evaluator(evaluator)
        self.episodes: EvaluationEpisodes = self.dataloader.dataset
        self.batch, self.store = batch, BankStore(Path(store["folder"]), store["key"]) if store else None
        self.bank_budget = bank_budget
        self.scores: PlanScores | None = None
        self.metrics: dict[str, float] = {}
        self.exchange = Exchange.current()

    def _evaluate(self, stage: str) -> dict[str, float]:
        model: FewShotMethod = self.runner.model
        episodes = self.episodes
        text = encode_class_text(model.backbone, episodes.split, episodes.template, episodes.class_texts)
        clips = model, episodes.split, episodes.plan.used_clips, text, episodes.source
        if self.exchange and self.exchange.rank:
            encode_for_first(*clips, exchange=self.exchange, store=self.store)
        else:
            bank = build_bank(
                *clips,
                store=self.store,
                room=Room.of(self.bank_budget, Path(self.runner.work_dir), text.device),
                progress=counter(f"{stage}encoding"),
                exchange=self.exchange,
            )
            self.scores = score_plan(
                model, bank, episodes.plan, text, batch=self.batch, progress=counter(f"{stage}scoring")
            )
            self.evaluator.process([{"prediction": self.scores.prediction, "labels": episodes.plan.labels}])
        self.metrics = self.evaluator.evaluate(len(episodes.plan))
        return self.metrics


@LOOPS.register_module()
class EpisodicValLoop(_EvaluationLoop):
    """Accuracy on the val episodes, the same ones every time; arguments as in `_EvaluationLoop`."""

    def run(self) -> dict[str, float]:
        """Evaluate."""
        runner = self.runner
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        runner.call_hook("before_val_iter", batch_idx=0, data_batch=self.episodes.plan)
        metrics = self._evaluate("validation: ")
        runner.call_hook("after_val_iter", batch_idx=0, data_batch=self.episodes.plan, outputs=[self.scores])
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics


@LOOPS.register_module()
class EpisodicTestLoop(_EvaluationLoop):
    """Scores of all test episodes; arguments as in `_EvaluationLoop`."""

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, **settings: Any) -> None:
        super().__init__(runner, dataloader, evaluator, **settings)
        if runner.model.traits.trainable:  # before hooks copy the model: it may get parameters for its training classes
            prepare_method(runner.model, self.episodes.dataset, self.episodes.template, self.episodes.class_texts)

    def run(self) -> dict[str, float]:
        """Evaluate, with the best checkpoint of the work folder if the method was trained."""
        runner = self.runner
        runner.call_hook("before_test")
        runner.call_hook("before_test_epoch")
        runner.call_hook("before_test_iter", batch_idx=0, data_batch=self.episodes.plan)
        metrics = self._evaluate("")
        runner.call_hook("after_test_iter", batch_idx=0, data_batch=self.episodes.plan, outputs=[self.scores])
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics
