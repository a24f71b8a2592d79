"""Resolution of names and keys into cells."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from fsar_bench.config.cell import Identity
from fsar_bench.config.files import names
from fsar_bench.config.overrides import coerce, merge, several
from fsar_bench.config.resolve import resolve
from fsar_bench.errors import ConfigError
from fsar_bench.io import digest


def hashes(*pairs: str) -> list[str]:
    return [cell.hash for cell in resolve([*pairs, "controls=false"]).cells]


def test_cells_are_the_product_and_controls_come_first():
    run = resolve(["methods=ma_clip,otam", "dataset=synthact,synthact_scene", "shot=1,5"])
    assert len(run.cells) == 2 * 2 * 4
    assert [c.name for c in run.cells[:8]] == [
        "zero_shot", "zero_shot", "prototype_frozen", "prototype_frozen", "ma_clip", "ma_clip", "otam", "otam",
    ]  # fmt: skip


def test_hash_follows_what_changes_results_and_nothing_else():
    base = hashes("methods=ma_clip")
    assert (
        hashes(
            "methods=ma_clip",
            "workers=0",
            "out=elsewhere",
            "device=cpu",
            "score_batch=7",
            "bank_budget=1MB",
            "fit=11GB",
            "prefetch=4",
        )
        == base
    )
    for pair in (
        "shot=5",
        "seed=1",
        "method.alpha=0.4",
        "train.optimizer.lr=0.5",
        "template=a clip of {}",
        "reader=decord",
        "group_disjoint=true",
    ):
        assert hashes("methods=ma_clip", pair) != base, pair


def test_overrides_reach_the_asked_methods_alone():
    run = resolve(["methods=ma_clip", "method.alpha=0.7", "matcher=BiMHM"])
    cells = {cell.name: cell for cell in run.cells}
    assert cells["ma_clip"].identity.method["alpha"] == 0.7
    assert cells["ma_clip"].identity.method["matcher"] == {"type": "BiMHM"}
    assert cells["prototype_frozen"].identity.method["matcher"]["type"] == "CosinePrototype"
    assert cells["ma_clip"].label.changed == {"method.alpha": "0.7", "matcher": "BiMHM"}
    assert cells["ma_clip"].label.row == "MA-CLIP (matcher=BiMHM, method.alpha=0.7)"


def test_several_values_of_a_dotted_key_make_cells():
    run = resolve(["methods=clip_fsar", "method.mode=visual,text,ensemble", "controls=false"])
    assert [cell.identity.method["mode"] for cell in run.cells] == ["visual", "text", "ensemble"]


def test_every_builtin_config_resolves():
    for name in names("methods"):
        for dataset in names("datasets"):
            assert resolve([f"methods={name}", f"dataset={dataset}"]).cells
    for backbone in names("backbones"):
        assert resolve(["methods=otam", f"backbone={backbone}"]).cells


def test_an_ablation_is_what_its_rows_would_be_if_typed():
    typed = {
        "table3": ["methods=ma_clip", "methods=ma_clip method.prototype=none"],
        "table4": ["methods=ma_clip method.joint=false", "methods=ma_clip_full"],
        "table5": ["methods=ma_clip method.support_branch=spatiotemporal"],
        "table6": ["methods=ma_clip method.prototype=transformer"],
        "table7": ["methods=ma_clip matcher=TRX", "methods=bi_mhm"],
    }
    for name, rows in typed.items():
        for dataset in ("synthact", "synthact_order"):
            whole = hashes(f"methods=ablations/{name}", f"dataset={dataset}")
            for row in rows:
                assert hashes(*row.split(), f"dataset={dataset}")[0] in whole, row
    assert [len(hashes(f"methods=ablations/table{n}")) for n in (3, 4, 5, 6, 7)] == [4, 5, 2, 3, 6]
    imagenet = resolve(["methods=ablations/table7_imagenet", "controls=false"]).cells
    assert {cell.identity.backbone["name"] for cell in imagenet} == {"vit_b_32_imagenet"}
    assert len(hashes("methods=ablations/table3,ablations/table4")) == 7  # rows they share are one cell


def test_ablations_take_further_keys_but_not_their_own(tmp_path):
    assert len(hashes("methods=ablations/table5", "shot=1,5", "train.episodes=50,60")) == 8
    with pytest.raises(ConfigError, match=r"sets method.joint=false for ma_clip itself: leave method.joint= out"):
        resolve(["methods=ablations/table4", "method.joint=true"])
    with pytest.raises(ConfigError, match="Did you mean 'table4'"):
        resolve(["methods=ablations/tabel4"])
    mine = tmp_path / "mine.py"
    mine.write_text('rows = ["otam method.matcher.smoothing=0.5", "zero_shot"]\n')
    assert [c.name for c in resolve([f"methods={mine}", "controls=false"]).cells] == ["otam", "zero_shot"]
    mine.write_text("rows = [1]\n")
    with pytest.raises(ConfigError, match=r"rows\.0=1 must be text"):
        resolve([f"methods={mine}"])


def test_group_disjoint_false_is_the_protocol_without_it():
    assert hashes("methods=otam", "group_disjoint=false") == hashes("methods=otam")


def test_all_stands_for_every_method():
    assert {c.name for c in resolve(["methods=all"]).cells} == set(names("methods"))


def test_arguments_of_a_chosen_matcher():
    (cell,) = resolve(["methods=ma_clip", "controls=false", "matcher=TRX", "method.matcher.cardinalities=[2]"]).cells
    assert cell.identity.method["matcher"] == {"type": "TRX", "cardinalities": [2]}
    (cell,) = resolve(["methods=strm", "controls=false", "matcher=TRX"]).cells  # its own already: nothing changes
    assert list(cell.identity.method["matcher"]["cardinalities"]) == [2]
    assert hashes("methods=strm", "matcher=TRX") == hashes("methods=strm")


def test_lists_in_brackets_are_one_value():
    run = resolve(["methods=trx", "controls=false", "method.matcher.cardinalities=[2],[2,3,4]"])
    assert [cell.identity.method["matcher"]["cardinalities"] for cell in run.cells] == [[2], [2, 3, 4]]


def test_dataset_defaults_lie_under_the_command_line():
    (cell,) = resolve(["methods=ma_clip", "controls=false", "train.episodes=7"]).cells
    assert cell.identity.train.episodes == 7
    assert cell.identity.train.val_interval == 50
    assert cell.identity.train.way == 5


def test_a_config_that_defines_a_class_or_breaks_is_named(tmp_path):
    (tmp_path / "odd.py").write_text("method = dict(type=\n")
    with pytest.raises(ConfigError, match=r"odd\.py cannot be read"):
        resolve([f"methods={tmp_path / 'odd.py'}"])
    (tmp_path / "bare.py").write_text("train = dict()\n")
    with pytest.raises(ConfigError, match="lacks method="):
        resolve([f"methods={tmp_path / 'bare.py'}"])


def test_python_values_are_what_would_be_typed():
    given = {
        "methods": ["ma_clip"], "shot": [1, 5], "method": {"alpha": 0.3}, "template": "a, b {}",
        "group_disjoint": True, "controls": False,
    }  # fmt: skip
    typed = hashes("methods=ma_clip", "shot=1,5", "method.alpha=0.3", "template=a, b {}", "group_disjoint=true")
    assert [cell.hash for cell in resolve(given).cells] == typed
    nested = {"methods": "ma_clip", "train": {"optimizer": {"lr": [0.1, 0.2]}}, "controls": False}
    assert [cell.hash for cell in resolve(nested).cells] == hashes("methods=ma_clip", "train.optimizer.lr=0.1,0.2")


def test_commas_inside_brackets_and_quotes_do_not_split():
    assert several("x", '[1,2],{"a": [1, 2], "b": 3},"4,5"') == ["[1,2]", '{"a": [1, 2], "b": 3}', '"4,5"']


def test_schedules_and_hooks_are_part_of_a_training_only_where_they_are_given():
    base = hashes("methods=ma_clip")
    assert hashes("methods=ma_clip", "train.scheduler=none", "train.hooks=[]") == base
    (cell,) = resolve(
        ["methods=ma_clip", "controls=false", 'train.scheduler={"type": "ConstantLR", "factor": 1.0}']
    ).cells
    assert cell.identity.train.scheduler == {"type": "ConstantLR", "factor": 1.0}
    assert [cell.hash] != base
    with pytest.raises(ConfigError, match=r"train\.scheduler='x' must be JSON"):
        resolve(["methods=ma_clip", "train.scheduler=x"])
    with pytest.raises(ConfigError, match=r"train\.hooks needs a list of configs with a type"):
        resolve(["methods=ma_clip", 'train.hooks=[{"kind": "EMAHook"}]'])


def test_a_training_seed_changes_the_training_alone():
    plain, same, other = (
        resolve(["methods=ma_clip", "controls=false", *more]).cells[0]
        for more in ([], ["train.seed=0"], ["train.seed=1"])
    )
    assert plain.hash == same.hash != other.hash
    assert plain.label == other.label
    assert plain.protocol == other.protocol
    assert (plain.identity.training_seed, other.identity.training_seed) == (0, 1)
    along = resolve(["methods=ma_clip,prototype_frozen", "controls=false", "train.seed=0,1"]).cells
    assert [cell.name for cell in along] == ["ma_clip", "ma_clip", "prototype_frozen"]
    with pytest.raises(ConfigError, match="none of these methods is trained"):
        resolve(["methods=prototype_frozen", "controls=false", "train.seed=1"])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.accumulate=0", "train.accumulate=0 is too small"),
        ("train.val_interval=3", "must be a multiple of train.accumulate"),
        ("train.warmup=1.5", "train.warmup=1.5 must be below 1"),
        ("train.seed=-1", "train.seed=-1 is too small: at least 0 is needed"),
        ("train.amp=on", "train.amp='on' is unknown. Choose from: auto, off"),
        ("train.episode=5", "has no key 'train.episode'. Did you mean 'train.episodes'"),
        ("method.alpha=nan", "method.alpha='nan' must be a number"),
        ("score_batch=0", "score_batch=0 is too small"),
        ("decode_timeout=0", "decode_timeout=0.0 must be above 0"),
        ("bank_budget=4", "bank_budget='4' is no size: a size is a number above 0 and a unit, such as 500MB or 4GB."),
        ("bank_budget=0.1B", "bank_budget='0.1B' is no size"),
        ("bank_budget=all", "bank_budget='all' is no size"),
        ("fit=11", "fit='11' is no size: a size is a number above 0 and a unit, such as 500MB or 4GB. Or choose none."),
        ("template=a {x} of {}", "no other brace"),
        ("template=a <b> {}", "must be one line without < and >"),
        ("log=tensorbord", "Did you mean 'tensorboard'"),
        ("sampling=random", "Unknown key 'sampling'"),
    ],
)
def test_settings_are_checked_before_anything_runs(pair, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(["methods=ma_clip", pair])


def test_misspelt_fields_and_wrong_types_of_configs_are_named(tmp_path):
    dataset = tmp_path / "mine.py"
    text = 'dataset = dict(name="mine", annotation="builtin:synthact")\nbackbone = "synthact_clip"\n'
    for more, message in (
        ('contorls = ["zero_shot"]', "Unknown key 'contorls'. Did you mean 'controls'"),
        ("synthetic = 'yes'", "synthetic='yes' must be true or false"),
        ('whole_clips_up_to = "64"', "whole_clips_up_to='64' must be a whole number"),
    ):
        dataset.write_text(text + more + "\n")
        with pytest.raises(ConfigError, match=re.escape(message)):
            resolve(["methods=otam_frozen", f"dataset={dataset}"])
    dataset.write_text(text + "_count = 3\n")  # names of its own begin with "_"
    assert resolve(["methods=otam_frozen", f"dataset={dataset}"]).cells


def test_identity_refuses_what_has_no_field():
    (cell,) = resolve(["methods=otam_frozen", "controls=false"]).cells
    record = cell.identity.model_dump()
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Identity(**record, mehtod={})
    with pytest.raises(ValidationError, match="valid integer"):
        Identity(**{**record, "engine": "1"})
    with pytest.raises(ValidationError, match="frozen"):
        cell.identity.engine = 2


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("5", 1, 5),
        ("1e-3", 0.1, 0.001),
        ("2", 0.1, 2.0),
        ("True", False, True),
        ("x", "y", "x"),
        ("none", None, None),
        ("3", None, 3),
    ],
)
def test_values_take_the_type_of_the_default(text, default, value):
    assert coerce("key", text, default) == value
    assert type(coerce("key", text, default)) is type(value)


def test_merge_refuses_unknown_keys():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, "here") == {"a": {"b": 3, "c": 2}}
    with pytest.raises(ConfigError, match="unknown key 'd'"):
        merge({"a": {"b": 1}}, {"a": {"d": 3}}, "here")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_other_weights_tell_their_activation_themselves():
    def backbone(*pairs: str) -> dict:
        return resolve(["methods=otam_frozen", "controls=false", *pairs]).cells[0].identity.backbone

    assert backbone("backbone=vit_b_16")["quick_gelu"] is True
    assert backbone("backbone=vit_b_16", "pretrained=openai")["pretraining"] == "CLIP (OpenAI, WIT-400M)"
    other = backbone("backbone=vit_b_16", "pretrained=laion2b_s34b_b88k")
    assert (other["quick_gelu"], other["pretraining"]) == (None, "laion2b_s34b_b88k")
    named = backbone("backbone=vit_b_16", "pretrained=/x/mine.pt", "activation=gelu")
    assert (named["quick_gelu"], named["pretrained"]) == (False, "mine.pt")  # not where it is on this machine
    with pytest.raises(
        ConfigError, match=r"Unknown activation 'GELU'. Did you mean 'gelu'\? Choose from: gelu, quick_gelu"
    ):
        backbone("activation=GELU")
    with pytest.raises(ConfigError, match="is no CLIP model"):
        backbone("backbone=resnet50", "activation=gelu")
