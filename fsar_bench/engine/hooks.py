"""MMEngine hooks: checkpoints that a kill cannot spoil, and progress."""

from __future__ import annotations

import csv
import io
from time import monotonic

from mmengine.hooks import Hook

from fsar_bench.engine.checkpoint import load_last, load_trainable, save_best, save_last, trainable_state
from fsar_bench.io import write_atomically
from fsar_bench.registry import HOOKS


@HOOKS.register_module()
class EpisodicCheckpointHook(Hook):
    """Keep `last.pt` (to go on) and `best.safetensors` (highest val accuracy; the earliest of equals), and `curve.csv`.

    Both are written at ends of accumulations alone, each through a temporary file that is renamed.

    Args:
        seconds: time between two writes of `last.pt`, beside those after every validation.
    """

    priority = "VERY_LOW"

    def __init__(self, seconds: float) -> None:
        self.seconds, self.curve, self._written = seconds, [], monotonic()

    def resume(self, runner) -> None:
        """Take up `last.pt`, if it is there."""
        path = runner.training_folder / "last.pt"
        if not path.exists():
            return
        state = load_last(path)
        load_trainable(runner.model, state["model"], path)
        runner.optim_wrapper.load_state_dict(state["optimizer"])
        for scheduler, saved in zip(runner.param_schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        runner.train_loop.start_at(state["iteration"])
        runner.training_seconds = state["seconds"]
        self.curve = state["curve"]
        runner.logger.info("resumed after %d episodes", state["iteration"])

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        due = monotonic() - self._written >= self.seconds
        validates = runner.iter % runner.train_loop.val_interval == 0 or runner.iter == runner.max_iters
        if due and not validates and runner.optim_wrapper.should_update():
            self._save(runner)

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        accuracy = metrics["query/accuracy"]
        if all(accuracy > earlier for _, earlier in self.curve):
            save_best(runner.training_folder / "best.safetensors", runner.model)
        self.curve = [*self.curve, [runner.iter, accuracy]]
        self._save(runner)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["episodes", "val_accuracy"], *self.curve])
        write_atomically(runner.training_folder / "curve.csv", table.getvalue().encode())
        runner.report("validated", runner.iter, runner.max_iters, f"val accuracy {accuracy:.1f} %")

    def _save(self, runner) -> None:
        state = {
            "iteration": runner.iter,
            "model": trainable_state(runner.model),
            "optimizer": runner.optim_wrapper.state_dict(),
            "schedulers": [scheduler.state_dict() for scheduler in runner.param_schedulers],
            "curve": self.curve,
            "seconds": runner.training_seconds,
        }
        save_last(runner.training_folder / "last.pt", state)
        self._written = monotonic()


@HOOKS.register_module()
class ProgressHook(Hook):
    """Report every training episode."""

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        runner.report("training", runner.iter, runner.max_iters, f"loss {float(outputs['loss']):.3f}")
