"""What the study measures: rows of settings on boards, in the order in which they are run, and the claims that they are for.

A row is a method with settings as they would be typed. A place is a row on a dataset, with a backbone, on a split, after a
multiple of the short training (`tools.SHORT`). Places with their training seeds are ordinary cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from fsar_bench.config.cell import Cell
from fsar_bench.config.files import AblationConfig, MethodConfig, config_folder, load, names
from fsar_bench.config.resolve import resolve
from tools import SHORT

HERE = Path(__file__).parent
ORDER, SCENE, MIXED = "synthact_order", "synthact_scene", "synthact"
BACKBONES = {  # what they know of the words of test classes
    "synthact_clip": "knows the words of test classes",
    "synthact_clip_strict": "has never seen the words of test classes",
}
KNOWING, STRICT = BACKBONES
COUNTERPARTS = {  # datasets of the paper that a board stands for
    ORDER: ("SSv2-Small", "SSv2-Full"),
    SCENE: ("Kinetics-100",),
    MIXED: (),
}
EPISODES = 4_000  # of the test plan: their part of an interval's variance is about a tenth
TIMES = (1, 2, 4, 8)  # of the short training's episodes
SEEDS = (0, 1, 2)

MA_CLIP, FULL, CLIP_FSAR, OTAM, AIM = "ma_clip", "ma_clip_full", "clip_fsar", "otam", "aim"
OURS = {"methods": str(HERE / "ma_clip.py"), "tuned": str(config_folder("tuned"))}  # MA-CLIP with a key more, as tuned
TEXT_ALONE = "zero_shot"
NO_ADAPTERS = "method.multimodal=false method.temporal=false method.joint=false"
NO_TEXT = "ma_clip method.alpha=0 method.support_branch=spatiotemporal method.prototype=transformer"
LOWER_RATE = "train.optimizer.lr=1.87e-3"  # AIM's on order: MA-CLIP's was chosen for short trainings
TABLES = ("table3", "table4", "table5", "table6", "table7", "table1_2")
WORDS = {"table1_2": "Tables 1 and 2"}  # titles that do not follow from the name


@dataclass(frozen=True)
class Claim:
    """A difference that the paper reports.

    Attributes:
        table: its ablation.
        better: number of the row that is better in the paper, from 0.
        worse: number of the other one.
        words: what is claimed.
    """

    table: str
    better: int
    worse: int
    words: str


CLAIMS = (
    Claim("table3", 1, 0, "the prototype module alone helps a frozen encoder"),
    Claim("table3", 2, 0, "the adapters alone help a frozen encoder"),
    Claim("table3", 3, 1, "the adapters help on top of the prototype module"),
    Claim("table3", 3, 2, "the prototype module helps on top of the adapters"),
    Claim("table4", 1, 0, "full fine-tuning is better than a frozen encoder"),
    Claim("table4", 4, 1, "adapters are better than full fine-tuning"),
    Claim("table4", 2, 0, "the multimodal adapter helps"),
    Claim("table4", 3, 2, "the temporal adapter helps on top of it"),
    Claim("table4", 4, 3, "the joint adapter helps on top of both"),
    Claim("table5", 1, 0, "supports gain from the text of their class in the encoder"),
    Claim("table6", 1, 0, "prototypes gain from the text as one more frame"),
    Claim("table6", 2, 1, "guiding the prototypes by text is better than one more frame"),
    Claim("table7", 1, 0, "MA-CLIP is better than OTAM"),
    Claim("table7", 3, 2, "MA-CLIP with Bi-MHM is better than Bi-MHM"),
    Claim("table7", 5, 4, "MA-CLIP with TRX is better than TRX"),
    Claim("table1_2", 2, 1, "MA-CLIP is better than CLIP-FSAR"),
)

PARTS = {  # MA-CLIP without something, and what that is
    NO_TEXT: "all text",
    "ma_clip method.alpha=0": "the text terms of loss and prediction",
    "ma_clip method.predict_alpha=0": "the text in the prediction alone",
    "ma_clip method.support_branch=spatiotemporal": "the text in the encoder",
    "ma_clip method.prototype=transformer": "the text in the prototypes",
    "ma_clip method.prototype=none": "the prototype module",
    f"ma_clip {NO_ADAPTERS}": "all adapters",
    "ma_clip method.multimodal=false": "the multimodal adapter, with its text",
    "ma_clip method.temporal=false": "the temporal adapter",
    "ma_clip method.joint=false": "the joint adapter",
    "ma_clip method.temporal_embedding=false": "the temporal embedding",
    "ma_clip method.temporal=false method.temporal_embedding=false": "temporal adapter and embedding",
    "ma_clip matcher=BiMHM": "OTAM (Bi-MHM in its place)",
    "ma_clip matcher=TRX": "OTAM (TRX in its place)",
    "ma_clip matcher=CosinePrototype": "OTAM (the mean frame in its place)",
}
TEXT_PARTS = tuple(PARTS)[:5]
UNKNOWNS = (  # one change at a time of what the paper does not tell; those that are the default are left out
    "method.alpha=0", "method.alpha=0.1", "method.alpha=0.25", "method.alpha=0.5", "method.alpha=0.75",
    "train.optimizer.lr=3e-4", "train.optimizer.lr=1e-3", "train.optimizer.lr=3e-3",
    "method.temperature=5", "method.temperature=10", "method.temperature=100", "method.label_sharpness=10",
    "method.text_features=after", "method.s2t_classes=train",
    "method.text_start=zero", "method.text_start=projection",
    "method.ffn_width=128", "method.ffn_width=512", "method.ffn_width=2048", "method.dropout=0",
    "method.adapter_ratio=0.125", "method.adapter_ratio=0.5", "method.joint_scale=0.1", "method.joint_scale=1",
    "method.temporal_skip=true", "method.multimodal_skip=false", "method.joint_skip=true",
    "method.num_temporal_adapters=2", "method.temporal_embedding=false", "method.matcher.smoothing=0.5", "template={}",
)  # fmt: skip
LEARNERS = (MA_CLIP, CLIP_FSAR, OTAM, FULL, AIM)
FOLLOWED = (  # over training episodes: MA-CLIP also without what may take long to learn, and with a rate for that
    *LEARNERS, f"ma_clip {LOWER_RATE}", NO_TEXT, f"{NO_TEXT} {LOWER_RATE}", f"ma_clip {NO_ADAPTERS}",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A row on a dataset, with a backbone, on a split, after a multiple of the short training."""

    row: str
    dataset: str
    backbone: str = KNOWING
    split: str = "test"
    times: int = 1


