"""Settings of a training that the common recipe leaves at their defaults: exemptions from decay, scaled losses, batch norm."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper

from fsar_bench.backbones import CLIPBackbone, ImageBackbone
from fsar_bench.config.settings import Train
from fsar_bench.engine.training import _optimizer
from fsar_bench.method import EpisodeBatch
from fsar_bench.methods.metric import MetricMethod


def resnet_method(**arguments) -> MetricMethod:
    torch.manual_seed(0)
    backbone = ImageBackbone("test_resnet", None, resize=32, crop=32, **arguments)
    return MetricMethod(backbone, {"type": "BiMHM"}, tune="visual")


@pytest.fixture
def batch() -> EpisodeBatch:
    g = torch.Generator().manual_seed(0)
    return EpisodeBatch(
        support=torch.randint(0, 256, (1, 3, 1, 4, 3, 32, 32), dtype=torch.uint8, generator=g),
        query=torch.randint(0, 256, (1, 6, 4, 3, 32, 32), dtype=torch.uint8, generator=g),
        labels=torch.tensor([[0, 1, 2, 0, 1, 2]]),
        classes=torch.tensor([[4, 0, 6]]),
        class_text=torch.zeros(1, 3, 0),
    )


def test_named_parameters_have_no_weight_decay():
    settings = {"no_decay": ["bn"], "optimizer": {"type": "Adam", "lr": 0.1, "weight_decay": 0.5}, "clip_grad": None}
    method = resnet_method(train_batch_norm=True)
    wrapper = build_optim_wrapper(method, _optimizer(Train.of(settings), torch.device("cpu")))
    decay = {id(p): group["weight_decay"] for group in wrapper.optimizer.param_groups for p in group["params"]}
    by_name = {name: decay[id(p)] for name, p in method.named_parameters() if p.requires_grad}
    assert set(by_name.values()) == {0.0, 0.5}
    assert all((value == 0) == ("bn" in name) for name, value in by_name.items())
    assert by_name["backbone.network.layer2.0.downsample.1.weight"] == 0.5  # a batch norm, by another name


def test_decay_inside_the_gradient_moves_a_weight_without_gradient():
    """Coupled decay: Adam divides it by its own size, so the step is the learning rate; AdamW's is lr * decay * weight."""
    steps = {}
    for kind in ("Adam", "AdamW"):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        settings = Train.of({"optimizer": {"type": kind, "lr": 1e-3, "weight_decay": 1e-3}, "clip_grad": None})
        config = _optimizer(settings, torch.device("cpu"))["optimizer"]
        optimizer = getattr(torch.optim, config.pop("type"))([weight], **config)
        weight.grad = torch.zeros(1)
        optimizer.step()
        steps[kind] = 2.0 - float(weight.detach())
    assert steps["Adam"] == pytest.approx(1e-3, rel=1e-3)
    assert steps["AdamW"] == pytest.approx(2e-6, rel=0.2)


def test_scaled_losses_scale_gradients_and_not_the_log(batch):
    gradients, logs = [], []
    for scale in (1.0, 25.0):
        method = resnet_method().train()
        method.loss_scale = scale
        wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), lr=0.0), accumulative_counts=2)
        wrapper.initialize_count_status(method, 0, 2)
        logs.append(float(method.train_step(batch, wrapper)["loss"].detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]))
    assert logs[0] == logs[1]
    assert torch.allclose(25 * gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_factor_of_the_learning_rate_of_sgd_is_one_of_the_loss(batch):
    """A loss summed over Q queries with SGD is the averaged one at Q times the learning rate."""
    ends = []
    for scale, rate in ((6.0, 1e-3), (1.0, 6e-3)):
        method = resnet_method().train()
        method.loss_scale = scale
        wrapper = OptimWrapper(torch.optim.SGD(method.parameters(), lr=rate))
        method.train_step(batch, wrapper)
        ends.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    assert torch.allclose(*ends, atol=1e-6)


def test_trained_batch_norm_sees_supports_and_queries_apart(batch):
    method = resnet_method(train_batch_norm=True)
    apart = copy.deepcopy(method).train()
    support = apart.backbone.encode_frames(batch.support.flatten(0, 2))
    query = apart.backbone.encode_frames(batch.query.flatten(0, 1))
    together = copy.deepcopy(method).train().backbone.encode_frames(batch.videos())
    frames = copy.deepcopy(method).train().embed_videos(batch).frames
    assert torch.equal(frames, torch.cat([support, query]))
    assert not torch.allclose(frames, together, atol=1e-3)
    frozen = method.eval()
    assert torch.equal(frozen.embed_videos(batch).frames, frozen.backbone.encode_frames(batch.videos()))


@pytest.mark.parametrize("kind", ["image", "clip"])
def test_backbones_take_another_normalisation(kind):
    def backbone(**changes):
        torch.manual_seed(0)
        if kind == "image":
            return ImageBackbone("test_resnet", None, resize=32, crop=32, **changes)
        return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32, **changes)

    pixels = torch.full((1, 1, 3, 32, 32), 51, dtype=torch.uint8)
    assert float(backbone(mean=[0.0] * 3, std=[1.0] * 3).normalise(pixels).mean()) == pytest.approx(0.2)
    assert float(backbone(mean=[0.45] * 3, std=[0.225] * 3).normalise(pixels).mean()) == pytest.approx(-0.25 / 0.225)
    assert abs(float(backbone().normalise(pixels).mean())) > 0.5
