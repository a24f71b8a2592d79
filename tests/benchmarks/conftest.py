"""A synthetic bank and 10,000 episodes, the same for all benchmarks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsar_bench.engine.bank import FeatureBank
from fsar_bench.method import VideoFeatures
from fsar_bench.plan import ClipList, EpisodePlan

CLASSES, CLIPS, T, C = 24, 100, 8, 512  # the size of the field's test splits, CLIP ViT-B features


@pytest.fixture(scope="session")
def clip_list() -> ClipList:
    return ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(CLASSES) for i in range(CLIPS)])


@pytest.fixture(scope="session")
def plan(clip_list) -> EpisodePlan:
    return EpisodePlan.sample(clip_list, way=5, shot=1, query=1, episodes=10_000, seed=0, purpose="test")


@pytest.fixture(scope="session")
def class_text() -> torch.Tensor:
    return torch.randn(CLASSES, C, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def bank() -> FeatureBank:
    frames = torch.randn(CLASSES * CLIPS, T, C, generator=torch.Generator().manual_seed(0))
    features = VideoFeatures(frames=frames, modulated=frames, matched=frames, merged=frames, video=frames.mean(1))
    return FeatureBank(np.arange(len(frames)), features, features, 0.0)
