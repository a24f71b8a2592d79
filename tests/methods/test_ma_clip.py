"""MA-CLIP: parameter counts of the paper and the invariants of its blocks (numbered 1 to 11)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fsar_bench.backbones import CLIPBackbone, ViTBlock
from fsar_bench.backbones.adapters import AdaptedBlock
from fsar_bench.errors import ConfigError
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods.ma_clip import MACLIP

T, V, N = 4, 3, 4
CROP, C = 32, 24  # pixels and embedding width of the tiny tower


@pytest.fixture(scope="module")
def backbone() -> CLIPBackbone:
    """A tiny CLIP of random weights, not to be changed by tests."""
    torch.manual_seed(0)
    return CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=CROP, crop=CROP).eval()


def make(backbone, **changes) -> MACLIP:
    torch.manual_seed(1)
    small = {"matcher": {"type": "OTAM"}, "frames": T, "ffn_width": 64, "dropout": 0.0}
    return MACLIP(backbone, **{**small, **changes}).eval()


def stir(method: MACLIP) -> MACLIP:
    """Move every trained parameter away from its initial value."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return method


@pytest.fixture
def frames():
    return torch.randint(0, 256, (V, T, 3, CROP, CROP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def text():
    return torch.randn(V, C, generator=torch.Generator().manual_seed(3))


def batch(E: int = 1, K: int = 2, Q: int = 3) -> EpisodeBatch:
    g = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (E * (N * K + Q), T, 3, CROP, CROP), dtype=torch.uint8, generator=g)
    return EpisodeBatch(
        support=pixels[: E * N * K].unflatten(0, (E, N, K)),
        query=pixels[E * N * K :].unflatten(0, (E, Q)),
        labels=torch.tensor([[0, 1, 3]] * E),
        classes=torch.arange(N)[None].expand(E, -1),
        class_text=torch.randn(E, N, C, generator=g),
    )


def reference(backbone, frames, text_tokens=None, class_bonus: float = 0.0):
    """Frozen CLIP written with explicit attention: the class key counted twice, and text tokens as extra keys."""
    visual = backbone.visual
    x = visual._embeds(backbone.normalise(frames))
    heads = visual.transformer.resblocks[0].attn.num_heads
    for layer, block in enumerate(visual.transformer.resblocks):
        z, extra = block.ln_1(x), None
        if text_tokens is not None:
            extra = block.ln_1(text_tokens[layer].repeat_interleave(T, 0)[:, None])
        keys = z if extra is None else torch.cat([z, extra], 1)
        weight, bias = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(tokens, w, b).unflatten(-1, (heads, -1)).transpose(1, 2)
            for tokens, w, b in zip((z, keys, keys), weight, bias, strict=True)
        )
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        logits[..., 0] += class_bonus
        x = x + block.attn.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(-2))
        x = x + block.mlp(block.ln_2(x))
    return (visual.ln_post(x[:, 0]) @ visual.proj).unflatten(0, frames.shape[:2])


@pytest.fixture(scope="module")
def vit_b_32():
    return CLIPBackbone("ViT-B-32", None, quick_gelu=True, resize=256, crop=224)


PARTS = ("multimodal", "temporal", "joint")


@pytest.mark.parametrize(
    ("changes", "trainable", "total"),
    [
        ({}, 18_535_168, 169_812_481),  # the paper: 18.54 M of 169.81 M
        (dict.fromkeys(PARTS, False), 3_149_824, 154_427_137),  # 3.15 M of 154.43 M
        ({**dict.fromkeys(PARTS, False), "tune": "visual"}, 90_999_040, 154_427_137),  # printed as 90.99 M
        ({"joint": False}, 14_984_704, 166_262_017),  # the paper: 15.04 M of 166.31 M
        ({"joint": False, "temporal": False}, 11_434_240, 162_711_553),  # the paper: 7.94 M of 159.21 M
        ({**dict.fromkeys(PARTS, False), "prototype": "none"}, 0, 151_277_313),
    ],
)
def test_parameter_counts_of_table_4(vit_b_32, changes, trainable, total):
    counts = MACLIP(vit_b_32, {"type": "OTAM"}, **changes).parameter_counts()
    assert counts == {"trainable": trainable, "total": total}


