"""`fsar-bench run` as a user types it: the screen, the table, a kill of the whole command, custom and installed methods."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from time import monotonic, sleep

import pytest
from filelock import FileLock
from helpers import outputs

TINY = ("backbone=tiny_clip", "episodes=300", "workers=1")
IN_TURN = (*TINY, "jobs=1")


def test_the_command_shows_progress_and_ends_in_a_table(command, tiny):
    tiny.write_text(tiny.read_text().replace("controls = []", 'controls = ["zero_shot"]'))
    (command.folder / "failing_code.py").write_text(
        "from fsar_bench.errors import DataError\nfrom fsar_bench.methods.zero_shot import ZeroShot\n"
        "from fsar_bench.registry import METHODS\n\n@METHODS.register_module()\nclass Failing(ZeroShot):\n"
        "    def score(self, *_):\n        raise DataError('A clip is gone.')\n"
    )
    (command.folder / "failing.py").write_text('custom_imports = ["failing_code"]\nmethod = dict(type="Failing")\n')
    done = command("run", f"dataset={tiny}", "methods=./failing.py,otam", *IN_TURN, COLUMNS="140")
    assert done.returncode == 1
    assert done.stderr.count("error: failing on tiny, 5-way 1-shot: A clip is gone.") == 1
    assert re.search(r"^ +\d:\d\d  \[1/3\] Zero-shot text on tiny, 5-way 1-shot$", done.stdout, re.M)
    assert re.search(r"^checking: importing torch and the methods\nchecking methods and backbones$", done.stdout, re.M)
    assert re.search(r"^ +\d:\d\d    after 8 of 8 training episodes, val accuracy [\d.]+ %$", done.stdout, re.M)
    assert re.search(r"^ +\d:\d\d    training 8/8, loss ", done.stdout, re.M)
    assert re.search(r"^ +\d:\d\d  estimated .* in all$", done.stdout, re.M)
    assert re.search(r"\[3/3\] OTAM on tiny, 5-way 1-shot: done in \d+ s", done.stdout)
    assert "accuracy %" in done.stdout
    assert "(synthetic)" in done.stdout
    assert "Zero-shot text (control)" in done.stdout
    assert "table: leaderboards/tiny-5way_1shot.md" in done.stdout
    curves = re.search(r"^curves: (.*curve\.png)$", done.stdout, re.M)
    assert (command.folder / curves[1]).is_file()
    again = command("run", f"dataset={tiny}", "methods=otam", *IN_TURN)
    assert again.returncode == 0
    assert again.stdout.count("finished before, reused") == 2


def test_controls_that_do_not_apply_are_said_to_be_left_out(fsar, tiny):
    tiny.write_text(tiny.read_text().replace("controls = []", 'controls = ["zero_shot"]'))
    done = fsar("run", f"dataset={tiny}", "methods=otam_frozen", "backbone=tiny_resnet", "episodes=100", "workers=1")
    assert done.returncode == 0, done.stderr
    assert "left out, a control that does not apply here" in done.stdout


@pytest.mark.long
def test_a_killed_command_resumes_to_the_same_result(command, fsar, tiny, tmp_path):
    """A real SIGKILL of the command and all of its children in the middle of a training."""
    arguments = ("run", f"dataset={tiny}", "methods=otam", "checkpoint_seconds=0", *IN_TURN)
    assert fsar(*arguments, "out=undisturbed", "work_dir=undisturbed_work").returncode == 0
    process = command.start(*arguments)
    for line in process.stdout:
        if "training 4/8" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert command.outputs() == {}
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    assert command.outputs() == outputs(tmp_path / "undisturbed")


def test_ctrl_c_ends_all_processes_and_says_how_to_resume(command, tiny):
    tiny.write_text(tiny.read_text().replace("episodes=8", "episodes=4000"))
    process = command.start("run", f"dataset={tiny}", "methods=otam_frozen,otam", *IN_TURN)
    for line in process.stdout:
        if "training 1/4000" in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and all of its children
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. Run the same command again to resume." in errors
    assert "Traceback" not in errors
    assert "1 of 2 cells ended (1 done)" in printed
    assert "  done: OTAM, frozen on tiny, 5-way 1-shot" in printed
    assert re.search(r"  interrupted: OTAM on tiny, 5-way 1-shot: training \d+/4000", printed)
    assert "Chance (1 / way)" in printed.split("interrupted:")[1]  # the table so far
    assert (command.folder / "leaderboards" / "tiny-5way_1shot.md").is_file()
    deadline = monotonic() + 20
    while is_alive(process.pid) and monotonic() < deadline:
        sleep(0.1)
    assert not is_alive(process.pid)


def test_a_cell_that_another_run_keeps_is_busy_not_failed(fsar, tiny, tmp_path):
    arguments = ("run", f"dataset={tiny}", "methods=otam_frozen,zero_shot", *IN_TURN)
    (row,) = (line for line in fsar(*arguments, "--dry-run").stdout.splitlines() if "OTAM" in line)
    folder = tmp_path / "work_dirs" / "tiny" / f"otam_frozen-{row.split()[0]}"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        done = fsar(*arguments)
    assert done.returncode == 0
    assert "another run is working on it; looked at again at the end" in done.stdout
    assert re.search(r"\[1/2\] OTAM, frozen on tiny, 5-way 1-shot: busy in another run", done.stdout)
    assert re.search(r"^busy: OTAM, frozen on tiny.* Run the same command again for its row\.$", done.stderr, re.M)
    assert "Zero-shot text" in done.stdout.split("Chance")[0]
    assert fsar(*arguments).stdout.count("done in") == 1


def test_ctrl_c_while_torch_is_imported_prints_no_traceback(command, tiny):
    process = command.start("run", f"dataset={tiny}", "methods=otam_frozen", *IN_TURN)
    for line in process.stdout:
        if "importing torch" in line:
            break
    sleep(0.7)  # the fork server is at its imports
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "Interrupted. Run the same command again to resume."


def is_alive(group: int) -> bool:
    """Whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_method_of_an_installed_package_with_an_entry_point(command, tiny, tmp_path):
    site = tmp_path / "site"
    (site / "fsar_far-1.0.dist-info").mkdir(parents=True)
    (site / "fsar_far-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fsar-far\nVersion: 1.0\n")
    (site / "fsar_far-1.0.dist-info" / "entry_points.txt").write_text("[fsar_bench.methods]\nfar = fsar_far\n")
    (site / "fsar_far.py").write_text(
        "from fsar_bench.methods.metric import MetricMethod\nfrom fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module()\nclass Far(MetricMethod):\n    pass\n"
    )
    (tmp_path / "far.py").write_text('method = dict(type="Far", matcher=dict(type="BiMHM"))\n')
    done = command("run", f"dataset={tiny}", f"methods={tmp_path / 'far.py'}", *IN_TURN, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert any("/far-" in name for name in command.outputs())


ENDS = {  # signal: the exit code, what is said once, and of how many cells how far they were
    signal.SIGINT: (130, "Interrupted. Run the same command again to resume.", 2),
    signal.SIGTERM: (143, "Ended by SIGTERM. Run the same command again to resume.", 0),
    signal.SIGKILL: (-9, "", 0),
}


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, *(pytest.param(n, marks=pytest.mark.slow) for n in list(ENDS)[1:])])
def test_cells_at_the_same_time_end_with_the_command(command, tiny, number):
    tiny.write_text(tiny.read_text().replace("episodes=8", "episodes=4000"))
    process = command.start("run", f"dataset={tiny}", "methods=otam,bi_mhm", "jobs=2", *TINY)
    training = set()
    for line in process.stdout:
        training |= set(re.findall(r"(\[\d/2\]) training 1/4000", line))
        if len(training) == 2:
            break
    holders = [json.loads(path.read_text())["pid"] for path in (command.folder / "work_dirs").rglob(".holder.json")]
    assert len(set(holders)) == 2
    os.kill(process.pid, number)
    printed, errors = process.communicate(timeout=60)
    code, said, doing = ENDS[number]
    assert process.returncode == code
    assert errors.count(said or "resume") == bool(said)
    assert "Traceback" not in errors
    assert len(re.findall(r"^  interrupted: (?:OTAM|Bi-MHM) on tiny, 5-way 1-shot: ", printed, re.M)) == doing
    deadline = monotonic() + 20
    while any(map(process_is_alive, holders)) and monotonic() < deadline:
        sleep(0.1)
    assert not any(map(process_is_alive, holders))


