"""ProtoMAML: steps against autograd in both orders, no steps, falling support loss, independent episodes, labels as names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.layers import query_cross_entropy
from fsar_bench.matching import EuclideanPrototype
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.proto_maml import ProtoMAML, adapt

N, K, Q, T, C = 4, 3, 5, 6, 7


def make(**changes) -> ProtoMAML:
    return ProtoMAML(GivenFeatures(C), **changes).double().eval()


def frames(*leading: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*leading, T, C, generator=torch.Generator().manual_seed(seed)).double()


def by_autograd(support, query, *, steps: int, lr: float, second_order: bool) -> torch.Tensor:
    """Logits `[Q, N]` of one episode, with the inner gradients of autograd."""
    x = support.mean(-2)
    prototypes = x.mean(1)
    weight, bias = 2 * prototypes, -prototypes.square().sum(-1)
    labels = torch.arange(len(x)).repeat_interleave(x.shape[1])
    for _ in range(steps):
        loss = F.cross_entropy(F.linear(x.flatten(0, 1), weight, bias), labels)
        slopes = torch.autograd.grad(loss, (weight, bias), create_graph=second_order, retain_graph=True)
        weight, bias = weight - lr * slopes[0], bias - lr * slopes[1]
    return F.linear(query.mean(-2), weight, bias)


@pytest.mark.parametrize("second_order", [False, True])
def test_scores_and_their_gradients_are_those_of_autograd(second_order):
    support, query = frames(N, K).requires_grad_(), frames(Q, seed=1)
    settings = {"steps": 4, "second_order": second_order}
    ours = score_features(make(**settings, inner_lr=0.3), support, query).total[0].log_softmax(-1)
    theirs = by_autograd(support, query, **settings, lr=0.3).log_softmax(-1)
    assert torch.allclose(ours, theirs)
    expected = torch.autograd.grad(theirs[:, 0].sum(), support)[0]
    assert torch.allclose(torch.autograd.grad(ours[:, 0].sum(), support)[0], expected)


def test_the_order_of_training_matters():
    support, query = frames(N, K).requires_grad_(), frames(Q, seed=1)
    slopes = []
    for second_order in (False, True):
        total = score_features(make(steps=4, inner_lr=0.3, second_order=second_order), support, query).total
        slopes.append(torch.autograd.grad(query_cross_entropy(total, torch.zeros(1, Q).long()), support)[0])
    assert not torch.allclose(*slopes, rtol=0.01)


def test_without_steps_it_is_the_nearest_class_mean():
    support, query = frames(N, K), frames(Q, seed=1)
    expected = -EuclideanPrototype()(query[None], support[None])
    assert torch.allclose(score_features(make(steps=0), support, query).total, expected)


def test_each_step_lowers_the_loss_of_the_supports():
    x, labels = frames(2, N * K).mean(-2), torch.arange(N).repeat_interleave(K)
    prototypes = x.unflatten(1, (N, K)).mean(2)
    losses = []
    for steps in range(6):
        weight, bias = adapt(
            x,
            labels,
            2 * prototypes.transpose(1, 2),
            -prototypes.square().sum(-1),
            steps=steps,
            lr=0.1,
            second_order=True,
        )
        losses.append([F.cross_entropy(x[e] @ weight[e] + bias[e], labels) for e in range(2)])
    assert (torch.tensor(losses).diff(dim=0) < 0).all()


def test_episodes_and_queries_are_independent():
    method = make(inner_lr=0.3)
    videos = VideoFeatures(video=frames(3, N, K).mean(-2)), VideoFeatures(video=frames(3, Q, seed=1).mean(-2))
    together = method.score(*videos, torch.zeros(3, N, 0)).total
    alone = [method.score(*(part[e : e + 1] for part in videos), torch.zeros(1, N, 0)).total for e in range(3)]
    assert torch.allclose(together, torch.cat(alone))
    one = method.score(videos[0], videos[1][:, 2:3], torch.zeros(3, N, 0)).total
    assert torch.allclose(together[:, 2:3], one)


def test_classes_are_not_numbered():
    support, query, order = frames(N, K), frames(Q, seed=1), [2, 0, 3, 1]
    total = score_features(make(inner_lr=0.3), support, query).total
    assert torch.allclose(score_features(make(inner_lr=0.3), support[order], query).total, total[..., order])


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"inner_lr": 0.0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"method.{next(iter(wrong))}"):
        make(**wrong)