def test_parameter_count_of_the_paper_on_b_16():
    backbone = CLIPBackbone("ViT-B-16", None, quick_gelu=True, resize=256, crop=224)
    assert MACLIP(backbone, {"type": "OTAM"}).parameter_counts()["trainable"] == 18_535_168


@torch.no_grad()
@pytest.mark.parametrize("joint", [True, False])
def test_1_without_extra_tokens_the_encoder_starts_as_frozen_clip(backbone, frames, joint):
    """Queries get no text token, so without the temporal token the adapters alone are added, and they start at zero."""
    method = make(backbone, temporal=False, joint=joint)
    plain = backbone.encode_frames(frames)
    assert torch.allclose(method.embed(frames, None).frames, plain, atol=1e-5)
    assert not torch.allclose(stir(method).embed(frames, None).frames, plain, atol=1e-2)


def reading_tokens(block: ViTBlock, seen: list[torch.Tensor]) -> ViTBlock:
    """A block that records the tokens its attention receives."""

    def attend(tokens, rows):
        seen.append(tokens)
        return block.attend(tokens, rows)

    return ViTBlock(block.norm1, block.norm2, attend, block.mlp)


@torch.no_grad()
def test_2_temporal_adaptation_starts_as_identity(backbone, frames, text):
    """Before training the extra token of a frame is its own class token, then the text of its class."""
    adapted: AdaptedBlock = make(backbone).adapted[0]
    block, seen = backbone.blocks()[0], []
    x = backbone.embed_tokens(frames)
    adapted(x, reading_tokens(block, seen), T, text)
    temporal, space = seen  # class tokens of a video, then all tokens of a frame
    assert temporal.shape == (V, T, x.shape[2])
    assert space.shape == (V * T, x.shape[1] + 2, x.shape[2])
    assert torch.allclose(space[:, -2], block.norm1(x[:, 0]), atol=1e-6)
    tokens = block.norm1(adapted.text_fc(text)).repeat_interleave(T, 0)
    assert torch.allclose(space[:, -1], tokens, atol=1e-6)


def test_3_query_mode_starts_as_clip_with_the_class_key_counted_twice(backbone, frames):
    method = make(backbone)
    expected = reference(backbone, frames, class_bonus=math.log(2))
    assert torch.allclose(method.embed(frames, None).frames, expected, atol=1e-4)
    assert not torch.allclose(method.embed(frames, None).frames, backbone.encode_frames(frames), atol=1e-4)


def test_4_support_mode_adds_one_text_token_a_layer(backbone, frames, text):
    method = make(backbone)
    tokens = [block.text_fc(text) for block in method.adapted]
    expected = reference(backbone, frames, tokens, class_bonus=math.log(2))
    assert torch.allclose(method.embed(frames, text).frames, expected, atol=1e-4)


def test_5_joint_adapter_starts_at_zero_and_learns_from_its_last_layer(backbone):
    method = make(backbone)
    joint, D = method.adapted[0].joint, backbone.map_width
    assert torch.equal(joint(torch.randn(2, 5, D)), torch.zeros(2, 5, D))
    sum(method.loss(batch()).values()).backward()
    assert joint.up.weight.grad.abs().max() > 0
    assert joint.down.weight.grad.abs().max() == 0


def test_6_clip_stays_frozen(backbone):
    method = make(backbone).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2, weight_decay=0.5)
    sum(method.loss(batch()).values()).backward()
    assert all(p.grad is None for p in backbone.parameters())
    assert all(p.grad is not None for n, p in method.named_parameters() if p.requires_grad)
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_7_frames_permute_without_the_temporal_embedding(backbone, frames, text):
    method = stir(make(backbone, temporal_embedding=False, matcher={"type": "BiMHM"}))
    order = torch.randperm(T, generator=torch.Generator().manual_seed(5))
    for role in (None, text):
        plain, shuffled = method.embed(frames, role), method.embed(frames[:, order], role)
        assert torch.allclose(plain.frames[:, order], shuffled.frames, atol=1e-4)
        a, b = method.encode(plain, role).matched, method.encode(shuffled, role).matched
        assert torch.allclose(a[:, order], b, atol=1e-4)


