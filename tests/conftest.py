"""Shared fixtures: a private cache, a tiny backbone, a tiny dataset of shipped clips, and the command as a user runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

# Tensors are tiny here: threads only wait for each other, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test may reach a network

import pytest
from helpers import Command, annotation_rows, write_dataset

TESTS = Path(__file__).parent


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, as tests wait for other processes a quarter of their time."""
    from fsar_bench.engine.host import cores

    return cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: the last to start decides when a run on several workers ends."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One cache folder for the whole session, so that clips are decoded once."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["FSAR_BENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _private_cache(cache) -> None:
    """Every test uses the private cache."""


@pytest.fixture
def arrays(request) -> dict:
    """The arrays of a golden file; see `golden_arrays.golden`."""
    from golden_arrays import read

    return read(request.param)


@pytest.fixture(scope="session")
def backbone():
    """The built-in backbone with random weights (fixed), not to be changed by tests."""
    import torch

    from fsar_bench.backbones import CLIPBackbone

    torch.manual_seed(0)
    return CLIPBackbone("synthact_clip", None, quick_gelu=False, resize=60, crop=60).eval()


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Config of a tiny dataset: 6 classes a split, 7 clips a class; training takes seconds."""
    return write_dataset(tmp_path / "tiny.py", annotation_rows())


@pytest.fixture
def run_tiny(tiny, tmp_path):
    """`fsar_bench.run` in this process on the tiny dataset and the tiny CLIP, with its folders in `tmp_path`."""
    import fsar_bench

    def run(methods: str | list[str], **settings):
        defaults = {
            "dataset": tiny, "backbone": "tiny_clip", "episodes": 100, "workers": 1, "progress": False,
            "out": tmp_path / "leaderboards", "work_dir": tmp_path / "work_dirs",
        }  # fmt: skip
        return fsar_bench.run(methods, **{**defaults, **settings})

    return run


class Done(NamedTuple):
    """How a command in this process ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def fsar(monkeypatch, capsys, tmp_path):
    """The command line in this process, in `tmp_path`; cells run in processes from one fork server."""
    from fsar_bench.cli.main import main

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["fsar-bench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def command(tmp_path, cache) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="session")
def golden() -> dict:
    """Arrays of reference implementations by episode kind; see tests/golden/README.md."""
    import numpy as np

    return {name: dict(np.load(TESTS / "golden" / f"{name}.npz")) for name in ("5way1shot", "5way5shot")}
