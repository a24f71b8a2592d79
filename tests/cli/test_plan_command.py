"""`fsar-bench plan`: what a study costs, in words, quickly and without torch."""

from __future__ import annotations

import re
import subprocess
import sys

TINY = ("backbone=tiny_clip", "episodes=100", "controls=false", "jobs=1")


def test_it_says_what_is_measured_and_what_is_estimated(fsar, run_tiny, tiny, tmp_path):
    run_tiny("otam_frozen", controls=False)
    before = sorted(tmp_path.rglob("*"))
    done = fsar("plan", "methods=otam_frozen,bi_mhm_frozen,otam", f"dataset={tiny}", *TINY)
    assert done.returncode == 0
    assert "3 cells (1 finished), 1 training\n" in done.stdout
    assert re.search(r"time: .* of a device, .* with 1 job at a time", done.stdout)
    assert "disk: at least " in done.stdout
    assert "memory: " in done.stdout
    assert "from: 1 results in leaderboards\n" in done.stdout
    assert "  training: estimated for OTAM, tiny_clip: a pass of training as 3 forward passes\n" in done.stdout
    assert "  encoding: estimated from other methods of the backbone for 2 methods\n" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_finished_studies_and_unknown_ones_are_told(fsar, run_tiny, tiny):
    done = fsar("plan", "methods=otam_frozen", f"dataset={tiny}", *TINY)
    assert "time: not known. No result with these backbones is stored in out=" in done.stdout
    run_tiny("otam_frozen", controls=False)
    done = fsar("plan", "methods=otam_frozen", f"dataset={tiny}", *TINY)
    assert done.stdout.endswith("1 cell (1 finished), 0 trainings\nnothing to do\n")


def test_mistakes_are_those_of_run(fsar, tiny, tmp_path):
    assert "Unknown key 'shoot'" in fsar("plan", "methods=otam", "shoot=1").stderr
    assert "fewer than way=7" in fsar("plan", "methods=otam", f"dataset={tiny}", *TINY, "way=7").stderr
    missing = fsar("plan", "methods=otam", f"dataset={tiny}", *TINY, "--machine", str(tmp_path / "m.json"))
    assert missing.returncode == 1
    assert "m.json cannot be read" in missing.stderr


def test_it_imports_no_torch(tmp_path, tiny):
    code = (
        "import sys; from fsar_bench.cli.main import main\n"
        f"sys.argv = ['fsar-bench', 'plan', 'methods=otam,ma_clip', {f'dataset={tiny}'!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
