"""Boards: rows that share their episodes, with statistics that are computed once and kept in a cache."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from fsar_bench.io import read_whole, to_json
from fsar_bench.leaderboard.budgets import Budget, budget_note, usual_budget
from fsar_bench.leaderboard.ranking import MOST_COMPARED, BoardStatistics, Reader, RowStatistics, rank_rows
from fsar_bench.leaderboard.rows import OF_PLAN, Row, group_seeds, is_control, same_episodes, with_controls
from fsar_bench.plan import EpisodePlan
from fsar_bench.progress.events import warn
from fsar_bench.results.plans import checked_plan, require_plan
from fsar_bench.results.record import Result
from fsar_bench.results.store import Stored, remember
from fsar_bench.storage.recall import recall
from fsar_bench.storage.sealed import DamagedError, unseal_json
from fsar_bench.texts.characters import counted

TESTED = "test"
NOT_TEST = "no result of a benchmark, and not comparable with any"
_PLAN_BYTES = 2**26  # of the plans that a board keeps in memory
VERSION = 5  # of the cached statistics; raised when their definition changes


@dataclass(frozen=True)
class Entry:
    """A row with its statistics."""

    row: Row
    statistics: RowStatistics

    @property
    def result(self) -> Result:
        """The result of the row's first seed."""
        return self.row.result


@dataclass(frozen=True)
class Gap:
    """Difference of two rows in percent, and the half-width of its 95 % interval; None where that is not known."""

    difference: float
    half_width: float | None


