"""EpisodicRunner: MMEngine's runner on an explicit device. Importing this registers everything that its configs name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.fileio import dump
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend

from fsar_bench.engine import episodes, fit, hooks, loops, schedules, speed  # noqa: F401  # they register themselves
from fsar_bench.engine.device import choose_device
from fsar_bench.io import append_cached
from fsar_bench.method import FewShotMethod
from fsar_bench.registry import RUNNERS


@RUNNERS.register_module()
class EpisodicRunner(Runner):
    """MMEngine's runner; `device` of its config (auto, cpu, cuda or cuda:N) says where it runs.

    MMEngine's own `Runner` takes the same configs and runs on a GPU whenever it sees one.
    """

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: FewShotMethod) -> FewShotMethod:
        """Move the model to the device."""
        return model.to(choose_device(self.cfg.get("device", "auto")))


@VISBACKENDS.register_module()
class LocalCurves(LocalVisBackend):
    """MMEngine's local backend; where its file of scalars cannot be written, the training goes on without."""

    def _dump(self, value_dict: dict[str, Any], file_path: str, file_format: str) -> None:
        append_cached(Path(file_path), f"{dump(value_dict, file_format=file_format)}\n".encode())
