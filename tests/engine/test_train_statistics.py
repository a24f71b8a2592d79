"""Statistics of the train split: every clip of it once, nothing of val and test, and only for methods that are not trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import annotation_rows, write_dataset

from fsar_bench.errors import ConfigError, ProtocolError

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


def test_a_tested_clip_among_those_of_the_statistics_is_a_leak(run_tiny, tmp_path):
    table = annotation_rows()
    split_of = {c["name"]: c["split"] for c in table["classes"]}
    tested = next(clip for clip in table["clips"] if split_of[clip["class"]] == "test")
    learned = next(clip for clip in table["clips"] if split_of[clip["class"]] == "train")
    learned |= {key: tested[key] for key in ("path", "sha256")}
    write_dataset(tmp_path / "tiny.py", table)
    with pytest.raises(ProtocolError, match="also in the train split of tiny, on which methods are trained"):
        run_tiny([write(tmp_path)], controls=False)
    assert run_tiny("bi_mhm_frozen", controls=False)  # which learns nothing there


def test_the_test_split_is_closed_while_statistics_are_learned(run_tiny, tmp_path):
    config = write(tmp_path)
    module = tmp_path / f"centred_{tmp_path.name}.py"
    peek = f"""
        from fsar_bench.data.dataset import open_dataset
        from fsar_bench.errors import ProtocolError
        try:
            open_dataset(name="tiny", annotation={str(tmp_path / "tiny.json")!r}).split("test")
        except ProtocolError:
            (Path({str(tmp_path)!r}) / "closed").touch()
        self.mean = """
    module.write_text(module.read_text().replace("\n        self.mean = ", peek, 1))
    run_tiny([config], controls=False)
    assert (tmp_path / "closed").exists()


def test_scores_of_other_train_clips_are_not_reused(run_tiny, tmp_path):
    table = annotation_rows()
    split_of = {c["name"]: c["split"] for c in table["classes"]}
    first, second = [clip for clip in table["clips"] if split_of[clip["class"]] == "train"][:2]
    copy = Path(shutil.copy(first["path"], tmp_path / "clip.mp4"))
    first["path"] = str(copy)
    del first["sha256"]
    write_dataset(tmp_path / "tiny.py", table)
    (before,) = run_tiny([write(tmp_path)], controls=False)
    (before.folder / "result.json").unlink()
    shutil.copy(second["path"], copy)
    (after,) = run_tiny([write(tmp_path)], controls=False)
    assert after.result.config_hash == before.result.config_hash
    assert after.result.data.learned_from != before.result.data.learned_from
    assert len(list((tmp_path / "work_dirs").rglob("scores-*"))) == 2
