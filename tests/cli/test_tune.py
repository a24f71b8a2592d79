"""`fsar-bench tune`: what it lists, shows and prints, and how it ends; trials are a formula here."""

from __future__ import annotations

import json

import pytest
from helpers import write_tuning

from fsar_bench.cli import tune as command
from fsar_bench.config.resolve import resolve
from fsar_bench.engine.tuning import tune as tuning
from fsar_bench.engine.tuning.trial import Measured
from fsar_bench.errors import CellCrashedError
from fsar_bench.io import digest
from fsar_bench.results.record import Environment

HERE = Environment(device="cpu", threads=1, machine="m", python="3", packages={})


@pytest.fixture
def formula(monkeypatch):
    """Trials whose val accuracy grows with the learning rate; nothing is built or trained."""

    def trial(keys, cell, options, progress):
        rate = cell.identity.train.optimizer["lr"]
        if cell.name == "trx":
            raise CellCrashedError("its process ended early")
        return Measured(training=digest(rate), curve=[(0, min(90.0, 9000 * rate))], seconds=36.0, environment=HERE)

    monkeypatch.setattr(tuning, "trial_in_process", trial)
    monkeypatch.setattr(command, "_check", lambda *_: None)


def test_a_tuning_ends_in_a_table_and_run_and_show_tell_it(fsar, formula, tiny, tmp_path):
    done = fsar("tune", "otam,clip_fsar", "otam_frozen", f"dataset={tiny}", "budget=8", "jobs=1")
    assert done.returncode == 0, done.stderr
    assert "note: not trained, left out: otam_frozen." in done.stderr
    assert "[16/16] trial 8/8: CLIP-FSAR on tiny: val " in done.stdout
    record = json.loads((tmp_path / "tuned" / "tiny" / "otam.json").read_text())
    chosen = record["trials"][record["chosen"]]
    assert chosen["accuracy"] == max(trial["accuracy"] for trial in record["trials"])
    (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith("otam ")]
    rate = chosen["values"]["train.optimizer.lr"]
    assert line.split() == [
        "otam",
        "tiny",
        "8",
        "8",
        "0.09",
        f"{chosen['accuracy']:.2f}",
        "0.08",
        f"train.optimizer.lr={rate}",
    ]
    assert f"stored in {tmp_path / 'tuned' / 'tiny'}" in done.stdout

    again = fsar("tune", "otam", f"dataset={tiny}", "budget=8", "jobs=1")
    assert "trial 1/8" not in again.stdout
    assert line.split() in [text.split() for text in again.stdout.splitlines()]
    shown = fsar("tune", "--show", "otam", f"dataset={tiny}").stdout
    assert line.split() in [text.split() for text in shown.splitlines()]
    assert f"{record['chosen'] + 1} * " in shown
    assert "Space: train.optimizer.lr: 1e-06 to 0.01, log." in shown
    (cell,) = resolve(["methods=otam", f"dataset={tiny}", "controls=false"]).cells
    assert cell.identity.train.optimizer["lr"] == rate


def test_a_method_that_fails_stops_no_other_and_the_exit_code_says_so(fsar, formula, tiny, tmp_path):
    done = fsar("tune", "trx,otam", f"dataset={tiny}", "budget=2", "jobs=1")
    assert done.returncode == 1
    assert "error: TRX on tiny: its process ended early" in done.stderr
    assert (tmp_path / "tuned" / "tiny" / "otam.json").exists()
    assert not (tmp_path / "tuned" / "tiny" / "trx.json").exists()


def test_ctrl_c_ends_in_order_with_what_is_tuned(fsar, formula, tiny, monkeypatch, tmp_path):
    def stopped(keys, cell, options, progress):
        if cell.name == "trx":
            raise KeyboardInterrupt
        return Measured(training=digest(1), curve=[(0, 50.0)], seconds=1.0, environment=HERE)

    monkeypatch.setattr(tuning, "trial_in_process", stopped)
    done = fsar("tune", "otam,trx", f"dataset={tiny}", "budget=2", "jobs=1")
    assert done.returncode == 130
    assert "1 of 2 methods tuned. Interrupted. Run the same command again to resume." in done.stderr
    assert "interrupted: trial 1/2: TRX on tiny" in done.stdout


def test_a_dry_run_lists_spaces_and_writes_nothing(fsar, tiny, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = fsar("tune", "ma_clip,otam", f"dataset={tiny}", "--dry-run")
    assert done.returncode == 0
    assert "method.label_sharpness: none, 10" in done.stdout
    assert "32 trials: no estimate" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["otam_frozen"], "Nothing is tuned: none of these methods is trained (otam_frozen)."),
        (["otam", "budget=1"], "budget=1 is too small: at least 2 is needed."),
        (["otam", "method.scale=2"], "tune has no key 'method.scale'. What is tuned are the settings of a config"),
        (["otam", "devices=2"], "devices=2 has no effect in a tuning"),
        (["otam", "launcher=ray"], "launcher=ray has no effect in a tuning"),
        (["otam", "shot=1,5"], "shot='1,5' has several values, and a tuning one."),
        (["otam", "tuned=none"], "tuned=none names no place for what is tuned"),
        (["otam", "methods=trx"], "Methods are named twice: otam and methods=trx."),
        (["ablations/table4"], "ablations/table4 are rows with settings of their own"),
        (["oatm"], "Unknown method 'oatm'. Did you mean 'otam'"),
        ([], "Which methods? Say fsar-bench tune NAME,NAME or all."),
        (["--show", "otam"], "Nothing that was named is tuned"),
        (["--show", "otam", "budget=3"], "tune --show has no key 'budget'."),
    ],
)
def test_what_cannot_be_tuned_is_one_line(fsar, tiny, arguments, text):
    done = fsar("tune", *arguments, f"dataset={tiny}")
    assert done.returncode == 1
    assert text in done.stderr
    assert done.stderr.count("error:") == 1


def test_without_optuna_the_error_says_what_to_install(fsar, tiny, monkeypatch):
    monkeypatch.setattr("fsar_bench.engine.tuning.proposals.find_spec", lambda name: None)
    done = fsar("tune", "otam", f"dataset={tiny}", "jobs=1")
    assert (done.returncode, "pip install 'fsar-bench[tune]'" in done.stderr) == (1, True)


def test_show_tells_a_tuning_of_another_backbone(fsar, tiny, tmp_path):
    path = write_tuning(tmp_path / "tuned", "otam", {"train.optimizer.lr": 0.002}, backbone="tiny_clip")
    path.rename(path.with_name("otam@tiny_clip.json"))
    assert "train.optimizer.lr=0.002" in fsar("tune", "--show", f"dataset={tiny}").stdout
