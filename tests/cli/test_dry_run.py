"""`fsar-bench run --dry-run`: states, times, and that it leaves no trace."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

TINY = ("backbone=tiny_clip", "episodes=100", "workers=1", "jobs=1")


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def listed(fsar, tiny):
    """Rows of a dry run, (hash, text of state, time) by title, and its last line."""

    def call(*pairs: str) -> tuple[dict[str, tuple[str, str, str]], str]:
        done = fsar("run", *pairs, "--dry-run", f"dataset={tiny}", *TINY)
        assert done.returncode == 0
        assert done.stderr == ""
        row = re.compile(r"^ ([0-9a-f]{8})  (.*?)  +tiny +5 +1 +0(?:, training \d)?  +(.*?)  +(\S.*?) *$", re.M)
        rows = {title: (sha, state, time) for sha, title, state, time in row.findall(done.stdout)}
        return rows, done.stdout.strip().splitlines()[-1]

    return call


def test_new_cells_of_an_unknown_backbone_have_no_time_and_nothing_is_written(listed, tmp_path, tiny):
    before = files(tmp_path)
    rows, summary = listed("methods=otam_frozen,otam")
    assert {title: row[1:] for title, row in rows.items()} == {"OTAM, frozen": ("new", "–"), "OTAM": ("new", "–")}
    assert summary == "2 cells (2 new): no estimate: leaderboards holds no result with this backbone"
    assert files(tmp_path) == before


def test_states_and_times_from_what_is_stored(listed, run_tiny, tmp_path):
    (stored,) = run_tiny("otam", controls=False)
    rows, summary = listed("methods=otam,protonet")
    assert rows["OTAM"] == (stored.result.config_hash[:8], "finished", "–")
    assert rows["ProtoNet"][1:] == ("new", rows["ProtoNet"][2])
    assert re.fullmatch(r"\d+ s", rows["ProtoNet"][2])
    assert re.fullmatch(r"2 cells \(1 finished, 1 new\): estimated \d+ s in all", summary)

    folder = tmp_path / "work_dirs" / stored.result.cell.work_folder
    training = tmp_path / "work_dirs" / stored.result.cell.training_folder(stored.result.training_key)
    (stored.folder / "result.json").unlink()
    assert listed("methods=otam")[0]["OTAM"][1] == "resumable (partly scored)"
    for part in folder.glob("scores-*/*"):
        part.unlink()
    assert listed("methods=otam")[0]["OTAM"][1] == "resumable (trained)"
    assert listed("methods=otam", "query=2")[0]["OTAM"][1] == "resumable (trained)"  # it shares the training
    assert listed("methods=otam", "train.seed=1")[0]["OTAM"][1] == "new"
    (training / "finished.json").unlink()
    curve = training / "curve.csv"
    curve.write_text("".join(curve.read_text().splitlines(keepends=True)[:-1]))
    assert listed("methods=otam")[0]["OTAM"][1] == "resumable (trained 4/8)"
    before = files(tmp_path)
    with FileLock(folder / ".lock"):
        before |= files(folder)
        assert listed("methods=otam")[0]["OTAM"][1] == "busy"
        assert files(tmp_path).keys() == before.keys()


def test_cells_that_share_a_training_count_it_once(run_tiny, tiny, tmp_path):
    from fsar_bench.config.resolve import resolve
    from fsar_bench.engine.forecast import forecast

    run_tiny("protonet", controls=False)
    pairs = [f"dataset={tiny}", "methods=otam", "controls=false", "shot=1,2", *TINY, f"out={tmp_path / 'leaderboards'}"]
    run = resolve([*pairs, f"work_dir={tmp_path / 'work_dirs'}"])
    foreseen = forecast(run.cells, run.options)
    one, two = foreseen.seconds
    assert two < one / 2
    assert foreseen.total == pytest.approx(one + two)


def test_a_dry_run_imports_no_torch(tmp_path, tiny):
    code = (
        "import sys; from fsar_bench.cli.main import main\n"
        f"sys.argv = ['fsar-bench', 'run', '--dry-run', 'methods=otam,ma_clip', {f'dataset={tiny}'!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 cells (2 new)" in done.stdout


def test_a_dataset_that_is_not_prepared_is_an_error(fsar):
    done = fsar("run", "--dry-run", "methods=otam_frozen", "dataset=hmdb51", "controls=false")
    assert done.returncode == 1
    assert "hmdb51 is not prepared on this machine" in done.stderr
