"""HyRSM: golden logits of both official forms, positions, independence of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import GivenFeatures, score_features

from fsar_bench.methods.hyrsm import HyRSM


def from_golden(arrays: dict) -> HyRSM:
    method = HyRSM(GivenFeatures(16), {"type": "BiMHM"}).eval()
    array = {key.removeprefix("hyrsm."): torch.from_numpy(value) for key, value in arrays.items()}
    q, k, v = array["temporal_atte_before.fn.to_qkv.weight"].chunk(3)
    method.within.load_state_dict(
        {
            "norm.weight": array["temporal_atte_before.norm.weight"],
            "norm.bias": array["temporal_atte_before.norm.bias"],
            "to_q.weight": q,
            "to_k.weight": k,
            "to_v.weight": v,
            "out.weight": array["temporal_atte_before.fn.to_out.0.weight"],
            "out.bias": array["temporal_atte_before.fn.to_out.0.bias"],
        }
    )
    names = {"to_q": "w_qs", "to_k": "w_ks", "to_v": "w_vs", "out": "fc", "norm": "layer_norm"}
    method.across.load_state_dict(
        {
            f"{ours}.{kind}": array[f"temporal_atte.{theirs}.{kind}"]
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
            if f"temporal_atte.{theirs}.{kind}" in array
        }
    )
    method.merge.load_state_dict({"weight": array["layer2.0.weight"][..., 0], "bias": array["layer2.0.bias"]})
    return method


@torch.no_grad()
@pytest.mark.parametrize("kind", ["5way1shot", "5way5shot"])
def test_golden_logits(golden, kind):
    arrays = golden[kind]
    order = np.argsort(arrays["support_labels"], kind="stable")
    support = torch.from_numpy(arrays["support"][order]).unflatten(0, (5, -1))
    total = score_features(from_golden(arrays), support, torch.from_numpy(arrays["query"])).total[0]
    assert np.allclose(total, arrays["hyrsm.logits"], rtol=1e-4, atol=0)


def test_golden_positions(golden):
    method = from_golden(golden["5way1shot"])
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
