"""Published recipes: what they take, where they are refused, what the identity says, and what cards tell of both recipes."""

from __future__ import annotations

import copy
import json
import re
from importlib.resources import files

import pytest
import torch

from fsar_bench.config.cards import card
from fsar_bench.config.cell import Cell, Label
from fsar_bench.config.files import load, names
from fsar_bench.config.published import RecipeConfig, published
from fsar_bench.config.recipes import _words
from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import Train
from fsar_bench.data.dataset import Split
from fsar_bench.engine.episodes import prompts_of
from fsar_bench.engine.schedules import DoubleSpeedSteps
from fsar_bench.errors import ConfigError
from fsar_bench.plan import ClipList
from fsar_bench.registry import BACKBONES, METHODS, build
from fsar_bench.results.command import _pairs, _recorded

K100 = "kinetics100@clip_fsar"
ALIBABA = {  # updates, episodes, episodes an update, sum of the learning rates of all updates over the base rate
    ("clip_fsar", "hmdb51"): (1250, 20_000, 16, 296), ("clip_fsar", "ucf101"): (750, 12_000, 16, 247),
    ("clip_fsar", K100): (1250, 20_000, 16, 193), ("clip_fsar", "ssv2_small"): (7500, 120_000, 16, 960),
    ("clip_fsar", "ssv2_full"): (7500, 120_000, 16, 1745), ("hyrsm", "hmdb51"): (1000, 8_000, 8, 199),
    ("hyrsm", "ucf101"): (625, 10_000, 16, 378), ("hyrsm", K100): (300, 4_800, 16, 67),
    ("hyrsm", "ssv2_small"): (5000, 80_000, 16, 710), ("hyrsm", "ssv2_full"): (10_000, 160_000, 16, 2163),
    ("molo", "hmdb51"): (500, 8_000, 16, 275), ("molo", "ucf101"): (1500, 24_000, 16, 850),
    ("molo", K100): (1250, 20_000, 16, 161), ("molo", "ssv2_small"): (5000, 80_000, 16, 710),
    ("molo", "ssv2_full"): (12_500, 200_000, 16, 4250),
}  # fmt: skip
TRX_AUTHORS = [  # method, dataset, episodes, episodes an update, queries, base rate, factor of the loss
    ("trx", "ssv2_full", 74_992, 16, 5, 1e-3, 25), ("strm", "ssv2_full", 74_992, 16, 4, 1e-3, 20),
    ("strm", "hmdb51", 10_000, 16, 4, 1e-4, 20), ("strm", "ucf101", 10_000, 16, 4, 1e-4, 20),
    ("strm", "kinetics100@cmn", 10_000, 16, 5, 1e-4, 25), ("otam", "ssv2_full", 50_000, 1, 5, 1e-3, 1),
]  # fmt: skip
RECIPES = {name: config for name in names("recipes") if (config := published(name))}
PLACES = [(name, *place) for name, config in RECIPES.items() for place in config.places()]


def official(method: str, dataset: str, shot: int = 1, *settings: str) -> Cell:
    asked = [f"methods={method}", f"dataset={dataset}", f"shot={shot}", "recipe=official", "controls=false", *settings]
    (cell,) = resolve(asked).cells
    return cell


def train_of(cell: Cell) -> Train:
    assert cell.identity.train
    return cell.identity.train


def scheduler_of(train: Train) -> DoubleSpeedSteps:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=train.optimizer["lr"])
    assert isinstance(train.scheduler, dict)
    return DoubleSpeedSteps(optimizer, by_epoch=False, **{k: v for k, v in train.scheduler.items() if k != "type"})


@pytest.mark.parametrize(("place", "expected"), ALIBABA.items(), ids=str)
def test_updates_and_learning_rates_are_those_of_the_official_configs(place, expected):
    train = train_of(official(*place))
    scheduler = scheduler_of(train)
    last = range(train.accumulate - 1, train.episodes, train.accumulate)  # the episode before each update
    total = sum(scheduler.factor(episode) for episode in last)
    assert (len(last), train.episodes, train.accumulate, round(total)) == expected


def test_every_published_recipe_is_in_these_tables():
    tabled = {*ALIBABA, *((method, dataset) for method, dataset, *_ in TRX_AUTHORS)}
    assert {(method, dataset) for method, dataset, _ in PLACES} == tabled
    assert {config.encoder for config in RECIPES.values()} <= set(names("backbones"))
    assert all(re.fullmatch(r"[\w-]+/[\w-]+ @[0-9a-f]{7}", config.source) for config in RECIPES.values())


