"""Reading what is cached, sealed, beside numpy and safetensors on the same bytes without a check.

`python -m pytest tests/benchmarks/test_cached_reading.py --benchmark-only -n 0`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fsar_bench.engine import bank
from fsar_bench.method import VideoFeatures
from fsar_bench.storage import arrays

FRAMES = {
    "8 frames of 224 x 224": ((8, 224, 224, 3), range(8)),
    "8 of 48 frames of 256 x 340": ((48, 256, 340, 3), range(0, 48, 6)),
}
HOW = ("numpy, mapped", "sealed, first time", "sealed, again")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, list[Path]]:
    """32 cached clips of each kind."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    paths: dict[str, list[Path]] = {}
    for kind, (shape, _) in FRAMES.items():
        array = rng.integers(0, 256, shape, dtype=np.uint8)
        paths[kind] = [folder / f"{len(paths)}_{number}.npy" for number in range(32)]
        for path in paths[kind]:
            with path.open("wb") as file:
                arrays.write_array(file, array, path.name)
    return paths


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("how", HOW)
def test_frames(benchmark, clips, kind, how):
    benchmark.group = f"32 cached clips, {kind}"
    shape, rows = FRAMES[kind]
    out = np.empty((8, *shape[1:]), np.uint8)

    def read() -> None:
        if how == HOW[1]:
            arrays._verified.clear()
        for path in clips[kind]:
            if how == HOW[0]:
                out[:] = np.load(path, mmap_mode="r")[list(rows)]
            else:
                out[:] = arrays.read_array(path, path.name, lambda _: list(rows))

    benchmark.pedantic(read, rounds=5, warmup_rounds=1)
    assert out.any()


@pytest.mark.benchmark(group="a chunk of 32 encoded clips, 8 frames of 50 x 512")
@pytest.mark.parametrize("how", ["safetensors", "sealed"])
def test_features(benchmark, tmp_path, how):
    features = VideoFeatures(frames=torch.randn(32, 8, 50, 512, generator=torch.Generator().manual_seed(0)))
    path = tmp_path / "chunk.safetensors"
    bank._save(path, bank._Timed(features, 1.0), "key")
    read = {
        "safetensors": lambda: load_file(path)["frames"].clone(),
        "sealed": lambda: bank._load(path, "key", 32, torch.device("cpu")).features.frames,
    }[how]
    assert torch.equal(benchmark.pedantic(read, rounds=10, warmup_rounds=1), features.frames)


@pytest.mark.benchmark(group="digest of 16 MiB")
@pytest.mark.parametrize("how", [hashlib.sha256, hashlib.blake2b, crc32], ids=lambda how: how.__name__)
def test_digests(benchmark, how):
    data = np.random.default_rng(0).integers(0, 256, 1 << 24, dtype=np.uint8).tobytes()
    benchmark.pedantic(how, (data,), rounds=10, warmup_rounds=1)
