"""Preflight: what can be known to fail is said once, before the first cell starts."""

from __future__ import annotations

import json
import re

import pytest
import torch
from helpers import annotation_rows, write_dataset
from safetensors.torch import save_file

from fsar_bench import errors
from fsar_bench.config.resolve import resolve
from fsar_bench.config.shipped import DATASETS, is_as_shipped, parts
from fsar_bench.data.dataset import open_dataset
from fsar_bench.engine.components import ComponentCheck
from fsar_bench.engine.preflight import preflight
from fsar_bench.errors import ConfigError, FsarBenchError, NotApplicableError, ProtocolError, WeightsError


@pytest.fixture
def check(tiny, tmp_path):
    """Resolve settings on the tiny dataset and check the cells in this process."""

    def run(*pairs: str, isolate: bool = False):
        given = {pair.partition("=")[0] for pair in pairs}
        defaults = {
            "dataset": tiny, "backbone": "tiny_clip", "controls": "false", "out": tmp_path / "out", "work_dir": tmp_path / "work",
        }  # fmt: skip
        work = resolve([*pairs, *(f"{key}={value}" for key, value in defaults.items() if key not in given)])
        return preflight(work.cells, work.options, isolate=isolate)

    return run


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (["way=7"], ProtocolError, "The test split has 6 classes, fewer than way=7: say way=6."),
        (["shot=7"], ProtocolError, "has 7 clips, fewer than shot + query = 8. Lower shot= or query="),
        (["query=7"], ProtocolError, "has 7 clips, fewer than shot + query = 8"),
        (
            ["train.way=7"], ProtocolError, "The train split has 6 classes, fewer than train.way=7: say train.way=6.",
        ),
        (["train.query_per_class=7"], ProtocolError, "Lower train.shot= or train.query_per_class="),
        (["matcher=OTAMM"], ConfigError, "No matcher 'OTAMM' is registered. Did you mean 'OTAM'"),
        (["reader=decrd"], ConfigError, "No reader 'decrd' is registered. Did you mean 'decord'"),
        (["device=tpu"], ConfigError, "device='tpu' is unknown"),
        (["device=cuda:9"], ConfigError, "device='cuda:9' does not exist"),
        (["pretrained=/nowhere/w.pt"], WeightsError, "/nowhere/w.pt of tiny_clip does not exist"),
        (["train.optimizer.type=Adamm"], ConfigError, "Did you mean 'Adam'"),
        (["train.optimizer.momentun=1"], ConfigError, "The optimizer 'AdamW' cannot be built"),
        (['train.hooks=[{"type": "EMAHok"}]'], ConfigError, "Did you mean 'EMAHook'"),
        (['train.scheduler={"type": "ConstantLR", "factr": 1.0}'], ConfigError, "cannot be built"),
        (["method.matcher.smoothing=0", "matcher=OTAM"], ConfigError, "of OTAM must be above 0"),
        (["train.optimizer.lr=-1"], ConfigError, "train.optimizer cannot be used: ValueError: Invalid learning rate: -1"),
        (["method.matcher.smoothin=1", "matcher=OTAM"], ConfigError, "It takes: smoothing, bidirectional"),
    ],
)  # fmt: skip
def test_every_problem_is_said_before_anything_is_run(check, pairs, error, message):
    with pytest.raises(
        (error, ConfigError), match=re.escape(message)
    ) as raised:  # ConfigError where it has consequences
        check("methods=otam,bi_mhm", *pairs)
    assert str(raised.value).count(message) == 1  # once, although both cells have it
    assert "othing was run" in str(raised.value)