def test_7_temporal_embedding_breaks_the_symmetry(backbone, frames):
    method = stir(make(backbone))
    assert not torch.allclose(
        method.embed(frames.flip(1), None).frames.flip(1), method.embed(frames, None).frames, atol=1e-3
    )


def scores(method, episodes, **changes):
    support, query = method.episode_features(episodes)
    return method.score(support, query, changes.get("class_text", episodes.class_text))


@torch.no_grad()
def test_8_queries_are_independent_and_texts_touch_their_own_column(backbone):
    method, episodes = stir(make(backbone)), batch()
    before = scores(method, episodes)
    other = EpisodeBatch(**{**vars(episodes), "query": episodes.query.clone()})
    other.query[:, 0] = 255 - other.query[:, 0]
    after = scores(method, other)
    assert torch.allclose(before.total[:, 1:], after.total[:, 1:], atol=1e-4)
    assert not torch.allclose(before.total[:, 0], after.total[:, 0], atol=1e-3)
    text = episodes.class_text.clone()
    text[:, 2] *= -1
    changed = scores(method, EpisodeBatch(**{**vars(episodes), "class_text": text}))
    for part in ("visual", "text"):
        same = torch.isclose(before.parts[part], changed.parts[part], atol=1e-3).all((0, 1))
        assert same.tolist() == [True, True, False, True]


@torch.no_grad()
def test_9_only_supports_see_text(backbone, frames, text):
    method = stir(make(backbone))
    query = method.embed(frames, None).frames
    assert not torch.allclose(method.embed(frames, text).frames, query, atol=1e-3)
    assert not torch.allclose(method.embed(frames, -text).frames, method.embed(frames, text).frames, atol=1e-3)


@torch.no_grad()
def test_10_alpha_mixes_two_distributions(backbone):
    episodes = batch()
    shares = {}
    for alpha in (0.0, 0.3, 1.0):
        result = scores(stir(make(backbone, alpha=alpha)), episodes)
        shares[alpha] = result.total.exp()
        assert torch.allclose(shares[alpha].sum(-1), torch.ones(1, 3), atol=1e-5)
    visual, text = result.parts["visual"].softmax(-1), result.parts["text"].softmax(-1)
    assert torch.allclose(shares[0.0], visual, atol=1e-5)
    assert torch.allclose(shares[1.0], text, atol=1e-5)
    assert torch.allclose(shares[0.3], 0.3 * text + 0.7 * visual, atol=1e-5)


@torch.no_grad()
def test_11_equal_shots_are_one_shot(backbone):
    method, episodes = stir(make(backbone)), batch(K=1)
    support, query = method.episode_features(episodes)
    five = VideoFeatures(**{name: tensor.expand(-1, -1, 5, *tensor.shape[3:]) for name, tensor in support.items()})
    one = method.score(support, query, episodes.class_text).total
    assert torch.allclose(method.score(five, query, episodes.class_text).total, one, atol=1e-4)


def test_loss_is_the_weighted_sum_of_the_paper(backbone):
    method, episodes = stir(make(backbone, alpha=0.25)), batch()
    losses = method.loss(episodes)
    support, query = method.episode_features(episodes)
    result = method.score(support, query, episodes.class_text)
    q2s = F.cross_entropy(result.parts["visual"][0], episodes.labels[0])
    q2t = F.cross_entropy(result.parts["text"][0], episodes.labels[0])
    s2t = F.cross_entropy(
        method.text_logits(support.video.flatten(1, 2), episodes.class_text)[0], torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    )
    assert sum(losses.values()).item() == pytest.approx((0.25 * (s2t + q2t) / 2 + 0.75 * q2s).item(), rel=1e-5)