@pytest.mark.parametrize(("method", "dataset", "episodes", "step", "queries", "rate", "scale"), TRX_AUTHORS)
def test_settings_of_the_trx_authors_scripts(method, dataset, episodes, step, queries, rate, scale):
    train = train_of(official(method, dataset, 5))
    assert train.optimizer == {"type": "SGD", "lr": rate}
    assert (train.episodes, train.accumulate, train.query_per_class, train.loss_scale) == (
        episodes,
        step,
        queries,
        scale,
    )
    assert (train.shot, train.flip, train.augmented, train.clip_grad) == (5, "on", "all", None)
    assert (train.sampling, train.squash) == (("ends", True) if dataset == "ssv2_full" else ("jittered_ends", False))
    assert episodes % step == 0


def test_shots_queries_and_merges_of_the_official_configs():
    for shot, queries in ((1, 7), (2, 6), (3, 5), (4, 4), (5, 3)):
        train = train_of(official("hyrsm", "ucf101", shot))
        assert (train.shot, train.query_per_class) == (shot, queries)
    for method, queries in (("clip_fsar", 5), ("molo", 6)):
        for shot in (1, 5):
            train = train_of(official(method, "hmdb51", shot))
            assert (train.shot, train.query_per_class) == (1, queries)
    merges = [official("clip_fsar", "hmdb51", shot).identity.method["merge_before"] for shot in (1, 5)]
    assert merges == [False, True]


def test_what_a_recipe_of_alibaba_takes_whole():
    for method in ("clip_fsar", "hyrsm", "molo"):
        train = train_of(official(method, "ssv2_full"))
        assert {k: v for k, v in train.optimizer.items() if k != "lr"} == {
            "type": "Adam", "betas": [0.9, 0.999], "weight_decay": 1e-3,
        }  # fmt: skip
        assert train.no_decay == ["bn", "norm", "embd", "cls_token"]
        assert (train.clip_grad, train.amp, train.crop, train.squash, train.sampling) == (
            None, "off", "random", True, "whole_segments",
        )  # fmt: skip
        assert (train.flip, train.augmented) == (("off", "all") if method == "clip_fsar" else ("on", "queries"))
        on_kinetics = train_of(official(method, K100))
        assert (on_kinetics.sampling, on_kinetics.stride, on_kinetics.flip) == ("stride", 35, "on")


def test_the_encoder_is_normalised_and_its_batch_norm_trained_as_published():
    def backbone(method: str, dataset: str, shot: int, name: str = "rn50") -> dict:
        return official(method, dataset, shot, f"backbone={name}").identity.backbone

    half, none = ([0.45] * 3, [0.225] * 3), ([0.0] * 3, [1.0] * 3)
    for place, expected in (
        (("hyrsm", "hmdb51", 1), half), (("molo", K100, 5), half), (("trx", "ssv2_full", 5), none),
        (("strm", "ucf101", 5), none), (("otam", "ssv2_full", 5), none), (("clip_fsar", "ucf101", 5), half),
    ):  # fmt: skip
        config = backbone(*place)
        assert ((config["mean"], config["std"]), config["train_batch_norm"]) == (expected, True)
    assert "mean" not in backbone("clip_fsar", "ucf101", 1)
    assert "train_batch_norm" not in backbone("hyrsm", "hmdb51", 1, "vit_b_16")  # it has none
    assert backbone("hyrsm", "hmdb51", 1, "timm:resnet18")["train_batch_norm"]