def test_too_few_classes_of_val_are_said_with_what_to_do(check, tmp_path):
    rows = annotation_rows()
    val = [row["name"] for row in rows["classes"] if row["split"] == "val"][3:]
    rows = {kind: [row for row in rows[kind] if row.get("class", row.get("name")) not in val] for kind in rows}
    dataset = write_dataset(tmp_path / "few.py", rows)
    message = "The val split, on which a training chooses its checkpoint, has 3 classes, fewer than train.way=5: say train.way=3"
    with pytest.raises(ProtocolError, match=re.escape(message)):
        check(f"dataset={dataset}", "methods=otam,bi_mhm")
    findings = check(f"dataset={dataset}", "methods=otam,otam_frozen")
    assert [cell.name for cell in findings.sound] == ["otam_frozen"]
    assert message in str(findings.errors[0])
    check(f"dataset={dataset}", "methods=otam,otam_frozen", "train.way=3")
    check(f"dataset={dataset}", "methods=otam_frozen,bi_mhm_frozen")  # nothing is trained or chosen


def test_several_problems_are_one_error_with_the_cells_that_have_them(check, tmp_path):
    (tmp_path / "broken_code.py").write_text(
        "from fsar_bench.method import METHODS, FewShotMethod\n\n"
        "@METHODS.register_module()\nclass Broken(FewShotMethod):\n    def __init__(self, backbone):\n        [][0]\n"
    )
    (tmp_path / "broken.py").write_text('custom_imports = ["broken_code"]\nmethod = dict(type="Broken")\n')
    with pytest.raises(ConfigError) as raised:
        check("methods=otam_frozen,zero_shot," + str(tmp_path / "broken.py"), "matcher=BiMH", "backbone=tiny_resnet")
    text = str(raised.value)
    assert text.startswith("3 problems; nothing was run:\n")
    assert "No matcher 'BiMH' is registered. Did you mean 'BiMHM'" in text
    assert "zero_shot uses class names, and the backbone tiny_resnet has no text encoder" in text
    assert re.search(r"broken cannot be built: IndexError: list index out of range \(.*broken_code\.py, line 6\)", text)


def test_what_the_user_did_not_name_is_left_out_where_it_does_not_apply(check):
    check("methods=all", "backbone=tiny_resnet")
    (error,) = check("methods=zero_shot,otam_frozen", "backbone=tiny_resnet").errors
    assert isinstance(error, NotApplicableError)


def test_datasets_that_are_not_prepared_are_named_once(check):
    with pytest.raises(
        errors.DataError, match=r"hmdb51 is not prepared on this machine .*data prepare hmdb51"
    ) as raised:
        check("dataset=hmdb51", "methods=otam_frozen,otam")
    assert str(raised.value).count("not prepared") == 1


def test_finished_cells_are_not_checked_again(check, tmp_path, tiny, monkeypatch):
    (cell,) = resolve([f"dataset={tiny}", "backbone=tiny_clip", "methods=otam_frozen", "controls=false"]).cells
    folder = tmp_path / "out" / "results" / cell.folder
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("")
    assert check("methods=otam_frozen", "device=tpu").errors == []
    findings = check(
        "methods=otam_frozen,bi_mhm_frozen,protonet", "device=tpu"
    )  # the finished one is there to be shown
    assert [cell.name for cell in findings.sound] == ["otam_frozen"]
    assert "device='tpu' is unknown" in str(findings.errors[0])