def test_soft_labels_tend_to_cross_entropy(backbone):
    logits, labels = torch.randn(1, 6, 4), torch.randint(0, 4, (1, 6))
    hard = make(backbone).text_loss(logits, labels).item()
    for sharpness in (60.0, 60):  # a whole number is a number too
        assert make(backbone, label_sharpness=sharpness).text_loss(logits, labels).item() == pytest.approx(
            hard, rel=1e-4
        )
    soft = make(backbone, label_sharpness=2).text_loss(logits, labels).item()
    target = [[math.exp(2 * (n == label)) / (math.exp(2) + 3) for n in range(4)] for label in labels[0].tolist()]
    log_p = logits[0].log_softmax(-1).tolist()
    by_hand = sum(
        t * (math.log(t) - p) for ts, ps in zip(target, log_p, strict=True) for t, p in zip(ts, ps, strict=True)
    )
    assert soft == pytest.approx(by_hand / 6, rel=1e-4)


def test_any_matcher_is_a_plug_in(backbone):
    for matcher in ("OTAM", "BiMHM", "CosinePrototype", "TRX"):
        assert scores(make(backbone, matcher={"type": matcher}), batch()).total.shape == (1, 3, N)


OFF = dict.fromkeys(PARTS, False)


@torch.no_grad()
def test_without_adaptation_the_encoder_is_the_plain_one_for_both_roles(backbone, frames, text):
    method = make(backbone, **OFF)
    assert method.role_blind_embedding
    assert method.shares_embedding
    assert torch.equal(method.embed(frames, text).frames, backbone.encode_frames(frames))
    assert not make(backbone, **{**OFF, "joint": True}).role_blind_embedding


def test_nothing_is_trained_where_nothing_is_added(backbone):
    assert not make(backbone, **OFF, prototype="none").traits.trainable
    assert make(backbone, **OFF).traits.trainable
    assert make(backbone, **{**OFF, "joint": True}, prototype="none").traits.trainable


def test_supports_are_ignored_where_the_text_alone_predicts(backbone):
    assert make(backbone, predict_alpha=1.0).traits.ignores_supports
    assert not make(backbone, predict_alpha=0.95).traits.ignores_supports
    assert not make(backbone, predict_alpha="val").traits.ignores_supports  # val may choose another


@torch.no_grad()
def test_table_5_spatiotemporal_supports_are_encoded_as_queries(backbone, frames, text):
    method = stir(make(backbone, support_branch="spatiotemporal"))
    assert torch.equal(method.embed(frames, text).frames, method.embed(frames, None).frames)
    assert not any("text_fc" in name for name, _ in method.named_parameters())


@torch.no_grad()
def test_text_layers_start_as_they_are_told(backbone, frames, text):
    """The rest starts the same; a projected token gives back its text, a token of zero does not depend on it."""
    starts = {start: make(backbone, text_start=start) for start in ("random", "zero", "projection")}
    weights = {start: dict(method.named_parameters()) for start, method in starts.items()}
    for name, weight in weights["random"].items():
        same = [torch.equal(weight, weights[start][name]) for start in ("zero", "projection")]
        assert same == [".text_fc." not in name] * 2, name
    for block in starts["projection"].adapted:
        assert torch.allclose(block.text_fc(text) @ backbone.visual.proj, text, atol=1e-4)
    zero = starts["zero"]
    assert torch.equal(zero.embed(frames, text).frames, zero.embed(frames, -text).frames)
    assert not torch.equal(zero.embed(frames, text).frames, zero.embed(frames, None).frames)


