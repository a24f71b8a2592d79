"""A cell from its settings to its stored result, in this process: sameness, resumption after a kill at any stage, reuse."""

from __future__ import annotations

import gc
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import annotation_rows, children, children_that_stay, outputs, write_dataset

import fsar_bench
from fsar_bench.config.settings import RunOptions
from fsar_bench.engine import bank, checkpoint, hooks, loops, run, scoring
from fsar_bench.errors import (
    ConfigError,
    DataError,
    NotApplicableError,
    ProtocolError,
    ResultError,
    TrainingError,
    WeightsError,
)
from fsar_bench.progress import events
from fsar_bench.results import store

EVERY_STAGE = {  # trains, chooses on val, encodes and scores, in seconds
    "methods": "ma_clip",
    "backbone": "tiny_clip",
    "method.ffn_width": 64,
    "method.predict_alpha": "val",
    "train.episodes": 8,
    "episodes": 2500,
    "checkpoint_seconds": 0,
    "controls": False,
    "workers": 1,
    "progress": False,
}


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


class Fuse:
    """Replaces a function and raises `Killed` in its n-th call (that has something to store), after `half` did a part of it."""

    def __init__(self, monkeypatch, module, name: str, call: int, half=None) -> None:
        self.original, self.left, self.half = getattr(module, name), call, half
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args, **kwargs):
        self.left -= args[0] is not None  # of `_save(path, ...)`
        if self.left == 0:
            if self.half:
                self.half(*args)
            raise Killed
        return self.original(*args, **kwargs)

    def __get__(self, instance, owner=None):  # methods of classes are replaced as well
        return lambda *args, **kwargs: self(instance, *args, **kwargs) if instance else self(*args, **kwargs)


def half_a_checkpoint(state, file) -> None:
    file.write(b"PK half of a checkpoint")


POINTS = {
    "training": (loops.EpisodicTrainLoop, "run_iter", 6, None),
    "checkpoint": (checkpoint.torch, "save", 3, half_a_checkpoint),
    "first validation": (hooks, "_write_table", 1, None),
    "first episode": (loops.EpisodicTrainLoop, "run_iter", 1, None),  # the validation before it is not repeated
    "best": (checkpoint, "save", 1, None),
    "choosing": (run, "score_plan", 5, None),
    "encoding": (bank, "_save", 6, None),
    "scoring": (scoring, "_save", 2, None),
    "storing": (store, "to_json", 2, None),  # the record, after predictions and cost
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, cache):
    """The settings of a cell that has every stage, and the bytes of its undisturbed result."""
    folder = tmp_path_factory.mktemp("world")
    settings = {**EVERY_STAGE, "dataset": write_dataset(folder / "tiny.py", annotation_rows())}
    results = fsar_bench.run(**settings, out=folder / "leaderboards", work_dir=folder / "work_dirs")
    return settings, outputs(folder / "leaderboards"), results, folder


@pytest.fixture
def again(world, tmp_path):
    """Run the cell of `world` in folders of this test."""
    settings, *_ = world
    out, work = tmp_path / "leaderboards", tmp_path / "work_dirs"

    def call(**changes):
        fsar_bench.run(**{**settings, "out": out, "work_dir": work, **changes})
        return outputs(out)

    call.out, call.work = out, work
    return call


