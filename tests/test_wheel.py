"""The wheel carries configs, methods, clips and weights, and runs from an empty directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_runs_from_an_empty_directory(tmp_path, cache):
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    source.mkdir()
    empty.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("fsar_bench", "methods", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "leaderboards").mkdir()
    for name in ("__init__.py", "committed.json", "published.csv"):
        shutil.copy(ROOT / "leaderboards" / name, source / "leaderboards")
    quiet = {"check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)], **quiet)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], **quiet
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import fsar_bench.methods, fsar_bench.configs as c; print(fsar_bench.__file__, c.__file__)"],
        cwd=empty, env=environment, **quiet,
    ).stdout.split()  # fmt: skip
    assert all(path.startswith(str(site)) for path in where)
    done = subprocess.run(
        [str(site / "bin" / "fsar-bench"), "run", "methods=otam_frozen", "dataset=synthact_order", "episodes=500"],
        cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "committed rows cannot be compared" not in done.stderr  # their table is installed
    assert (empty / "leaderboards" / "synthact_order-5way_1shot.md").exists()
    assert "OTAM, frozen" in done.stdout
    page = subprocess.run(
        [str(site / "bin" / "fsar-bench"), "leaderboard", "--html"], cwd=empty, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert page.returncode == 0, page.stderr
    assert (empty / "leaderboards" / "leaderboard.html").stat().st_size > 1e6
