"""fit=: micro-batches and blocks that are computed again give the same gradients; the estimate of memory holds."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest
import torch
from torch import nn

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.backbones.recompute import Recompute, blocks_of, in_one, why_together
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.components import build_method
from fsar_bench.engine.contract import cells_to_check, make_tester
from fsar_bench.engine.fit import SHARE, StepMemory, any_episode, choose_recompute, in_words, peak_of
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, FewShotMethod, VideoFeatures
from fsar_bench.methods.clip_fsar import CLIPFSAR

CPU = torch.device("cpu")
ADAM = {"type": "AdamW", "lr": 1e-4}
WAYS = [Recompute(1), Recompute(2), Recompute(3), Recompute(1, blocks=True), Recompute(blocks=True)]


@cache
def made(name: str) -> tuple[FewShotMethod, EpisodeBatch]:
    """A method in float64 and training mode, prepared, all of its parameters random; and an episode."""
    (cell,) = cells_to_check(name, {})
    tester = make_tester(cell)
    return tester.method().train(), tester.episodes(count=1)


def step(name: str, recompute: Recompute, seed: int = 0) -> dict[str, torch.Tensor]:
    """Gradients of one episode."""
    method, episodes = made(name)
    method.zero_grad()
    torch.manual_seed(seed)
    with recompute.inside(method):
        method.parse_losses(method(episodes))[0].backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recompute", WAYS, ids=str)
@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar", "trx", "strm", "task_adapter"])
def test_gradients_are_those_of_the_plain_path(name, recompute):
    plain, other = step(name, Recompute()), step(name, recompute)
    assert plain.keys() == other.keys()
    for key, gradient in plain.items():
        assert (other[key] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, key


@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar", "trx"])
def test_dropout_takes_part_in_these_gradients(name):
    first, second = step(name, Recompute(), seed=0), step(name, Recompute(), seed=1)
    assert max((first[key] - second[key]).norm() / first[key].norm() for key in first) > 1e-3


def test_the_gradient_of_an_episode_is_gathered_before_it_is_added():
    """To the bit: the sum over the episodes of an update does not depend on their micro-batches' order."""
    alone = step("ma_clip", Recompute(2))
    method, episodes = made("ma_clip")
    before = {name: torch.randn_like(gradient) for name, gradient in alone.items()}
    for name, p in method.named_parameters():
        p.grad = before[name].clone() if name in before else None
    torch.manual_seed(0)
    with Recompute(2).inside(method):
        method.parse_losses(method(episodes))[0].backward()
    for name, p in method.named_parameters():
        if name in alone:
            assert torch.equal(p.grad, before[name] + alone[name]), name
    method.zero_grad()


def stored_bytes(work) -> int:
    """Bytes that autograd stores of some work, parameters and inputs aside, each memory once."""
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return size


@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar"])
def test_less_is_stored(name):
    method, episodes = made(name)

    def stored(recompute: Recompute) -> int:
        def forward():
            with recompute.inside(method):
                return method(episodes)

        return stored_bytes(forward)

    plain, by_blocks, by_clips = stored(Recompute()), stored(Recompute(blocks=True)), stored(Recompute(1))
    assert by_blocks < 0.8 * plain
    assert by_clips < 0.65 * by_blocks


@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar", "task_adapter"])
def test_the_estimate_is_what_a_step_takes(name):
    method, episodes = made(name)
    memory = StepMemory(method, episodes, ADAM, contextlib.nullcontext)
    for recompute in (Recompute(), Recompute(2), Recompute(blocks=True)):
        step(name, recompute)  # the gradients are there, as in the second episode of an update

        def again(recompute: Recompute = recompute):
            with recompute.inside(method):
                method.parse_losses(method(episodes))[0].backward()

        actual = peak_of(again, CPU).highest
        estimate = memory.of(recompute) - memory.fixed
        assert 0.99 * actual <= estimate <= max(1.7 * actual, 2 * memory.trained), recompute


def test_measuring_leaves_a_method_as_it_was():
    method, episodes = made("arn")  # has batch norms of its own
    state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.zero_grad()
    random = torch.get_rng_state()
    memory = StepMemory(method, episodes, ADAM, contextlib.nullcontext)
    memory.of(Recompute(1, blocks=True))
    assert memory.why_together == ""  # they are in `encode`
    assert all(torch.equal(tensor, state[name]) for name, tensor in method.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in method.parameters())
    assert {"embed", "forward", "blocks"}.isdisjoint(key for m in method.modules() for key in vars(m))


