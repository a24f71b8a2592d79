"""Video-text fine-tuning (ViFi-CLIP, ActionCLIP): modes, equality with zero-shot CLIP, losses, the temporal transformer."""

from __future__ import annotations

import pytest
import torch
from helpers import GivenFeatures, score_features

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.errors import ConfigError, NotApplicableError
from fsar_bench.layers import soft_divergence
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods.metric import MetricMethod
from fsar_bench.methods.video_text import VideoText
from fsar_bench.methods.zero_shot import ZeroShot

PROTOTYPE = {"type": "CosinePrototype"}
ACTIONCLIP = {"temporal_layers": 6, "frames": 4, "label_sharpness": 10.0, "normalise_frames": False}


def features(C: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(4, 2, 4, C, generator=g), torch.randn(5, 4, C, generator=g), torch.randn(4, C, generator=g)
    )  # fmt: skip


def build(**settings) -> VideoText:
    torch.manual_seed(0)
    return VideoText(GivenFeatures(24), matcher=PROTOTYPE, **{"temperature": 100.0, **settings}).eval()


def episode() -> EpisodeBatch:
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, 4, 3, 32, 32), dtype=torch.uint8, generator=g)
    return EpisodeBatch(
        support=pixels[:6].unflatten(0, (1, 3, 2)),
        query=pixels[6:][None],
        labels=torch.tensor([[2, 0, 0]]),
        classes=torch.tensor([[4, 0, 6]]),
        class_text=torch.randn(1, 3, 24, generator=g),
    )


def tuned(**settings) -> VideoText:
    torch.manual_seed(0)
    backbone = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    return VideoText(backbone, matcher=PROTOTYPE, **settings)


@torch.no_grad()
def test_text_mode_is_zero_shot_on_the_same_tower():
    method = tuned(mode="text", temperature=100.0).eval()
    zero_shot = ZeroShot(method.backbone).eval()
    batch = episode()
    totals = []
    for each in (method, zero_shot):
        support, query = each.episode_features(batch)
        totals.append(each.score(support, query, batch.class_text).total)
    assert torch.allclose(*totals, rtol=1e-5, atol=1e-5)
    assert method.traits.ignores_supports
    assert method.traits == zero_shot.traits.__class__(**{**vars(zero_shot.traits), "trainable": True})


@torch.no_grad()
def test_text_mode_reads_no_support_and_visual_mode_no_text():
    support, query, text = features()
    for mode, supports, texts in (("text", False, True), ("visual", True, False), ("product", True, True)):
        method = build(mode=mode)
        total = score_features(method, support, query, text).total
        assert torch.equal(score_features(method, support.flip(0), query, text).total, total) != supports
        assert torch.equal(score_features(method, support, query, text.flip(0)).total, total) != texts
        assert (method.traits.ignores_supports, method.traits.uses_class_names) == (not supports, texts)


@torch.no_grad()
def test_visual_mode_is_the_matcher_and_the_product_is_of_probabilities():
    support, query, text = features()
    visual = score_features(build(), support, query, text).total
    assert torch.allclose(visual, score_features(MetricMethod(GivenFeatures(24), PROTOTYPE), support, query).total)
    scores = score_features(build(mode="product"), support, query, text)
    product = scores.parts["visual"].softmax(-1) * scores.parts["text"].softmax(-1)
    assert torch.allclose(scores.total.exp(), product.sqrt(), atol=1e-6)
    for weight, alone in ((0.0, "visual"), (1.0, "text")):
        total = score_features(build(mode="product", text_weight=weight), support, query, text).total
        assert torch.allclose(total, scores.parts[alone].log_softmax(-1), atol=1e-5)


@torch.no_grad()
def test_frames_can_be_averaged_as_they_are():
    support, query, text = features()
    method = build(mode="text", normalise_frames=False)
    total = score_features(method, support, query, text).total[0]
    video = query.mean(1)
    cosine = (video / video.norm(dim=-1, keepdim=True)) @ (text / text.norm(dim=-1, keepdim=True)).T
    assert torch.allclose(total, 100 * cosine, atol=1e-4)


