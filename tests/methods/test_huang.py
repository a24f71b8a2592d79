"""Compound prototypes: the assignment against all permutations, what each group ignores, diversity, parameters."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from helpers import GivenFeatures, score_features

from fsar_bench.errors import ConfigError
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.huang import CompoundPrototypes, matched_similarity, overlap


def make(width: int = 16, **settings) -> CompoundPrototypes:
    torch.manual_seed(0)
    return CompoundPrototypes(GivenFeatures(width), **{"heads": 2, "ffn_width": 8, **settings}).double().eval()


def test_assignment_is_the_best_of_all_permutations():
    torch.manual_seed(0)
    tables = torch.randn(3, 2, 5, 5, dtype=torch.double, requires_grad=True)
    ours = matched_similarity(tables)
    assert ours.shape == (3, 2)
    ours.sum().backward()
    for table, value, gradient in zip(
        tables.detach().flatten(0, 1), ours.flatten(), tables.grad.flatten(0, 1), strict=True
    ):
        best = max(permutations(range(5)), key=lambda p: sum(float(table[i, p[i]]) for i in range(5)))
        assert value.item() == pytest.approx(sum(float(table[i, best[i]]) for i in range(5)) / 5)
        chosen = torch.zeros(5, 5, dtype=torch.double)
        chosen[range(5), list(best)] = 0.2
        assert torch.equal(gradient, chosen)


def test_greedy_choice_would_be_worse():
    table = torch.tensor([[0.9, 0.8], [0.8, 0.1]])  # the largest pair first: 0.9 + 0.1
    assert matched_similarity(table[None]).item() == pytest.approx(0.8)


@torch.no_grad()
def test_focused_prototypes_are_a_set_and_global_ones_a_list():
    method = make(whole=3, focused=4)
    prototypes = torch.nn.functional.normalize(torch.randn(1, 5, 7, 16).double(), dim=-1)
    support = VideoFeatures(prototypes=torch.nn.functional.normalize(torch.randn(1, 4, 2, 7, 16).double(), dim=-1))

    def parts(order: list[int]) -> dict[str, torch.Tensor]:
        return method.score(support, VideoFeatures(prototypes=prototypes[:, :, order]), torch.zeros(1, 4, 0)).parts

    plain, focused, whole = parts([0, 1, 2, 3, 4, 5, 6]), parts([0, 1, 2, 6, 3, 5, 4]), parts([1, 0, 2, 3, 4, 5, 6])
    assert all(torch.allclose(plain[name], focused[name]) for name in plain)
    assert torch.equal(plain["focused"], whole["focused"])
    assert not torch.allclose(plain["global"], whole["global"])
    by_hand = [sum(float(prototypes[0, 2, p] @ support.prototypes[0, 1, k, p]) for p in range(3)) / 3 for k in range(2)]
    assert plain["global"][0, 2, 1].item() == pytest.approx(sum(by_hand) / 2)


@torch.no_grad()
def test_equal_clips_score_highest_and_queries_are_independent():
    method = make()
    query = torch.randn(4, 8, 16).double()
    scores = score_features(method, query[:, None], query)
    assert torch.allclose(scores.total[0].diagonal(), torch.tensor(20.0).double())
    assert (scores.total[0].argmax(-1) == torch.arange(4)).all()
    other = score_features(method, query[:, None], query[[3, 0]]).total
    assert torch.allclose(other, scores.total[:, [3, 0]])


def test_overlap_of_attention():
    same = torch.rand(1, 1, 6).expand(2, 4, 6)
    assert overlap(same).item() == pytest.approx(1)
    assert overlap(torch.eye(4).expand(3, 4, 4)).item() == 0
    two = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    assert overlap(two).item() == pytest.approx(2 * 0.5**0.5 / 6)


@torch.no_grad()
def test_attention_is_the_decoders():
    """With one head, values as they are and no FFN, the decoder gives the frames by the attention that the loss reads."""
    method = make(whole=1, focused=3, heads=1)
    decoder, related = method.decoder, torch.randn(2, 6, 16).double()
    for identity in (decoder.to_v, decoder.out):
        identity.weight.copy_(torch.eye(16))
    for zero in (decoder.out.bias, decoder.ffn[3].weight, decoder.ffn[3].bias):
        zero.zero_()
    read = decoder(method.queries.expand(2, -1, -1), related)[:, 1:] - method.queries[1:]
    assert torch.allclose(read, method.attention(related) @ decoder.norm(related))
    assert torch.allclose(make(heads=4).attention(related).sum(-1), torch.ones(2, 8).double())


def test_number_of_parameters():
    """Two layers of 3,149,824 parameters at C = 512, and 16 queries."""
    with torch.device("meta"):
        method = CompoundPrototypes(GivenFeatures(512))
    assert method.parameter_counts()["trainable"] == 2 * 3_149_824 + 16 * 512


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.focused=1 must be at least 2"):
        make(focused=1)
    with pytest.raises(ConfigError, match=r"method\.whole=0 must be at least 1"):
        make(whole=0)


def test_similarities_that_are_no_numbers_stay_so():
    """So that training stops with the error of a loss that is not finite."""
    assert matched_similarity(torch.full((2, 3, 3), torch.nan)).isnan().all()
