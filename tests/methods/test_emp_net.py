"""EMP-Net: golden tables of the official code, roles, what its text scores read, parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_arrays import assert_close, by_class, golden, share_of, under
from helpers import GivenFeatures

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.layers import query_cross_entropy
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods.emp_net import EMPNet

OTAM = {"type": "OTAM", "smoothing": 0.5, "epsilon": 0.01}
ORDER = ("within_frame", "over_time")  # in the official reasoning blocks
ATTENTION = {"norm": "norm", "fn.to_q": "to_q", "fn.to_k": "to_k", "fn.to_v": "to_v", "fn.to_out.0": "out"}


def attention_from(part: dict) -> dict:
    """An attention of the official code by our names, its joined projections split."""
    if "fn.to_qkv.weight" in part:
        joined = part["fn.to_qkv.weight"].chunk(3)
        part = part | {f"fn.to_{name}.weight": weight for name, weight in zip("qkv", joined, strict=True)}
    return {
        f"{o}.{k}": part[f"{t}.{k}"] for t, o in ATTENTION.items() for k in ("weight", "bias") if f"{t}.{k}" in part
    }


def ffn_from(part: dict) -> dict:
    return {f"ffn.{name}": tensor for name, tensor in part.items()}


def from_golden(arrays: dict, **settings) -> EMPNet:
    w = under(arrays, "w.")
    inner, C = w["fusion_token.layers.0.0.fn.to_q.weight"].shape
    hidden = len(w["fusion_token.layers.0.1.net.0.weight"])
    shares = {"inner_ratio": share_of(inner, C), "ffn_ratio": share_of(hidden, C)}
    method = EMPNet(GivenFeatures(C), OTAM, text_epsilon=0.01, **shares, **settings)
    state = {}
    for stream in ("token", "frame", "patch"):
        for ours, theirs in (("interaction", "inter_reasion"), ("fusion", "fusion")):
            part = under(w, f"{theirs}_{stream}.layers.0.")
            both = attention_from(under(part, "0.")) | ffn_from(under(part, "1.net."))
            state |= {f"{ours}.{stream}.{name}": tensor for name, tensor in both.items()}
    for number in range(3):
        part = under(w, f"spatialtemporal_reasion_{number + 1}.layers.0.")
        for place, name in enumerate(ORDER):
            state |= {f"reasoning.{number}.{name}.{n}": t for n, t in attention_from(under(part, f"{place}.")).items()}
        state |= {f"reasoning.{number}.{name}": t for name, t in ffn_from(under(part, "2.net.")).items()}
    own = {n: t for n, t in method.state_dict().items() if n.startswith("backbone.")}
    method.load_state_dict(state | own)
    return method.eval()


def levels_of(arrays: dict, role: str, videos: int) -> VideoFeatures:
    return VideoFeatures(**{f"level{i}": arrays[f"{role}_level{i}"].unflatten(0, (videos, -1)) for i in range(3)})


@golden("emp_net")
@torch.no_grad()
def test_golden_tables(arrays):
    method = from_golden(arrays)
    Q, V = len(arrays["fused"]), len(arrays["support_labels"])
    texts = arrays["texts"].mean(0)[arrays["support_class"]]  # of each support, in the order of the file
    support = levels_of(arrays, "support", V)
    encoded = method.encode(support, texts)
    ordered = VideoFeatures(**{name: by_class(arrays, x)[None] for name, x in encoded.items()})
    query = method.encode(levels_of(arrays, "query", Q), None)
    class_text = by_class(arrays, texts)[None, :, 0]
    scores = method.score(ordered, query.view(1, Q), class_text)
    of_supports = method.text_tables(method.for_text(method.streams(support)).view(1, V), class_text)
    for stream in ("token", "frame", "patch"):
        assert_close(scores.parts[f"visual_{stream}"][0], arrays[f"{stream}_logits"], relative=1e-5)
        table = torch.cat([of_supports[f"text_{stream}"], scores.parts[f"text_{stream}"]], 1)[0]
        assert_close(table, arrays[f"{stream}_class_logits"], relative=1e-5)
    assert_close(scores.total[0], arrays["fused"], relative=1e-5)


def tiny(**settings) -> EMPNet:
    torch.manual_seed(0)
    backbone = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    return EMPNet(backbone, OTAM, **settings).double().eval()


def random_levels(V: int, seed: int, C: int = 24, P: int = 16) -> VideoFeatures:
    g = torch.Generator().manual_seed(seed)
    return VideoFeatures(**{f"level{i}": torch.randn(V, 4, 1 + P, C, generator=g).double() for i in range(3)})


@torch.no_grad()
def test_mean_over_time_of_unit_patches_is_exact():
    method = tiny(top_patches=5)
    streams = method.streams(random_levels(3, 0))
    text = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(1)).double()
    for_text = method.for_text(streams)
    assert for_text.text_patch.shape[1] == 1
    tables = method.text_tables(for_text.view(1, 3), text)
    cosine = torch.einsum("vtpc,nc->vtpn", F.normalize(streams.patch, dim=-1), F.normalize(text[0], dim=-1))
    by_hand = cosine.mean(1).sort(1, descending=True).values[:, :5].mean(1).softmax(-1)
    assert torch.allclose(tables["text_patch"][0], by_hand)
    frames = torch.einsum("vtc,nc->vtn", F.normalize(streams.frame, dim=-1), F.normalize(text[0], dim=-1))
    assert torch.allclose(tables["text_frame"][0], frames.sort(1, descending=True).values[:, :2].mean(1).softmax(-1))


@torch.no_grad()
def test_tables_are_probabilities_and_text_tables_read_no_support():
    method = tiny()
    text = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(1)).double()
    query = method.encode(random_levels(5, 0), None).view(1, 5)
    first, other = (
        method.encode(random_levels(8, seed), text[0].repeat_interleave(2, 0)).view(1, 4, 2) for seed in (1, 2)
    )
    scores = method.score(first, query, text)
    assert len(scores.parts) == 6
    for table in scores.parts.values():
        assert torch.allclose(table.sum(-1), torch.ones(1, 5).double())
    assert torch.allclose(scores.total.sum(-1), torch.ones(1, 5).double())
    assert 0 < scores.total.min() <= scores.total.max() < 1
    for name, table in method.score(other, query, text).parts.items():
        assert torch.equal(table, scores.parts[name]) == name.startswith("text_")


@torch.no_grad()
def test_queries_see_no_text_and_supports_see_their_own():
    method = tiny()
    levels = random_levels(2, 0)
    text = torch.randn(2, 24, generator=torch.Generator().manual_seed(1)).double()
    query = method.encode(levels, None)
    assert torch.equal(method.encode(levels, None).patch, query.patch)
    support, changed = (method.encode(levels, t) for t in (text, torch.stack([text[0], -text[1]])))
    for stream in ("token", "frame", "patch"):
        a, b = getattr(support, stream), getattr(changed, stream)
        assert torch.allclose(a[0], b[0])
        assert not torch.allclose(a[1], b[1], atol=1e-3)
    assert "text_patch" not in dict(support.items())  # supports keep only what is matched


def test_tokens_come_after_each_third_of_the_blocks(monkeypatch):
    method = tiny()
    blocks = method.backbone.blocks()
    frames = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x, after = method.backbone.embed_tokens(frames), []
    for number in (0, 0, 1, 1, 0, 1):  # six blocks of the two that there are
        x = x + blocks[number].attend(blocks[number].norm1(x), x.shape[1])
        x = x + blocks[number].mlp(blocks[number].norm2(x))
        after.append(x)
    monkeypatch.setattr(method.backbone, "blocks", lambda: [blocks[number] for number in (0, 0, 1, 1, 0, 1)])
    levels = method.embed(frames, None)
    for name, number in (("level0", 1), ("level1", 3), ("level2", 5)):
        expected = method.backbone.project_tokens(method.backbone.norm_tokens(after[number]))
        assert torch.allclose(getattr(levels, name)[0], expected)
    assert method.role_blind_embedding
    assert not method.shares_embedding


@pytest.mark.parametrize("twice", [True, False])
def test_loss_is_six_cross_entropies(twice):
    method = tiny(double_softmax=twice)
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 4, 3, 32, 32), dtype=torch.uint8, generator=g)
    batch = EpisodeBatch(
        support=pixels[:6].unflatten(0, (1, 3, 2)),
        query=pixels[6:][None],
        labels=torch.tensor([[2, 0, 1]]),
        classes=torch.tensor([[4, 0, 6]]),
        class_text=torch.randn(1, 3, 24, generator=g).double(),
    )
    losses = method.loss(batch)
    with torch.no_grad():
        support, query = method.episode_features(batch)
        parts = method.score(support, query, batch.class_text).parts
        as_queries = method.encode(method.embed(batch.support.flatten(0, 2), None), None).view(1, 6)
        of_supports = method.text_tables(as_queries, batch.class_text)
    assert set(losses) == {f"loss_{name}" for name in parts}
    for name, table in parts.items():
        labels = batch.labels
        if name.startswith("text_"):
            table, labels = torch.cat([of_supports[name], table], 1), torch.tensor([[0, 0, 1, 1, 2, 2, 2, 0, 1]])
        expected = query_cross_entropy(table if twice else table.log(), labels)
        assert losses[f"loss_{name}"].item() == pytest.approx(expected.item())
    sum(losses.values()).backward()
    assert all(p.grad is None for p in method.backbone.parameters())


def test_parameters():
    with torch.device("meta"):
        method = EMPNet(GivenFeatures(512), OTAM)
    assert method.parameter_counts()["trainable"] == 7_495_296