class Board:
    """Rows of one dataset, protocol and plan: the only ones that may be ranked together.

    Args:
        rows: in any order.
        cache: folder of statistics that were computed before, by content; None keeps nothing.

    Attributes:
        rows: the most accurate first.
    """

    def __init__(self, rows: list[Row], cache: Path | None = None) -> None:
        self.rows = sorted(_marked(rows), key=lambda row: (-row.accuracy, row.title, row.result.config_hash))
        self._cache = cache
        self._plans: OrderedDict[tuple[str, str | None, int, int], EpisodePlan] = OrderedDict()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __repr__(self) -> str:
        """Title and number of rows; reads no predictions."""
        return f"<Board {self.title}: {len(self)} rows>"

    def _repr_html_(self) -> str:
        from fsar_bench.leaderboard.tables import html

        return html(self)

    @property
    def first(self) -> Result:
        """A result that represents the board: the best one, submitted predictions only where there are no others."""
        return next((row.result for row in self.rows if not row.result.submitted), self.rows[0].result)

    @cached_property
    def usual_budget(self) -> Budget | None:
        """What most of its trained rows were tuned with; None where none was."""
        return usual_budget(self.rows)

    @property
    def budget_note(self) -> str:
        """What stands under its table where rows were tuned with unequal budgets; empty where they were not."""
        return budget_note(self.rows, self.usual_budget)

    @property
    def page(self) -> str:
        """Name of its page, without extension; other splits than test have pages of their own."""
        p = self.first.protocol
        split = "" if self.is_tested else f"-{p.split}_split"
        return f"{self.first.dataset}{split}-{p.way}way_{p.shot}shot"

    @property
    def is_tested(self) -> bool:
        """Whether it is of the test split: others have a section of their own, and are never compared with published figures."""
        return self.first.protocol.split == TESTED

    @property
    def title(self) -> str:
        """Dataset, way and shot, the split where it is not test, a seed of the episodes other than 0, and "transductive"."""
        p, label = self.first.protocol, self.first.cell.label
        synthetic = " (synthetic)" if label.synthetic else ""
        seed = f", seed {p.seed}" if p.seed else ""
        seed += ", transductive" if self.first.traits.transductive else ""
        split = "" if self.is_tested else f", {p.split} split (not test)"
        return f"{label.dataset}{synthetic}, {p.way}-way {p.shot}-shot{split}{seed}"

    @property
    def note(self) -> str:
        """What its rows share, and what limits their comparison."""
        p, data = self.first.protocol, self.first.data
        sentences = [
            f"{counted(p.episodes, 'episode', 'episodes')}, {counted(p.query, 'query', 'queries')} per class, {data.classes} "
            f"{p.split} classes, {data.clips} clips, {p.frames} frames; plan {self.first.episodes.plan[:12]}, seed {p.seed}, "
            f"class texts {p.template!r}, reader {self.first.frames.reader}."
        ]
        if not self.is_tested:
            sentences.insert(0, f"Measured on the {p.split} split, not on test: {NOT_TEST}.")
        if p.group_disjoint:
            sentences.append(
                "Supports share no source recording with queries of their class; intervals over clips leave that out, and are "
                "somewhat too narrow."
            )
        if len(self) > MOST_COMPARED:
            sentences.append(
                f"The {MOST_COMPARED} most accurate of {len(self)} rows are compared in pairs, the others with the best row "
                "alone."
            )
        sentences += self._coverage()
        sentences += [sentence for sentence in (self.units_note, self.few_clips, self.limits_note) if sentence]
        return " ".join(sentences)

    @property
    def units_note(self) -> str:
        """What is known of the recordings that its clips come from."""
        clips, recordings = self.statistics.clips, self.statistics.recordings
        if recordings is None:
            return "The recordings of these clips are not known: clips are taken as independent, which they may not be."
        if recordings == clips:
            return ""
        differ = (
            ", and rows differ in which: clips that share one in any row are taken together" * self._recordings_differ
        )
        of = counted(recordings, "recording", "recordings")
        return f"The {clips} clips that appear are of {of}, whose clips vary together{differ}."

    @property
    def limits_note(self) -> str:
        """What its ranks are of, and the differences that it can see."""
        of = (
            "No row was trained often enough to tell how much trainings differ: this board ranks checkpoints, not methods. "
            * self.of_checkpoints
        )
        found = self.statistics.found_differences
        if found is None:
            return of.strip()
        pairs = len(self) * (len(self) - 1) // 2
        corrected = f"; the ranks, corrected for {pairs} pairs, need {found[1]:.1f}" * (pairs > 1)
        return (
            f"{of}Of two rows that truly differ by {found[0]:.1f} points (2.8 standard errors of the median pair), one test "
            f"finds the difference in 80 % of cases{corrected}."
        )

    @property
    def of_checkpoints(self) -> bool:
        """Whether other trainings are in no interval and no test, as no trained row has several."""
        return self.statistics.of_checkpoints

    @property
    def by_recording(self) -> bool:
        """Whether clips vary together by recording, and these are known."""
        statistics = self.statistics
        return statistics.recordings is not None and statistics.recordings < statistics.clips

    def _coverage(self) -> list[str]:
        """What is said of rows on incomplete data, by their coverage."""
        replaced: dict[float, bool] = {}
        for row in self.rows:
            data, episodes = row.result.data, row.result.episodes
            if data.coverage < 1:
                replaced[data.coverage] = replaced.get(data.coverage, False) or episodes.plan != episodes.realised
        clips = self.first.data.clips
        return [
            f"Coverage {100 * coverage:.2f} %: missing clips are replaced by others within their episodes."
            if is_replaced
            else f"Coverage {100 * coverage:.2f} % ({round(coverage * clips)} of {clips} clips): the episodes hold none of the "
            "missing clips."
            for coverage, is_replaced in sorted(replaced.items())
        ]

    @property
    def few_clips(self) -> str | None:
        """A sentence for classes with too few clips for intervals over clips, or for trusting them; else None."""
        p, s = self.first.protocol, self.statistics
        if s.fewest_units < 2:
            return (
                "All clips of some class are of one recording: no intervals over clips, and no rows are ranked apart."
            )
        if s.fewest_clips <= p.shot + 1:
            return (
                "Too few clips per class (at most shot + 1) for intervals over clips of rows that use supports: these are not "
                "ranked apart."
            )
        if s.fewest_units < 2 * (p.shot + p.query):
            of = "recordings" if self.by_recording else "clips"
            return f"Some classes have only {s.fewest_units} {of}: intervals over clips are rough, mostly too wide."
        return None

    def plan(self, row: Row) -> EpisodePlan:
        """The episodes of a row as they were on its machine.

        Raises:
            ResultError: the plan is missing, damaged, or not the one that the result names.
        """
        data = row.result.data
        key = (row.realised, data.recordings, data.classes, data.clips)
        if key not in self._plans:
            self._plans[key] = checked_plan(row.seeds[0])
            while len(self._plans) > 1 and sum(plan.nbytes for plan in self._plans.values()) > _PLAN_BYTES:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        return self._plans[key]

    @cached_property
    def entries(self) -> list[Entry]:
        """The rows with their statistics, the most accurate first.

        Raises:
            ResultError: a plan or predictions are missing or damaged.
        """
        return [Entry(row, statistics) for row, statistics in zip(self.rows, self.statistics.rows, strict=True)]

    @cached_property
    def p(self) -> np.ndarray:
        """p-values of all pairs of the rows that are compared in pairs, the first C ones, `[C, C]`.

        They are adjusted for the number of pairs of the board (Holm). C is the number of rows, or `MOST_COMPARED` if that is
        smaller.
        """
        return np.array(self.statistics.p)

    def gap(self, place: int, other: int) -> Gap:
        """Difference of the row at one place from the row at another; it has an interval among those compared in pairs."""
        widths = self.statistics.widths
        is_known = max(place, other) < len(widths)
        difference = self.rows[place].accuracy - self.rows[other].accuracy
        return Gap(difference, widths[place][other] if is_known else None)

    @cached_property
    def units(self) -> np.ndarray | None:
        """Number of the recording of each clip, int64 `[clips]`; None where no row knows them.

        Where rows differ in them, clips that share a recording in any row have one.

        Raises:
            ResultError: a plan is missing, damaged, or not the one that the result names.
        """
        known = [self.plan(row).recordings for row in self._rows_by_recordings.values()]
        return _joined([recordings for recordings in known if recordings is not None])

    @property
    def _rows_by_recordings(self) -> dict[str, Row]:
        """A row for each hash of recordings."""
        return {row.result.data.recordings: row for row in self.rows if row.result.data.recordings}

    @property
    def _recordings_differ(self) -> bool:
        return len(self._rows_by_recordings) > 1

    @property
    def reader(self) -> Reader:
        """What reads and compares its rows."""
        return Reader(self.rows, self.plan, self.units)

    @cached_property
    def statistics(self) -> BoardStatistics:
        """Statistics from the cache, or computed.

        Raises:
            ResultError: a plan or predictions are missing or damaged.
        """
        content = self._content()
        path = self._cache and self._cache / "boards" / f"{content}.json"
        statistics = _cached(path, content, len(self)) if path else None
        if statistics is None:
            statistics = rank_rows(self.reader)
            if path:
                remember(path, statistics.model_dump(mode="json"), content)
        return statistics

    def _content(self) -> str:
        """SHA-256 of everything that the statistics depend on."""
        content: list[object] = [VERSION]
        for row in self.rows:
            require_plan(row.seeds[0])
            result = row.result
            content.append([row.realised, result.data.classes, result.data.recordings])
            content.append([row.is_trained, result.traits.ignores_supports])
            content.append([seed.result.predictions for seed in row.seeds])
            for control in row.controls:
                kind = control.result.protocol.frames_as
                content.append([kind, *(seed.result.predictions for seed in control.seeds)])
        files = sorted({row.seeds[0].plan_file for row in self.rows})
        content.append([hashlib.sha256(read_whole(file)).hexdigest() for file in files])
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _joined(recordings: list[np.ndarray]) -> np.ndarray | None:
    """Numbers by which two clips are the same exactly if a chain of shared recordings connects them; None without any."""
    if len(recordings) < 2:
        return recordings[0] if recordings else None
    count = min(map(len, recordings))
    clips = np.arange(count)
    first = [np.full(int(numbers.max()) + 1, -1) for numbers in recordings]
    pairs = []
    for of_recording, numbers in zip(first, recordings, strict=True):
        of_recording[numbers[:count][::-1]] = clips[::-1]  # the first clip of each recording
        pairs.append(np.stack([clips, of_recording[numbers[:count]]]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_matrix((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _cached(path: Path, content: str, row_count: int) -> BoardStatistics | None:
    """Statistics of `row_count` rows from a file; None where it is missing or damaged: they are computed again."""

    def read(path: Path) -> BoardStatistics:
        statistics = BoardStatistics.model_validate_json(to_json(unseal_json(read_whole(path), content)))
        sizes = {len(matrix) for matrix in (statistics.p, statistics.widths)}
        sizes |= {len(line) for line in (*statistics.p, *statistics.widths)}
        if len(statistics.rows) != row_count or sizes != {min(row_count, MOST_COMPARED)}:
            raise DamagedError("it holds other rows")
        return statistics

    return recall(path, read, "statistics", again="They are computed again")


def _marked(rows: list[Row]) -> list[Row]:
    """Rows of which no two have the same title and backbone: those that would are told apart by their hashes."""
    count = Counter((row.title, row.result.backbone_name) for row in rows)
    return [
        replace(row, mark=f" [{row.result.config_hash[:8]}]") if count[row.title, row.result.backbone_name] > 1 else row
        for row in rows
    ]


def build_boards(stored: list[Stored], cache: Path | None = None) -> list[Board]:
    """Boards in a fixed order: rows share one only if episodes, clips, frames, class texts and reader are identical.

    Rows on incomplete data join those on complete data; complete data of another content is another board. Submitted
    predictions join a board of their plan, regardless of their frames: of several, the one that they have most in common
    with. Controls (`frames_as`) are no rows: each stands beside the row that it is a control of, and is left out without it.

    Args:
        stored: results in any order.
        cache: folder of statistics that were computed before; None keeps nothing.
    """
    controls = [each for each in stored if is_control(each)]
    stored = [each for each in stored if not is_control(each)]
    groups = _groups([each for each in stored if not each.result.submitted])
    by_plan: dict[tuple[str | int, ...], list[list[Stored]]] = {}
    for group in groups:
        by_plan.setdefault(_plan_key(group[0]), []).append(group)
    submissions = [each for each in stored if each.result.submitted]
    for submission in sorted(submissions, key=lambda each: each.result.config_hash):
        of_plan = by_plan.setdefault(_plan_key(submission), [])
        if not of_plan:
            of_plan.append([])
            groups.append(of_plan[0])
        _join(of_plan, submission)
    groups.sort(key=lambda group: _key(group[0]))
    rows = [with_controls(group_seeds(group), controls) for group in groups]
    _warn_of_lone_controls(rows, controls)
    return [Board(of_board, cache) for of_board in rows]


def _warn_of_lone_controls(rows: list[list[Row]], controls: list[Stored]) -> None:
    """Say which controls are in no table, because the row that they are controls of is not there."""
    placed = {each.folder for board in rows for row in board for control in row.controls for each in control.seeds}
    lone = [each.result.cell for each in controls if each.folder not in placed]
    if lone:
        more = f" and {len(lone) - 1} more" if len(lone) > 1 else ""
        warn(f"In no table, as the same row with its frames as they are is missing: {lone[0]}{more}. Run it again.")


def _plan_key(stored: Stored) -> tuple[str | int, ...]:
    """What submitted predictions share with the board that they join."""
    fields = same_episodes(stored.result)
    return tuple(fields[name] for name in OF_PLAN)


def _key(stored: Stored) -> tuple[str | int, ...]:
    """What boards are sorted by: dataset, way, shot and seed before hashes."""
    first, seed = same_episodes(stored.result), stored.result.protocol.seed
    return (first["dataset"], first["way"], first["shot"], seed, *first.values())


def _groups(stored: list[Stored]) -> list[list[Stored]]:
    """Results that may be ranked together."""
    groups = []
    for _, same in groupby(sorted(stored, key=_key), key=_key):
        by_content: dict[str | None, list[Stored]] = {}
        for each in same:
            data = each.result.data
            by_content.setdefault(data.fingerprint if data.coverage == 1 else None, []).append(each)
        contents = sorted(content for content in by_content if content is not None)
        incomplete = by_content.get(None, [])
        if len(contents) < 2:
            groups.append([each for content in contents for each in by_content[content]] + incomplete)
        else:
            groups += [by_content[content] for content in contents] + ([incomplete] if incomplete else [])
    return groups


def _join(groups: list[list[Stored]], submission: Stored) -> None:
    """Put submitted predictions into the group of their plan that they have most in common with; an only one may be empty."""
    fields = same_episodes(submission.result)

    def differences(group: list[Stored]) -> tuple[int, bool]:
        result = group[0].result
        other = same_episodes(result)
        count = sum(other[field] != fields[field] for field in fields)
        return count, result.data.fingerprint != submission.result.data.fingerprint

    (groups[0] if len(groups) == 1 else min(groups, key=differences)).append(submission)
