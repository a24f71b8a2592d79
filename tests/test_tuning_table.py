"""tools.tuning_table: rows against the files of tunings themselves, and a page that is checked."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fsar_bench.config.tuned import read_tuning
from fsar_bench.engine.tuning.subject import subjects_of
from fsar_bench.engine.tuning.tune import complete
from tools import tuning_table

FILES = sorted((Path(__file__).parents[1] / "configs" / "tuned").rglob("*.json"))
pytestmark = pytest.mark.skipif(not FILES, reason="the configs are not here (tests run from an installed wheel)")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_row_tells_what_the_file_holds(path):
    raw = json.loads(path.read_text())
    title, budget, untuned, tuned, untrained, settings, hours, device = tuning_table.row(read_tuning(path), "Title")
    accuracies = [trial["accuracy"] for trial in raw["trials"]]
    best = raw["trials"][accuracies.index(max(accuracies))]
    assert title == "Title"
    assert budget == f"{len(accuracies)} × {raw['budget']['episodes']}"
    assert float(untuned) == pytest.approx(accuracies[0], abs=0.005)
    assert float(tuned) == pytest.approx(max(accuracies), abs=0.005)
    assert float(untrained) == pytest.approx(dict(map(tuple, best["curve"]))[0], abs=0.005)
    assert settings.startswith("kept: ") == (accuracies[0] == max(accuracies))
    assert all(f"`{key}=" in settings for key in best["values"])
    assert float(hours) == pytest.approx(sum(raw["spent"]["seconds"]) / 3600, abs=0.005)
    assert device == {"cpu": "CPU"}.get(raw["spent"]["device"], raw["spent"]["device"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_command_of_the_page_asks_for_what_the_file_holds(path):
    tuning = read_tuning(path)
    command = re.sub(r"\s+", " ", tuning_table.INTRO).partition("fsar-bench tune METHOD ")[2].partition("`")[0]
    words = command.replace("DATASET", tuning.dataset).replace("=N", f"={tuning.budget.trials}").split()
    (subject,) = subjects_of({"methods": tuning.method, **dict(word.split("=") for word in words)}).subjects
    assert complete(subject) == tuning


def test_hours_are_told_for_each_device():
    first, second, third = (
        SimpleNamespace(spent=SimpleNamespace(device=device, seconds=seconds))
        for device, seconds in (("cpu", [1800.0, 1800.0]), ("Card", [720.0]), ("cpu", [3600.0]))
    )
    assert tuning_table.hours_in_all([first, second, third]) == "2.0 on CPU and 0.2 on Card"
    assert tuning_table.hours_in_all([]) == "0"


def test_every_trained_method_is_in_each_section_once():
    text = "\n".join(tuning_table.sections())
    for section in text.split("\n## ")[1:]:
        missing = section.partition("so far: ")[2].strip().removesuffix(".").split("; ")
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) + len(missing) == len(tuning_table.trained_methods())


def test_a_page_that_is_out_of_date_fails_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning_table, "PAGE", tmp_path / "tuning.md")
    monkeypatch.setattr(sys, "argv", ["tuning_table"])
    assert tuning_table.main() == 0
    monkeypatch.setattr(sys, "argv", ["tuning_table", "--check"])
    assert tuning_table.main() == 0
    (tmp_path / "tuning.md").write_text("by hand")
    assert tuning_table.main() == 1
    assert "docs/tuning.md is out of date" in capsys.readouterr().err