def process_is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cells_at_the_same_time_fail_and_end_as_one_after_the_other(fsar, tiny, tmp_path):
    """The same exit code, errors and rows in the same order, and files."""
    (tmp_path / "failing_code.py").write_text(
        "from fsar_bench.errors import DataError\nfrom fsar_bench.methods.zero_shot import ZeroShot\n"
        "from fsar_bench.registry import METHODS\n\n@METHODS.register_module()\nclass Failing(ZeroShot):\n"
        "    def __init__(self, backbone, name='', **rest):\n        super().__init__(backbone, **rest)\n"
        "        self.name = name\n\n"
        "    def score(self, *_):\n        raise DataError(f'The clip of {self.name} is gone.')\n"
    )
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            f'custom_imports = ["failing_code"]\nmethod = dict(type="Failing", name="{name}")\n'
        )
    ends = []
    for jobs in (1, 2):
        folders = (f"out=out{jobs}", f"work_dir=work{jobs}", f"jobs={jobs}", "controls=false")
        done = fsar("run", f"dataset={tiny}", "methods=./first.py,zero_shot,./second.py,otam_frozen", *TINY, *folders)
        assert done.returncode == 1
        table = done.stdout.partition("Tiny (synthetic)")[2].partition("table: ")[0]
        ends.append((done.stderr, table, outputs(tmp_path / f"out{jobs}")))
    assert [line.split(": ", 2)[1:] for line in ends[0][0].splitlines()] == [
        [f"{name} on tiny, 5-way 1-shot", f"The clip of {name} is gone."] for name in ("first", "second")
    ]
    assert "OTAM, frozen" in ends[0][1]
    assert len(ends[0][2]) == 4
    assert ends[0] == ends[1]
