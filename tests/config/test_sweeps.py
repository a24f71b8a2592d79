"""What a sweep's keys apply to, rows with titles of their own, custom modules of every config, and names that are meant."""

from __future__ import annotations

import re

import pytest
from helpers import annotation_rows, write_dataset

from fsar_bench.config.resolve import Run, resolve
from fsar_bench.errors import ConfigError


def run_of(*pairs: str) -> Run:
    return resolve([*pairs, "controls=false"])


def cells_of(*pairs: str) -> dict:
    return {cell.name: cell for cell in run_of(*pairs).cells}


def fails(message: str, *pairs: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_of(*pairs)


def test_keys_of_trainings_apply_to_the_methods_that_are_trained():
    run = run_of("methods=zero_shot,otam_frozen,protonet", "train.episodes=40")
    trained = {cell.name: cell.identity.train for cell in run.cells}
    assert (trained["zero_shot"], trained["otam_frozen"], trained["protonet"].episodes) == (None, None, 40)
    assert run.notes == ("train.episodes= applies to protonet, not to zero_shot, otam_frozen.",)
    assert run_of("methods=protonet", "train.episodes=40").notes == ()
    fails(
        "train.episodes=40 does not apply: none of these methods is trained (zero_shot, otam_frozen). Leave it out.",
        "methods=zero_shot,otam_frozen", "train.episodes=40",
    )  # fmt: skip


def test_keys_of_methods_apply_to_those_that_have_them_and_make_no_copies_of_the_others():
    run = run_of("methods=ma_clip,otam", "method.alpha=0.2,0.3", "method.prototype=none")
    assert [(cell.name, cell.identity.method.get("alpha")) for cell in run.cells] == [
        ("ma_clip", 0.2), ("ma_clip", 0.3), ("otam", None),
    ]  # fmt: skip
    assert run.notes == ("method.alpha=, method.prototype= apply to ma_clip, not to otam.",)
    fails("zero_shot, otam have no key 'method.alhpa'.", "methods=zero_shot,otam", "method.alhpa=1")
    fails("Did you mean 'method.alpha'", "methods=ma_clip,otam", "method.alhpa=1")
    fails("ma_clip has no key 'train.epsodes'. Did you mean 'train.episodes'", "methods=ma_clip", "train.epsodes=1")


def test_matchers_and_activations_apply_to_what_has_them():
    run = run_of("methods=zero_shot,otam_frozen", "matcher=BiMHM")
    assert run.cells[1].identity.method["matcher"]["type"] == "BiMHM"
    assert run.notes == ("matcher= applies to otam_frozen, not to zero_shot.",)
    fails(
        "matcher=BiMHM does not apply: none of these methods has a matcher (zero_shot)",
        "methods=zero_shot",
        "matcher=BiMHM",
    )
    run = run_of("methods=otam_frozen", "backbone=vit_b_16,resnet50", "activation=gelu")
    assert [cell.identity.backbone.get("quick_gelu") for cell in run.cells] == [False, None]
    assert run.notes == ("activation= applies to vit_b_16, not to resnet50.",)
    fails(
        "activation=gelu does not apply: resnet50 is no CLIP model",
        "methods=otam",
        "backbone=resnet50",
        "activation=gelu",
    )


def test_a_key_addresses_one_method_by_its_name(tmp_path):
    cells = cells_of("methods=ma_clip,otam,clip_fsar", "ma_clip.method.alpha=0.3", "otam.train.optimizer.lr=0.5")
    assert cells["ma_clip"].identity.method["alpha"] == 0.3
    assert cells["otam"].identity.train.optimizer["lr"] == 0.5
    assert cells["ma_clip"].identity.train.optimizer["lr"] != 0.5 != cells["clip_fsar"].identity.train.optimizer["lr"]
    assert cells["otam"].label.changed == {"train.optimizer.lr": "0.5"}
    assert cells["ma_clip"].hash == cells_of("methods=ma_clip", "method.alpha=0.3")["ma_clip"].hash
    both = cells_of("methods=otam,protonet", "train.episodes=50", "otam.train.episodes=60")  # the closer one wins
    assert (both["otam"].identity.train.episodes, both["protonet"].identity.train.episodes) == (60, 50)
    fails("addresses trx, which is not among methods=otam", "methods=otam", "trx.train.episodes=4")
    fails("zero_shot has no key 'train.episodes'", "methods=zero_shot,otam", "zero_shot.train.episodes=4")
    fails("Unknown key 'otam.shot'", "methods=otam", "otam.shot=5")
    nested = resolve({"methods": ["ma_clip", "otam"], "ma_clip": {"method": {"alpha": 0.3}}, "controls": False}).cells
    assert nested[0].identity.method["alpha"] == 0.3
    mine = tmp_path / "my_method.py"
    mine.write_text('method = dict(type="MetricMethod", matcher=dict(type="OTAM", smoothing=0.1), tune="none")\n')
    assert cells_of(f"methods={mine}", "my_method.method.matcher.smoothing=0.2")["my_method"].label.changed


def test_a_title_names_a_row_and_changes_no_result():
    named = cells_of("methods=ma_clip,otam", "method.alpha=0.3", "ma_clip.title=Ours, tuned")
    assert named["ma_clip"].label.row == "Ours, tuned"
    assert named["otam"].label.row == "OTAM"
    assert named["ma_clip"].hash == cells_of("methods=ma_clip", "method.alpha=0.3")["ma_clip"].hash
    assert len(run_of("methods=otam", "shot=1,5", "train.seed=0,1", "title=Ours").cells) == 4
    fails("would name 2 different rows (ma_clip", "methods=ma_clip", "method.alpha=0.1,0.2", "title=Ours")
    fails("title='<b>' must be one line without < and >", "methods=otam", "title=<b>")
    fails("is too long: at most 300 characters", "methods=otam", "title=" + 301 * "x")


def test_whole_numbers_may_be_written_as_powers_of_ten():
    assert cells_of("methods=otam", "episodes=1e4", "train.episodes=2e2")["otam"].protocol.episodes == 10_000


def test_arguments_that_an_optimizer_takes_need_not_be_in_the_config():
    (cell,) = run_of("methods=otam", "train.optimizer.type=SGD", "train.optimizer.momentum=0.9").cells
    assert cell.identity.train.optimizer["momentum"] == 0.9


def test_modules_of_every_config_are_imported_and_part_of_the_hash(tmp_path):
    (tmp_path / "parts").mkdir()
    for name in ("a_method", "a_backbone", "a_dataset", "a_protocol", "a_matcher"):
        (tmp_path / "parts" / f"{name}.py").write_text("VALUE = 1\n")
    write_dataset(tmp_path / "parts" / "data.py", annotation_rows())
    with (tmp_path / "parts" / "data.py").open("a") as file:
        file.write('custom_imports = ["a_dataset"]\nreader = "mine"\n')
    (tmp_path / "parts" / "method.py").write_text('custom_imports = ["a_method"]\nmethod = dict(type="Mine")\n')
    (tmp_path / "parts" / "encoder.py").write_text(
        'custom_imports = dict(imports=["a_backbone"])\nbackbone = dict(type="Mine")\n'
    )
    (tmp_path / "parts" / "rules.py").write_text('custom_imports = "a_protocol"\nprotocol = dict(way=3)\n')
    keys = {key: f"{key}={tmp_path / 'parts' / file}.py" for key, file in (
        ("methods", "method"), ("backbone", "encoder"), ("dataset", "data"), ("protocol", "rules"), ("imports", "a_matcher"),
    )}  # fmt: skip
    (cell,) = run_of(*keys.values()).cells
    assert cell.identity.custom_imports == ["a_method", "a_backbone", "a_dataset", "a_protocol", "a_matcher"]
    assert cell.setup.module_folders == (str(tmp_path / "parts"),)
    assert cell.identity.reader == "mine"
    for name in cell.identity.custom_imports:
        (tmp_path / "parts" / f"{name}.py").write_text("VALUE = 22\n")
        (changed,) = run_of(*keys.values()).cells
        assert changed.hash != cell.hash, name
        cell = changed


def test_two_modules_of_one_name_in_different_folders_are_refused(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("")
    (tmp_path / "one" / "m.py").write_text('custom_imports = ["code"]\nmethod = dict(type="M")\n')
    (tmp_path / "two" / "b.py").write_text('custom_imports = ["code"]\nbackbone = dict(type="B")\n')
    fails("Two custom modules are called 'code'", f"methods={tmp_path}/one/m.py", f"backbone={tmp_path}/two/b.py")
    fails("does not exist", "methods=otam", f"imports={tmp_path}/nowhere.py")


def test_paths_in_a_config_are_relative_to_the_config_and_no_part_of_the_hash(tmp_path, monkeypatch):
    hashes = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        config = write_dataset(tmp_path / place / "mine.py", annotation_rows(3, 3))
        config.write_text(config.read_text().replace(repr(str(config.with_suffix(".json"))), "'mine.json'"))
        (tmp_path / place / "weights.pt").write_bytes(b"weights")
        (tmp_path / place / "encoder.py").write_text(
            'backbone = dict(type="CLIPBackbone", model="tiny_clip", pretrained="weights.pt")\n'
        )
        (cell,) = run_of(
            "methods=otam_frozen", f"dataset={config}", f"backbone={tmp_path / place / 'encoder.py'}"
        ).cells
        assert cell.dataset.annotation == str(config.with_suffix(".json"))
        assert cell.setup.pretrained == str(tmp_path / place / "weights.pt")
        assert str(tmp_path) not in cell.identity.model_dump_json()
        hashes.add(cell.hash)
    assert len(hashes) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    (cell,) = run_of("methods=otam_frozen", "dataset=~/here/mine.py", "pretrained=~/here/weights.pt", "out=~/out").cells
    assert cell.setup.pretrained == str(tmp_path / "here" / "weights.pt")


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes('\ufefftitle = "Größe"\nmethod = dict(type="ZeroShot", temperature=1.0)\n'.encode())
    assert cells_of(f"methods={path}")["mine"].label.title == "Größe"
    (tmp_path / "child.py").write_bytes('\ufeff_base_ = "./mine.py"\ntitle = "Kind"\n'.encode())
    assert cells_of(f"methods={tmp_path / 'child.py'}")["child"].identity.method["temperature"] == 1.0


def test_a_model_of_timm_is_a_backbone():
    (cell,) = run_of("methods=otam_frozen", "backbone=timm:convnext_tiny.fb_in22k").cells
    assert cell.identity.backbone["name"] == "timm:convnext_tiny.fb_in22k"
    assert (cell.identity.backbone["model"], cell.identity.backbone["pretrained"]) == ("convnext_tiny", "fb_in22k")
    (cell,) = run_of("methods=otam_frozen", "backbone=timm:convnext_tiny", "pretrained=none").cells
    assert (cell.identity.backbone["pretrained"], cell.identity.backbone["pretraining"]) == (
        None,
        "none (random weights)",
    )


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (
            "dataset=/tmp",
            "It is a folder, not a dataset: prepare it once with fsar-bench data prepare --name tmp --root /tmp",
        ),
        ("dataset=clips.csv", "fsar-bench data prepare --name clips --root clips.csv, then say dataset=clips"),
        ("dataset=mine.json", "A dataset is a config (.py) that names its annotation"),
        ("backbone=ViT-B/16", "Did you mean 'vit_b_16'"),
        ("backbone=ViT-B-32", "Did you mean 'vit_b_32'"),
        ("dataset=Kinetics", "Did you mean 'kinetics100@cmn' or 'kinetics100@clip_fsar'"),
        ("dataset=UCF-101", "Did you mean 'ucf101'"),
        ("matcher=", "A value is missing after matcher="),
        ("pretrained=", "A value is missing after pretrained="),
    ],
)
def test_names_that_are_meant_are_suggested(pair, message):
    fails(message, "methods=otam_frozen", pair)