def test_an_undisturbed_run_stores_everything(world):
    _, files, results, folder = world
    (stored,) = results
    result = stored.result
    assert len(files) == 2
    assert result.episodes.selection_split == "val"
    assert result.metrics.pair_queries > 0
    assert 0 <= result.fitted["predict_alpha"] <= 1
    assert len(result.training_key) == 64
    assert stored.cost.seconds.train > 0
    assert stored.cost.memory.host > 50
    with np.load(stored.folder / "predictions.npz", allow_pickle=False) as packed:
        assert packed["prediction"].shape == (2500, 5)
        assert packed["prediction"].dtype == np.uint8
        assert set(np.unique(packed["pair"])) <= {0, 1, 2, 255}
    assert (stored.folder / "predictions.npz").stat().st_size < 20_000
    training = next((folder / "work_dirs").rglob("curve.csv")).parent
    points = [line.split(",")[0] for line in (training / "curve.csv").read_text().splitlines()[1:]]
    assert points == ["0", "4", "8"]
    assert len((training / "loss.csv").read_text().splitlines()) == 9
    assert (training / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("point", POINTS)
def test_an_interrupted_cell_resumes_to_the_same_bytes(world, again, monkeypatch, point):
    _, expected, _, folder = world
    with monkeypatch.context() as patch:
        Fuse(patch, *POINTS[point][:2], POINTS[point][2], half=POINTS[point][3])
        with pytest.raises(Killed):
            again()
    assert not any(name.endswith("result.json") for name in outputs(again.out))
    assert again() == expected
    curves = [next(root.rglob("*-training-*/curve.csv")).read_text() for root in (again.work, folder / "work_dirs")]
    assert curves[0] == curves[1]  # no point twice, none lost
    losses = [next(root.rglob("*-training-*/loss.csv")).read_text() for root in (again.work, folder / "work_dirs")]
    assert losses[0] == losses[1]
    log = "".join(path.read_text() for path in again.work.rglob("*.log"))
    assert bool(re.search(r"resumed after [246] episodes", log)) == (point in ("training", "checkpoint"))


@pytest.mark.parametrize("changes", [{"workers": 2, "score_batch": 33}, {"workers": 0, "bank_budget": "1kB"}])
def test_same_bytes_whatever_the_workers_the_batch_the_memory_and_the_cache(
    world, again, monkeypatch, tmp_path, changes
):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "empty_cache"))
    assert again(**changes) == world[1]


def test_a_training_over_a_damaged_state_starts_again_with_a_word(world, again, monkeypatch):
    with monkeypatch.context() as patch:
        Fuse(patch, loops.EpisodicTrainLoop, "run_iter", 6)
        with pytest.raises(Killed):
            again()
    path = next(again.work.rglob("last.pt"))
    path.write_bytes(path.read_bytes()[:-5000])
    assert again() == world[1]
    told = f"Damaged, or made from something else: the training state in {path.parent}. The training starts again."
    assert told in events._warned


def test_finished_cells_are_reused_and_damage_is_named(run_tiny, tmp_path):
    quick = {"methods": ["prototype_frozen", "zero_shot"], "episodes": 300, "shot": [1, 5]}
    first = run_tiny(**quick)
    before = outputs(tmp_path / "leaderboards")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(run_tiny(**quick)) == len(first) == 4
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    by_shot = {s.result.protocol.shot: s.result.metrics for s in first if s.result.name == "zero_shot"}
    assert by_shot[1] == by_shot[5]  # text alone: the same at 1 and 5 shots, to the last digit
    blind = [s.result.metrics.pair_accuracy for s in first if s.result.name == "prototype_frozen"]
    assert all(abs(accuracy - 50) < 12 for accuracy in blind)

    path = next((tmp_path / "leaderboards").rglob("zero_shot*/result.json"))
    path.write_text(path.read_text()[:200])
    with pytest.raises(ResultError, match=rf"{path.parent.name}/result\.json is damaged"):
        run_tiny(**quick)
    run_tiny(**quick, overwrite=True)
    assert outputs(tmp_path / "leaderboards") == before


def test_overwrite_spares_a_folder_in_which_another_run_works(run_tiny, tmp_path):
    from filelock import FileLock

    run_tiny("zero_shot")
    folder = next((tmp_path / "work_dirs").rglob("scores-*")).parent
    with FileLock(folder / ".lock"), pytest.raises(ResultError, match="Another run is working in"):
        run_tiny("zero_shot", overwrite=True)
    assert list(folder.glob("scores-*"))
    assert run_tiny("zero_shot", overwrite=True)


