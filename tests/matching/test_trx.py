"""TRX against golden arrays, a slow loop and its closed cases."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from golden_arrays import Arrays, assert_close, assert_gradients_close, episode, golden, scores, under
from helpers import AsGiven
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar_bench.errors import ConfigError
from fsar_bench.matching import TRX, build_matcher, tuple_distance
from fsar_bench.matching.trx import CHUNK, INDEXED_CHUNK
from fsar_bench.methods.metric import MetricMethod


def slow_trx(query, support, transformer, scale: float = 0.0) -> np.ndarray:
    """Distances `[Q, N]` of queries `[Q, T, C]` to classes `[N, K, S, C]`, tuple by tuple, in float64."""
    weight = {k: v.detach().double().numpy() for k, v in transformer.state_dict().items()}
    w = transformer.cardinality

    def positions(T, C):
        out = np.zeros((T, C))
        for t in range(T):
            for c in range(C):
                angle = t / 10_000 ** ((c - c % 2) / C)
                out[t, c] = scale * (np.cos(angle) if c % 2 else np.sin(angle))
        return out

    def tuples(video):
        video = video + positions(*video.shape)
        rows = np.array([np.concatenate([video[i] for i in chosen]) for chosen in combinations(range(len(video)), w)])
        key = rows @ weight["key.weight"].T + weight["key.bias"]
        key = (key - key.mean(1, keepdims=True)) / np.sqrt(key.var(1, keepdims=True) + 1e-5)
        return key * weight["norm.weight"] + weight["norm.bias"], rows @ weight["value.weight"].T + weight["value.bias"]

    out = np.zeros((len(query), len(support)))
    for q, video in enumerate(query):
        keys, values = tuples(video)
        for n, shots in enumerate(support):
            pairs = [tuples(shot) for shot in shots]
            k, v = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
            for key, value in zip(keys, values, strict=True):
                logits = k @ key / np.sqrt(len(key))
                attention = np.exp(logits - logits.max())
                out[q, n] += ((value - attention @ v / attention.sum()) ** 2).sum() / len(keys)
    return out


@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(2, 16), S=st.integers(2, 16), K=st.integers(1, 3), w=st.integers(1, 3), out=st.sampled_from((5, 13)),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_agrees_with_the_slow_loop(T, S, K, w, out, seed):
    """With layers that are narrower than two frames, whose rows are compared, and wider ones, where frames are."""
    if min(T, S) < w or (max(T, S) > 8 and w == 3):
        T, S = 5, 4
    torch.manual_seed(seed)
    matcher = TRX(6, cardinalities=(w,), out=out, position_scale=0.1).double().eval()
    query, support = torch.randn(2, T, 6, dtype=torch.float64), torch.randn(3, K, S, 6, dtype=torch.float64)
    for part in (
        matcher.transformers[0].key.bias,
        matcher.transformers[0].value.bias,
        matcher.transformers[0].norm.weight,
        matcher.transformers[0].norm.bias,
    ):
        torch.nn.init.normal_(part)
    expected = slow_trx(query.numpy(), support.numpy(), matcher.transformers[0], 0.1)
    assert np.allclose(matcher(query[None], support[None])[0].detach().numpy(), expected, rtol=1e-9)
    with torch.no_grad():  # in inner products of frames
        assert np.allclose(matcher(query[None], support[None])[0].numpy(), expected, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(("width", "names"), [(4, {"key", "value", "frame"}), (7, {"key", "value"})])
def test_what_is_kept_of_a_video_has_the_width_of_frames_where_that_is_less(width, names):
    index = TRX(width, cardinalities=(2,), out=12).eval().index(torch.randn(3, 5, width))
    assert {name.removeprefix("0_") for name in index} == names | {"scale", "shift", "gram", "norm"}
    assert index["0_key"].shape[1:] == ((20, 5) if "frame" in names else (10, 12))


@torch.no_grad()
def test_supports_are_asked_for_what_they_need_alone_and_queries_too():
    """What is not read is not gathered from a bank."""

    class Read(dict):
        def __init__(self, *args):
            super().__init__(*args)
            self.names = set()

        def __getitem__(self, name):
            self.names.add(name.removeprefix("0_"))
            return super().__getitem__(name)

    matcher = TRX(4, cardinalities=(2,), out=12).eval()
    query, support = (Read(matcher.index(torch.randn(*shape, 5, 4))) for shape in ((2, 3), (2, 4, 1)))
    matcher.indexed_distance(query, support)
    assert query.names == {"scale", "norm", "frame"}
    assert support.names == {"scale", "shift", "gram", "key", "value"}


@torch.no_grad()
@pytest.mark.parametrize(("width", "shots"), [(64, 1), (64, 3), (700, 1)])
def test_single_precision_is_that_of_the_plain_form(width, shots):
    """At the width of the official layers, relative to the largest distance."""
    torch.manual_seed(0)
    matcher = TRX(width).eval()
    for transformer in matcher.transformers:
        torch.nn.init.normal_(transformer.norm.weight, 1, 0.1)
        torch.nn.init.normal_(transformer.norm.bias, 0, 0.1)
    query, support = torch.randn(2, 3, 8, width), torch.randn(2, 4, shots, 8, width)
    indexed = matcher(query, support)
    exact = matcher.double()
    with torch.enable_grad():
        plain = exact(query.double(), support.double()).detach()
    assert ((indexed - plain).abs().max() / plain.max()).item() < 2e-6


NAMES = {"key": "k_linear", "value": "v_linear", "norm": "norm_k"}  # ours: official


def from_golden(arrays: Arrays) -> MetricMethod:
    """The official model on its features; a transformer's cardinality is how many frames its layers take."""
    C = arrays["query"].shape[-1]
    numbers = sorted({name.split(".")[1] for name in arrays if name.startswith("transformers.")})
    weights = [under(arrays, f"transformers.{number}.") for number in numbers]
    out, cardinalities = len(weights[0]["k_linear.bias"]), tuple(w["k_linear.weight"].shape[1] // C for w in weights)
    matcher = {"type": "TRX", "cardinalities": cardinalities, "out": out, "position_scale": 0.1}
    method = MetricMethod(AsGiven(C), matcher, tune="visual").eval()
    for transformer, official in zip(method.matcher.transformers, weights, strict=True):
        kinds = [(ours, theirs, kind) for ours, theirs in NAMES.items() for kind in ("weight", "bias")]
        transformer.load_state_dict({f"{ours}.{kind}": official[f"{theirs}.{kind}"] for ours, theirs, kind in kinds})
    return method


def official_name(name: str) -> str:
    """The official name of a parameter `matcher.transformers.I.LAYER.KIND`."""
    _, transformers, number, layer, kind = name.split(".")
    return f"{transformers}.{number}.{NAMES[layer]}.{kind}"


@golden("trx")
def test_golden_logits_loss_and_gradients(arrays):
    episodes = episode(arrays)
    for name, expected in under(arrays, "logits.").items():
        chosen = [int(size) for size in name.split(",")]
        part = from_golden(arrays)
        kept = [t for t in part.matcher.transformers if t.cardinality in chosen]
        assert len(kept) == len(chosen)
        part.matcher.transformers = torch.nn.ModuleList(kept)
        with torch.no_grad():
            assert_close(scores(part, episodes).total[0], expected)
    method = from_golden(arrays)
    loss = method.loss(episodes)["loss"]
    assert_close(loss, arrays["loss"])
    loss.backward()
    ours = {official_name(name): parameter.grad for name, parameter in method.named_parameters()}
    assert_gradients_close(ours, under(arrays, "2,3.grad."))


def test_parameters():
    matcher = TRX(2048, cardinalities=(2, 3))
    for transformer in matcher.transformers:
        w = transformer.cardinality
        expected = (
            2 * (2048 * w * 1152 + 1152) + 2 * 1152
        )  # the official code has one more LayerNorm, which nothing reads
        assert sum(p.numel() for p in transformer.parameters()) == expected


@torch.no_grad()
def test_constant_equal_videos_are_at_distance_zero_and_no_distance_is_negative():
    torch.manual_seed(0)
    matcher = TRX(8, out=12, position_scale=0.0).double().eval()
    frame = torch.randn(8).double()
    support = torch.randn(1, 3, 2, 6, 8).double()
    support[0, 1] = frame
    distance = matcher(frame.expand(1, 1, 6, 8), support)
    assert distance[0, 0, 1].item() == pytest.approx(0, abs=1e-10)
    assert (distance >= 0).all()


@torch.no_grad()
def test_order_of_shots_is_nothing_and_order_of_frames_is_something():
    torch.manual_seed(0)
    matcher = TRX(8, out=12).double().eval()
    query, support = torch.randn(2, 3, 6, 8, dtype=torch.float64), torch.randn(2, 4, 3, 6, 8, dtype=torch.float64)
    plain = matcher(query, support)
    assert torch.allclose(matcher(query, support[:, :, [2, 0, 1]]), plain)
    assert torch.allclose(matcher(query, support.repeat(1, 1, 2, 1, 1)), plain)
    assert torch.allclose(matcher(query[:, 1:2], support), plain[:, 1:2])
    assert not torch.allclose(matcher(query.flip(2), support), plain)


@torch.no_grad()
def test_chunks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    matcher = TRX(8, out=12).double().eval()
    query, support = torch.randn(5, 3, 6, 8, dtype=torch.float64), torch.randn(5, 4, 3, 6, 8, dtype=torch.float64)
    whole = matcher(query, support)
    monkeypatch.setitem(CHUNK, "cpu", 1)
    monkeypatch.setitem(INDEXED_CHUNK, "cpu", 1)
    assert torch.allclose(matcher(query, support), whole, rtol=1e-12)
    with torch.enable_grad():  # tuple by tuple
        assert torch.allclose(matcher(query, support), whole, rtol=1e-12)


def test_one_hot_attention_copies():
    value = torch.randn(1, 1, 3, 4)
    key = 100 * torch.eye(3)[None, None]
    assert tuple_distance(key, value, key, value).item() == pytest.approx(0, abs=1e-6)


def test_wrong_sizes_are_refused():
    with pytest.raises(ConfigError, match="tuples of 3 frames, but a video has 2"):
        TRX(8)(torch.randn(1, 1, 2, 8), torch.randn(1, 2, 1, 2, 8))
    with pytest.raises(ConfigError, match="cardinalities"):
        TRX(8, cardinalities=())
    assert build_matcher({"type": "TRX", "cardinalities": [2]}, 8).transformers[0].cardinality == 2