def test_a_title_of_the_paper_finds_its_method():
    fails("Did you mean 'clip_fsar'", "methods=CLIP-FSAR")
    fails("Did you mean 'ma_clip'", "methods=MA-CLIP")


def test_code_that_a_custom_module_imports_is_part_of_the_hash(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "space" / "deep").mkdir(parents=True)
    (tmp_path / "code.py").write_text("import json\n\ndef late():\n    import helper\n    from parts.inner import x\n")
    (tmp_path / "helper.py").write_text("import helper_of_helper\n")
    (tmp_path / "helper_of_helper.py").write_text("import code\n")  # a circle
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "inner.py").write_text("from . import other\n")
    (tmp_path / "parts" / "other.py").write_text("")
    (tmp_path / "space" / "deep" / "module.py").write_text("")
    (tmp_path / "unrelated.py").write_text("")
    (tmp_path / "m.py").write_text('custom_imports = ["code", "space.deep.module"]\nmethod = dict(type="M")\n')

    def hash_now() -> str:
        return run_of(f"methods={tmp_path / 'm.py'}").cells[0].hash

    last = hash_now()
    changed = [
        "code.py",
        "helper.py",
        "helper_of_helper.py",
        "parts/inner.py",
        "parts/other.py",
        "space/deep/module.py",
    ]
    for name in changed:
        path = tmp_path / name
        path.write_text(path.read_text() + "VALUE = 1  # changed\n")
        assert hash_now() != last, name
        last = hash_now()
    (tmp_path / "unrelated.py").write_text("VALUE = 1\n")
    assert hash_now() == last


