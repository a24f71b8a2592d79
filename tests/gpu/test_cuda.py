"""On a CUDA device: every method runs forward and backward in bfloat16, and in float32 predicts the same as on the CPU."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from helpers import outputs

from fsar_bench.backbones.recompute import Recompute
from fsar_bench.config.files import names
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.components import build_method
from fsar_bench.engine.contract import cells_to_check, make_tester
from fsar_bench.engine.fit import SHARE, StepMemory, any_episode, choose_recompute
from fsar_bench.leaderboard.collection import load_results
from fsar_bench.method import EpisodeBatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def kit_of(method: str):
    (cell,) = cells_to_check(method, [])
    return make_tester(cell)


@pytest.mark.parametrize("method", names("methods"))
def test_same_predictions_in_float32(method):
    """One method, its weights on both devices, 2,000 queries of random episodes."""
    kit = kit_of(method)
    on_cpu = kit.method(dtype=torch.float32)
    on_cuda = copy.deepcopy(on_cpu).cuda()
    episodes = kit.episodes(count=400, dtype=torch.float32)
    same = []
    for start in range(0, 400, 20):
        part = {name: tensor[start : start + 20] for name, tensor in vars(episodes).items()}
        ours = kit.scores(on_cpu, EpisodeBatch(**part)).total.argmax(-1)
        moved = EpisodeBatch(**{name: tensor.cuda() for name, tensor in part.items()})
        same.append(ours == kit.scores(on_cuda, moved).total.argmax(-1).cpu())
    assert torch.cat(same).float().mean() > 0.999


@pytest.mark.parametrize("method", ["ma_clip", "molo", "tip_adapter"])
def test_the_whole_command_runs_on_cuda_and_its_memory_reaches_the_table(command, tiny, method):
    done = command("run", f"methods={method}", f"dataset={tiny}", "episodes=2000", "device=cuda")
    assert done.returncode == 0, done.stderr
    (stored,) = load_results(command.folder / "leaderboards")
    assert stored.cost.memory.device > 1
    assert stored.cost.memory_mb == stored.cost.memory.device


def test_banks_that_do_not_fit_on_the_device_give_the_same_bytes(command, tiny):
    """They are on the host, in mapped files, and chunks and batches go to the device: statistics of train, index and scores."""
    arguments = ("run", "methods=hyrsm,tied_gaussian", "tied_gaussian.method.covariance=train", f"dataset={tiny}")
    arguments += (
        "episodes=500",
        "device=cuda",
        "controls=false",
        "overwrite=true",
    )  # of scores: the training is reused
    for settings in (["out=a"], ["out=b", "bank_budget=1kB"]):
        done = command(*arguments, *settings)
        assert done.returncode == 0, done.stderr
    assert outputs(command.folder / "a") == outputs(command.folder / "b")


def test_two_cells_run_on_cuda_from_one_fork_server(command, tiny):
    """The fork server has imported torch, but never touched CUDA, so its children may."""
    done = command("run", "methods=zero_shot,prototype_frozen", f"dataset={tiny}", "episodes=200", "device=cuda")
    assert done.returncode == 0, done.stderr
    assert {stored.cost.environment.device != "cpu" for stored in load_results(command.folder / "leaderboards")} == {
        True
    }


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_ranks_on_cuda_train_as_one(command, tiny):
    """Losses agree as far as atomic additions of gradients let one rank repeat its own."""
    losses = []
    for devices in (1, 2):
        arguments = f"dataset={tiny}", "episodes=200", "device=cuda", "controls=false", f"work_dir=work{devices}"
        done = command("run", "methods=otam", *arguments, f"devices={devices}", f"out=out{devices}")
        assert done.returncode == 0, done.stderr
        (table,) = (command.folder / f"work{devices}").rglob("loss.csv")
        losses.append([float(line.split(",")[1]) for line in table.read_text().splitlines()[1:]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize("method", names("methods"))
def test_forward_and_backward_in_bfloat16(method):
    kit = kit_of(method)
    model = copy.deepcopy(kit.method(dtype=torch.float32)).cuda().train()
    episodes = kit.episodes(count=1, dtype=torch.float32)
    model.prepare(torch.randn(7, kit.text_width).cuda())
    model = model.cuda()
    batch = EpisodeBatch(**{name: tensor.cuda() for name, tensor in vars(episodes).items()})
    with torch.autocast("cuda", dtype=torch.bfloat16):
        if not model.traits.trainable:
            assert torch.isfinite(kit.scores(model, batch).total).all()
            return
        loss = kit.training_loss(model, batch)
    assert torch.isfinite(loss)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("method", names("methods"))
def test_scores_in_float64_agree(method):
    outcome = kit_of(method).check("cpu and cuda agree")
    assert outcome.state == "holds", outcome.reason


@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar"])
def test_a_step_that_fits_takes_what_was_estimated(name):
    """A ViT-B/32 in bfloat16, 5-way 1-shot, 5 queries per class: as measured by torch, weights and optimiser included."""
    (cell,) = resolve({"methods": name, "backbone": "vit_b_32", "pretrained": "none", "controls": False}).cells
    method = build_method(cell).cuda().train()
    text = torch.randn(24, method.backbone.embedding_width, device="cuda")
    method.prepare(text)
    device, optimizer = text.device, torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])
    context = partial(torch.autocast, "cuda", torch.bfloat16)
    memory = StepMemory(method, any_episode(5, 1, 5, 8, 224, text), {"type": "AdamW"}, context)
    chosen = choose_recompute(memory, int(0.5 * memory.of(Recompute()) / SHARE), "half")
    assert chosen.clips
    for _ in range(2):  # with the optimiser's state and the gradients of an episode before
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(2):
            with chosen.inside(method):
                with context():
                    loss = method.parse_losses(method(memory.episodes))[0]
                loss.backward()
        optimizer.step()
    assert 0.6 * memory.of(chosen) < torch.cuda.max_memory_allocated(device) < 1.1 * memory.of(chosen)
