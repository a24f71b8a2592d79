"""Augmentation of training clips: what crops and changes of colours cost, and reading clips kept whole or anew."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fsar_bench.data.augment import Augmentation
from fsar_bench.data.dataset import Clip
from fsar_bench.data.decode import ReadPlan, Request
from fsar_bench.data.frames import FrameSource

KINDS = {
    "random crop": Augmentation("random", flip=0.5),
    "resized crop": Augmentation("resized", flip=0.5),
    "random crop and colours": Augmentation("random", flip=0.5, jitter=0.5, grayscale=0.3),
}


@pytest.mark.benchmark(group="augmenting 8 frames of 340 x 256")
@pytest.mark.parametrize("kind", KINDS)
def test_augmenting(benchmark, kind):
    frames = np.random.default_rng(0).integers(0, 256, (8, 256, 340, 3), dtype=np.uint8)
    assert benchmark(KINDS[kind].apply, frames, 224, (0, 1)).shape == (8, 224, 224, 3)


@pytest.mark.benchmark(group="reading 12 clips of 48 frames, random crops")
@pytest.mark.parametrize("whole_up_to", [0, 64], ids=["anew", "kept whole"])
def test_reading(benchmark, tmp_path, monkeypatch, whole_up_to):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8), (340, 256))
    clips = []
    for number in range(12):
        path = tmp_path / f"{number}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (340, 256))
        for t in range(48):
            writer.write(np.roll(picture, 3 * t + number, 1))
        writer.release()
        clips.append(Clip(str(number), "c", path))
    requests = [Request(clip, (0, place), KINDS["random crop"]) for place, clip in enumerate(clips)]
    with FrameSource(ReadPlan("pyav", 256, 224, 8, whole_up_to=whole_up_to), workers=1, seconds=60) as source:
        source.read(requests)
        assert benchmark(source.read, requests).shape == (12, 8, 224, 224, 3)
