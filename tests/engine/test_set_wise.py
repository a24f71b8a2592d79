"""A method that encodes the videos of an episode together, from training to its stored result and one episode explained."""

from __future__ import annotations

import shutil

import numpy as np
from helpers import outputs

from fsar_bench.engine import bank, scoring
from fsar_bench.explain.episode import explain_stored

SETTINGS = {
    "methods": "task_adapter",
    "controls": False,
    "episodes": 50,
    "train.episodes": 2,
    "train.val_interval": 2,
    "train.val_episodes": 5,
}


def test_a_set_wise_method_runs_end_to_end_whatever_the_memory(run_tiny, tmp_path, monkeypatch):
    out, work = tmp_path / "leaderboards", tmp_path / "work_dirs"
    (stored,) = run_tiny(**SETTINGS)
    expected = outputs(out)
    traits = stored.result.traits
    assert traits.set_wise
    assert traits.transductive
    banks = list(work.rglob("bank"))
    assert [path for folder in banks for path in folder.iterdir()]  # tokens of the tiny CLIP are small

    for folder in [out, *work.rglob("scores-*"), *banks]:  # all but the training
        shutil.rmtree(folder)
    monkeypatch.setattr(scoring, "GATHERED", 10 * 8 * 17 * 32 * 4 * 3)  # three episodes of 8 frames with 17 tokens
    monkeypatch.setattr(bank, "LARGEST", 1000)
    (stored,) = run_tiny(**SETTINGS, score_batch=33)
    assert outputs(out) == expected
    assert not list(work.rglob("bank/*"))

    explained = explain_stored(stored, [f"work_dir={work}"], 3)
    with np.load(stored.folder / "predictions.npz") as packed:
        assert (explained.prediction == packed["prediction"][3]).all()
    assert np.allclose(explained.scores["total"], 64 * explained.scores["visual"] * explained.scores["text"], atol=1e-3)
