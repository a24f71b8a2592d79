"""The command line: quick, light, clear about mistakes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "{'torch', 'open_clip', 'mmaction', 'decord', 'torchvision', 'timm'}"


def python(code: str, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["leaderboard"], ["list"], ["--version"]])
def test_light_verbs_import_nothing_heavy(tmp_path, arguments):
    (tmp_path / "leaderboards" / "results").mkdir(parents=True)
    code = (
        f"import sys; sys.argv = ['fsar-bench', *{arguments!r}]\n"
        "from fsar_bench.cli.main import main\n"
        "try: main()\nexcept SystemExit as end: code = end.code\n"
        f"print('HEAVY', sorted({HEAVY} & set(sys.modules)), code)"
    )
    out = python(code, tmp_path)
    assert "HEAVY [] 0" in out.stdout, out.stdout + out.stderr


def test_help_shows_an_example(command):
    done = command("run", "--help")
    assert done.returncode == 0
    assert "fsar-bench run methods=ma_clip,clip_fsar" in done.stdout


def test_list_describes_everything(command):
    done = command("list")
    assert done.returncode == 0
    for name in ("ma_clip", "clip_fsar", "otam_frozen", "synthact_order", "vit_b_16", "BiMHM", "standard"):
        assert name in done.stdout
    assert "(synthetic" in command("list", "datasets").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "methods=ma_clop"], "Did you mean 'ma_clip'"),
        (["run", "methods=ma_clip", "dataset=synthakt"], "Did you mean 'synthact'"),
        (["run", "methods=ma_clip", "backbone=vit_b_17"], "Did you mean 'vit_b_16'"),
        (["run", "methods=ma_clip", "datset=synthact"], "Did you mean 'dataset'"),
        (["run", "methods=ma_clip", "method.alhpa=0.5"], "Did you mean 'method.alpha'"),
        (["run", "methods=ma_clip", "shot=one"], "shot='one' must be a whole number"),
        (["run", "methods=ma_clip", "method.alpha=half"], "method.alpha='half' must be a number"),
        (["run", "methods=ma_clip", "overwrite=1"], "must be true or false"),
        (["run", "methods=ma_clip", "method.matcher=OTAM"], "method.matcher.smoothing"),
        (["run", "methods=ma_clip", "way=1"], "way=1 is too small"),
        (["run", "methods=ma_clip", "episodes=0"], "episodes=0 is too small"),
        (["run", "methods=zero_shot", "matcher=OTAM"], "zero_shot has no matcher"),
        (["run", "methods=./nothing.py"], "nothing.py does not exist"),
        (["run", "methods="], "Which methods?"),
        (["run", "ma_clip"], "form key=value"),
        (["run", "methods=ma_clip", "methods=otam"], "given twice"),
        (["run", "methods=otam", "out=file/below"], "cannot be written"),
        (["list", "metods"], "Did you mean 'methods'"),
        (["leaderboard", "out=nowhere"], "has no results/ folder"),
        (["leaderboard", "dataset=x"], "Unknown key 'dataset'"),
    ],
)
def test_mistakes_get_one_clear_line(command, arguments, message):
    (command.folder / "file").write_text("")
    done = command(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
