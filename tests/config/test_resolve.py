"""Resolution of names and keys into cells."""

from __future__ import annotations

import pytest

from fsar_bench.config.overrides import coerce, digest, merge
from fsar_bench.config.resolve import names, resolve
from fsar_bench.errors import ConfigError


def hashes(*pairs: str) -> list[str]:
    return [cell["hash"] for cell in resolve([*pairs, "controls=false"]).cells]


def test_cells_are_the_product_and_controls_come_first():
    run = resolve(["methods=ma_clip,otam", "dataset=synthact,synthact_scene", "shot=1,5"])
    assert len(run.cells) == 2 * 2 * 4
    assert [c["name"] for c in run.cells[:8]] == [
        "zero_shot", "zero_shot", "prototype_frozen", "prototype_frozen", "ma_clip", "ma_clip", "otam", "otam",
    ]  # fmt: skip


def test_hash_follows_what_changes_results_and_nothing_else():
    base = hashes("methods=ma_clip")
    assert hashes("methods=ma_clip", "workers=0", "out=elsewhere", "device=cpu", "score_batch=7") == base
    for pair in (
        "shot=5",
        "seed=1",
        "method.alpha=0.4",
        "train.optimizer.lr=0.5",
        "template=a clip of {}",
        "reader=pyav",
        "group_disjoint=true",
    ):
        assert hashes("methods=ma_clip", pair) != base, pair


def test_overrides_reach_the_asked_methods_alone():
    run = resolve(["methods=ma_clip", "method.alpha=0.7", "matcher=BiMHM"])
    cells = {cell["name"]: cell for cell in run.cells}
    assert cells["ma_clip"]["method"]["alpha"] == 0.7
    assert cells["ma_clip"]["method"]["matcher"] == {"type": "BiMHM"}
    assert cells["prototype_frozen"]["method"]["matcher"]["type"] == "CosinePrototype"
    assert "alpha=0.7" in cells["ma_clip"]["title"]


def test_several_values_of_a_dotted_key_make_cells():
    run = resolve(["methods=clip_fsar", "method.mode=visual,text,ensemble", "controls=false"])
    assert [cell["method"]["mode"] for cell in run.cells] == ["visual", "text", "ensemble"]


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
    assert {cell["backbone"]["name"] for cell in imagenet} == {"vit_b_32_imagenet"}
    assert len(hashes("methods=ablations/table3,ablations/table4")) == 7  # rows they share are one cell


def test_ablations_take_further_keys_but_not_their_own(tmp_path):
    assert len(hashes("methods=ablations/table5", "shot=1,5", "train.episodes=50,60")) == 8
    with pytest.raises(ConfigError, match=r"sets method.joint=false for ma_clip itself: leave method.joint= out"):
        resolve(["methods=ablations/table4", "method.joint=true"])
    with pytest.raises(ConfigError, match="Did you mean 'table4'"):
        resolve(["methods=ablations/tabel4"])
    mine = tmp_path / "mine.py"
    mine.write_text('rows = ["otam method.matcher.smoothing=0.5", "zero_shot"]\n')
    assert [c["name"] for c in resolve([f"methods={mine}", "controls=false"]).cells] == ["otam", "zero_shot"]
    mine.write_text("rows = [1]\n")
    with pytest.raises(ConfigError, match="needs rows="):
        resolve([f"methods={mine}"])


def test_group_disjoint_false_is_the_protocol_without_it():
    assert hashes("methods=otam", "group_disjoint=false") == hashes("methods=otam")


def test_all_stands_for_every_method():
    assert {c["name"] for c in resolve(["methods=all"]).cells} == set(names("methods"))


def test_arguments_of_a_chosen_matcher():
    (cell,) = resolve(["methods=ma_clip", "controls=false", "matcher=TRX", "method.matcher.cardinalities=[2]"]).cells
    assert cell["method"]["matcher"] == {"type": "TRX", "cardinalities": [2]}
    (cell,) = resolve(["methods=strm", "controls=false", "matcher=TRX"]).cells  # its own already: nothing changes
    assert list(cell["method"]["matcher"]["cardinalities"]) == [2]
    assert hashes("methods=strm", "matcher=TRX") == hashes("methods=strm")


def test_lists_in_brackets_are_one_value():
    run = resolve(["methods=trx", "controls=false", "method.matcher.cardinalities=[2],[2,3,4]"])
    assert [cell["method"]["matcher"]["cardinalities"] for cell in run.cells] == [[2], [2, 3, 4]]


def test_dataset_defaults_lie_under_the_command_line():
    (cell,) = resolve(["methods=ma_clip", "controls=false", "train.episodes=7"]).cells
    assert cell["train"]["episodes"] == 7
    assert cell["train"]["val_interval"] == 40
    assert cell["train"]["way"] == 5


def test_a_config_that_defines_a_class_or_breaks_is_named(tmp_path):
    (tmp_path / "odd.py").write_text("method = dict(type=\n")
    with pytest.raises(ConfigError, match=r"odd\.py cannot be read"):
        resolve([f"methods={tmp_path / 'odd.py'}"])
    (tmp_path / "bare.py").write_text("train = dict()\n")
    with pytest.raises(ConfigError, match="lacks method="):
        resolve([f"methods={tmp_path / 'bare.py'}"])


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
        return resolve(["methods=otam_frozen", "controls=false", *pairs]).cells[0]["backbone"]

    assert backbone("backbone=vit_b_16")["quick_gelu"] is True
    assert backbone("backbone=vit_b_16", "pretrained=openai")["pretraining"] == "CLIP (OpenAI, WIT-400M)"
    other = backbone("backbone=vit_b_16", "pretrained=laion2b_s34b_b88k")
    assert (other["quick_gelu"], other["pretraining"]) == (None, "laion2b_s34b_b88k")
    assert backbone("backbone=vit_b_16", "pretrained=/x/mine.pt", "activation=gelu")["quick_gelu"] is False
    with pytest.raises(ConfigError, match=r"Unknown activation 'GELU'. Choose from: gelu, quick_gelu"):
        backbone("activation=GELU")
    with pytest.raises(ConfigError, match="is no CLIP model"):
        backbone("backbone=resnet50", "activation=gelu")
