"""HyRSM: golden logits of both official forms, positions, independence of queries."""

from __future__ import annotations

import numpy as np
import torch
from golden_arrays import Arrays, assert_close, assert_gradients_close, episode, golden, scores, under
from helpers import AsGiven, GivenFeatures, score_features

from fsar_bench.methods.hyrsm import HyRSM

WITHIN = {"norm.weight": "norm.weight", "norm.bias": "norm.bias", "out.weight": "fn.to_out.0.weight",
          "out.bias": "fn.to_out.0.bias"}  # fmt: skip
ACROSS = {"to_q": "w_qs", "to_k": "w_ks", "to_v": "w_vs", "out": "fc", "norm": "layer_norm"}


def to_official(tensors: Arrays) -> Arrays:
    """Tensors by our names (weights, or their gradients) by the official ones."""
    official = {
        "temporal_atte_before.fn.to_qkv.weight": torch.cat([tensors[f"within.to_{x}.weight"] for x in "qkv"]),
        "layer2.0.weight": tensors["merge.weight"][..., None],
        "layer2.0.bias": tensors["merge.bias"],
    }
    official |= {f"temporal_atte_before.{theirs}": tensors[f"within.{ours}"] for ours, theirs in WITHIN.items()}
    for ours, theirs in ACROSS.items():
        for name, tensor in under(tensors, f"across.{ours}.").items():
            official[f"temporal_atte.{theirs}.{name}"] = tensor
    return official | {f"classification_layer.{k}": v for k, v in under(tensors, "classifier.").items()}


def from_golden(arrays: Arrays) -> HyRSM:
    """The official model on its features."""
    scales = {"input_scale": float(arrays["A"]), "position_scale": float(arrays["B"])}
    method = HyRSM(AsGiven(arrays["query"].shape[-1]), {"type": "BiMHM"}, **scales).eval()
    method.prepare(torch.zeros(len(arrays["classification_layer.weight"]), 0))
    q, k, v = arrays["temporal_atte_before.fn.to_qkv.weight"].chunk(3)
    state = {"within.to_q.weight": q, "within.to_k.weight": k, "within.to_v.weight": v}
    state |= {f"within.{ours}": arrays[f"temporal_atte_before.{theirs}"] for ours, theirs in WITHIN.items()}
    for ours, theirs in ACROSS.items():
        state |= {f"across.{ours}.{kind}": x for kind, x in under(arrays, f"temporal_atte.{theirs}.").items()}
    state |= {"merge.weight": arrays["layer2.0.weight"][..., 0], "merge.bias": arrays["layer2.0.bias"]}
    method.load_state_dict(state | {f"classifier.{k}": v for k, v in under(arrays, "classification_layer.").items()})
    return method


@golden("hyrsm")
def test_golden_logits_losses_and_gradients(arrays):
    """The official code has one class for 1 shot and one for 5; ours is both."""
    forms = under(arrays, "logits.")
    assert forms
    for form, expected in forms.items():
        method = from_golden(arrays)
        assert_close(scores(method, episode(arrays)).total[0], expected)
        losses = method.loss(episode(arrays))
        assert_close(losses["loss_metric"], arrays[f"loss_metric.{form}"])
        assert_close(losses["loss_class"] / method.class_weight, arrays[f"loss_class_unweighted.{form}"])
        (losses["loss_metric"] + losses["loss_class"]).backward()
        gradients = to_official({name: parameter.grad for name, parameter in method.named_parameters()})
        assert_gradients_close(gradients, under(arrays, f"{form}.grad."))


def test_golden_positions(golden):
    method = HyRSM(GivenFeatures(16), {"type": "BiMHM"}).eval()
    positions = method.positions(torch.zeros(1, 20, 16))
    assert np.allclose(positions, golden["5way1shot"]["hyrsm.pe.pe"], atol=1e-6)


@torch.no_grad()
def test_every_query_has_prototypes_of_its_own():
    torch.manual_seed(0)
    method = HyRSM(GivenFeatures(16), {"type": "BiMHM"}).double().eval()
    support, query = torch.randn(4, 2, 8, 16).double(), torch.randn(3, 8, 16).double()
    together = score_features(method, support, query).total
    alone = torch.cat([score_features(method, support, query[i : i + 1]).total for i in range(3)], 1)
    assert torch.allclose(together, alone)
    other = query.clone()
    other[0] = support[0, 0]
    assert torch.allclose(score_features(method, support, other).total[:, 1:], together[:, 1:])


def test_classifier_has_a_row_for_every_training_class():
    method = HyRSM(GivenFeatures(16), {"type": "OTAM"})
    method.prepare(torch.zeros(7, 0))
    assert method.classifier.weight.shape == (7, 16)