def test_cross_entropy_is_over_all_training_classes():
    method = tuned(temperature=5.0)
    train_text = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    method.prepare(train_text)
    batch = episode()
    loss = method.loss(batch)["loss"]
    frames = method.backbone.encode_frames(batch.videos())
    video = (frames / frames.norm(dim=-1, keepdim=True)).mean(1)
    logits = 5 * (video / video.norm(dim=-1, keepdim=True)) @ (train_text / train_text.norm(dim=-1, keepdim=True)).T
    log_p = logits.log_softmax(-1)
    by_hand = -sum(log_p[i, c] for i, c in enumerate([4, 4, 0, 0, 6, 6, 6, 4, 4])) / 9
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    loss.backward()
    assert all((p.grad is not None) == n.startswith("visual.") for n, p in method.backbone.clip.named_parameters())


def test_divergence_is_zero_for_the_target_itself_and_cross_entropy_minus_entropy():
    g = torch.Generator().manual_seed(0)
    same = torch.nn.functional.one_hot(torch.tensor([1, 0, 1, 2]), 5).float()
    assert soft_divergence(10 * same, same, 10.0).item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(4, 5, generator=g)
    target = (10 * same).softmax(-1)
    by_hand = (target * (target.log() - logits.log_softmax(-1))).sum(-1).mean()
    assert soft_divergence(logits, same, 10.0).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert target[0, 1].item() == pytest.approx(1 / (1 + 4 * torch.tensor(-10.0).exp().item()))


def test_divergence_goes_both_ways():
    method = tuned(temperature=5.0, **ACTIONCLIP)
    train_text = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
    method.prepare(train_text)
    batch = episode()
    losses = method.loss(batch)
    video = method.encode(method.embed(batch.videos(), None), None).video
    unit = [x / x.norm(dim=-1, keepdim=True) for x in (video, train_text)]
    logits = 5 * unit[0] @ unit[1].T
    labels = torch.tensor([4, 4, 0, 0, 6, 6, 6, 4, 4])
    rows = [logits[:, c].log_softmax(0) for c in (0, 4, 6)]
    targets = [(10.0 * (labels == c)).softmax(0) for c in (0, 4, 6)]
    by_hand = sum((t * (t.log() - row)).sum() for t, row in zip(targets, rows, strict=True)) / 3
    assert losses["loss_video"].item() == pytest.approx(by_hand.item() / 2, rel=1e-4)
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


@torch.no_grad()
def test_temporal_transformer_is_added_to_the_frames_and_sees_their_order():
    _, query, _ = features()
    method = build(**ACTIONCLIP)
    frames = VideoFeatures(frames=query)
    encoded = method.encode(frames, None)
    assert torch.allclose(encoded.frames, query + method.temporal(query + method.positions))
    assert not torch.allclose(method.encode(frames[:, [1, 0, 2, 3]], None).video, encoded.video, atol=1e-3)
    assert method.traits.order_sensitive
    assert not build().traits.order_sensitive
    assert len(method.temporal) == 6


def test_parameters_of_the_temporal_transformer():
    """Six blocks of 12 C^2 + 13 C, and 8 positions, at C = 512."""
    with torch.device("meta"):
        method = VideoText(GivenFeatures(512), matcher=PROTOTYPE, temperature=100.0, temporal_layers=6)
    assert method.parameter_counts()["trainable"] == 6 * (12 * 512**2 + 13 * 512) + 8 * 512


def test_matchers_with_parameters_and_unknown_words_are_refused():
    for matcher, settings, message in (
        ({"type": "TRX"}, {}, "TRX has parameters, which the video-text loss does not train"),
        (PROTOTYPE, {"mode": "both"}, "method.mode='both' is unknown"),
        (PROTOTYPE, {"text_weight": 2}, "text_weight"),
    ):
        with pytest.raises(ConfigError, match=message):
            VideoText(GivenFeatures(24), matcher=matcher, temperature=1.0, **settings)


@pytest.mark.parametrize("mode", ["visual", "text"])
def test_a_backbone_without_texts_is_refused(mode):
    backbone = GivenFeatures(24)
    backbone.has_text = False
    with pytest.raises(NotApplicableError, match="no text encoder: choose a CLIP backbone"):
        VideoText(backbone, matcher=PROTOTYPE, mode=mode, temperature=1.0)
