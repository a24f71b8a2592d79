"""`launcher=ray` on real clusters of this machine: the bytes of local runs, also where nodes are lost; nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import annotation_rows, outputs, outputs_alone, tiny_cells, write_dataset

from fsar_bench.config.resolve import resolve
from fsar_bench.engine.host import cores
from fsar_bench.engine.launchers import drive
from fsar_bench.engine.locks import HOLDER
from fsar_bench.engine.sweep import in_order, run_isolated, sweep
from fsar_bench.errors import ConfigError
from fsar_bench.progress.events import WARNING

pytest.importorskip("ray")
MEASURED = ("train s", "encode videos/s", "score episodes/s", "memory GB")
TRAINED = ("train.episodes=240", "train.val_interval=240")


def below(pid: int) -> list[int]:
    """A process and all that it has started, by number."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for number in found:
        found += [child for child, parent in parents.items() if parent == number]
    return found


def process_of(cell, options) -> int:
    return json.loads((options.work_dir / cell.work_folder / HOLDER).read_text())["pid"]


def commands(pids: list[int]) -> list[str]:
    out = []
    for pid in pids:
        with contextlib.suppress(OSError):
            out.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return out


def is_ours(pid: int) -> bool:
    return any("ray" in command or "fsar" in command for command in commands([pid]))