def test_a_failing_cell_does_not_stop_the_others(run_tiny, tmp_path):
    (tmp_path / "failing_code.py").write_text(
        "from fsar_bench.methods.zero_shot import ZeroShot\nfrom fsar_bench.errors import DataError\n"
        "from fsar_bench.registry import METHODS\n\n"
        "@METHODS.register_module(force=True)\nclass Failing(ZeroShot):\n"
        "    def score(self, *_):\n        raise DataError('A clip is gone.')\n"
    )
    (tmp_path / "failing.py").write_text('custom_imports = ["failing_code"]\nmethod = dict(type="Failing")\n')
    with pytest.raises(DataError, match=r"failing on tiny, 5-way 1-shot: A clip is gone\. \(1 of 2 cells failed"):
        run_tiny([str(tmp_path / "failing.py"), "prototype_frozen"], controls=False)
    assert any("1shot" in name for name in outputs(tmp_path / "leaderboards"))
    assert "Prototype, frozen" in (tmp_path / "leaderboards" / "tiny-5way_1shot.md").read_text()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"way": 7}, ProtocolError, "The test split has 6 classes, fewer than way=7"),
        ({"device": "cuda:9"}, ConfigError, "device='cuda:9' does not exist"),
        ({"device": "tpu"}, ConfigError, "device='tpu' is unknown"),
        ({"reader": "decrd"}, ConfigError, "Did you mean 'decord'"),
        ({"backbone": "tiny_resnet"}, NotApplicableError, "zero_shot uses class names, and the backbone tiny_resnet"),
    ],
)
def test_what_does_not_fit_is_named(run_tiny, settings, error, message):
    with pytest.raises(error, match=re.escape(message)):
        run_tiny("zero_shot", controls=False, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "cannot be decoded by the reader 'pyav'"),
        (lambda data: b"GIF89a no video", "cannot be decoded by the reader 'pyav'"),
    ],
)
def test_a_bad_clip_stops_the_cell_and_is_named(run_tiny, tmp_path, change, message):
    table = annotation_rows()
    bad = next(row for row in table["clips"] if row["class"] == table["classes"][-1]["name"])
    path = tmp_path / "bad.mp4"
    path.write_bytes(change(Path(bad["path"]).read_bytes()))
    bad.pop("sha256")
    bad["path"] = str(path)
    dataset = write_dataset(tmp_path / "bad.py", table)
    with pytest.raises(DataError, match=rf"Clip {bad['id']!r} {message}.*{re.escape(str(path))}"):
        run_tiny("prototype_frozen", dataset=dataset)


def test_new_clips_are_hashed_first_and_known_ones_never_again(tiny, tmp_path, monkeypatch):
    """With events that count them; in the second run of the same clips nothing is told."""
    from fsar_bench.config.resolve import resolve
    from fsar_bench.data import contents

    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "EVERY", 0.0)
    told = []
    for seed in (1, 2):
        (cell,) = resolve([
            "methods=otam", f"dataset={tiny}", "backbone=tiny_clip", "train.episodes=4", "episodes=20", f"seed={seed}",
            f"out={tmp_path / 'out'}", f"work_dir={tmp_path / 'work'}", "workers=1",
        ]).cells  # fmt: skip
        events: list = []
        run.run_cell(cell, RunOptions(out=tmp_path / "out", work_dir=tmp_path / "work", workers=1), events.append)
        told.append([event for event in events if event.stage.startswith("hashing clips")])
        stages = list(dict.fromkeys(event.stage for event in events))
        contents._shard.cache_clear()
    assert [(event.stage, event.done, event.total) for event in told[0]] == [
        *(("hashing clips", done, 84) for done in range(85)),
        *(("hashing clips", done, 42) for done in range(43)),
    ]
    assert told[1] == []
    assert stages.index("training") < stages.index("encoding")


def test_a_damaged_test_clip_is_named_before_the_training(run_tiny, tmp_path):
    rows = annotation_rows()
    test = next(row["name"] for row in rows["classes"] if row["split"] == "test")
    clip = next(row for row in rows["clips"] if row["class"] == test)
    (tmp_path / "other.mp4").write_bytes(Path(clip["path"]).read_bytes() + b"x")
    clip["path"] = str(tmp_path / "other.mp4")
    with pytest.raises(DataError, match=r"is damaged: .*other\.mp4"):
        run_tiny("otam", dataset=write_dataset(tmp_path / "bad.py", rows), seed=0)
    assert not list((tmp_path / "work_dirs").rglob("best.safetensors"))


