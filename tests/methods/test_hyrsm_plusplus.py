"""HyRSM++: golden logits and temporal losses, closed forms of the loss, HyRSM where its weight is 0."""

from __future__ import annotations

import pytest
import torch
from golden_arrays import Arrays, assert_close, golden
from helpers import GivenFeatures, score_features
from torch import Tensor

from fsar_bench.config.resolve import resolve
from fsar_bench.method import EpisodeBatch, VideoFeatures
from fsar_bench.methods.hyrsm import HyRSM, coherence_loss, coherence_target

FULL, SMALL = (1, 51.0, 10.0), (3, 23.0, 10.0)


def from_golden(arrays: Arrays) -> HyRSM:
    method = HyRSM(GivenFeatures(arrays["support"].shape[-1]), {"type": "BiMHM"}).eval()
    method.prepare(torch.zeros(len(arrays["w.classification_layer.weight"]), 0))
    q, k, v = arrays["w.temporal_atte_before.fn.to_qkv.weight"].chunk(3)
    names = {
        "within.norm": "temporal_atte_before.norm",
        "within.out": "temporal_atte_before.fn.to_out.0",
        "across.to_q": "temporal_atte.w_qs",
        "across.to_k": "temporal_atte.w_ks",
        "across.to_v": "temporal_atte.w_vs",
        "across.out": "temporal_atte.fc",
        "across.norm": "temporal_atte.layer_norm",
        "merge": "layer2.0",
        "classifier": "classification_layer",
    }
    state = {
        f"{ours}.{kind}": arrays[f"w.{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
        if f"w.{theirs}.{kind}" in arrays
    }
    state["merge.weight"] = state["merge.weight"][..., 0]
    method.load_state_dict(state | {"within.to_q.weight": q, "within.to_k.weight": k, "within.to_v.weight": v})
    return method


@golden("hyrsm_plusplus")
@torch.no_grad()
def test_golden_logits_and_temporal_losses(arrays: Arrays):
    method, support, query = from_golden(arrays), arrays["support"], arrays["query"]
    assert_close(score_features(method, support, query).total[0], arrays["logits"], relative=1e-5)
    related = method.relate(torch.cat([support.flatten(0, 1), query]))
    assert_close(method.classifier(related).flatten(0, 1), arrays["class_logits"], relative=1e-5)

    encoded = method._encode(related)
    N, K, T = support.shape[:3]
    queries, prototypes = method.place_in_task(
        encoded[: N * K].view(1, N, K), VideoFeatures(**{name: t[N * K :][None] for name, t in encoded.items()})
    )
    settings = [name for name in arrays if name.startswith("setting_")]
    assert settings
    for name in settings:
        number = name.removeprefix("setting_")
        window, balance, far_weight = arrays[name].tolist()
        target = coherence_target(T, int(window), balance, like=support)
        assert_close(target, arrays[f"weights_{number}"], relative=1e-6)
        ours = sum(coherence_loss(frames, int(window), balance, far_weight) for frames in (prototypes, queries))
        assert_close(ours, arrays[f"temporal_loss_{number}"], relative=1e-5)


@pytest.mark.parametrize(
    ("setting", "orthonormal", "constant"), [(FULL, 0.109375, 1.009355), (SMALL, 0.1625, 0.561868)]
)
def test_closed_forms_of_the_loss(setting, orthonormal, constant):
    frames = torch.eye(8, 16).double()
    assert float(coherence_loss(frames, *setting)) == pytest.approx(orthonormal, abs=1e-9)
    assert float(coherence_loss(torch.ones(3, 8, 4).double(), *setting)) == pytest.approx(constant, abs=1e-6)


def test_loss_is_not_negative_and_blind_to_the_direction_of_time():
    torch.manual_seed(0)
    frames = torch.randn(20, 8, 6).double()
    for setting in (FULL, SMALL):
        each = torch.stack([coherence_loss(video, *setting) for video in frames])
        assert (each >= 0).all()
        backwards = torch.stack([coherence_loss(video.flip(0), *setting) for video in frames])
        assert torch.allclose(each, backwards, rtol=1e-12)
        shuffled = torch.stack([coherence_loss(video[[3, 0, 6, 1, 7, 2, 5, 4]], *setting) for video in frames])
        assert not torch.allclose(each, shuffled, rtol=1e-3)


class Frames(GivenFeatures):
    """A backbone whose features are the first pixels of the frames."""

    def encode_frames(self, frames: Tensor) -> Tensor:
        return frames.flatten(2)[..., : self.embedding_width].float() / 255


def losses(**settings: float) -> tuple[dict[str, Tensor], HyRSM]:
    torch.manual_seed(0)
    method = HyRSM(Frames(16), {"type": "BiMHM"}, **settings).eval()
    method.prepare(torch.zeros(5, 0))
    pixels = torch.randint(0, 256, (1, 3 * 2 + 3, 8, 3, 4, 4), dtype=torch.uint8)
    labels, classes = torch.tensor([[0, 1, 2]]), torch.tensor([[4, 1, 0]])
    support, query = pixels[:, :6].unflatten(1, (3, 2)), pixels[:, 6:]
    return method.loss(EpisodeBatch(support, query, labels, classes, torch.zeros(1, 3, 0))), method


def test_without_a_weight_it_is_hyrsm():
    plain, method = losses()
    with_coherence, more = losses(temporal_weight=0.3, temporal_window=3, temporal_balance=23.0)
    assert set(plain) == {"loss_metric", "loss_class"}
    assert set(with_coherence) == {*plain, "loss_temporal"}
    assert all(torch.equal(plain[name], with_coherence[name]) for name in plain)
    assert with_coherence["loss_temporal"] > 0
    assert method.state_dict().keys() == more.state_dict().keys()  # no parameter of its own


def test_settings_per_dataset_and_no_new_key_for_hyrsm():
    def method_of(name: str, dataset: str) -> dict:
        return resolve([f"methods={name}", f"dataset={dataset}", "controls=false"]).cells[0].identity.method

    assert not [key for key in method_of("hyrsm", "synthact") if key.startswith("temporal")]
    assert method_of("hyrsm_plusplus", "synthact")["heads"] == method_of("hyrsm", "synthact")["heads"]
    assert method_of("hyrsm_plusplus", "hmdb51")["temporal_far_weight"] == 20.0
    assert method_of("hyrsm_plusplus", "ssv2_full")["temporal_window"] == 1