@pytest.mark.parametrize("dataset", ["hmdb51", "ucf101", "ssv2_small", "ssv2_full"])
def test_class_texts_are_spelled_as_in_the_official_configs(dataset):
    known = json.loads(files("fsar_bench.data.importing").joinpath(f"known/{dataset}.json").read_text("utf-8"))
    texts = official("clip_fsar", dataset).identity.class_texts
    ours = {row["text"] for rows in known["classes"].values() for row in rows}
    split = Split("test", ClipList((), ()), (), tuple(sorted(ours)), ())
    spelled = prompts_of(split, "{}", texts)
    assert set(texts) <= set(spelled)
    assert len(set(spelled)) == len(ours)
    assert len(set(spelled) - ours) == len(texts)  # each text has its class
    assert prompts_of(split, "{}") == sorted(ours)
    few = {"hmdb51": "draw_sword", "ucf101": "Blow DryHair", "ssv2_small": "Uncovering [something]"}
    assert few.get(dataset, "Closing [something]") in spelled


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["methods=trx", "dataset=hmdb51", "shot=5"],
            "trx has no published settings for hmdb51 at 5 shots. There are trx on",
        ),
        (["methods=trx", "dataset=ssv2_full"], "for ssv2_full at 1 shot. There are trx on ssv2_full (5 shots). Choose"),
        (
            ["methods=hyrsm", "dataset=synthact"],
            f"hyrsm on hmdb51, ucf101, ssv2_small, ssv2_full, {K100} (1, 2, 3, 4 and",
        ),
        (
            ["methods=ma_clip", "dataset=hmdb51"],
            "ma_clip has no published settings for hmdb51 at 1 shot. There are clip_fsar",
        ),
        (["methods=zero_shot", "dataset=hmdb51"], "recipe=official does not apply: none of these methods is trained"),
    ],
)
def test_a_recipe_that_was_not_published_is_refused_with_those_that_were(settings, message):
    with pytest.raises(ConfigError) as error:
        resolve([*settings, "recipe=official", "controls=false"])
    assert message in str(error.value)


def test_recipes_are_named_correctly():
    with pytest.raises(ConfigError, match=r"recipe='offical' is unknown\. Choose from: suite, official"):
        resolve(["methods=otam", "recipe=offical"])


def test_a_row_is_marked_and_hashed_and_the_suite_changes_nothing():
    asked = ["methods=clip_fsar", "dataset=hmdb51", "controls=false"]
    (plain,) = resolve(asked).cells
    suite, published_row = resolve([*asked, "recipe=suite,official"]).cells
    assert (suite.hash, suite.label) == (plain.hash, plain.label)
    assert published_row.hash != plain.hash
    assert published_row.label.row == "CLIP-FSAR (recipe=official)"
    assert Label(**published_row.label.model_dump()) == published_row.label
    assert "class_texts" not in suite.identity.model_dump()
    of_name = resolve([*asked, "clip_fsar.recipe=official"]).cells
    assert of_name == [published_row]


def test_a_record_tells_the_recipe_that_gives_its_cell_again():
    cell = official("molo", "ucf101", 5, "train.episodes=160")
    settings = [*_pairs(_recorded(cell)), "shot=5", "controls=false"]
    assert "recipe=official" in settings
    assert [again.hash for again in resolve(settings).cells] == [cell.hash]


def test_the_user_may_change_single_settings_of_a_recipe():
    train = train_of(official("hyrsm", "hmdb51", 1, "train.episodes=160", "train.optimizer.lr=1e-3"))
    assert (train.episodes, train.optimizer["lr"], train.optimizer["type"]) == (160, 1e-3, "Adam")


def test_controls_and_untrained_methods_keep_their_settings():
    run = resolve(["methods=hyrsm,zero_shot", "dataset=hmdb51", "recipe=official"])
    assert {cell.name: cell.label.changed for cell in run.cells} == {
        "hyrsm": {"recipe": "official"}, "zero_shot": {}, "prototype_frozen": {},
    }  # fmt: skip
    assert run.notes == ("recipe= applies to hyrsm, not to zero_shot.",)


@pytest.mark.parametrize("method", RECIPES)
def test_methods_and_backbones_take_the_arguments_of_a_recipe(method):
    places = [(dataset, shot) for name, dataset, shot in PLACES if name == method]
    cell = official(method, *places[-1], "backbone=tiny_resnet" if method != "clip_fsar" else "backbone=tiny_clip")
    backbone = build(BACKBONES, {k: v for k, v in cell.identity.backbone.items() if k != "name"})
    built = build(METHODS, copy.deepcopy(cell.identity.method), backbone=backbone)
    if method != "clip_fsar":
        assert backbone.train_batch_norm
        assert backbone.mean.flatten().tolist() == pytest.approx(cell.identity.backbone["mean"])
    else:
        assert built.class_epsilon == 0.01