def test_what_is_fixed_is_counted():
    method, episodes = made("otam")
    trained = sum(p.numel() * 8 for p in method.parameters() if p.requires_grad)
    weights = sum(t.numel() * 8 for t in [*method.parameters(), *method.buffers()] if t.is_floating_point())
    adam, sgd = (
        StepMemory(method, episodes, optimizer, contextlib.nullcontext).fixed
        for optimizer in (ADAM, {"type": "SGD", "lr": 1})
    )
    assert adam - sgd == 2 * trained
    assert sgd - weights - trained == pytest.approx(episodes.videos().numel(), rel=0.02)


def test_the_largest_micro_batch_that_fits_is_chosen():
    method, episodes = made("clip_fsar")
    memory = StepMemory(method, episodes, ADAM, contextlib.nullcontext)
    clips = episodes.support[0].flatten(0, 1).shape[0] + episodes.query.shape[1]

    def chosen(bytes_: float) -> Recompute:
        return choose_recompute(memory, int(bytes_ / SHARE) + 1, "some")

    assert chosen(memory.of(Recompute())) == Recompute()
    assert chosen(memory.of(Recompute(5)) + 1) == Recompute(5)
    assert chosen(memory.of(Recompute(5)) - 1) == Recompute(4)
    assert chosen(memory.of(Recompute(1)) - 1).blocks
    assert "5 clips at a time, twice" in in_words(Recompute(5), memory)
    assert [call.clips for call in memory.calls] == [clips]
    with pytest.raises(
        ConfigError, match=r"fit=1kB is too small: a training step of CLIPFSAR needs about [\d.e-]+ GB, even with"
    ):
        choose_recompute(memory, 1000, "1kB")


def clip_fsar(*, train_batch_norm: bool = False) -> CLIPFSAR:
    torch.manual_seed(0)
    backbone = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32, train_batch_norm=train_batch_norm)
    method = CLIPFSAR(backbone, {"type": "OTAM"}, ffn_width=32)
    method.prepare(torch.randn(6, 24))
    return method


def test_clips_that_see_each_other_in_training_are_not_split():
    method = clip_fsar(train_batch_norm=True)
    method.backbone.clip.visual.ln_pre = nn.Sequential(nn.Unflatten(1, (-1, 1)), nn.BatchNorm2d(17), nn.Flatten(1, 2))
    method.train()
    episodes = any_episode(2, 1, 1, 2, 32, torch.randn(6, 24))
    assert "BatchNorm2d uses the statistics of all clips" in why_together(method, episodes.query[0], None)
    memory = StepMemory(method, episodes, ADAM, contextlib.nullcontext)
    with pytest.raises(
        ConfigError, match="with all clips at once, because BatchNorm2d uses the statistics of all clips"
    ):
        choose_recompute(memory, 1000, "1kB")
    batch_norm = method.backbone.clip.visual.ln_pre
    assert all(batch_norm not in block.modules() for block in blocks_of(method))


