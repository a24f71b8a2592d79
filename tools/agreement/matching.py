"""Published figures next to the rows of the built-in boards that stand for them; which are missing, and what makes them."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from fsar_bench.config.resolve import resolve
from fsar_bench.config.settings import Frozen
from fsar_bench.errors import ConfigError
from fsar_bench.leaderboard.boards import Board, Entry, build_boards
from fsar_bench.leaderboard.files import statistics_cache
from fsar_bench.leaderboard.published import Published
from fsar_bench.results.store import read_all
from tools.agreement.correlation import FEWEST, Ranking

SYSTEMS = Path(__file__).parent / "systems.toml"
VARIANTS = Path("studies", "agreement")  # below the leaderboards: variants of methods, which no board lists
WAY = 5
SHOTS = (1, 5)
ORDER, SCENE = ("SSv2-Small", "SSv2-Full"), ("Kinetics-100", "HMDB51", "UCF101")
PAIRS = {
    "synthact_order": ORDER,
    "synthact_scene": SCENE,
    "synthact": (*ORDER, *SCENE),
}  # board: what it should predict
BACKBONES = ("ViT-B/16", "ViT-B/32", "RN50")  # of the literature, each ranked alone


class System(Frozen):
    """An entry of `systems.toml`; its comment tells the fields."""

    published: str
    backbone: str | None = None
    ours: str | None = None
    why: str

    def stands_for(self, figure: Published) -> bool:
        """Whether a figure is of this system."""
        return self.published == figure.method and self.backbone in (None, figure.backbone)


@dataclass(frozen=True)
class Match:
    """A published figure and the row of ours that stands for it.

    Attributes:
        system: the entry that says so.
        figure: the published figure.
        board: name of the built-in dataset.
        shot: of the row; that of a figure without supports is 0.
        ours: words of the row: those of the system, and of a training that is not the default's.
        found: the board that has the row, and its place there; None where the row is missing.
    """

    system: System
    figure: Published
    board: str
    shot: int
    ours: str
    found: tuple[Board, int] | None

    @property
    def entry(self) -> Entry:
        """The row with its statistics; only where it is not missing."""
        assert self.found is not None
        board, place = self.found
        return board.entries[place]


@dataclass(frozen=True)
class Panel:
    """One ranking of the literature (a dataset and a backbone) against one built-in board."""

    dataset: str
    backbone: str
    board: str
    shot: int
    matches: tuple[Match, ...]

    @cached_property
    def known(self) -> list[Match]:
        """Matches whose rows exist, the best published figure first."""
        known = [match for match in self.matches if match.found]
        return sorted(known, key=lambda match: (-match.figure.accuracy, match.figure.method))

    @property
    def first(self) -> list[float]:
        """Published figures."""
        return [match.figure.accuracy for match in self.known]

    @property
    def second(self) -> list[float]:
        """Our accuracies."""
        return [match.entry.statistics.accuracy for match in self.known]

    @property
    def ranking(self) -> Ranking:
        """Figures and accuracies; a system has the name of its row, which rankings of other datasets have too."""
        return Ranking(tuple(str(match.system.ours) for match in self.known), tuple(self.first), tuple(self.second))

    @property
    def is_ranking(self) -> bool:
        """Whether there are enough systems to be ranked."""
        return len(self.known) >= FEWEST

    def widths(self) -> np.ndarray:
        """Half-widths of the 95 % intervals of the differences of our rows, `[n, n]`; not a number where not known."""
        out = np.zeros((len(self.known), len(self.known)))
        for i, one in enumerate(self.known):
            for j, other in enumerate(self.known):
                if i != j:
                    out[i, j] = _width(one, other)
        return out


def _width(one: Match, other: Match) -> float:
    (board, place), (same, second) = one.found or (None, 0), other.found or (None, 0)
    width = board.gap(place, second).half_width if board is not None and board is same else None
    return np.nan if width is None else width


def read_systems(path: Path = SYSTEMS) -> list[System]:
    """The entries of `systems.toml`."""
    return [System(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["system"]]


def is_of_clip(figure: Published) -> bool:
    """Whether a figure is of the CLIP era: a CLIP encoder, 5-way, without supports or with as many as our boards have."""
    return figure.pretraining == "CLIP" and figure.way == WAY and figure.shot in (0, *SHOTS)


def system_of(figure: Published, systems: Iterable[System]) -> System:
    """The entry for a figure.

    Raises:
        ConfigError: there is none, or there are several.
    """
    fitting = [system for system in systems if system.stands_for(figure)]
    if len(fitting) != 1:
        raise ConfigError(
            f"{figure.method!r} on {figure.backbone!r} ({figure.source}) has {len(fitting)} entries in {SYSTEMS.name}: "
            "exactly one was expected. Add one that names the row of ours, or says why there is none."
        )
    return fitting[0]


def boards_with_variants(out: Path) -> list[Board]:
    """Boards of a store and of the variants of methods below it.

    Raises:
        ResultError: a result is damaged.
    """
    rows, variants = (read_all(folder / "results", statistics_cache()) for folder in (out, out / VARIANTS))
    known = {stored.result.config_hash for stored in rows}
    new = [stored for stored in variants if stored.result.config_hash not in known]
    return build_boards([*rows, *new], statistics_cache())


def panels(
    published: Iterable[Published], systems: list[System], boards: list[Board], training: str = ""
) -> list[Panel]:
    """All rankings, in the order of `PAIRS`, shots, datasets and backbones, of which `FEWEST` systems or more are published.

    Args:
        published: all figures.
        systems: the rows that stand for them.
        boards: what is measured.
        training: settings of the training of rows that are trained, such as `tools.SHORT_WORDS`.
    """
    rows = rows_by_hash(boards)
    figures = [(figure, system_of(figure, systems)) for figure in _originals(filter(is_of_clip, published))]
    out = []
    for board, datasets in PAIRS.items():
        for shot in SHOTS:
            for dataset in datasets:
                of_backbone: dict[str, list[Match]] = defaultdict(list)
                for figure, system in figures:
                    if figure.dataset == dataset and figure.shot in (0, shot) and system.ours:
                        ours = with_training(system.ours, board, training)
                        found = rows.get(hash_of(ours, board, shot))
                        of_backbone[architecture(figure)].append(Match(system, figure, board, shot, ours, found))
                out += [
                    Panel(dataset, backbone, board, shot, tuple(of_backbone[backbone]))
                    for backbone in BACKBONES
                    if len(of_backbone[backbone]) >= FEWEST
                ]
    return out


def rows_by_hash(boards: Iterable[Board]) -> dict[str, tuple[Board, int]]:
    """Board and place of each row of a test split, by the hashes of its cells."""
    return {
        seed.result.config_hash: (board, place)
        for board in boards
        for place, row in enumerate(board.rows)
        for seed in row.seeds
        if board.is_tested
    }


def _originals(published: Iterable[Published]) -> Iterator[Published]:
    """One figure of each system, dataset and shot: one that is not cited before one that is, then the first of the file."""
    groups: dict[tuple, list[Published]] = defaultdict(list)
    for figure in published:
        groups[figure.method, figure.backbone, figure.dataset, figure.shot].append(figure)
    return (min(group, key=lambda figure: figure.cited) for group in groups.values())


def architecture(figure: Published) -> str:
    """The encoder without what the source says of its training: `RN50 (full fine-tuning)` is RN50."""
    return figure.backbone.partition(" (")[0]


def words(ours: str, board: str, shots: Iterable[int]) -> list[str]:
    """The arguments of `fsar-bench run` that make a row."""
    method, *settings = ours.split()
    return [f"methods={method}", *settings, f"dataset={board}", f"shot={','.join(map(str, shots))}", "controls=false"]


def with_training(ours: str, board: str, training: str) -> str:
    """The words of a row with settings of its training, if it has one that is another by default."""
    if not training or not is_trained(ours.partition(" ")[0], board):
        return ours
    typed = f"{ours} {training}"
    return ours if hash_of(typed, board, SHOTS[0]) == hash_of(ours, board, SHOTS[0]) else typed


@cache
def is_trained(method: str, board: str) -> bool:
    """Whether a method is trained."""
    return resolve(words(method, board, [1])).cells[0].identity.train is not None


@cache
def hash_of(ours: str, board: str, shot: int) -> str:
    """Hash of the cell that makes a row, by today's configs: a row that an older config made is not it.

    Raises:
        ConfigError: the words do not name exactly one row.
    """
    cells = resolve(words(ours, board, [shot])).cells
    if len(cells) != 1:
        raise ConfigError(f"{ours!r} in {SYSTEMS.name} makes {len(cells)} rows: exactly one was expected.")
    return cells[0].hash


def missing(panels: Iterable[Panel]) -> dict[tuple[str, str], set[int]]:
    """Shots at which a row is missing, by board and words of the row."""
    out: dict[tuple[str, str], set[int]] = defaultdict(set)
    for panel in panels:
        for match in panel.matches:
            if not match.found:
                out[match.board, match.ours].add(match.shot)
    return out


def commands(missing: Mapping[tuple[str, str], set[int]]) -> list[str]:
    """Commands that make rows: boards that lack a row at the same shots share one, and so do rows without settings.

    Rows with settings are variants, which have a folder of their own.
    """
    boards: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (board, ours), shots in missing.items():
        boards[ours, tuple(sorted(shots))].append(board)
    methods: dict[tuple[str, tuple[str, ...], tuple[int, ...]], list[str]] = defaultdict(list)
    for (ours, shots), lacking in boards.items():
        method, _, settings = ours.partition(" ")
        methods[settings, tuple(lacking), shots].append(method)
    return [
        " ".join(
            [
                "fsar-bench run",
                *words(f"{','.join(names)} {settings}", ",".join(lacking), shots),
                *([f"out=./leaderboards/{VARIANTS.as_posix()}"] if settings else []),
            ]
        )
        for (settings, lacking, shots), names in methods.items()
    ]