@dataclass(frozen=True)
class Group:
    """Cells that are run together.

    Attributes:
        title: what they are for.
        rows: in the order of work.
        datasets: each row is run on all of them.
        backbone: of all rows.
        seeds: training seeds.
        split: test or val.
        times: multiples of the short training.
    """

    title: str
    rows: tuple[str, ...]
    datasets: tuple[str, ...]
    backbone: str = KNOWING
    seeds: tuple[int, ...] = (0,)
    split: str = "test"
    times: tuple[int, ...] = (1,)

    def places(self) -> Iterator[Place]:
        """Places of its cells, without their seeds."""
        for dataset in self.datasets:
            for times in self.times:
                for row in self.rows:
                    yield Place(row, dataset, self.backbone, self.split, times)


@cache
def ablation(name: str) -> AblationConfig:
    """A table of the paper."""
    return load("ablations", name).checked(AblationConfig)


def _table_rows() -> tuple[str, ...]:
    rows = [row for name in TABLES for row in ablation(name).rows]
    return tuple(dict.fromkeys([MA_CLIP, *rows, TEXT_ALONE]))


_SEVERAL_TIMES = (
    MA_CLIP, NO_TEXT, "ma_clip method.prototype=none", "ma_clip method.support_branch=spatiotemporal",
    "ma_clip method.prototype=transformer",
)  # fmt: skip
_CLAIMED = (
    *_SEVERAL_TIMES, OTAM, CLIP_FSAR, FULL, f"ma_clip {NO_ADAPTERS}", "ma_clip method.prototype=multimodal_transformer",
)  # fmt: skip
_CHANGED = (MA_CLIP, *(f"ma_clip {change}" for change in UNKNOWNS))
GROUPS = (  # the most telling first
    Group("tables of the paper", _table_rows(), (ORDER, SCENE)),
    Group("parts", tuple(PARTS), (ORDER, SCENE)),
    Group("without the words", (MA_CLIP, *TEXT_PARTS, OTAM, CLIP_FSAR, TEXT_ALONE), (ORDER, SCENE), STRICT),
    Group("more trainings", _CLAIMED, (ORDER, SCENE), seeds=SEEDS[1:]),
    Group("training episodes, order", FOLLOWED, (ORDER,), times=TIMES),
    Group("settings, more trainings", _SEVERAL_TIMES, (ORDER, SCENE), seeds=SEEDS, split="val"),  # trained above
    Group("settings, order", _CHANGED, (ORDER,), split="val"),
    Group("more trainings without the words", (MA_CLIP, NO_TEXT), (ORDER, SCENE), STRICT, seeds=SEEDS[1:]),
    Group("training episodes, scene", (MA_CLIP, CLIP_FSAR, OTAM), (SCENE,), times=TIMES),
    Group("settings, scene", _CHANGED, (SCENE,), split="val"),
    Group("order and scene together", (MA_CLIP, NO_TEXT, OTAM, CLIP_FSAR, *ablation("table3").rows[:3]), (MIXED,)),
    Group("order and scene together, more trainings", (MA_CLIP, NO_TEXT, CLIP_FSAR), (MIXED,), seeds=SEEDS[1:]),
    Group("tables without the words", _table_rows(), (ORDER, SCENE), STRICT),
)