def test_points_of_difference_are_told_by_cards():
    """Each setting in which official code and suite differ, as the two fields of a card tell it."""
    suite = {name: card(name).fields["Training"] for name in RECIPES}
    told = {name: card(name).fields["Official recipe"] for name in RECIPES}
    alibaba, trx_authors = ("clip_fsar", "hyrsm", "molo"), ("trx", "strm", "otam")
    points = [  # methods, what the suite does, what the official code does
        (alibaba, "then a cosine to 0", "then steps (at double speed) to"),
        (alibaba, "linear warm-up over 5 % of the episodes", "linear warm-up from"),
        (trx_authors, "then a cosine to 0", "constant learning rate"),
        (RECIPES, "gradient norm at most 1", "no limit of gradients"),
        (["hyrsm"], "20,000 episodes", "4,800 episodes (kinetics100@clip_fsar)"),
        (["hyrsm"], "16 episodes per optimiser step", "8 episodes per optimiser step (hmdb51)"),
        (["hyrsm"], "of 5 queries per class", "7 queries per class (1 shot); 6"),
        (["hyrsm"], "of 5 queries per class", "3 queries per class (5 shots)"),
        (["molo"], "of 5 queries per class", "6 queries per class"),
        (["clip_fsar", "molo"], "shots of the protocol", "1-shot episodes"),
        (["clip_fsar"], "", "`method.merge_before=True` (5 shots)"),
        (alibaba, "AdamW, weight decay 0.001 (decoupled, of all parameters)", "weight decay 0.001 (inside the gradient, not of"),
        (alibaba, "random crop of frames that keep their ratio", "random crop of frames squeezed to a square"),
        (["hyrsm", "molo"], "mirrored where the dataset allows it", "half of the queries mirrored, colours of the queries"),
        (["clip_fsar"], "no flip", "half of the queries mirrored (kinetics100@clip_fsar)"),
        (trx_authors, "mirrored where the dataset allows it", "half of the clips mirrored, no colour jitter"),
        (alibaba, "a random frame of each of T equal segments", "a random frame of each of T segments of whole frames"),
        (alibaba, "", "T equidistant frames from a random start"),
        (alibaba, "", "Not taken: evaluation, the same for all methods: test frames are drawn at random too"),
        (["trx", "strm"], "", "test frames are linspace(1, n - 2)"),
        (["strm"], "", "T equidistant frames between ends that move"),
        (["hyrsm", "molo"], "", "pixels normalised by mean 0.45 and standard deviation 0.225 (the suite: as for the weights)"),
        (["clip_fsar"], "", "(ucf101 at 5 shots)"),
        (trx_authors, "", "pixels not normalised (the suite: as for the weights)"),
        (RECIPES, "", "batch norm in train mode, supports and queries apart (the suite: eval mode)"),
        (alibaba, "", "test frames are squeezed to 256 x 256"),
        (["trx"], "losses averaged over queries", "losses times 25"),
        (["strm"], "losses averaged over queries", "losses times 20"),
        (trx_authors, "AdamW", "SGD"),
        (alibaba, "", "the checkpoint is chosen on test"),
        (RECIPES, "bfloat16 on a GPU", "float32"),
        (["clip_fsar"], "", "`draw_sword`, `ride_bike`, `shake_hands`, `shoot_bow` (hmdb51)"),
        (["clip_fsar"], "", "`method.class_epsilon=0.01`"),
    ]  # fmt: skip
    for methods, of_suite, of_official in points:
        for name in methods:
            assert of_suite in suite[name], (name, of_suite)
            assert of_official in told[name], (name, of_official)
    assert "nothing that could be checked, because no official code is public" in card("ma_clip").fields["Differs"]
    assert all("Official recipe" not in card(name).fields for name in set(names("methods")) - set(RECIPES))


@pytest.mark.parametrize(("method", "dataset", "shot"), PLACES)
def test_every_setting_that_a_recipe_changes_is_told(method, dataset, shot):
    """A changed field of the training changes the words for it, and the words stand in the card."""
    cell = official(method, dataset, shot)
    train = train_of(cell)
    (suite,) = resolve([f"methods={method}", f"dataset={dataset}", f"shot={shot}", "controls=false"]).cells
    text = card(method).fields["Official recipe"]
    words = _words(train, [])
    for part, phrase in words.items():
        pieces = phrase.split(" of ") if part == "length" else [phrase]
        assert all(piece in text for piece in pieces), phrase
    for field in Train.model_fields:
        without = train.model_copy(update={field: getattr(train_of(suite), field)})
        assert without == train or _words(without, []) != words, field


def test_a_recipe_file_with_a_wrong_field_is_refused():
    values = copy.deepcopy(load("recipes", "trx").values)
    values["common"]["trian"] = {}
    with pytest.raises(ConfigError, match=r"Unknown key 'common.trian'"):
        RecipeConfig.of({key: value for key, value in values.items() if not key.startswith("_")})
