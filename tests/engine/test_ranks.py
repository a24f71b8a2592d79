"""Ranks of a training: the bytes of one rank, deaths that are told, and nothing that is left behind."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from helpers import children, outputs
from torch.utils._pytree import tree_leaves

from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine import jobs
from fsar_bench.engine.checkpoint import load_last
from fsar_bench.engine.device import check_devices, device_of_rank
from fsar_bench.engine.jobs import job_options, share_cores, threads_of_rank
from fsar_bench.engine.preflight import preflight
from fsar_bench.engine.run import run_cell
from fsar_bench.engine.sweep import run_isolated
from fsar_bench.errors import CellCrashedError, ConfigError
from fsar_bench.progress.events import CACHED, Event, Listener, silent

UPDATES = ("train.accumulate=3", "train.val_interval=6")  # of 8 episodes: 3, 3 and 2
PLATEAU = (  # needs the val accuracy in every rank
    'train.scheduler={"type": "ReduceOnPlateauLR", "monitor": "query/accuracy", "rule": "greater", "patience": 0, '
    '"factor": 0.1, "by_epoch": true}'
)


def cell_of(tiny, folder: Path, devices: int, *pairs: str):
    backbone = () if any(pair.startswith("backbone=") for pair in pairs) else ("backbone=tiny_clip",)
    run = resolve(
        [
            f"dataset={tiny}", "controls=false", "episodes=200", "workers=1", "checkpoint_seconds=0",
            f"out={folder / 'out'}", f"work_dir={folder / 'work'}", f"devices={devices}", *backbone, *pairs,
        ]
    )  # fmt: skip
    (cell,) = run.cells
    return cell, run.options


def train(tiny, folder: Path, devices: int, *pairs: str, listener: Listener = silent) -> dict[str, bytes]:
    """Bytes of what a run on some ranks leaves, by file; of the last training state what does not tell time."""
    stored = run_cell(*cell_of(tiny, folder, devices, *pairs), listener)
    paths = {
        name: next((folder / "work").rglob(name)) for name in ("best.safetensors", "loss.csv", "curve.csv", "last.pt")
    }
    trained = {name: path.read_bytes() for name, path in paths.items()}
    state = load_last(paths["last.pt"], stored.result.training_key)
    del state["seconds"], state["speed"]
    leaves = [leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(state)]
    return {**trained, "last.pt": pickle.dumps(leaves), **outputs(folder / "out")}


def ranks_since(before: Sequence[BaseProcess]) -> list[int]:
    """Ranks that this process started; its decode processes are daemons."""
    return [child.pid for child in children(before) if not child.daemon]


def test_two_ranks_train_the_bytes_of_one(tiny, tmp_path):
    """An update of 3 episodes leaves one rank without an episode in its second round; the last update has 2 episodes."""
    before = children()
    alone = train(tiny, tmp_path / "1", 1, "methods=otam", *UPDATES)
    assert len(alone) == 6
    assert len(alone["last.pt"]) > 100_000  # weights and both moments of the optimiser
    heard: list[Event] = []
    assert train(tiny, tmp_path / "2", 2, "methods=otam", *UPDATES, listener=heard.append) == alone
    assert [event.done for event in heard if event.stage == "training"] == list(range(1, 9))
    encoded = [event.done for event in heard if event.stage == "validation: encoding"]
    assert encoded == [0, 32, 42] * 3  # clips of all ranks
    tested = [event for event in heard if event.stage == "encoding"]
    assert [(event.done, event.note) for event in tested] == [(42, ""), (0, ""), (32, CACHED), (42, CACHED)]
    assert ranks_since(before) == []
    (log,) = (tmp_path / "2" / "work").rglob("log.rank1.txt")
    assert "Traceback" not in log.read_text()
    (state,) = (tmp_path / "2" / "work").rglob("last.pt")
    config = state.with_name("config.py").read_text()
    assert config.startswith('"""The training of')
    assert "launcher" not in config


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("methods=molo",),  # its decoder has batch norm
        ("methods=trx", "backbone=BATCH_NORM"),
        ("methods=otam", PLATEAU),
    ],
)
def test_more_ranks_train_the_bytes_of_one(tiny, tmp_path, settings):
    """Three and four ranks for updates of 4, 4 and 2 episodes."""
    config = (Path(str(files("fsar_bench.configs"))) / "backbones" / "tiny_resnet.py").read_text()
    assert "train_batch_norm=False" in config
    (tmp_path / "moving.py").write_text(config.replace("train_batch_norm=False", "train_batch_norm=True"))
    settings = [text.replace("BATCH_NORM", str(tmp_path / "moving.py")) for text in settings]
    settings += ["train.accumulate=4", "train.episodes=10", "train.val_interval=4"]
    alone = train(tiny, tmp_path / "1", 1, *settings)
    assert [train(tiny, tmp_path / str(ranks), ranks, *settings) == alone for ranks in (3, 4)] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_rank_is_named_and_the_training_resumes_to_the_same_bytes(tiny, tmp_path, ranks):
    settings = ("methods=otam", "train.accumulate=2", "train.episodes=12")
    before = children()

    def kill(event: Event) -> None:
        if event.stage == "training" and event.done == 9:
            assert len(ranks_since(before)) == 2
            os.kill(max(ranks_since(before)), signal.SIGKILL)

    with pytest.raises(CellCrashedError, match=r"Rank [01] of the 2 ranks of the training ended early \(exit code -9"):
        train(tiny, tmp_path / "2", 2, *settings, listener=kill)
    assert ranks_since(before) == []
    heard: list[Event] = []
    resumed = train(tiny, tmp_path / "2", ranks, *settings, listener=heard.append)
    assert next(event.done for event in heard if event.stage == "training") > 4
    assert resumed == train(tiny, tmp_path / "1", 1, *settings)


