"""What surrounds a command: locales, caches that cannot be written, decoders that print, paths that the shell does not expand."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsar_bench.data.dataset import BUILTIN
from fsar_bench.leaderboard import published
from fsar_bench.leaderboard.collection import load_results

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RUN = ("run", "methods=prototype_frozen", "backbone=tiny_clip", "controls=false", "episodes=50", "way=2", "workers=1")


@pytest.fixture
def clips(tmp_path) -> Path:
    """Two classes with names beyond ASCII, of three clips each."""
    rows = json.loads((BUILTIN / "synthact" / "annotation.json").read_text())["clips"][:6]
    for number, row in enumerate(rows):
        path = tmp_path / "Übung" / "test" / ("café", "naïveté")[number % 2] / f"é{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUILTIN / "synthact" / row["path"], path)
    return tmp_path / "Übung"


def test_nothing_depends_on_the_locale(command, fsar, clips, tmp_path, monkeypatch):
    """Names of files and classes, tables with their signs: in a locale of ASCII alone as anywhere else."""
    where = {"FSAR_BENCH_DATA": str(tmp_path / "data")}
    prepared = command("data", "prepare", "custom", "--root", str(clips), **where, **ASCII)
    assert prepared.returncode == 0, prepared.stderr
    annotation = tmp_path / "data" / "custom" / "annotation.json"
    before = annotation.read_bytes()
    assert "/test/café/é0.mp4".encode() in before
    monkeypatch.setenv("FSAR_BENCH_DATA", where["FSAR_BENCH_DATA"])
    assert "(unchanged)" in fsar("data", "prepare", "custom", "--root", str(clips)).stdout
    done = command(*RUN, "dataset=custom", **where, **ASCII)
    assert done.returncode == 0, done.stderr
    assert "±" in done.stdout
    first = command.outputs()
    assert fsar(*RUN, "dataset=custom", "overwrite=true").returncode == 0
    assert command.outputs() == first


def test_a_command_that_cannot_start_again_in_utf_8_goes_on():
    code = "import runpy, sys; sys.argv = ['fsar-bench', 'list']; runpy.run_module('fsar_bench.cli.main', run_name='__main__')"
    options = ["-X", "utf8=0", "-c", code]  # -X wins over the variable
    environment = {**os.environ, **ASCII}
    done = subprocess.run([sys.executable, *options], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"methods" in done.stdout


def test_byte_order_marks_are_read(fsar, clips, tmp_path, monkeypatch):
    """Some editors write them into every file that they save."""
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    assert fsar("data", "prepare", "custom", "--root", str(clips)).returncode == 0
    folder = tmp_path / "data" / "custom"
    (folder / "quarantine.json").write_text('{"accepted": true, "clips": [{"class": "café", "id": "café/é0"}]}')
    (tmp_path / "leaderboards").mkdir()
    shutil.copy(published.shipped(), tmp_path / "leaderboards" / "published.csv")
    marked = [folder / "annotation.json", folder / "quarantine.json", tmp_path / "leaderboards" / "published.csv"]
    for path in marked:
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    ran = fsar(*RUN, "dataset=custom")
    assert ran.returncode == 0, ran.stderr
    (record,) = (tmp_path / "leaderboards").rglob("result.json")
    assert json.loads(record.read_text())["data"]["coverage"] == pytest.approx(5 / 6)
    for path in (record, record.with_name("cost.json"), tmp_path / "leaderboards" / "custom-2way_1shot.md"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert fsar("leaderboard").returncode == 0
    assert len(load_results(tmp_path / "leaderboards")) == 1


def test_a_terminal_that_cannot_show_a_sign_shows_another(command):
    done = command("data", "prepare", "naïveté", "--root", ".", PYTHONIOENCODING="ascii")
    assert "Unknown dataset 'na?vet?'" in done.stderr


def test_a_cache_that_cannot_be_written_costs_time_not_the_run(fsar, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    for variables in ({"FSAR_BENCH_CACHE": f"{tmp_path}/file/cache"}, {"HOME": f"{tmp_path}/file/home"}):
        for name in ("FSAR_BENCH_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("fsar_bench.progress.events._warned", set())
        done = fsar(*RUN, f"dataset={tiny}", "shot=1,2", "overwrite=true")
        assert done.returncode == 0, done.stderr
        warnings = [line for line in (done.stdout + done.stderr).splitlines() if "Cannot write to" in line]
        assert len(warnings) == 1  # of two cells, their frames and features, and the statistics of two boards
        assert f"{tmp_path}/file/" in warnings[0]
        assert "Not a directory" in warnings[0]
        assert "$FSAR_BENCH_CACHE" in warnings[0]


def test_what_decoders_print_does_not_mix_with_our_lines(command, clips, tmp_path):
    """FFmpeg complains of a truncated clip on standard error, from within the library."""
    damaged = clips / "test" / "café" / "é0.mp4"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size * 2 // 3])
    where = {"FSAR_BENCH_DATA": str(tmp_path / "data")}
    assert command("data", "prepare", "custom", "--root", str(clips), **where).returncode == 0
    code = f"import decord; decord.VideoReader({str(damaged)!r}).get_batch([0, 40])"
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "partial file" in alone.stderr  # so there is something to keep out
    verified = command("data", "verify", "custom", **where)
    assert verified.returncode == 1
    assert "5 of 6 clips decode" in verified.stdout
    assert verified.stderr == ""
    stopped = command(*RUN, "dataset=custom", **where)
    assert stopped.returncode == 1
    errors = [line for line in stopped.stderr.splitlines() if line]
    assert all(line.startswith("error: ") for line in errors), stopped.stderr
    assert "partial file" not in stopped.stdout


@pytest.mark.long
def test_a_main_program_may_be_read_from_standard_input(tiny, tmp_path):
    arguments = [*RUN[1:], f"dataset={tiny}"]
    program = f"from fsar_bench.cli.run import run_command\nprint('exit', run_command({arguments!r}))\n"
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, cwd=tmp_path)
    assert "exit 0" in done.stdout, done.stderr


def test_a_tilde_is_the_home_folder_wherever_a_path_is_asked_for(fsar, clips, tmp_path, monkeypatch):
    """Not every shell expands it: `out=~/x` reaches us as it is typed in zsh or dash."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FSAR_BENCH_DATA", "~/data")
    clips.rename(tmp_path / "clips")
    (tmp_path / "home").mkdir()
    (tmp_path / "clips").rename(tmp_path / "home" / "clips")
    rows = [f"~/clips/test/{name}/{file.name},{name},test" for name in ("café", "naïveté") for file in sorted(
        (tmp_path / "home" / "clips" / "test" / name).iterdir())]  # fmt: skip
    (tmp_path / "home" / "mine.csv").write_text("\n".join(["path,class,split", *rows]), encoding="utf-8")
    for root in ("~/clips", "~/mine.csv"):
        done = fsar("data", "prepare", "custom", "--root", root)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "data" / "custom" / "annotation.json").is_file()
    done = fsar(*RUN, "dataset=custom", "out=~/x", "work_dir=~/y")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "x" / "results").is_dir()
    assert (tmp_path / "home" / "y").is_dir()
    assert fsar("leaderboard", "out=~/x", "--check").returncode == 0
    assert fsar("results", "merge", "~/x", "--out", "~/z").returncode == 0
    assert (tmp_path / "home" / "z" / "results").is_dir()
    assert not list(tmp_path.rglob("~*"))


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_leads_nowhere_and_files_do_not_take_its_number(tmp_path, closed):
    """A shell's `>&-`; what a child prints would be written into the file that was opened first."""
    program = (
        "import os; from fsar_bench.cli import main; main.app = lambda **_: os.write(1, b'lost') and print('lost')\n"
        "main.main(); file = open('result', 'wb'); os._exit(file.fileno() if file.fileno() > 2 else 0)\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(["sh", "-c", f"'{sys.executable}' program.py {closed}"], cwd=tmp_path)
    assert done.returncode > 2
    assert (tmp_path / "result").read_bytes() == b""
