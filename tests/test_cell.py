"""A cell's keys and guards, without running it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsar_bench.config.resolve import resolve
from fsar_bench.data.dataset import Dataset
from fsar_bench.data.decode import ReadPlan
from fsar_bench.data.frames import FrameSource
from fsar_bench.engine import run as cells
from fsar_bench.engine.bank import FeatureBank
from fsar_bench.engine.scoring import score_plan
from fsar_bench.errors import ConfigError, ProtocolError
from fsar_bench.method import Scores, VideoFeatures
from fsar_bench.methods.zero_shot import ZeroShot
from fsar_bench.plan import ClipList, EpisodePlan


def keys(*pairs: str) -> list:
    out = []
    for cell in resolve([*pairs, "controls=false"]).cells:
        method = cells.build_method(cell, for_training="train" in cell)
        dataset = Dataset(**cell["dataset"])
        splits = [dataset.split(name) for name in ("train", "val")]
        with FrameSource(ReadPlan(cell["reader"], 60, 60, cell["protocol"]["frames"]), workers=1, seconds=60) as source:
            out.append(cells._keys(cell, method, splits, source, torch.device("cpu")))
    return out


def test_arguments_of_the_score_alone_share_a_training_and_its_selection():
    run = resolve(["methods=clip_fsar", "method.mode=text,visual,ensemble", "controls=false"])
    for cell in run.cells:
        assert cells.build_method(cell, for_training=True).mode == "visual"
        assert cells.build_method(cell).mode == cell["method"]["mode"]
    assert len({key.training for key in keys("methods=clip_fsar", "method.mode=text,visual,ensemble", "shot=1,5")}) == 1


def test_what_changes_a_checkpoint_changes_the_training_key():
    changes = [
        "seed=1",
        "method.alpha=0.4",
        "train.episodes=60",
        "frames=4",
        "template=a clip of {}",
        "dataset=synthact_order",
        "group_disjoint=true",
        "train.seed=1",
    ]
    base = keys("methods=ma_clip")[0].training
    assert all(keys("methods=ma_clip", change)[0].training != base for change in changes)


def test_a_training_seed_changes_the_training_alone():
    plain, same, other = (
        resolve(["methods=ma_clip", "controls=false", *more]).cells[0]
        for more in ([], ["train.seed=0"], ["train.seed=1"])
    )
    assert plain["hash"] == same["hash"] != other["hash"]
    assert plain["title"] == other["title"]
    assert plain["protocol"] == other["protocol"]
    assert (cells._training_seed(plain), cells._training_seed(other)) == (0, 1)
    along = resolve(["methods=ma_clip,prototype_frozen", "controls=false", "train.seed=0,1"]).cells
    assert [cell["name"] for cell in along] == ["ma_clip", "ma_clip", "prototype_frozen"]
    with pytest.raises(ConfigError, match="no method of these is trained"):
        resolve(["methods=prototype_frozen", "controls=false", "train.seed=1"])
    with pytest.raises(ConfigError, match=r"train\.seed=-1 must be a whole number"):
        resolve(["methods=ma_clip", "train.seed=-1"])


def test_a_tuned_encoder_records_its_pretrained_weights():
    tuned, frozen = keys("methods=otam")[0], keys("methods=otam_frozen")[0]
    assert tuned.weights == frozen.weights


@pytest.fixture
def setting():
    clips = ClipList.of([(f"c{c}", f"c{c}_{i}") for c in range(5) for i in range(3)])
    plan = EpisodePlan.sample(clips, way=5, shot=1, query=1, episodes=20, seed=0, purpose="test")
    features = VideoFeatures(frames=torch.randn(15, 8, 4))
    return FeatureBank(np.arange(15), features, features, 0.0), plan, torch.randn(5, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda total: total * float("nan"), "not numbers"), (lambda total: total[..., :3], r"shape \(7, 5, 3\), not")],
)
def test_scores_that_are_no_scores_are_refused(setting, spoil, message):
    class Spoilt(ZeroShot):
        def score(self, support, query, class_text):
            return Scores(spoil(super().score(support, query, class_text).total))

    bank, plan, text = setting
    with pytest.raises(ProtocolError, match=message):
        score_plan(Spoilt(torch.nn.Identity()), bank, plan, text, batch=7)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_scores_do_not_depend_on_the_batch(setting, batch):
    bank, plan, text = setting
    method = ZeroShot(torch.nn.Identity())
    whole = score_plan(method, bank, plan, text, batch=20)
    assert np.allclose(score_plan(method, bank, plan, text, batch=batch).total, whole.total, atol=1e-4)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.accumulate=0", "train.accumulate=0 is too small"),
        ("train.val_interval=3", "must be a multiple of train.accumulate"),
        ("train.warmup=1.5", "must lie in 0..1"),
        ("method.alpha=nan", "method.alpha='nan' must be a number"),
        ("score_batch=0", "score_batch=0 must be above 0"),
        ("template=a {x} of {}", "no other brace"),
    ],
)
def test_settings_are_checked_before_anything_runs(pair, message):
    with pytest.raises(ConfigError, match=message):
        resolve(["methods=ma_clip", pair])