def test_a_hanging_reader_stops_the_cell_and_names_the_clip(run_tiny, tmp_path):
    (tmp_path / "slow_reader.py").write_text(
        "import time\nfrom fsar_bench.registry import READERS\n\n"
        '@READERS.register_module(name="slow")\nclass Slow:\n    version = "slow 1"\n'
        "    def open(self, path):\n        time.sleep(600)\n"
    )
    (tmp_path / "custom.py").write_text(
        'custom_imports = dict(imports=["slow_reader"])\nmethod = dict(type="ZeroShot", temperature=100.0)\n'
    )
    with pytest.raises(DataError, match=r"Clip '.*' was not decoded within 2 s by the reader 'slow'"):
        run_tiny(str(tmp_path / "custom.py"), reader="slow", decode_timeout=2.0, controls=False)


def test_a_run_ends_its_decode_processes_although_its_traceback_and_mmengines_runner_stay(
    run_tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "first"))  # no clip is decoded already
    before = children()
    gc.disable()
    try:
        run_tiny("otam", controls=False, episodes=20)
        assert children_that_stay(before, seconds=2) == []
        monkeypatch.setenv("FSAR_BENCH_CACHE", str(tmp_path / "second"))
        Fuse(monkeypatch, run, "score_plan", 1)
        with pytest.raises(Killed) as kept:
            run_tiny("prototype_frozen", controls=False, episodes=20, seed=1)
        assert children_that_stay(before, seconds=2) == []
        assert kept.tb
    finally:
        gc.enable()


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(run_tiny, tmp_path):
    (tmp_path / "nan_method.py").write_text(
        "from fsar_bench.methods.metric import MetricMethod\n"
        "from fsar_bench.registry import METHODS\n\n@METHODS.register_module()\nclass Breaks(MetricMethod):\n"
        "    steps = 0\n    def loss(self, episodes):\n        losses = super().loss(episodes)\n        self.steps += 1\n"
        '        return {k: v * (float("nan") if self.steps == 6 else 1) for k, v in losses.items()}\n'
    )
    (tmp_path / "breaks.py").write_text(
        'custom_imports = dict(imports=["nan_method"])\n'
        'method = dict(type="Breaks", matcher=dict(type="OTAM"), tune="visual")\ntrain = dict(optimizer=dict(lr=1e-4))\n'
    )
    with pytest.raises(TrainingError, match=r"The loss is nan.*train\.optimizer\.lr"):
        run_tiny(str(tmp_path / "breaks.py"), controls=False)
    folder = next((tmp_path / "work_dirs").rglob("last.pt")).parent
    assert (folder / "curve.csv").read_text().splitlines()[-1].startswith("4,")
    assert run_tiny("zero_shot", controls=False)  # the failed training does not keep the test split closed


def test_methods_with_heads_of_their_own_train_and_score(run_tiny, tmp_path):
    results = run_tiny(["hyrsm", "molo", "trx"], controls=False)
    assert len(results) == 3
    for stored in results:
        assert 10_000 < stored.result.parameters.trainable < stored.result.parameters.total
        assert stored.result.episodes.selection_split == "val"
        labels = stored.predictions()
        assert len(np.unique(labels)) == 5  # it does not give all queries one label
    run_tiny("molo", method={"motion_weight": 0.0}, controls=False)
    trainings = list((tmp_path / "work_dirs").rglob("molo-training-*/best.safetensors"))
    assert len(trainings) == 1  # one training for both


def test_weights_of_the_score_are_chosen_on_val_alone(run_tiny):
    results = run_tiny("tip_adapter", method={"weights": ["fixed", "val"]}, controls=False)
    by_weights = {s.result.cell.identity.method["weights"]: s.result for s in results}
    assert by_weights["fixed"].fitted is None
    assert by_weights["fixed"].episodes.selection_split is None
    assert set(by_weights["val"].fitted) == {"alpha", "beta"}
    assert by_weights["val"].episodes.selection_split == "val"


def test_controls_that_do_not_apply_are_left_out(run_tiny, tiny):
    tiny.write_text(tiny.read_text().replace("controls = []", 'controls = ["zero_shot", "prototype_frozen"]'))
    results = run_tiny("otam_frozen", backbone="tiny_resnet")
    assert sorted(s.result.name for s in results) == ["otam_frozen", "prototype_frozen"]
    first = {s.result.name: s.result.predictions for s in results}
    repeated = run_tiny("otam_frozen", backbone="tiny_resnet", overwrite=True)
    assert {s.result.name: s.result.predictions for s in repeated} == first  # random weights are seeded


