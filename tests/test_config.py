"""Resolution of names and keys into cells."""

from __future__ import annotations

import pytest

from fsar_bench.config import names, resolve
from fsar_bench.errors import ConfigError
from fsar_bench.settings import coerce, digest, merge


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
            for backbone in names("backbones"):
                assert resolve([f"methods={name}", f"dataset={dataset}", f"backbone={backbone}"]).cells


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