def children_of(process: int) -> set[int]:
    """Processes that a process started, and what those started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended
            continue
    found, added = set(), {process}
    while added:
        found |= added
        added = {child for child, parent in parents.items() if parent in added} - found
    return found - {process}


def is_running(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_ranks_end_with_the_killed_process_of_their_cell(tiny, tmp_path):
    cell, options = cell_of(tiny, tmp_path, 2, "methods=otam", "train.episodes=40000", "train.val_interval=40000")
    before, family = children(), set[int]()

    def kill(event: Event) -> None:
        if event.stage == "training" and event.done == 5:
            (child,) = children(before)
            family.update(children_of(child.pid))
            child.kill()

    with pytest.raises(CellCrashedError, match="exit code -9"):
        run_isolated(cell, options, kill)
    assert len(family) >= 3  # a fork server and two ranks
    end = time.monotonic() + 20
    while any(map(is_running, family)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(is_running, family))


def test_more_ranks_than_episodes_of_an_update_are_refused(tiny, tmp_path):
    cell, options = cell_of(tiny, tmp_path, 4, "methods=otam")
    with pytest.raises(ConfigError, match=r"devices=4 is more than train\.accumulate=2.*Use devices=2 or less\."):
        preflight([cell], options, isolate=False)
    cell, options = cell_of(tiny, tmp_path, 4, "methods=otam_frozen")
    assert preflight([cell], options, isolate=False).sound == [cell]  # nothing is trained


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_devices("cuda", 4)
    check_devices("cuda:2", 2)
    with pytest.raises(ConfigError, match=r"devices=5 from device='auto' on: this machine has 4 .* Use devices=4"):
        check_devices("auto", 5)
    with pytest.raises(ConfigError, match=r"devices=2 from device='cuda:3' on: this machine has 4 .* Use devices=1"):
        check_devices("cuda:3", 2)
    check_devices("cpu", 64)
    assert str(device_of_rank(torch.device("cuda:2"), 1)) == "cuda:3"
    assert str(device_of_rank(torch.device("cuda"), 0)) == "cuda:0"
    assert str(device_of_rank(torch.device("cpu"), 3)) == "cpu"


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "ranks", "devices"),
    [
        ("auto", 8, "auto", 2, ["cuda:0", "cuda:2", "cuda:4", "cuda:6"]),
        ("auto", 8, 2, 4, ["cuda:0", "cuda:4"]),
        ("auto", 3, "auto", 2, ["auto"]),
        ("auto", 4, 3, 2, "jobs=3 times devices=2 is more than the GPUs: the 4 that are here"),
        ("cuda:1", 4, 2, 2, "jobs=2 times devices=2 is more than the GPUs: the one that device=cuda:1 names"),
        ("cpu", 4, 3, 2, ["cpu"] * 3),
        ("auto", 0, "auto", 2, ["auto"] * 4),
    ],
)
def test_devices_of_jobs_with_several_ranks(monkeypatch, device, gpus, asked, ranks, devices):
    monkeypatch.setattr(jobs, "count_gpus", lambda: gpus)
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.setattr(jobs, "free_host_memory", lambda: 100e9)
    options = RunOptions(device=device, jobs=asked, devices=ranks)
    if isinstance(devices, str):
        with pytest.raises(ConfigError, match=devices):
            job_options(options, 9)
    else:
        assert [of_job.device for of_job in job_options(options, 9)] == devices


def test_ranks_share_the_threads_unless_the_user_has_set_them(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert threads_of_rank(RunOptions(devices=3)) == 2
        monkeypatch.setattr(jobs, "_chosen", 0)
        share_cores(2)
        assert threads_of_rank(RunOptions(jobs=2, devices=2)) == 2  # 4 are those of the cell's own process
        assert threads_of_rank(RunOptions(jobs=2, devices=9)) == 1
        monkeypatch.setattr(jobs, "_chosen", 0)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert threads_of_rank(RunOptions(devices=4)) is None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", ["0", "1025", "two", "1.5"])
def test_a_wrong_number_of_ranks_is_named(tiny, tmp_path, value):
    with pytest.raises(ConfigError, match=f"devices='?{value}"):
        cell_of(tiny, tmp_path, value, "methods=otam")


def test_ranks_with_micro_batches_train_the_bytes_of_one_rank_with_them(tiny, tmp_path):
    """An episode's gradient is gathered over its micro-batches before ranks add it to those of other episodes."""
    pairs = ("methods=clip_fsar", "fit=8MB", *UPDATES)
    alone = train(tiny, tmp_path / "1", 1, *pairs)
    assert "fit=8MB: estimated peak of a training step" in next((tmp_path / "1" / "work").rglob("*.log")).read_text()
    assert train(tiny, tmp_path / "2", 2, *pairs) == alone