def table_of(out: Path) -> list[list[str]]:
    """The rows of the only board of a folder, without what was measured with a clock."""
    lines = (out / "tiny-5way_1shot.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    measured = [place for place, name in enumerate(rows[0]) if name in MEASURED]
    assert len(measured) == len(MEASURED)
    return [[cell for place, cell in enumerate(row) if place not in measured] for row in rows]


class Nodes:
    """A cluster of three nodes with a core each, and a head without any."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets need a short one
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(self.folder)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(3)]

    def working(self, process: int | None = None) -> list:
        """Nodes on which a cell runs, or the one with this process: a fork server there has a child."""
        found = []
        for node in self.nodes:
            if process is not None and process not in below(self._pid(node)):
                continue
            servers = [
                pid for pid in below(self._pid(node)) if any("multiprocessing.forkserver" in c for c in commands([pid]))
            ]
            if any(len(below(server)) > 1 for server in servers):
                found.append(node)
        return found

    def kill(self, node) -> None:
        """As a machine that loses power: nothing of it ends in order."""
        for pid in below(self._pid(node)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    @staticmethod
    def _pid(node) -> int:
        return node.all_processes["raylet"][0].process.pid


@contextlib.contextmanager
def three_nodes(monkeypatch) -> Iterator[Nodes]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()
        shutil.rmtree(nodes.folder, ignore_errors=True)


@pytest.mark.long
def test_cells_on_a_cluster_that_is_started_for_them(tiny, tmp_path):
    cells, options = tiny_cells(tiny, tmp_path, "methods=otam_frozen", "launcher=ray")
    stages, slots, answers = [], [], signal.getsignal(signal.SIGTERM)
    (done,) = sweep(cells, options, run_isolated, lambda _: lambda event: stages.append(event.stage), slots.append)
    assert (done.state, done.error, slots) == ("done", None, [max(1, cores() // 2)])
    assert {"encoding", "scoring"} <= set(stages)
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == answers  # Ray has its own, and `fsar-bench` answers it in order
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.slow
def test_a_board_is_the_same_here_on_ray_and_on_slurm(tiny, tmp_path, command):
    """The command: six rows, trained and not; nothing of Ray is left in the home folder."""
    (home := tmp_path / "home").mkdir()
    pairs = (
        f"dataset={tiny}", "backbone=tiny_clip", "methods=otam,bi_mhm,ma_clip,otam_frozen,prototype_frozen,zero_shot",
        "episodes=100", "controls=false", "workers=1",
    )  # fmt: skip
    ends = {}
    for name, launcher in {"local": (), "ray": ("launcher=ray",), "slurm": ("launcher=slurm", "address=local")}.items():
        done = command("run", *pairs, f"out={name}", f"work_dir={name}_work", *launcher, HOME=str(home))
        assert (done.returncode, done.stderr) == (0, "")
        assert "[6/6] Zero-shot text on tiny, 5-way 1-shot: done in" in done.stdout
        ends[name] = (table_of(tmp_path / name), outputs(tmp_path / name))
    assert len(ends["local"][1]) == 12
    assert len(ends["local"][0]) == 2 + 6 + 1
    assert ends["ray"] == ends["local"]
    assert ends["slurm"] == ends["local"]
    assert not (home / ".ray").exists()


def test_ray_that_is_not_there_is_named(tiny, tmp_path):
    cells, options = tiny_cells(tiny, tmp_path, "methods=otam_frozen", "launcher=ray", "address=127.0.0.1:1")
    with pytest.raises(
        ConfigError,
        match=r"No Ray cluster answers at address=127.0.0.1:1 \(ConnectionRefused.*Start one with ray start",
    ):
        list(sweep(cells, options, run_isolated))


@pytest.mark.slow
@pytest.mark.parametrize("sees", [True, False], ids=["shared work_dir", "no shared folder"])
@pytest.mark.parametrize("stage", ["training", "scoring"])
def test_every_cell_finishes_though_a_node_is_lost(tiny, tmp_path, monkeypatch, stage, sees):
    """The bytes are those of a run alone; with a shared folder the training resumes where it was."""
    pairs = ("methods=otam,bi_mhm,otam_frozen", "shot=1,2", *TRAINED, "episodes=1500", "score_batch=1", "launcher=ray")
    if not sees:
        monkeypatch.setattr(drive, "write_atomically", lambda *_, **__: None)  # no mark is there to be seen
    with three_nodes(monkeypatch) as nodes:
        run = resolve([
            f"dataset={tiny}", "backbone=tiny_clip", "controls=false", "workers=1", "checkpoint_seconds=0",
            f"out={tmp_path / 'leaderboards'}", f"work_dir={tmp_path / 'work_dirs'}", f"address={nodes.cluster.address}", *pairs,
        ])  # fmt: skip
        cells, options = run.cells, run.options
        killed, told, warned = [], {}, []

        def listener_of(cell):
            def listen(event) -> None:
                told.setdefault(cell.hash, []).append(event)
                if event.stage == WARNING:
                    warned.append(event.note)
                if event.stage == stage and 4 < event.done < event.total and not killed:  # a checkpoint is there
                    killed.append(cell.hash)
                    nodes.kill(nodes.working(process_of(cell, options) if sees else None)[0])

            return listen

        slots = []
        done = in_order(list(sweep(cells, options, run_isolated, listener_of, slots.append)), cells)
    assert slots == [3]
    assert killed
    assert [(outcome.state, str(outcome.error)) for outcome in done] == [("done", "None")] * 6
    assert any("handed over again, attempt 2 of" in note for note in warned)
    assert outputs(options.out) == outputs_alone(cells, options, tmp_path)
    if sees and stage == "training":
        events = told[killed[0]]
        lost = next(number for number, event in enumerate(events) if event.stage == WARNING)
        again = [event.done for event in events[lost:] if event.stage == "training"]
        assert again[0] > 1, "the training began anew"
    trainings = list((tmp_path / "work_dirs").rglob("best.safetensors"))
    assert len(trainings) == (2 if sees else 0)


@pytest.mark.slow
def test_an_error_of_the_user_is_told_once_and_custom_modules_work_on_nodes(tiny, tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(
        "import os\nfrom fsar_bench.errors import DataError\nfrom fsar_bench.methods.zero_shot import ZeroShot\n"
        "from fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass Counting(ZeroShot):\n    pass\n\n"
        "@METHODS.register_module()\nclass Failing(ZeroShot):\n    def score(self, *_):\n"
        f"        with open({str(tmp_path / 'tries')!r}, 'a') as file: file.write('x')\n"
        "        raise DataError('it is the fault of the user')\n"
    )
    for name in ("Counting", "Failing"):
        (tmp_path / f"{name.lower()}_method.py").write_text(
            f'custom_imports = ["counting"]\nmethod = dict(type="{name}")\n'
        )
    methods = ",".join(str(tmp_path / f"{name}_method.py") for name in ("counting", "failing"))
    with three_nodes(monkeypatch) as nodes:
        cells, options = tiny_cells(
            tiny, tmp_path, f"methods={methods}", "launcher=ray", f"address={nodes.cluster.address}"
        )
        done, failed = in_order(list(sweep(cells, options, run_isolated)), cells)
    assert (done.state, failed.state) == ("done", "failed")
    assert "it is the fault of the user" in str(failed.error)
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path, command):
    """Neither processes nor a folder of the cluster that was started for the run; the same command resumes."""
    tiny = write_dataset(tmp_path / "tiny.py", annotation_rows())
    pairs = ("run", f"dataset={tiny}", "backbone=tiny_clip", "methods=otam", "controls=false", "launcher=ray")
    long = (*pairs, "train.episodes=100000", "train.val_interval=100000")
    process = command.start(*long)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if "training" in line and "/100000" in line:
            break
    started = below(process.pid)
    assert any("raylet" in line for line in commands(started)), seen
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "Interrupted. Run the same command again to resume." in err
    deadline = time.monotonic() + 20
    while any(map(is_ours, started)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not any(map(is_ours, started))
    assert [pid for pid in (process.pid, *started) if list(Path("/tmp").glob(f"fsar-bench-{pid}-*"))] == []


@pytest.mark.slow
def test_a_user_who_is_connected_stays_so(tiny, tmp_path):
    """A notebook that has started Ray itself: the run uses that cluster and leaves it open."""
    script = f"""
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
import fsar_bench
results = fsar_bench.run("otam_frozen", dataset={str(tiny)!r}, backbone="tiny_clip", episodes=100, controls=False, isolate=True,
                         progress=False, launcher="ray", ray={{"num_cpus": 1}})
print(len(results), ray.is_initialized())
"""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1:] == ["1 True"], done.stderr
