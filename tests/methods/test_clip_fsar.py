"""CLIP-FSAR: golden logits, parameter count and invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_arrays import Arrays, assert_close, assert_gradients_close, by_class, golden, under
from helpers import GivenFeatures, score_features
from torch import nn

from fsar_bench.backbones import CLIPBackbone
from fsar_bench.errors import ConfigError
from fsar_bench.layers import ModulationBlock, cosine_logits
from fsar_bench.method import EpisodeBatch
from fsar_bench.methods.clip_fsar import CLIPFSAR


def official(arrays: dict) -> dict[str, torch.Tensor]:
    """Golden weights under the names that the official code gives them, with an image tower of one tensor."""
    block = {k.removeprefix("clipfsar."): torch.from_numpy(v) for k, v in arrays.items() if ".context2." in k}
    scale = torch.tensor([float(arrays["clipfsar.scale"])])
    return {f"head.{k}": v for k, v in {**block, "scale": scale, "backbone.proj": torch.zeros(3, 2)}.items()}


def from_golden(arrays: dict, **changes) -> CLIPFSAR:
    method = CLIPFSAR(GivenFeatures(16), {"type": "OTAM", "smoothing": 0.5}, **changes).eval()
    state = CLIPFSAR.from_official(official(arrays))
    assert state.pop("backbone.clip.visual.proj").shape == (3, 2)
    method.load_state_dict(state)
    return method


def episode(arrays):
    labels = arrays["support_labels"].astype(int)
    order = np.argsort(labels, kind="stable")
    support = torch.from_numpy(arrays["support"][order]).unflatten(0, (5, -1))
    real = arrays["clipfsar.support_real_class"].astype(int)[order].reshape(5, -1)[:, 0]
    return support, torch.from_numpy(arrays["query"]), torch.from_numpy(arrays["clipfsar.text_test"][real])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["5way1shot", "5way5shot"])
@pytest.mark.parametrize("merge", ["merge_after", "merge_before"])
@pytest.mark.parametrize("mode", ["visual", "text", "combine"])
def test_golden_logits(golden, kind, merge, mode):
    arrays = golden[kind]
    ours = {"visual": "visual", "text": "text", "combine": "ensemble"}[mode]
    method = from_golden(arrays, mode=ours, merge_before=merge == "merge_before")
    total = score_features(method, *episode(arrays)).total[0]
    expected = torch.from_numpy(arrays[f"clipfsar.logits.{mode}.{merge}"])
    if mode == "text":
        total = total.softmax(-1)
    if mode == "combine":
        total = total.exp()
    assert torch.allclose(total, expected, rtol=1e-4, atol=1e-5)


class PassedOn(GivenFeatures):
    """A stand-in for a backbone to which features are given in place of frames."""

    def encode_frames(self, frames: torch.Tensor) -> torch.Tensor:
        return frames


def of_official_class(arrays: Arrays, **changes) -> CLIPFSAR:
    """The method with the weights of the official class, and no dropout of attention."""
    width = arrays["support"].shape[-1]
    ffn_width = len(arrays["context2.layers.0.1.net.0.weight"])
    matcher = {"type": "OTAM", "smoothing": 0.5, "bidirectional": True, "epsilon": 0.01}
    method = CLIPFSAR(PassedOn(width), matcher, ffn_width=ffn_width, dropout=0.0, class_epsilon=0.01, **changes)
    stored = {f"head.{name}": arrays[name] for name in arrays if name.startswith("context2.") or name == "scale"}
    state = CLIPFSAR.from_official({**stored, "head.backbone.proj": torch.zeros(1)})
    method.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("backbone.")})
    return method


MODES = {  # official mode: ours, g
    "visual": ("visual", 0.9), "text": ("text", 0.9), "ensemble": ("ensemble", 0.9), "ensemble06": ("ensemble", 0.6),
}  # fmt: skip


@torch.no_grad()
@golden("clip_fsar")
@pytest.mark.parametrize("merge", ["merge_after", "merge_before"])
@pytest.mark.parametrize("mode", MODES)
def test_golden_official_logits(arrays, merge, mode):
    ours, weight = MODES[mode]
    method = of_official_class(arrays, mode=ours, text_weight=weight, merge_before=merge == "merge_before").eval()
    text = arrays["text_test"][arrays["classes"]]
    total = score_features(method, by_class(arrays, arrays["support"]), arrays["query"], text).total[0]
    ours_as_theirs = {"visual": total, "text": total.softmax(-1)}.get(mode, total.exp())
    assert_close(ours_as_theirs, arrays[f"logits.{mode}.{merge}"], relative=1e-5)


@golden("clip_fsar")
@pytest.mark.parametrize("merge", ["merge_after", "merge_before"])
def test_golden_official_losses_and_gradients(arrays, merge):
    method = of_official_class(arrays, merge_before=merge == "merge_before", class_weight=1.5).train()
    for module in method.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    method.prepare(arrays["text_train"])
    support, classes = by_class(arrays, arrays["support"])[None], arrays["classes"][None]
    batch = EpisodeBatch(
        support=support,
        query=arrays["query"][None],
        labels=arrays["query_labels"][None],
        classes=classes,
        class_text=arrays["text_train"][classes],
    )
    losses = method.loss(batch)
    assert_close(losses["loss_metric"].detach(), arrays[f"loss_metric.{merge}"].reshape(()), relative=1e-5)
    class_loss = losses["loss_class"].detach() / 1.5
    assert_close(class_loss, arrays[f"loss_class_unweighted.{merge}"].reshape(()), relative=1e-5)
    sum(losses.values()).backward()
    theirs = under(arrays, f"{merge}.grad.")
    named = CLIPFSAR.from_official({**theirs, "backbone.proj": torch.zeros(1)})
    named = {name: gradient for name, gradient in named.items() if not name.startswith("backbone.")}
    assert len(named) == len(theirs) >= 2
    assert_gradients_close({name: parameter.grad for name, parameter in method.named_parameters()}, named)


def test_epsilon_of_the_class_cosine_is_an_option():
    video, text = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert cosine_logits(video, text, 2.0, epsilon=0.01).tolist() == [
        pytest.approx([2 * 25 / 25.01, 2 * 8 / 10.01], rel=1e-6)
    ]
    assert torch.allclose(cosine_logits(video, text, 2.0, epsilon=1e-12), cosine_logits(video, text, 2.0))


@torch.no_grad()
@pytest.mark.parametrize("frames", [4, 8, 16])
def test_the_ensemble_divides_distances_by_8_for_any_number_of_frames(frames):
    g = torch.Generator().manual_seed(0)
    case = torch.randn(3, 1, frames, 16, generator=g), torch.randn(4, frames, 16, generator=g), torch.randn(3, 16)
    scores = score_features(plain(mode="ensemble", text_weight=0.6), *case)
    p_visual = ((8 + scores.parts["visual"]) / 8).softmax(-1)
    expected = scores.parts["text"].softmax(-1) ** 0.6 * p_visual**0.4
    assert torch.allclose(scores.total.exp(), expected, rtol=1e-5)


def test_parameter_count_of_the_modulation_block():
    assert sum(p.numel() for p in ModulationBlock(512).parameters()) == 3_149_824


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 8, 16, generator=g), torch.randn(6, 8, 16, generator=g), torch.randn(4, 16, generator=g)


def plain(matcher="OTAM", **changes) -> CLIPFSAR:
    torch.manual_seed(0)
    return CLIPFSAR(GivenFeatures(16), {"type": matcher}, ffn_width=32, **changes).eval()


@torch.no_grad()
def test_support_frames_may_permute_for_bi_mhm_not_for_otam(case):
    support, query, text = case
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for matcher, same in (("BiMHM", True), ("OTAM", False)):
        method = plain(matcher)
        ordered = score_features(method, support, query, text).total
        shuffled = score_features(method, support[:, :, order], query, text).total
        assert torch.allclose(ordered, shuffled, atol=1e-4) == same


@torch.no_grad()
def test_query_ignores_texts_and_supports_see_their_own(case):
    support, query, text = case
    changed = text.clone()
    changed[1] *= -1
    before = score_features(plain(), support, query, text).parts["visual"]
    after = score_features(plain(), support, query, changed).parts["visual"]
    assert torch.isclose(before, after, atol=1e-5).all((0, 1)).tolist() == [True, False, True, True]


@torch.no_grad()
def test_merging_before_or_after_is_the_same_for_one_shot(case):
    support, query, text = case
    for shots, same in ((support[:, :1], True), (support, False)):
        after = score_features(plain(), shots, query, text).total
        before = score_features(plain(merge_before=True), shots, query, text).total
        assert torch.allclose(after, before, atol=1e-5 if same else 1e-3) == same


@torch.no_grad()
def test_ends_of_the_ensemble_are_its_parts(case):
    for weight, mode in ((1.0, "text"), (0.0, "visual")):
        mixed = score_features(plain(mode="ensemble", text_weight=weight), *case).total
        assert torch.equal(mixed.argmax(-1), score_features(plain(mode=mode), *case).total.argmax(-1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({}, False),
        ({"mode": "text"}, True),
        ({"mode": "ensemble"}, False),
        ({"mode": "ensemble", "text_weight": 1.0}, True),
        ({"text_weight": 1.0}, False),  # the mode "visual" has no use for it
    ],
)
def test_supports_are_ignored_where_the_text_alone_predicts(case, settings, ignored):
    support, query, text = case
    method = plain(**settings)
    assert method.traits.ignores_supports is ignored
    first, other = (score_features(method, s, query, text).total for s in (support, support.flip(0)))
    assert torch.equal(first, other) is ignored


@torch.no_grad()
def test_equal_texts_leave_the_ensemble_to_the_frames(case):
    support, query, text = case
    same = text[:1].expand(4, -1)
    mixed = score_features(plain(mode="ensemble"), support, query, same)
    assert torch.equal(mixed.total.argmax(-1), mixed.parts["visual"].argmax(-1))


def test_loss_trains_encoder_block_and_scale():
    torch.manual_seed(0)
    backbone = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    method = CLIPFSAR(backbone, {"type": "OTAM"}, ffn_width=32)
    g = torch.Generator().manual_seed(0)
    train_text = torch.randn(7, 24, generator=g)
    method.prepare(train_text)
    pixels = torch.randint(0, 256, (9, 4, 3, 32, 32), dtype=torch.uint8, generator=g)
    batch = EpisodeBatch(
        support=pixels[:6].unflatten(0, (1, 3, 2)),
        query=pixels[6:][None],
        labels=torch.tensor([[0, 1, 2]]),
        classes=torch.tensor([[4, 0, 6]]),
        class_text=torch.randn(1, 3, 24, generator=g),
    )
    losses = method.loss(batch)
    sum(losses.values()).backward()
    without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert set(losses) == {"loss_metric", "loss_class"}
    assert without == []
    assert all(p.grad is None for n, p in backbone.clip.named_parameters() if not n.startswith("visual."))
    video, text = backbone.encode_frames(pixels).mean(1), train_text
    logits = (video / video.norm(dim=1, keepdim=True)) @ (
        text / text.norm(dim=1, keepdim=True)
    ).T  # the scale starts at 1
    log_p = logits.log_softmax(-1)
    by_hand = -sum(log_p[i, c] for i, c in enumerate([4, 4, 0, 0, 6, 6, 4, 0, 6])) / 9
    assert losses["loss_class"].item() == pytest.approx(1.5 * by_hand.item(), rel=1e-5)


def test_foreign_checkpoints_are_refused():
    with pytest.raises(ConfigError, match="it lacks backbone"):
        CLIPFSAR.from_official({"head.scale": torch.ones(1)})
    deep = {
        "head.scale": torch.ones(1),
        "head.backbone.x": torch.ones(1),
        "head.context2.layers.1.0.norm.weight": torch.ones(1),
    }
    with pytest.raises(ConfigError, match="more than one layer"):
        CLIPFSAR.from_official(deep)
