"""TEAM: golden distances of the three variants, closed forms of the tokens, parameter counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_arrays import Arrays, assert_close, golden
from helpers import GivenFeatures, score_features

from fsar_bench.method import Scores, VideoFeatures
from fsar_bench.methods.team import TEAM

VARIANTS = {"TEAM": {}, "TEAM_pos_neg": {"sharpen": False}, "TEAM_pos": {"sharpen": False, "negative": False}}


def from_golden(arrays: Arrays, **settings: bool) -> TEAM:
    _, M, C = arrays["w.AP"].shape
    method = TEAM(GivenFeatures(C), num_tokens=M, **settings).eval()
    state = {"patterns": arrays["w.AP"][0]}
    for ours, theirs in (("norm", "ln"), ("mlp.0", "mlp.inp_fc"), ("mlp.2", "mlp.out_fc")):
        state |= {f"{ours}.{kind}": arrays[f"w.{theirs}.{kind}"] for kind in ("weight", "bias")}
    method.load_state_dict(state)
    return method


@golden("team")
@torch.no_grad()
def test_golden_tokens_and_positions(arrays: Arrays):
    method = from_golden(arrays)
    instance, exclusive = method.both_tokens(method.attend(arrays["support"].mean(1)))
    assert_close(instance, arrays["support_instance_tokens"], relative=1e-5)
    assert_close(exclusive, arrays["support_exclusive_tokens"], relative=1e-5)
    assert_close(method.positions(torch.zeros_like(arrays["w.pe.pe"])), arrays["w.pe.pe"], relative=1e-5)


@golden("team")
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_golden_logits(arrays: Arrays, name: str):
    scores = score_features(from_golden(arrays, **VARIANTS[name]), arrays["support"], arrays["query"])
    assert_close(scores.total[0], arrays[f"{name}.logits"], relative=1e-5)
    assert_close(scores.parts["positive"][0], arrays[f"{name}.logits_pos"], relative=1e-5)
    if "negative" in scores.parts:  # the code of TEAM_pos repeats its positive distance here
        assert_close(scores.parts["negative"][0], arrays[f"{name}.logits_neg"], relative=1e-5)


def build(**settings: float) -> TEAM:
    torch.manual_seed(0)
    return TEAM(GivenFeatures(8), num_tokens=3, **settings).double().eval()


def scores(method: TEAM, ways: int = 3) -> tuple[Scores, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    support = torch.randn(ways, 2, 5, 8, generator=generator).double()
    query = torch.randn(4, 5, 8, generator=generator).double()
    return score_features(method, support, query), support, query


@torch.no_grad()
def test_the_score_is_the_slow_loop_over_classes():
    method = build()
    result, support, query = scores(method)
    assert all((part <= 0).all() for part in result.parts.values())  # distances are not negative

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return sum(1 - F.cosine_similarity(a[m], b[m], dim=0) for m in range(3))

    attended = method.attend(support.mean(1))
    instance, exclusive = method.both_tokens(attended)
    classes = []
    for i in range(3):
        sharp = []
        for j in {0, 1, 2} - {i}:
            r = torch.stack([F.cosine_similarity(instance[i, m], instance[j, m], dim=0) for m in range(3)])[:, None]
            s = torch.stack([F.cosine_similarity(exclusive[i, m], exclusive[j, m], dim=0) for m in range(3)])[:, None]
            apart = attended[j] - attended[i]
            plus = method.tokens(method.patterns + attended[i] - r * apart)
            sharp.append((plus, method.tokens(method.patterns - attended[i] + s * apart)))
        classes.append([sum(tokens) / 2 for tokens in zip(*sharp, strict=True)])
    mine, theirs = method.both_tokens(method.attend(query))
    for q in range(4):
        for i in range(3):
            others = {0, 1, 2} - {i}
            negative = max(distance(classes[j][0], theirs[q]) for j in others)
            negative += max(distance(classes[j][1], mine[q]) for j in others)
            assert result.parts["positive"][0, q, i].item() == pytest.approx(-distance(classes[i][0], mine[q]).item())
            assert result.parts["negative"][0, q, i].item() == pytest.approx(-negative.item() / 2)


@torch.no_grad()
def test_equal_classes_are_not_sharpened():
    method = build()
    frames = torch.randn(1, 1, 5, 8).double().expand(-1, 2, -1, -1)
    plain = method.both_tokens(method.attend(frames))
    assert all(torch.allclose(a, b) for a, b in zip(method.class_tokens(frames), plain, strict=True))


@torch.no_grad()
def test_exclusive_tokens_serve_the_negative_distance_alone():
    for settings, changes in (({"negative": False, "sharpen": False}, False), ({"sharpen": False}, True)):
        method = build(**settings)
        _, support, query = scores(method)
        s = method.encode(VideoFeatures(frames=support.flatten(0, 1)), None).view(1, 3, 2)
        q = method.encode(VideoFeatures(frames=query), None).view(1, 4)
        other = VideoFeatures(frames=q.frames, instance=q.instance, exclusive=q.exclusive.flip(1))
        text = torch.zeros(1, 3, 0)
        same = torch.allclose(method.score(s, q, text).total, method.score(s, other, text).total)
        assert same != changes


@torch.no_grad()
def test_order_of_frames_enters_by_the_positions_alone():
    for scale in (0.0, 0.1):
        method = build(position_scale=scale)
        result, support, query = scores(method)
        shuffled = score_features(method, support, query[:, [3, 0, 4, 2, 1]])
        assert method.traits.order_sensitive == (scale > 0)
        assert torch.allclose(result.total, shuffled.total) == (scale == 0)


@torch.no_grad()
def test_scores_of_a_class_depend_on_the_others():
    method = build()
    _, support, query = scores(method)
    fewer = score_features(method, support[:2], query).total
    assert not torch.allclose(fewer, score_features(method, support, query).total[..., :2])


@pytest.mark.parametrize(
    ("width", "tokens", "count"), [(2048, 60, 8_519_680), (768, 50, 1_221_120), (512, 60, 557_056)]
)
def test_parameter_counts(width, tokens, count):
    with torch.device("meta"):
        method = TEAM(GivenFeatures(width), num_tokens=tokens)
    assert method.parameter_counts()["trainable"] == count
