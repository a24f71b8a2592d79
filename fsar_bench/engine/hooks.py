"""MMEngine hooks: seeds of steps, the closed test split, checkpoints that a kill cannot spoil, curves and progress."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from time import monotonic
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from fsar_bench.data.dataset import close_split, open_split
from fsar_bench.engine.checkpoint import (
    check_best,
    load_best,
    load_last,
    load_trainable,
    save_best,
    save_last,
    trainable_state,
)
from fsar_bench.engine.provenance import metadata_of
from fsar_bench.io import write_cached
from fsar_bench.progress.events import STARTING, VALIDATED, report
from fsar_bench.randomness import seed_torch
from fsar_bench.registry import HOOKS

LAST, BEST = "last.pt", "best.safetensors"


@HOOKS.register_module()
class SeedEachStep(Hook):
    """Seed torch's generators before every training step, so that a resumed training needs no random state.

    Args:
        seed: of the training.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the step."""
        seed_torch(self.seed, "train step", batch_idx)


@HOOKS.register_module()
class KeepTestSplitClosed(Hook):
    """No dataset of this process opens its test split during the training."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Close it."""
        close_split("test", self)

    def after_train(self, runner: Runner) -> None:
        """Open it."""
        open_split("test", self)

    def before_test(self, runner: Runner) -> None:
        """Open it where a failed training left it closed."""
        open_split("test", self)


