"""Speed: how long a training waited for clips, how many it encoded per second, and its peak memory."""

from __future__ import annotations

import logging
from pathlib import Path
from time import perf_counter
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from pydantic import ValidationError

from fsar_bench.engine.device import choose_device, peak_memory
from fsar_bench.io import read_whole, write_cached
from fsar_bench.registry import HOOKS
from fsar_bench.results.record import TrainingCost

SPEED = "speed.json"  # in the folder of a training


@HOOKS.register_module()
class MeasureSpeed(Hook):
    """Log the rate and utilisation of a training so far, and keep them with its peak memory in the work folder.

    Validations do not count. What was measured travels in checkpoints, so that a resumed training continues it.
    """

    def __init__(self) -> None:
        self.seconds, self.waiting, self.clips = 0.0, 0.0, 0
        self._mark, self._waited = perf_counter(), 0.0

    def before_train(self, runner: Runner) -> None:
        """Begin to measure."""
        self._mark, self._waited = perf_counter(), runner.train_loop.episodes.waited

    def after_val(self, runner: Runner) -> None:
        """Continue after a validation."""
        self._mark = perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Count an episode, and tell the log."""
        now, episodes = perf_counter(), runner.train_loop.episodes
        self.seconds += now - self._mark
        self.waiting += episodes.waited - self._waited
        self.clips += episodes.clips
        self._mark, self._waited = now, episodes.waited
        cost = self._cost(runner)
        runner.message_hub.update_scalar("train/clips_per_second", cost.clips_per_second)
        runner.message_hub.update_scalar("train/utilisation", cost.utilisation)
        runner.message_hub.update_scalar("train/peak_mb", cost.memory.device or cost.memory.host)

    def after_train(self, runner: Runner) -> None:
        """Keep what was measured."""
        if self.clips and is_main_process():
            text = self._cost(runner).model_dump_json(exclude_none=True)
            write_cached(Path(runner.work_dir) / SPEED, lambda file: file.write(text.encode()))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Put what was measured into a checkpoint."""
        checkpoint["speed"] = [self.seconds, self.waiting, self.clips]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take what a checkpoint holds; one of an older version holds nothing."""
        if "speed" in checkpoint:
            seconds, waiting, clips = checkpoint["speed"]
            self.seconds, self.waiting, self.clips = float(seconds), float(waiting), int(clips)

    def _cost(self, runner: Runner) -> TrainingCost:
        seconds = max(self.seconds, 1e-9)
        return TrainingCost(
            waiting=round(self.waiting, 3),
            utilisation=round(min(1.0, max(0.0, 1 - self.waiting / seconds)), 4),
            clips_per_second=round(self.clips / seconds, 4),
            memory=peak_memory(choose_device(runner.cfg.get("device", "auto"))),
        )


def speed_of(folder: Path) -> TrainingCost | None:
    """What was measured of the training of a folder; None where nothing was, as by earlier versions."""
    path = folder / SPEED
    if not path.is_file():
        return None
    try:
        return TrainingCost.model_validate_json(read_whole(path))
    except (OSError, ValidationError) as error:
        logging.getLogger().warning("%s cannot be read: the cost of this training is not known. %s", path, error)
        return None
