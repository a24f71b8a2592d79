"""EpisodicRunner: MMEngine's runner with episodic loops, safe checkpoints and a device of one's choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

from fsar_bench.data.dataset import split_closed
from fsar_bench.engine.episodes import Evaluation, TrainEpisodes
from fsar_bench.errors import ConfigError, suggest
from fsar_bench.method import FewShotMethod
from fsar_bench.randomness import integer_seed
from fsar_bench.registry import RUNNERS, SCOPE

Report = Callable[..., None]  # (stage, done, total, note="")


def seed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Seed torch's global generators, which dropout and initialisers read. Nothing else in the suite seeds them."""
    torch.manual_seed(integer_seed(seed, purpose, step))


@RUNNERS.register_module()
class EpisodicRunner(Runner):
    """Trains a method on episodes and scores a test plan.

    Args:
        method: built, on the CPU.
        device: where to run.
        work_dir: logs and MMEngine's own files.
        test: the test split and plan; it is opened when the test begins.
        seed: of all that is drawn at random.
        report: receives progress.
        train: training config, or None for a training-free method.
        episodes: training episodes.
        val: the validation split and plan.
        training_folder: checkpoints.
        checkpoint_seconds: time between checkpoints.
    """

    def __init__(
        self,
        method: FewShotMethod,
        device: torch.device,
        work_dir: Path,
        test: Evaluation,
        *,
        seed: int,
        report: Report,
        train: dict | None = None,
        episodes: TrainEpisodes | None = None,
        val: Evaluation | None = None,
        training_folder: Path | None = None,
        checkpoint_seconds: float = 30.0,
    ) -> None:
        self.device, self.report, self.step_seed = device, report, seed
        self.training_folder, self.training_seconds = training_folder, 0.0
        self._resumes = False
        hooks = dict.fromkeys(("sampler_seed", "checkpoint"))
        arguments: dict = {"custom_hooks": []}
        if train:
            arguments = self._training(train, device, episodes, val)
            self.checkpoints = {"type": "EpisodicCheckpointHook", "seconds": checkpoint_seconds}
            arguments["custom_hooks"] = [{"type": "ProgressHook"}, self.checkpoints]
        super().__init__(
            model=method,
            work_dir=str(work_dir),
            test_dataloader=test,
            test_cfg={"type": "EpisodicTestLoop"},
            test_evaluator={"type": "QueryAccuracy"},
            default_hooks=hooks,
            env_cfg={"mp_cfg": {"mp_start_method": "spawn"}, "dist_cfg": {"backend": "nccl"}},
            log_processor={"by_epoch": False},
            visualizer={"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
            default_scope=SCOPE,
            randomness={"seed": seed % 2**32},
            experiment_name=work_dir.name,
            **arguments,
        )

    @staticmethod
    def _training(train: dict, device: torch.device, episodes: TrainEpisodes, val: Evaluation) -> dict:
        if train["amp"] not in ("auto", "off"):
            raise ConfigError(f"train.amp={train['amp']!r} is unknown. Choose from: auto, off.")
        kind = train["optimizer"]["type"]
        if OPTIMIZERS.get(kind) is None:
            raise ConfigError(
                f"Unknown optimizer train.optimizer.type={kind!r}.{suggest(kind, OPTIMIZERS.module_dict)}"
            )
        steps, warm = train["episodes"], max(1, round(train["warmup"] * train["episodes"]))
        mixed = device.type == "cuda" and train["amp"] == "auto"
        wrapper = {"type": "AmpOptimWrapper", "dtype": "bfloat16"} if mixed else {"type": "OptimWrapper"}
        schedule = [
            {"type": "LinearLR", "start_factor": 0.05, "by_epoch": False, "begin": 0, "end": warm},
            {
                "type": "CosineAnnealingLR",
                "T_max": max(1, steps - warm),
                "by_epoch": False,
                "begin": warm,
                "end": steps,
            },
        ]
        return {
            "train_dataloader": episodes,
            "train_cfg": {"type": "EpisodicTrainLoop", "max_iters": steps, "val_interval": train["val_interval"]},
            "optim_wrapper": {
                **wrapper,
                "optimizer": train["optimizer"],
                "accumulative_counts": train["accumulate"],
                "clip_grad": {"max_norm": train["clip_grad"]} if train["clip_grad"] else None,
            },
            "param_scheduler": schedule,
            "val_dataloader": val,
            "val_cfg": {"type": "EpisodicValLoop"},
            "val_evaluator": {"type": "QueryAccuracy"},
        }

    def wrap_model(self, model_wrapper_cfg: dict | None, model: FewShotMethod) -> FewShotMethod:
        """Move the model to the device asked for (MMEngine takes a GPU whenever it sees one)."""
        return model.to(self.device)

    def seed_step(self, step: int) -> None:
        """Seed torch for one training step."""
        seed_torch(self.step_seed, "train step", step)

    def _init_model_weights(self) -> None:
        """Methods initialise themselves when they are built."""

    def load_or_resume(self) -> None:
        """Resume training from our own checkpoint; testing loads nothing here."""
        if self._resumes:
            hook = next(hook for hook in self.hooks if type(hook).__name__ == self.checkpoints["type"])
            hook.resume(self)

    def train(self) -> FewShotMethod:
        """Train to the end, from the last checkpoint if there is one. The test split stays closed meanwhile."""
        self._resumes = True
        with split_closed("test"):
            super().train()
        self._resumes = False
        return self.model
