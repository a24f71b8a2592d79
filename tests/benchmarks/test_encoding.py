"""Encoding: the plain tower beside MA-CLIP's two modes, on 32 clips of the built-in size; and drawing a plan."""

from __future__ import annotations

import pytest
import torch

from fsar_bench.methods.ma_clip import MACLIP
from fsar_bench.plan import EpisodePlan


@pytest.mark.benchmark(group="encoding 32 clips")
@pytest.mark.parametrize("what", ["plain", "ma_clip query", "ma_clip support"])
def test_encoding(benchmark, backbone, what):
    frames = torch.randint(0, 256, (32, 8, 3, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    method = MACLIP(backbone, {"type": "OTAM"}, ffn_width=64).eval()
    text = torch.randn(32, 128) if what == "ma_clip support" else None
    with torch.inference_mode():
        if what == "plain":
            out = benchmark(backbone.encode_frames, frames)
        else:
            out = benchmark(lambda: method.encode(method.embed(frames, text), text)).matched
    assert torch.isfinite(out).all()


@pytest.mark.benchmark(group="plan of 10,000 episodes")
def test_drawing_a_plan(benchmark, plan, clip_list):
    how = {"way": 5, "shot": 1, "query": 1, "episodes": 10_000, "seed": 0, "purpose": "test"}
    drawn = benchmark(EpisodePlan.sample, clip_list, **how)
    assert drawn.digest == plan.digest