@HOOKS.register_module()
class TrainingCurves(Hook):
    """Keep the loss of every episode and the val accuracies: `loss.csv`, `curve.csv` and `curve.png` in the work folder.

    The state travels in checkpoints, so that a resumed training continues its curves.

    Attributes:
        losses: loss of each episode.
        accuracies: (training episodes, val accuracy in percent) of each validation.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[tuple[int, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the loss."""
        if outputs:
            self.losses.append(_loss(outputs))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note the accuracy, and write all files."""
        if metrics:
            self.accuracies.append((runner.iter, metrics["query/accuracy"]))
        if metrics and is_main_process():
            folder = Path(runner.work_dir)
            _write_table(folder / "curve.csv", ("episodes", "val_accuracy"), self.accuracies)
            _write_table(folder / "loss.csv", ("episode", "loss"), list(enumerate(self.losses, 1)))
            if self.losses:
                write_cached(folder / "curve.png", lambda file: file.write(draw_curves(self.losses, self.accuracies)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put the curves into a checkpoint."""
        checkpoint["curves"] = {"losses": self.losses, "accuracies": [list(point) for point in self.accuracies]}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the curves of a training state; a checkpoint that is tested has none."""
        if "curves" not in checkpoint:
            return
        self.losses = list(checkpoint["curves"]["losses"])
        self.accuracies = [
            (int(episodes), float(accuracy)) for episodes, accuracy in checkpoint["curves"]["accuracies"]
        ]


def _loss(outputs: dict[str, Any]) -> float:
    return float(outputs["loss"].detach())


def _write_table(path: Path, header: tuple[str, str], rows: list[tuple[int, float]]) -> None:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([header, *rows])
    write_cached(path, lambda file: file.write(table.getvalue().encode()))


def draw_curves(losses: list[float], accuracies: list[tuple[int, float]]) -> bytes:
    """PNG of the loss by episode (and its moving average) and of the val accuracies."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    width = max(1, len(losses) // 50)
    sums = [sum(losses[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(losses))]
    left.plot(range(1, len(losses) + 1), losses, color="0.8", linewidth=0.8, label="loss")
    left.plot(range(1, len(losses) + 1), sums, color="C0", label=f"mean of {width}" if width > 1 else "loss")
    left.set(xlabel="training episodes", ylabel="loss", title="Loss")
    left.legend(frameon=False)
    episodes, accuracy = zip(*accuracies, strict=True)
    best = max(accuracies, key=lambda point: (point[1], -point[0]))
    right.plot(episodes, accuracy, marker="o", color="C2")
    right.plot(*best, marker="o", color="C3", linestyle="none", label=f"chosen: {best[1]:.1f} % after {best[0]}")
    right.set(xlabel="training episodes", ylabel="accuracy %", title="Validation")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@HOOKS.register_module()
class EpisodicCheckpointHook(Hook):
    """Keep `last.pt` (to resume) and `best.safetensors` (highest val accuracy; the earliest of equals) in the work folder.

    Both are written between optimiser steps only, each through a temporary file that is renamed. A training that finds
    `last.pt` resumes from it; a test loads `best.safetensors` if it exists. Of several ranks all read, and rank 0 writes.

    Other hooks may exchange weights around a validation, as those of averages do. The best checkpoint has the weights that val
    measured: it is written before `after_val_epoch`, where such hooks put back those of the training. What hooks keep travels in
    `last.pt`: as in MMEngine's checkpoints they find "state_dict" beside "optimizer", and may change both.

    Args:
        seconds: time between two writes of `last.pt`, beside those after every validation.
        made_from: key of the training: files of another one are not used.

    Attributes:
        best_sha: SHA-256 of `best.safetensors`; empty before the first validation, and in ranks that do not write it.
    """

    priority = "VERY_LOW"

    def __init__(self, seconds: float = 30.0, made_from: str = "") -> None:
        self.seconds, self.made_from, self.best_sha = seconds, made_from, ""
        self._best, self._written = float("-inf"), monotonic()

    def before_train(self, runner: Runner) -> None:
        """Resume from `last.pt`, if it exists.

        Raises:
            WeightsError: `best.safetensors` is damaged: what was the best so far is lost.
        """
        path = Path(runner.work_dir) / LAST
        state = load_last(path, self.made_from)
        if state is None:
            return
        if state["best_sha"]:  # a kill may have left a better one, which will be found again
            check_best(path.with_name(BEST), self.made_from)
        self._restore(runner, state, path)
        runner.optim_wrapper.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(runner.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        loop = runner.train_loop
        loop.resume_at(state["iteration"], validated=state["validated"], seconds=state["seconds"])
        runner.optim_wrapper.initialize_count_status(runner.model, loop.iter, loop.max_iters)
        self._best, self.best_sha = state["best"], state["best_sha"]
        runner.logger.info("resumed after %d episodes", state["iteration"])
        report(f"{STARTING}: resuming after {state['iteration']} training episodes", 0, 1)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Write `last.pt` when it is time; a validation that is due writes it anyway."""
        done, due = batch_idx + 1, monotonic() - self._written >= self.seconds
        if due and not runner.train_loop.validates_after(done) and runner.optim_wrapper.should_update():
            self._save(runner, done)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Write `best.safetensors` if this validation, all of which is one iteration, is the best so far."""
        metrics = runner.val_loop.metrics
        if not metrics or not hasattr(runner.train_loop, "validated"):
            return
        accuracy = metrics["query/accuracy"]
        if accuracy > self._best and is_main_process():
            loaders = runner.train_loop.dataloader, runner.val_loop.dataloader
            metadata = metadata_of(*(loader.dataset for loader in loaders))
            best = Path(runner.work_dir) / BEST
            self.best_sha = save_best(best, runner.model, metadata, made_from=self.made_from)
        self._best = max(accuracy, self._best)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write `last.pt`, when all hooks have put back what they exchanged."""
        if metrics and hasattr(runner.train_loop, "validated"):
            self._save(runner, runner.train_loop.iter)

    def before_test(self, runner: Runner) -> None:
        """Load the best checkpoint, if there is one; hooks of averages take it for theirs, which they test."""
        path = Path(runner.work_dir) / BEST
        if path.exists():
            load_best(path, runner.model, made_from=self.made_from)
            runner.call_hook("after_load_checkpoint", checkpoint={"state_dict": runner.model.state_dict()})

    def _restore(self, runner: Runner, state: dict[str, Any], path: Path) -> None:
        """Put the weights of a training state back, when hooks have taken what they had put into it."""
        expected = trainable_state(runner.model)
        load_trainable(runner.model, state["model"], path)  # checks that it is one of this method
        state["state_dict"] = {**runner.model.state_dict(), **state["model"]}
        runner._resume, before = True, runner._resume  # MMEngine's hooks ask the runner whether they resume
        try:
            runner.call_hook("after_load_checkpoint", checkpoint=state)
        finally:
            runner._resume = before
        load_trainable(runner.model, {name: state["state_dict"][name] for name in expected}, path)

    def _save(self, runner: Runner, done: int) -> None:
        if not is_main_process():
            return
        loop = runner.train_loop
        state = {
            "iteration": done,
            "validated": loop.validated,
            "seconds": loop.seconds,
            "best": self._best,
            "best_sha": self.best_sha,
            "state_dict": runner.model.state_dict(),
            "optimizer": runner.optim_wrapper.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
        }
        runner.call_hook("before_save_checkpoint", checkpoint=state)
        whole = state.pop("state_dict")
        state["model"] = {name: whole[name] for name in trainable_state(runner.model)}
        save_last(Path(runner.work_dir) / LAST, state, self.made_from)
        self._written = monotonic()


@HOOKS.register_module()
class ReportProgress(Hook):
    """Report every training episode and every validation to whoever listens."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Report the episode with its loss."""
        note = f"loss {_loss(outputs):.3f}" if outputs else ""
        report("training", batch_idx + 1, runner.max_iters, note)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Report the accuracy."""
        if metrics:
            report(VALIDATED, runner.iter, runner.max_iters, f"val accuracy {metrics['query/accuracy']:.1f} %")