def test_a_process_of_its_own_finds_the_same(check, tmp_path):
    with pytest.raises(ConfigError, match="No matcher 'OTAMM' is registered"):
        check("methods=otam_frozen,bi_mhm_frozen", "matcher=OTAMM", isolate=True)
    (tmp_path / "dies.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(errors.CellCrashedError, match=r"ended early \(exit code 3"):
        check("methods=otam_frozen,bi_mhm_frozen", f"imports={tmp_path / 'dies.py'}", isolate=True)


def test_a_training_is_not_tested_on_its_own_clips(check):
    with pytest.raises(FsarBenchError, match=r"holds 768 val and test clips of ssv2_small"):
        check("methods=otam", "train_on=ssv2_full", "dataset=ssv2_small", "backbone=tiny_clip")


def test_what_can_be_run_is_run_and_the_rest_is_named(check):
    findings = check("methods=otam_frozen,bi_mhm_frozen", "shot=1,7")
    assert {(cell.name, cell.protocol.shot) for cell in findings.sound} == {("otam_frozen", 1), ("bi_mhm_frozen", 1)}
    (error,) = findings.errors
    assert re.search(r"has 7 clips, .*\(.*5-way 7-shot; .*5-way 7-shot\)$", str(error))


def test_mistakes_of_several_kinds_are_said_together(check):
    with pytest.raises(ConfigError, match=r"^6 problems; nothing was run:") as raised:
        check("methods=otam", "way=9", "matcher=OTAN", "reader=decrod", "device=cdua")
    for message in ("fewer than way=9", "No matcher 'OTAN'", "No reader 'decrod'", "device='cdua' is unknown"):
        assert str(raised.value).count(message) == 1


def test_the_command_says_it_before_the_first_cell(fsar, tiny, tmp_path):
    code, out, err = fsar(
        "run", f"dataset={tiny}", "methods=otam_frozen,bi_mhm_frozen", "backbone=tiny_clip", "shot=7,9"
    )
    assert code == 1
    assert re.match(r"error: 2 problems; nothing was run:\n  1\. Class '\w+' of the test split has 7 clips", err)
    assert "[1/" not in out
    assert not list((tmp_path / "leaderboards").rglob("*.json"))


def test_a_checkpoint_is_checked_and_nobody_is_told_to_delete_it(check, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"no weights at all")
    with pytest.raises(
        WeightsError, match=r"mine\.pth is no checkpoint of fsar-bench: name a best\.safetensors"
    ) as raised:
        check("methods=otam,bi_mhm", f"checkpoint={tmp_path / 'mine.pth'}")
    assert "elete" not in str(raised.value)
    save_file({"backbone.clip.visual.proj": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit this method .*Name the method\.\*, backbone="):
        check("methods=otam,bi_mhm", f"checkpoint={tmp_path / 'other.safetensors'}")


def test_clips_that_are_known_not_to_decode_are_named_first(check, tmp_path, monkeypatch):
    monkeypatch.setenv("FSAR_BENCH_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    rows = annotation_rows()
    (folder / "annotation.json").write_text(json.dumps(rows))
    (folder / "dataset.py").write_text(
        'dataset = dict(name="mine", annotation="prepared:mine")\nbackbone = "tiny_clip"\ncontrols = []\n'
    )
    test = [row for row in rows["clips"] if row["class"] == rows["classes"][-1]["name"]]
    bad = {"accepted": False, "clips": [{"id": test[0]["id"], "class": test[0]["class"]}]}
    (folder / "quarantine.json").write_text(json.dumps(bad))
    with pytest.raises(errors.DataError, match=r"1 clips of the test split of mine .*data verify mine --accept"):
        check("dataset=mine", "methods=otam_frozen,bi_mhm_frozen")
    (folder / "quarantine.json").write_text(json.dumps({**bad, "accepted": True}))
    check("dataset=mine", "methods=otam_frozen,bi_mhm_frozen")


def test_what_cells_share_is_looked_at_once(check, monkeypatch):
    """Planning a thousand cells takes seconds: annotations are read, and methods built, once for all seeds and shots."""
    from fsar_bench.data.dataset import Dataset
    from fsar_bench.methods.metric import MetricMethod

    made = []
    for kind in (Dataset, MetricMethod):
        original = kind.__init__
        monkeypatch.setattr(
            kind, "__init__", lambda self, *a, of=original, **k: made.append(type(self)) or of(self, *a, **k)
        )
    found = check("methods=otam,protonet", "seed=0,1,2", "shot=1,2", "way=3,5")
    assert len(found.sound) == 24
    assert sorted(kind.__name__ for kind in made) == ["Dataset", "MetricMethod", "MetricMethod"]
    made.clear()
    check("methods=otam,protonet", "seed=0")
    assert made.count(Dataset) == 1  # nobody keeps what an earlier check has opened


def test_val_is_checked_for_every_way_of_a_method_that_chooses_there(check, tmp_path):
    rows = annotation_rows()
    few = [row["name"] for row in rows["classes"] if row["split"] == "val"][3:]
    rows["classes"] = [row for row in rows["classes"] if row["name"] not in few]
    rows["clips"] = [row for row in rows["clips"] if row["class"] not in few]
    dataset = write_dataset(tmp_path / "few.py", rows)
    found = check("methods=tip_adapter", f"dataset={dataset}", "way=3,5", "method.weights=val")
    assert [cell.protocol.way for cell in found.sound] == [3]
    assert "fewer than" in str(found.errors[0])


@pytest.fixture
def plan_check(tmp_path):
    """Resolve settings on the built-in data and check the cells as a dry run does, in this process."""

    def run(*pairs: str):
        work = resolve([*pairs, "controls=false", f"out={tmp_path / 'out'}", f"work_dir={tmp_path / 'work'}"])
        return preflight(work.cells, work.options, isolate=False, builds="changed", reads=False)

    return run


@pytest.fixture
def built(monkeypatch):
    """Names of the cells of which components are built; none is."""
    names: list[str] = []

    def record(cells, *_):
        names.extend(cell.name for cell in cells)
        return []

    monkeypatch.setattr("fsar_bench.engine.preflight._check_here", record)
    return names


def test_every_method_is_built_of_what_ships_alone(tmp_path):
    """So what `is_as_shipped` says of these cells holds, and a dry run builds none of them."""
    common = [
        "methods=all",
        f"out={tmp_path / 'out'}",
        f"work_dir={tmp_path / 'work'}",
        f"dataset={','.join(DATASETS)}",
    ]
    work = resolve([*common, "train.episodes=1,1e4"])
    assert all(is_as_shipped(cell) for cell in work.cells)
    assert {cell.identity.backbone["pretrained"] for cell in work.cells} == {"builtin"}  # nothing is fetched
    check = ComponentCheck(work.options)
    distinct = {parts(cell): cell for cell in work.cells}
    assert [error for cell in distinct.values() for error in check(cell)] == []
    assert not check.fits  # these would need enough classes of val, which depends on the dataset


def test_a_dry_run_builds_what_does_not_ship_alone(plan_check, built, tmp_path):
    plan_check("methods=all", "way=2,5", "shot=1,5", "seed=0,1", "train.episodes=40", "dataset=synthact_order")
    assert built == []
    plan_check("methods=otam,trx,zero_shot", "otam.method.tune=all", "train.hooks=[]")
    assert built == ["otam"]
    (tmp_path / "mine.py").write_text("")
    for changed in (
        "train.optimizer.type=SGD", "backbone=tiny_clip", "pretrained=none", "device=cpu:1", "log=wandb", "devices=2",
        "matcher=TRX", "reader=decord", "activation=quick_gelu", f"imports={tmp_path / 'mine.py'}",
    ):  # fmt: skip
        built.clear()
        plan_check("methods=otam", changed)
        assert built == ["otam"], changed


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["matcher=OTAMM"], "No matcher 'OTAMM' is registered. Did you mean 'OTAM'"),
        (["reader=decrd"], "No reader 'decrd' is registered. Did you mean 'decord'"),
        (["device=tpu"], "device='tpu' is unknown"),
        (["pretrained=/nowhere/w.pt"], "/nowhere/w.pt of synthact_clip does not exist"),
        (["train.optimizer.type=Adamm"], "Did you mean 'Adam'"),
        (['train.hooks=[{"type": "EMAHok"}]'], "Did you mean 'EMAHook'"),
        (["devices=9"], "devices=9 is more than train.accumulate=2"),
        (["method.matcher.smoothing=0", "matcher=OTAM"], "of OTAM must be above 0"),
    ],
)
def test_a_dry_run_says_the_same_problems(plan_check, pairs, message):
    with pytest.raises(FsarBenchError, match=re.escape(message)):
        plan_check("methods=otam", *pairs)


def test_a_dry_run_says_where_val_cannot_choose_weights(plan_check):
    scenes = open_dataset(name="synthact_scene", annotation="builtin:synthact_scene")
    val = len(scenes.split("val").list.classes)
    findings = plan_check("methods=tip_adapter", "method.weights=val", "dataset=synthact_scene", f"way={val},{val + 1}")
    assert [cell.protocol.way for cell in findings.sound] == [val]
    (error,) = findings.errors
    assert str(error).startswith("The val split")
    assert f"has {val} classes" in str(error)