@torch.no_grad()
def test_table_6_prototype_modules(backbone, text):
    g = torch.Generator().manual_seed(6)
    features = torch.randn(V, T, C, generator=g)
    out = {}
    for prototype in ("none", "transformer", "multimodal_transformer", "text_guided"):
        method = stir(make(backbone, **OFF, prototype=prototype))
        out[prototype] = method.construct(features, text)
        assert out[prototype].shape == features.shape
        sees_text = not torch.equal(out[prototype], method.construct(features, -text))
        assert sees_text == (prototype in ("multimodal_transformer", "text_guided"))
        if prototype != "none":
            assert torch.equal(method.construct(features, None), method.prototype(features))
    assert torch.equal(out["none"], features)
    assert not torch.allclose(out["multimodal_transformer"], out["text_guided"], atol=1e-2)


@torch.no_grad()
def test_each_part_can_be_left_out(backbone, frames, text):
    whole = stir(make(backbone)).embed(frames, text).frames
    for part in PARTS:
        less = make(backbone, **{part: False})
        assert not any(f".{part}." in name for name, _ in less.adapted.named_parameters())
        assert not torch.allclose(stir(less).embed(frames, text).frames, whole, atol=1e-3)
    skipped = stir(make(backbone, temporal_skip=True, joint_skip=True, multimodal_skip=False)).embed(frames, text)
    assert not torch.allclose(skipped.frames, whole, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("tune", "none, visual"),
        ("prototype", "none, transformer, multimodal_transformer, text_guided"),
        ("support_branch", "multimodal, spatiotemporal"),
        ("text_start", "random, zero, projection"),
        ("text_features", "before, after"),
        ("s2t_classes", "episode, train"),
    ],
)
def test_unknown_words_are_refused_with_the_choices(backbone, name, choices):
    with pytest.raises(ConfigError, match=rf"^method\.{name}='tpcm' is unknown\. Choose from: {choices}\.$"):
        make(backbone, **{name: "tpcm"})


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 1.5), ("alpha", "val"), ("predict_alpha", "often"), ("predict_alpha", -1)]
)
def test_alphas_outside_their_range_are_refused(backbone, name, value):
    with pytest.raises(ConfigError, match=rf"^method\.{name}={value} must be a number from 0 to 1\.$"):
        make(backbone, **{name: value})


def test_unknown_arguments_are_named(backbone):
    with pytest.raises(TypeError, match="adapter_ration"):
        make(backbone, adapter_ration=0.5)


def test_alpha_of_the_prediction_is_chosen_by_the_scores(backbone):
    method = make(backbone, predict_alpha="val")
    assert method.fits
    assert method.fit(lambda: -abs(method.predict_alpha - 0.4)) == {"predict_alpha": 0.4}
    assert method.predict_alpha == 0.4
    tried = []
    assert method.fit(lambda: tried.append(method.predict_alpha) or 50.0) == {
        "predict_alpha": 0.0
    }  # the first of equals
    assert tried == [i / 20 for i in range(21)]
    assert method.predict_alpha == 0.0


def test_text_terms_can_read_other_features_and_other_classes(backbone):
    episodes, g = batch(), torch.Generator().manual_seed(7)
    train_text = torch.randn(6, C, generator=g)
    train_text[:N] = episodes.class_text[0]
    losses = {}
    for text_features in ("before", "after"):
        for s2t_classes in ("episode", "train"):
            method = stir(make(backbone, text_features=text_features, s2t_classes=s2t_classes))
            method.prepare(train_text)
            losses[text_features, s2t_classes] = {k: v.item() for k, v in method.loss(episodes).items()}
    method = stir(make(backbone))
    support, _ = method.episode_features(episodes)
    logits = method.text_logits(support.video.flatten(1, 2), train_text[None])[0]
    expected = 0.25 * F.cross_entropy(logits, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    assert losses["before", "train"]["loss_s2t"] == pytest.approx(expected.item(), rel=1e-5)
    assert losses["before", "train"]["loss_s2t"] > losses["before", "episode"]["loss_s2t"]
    assert losses["before", "train"]["loss_q2t"] == losses["before", "episode"]["loss_q2t"]
    assert losses["after", "episode"]["loss_q2t"] != losses["before", "episode"]["loss_q2t"]
    assert losses["after", "episode"]["loss_q2s"] == losses["before", "episode"]["loss_q2s"]
