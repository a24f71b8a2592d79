"""CPU and CUDA give the same predictions; mixed-precision training runs."""

from __future__ import annotations

import pytest
import torch
from helpers import Command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def predictions(command: Command, device: str, tiny, method: str):
    import numpy as np

    done = command("run", f"methods={method}", f"dataset={tiny}", "episodes=2000", f"device={device}", "overwrite=true")
    assert done.returncode == 0, done.stderr
    path = next((command.folder / "leaderboards").rglob(f"{method}-*/predictions.npz"))
    return np.load(path)["prediction"]


@pytest.mark.parametrize("method", ["otam_frozen", "prototype_frozen", "zero_shot"])
def test_same_predictions_on_cpu_and_cuda(command, tiny, method):
    assert (predictions(command, "cpu", tiny, method) == predictions(command, "cuda", tiny, method)).mean() > 0.999


@pytest.mark.parametrize("method", ["ma_clip", "clip_fsar"])
def test_checkpoint_scores_the_same_on_cpu_and_cuda(command, tiny, method):
    """The second run takes up the training of the first and scores it on the other device."""
    assert (predictions(command, "cuda", tiny, method) == predictions(command, "cpu", tiny, method)).mean() > 0.999
