"""Statistics of the train split: every clip of it once, nothing of val and test, and only for methods that are not trained."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import annotation_rows

from fsar_bench.errors import ConfigError

CENTRED = '''
from pathlib import Path

import torch
from fsar_bench.method import METHODS, FewShotMethod, Scores, Traits


@METHODS.register_module(force=True)
class Centred(FewShotMethod):
    """Frames minus their mean over the train split."""

    traits = Traits(uses_class_names=False, trainable={trainable}, transductive=False, order_sensitive=False)
    role_free = True
    reads_train_bank = True

    def __init__(self, backbone):
        super().__init__(backbone)
        self.register_buffer("mean", torch.full((backbone.embedding_width,), torch.nan))

    def learn_from_bank(self, features, classes):
        torch.save((features.frames, classes), Path({folder!r}) / "seen.pt")
        self.mean = features.frames.mean((0, 1))

    def score(self, support, query, class_text):
        s, q = (x.frames.mean(-2) - self.mean for x in (support, query))
        return Scores(-torch.cdist(q, s.mean(2)))
'''


def write(folder, *, trainable: bool = False) -> str:
    """A config and its module, of a name of its own: a process imports one version of a module."""
    name = f"centred_{folder.name}"
    (folder / f"{name}.py").write_text(CENTRED.format(folder=str(folder), trainable=trainable))
    train = "train = dict(episodes=2)" if trainable else ""
    (folder / "centred.py").write_text(f'custom_imports = ["{name}"]\nmethod = dict(type="Centred")\n{train}\n')
    return str(folder / "centred.py")


def test_every_train_clip_is_seen_once_with_its_class(run_tiny, tmp_path):
    (stored,) = run_tiny([write(tmp_path)], controls=False)
    frames, classes = torch.load(tmp_path / "seen.pt", weights_only=True)
    table = annotation_rows()
    train = [c["name"] for c in table["classes"] if c["split"] == "train"]
    of_train = [clip["class"] for clip in table["clips"] if clip["class"] in train]
    assert sorted(classes.bincount().tolist()) == sorted(of_train.count(name) for name in train)
    assert len(frames) == len(of_train)
    assert len({tuple(row.flatten().tolist()) for row in frames}) == len(frames)
    assert stored.result.data.learned_from is not None
    assert (
        json.loads((stored.folder / "result.json").read_text())["data"]["learned_from"]
        == stored.result.data.learned_from
    )


def test_rows_without_such_statistics_do_not_record_any(run_tiny):
    (stored,) = run_tiny(["bi_mhm_frozen"], controls=False)
    assert "learned_from" not in json.loads((stored.folder / "result.json").read_text())["data"]


def test_the_train_split_cannot_be_tested_then(run_tiny, tmp_path):
    (tmp_path / "on_train.py").write_text('protocol = dict(split="train")\n')
    with pytest.raises(ConfigError, match="which centred is trained or selected on"):
        run_tiny([write(tmp_path)], controls=False, protocol=str(tmp_path / "on_train.py"))


def test_trained_methods_have_none(run_tiny, tmp_path):
    with pytest.raises(ConfigError, match="statistics of the train split are for methods that are not trained"):
        run_tiny([write(tmp_path, trainable=True)], controls=False)