def test_a_dropout_inside_the_encoder_is_repeated_and_not_split():
    method = clip_fsar()
    method.backbone.clip.visual.transformer.resblocks[0].mlp.append(nn.Dropout(0.5))
    method.train()
    episodes = any_episode(2, 1, 2, 2, 32, torch.randn(6, 24))
    assert "embed draws random numbers" in why_together(method, episodes.query[0], None)
    memory = StepMemory(method, episodes, ADAM, contextlib.nullcontext)
    assert choose_recompute(memory, int(memory.of(Recompute(blocks=True)) / SHARE) + 1, "some") == Recompute(
        blocks=True
    )
    gradients = []
    for recompute in (Recompute(), Recompute(blocks=True)):
        method.zero_grad()
        torch.manual_seed(0)
        with recompute.inside(method):
            method.parse_losses(method(episodes))[0].backward()
        gradients.append(method.backbone.clip.visual.conv1.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_tensors_are_joined_in_their_order_of_memory():
    whole = torch.randn(5, 7, 3, 4).transpose(1, 3)[:, :, :, 1:]
    joined = in_one(list(whole.split(2)))
    assert torch.equal(joined, whole)
    assert joined.transpose(1, 3).is_contiguous()


@pytest.mark.parametrize("name", ["task_adapter", "d2st", "ma_clip", "ts_fsar", "otam", "emp_net"])
def test_nothing_is_stored_below_the_first_trained_layer(name):
    """As long as no tensor needs a gradient, autograd stores none: the frozen layers below keep nothing."""
    method, episodes = made(name)
    backbone = method.backbone
    tuned = [p for p in backbone.parameters() if p.requires_grad]
    frames = episodes.query[0]

    def prefix() -> torch.Tensor:
        x = backbone.embed_tokens(frames)
        for block in backbone.blocks():
            x = block(x)
        return backbone.read_tokens(x)

    for parameter in tuned:
        parameter.requires_grad_(False)
    try:
        assert stored_bytes(prefix) == 0
        assert stored_bytes(lambda: backbone.encode_maps(frames)) == 0
    finally:
        for parameter in tuned:
            parameter.requires_grad_(True)
    assert stored_bytes(prefix) > 0 or not tuned


def test_a_training_that_fits_learns_the_same(run_tiny, tmp_path):
    """The same losses, but for the order of float operations, under the same hash; the log says what was chosen."""
    settings = {"controls": False, "method.ffn_width": 64, "train.episodes": 4, "train.val_episodes": 4}
    losses, hashes, logs = [], [], []
    for fit in ("none", "8MB"):
        folder = tmp_path / fit
        (stored,) = run_tiny("clip_fsar", fit=fit, out=folder / "out", work_dir=folder / "work", **settings)
        rows = next(folder.rglob("loss.csv")).read_text().splitlines()[1:]
        losses.append([float(row.split(",")[1]) for row in rows])
        hashes.append((stored.result.config_hash, stored.result.training_key))
        logs.append("".join(path.read_text() for path in folder.rglob("*.log")))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert hashes[0] == hashes[1]
    assert "fit=" not in logs[0]
    assert "fit=8MB: estimated peak of a training step 0.0" in logs[1]
    assert "clips at a time, twice" in logs[1]


def test_what_cannot_fit_is_said_before_the_first_episode(run_tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"fit=1MB is too small: a training step of CLIPFSAR needs about"):
        run_tiny("clip_fsar", fit="1MB", controls=False)
    assert not list(tmp_path.rglob("loss.csv"))


def test_mixed_precision_gives_the_same_gradients():
    torch.manual_seed(0)
    method = clip_fsar().train()
    episodes = any_episode(2, 1, 2, 2, 32, torch.randn(6, 24))
    gradients = []
    for recompute in (Recompute(), Recompute(2), Recompute(1, blocks=True)):
        method.zero_grad()
        torch.manual_seed(0)
        with recompute.inside(method):
            with torch.autocast("cpu", torch.bfloat16):
                loss = method.parse_losses(method(episodes))[0]
            loss.backward()
        gradients.append(method.backbone.clip.visual.conv1.weight.grad.flatten())
    for gradient in gradients[1:]:
        assert torch.cosine_similarity(gradient, gradients[0], dim=0) > 0.99  # bfloat16 has eight bits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ma_clip", "clip_fsar"])
def test_a_card_of_11_gb_trains_a_vit_b_16(name):
    """By estimate on the CPU, in float32: 5-way 1-shot, 5 queries per class, 8 frames of 224 pixels. `-s` prints it."""
    pairs = {"methods": name, "backbone": "vit_b_16", "pretrained": "none", "frames": "8", "controls": False}
    (cell,) = resolve(pairs).cells
    method = build_method(cell).train()
    text = torch.randn(24, method.backbone.embedding_width)
    method.prepare(text)
    memory = StepMemory(
        method, any_episode(5, 1, 5, 8, 224, text), cell.identity.train.optimizer, contextlib.nullcontext
    )
    chosen = choose_recompute(memory, 11 * 10**9, "11GB")
    print(f"\n{name}: {in_words(chosen, memory)}")
    assert 25e9 < memory.of(Recompute()) < 50e9
    assert not chosen.blocks
    assert 5 <= chosen.clips <= 10
    assert 8e9 < memory.of(chosen) <= SHARE * 11e9


def test_features_keep_their_kind():
    """What `embed` gives in micro-batches is what it gives at once."""
    method, episodes = made("clip_fsar")
    with Recompute(2).inside(method):
        parts = method.embed(episodes.query[0], None)
    whole = method.embed(episodes.query[0], None)
    assert isinstance(parts, VideoFeatures)
    assert torch.allclose(parts.frames, whole.frames, rtol=1e-12)
