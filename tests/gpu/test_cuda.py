"""On a CUDA device: every method runs forward and backward in bfloat16, and predicts as on the CPU in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import Command

from fsar_bench.cli.check import build_tester
from fsar_bench.config import names
from fsar_bench.method import EpisodeBatch

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


@pytest.mark.parametrize("method", names("methods"))
def test_same_predictions_on_cpu_and_cuda(command, tiny, method):
    """A trained method is trained on CUDA; the second run takes up its checkpoint and scores it on the CPU."""
    assert (predictions(command, "cuda", tiny, method) == predictions(command, "cpu", tiny, method)).mean() > 0.999


@pytest.mark.parametrize("method", names("methods"))
def test_forward_and_backward_in_bfloat16(method):
    kit = build_tester(method, [])
    model = copy.deepcopy(kit.method(dtype=torch.float32)).cuda().train()
    episodes = kit.episodes(count=1, dtype=torch.float32)
    model.prepare(torch.randn(7, kit.text_width).cuda())
    model = model.cuda()
    batch = EpisodeBatch(**{name: tensor.cuda() for name, tensor in vars(episodes).items()})
    with torch.autocast("cuda", dtype=torch.bfloat16):
        if not model.traits.trainable:
            assert torch.isfinite(kit.scores(model, batch).total).all()
            return
        loss = sum(model.loss(batch).values())
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", names("methods"))
def test_scores_in_float64_agree(method):
    kit = build_tester(method, [])
    kit.test_cpu_and_cuda_agree()