@dataclass(frozen=True)
class Design:
    """The study as cells.

    Attributes:
        groups: in the order of work.
        changes: further settings of all cells, as they would be typed, such as fewer episodes for a trial.
    """

    groups: tuple[Group, ...] = GROUPS
    changes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _cells(self) -> dict[tuple[Place, int], Cell | None]:
        return {}

    def can_run(self, group: Group) -> bool:
        """Whether its backbone exists."""
        return group.backbone in names("backbones")

    def cell(self, place: Place, seed: int = 0) -> Cell | None:
        """The cell of a place with a training seed; None where its backbone does not exist."""
        key = place, seed
        if key not in self._cells:
            self._cells[key] = self._resolved(place, seed) if place.backbone in names("backbones") else None
        return self._cells[key]

    def cells_of(self, group: Group) -> list[Cell]:
        """Its cells, each once."""
        cells = [self.cell(place, seed) for seed in group.seeds for place in group.places()]
        return _each_once(cells)

    def cells(self) -> list[Cell]:
        """All cells, each once, in the order of work."""
        return _each_once(cell for group in self.groups for cell in self.cells_of(group))

    def of_place(self, place: Place) -> list[Cell]:
        """Cells of a place with the seeds that some group asks for."""
        return _each_once(self.cell(place, seed) for seed in sorted(self._seeds.get(place, {0})))

    @cached_property
    def _seeds(self) -> dict[Place, set[int]]:
        seeds: dict[Place, set[int]] = {}
        for group in self.groups:
            for place in group.places():
                seeds.setdefault(place, set()).update(group.seeds)
        return seeds

    def _resolved(self, place: Place, seed: int) -> Cell:
        method, *settings = place.row.split()
        has_key_of_ours = any(setting.startswith("method.text_start=") for setting in settings)
        is_trained = load("methods", method).checked(MethodConfig).train is not None
        values = {
            "episodes": str(EPISODES),
            **{
                key: value
                for key, value in {**SHORT, **self.changes}.items()
                if is_trained or not key.startswith("train.")
            },
            **(OURS if has_key_of_ours else {"methods": method}),
            "dataset": place.dataset,
            "backbone": place.backbone,
            "controls": "false",
            **(self._longer(place) if place.times > 1 else {}),
            **({"train.seed": str(seed)} if seed else {}),
            **({"protocol": str(HERE / "val.py")} if place.split == "val" else {}),
            **dict(setting.split("=", 1) for setting in settings),
        }
        (cell,) = resolve([f"{key}={value}" for key, value in values.items()]).cells
        return cell

    def _longer(self, place: Place) -> dict[str, str]:
        """A longer training, with a validation for each eighth of it, but none more often than the short one has."""
        short = self.cell(replace(place, times=1))
        train = short.identity.train if short else None
        assert train is not None, f"{place.row} is not trained"
        episodes = place.times * train.episodes
        updates = -(-episodes // max(TIMES) // train.accumulate)
        interval = max(train.val_interval, updates * train.accumulate)
        return {"train.episodes": str(episodes), "train.val_interval": str(interval)}


def _each_once(cells: Iterable[Cell | None]) -> list[Cell]:
    """Cells by their hash, the first of each: a change to what is the default is the default."""
    once: dict[str, Cell] = {}
    for cell in cells:
        if cell is not None:
            once.setdefault(cell.hash, cell)
    return list(once.values())
