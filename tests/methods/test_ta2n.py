"""TA2N and TTAN: golden arrays of the official code, the warp, the masks, and what changes a score."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import assert_close, golden, under
from helpers import GivenFeatures, score_features
from torch import nn

from fsar_bench.errors import ConfigError
from fsar_bench.matching.warping import masks, retime, window
from fsar_bench.method import VideoFeatures
from fsar_bench.methods.ta2n import TA2N

OURS = {  # names of the official checkpoint: ours
    "firststage.locnet.": "time.",
    "secondstage.mvnet.": "offsets.",
    "secondstage.keynet.": "pair.key.",
    "secondstage.querynet.": "pair.query.",
    "secondstage.valuenet.": "pair.value.",
    "keynet_multi.": "shots.key.",
    "querynet_multi.": "shots.query.",
    "valuenet_multi.": "shots.value.",
}
LAYERS = {"0": "first", "1": "norm1", "4": "second", "5": "norm2", "10": "hidden", "12": "last"}


def our_name(name: str) -> str:
    (theirs,) = [prefix for prefix in OURS if name.startswith(prefix)]
    rest = name.removeprefix(theirs)
    layer, _, kind = rest.partition(".")
    return OURS[theirs] + (f"{LAYERS[layer]}.{kind}" if layer in LAYERS else rest)


def from_golden(arrays: dict, **settings) -> TA2N:
    state = {our_name(name): weight for name, weight in under(arrays, "w.").items()}
    method = TA2N(GivenFeatures(state["pair.key.weight"].shape[0]), **settings).eval()
    state = {name: w[..., 0] if w.ndim == 3 else w for name, w in state.items()}  # 1 x 1 convolutions
    missing = method.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("backbone.") or name.endswith("batches_tracked") for name in missing.missing_keys)
    return method


@torch.no_grad()
@golden("ta2n")
def test_golden_alignment_and_scores(arrays, monkeypatch):
    monkeypatch.setattr(
        "fsar_bench.methods.ta2n.GRID", arrays["mask"].shape[-1]
    )  # maps of any size are aligned as they are
    method = from_golden(arrays, reference="first")
    numbers = [int(key[1:-8]) for key in arrays if key.endswith(".support")]
    assert numbers
    for K in numbers:
        part = under(arrays, f"k{K}.")
        N, Q = part["offsets"].shape[:2]
        support, query = (part[role].transpose(1, 2) for role in ("support", "query"))  # [V, T, C, h, w]
        for role, maps in (("support", support), ("query", query)):
            theta = method.time(method.time.first(maps.transpose(1, 2)))
            assert_close(theta, part[f"theta_{role}"], relative=1e-5)
        videos, queries = (method.encode(VideoFeatures(maps=maps), None).maps for maps in (support, query))
        classes = method.prototypes(videos.unflatten(0, (N, K))[None])[0]
        if K > 1:
            queries = method.shots.value_of(queries)
            assert_close(classes[0].transpose(0, 1), part["prototype_0"], relative=1e-5)
        assert_close(queries[0].transpose(0, 1), part["query_valued_0" if K > 1 else "query_warped_0"], relative=1e-5)
        offsets = []
        method.offsets.register_forward_hook(lambda _, __, out, kept=offsets: kept.append(out))
        pairs = torch.cat([x.expand(Q, -1, -1, -1) for x in method.align(classes, queries)], -1)
        assert_close(0.75 * offsets[0].unflatten(0, (Q, N)).transpose(0, 1), part["offsets"], relative=1e-5)
        assert_close(pairs.permute(1, 0, 3, 2), part["pairs"], relative=1e-5)
        total = score_features(method, support.unflatten(0, (N, K)), query, name="maps").total[0]
        assert_close(total, part["logits"], relative=1e-5)


@golden("ta2n")
def test_golden_mask(arrays):
    height, width = arrays["mask"].shape[-2:]
    x, y = arrays["mask_offsets"].unbind(-1)
    assert_close(window(y, height)[:, :, None] * window(x, width)[:, None], arrays["mask"], relative=1e-5)


def test_masks_are_averages_of_nine_windows():
    offset = torch.tensor([0.3, -0.5], dtype=torch.double)
    mean = torch.zeros(7, 5, dtype=torch.double)
    for dx, dy in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        single = torch.zeros(7, 5, dtype=torch.double)
        for row in range(7):
            for column in range(5):
                gy, gx = -1 + row / 3 - 0.5 + 0.2 * dy, -1 + column / 2 + 0.3 + 0.2 * dx
                my = 1.0 if -1 < gy < 1 else max(0.0, 1 - (abs(gy) - 1) * 6 / 2)
                mx = 1.0 if -1 < gx < 1 else max(0.0, 1 - (abs(gx) - 1) * 4 / 2)
                single[row, column] = my * mx
        mean += single / single.sum() / 9
    assert torch.allclose(masks(offset, 7, 5), mean, atol=1e-7)
    assert torch.allclose(masks(torch.tensor([[0.75, -0.75], [0.1, 0.7]]), 1, 2).sum((-1, -2)), torch.ones(2))


def test_warp():
    maps = torch.randn(3, 6, 2, 2, 2, dtype=torch.double)
    same, back, late = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.4]], dtype=torch.double)
    assert torch.allclose(retime(maps, same.expand(3, 2)), maps)
    assert torch.allclose(retime(maps, back.expand(3, 2)), maps.flip(1))
    moved = retime(maps, late.expand(3, 2))  # 0.4 of [-1, 1] is one frame of six
    assert torch.allclose(moved[:, :-1], maps[:, 1:])
    assert torch.allclose(moved[:, -1], torch.zeros(()).double(), atol=1e-12)
    short = TA2N(GivenFeatures(3)).time
    assert torch.tanh(short.last.bias).tolist() == pytest.approx([0.964028, 0.0], abs=1e-6)


def noisy(width: int = 4, **settings) -> TA2N:
    """A method whose last layers are no longer zero, in double precision."""
    torch.manual_seed(0)
    method = TA2N(GivenFeatures(width), **settings).double().eval()
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.3)
    return method


@torch.no_grad()
@pytest.mark.parametrize("shape", [(8, 7, 7), (4, 5, 5), (4, 2, 2), (1, 1, 1), (2, 3, 1), (8, 9, 14)])
@pytest.mark.parametrize("spatial", [True, False])
def test_maps_of_all_sizes_and_frames(shape, spatial):
    T, h, w = shape
    method = noisy(spatial=spatial)
    support, query = (torch.rand(*lead, T, 4, h, w).double() for lead in ((3, 2), (5,)))
    total = score_features(method, support, query, name="maps").total
    assert total.shape == (1, 5, 3)
    assert (total <= 0).all()
    assert (total >= -2 * T).all()
    assert (total.amax(-1) - total.amin(-1) > 1e-6).all()


@torch.no_grad()
@pytest.mark.parametrize("K", [1, 2])
def test_queries_are_independent_and_chunks_change_nothing(K, monkeypatch):
    method = noisy()
    support, query = torch.rand(3, K, 4, 4, 5, 5).double(), torch.rand(4, 4, 4, 5, 5).double()
    together = score_features(method, support, query, name="maps").total
    other = score_features(method, support, query[[3, 1, 0, 2]], name="maps").total
    assert torch.allclose(other, together[:, [3, 1, 0, 2]])
    monkeypatch.setattr("fsar_bench.methods.ta2n.CHUNK", 1)
    assert torch.allclose(score_features(method, support, query, name="maps").total, together)


@torch.no_grad()
def test_order_of_shots_matters_only_with_the_first_as_reference():
    support, query = torch.rand(3, 3, 4, 4, 5, 5).double(), torch.rand(4, 4, 4, 5, 5).double()
    for reference, same in (("mean", True), ("first", False)):
        method = noisy(reference=reference)
        totals = [score_features(method, s, query, name="maps").total for s in (support, support[:, [2, 0, 1]])]
        assert torch.allclose(*totals) is same


@torch.no_grad()
def test_offset_zero_gives_both_maps_the_same_mask():
    zero = torch.zeros(2, dtype=torch.double)
    assert torch.equal(masks(zero, 7, 7), masks(-zero, 7, 7))
    method = TA2N(GivenFeatures(4)).double().eval()  # the last layer starts at zero
    maps = torch.rand(2, 4, 4, 5, 5).double()
    support, query = method.align(maps, maps)
    s, q, mask = maps.mean((-2, -1)), maps.mean((-2, -1)), masks(zero, 5, 5)
    assert torch.allclose(support[1, 0] - method.pair.value(s)[0], (mask * maps[0]).sum((-2, -1)))
    attention = ((s[0] @ method.pair.key.weight.T) @ (q[1] @ method.pair.query.weight.T).T / 2).softmax(-1)
    assert torch.allclose(query[1, 0], (mask * maps[1]).sum((-2, -1)) + attention @ method.pair.value(q[1]))
    assert (method.compare(maps, maps).diagonal() < -1e-4).all()  # equal maps are not equal once aligned


@torch.no_grad()
def test_without_space_a_map_counts_by_its_mean():
    method = noisy(spatial=False)
    maps = torch.rand(2, 4, 4, 5, 5).double()
    kept = method.encode(VideoFeatures(maps=maps), None).maps
    theta = method.time(method.time.first(maps.transpose(1, 2)))
    assert torch.allclose(kept[..., 0, 0], retime(maps, theta).mean((-2, -1)))
    s, q = kept[0, ..., 0, 0], kept[1, ..., 0, 0]
    W_k, W_q, W_v = method.pair.key.weight, method.pair.query.weight, method.pair.value.weight
    attention = ((s @ W_k.T) @ (q @ W_q.T).T / 2).softmax(-1)
    expected = (torch.cosine_similarity(s + s @ W_v.T, q + attention @ q @ W_v.T, dim=-1) - 1).sum()
    assert torch.allclose(method.compare(kept[:1], kept[1:]), expected)


def test_numbers_of_parameters():
    """At the width of a ResNet-50, and of CLIP's frame features."""
    for width, parts in ((2048, (3_764_898, 27_190_210, 12_582_912)), (512, (1_110_690, 4_776_898, 786_432))):
        with torch.device("meta"):
            method = TA2N(GivenFeatures(width))
        stages = (method.time, nn.ModuleList([method.pair, method.offsets]), method.shots)
        assert tuple(sum(p.numel() for p in stage.parameters()) for stage in stages) == parts
        assert method.parameter_counts()["trainable"] == sum(parts) == {2048: 43_538_020, 512: 6_674_020}[width]


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match=r"method\.reference='last'"):
        TA2N(GivenFeatures(4), reference="last")
