"""Contents of clips: hashing new clips beside `sha256sum` with two processes, and looking known ones up beside `stat`.

The clips are in the page cache. `FSAR_BENCH_HASHED_GB` sets how much is hashed (0.2).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from fsar_bench.data import contents
from fsar_bench.data.contents import contents_of
from fsar_bench.data.dataset import Clip

SIZE = 1_000_000  # bytes of a clip
COUNT = round(float(os.environ.get("FSAR_BENCH_HASHED_GB", "0.2")) * 1e9 / SIZE)
KNOWN = 100_000


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    data = np.random.default_rng(0).bytes(8 * SIZE)
    for number in range(COUNT):
        start = number * 997 % (7 * SIZE)
        (folder / f"{number}.mp4").write_bytes(data[start : start + SIZE])
    yield [Clip(path.name, "c", path) for path in folder.iterdir()]
    shutil.rmtree(folder)


@pytest.mark.benchmark(group=f"hashing {COUNT * SIZE / 1e9:g} GB of clips")
@pytest.mark.parametrize("how", ["contents", "sha256sum"])
def test_hashing(benchmark, clips, tmp_path, monkeypatch, how):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(contents, "THREADS", 2)
    names = "\n".join(str(clip.path) for clip in clips)

    def ours() -> int:
        contents._shard.cache_clear()
        shutil.rmtree(tmp_path, ignore_errors=True)
        return len(contents_of([Clip(clip.id, "c", clip.path) for clip in clips]))

    def theirs() -> int:
        command = ["xargs", "-P2", "-n", "64", "sha256sum"]
        return subprocess.run(command, input=names, capture_output=True, text=True, check=True).stdout.count("\n")

    done = benchmark.pedantic({"contents": ours, "sha256sum": theirs}[how], rounds=3)
    benchmark.extra_info["gb_per_second"] = round(COUNT * SIZE / 1e9 / benchmark.stats.stats.min, 2)
    assert done == COUNT


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    for number in range(KNOWN):
        (folder / f"{number}.webm").write_bytes(b"%d" % number)
    yield [folder / f"{number}.webm" for number in range(KNOWN)]
    shutil.rmtree(folder)


@pytest.mark.benchmark(group=f"{KNOWN:,} known clips")
@pytest.mark.parametrize("how", ["contents", "stat"])
def test_known_clips(benchmark, known, tmp_path, monkeypatch, how):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(contents, "time", lambda: time.time() + 60)  # the files have settled

    def clips() -> list[Clip]:
        return [Clip(path.name, "c", path) for path in known]

    if how == "contents":
        contents_of(clips())

    def look_up() -> int:
        contents._shard.cache_clear()  # as a new process
        return len(contents_of(clips(), lambda *_: pytest.fail("nothing is hashed")))

    steps = {"contents": look_up, "stat": lambda: len([os.stat(path) for path in known])}
    assert benchmark.pedantic(steps[how], rounds=3) == KNOWN
