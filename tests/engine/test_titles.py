"""A title names a row, also of a cell that was finished under another title; nothing else of the result changes."""

from __future__ import annotations

import json


def test_a_finished_cell_takes_the_title_that_is_asked_for(run_tiny, tmp_path):
    (first,) = run_tiny("otam_frozen", controls=False)
    predictions = (first.folder / "predictions.npz").read_bytes()
    record = json.loads((first.folder / "result.json").read_text())
    (named,) = run_tiny("otam_frozen", controls=False, title="Ours, again")
    assert named.folder == first.folder
    assert "| Ours, again " in (tmp_path / "leaderboards" / "tiny-5way_1shot.md").read_text()
    assert (named.folder / "predictions.npz").read_bytes() == predictions
    renamed = json.loads((named.folder / "result.json").read_text())
    assert renamed["cell"]["label"].pop("named") == "Ours, again"
    assert renamed == record
    (back,) = run_tiny("otam_frozen", controls=False)
    assert json.loads((back.folder / "result.json").read_text()) == record
