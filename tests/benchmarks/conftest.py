"""A synthetic bank and 10,000 episodes, the same for all benchmarks."""

from __future__ import annotations

import pytest
import torch

from fsar_bench.plan import ClipList, EpisodePlan
from tools.performance.floors import Sizes
from tools.performance.heads import CLASSES, CLIPS, Scene, names_of


@pytest.fixture(scope="session")
def scene() -> Scene:
    """The size of the field's test splits, CLIP ViT-B features."""
    return Scene.of(Sizes(), 10_000, torch.device("cpu"))


@pytest.fixture(scope="session")
def clip_list() -> ClipList:
    return names_of(CLASSES, CLIPS)


@pytest.fixture(scope="session")
def plan(scene) -> EpisodePlan:
    return scene.plan
