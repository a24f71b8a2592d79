"""All or nothing: whatever fails while files are written, nothing half is left; errors name the folder."""

from __future__ import annotations

import errno
import io as streams
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stores import make_plan, predictions, store

from fsar_bench import io
from fsar_bench.errors import ResultError
from fsar_bench.leaderboard import merge
from fsar_bench.leaderboard.files import read_boards, write_tables
from fsar_bench.leaderboard.merge import merge_results
from fsar_bench.results.store import read, read_all, write
from fsar_bench.writing import batch, temporary
from fsar_bench.writing import streams as logs
from fsar_bench.writing.faults import explanation


def tree(root: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


class FullDisk:
    """A disk on which the call number `k` of one kind fails, and calls before and after it succeed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.k, self.calls = -1, 0
        write, replace = batch._Noting.write, os.replace
        monkeypatch.setattr(batch._Noting, "write", lambda raw, data: self._pass("write") or write(raw, data))
        monkeypatch.setattr(os, "replace", lambda *paths: self._pass("rename") or replace(*paths))

    def fail_at(self, kind: str, k: int) -> None:
        self.kind, self.k, self.calls = kind, k, 0

    def _pass(self, kind: str) -> None:
        if self.k >= 0 and kind == self.kind:
            self.calls += 1
            if self.calls == self.k + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def no_tables(monkeypatch) -> None:
    """Merges without the trial of all tables, which is most of their time."""
    monkeypatch.setattr(merge, "_try_tables", lambda *_: None)


@pytest.fixture
def disk(monkeypatch) -> FullDisk:
    return FullDisk(monkeypatch)


def each_failure(disk: FullDisk, kind: str, action):
    """Let each write or rename of an action fail in turn; the caller looks at what is left after each."""
    for k in range(1000):
        disk.fail_at(kind, k)
        try:
            action()
        except ResultError as error:
            disk.k = -1
            yield str(error)
        else:
            assert k > 1, "the action writes several files"
            disk.k = -1
            return


def make_store(root: Path) -> Path:
    plan, later = make_plan(episodes=10), make_plan(episodes=10, shot=2)
    for number, (name, of) in enumerate((("strong", plan), ("close", plan), ("other", later))):
        store(root, name, predictions(of, 0.8, number), of)
    return root


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("kind", ["write", "rename"])
def test_a_merge_that_fails_anywhere_leaves_nothing(tmp_path, disk, kind):
    sent, out = make_store(tmp_path / "sent"), tmp_path / "out"
    for error in each_failure(disk, kind, lambda: merge_results([sent], out)):
        assert "No space left on device). Free space there, or choose another folder with --out" in error
        assert not out.exists()
    assert tree(out) == tree(sent)


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("kind", ["write", "rename"])
def test_a_merge_that_fails_keeps_what_was_there(tmp_path, disk, kind):
    sent, out = make_store(tmp_path / "sent"), tmp_path / "out"
    plan = make_plan(episodes=10)
    store(out, "first", predictions(plan, 0.7, 9), plan)
    write_tables(out, read_boards(out))
    before = tree(out)
    for _ in each_failure(disk, kind, lambda: merge_results([sent], out)):
        assert tree(out) == before
    assert len(read_all(out / "results")) == 4


@pytest.mark.usefixtures("no_tables")
def test_a_merge_that_is_killed_between_renames_is_sound_and_completed(tmp_path, monkeypatch):
    sent, replace, discard = make_store(tmp_path / "sent"), os.replace, batch.Batch.discard
    for k in range(11):  # 2 plans, and 3 files of 3 results
        out, done = tmp_path / f"out{k}", []

        def until_killed(part, path, done=done, k=k) -> None:
            if len(done) < k:
                done.append(path)
                replace(part, path)

        monkeypatch.setattr(os, "replace", until_killed)
        monkeypatch.setattr(batch.Batch, "discard", lambda batch: None)
        merge_results([sent], out)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(batch.Batch, "discard", discard)
        assert len(done) == k
        for stored in read_all(out / "results"):  # each is whole
            stored.predictions()
            assert stored.plan_file.exists()
        merge_results([sent], out)
        assert len(read_all(out / "results")) == 3


@pytest.mark.parametrize("kind", ["write", "rename"])
def test_tables_are_written_together(tmp_path, disk, kind):
    out = make_store(tmp_path / "out")
    before, boards = tree(out), read_boards(out)
    write_tables(tmp_path / "elsewhere", boards)  # computes the statistics, which are cached
    for error in each_failure(disk, kind, lambda: write_tables(out, boards)):
        assert "with out=" in error
        assert tree(out) == before
    assert (out / "README.md").exists()


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path, disk):
    plan = make_plan(episodes=10)
    folder = store(tmp_path, "strong", predictions(plan, 0.8, 1), plan)
    before, stored = tree(tmp_path), read(folder)
    packed = (folder / "predictions.npz").read_bytes()

    def overwrite():
        return write(tmp_path / "results", stored.result, packed, stored.cost, plan)

    for _ in each_failure(disk, "write", overwrite):
        assert tree(tmp_path) == before
    for k in range(4):  # the plan, the predictions, the cost, the record: never an old record beside new predictions
        disk.fail_at("rename", k)
        with pytest.raises(ResultError):
            overwrite()
        disk.k = -1
        assert not (k and (folder / "result.json").exists())
        overwrite()
        assert tree(tmp_path) == before


def test_a_folder_in_the_place_of_a_file_is_found_before_anything_changes(tmp_path):
    (tmp_path / "b").mkdir()

    def both() -> None:
        with io.replacing_all() as files:
            files.write(tmp_path / "new" / "a", b"a")
            files.write(tmp_path / "b", b"b")

    with pytest.raises(ResultError, match=rf"Cannot write {tmp_path}/b \(Is a directory\)"):
        both()
    assert os.listdir(tmp_path) == ["b"]


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_target(tmp_path):
    with (
        pytest.raises(ResultError, match=rf"{tmp_path}/none cannot be read \(No such file"),
        io.replacing_all() as files,
    ):
        files.copy(tmp_path / "out" / "a", tmp_path / "none")
    assert os.listdir(tmp_path) == []


def test_copies_are_made_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_PIECE", 1000)
    data = np.random.default_rng(0).bytes(4321)
    (tmp_path / "a").write_bytes(data)
    with io.replacing_all() as files:
        files.copy(tmp_path / "b", tmp_path / "a")
    assert (tmp_path / "b").read_bytes() == data


def test_names_of_any_length_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "h" * 64)
    longest = "é" * 127 + "x"  # 255 bytes
    io.write_atomically(tmp_path / longest, b"x")
    assert os.listdir(tmp_path) == [longest]
    with pytest.raises(ResultError, match="File name too long"):
        io.write_atomically(tmp_path / f"{longest}y", b"x")
    assert os.listdir(tmp_path) == [longest]


# What libraries raise on a full disk, in a real process: files may have 20,000 bytes, and the signal is ignored by Python.
LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import numpy as np, torch
from fsar_bench import io
from fsar_bench.errors import ResultError
path, data = Path(sys.argv[1]) / "file", np.zeros(10_000)
for write in (
    lambda file: file.write(data.tobytes()),
    lambda file: np.savez(file, data=data),
    lambda file: np.save(file, data),
    lambda file: torch.save({"data": torch.from_numpy(data)}, file),
):
    try:
        with io.replacing(path, hint="work_dir="):
            pass
        with io.replacing(path, hint="work_dir=") as file:
            write(file)
        print("written")
    except ResultError as error:
        print(error)
with io.naming_disks(out=path.parent):
    try:
        with io.naming_disks(out=path.parent):
            torch.save({"data": torch.from_numpy(data)}, path.with_name("saved"))
        print("written")
    except (ResultError, RuntimeError) as error:
        print(type(error).__name__)
"""


def test_whatever_a_library_raises_becomes_one_error(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stderr
    for line in lines[:2] + lines[3:4]:
        assert line == (
            f"Cannot write {tmp_path}/file (File too large). Free space there, or choose another folder with work_dir=."
        )
    assert "Cannot write" in lines[2]  # numpy says only how many were written
    assert sorted(os.listdir(tmp_path)) in (["file"], ["file", "saved"])  # torch's own file is not ours


def test_errors_name_the_folder_and_what_moves_it(tmp_path):
    places = {"out=": tmp_path / "out", "work_dir=": tmp_path, "TMPDIR": Path("/tmp")}

    def raised(number: int, path: Path | None = None) -> OSError:
        return OSError(number, os.strerror(number), *([str(path)] if path else []))

    def told(error: BaseException) -> str | None:
        return explanation(error, places)

    log = tmp_path / "toy" / "log"
    assert told(raised(errno.ENOSPC, log)) == (
        f"Cannot write {log} (No space left on device). Free space there, or choose another folder with work_dir=."
    )
    assert told(raised(errno.EDQUOT, tmp_path / "out" / "x")).endswith(
        "choose another folder with out=."
    )  # the inner one
    assert told(raised(errno.EACCES, log)).startswith(f"Cannot read or write {log} (Permission denied)")
    assert "ulimit -n" in told(raised(errno.EMFILE))
    assert "Input/output error" in told(raised(errno.EIO))
    assert "out= " in told(raised(errno.ENOSPC))  # nothing is full now: every folder is named
    assert told(raised(errno.ENOENT, log)).startswith("Cannot read or write")
    caused = RuntimeError("unexpected")
    caused.__context__ = raised(errno.ENOSPC, log)
    assert str(log) in told(caused)
    assert "No space" in told(RuntimeError("I/O error: No space left on device (os error 28)"))
    handled = KeyError("a fault of a program")
    handled.__context__ = raised(errno.EACCES, log)
    for other in (
        handled,
        raised(errno.ENOENT, Path("/elsewhere/x")),
        raised(errno.EPIPE),
        ValueError("x"),
        OSError("x"),
    ):
        assert told(other) is None


def test_a_probe_writes_bytes_and_leaves_nothing(tmp_path, disk):
    disk.fail_at("write", 0)
    with pytest.raises(ResultError, match=r"cannot be written \(No space left on device\)\. Free space .* with out=\."):
        io.check_writable(tmp_path / "a" / "b", "out=")
    assert os.listdir(tmp_path) == []
    disk.k = -1
    io.check_writable(tmp_path / "a" / "b", "out=")
    assert tree(tmp_path) == {"a": None, "a/b": None}
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        with pytest.raises(ResultError, match="no folder"):
            io.check_writable(tmp_path / name, "out=")


def test_parts_of_dead_processes_are_told_from_those_of_live_ones(tmp_path):
    ours = temporary.temporary_of(tmp_path / "x").name
    assert not temporary.is_abandoned(ours)
    host, pid = platform.node(), os.getpid()
    start, namespace, _ = ours.split(".")[-2].split("-")
    assert not temporary.is_abandoned(f".x.{host}.{pid}.1.part")  # as it was named before
    if start == "0":
        pytest.skip("this system does not tell when a process started")
    assert temporary.is_abandoned(f".x.{host}.{pid}.{int(start) - 1}-{namespace}-0.part")  # its number was used again
    assert not temporary.is_abandoned(f".x.{host}.4194305.{start}-{int(namespace) + 1}-0.part")  # of another container
    zombie = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # dead, and not asked for
    assert temporary.is_abandoned(f".x.{host}.{zombie.pid}.1.part")
    zombie.wait()
    assert not temporary.is_abandoned(f".x.another-{host}.{zombie.pid}.1.part")
    assert not temporary.is_abandoned("notes.part")


def test_folders_of_dead_processes_of_this_host_alone_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    ours = temporary.temporary_folder()
    dead = [ours.with_name(ours.name.replace(f"-{os.getpid()}-", "-4194305-"))]
    monkeypatch.setattr(temporary.platform, "node", lambda: "another host")
    elsewhere = temporary.temporary_folder()
    dead.append(elsewhere.with_name(elsewhere.name.replace(f"-{os.getpid()}-", "-4194305-")))
    monkeypatch.undo()
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    for folder in dead:
        folder.mkdir()
    temporary.sweep_temporary_folders()
    assert set(tmp_path.iterdir()) == {ours, elsewhere, dead[1]}


def test_a_sweep_clears_parts_and_the_folders_that_held_nothing_else(tmp_path):
    left = f".x.{platform.node()}.4194305.1.part"
    for folder in ("results/a/b/c", "results/a/kept", "deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / left).write_bytes(b"x")
    (tmp_path / "results/a/kept/result.json").write_bytes(b"x")
    (tmp_path / "results/empty").mkdir()  # of a process that is about to write
    forgotten, fresh = (tmp_path / "deep" / f".{name}.elsewhere.7.1.part" for name in ("old", "new"))
    for path in (forgotten, fresh):
        path.write_bytes(b"x")
    os.utime(forgotten, (time.time() - 30 * 86_400,) * 2)
    temporary.sweep([tmp_path / "results", tmp_path / "deep", tmp_path / "none"])
    assert set(tree(tmp_path)) == {
        "results", "results/a", "results/a/kept", "results/a/kept/result.json", "results/empty", "deep", f"deep/{fresh.name}",
    }  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_log_on_a_full_disk_fails_nothing_and_is_told_once(tmp_path):
    told: list[OSError] = []
    (tmp_path / "log").symlink_to("/dev/full")
    with logs.open_log(tmp_path / "log", told.append) as log:
        for _ in range(3):
            print("a line", file=log)
    with logs.open_log(tmp_path / "file" / "log", told.append) as log:
        print("café \udc80", file=log)
    assert (tmp_path / "file" / "log").read_text(encoding="utf-8") == "café \\udc80\n"
    assert [error.errno for error in told] == [errno.ENOSPC]
    with logs.open_log(tmp_path / "file" / "log" / "below", told.append) as log:
        print("a line", file=log)
        assert log.fileno() > 2  # for what C libraries print
    assert [error.errno for error in told] == [errno.ENOSPC, errno.ENOTDIR] or told[1].errno == errno.EEXIST


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_standard_output_on_a_full_disk_is_told_in_the_end(tmp_path):
    command = [sys.executable, "-m", "fsar_bench.cli.main", "list", "matchers"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: Standard output is not whole (No space left on device).\n"


def test_a_terminal_and_a_captured_stream_stay_as_they_are():
    captured = streams.StringIO()
    assert logs.forgiving(captured, lambda error: None) is captured


def test_errors_of_the_system_end_a_command_in_one_line(fsar, tmp_path, monkeypatch):
    def full(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "x"))

    monkeypatch.setattr("fsar_bench.cli.list.list_command", full)
    done = fsar("list", "methods")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: Cannot read or write {tmp_path}/x (Permission denied).")
    assert "Traceback" not in done.stderr


@pytest.fixture
def mount():
    """A function that mounts a small disk of its own, for root alone."""
    mounted: list[Path] = []

    def at(path: Path, options: str) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if (
            sys.platform != "linux"
            or not shutil.which("mount")
            or subprocess.run(command, capture_output=True).returncode
        ):
            pytest.skip("mounting a small disk needs root")
        mounted.append(path)
        return path

    yield at
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], capture_output=True)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder; returns the file that does."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            return path


def test_disks_without_space_or_inodes_are_named(tmp_path, mount):
    small, narrow, closed = (
        mount(tmp_path / "a", "size=64k"),
        mount(tmp_path / "b", "nr_inodes=4"),
        mount(tmp_path / "c", "size=64k"),
    )
    fill(small)
    for number in range(3):
        (narrow / str(number)).touch()
    subprocess.run(["mount", "-o", "remount,ro", str(closed)], check=True)
    for folder, reason in ((small, "No space left"), (narrow, "No space left"), (closed, "Read-only file system")):
        with pytest.raises(ResultError, match=f"{folder} cannot be written .{reason}.*out="):
            io.check_writable(folder, "out=")
    with pytest.raises(ResultError, match="no inode is free"), io.naming_disks(out=narrow):
        (narrow / "another").touch()
    for folder in (small, narrow):  # an error that says neither where nor which
        with (
            pytest.raises(ResultError, match=f"Cannot write to {folder} .*with work_dir="),
            io.naming_disks(work_dir=folder),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_out_after_a_training_costs_a_rerun_of_seconds(run_tiny, tmp_path, mount, monkeypatch):
    out = mount(tmp_path / "small", "size=400k")
    settings = {"controls": False, "train": {"episodes": 4, "val_interval": 4, "val_episodes": 10}}
    from fsar_bench.engine.run import CellRun

    stores = CellRun.store

    def on_a_full_disk(run, *scores):
        monkeypatch.setattr(CellRun, "store", stores)
        fill(out)
        return stores(run, *scores)

    monkeypatch.setattr(CellRun, "store", on_a_full_disk)
    with pytest.raises(ResultError, match=r"Cannot write .*No space left on device.*choose another folder with out="):
        run_tiny("otam", out=out, **settings)
    assert [p.name for p in out.rglob("*") if p.is_file()] == ["filler"]
    monkeypatch.setattr("fsar_bench.engine.training.EpisodicRunner", None)  # no second training
    monkeypatch.setattr("fsar_bench.engine.scoring._score", None)  # no second scoring
    (result,) = run_tiny("otam", out=tmp_path / "other", **settings)
    assert result.folder.is_relative_to(tmp_path / "other")


def test_a_full_work_folder_costs_neither_training_nor_scores(run_tiny, tmp_path, mount, monkeypatch):
    from fsar_bench.engine import hooks

    work = mount(tmp_path / "small", "size=8m")
    settings = {"controls": False, "train": {"episodes": 8, "val_interval": 4, "val_episodes": 10}, "work_dir": work}
    saved, save = [], hooks.save_best

    def then_full(path, *args, **more):
        if saved:
            return saved[0]  # the first one stays the best
        saved.append(save(path, *args, **more))
        fill(work)
        return saved[0]

    monkeypatch.setattr(hooks, "save_best", then_full)
    (result,) = run_tiny("otam", **settings)
    monkeypatch.undo()
    assert result.cost.seconds.train > 0
    assert not list(work.rglob("scores_*.npz"))
    assert not list(work.rglob(".*.part"))


def test_a_process_whose_log_disk_is_full_tells_the_cause(tiny, tmp_path, mount):
    """In processes of their own: the log, MMEngine's files and the checkpoint are on the full disk."""
    work = mount(tmp_path / "work_dirs", "size=200k")
    from fsar_bench.config.resolve import resolve
    from fsar_bench.engine.sweep import run_isolated

    run = resolve([
        "methods=otam", f"dataset={tiny}", "backbone=tiny_clip", "episodes=20", "workers=1", "controls=false", "train.episodes=4",
        "train.val_interval=4", "train.val_episodes=10", f"out={tmp_path / 'out'}", f"work_dir={work}",
    ])  # fmt: skip
    fill(work)
    with pytest.raises(ResultError, match=r"No space left on device.*work_dir="):
        run_isolated(run.cells[0], run.options)
    assert not list(work.rglob(".*.part"))


def test_a_killed_writer_leaves_nothing_after_the_next_sweep(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from fsar_bench import io\n"
        "with io.replacing(Path(sys.argv[1]) / 'a' / 'x') as file:\n"
        "    file.write(b'half'); print('begun', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "begun\n"
        temporary.sweep([tmp_path])
        assert len(os.listdir(tmp_path / "a")) == 1  # it lives
        writer.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
        temporary.sweep([tmp_path])
        assert os.listdir(tmp_path) == []