def test_modules_that_cannot_be_what_they_seem_are_refused(tmp_path):
    from fsar_bench.registry import import_components

    (tmp_path / "random.py").write_text("VALUE = 1\n")
    with pytest.raises(ConfigError, match=r"A module called 'random' is loaded already \(.*random\.py.* rename it"):
        import_components(["random"], [str(tmp_path)])
    (tmp_path / "folder").mkdir()
    fails("is a folder without an __init__.py", "methods=otam", f"imports={tmp_path / 'folder'}")
    (tmp_path / "empty.py").write_text('backbone = dict(type="CLIPBackbone", model="tiny_clip", pretrained=" ")\n')
    fails("pretrained= is empty in", "methods=otam", f"backbone={tmp_path / 'empty.py'}")
    fails("names no model", "methods=otam", "backbone=timm:")


def test_controls_import_what_the_user_names_only_where_a_reader_may_come_from_it(tmp_path):
    (tmp_path / "parts.py").write_text("")
    for more, modules in (([], []), (["reader=own"], ["parts"])):
        run = resolve(["methods=otam_frozen", f"imports={tmp_path / 'parts.py'}", *more])
        assert {tuple(cell.identity.custom_imports) for cell in run.cells if cell.label.control} == {tuple(modules)}
        assert [cell.identity.custom_imports for cell in run.cells if not cell.label.control] == [["parts"]]
