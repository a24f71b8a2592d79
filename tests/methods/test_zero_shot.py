"""Zero-shot text: independent of supports, and by hand."""

from __future__ import annotations

import torch
from torch import nn

from fsar_bench.method import VideoFeatures
from fsar_bench.methods.zero_shot import ZeroShot


@torch.no_grad()
def test_by_hand_and_blind_to_supports():
    method = ZeroShot(nn.Identity(), temperature=100.0)
    query = VideoFeatures(frames=torch.tensor([[[[2.0, 0.0], [0.0, 5.0]]]]))
    text = torch.tensor([[[1.0, 0.0], [3.0, 3.0]]])
    outcomes = [method.score(VideoFeatures(frames=torch.randn(1, 2, K, 2, 2)), query, text).total for K in (1, 5)]
    assert torch.equal(*outcomes)
    assert method.traits.ignores_supports
    assert torch.allclose(outcomes[0], torch.tensor([[[100 * 0.5**0.5, 100.0]]]), atol=1e-4)
