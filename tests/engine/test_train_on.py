"""Trained on one dataset, tested on another; and the rows that checkpoints make."""

from __future__ import annotations

import json
import re

import pytest
from helpers import annotation_rows, outputs, write_dataset
from safetensors.torch import load_file, save_file

from fsar_bench.errors import WeightsError


@pytest.fixture
def other(tmp_path):
    """Another dataset: more clips of the same classes, and a training of its own seed."""
    path = write_dataset(tmp_path / "other.py", annotation_rows(clips=9), train=", seed=3")
    path.write_text(path.read_text().replace('name="tiny"', 'name="other"').replace('"Tiny"', '"Other"'))
    return path


def trainings(folder) -> list[str]:
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("finished.json"))


def test_a_training_elsewhere_is_the_one_that_is_made_there(run_tiny, other, tiny, tmp_path):
    settings = {"controls": False, "work_dir": tmp_path / "shared"}
    (there,) = run_tiny("otam", dataset=other, **settings)
    (here,) = run_tiny("otam", dataset=tiny, train_on=other, **settings)
    assert trainings(tmp_path / "shared") == [f"other/otam-training-{there.result.training_key[:8]}"]
    assert here.result.training_key == there.result.training_key
    assert here.result.cell.identity.train == there.result.cell.identity.train  # the recipe of where it is trained
    (home,) = run_tiny("otam", dataset=tiny, **settings)
    assert home.result.training_key != here.result.training_key
    assert (here.result.trained_on, home.result.trained_on) == ("other", "tiny")
    assert here.result.cell.label.row == "OTAM (train_on=other)"
    rows = json.loads((tmp_path / "leaderboards" / "leaderboard.json").read_text())
    (board,) = [board for board in rows if board["title"].startswith("Tiny")]
    assert {row["title"]: (row["trained_on"], row["checkpoints"]) for row in board["rows"]} == {
        "OTAM (train_on=other)": ("other", [f"training-{here.result.training_key[:8]}"]),
        "OTAM": ("tiny", [f"training-{home.result.training_key[:8]}"]),
    }
    page = (tmp_path / "leaderboards" / "tiny-5way_1shot.md").read_text()
    assert "| trained on" in page
    assert "| checkpoint" not in page


def test_it_repeats_whichever_cell_comes_first(run_tiny, other, tiny, tmp_path):
    both = {"controls": False, "train_on": other, "dataset": [other, tiny]}
    run_tiny("otam", **both, out=tmp_path / "a", work_dir=tmp_path / "aw")
    run_tiny("otam", **{**both, "dataset": [tiny, other]}, out=tmp_path / "b", work_dir=tmp_path / "bw")
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
    assert len(outputs(tmp_path / "a")) == 4


def test_rows_of_different_checkpoints_have_different_titles(run_tiny, tiny, tmp_path):
    run_tiny("otam", controls=False)
    state = load_file(next((tmp_path / "work_dirs").rglob("best.safetensors")))
    titles = set()
    for factor in (1.0, 0.5):  # two files of one name; another shot than in training
        path = tmp_path / str(factor) / "best.safetensors"
        path.parent.mkdir()
        save_file({name: factor * tensor for name, tensor in state.items()}, path)
        (stored,) = run_tiny("otam", controls=False, shot=2, checkpoint=path)
        titles.add(stored.result.cell.label.row)
        assert re.fullmatch(r"OTAM \(checkpoint=best\.safetensors@[0-9a-f]{8}\)", stored.result.cell.label.row)
    assert len(titles) == 2
    assert "| checkpoint" in (tmp_path / "leaderboards" / "tiny-5way_2shot.md").read_text()


def test_a_checkpoint_of_other_frames_names_what_differs(run_tiny, tiny, tmp_path):
    run_tiny("ma_clip", controls=False, frames=4)
    best = next((tmp_path / "work_dirs").rglob("best.safetensors"))
    run_tiny("ma_clip", controls=False, frames=4, shot=2, checkpoint=best)
    with pytest.raises(WeightsError, match=r"does not fit this method.*\[4, .*\[8, .*frames="):
        run_tiny("ma_clip", controls=False, frames=8, checkpoint=best)
