"""Augmentation as settings: what a method asks for, what a dataset allows, what the identity says, and what cards tell."""

from __future__ import annotations

import pytest

from fsar_bench.config.cards import card
from fsar_bench.config.files import load, names
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import Train
from fsar_bench.errors import ConfigError

MIRRORED = {"hmdb51", "ucf101", "kinetics100@clip_fsar", "kinetics100@cmn"}
TRAINED = [name for name in names("methods") if "train" in load("methods", name).values]


def train_of(method: str, dataset: str, *settings: str) -> Train:
    (cell,) = resolve([f"methods={method}", f"dataset={dataset}", "controls=false", *settings]).cells
    assert cell.identity.train
    return cell.identity.train


@pytest.mark.parametrize("dataset", names("datasets"))
def test_clips_are_mirrored_only_on_datasets_that_allow_it(dataset):
    flips = {method: train_of(method, dataset).flip for method in TRAINED}
    if dataset not in MIRRORED:
        assert set(flips.values()) == {"off"}
        return
    kinetics = dataset.startswith("kinetics")
    without = {"ma_clip", "ma_clip_full", "aim", "task_adapter", *([] if kinetics else ["clip_fsar"])}
    assert {method for method, flip in flips.items() if flip == "off"} == without


def test_official_recipes_are_those_of_the_repositories():
    queries = {"flip": "off", "jitter": 0.5, "grayscale": 0.3, "augmented": "queries"}
    plain = {"flip": "off", "jitter": 0.0, "grayscale": 0.0, "augmented": "all"}
    for method, dataset, expected in (
        ("hyrsm", "ssv2_full", queries),
        ("molo", "hmdb51", {**queries, "flip": "on"}),
        ("clip_fsar", "kinetics100@cmn", {**queries, "flip": "on"}),
        ("clip_fsar", "hmdb51", plain),
        ("trx", "ssv2_full", plain),
        ("trx", "ucf101", {**plain, "flip": "on"}),
        ("strm", "ucf101", {**plain, "flip": "on"}),
        ("otam", "hmdb51", {**plain, "flip": "on"}),
        ("ma_clip", "hmdb51", plain),
    ):
        train = train_of(method, dataset)
        assert train.crop == "random", (method, dataset)
        assert {key: getattr(train, key) for key in expected} == expected, (method, dataset)


def test_a_user_may_insist_and_a_dataset_may_be_declared():
    assert train_of("hyrsm", "ssv2_full", "train.flip=on").flip == "on"
    assert train_of("trx", "ssv2_full", "train.flip=if_allowed").flip == "off"
    assert train_of("trx", "custom", "train.allows_flip=true").flip == "on"
    assert train_of("clip_fsar", "custom", "train.allows_flip=true").flip == "off"  # its code does not flip there


@pytest.mark.parametrize("dataset", ["synthact", "synthact_order", "synthact_scene"])
def test_the_built_in_data_is_not_augmented_and_keeps_its_hashes(dataset):
    for method in TRAINED:
        train = train_of(method, dataset)
        assert not train.is_augmented
        assert not set(Train.augmentation) & set(train.model_dump())


def test_the_identity_says_what_is_done():
    def hashes(*settings: str) -> list[str]:
        return [cell.hash for cell in resolve(["methods=hyrsm", "controls=false", *settings]).cells]

    assert len(set(hashes("train.crop=center,random,resized,multiscale"))) == 4
    assert hashes("train.crop=center", "train.flip=off") == hashes()
    assert hashes("train.flip=if_allowed", "train.allows_flip=false,true") == [*hashes(), *hashes("train.flip=on")]
    assert hashes("train.augmented=all") == hashes()  # nothing is mirrored or recoloured
    assert hashes("train.flip=on", "train.augmented=all") != hashes("train.flip=on", "train.augmented=queries")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.crop=centre", "train.crop='centre' is unknown. Choose from: center, random, resized, multiscale"),
        ("train.flip=0.5", "train.flip='0.5' is unknown. Choose from: off, if_allowed, on"),
        ("train.augmented=support", "train.augmented='support' is unknown. Choose from: all, queries"),
        ("train.jitter=2", "train.jitter=2.0 is too large: at most 1.0 is allowed"),
        ("train.grayscale=-1", "train.grayscale=-1.0 is too small: at least 0.0 is needed"),
        ("train.crop_area=0", "train.crop_area=0.0 must be above 0.0"),
        ("train.crop_area=0.5", "train.crop_area=0.5 has no effect with train.crop=center: say train.crop=resized"),
        ("train.crop_scale=0.5", "no key 'train.crop_scale'. Did you mean 'train.crop_"),
        ("train.allows_flip=yes", "train.allows_flip='yes' must be true or false"),
    ],
)
def test_wrong_values_are_named(setting, message):
    with pytest.raises(ConfigError) as error:
        resolve(["methods=otam", "controls=false", setting])
    assert message in str(error.value)


def test_a_dataset_that_crops_at_the_centre_does_so_whatever_the_method_asks_for(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        'method = dict(type="MetricMethod", matcher=dict(type="OTAM"))\ntrain = dict(crop="resized", crop_area=0.5)\n'
    )
    train = train_of(str(path), "synthact")
    assert (train.crop, train.crop_area) == ("center", 0.08)
    assert train_of(str(path), "hmdb51").crop_area == 0.5


def test_cards_tell_how_a_method_is_trained():
    for name in names("methods"):
        assert ("Training" in card(name).fields) == (name in TRAINED)
    for name in TRAINED:
        text = card(name).fields["Training"]
        rate = load("methods", name).values["train"]["optimizer"]["lr"]
        kind, limit = load("methods", name).values["train"]["optimizer"].get("type", "AdamW"), "gradient norm at most 1"
        if load("methods", name).values["train"].get("clip_grad", 1.0) is None:
            limit = "no limit of gradients"
        for part in (
            kind,
            f"learning rate {rate}",
            limit,
            "warm-up",
            "16 episodes per",
            "random crop",
        ):
            assert part in text, (name, part)
    clip_fsar = card("clip_fsar").fields["Training"]
    assert "no flip" in clip_fsar
    assert "half of the queries mirrored (kinetics100@clip_fsar, kinetics100@cmn)" in clip_fsar
    assert "learning rate 2e-06 (ucf101)" in clip_fsar
    assert f"where the dataset allows it ({', '.join(sorted(MIRRORED))})" in card("trx").fields["Training"]
    for name in ("hyrsm", "molo", "strm", "trx", "otam", "protonet", "bi_mhm"):
        assert "`train.flip=on` does" in card(name).fields["Differs"]  # the official code flips Something-Something


def test_a_custom_methods_card_tells_its_training(tmp_path):
    (tmp_path / "mine.py").write_text(
        '"""Mine."""\nmethod = dict(type="MetricMethod")\n'
        'train = dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9), clip_grad=None, crop="resized", crop_area=0.5,\n'
        '    flip="on", jitter=0.2, scheduler=[dict(type="ConstantLR")])\n'
    )
    text = card(str(tmp_path / "mine.py")).fields["Training"]
    for part in (
        "SGD, momentum 0.9, learning rate 0.1, no limit of gradients, schedule ConstantLR",
        "random resized crop (area from 0.5 to 1, ratio up to 1.33)",
        "half of the clips mirrored, colours of the clips jittered by 0.2",
    ):
        assert part in text
