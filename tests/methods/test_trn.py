"""TRN++: all subsets against a slow loop, drawing in training alone, order of frames, its size."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.trn import TRN, Relations, subsets


def relations(frames: int, drawn: int = 3, width: int = 5) -> Relations:
    torch.manual_seed(0)
    return Relations(width, frames, out=7, drawn=drawn).double()


def clips(count: int, frames: int, width: int = 5) -> torch.Tensor:
    return torch.randn(count, frames, width, generator=torch.Generator().manual_seed(1)).double()


def slow(module: Relations, video: torch.Tensor, size: int) -> torch.Tensor:
    """The relations of all subsets of one size `[M, out]`, each concatenated."""
    layer = module.layers[size - 2]
    groups = [torch.cat([video[i] for i in chosen]) for chosen in combinations(range(len(video)), size)]
    return F.relu(layer(F.relu(torch.stack(groups))))


def test_eight_frames_have_247_ordered_subsets():
    counts = [len(subsets(8, size)) for size in range(2, 9)]
    assert sum(counts) == 247
    assert all((subsets(8, size).diff(dim=1) > 0).all() for size in range(2, 9))


@torch.no_grad()
def test_evaluation_is_the_expectation_over_all_subsets():
    module, videos = relations(5).eval(), clips(3, 5)
    expected = []
    for video in videos:
        scales = [slow(module, video, size) for size in range(2, 6)]
        expected.append(sum(min(3, len(scale)) * scale.mean(0) for scale in scales))
    assert torch.allclose(module(videos), torch.stack(expected))


@torch.no_grad()
def test_training_adds_subsets_drawn_at_random():
    module, videos = relations(3, drawn=1).train(), clips(2, 3)
    of_pairs = torch.stack([slow(module, video, 2) for video in videos])  # [V, 3, out]
    of_all = torch.stack([slow(module, video, 3)[0] for video in videos])
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        embedding = module(videos)
        pair = [i for i in range(3) if torch.allclose(embedding, of_pairs[:, i] + of_all)]
        assert len(pair) == 1
        seen.update(pair)
    assert seen == {0, 1, 2}


@torch.no_grad()
def test_with_every_subset_drawn_training_and_evaluation_agree():
    module, videos = relations(3), clips(2, 3)  # three pairs, one triple
    assert torch.allclose(module.train()(videos), module.eval()(videos))


@torch.no_grad()
def test_reversed_frames_change_the_scores_and_evaluation_draws_nothing():
    method = TRN(GivenFeatures(5), frames=6).double().eval()
    support, query = clips(6, 6).unflatten(0, (3, 2)), clips(9, 6)[6:]
    state = torch.get_rng_state()
    total = score_features(method, support, query).total
    assert torch.equal(total, score_features(method, support, query).total)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.allclose(total, score_features(method, support, query.flip(1)).total, atol=1e-3)
    assert total.abs().max() <= 20


@pytest.mark.parametrize(("width", "parameters"), [(512, 4_589_312), (2048, 18_351_872)])
def test_number_of_parameters(width, parameters):
    with torch.device("meta"):
        module = Relations(width, 8, out=256, drawn=3)
    assert sum(p.numel() for p in module.parameters()) == parameters == 256 * (35 * width + 7)


@pytest.mark.parametrize("wrong", [{"frames": 1}, {"frames": 17}, {"drawn": 0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        TRN(GivenFeatures(5), **wrong)


def test_another_number_of_frames_is_refused():
    with pytest.raises(ConfigError, match="built for 6 frames, but a video has 4"):
        TRN(GivenFeatures(5), frames=6).encode(VideoFeatures(frames=torch.zeros(1, 4, 5)), None)