def test_custom_modules_that_break_are_named(run_tiny, tmp_path):
    (tmp_path / "lost.py").write_text('custom_imports = dict(imports=["nowhere_at_all"])\nmethod = dict(type="X")\n')
    with pytest.raises(ConfigError, match="Cannot import 'nowhere_at_all'"):
        run_tiny(str(tmp_path / "lost.py"), controls=False)
    (tmp_path / "odd.py").write_text('method = dict(type="MetricMethd")\n')
    with pytest.raises(ConfigError, match="Did you mean 'MetricMethod'"):
        run_tiny(str(tmp_path / "odd.py"), controls=False)
    (tmp_path / "dotted.py").write_text('method = dict(type="os.system", command="touch owned")\n')
    with pytest.raises(ConfigError, match=r"method\.type='os\.system' is not the name of a registered class"):
        run_tiny(str(tmp_path / "dotted.py"), controls=False)


def test_an_official_checkpoint_is_converted_and_evaluated_without_training(run_tiny, tmp_path, fsar, tiny):
    from fsar_bench.backbones import CLIPBackbone
    from fsar_bench.methods.clip_fsar import CLIPFSAR, OFFICIAL_BLOCK

    torch.manual_seed(5)
    clip = CLIPBackbone("tiny_clip", None, quick_gelu=False, resize=32, crop=32)
    source = CLIPFSAR(clip, {"type": "OTAM", "smoothing": 0.5}, ffn_width=64)
    state = {f"head.backbone.{k}": v for k, v in clip.visual.state_dict().items()}
    for theirs, ours in OFFICIAL_BLOCK.items():
        layer = source.modulation.get_submodule(ours)
        state |= {f"head.context2.layers.{theirs}.{k}": v for k, v in layer.state_dict().items()}
    state["head.scale"] = torch.tensor([2.5])
    official = tmp_path / "checkpoint_epoch_00014.pyth"
    torch.save({"epoch": 14, "model_state": state, "optimizer_state": {}, "cfg": "TRAIN: ..."}, official)
    common = ("backbone=tiny_clip", f"dataset={tiny}", "episodes=100", "workers=1")
    code, out, err = fsar("convert", "clip_fsar", official.name, *common, "out=ours.safetensors")
    assert code == 0, err
    assert "fsar-bench run methods=clip_fsar checkpoint=ours.safetensors" in out
    settings = {"backbone": "tiny_clip", "controls": False, "checkpoint": str(tmp_path / "ours.safetensors")}
    (stored,) = run_tiny("clip_fsar", **settings)
    assert stored.result.training_key is None
    sha = hashlib.sha256((tmp_path / "ours.safetensors").read_bytes()).hexdigest()
    assert stored.result.cell.label.changed == {"checkpoint": f"ours.safetensors@{sha[:8]}"}
    assert not list((tmp_path / "work_dirs").rglob("*training*"))
    code, _, err = fsar("convert", "clip_fsar", official.name, *common, "out=ours.safetensors")
    assert (code, "ours.safetensors exists" in err) == (1, True)
    official.write_bytes(official.read_bytes()[:5000])
    code, _, err = fsar("convert", "clip_fsar", official.name, *common, "out=cut.safetensors")
    assert (code, "is damaged or not one of tensors" in err) == (1, True)
    with pytest.raises(WeightsError, match="does not fit this method"):
        run_tiny("otam", **settings)
    with pytest.raises(ConfigError, match=r"none of these methods is trained \(otam_frozen\)"):
        run_tiny("otam_frozen", **settings)


def test_the_record_tells_its_cell(world):
    _, files, results, _ = world
    record = json.loads(next(data for name, data in files.items() if name.endswith("result.json")))
    cell = record["cell"]
    assert cell["label"]["changed"] == {"method.ffn_width": "64", "method.predict_alpha": "val", "train.episodes": "8"}
    assert cell["identity"]["train"]["episodes"] == 8
    assert "setup" not in cell
    (stored,) = results
    assert str(stored.result.cell).startswith("MA-CLIP (method.ffn_width=64, ")
