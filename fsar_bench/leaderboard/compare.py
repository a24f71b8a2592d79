"""Two rows of a board: the difference of their accuracies, how sure it is, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np

from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import user_path
from fsar_bench.leaderboard.boards import Board
from fsar_bench.leaderboard.intervals import class_interval
from fsar_bench.leaderboard.jackknife import FEW_EPISODES, Difference
from fsar_bench.leaderboard.ranks import LEVEL
from fsar_bench.leaderboard.rows import Row, differing
from fsar_bench.plan import EpisodePlan
from fsar_bench.results.metrics import NORMAL95

SHOWN = 5  # classes and episodes
HASH_LENGTH = 6  # fewest characters that name a config hash


@dataclass(frozen=True)
class ClassDifference:
    """Accuracies of two rows on the queries of one class, in percent."""

    number: int
    name: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclass(frozen=True)
class EpisodeDifference:
    """Right queries of the first row minus those of the second in one episode."""

    number: int
    difference: float
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two rows of a board, A and B, on all episodes. Accuracies, differences and half-widths are in percent.

    Attributes:
        board: the board.
        first: A.
        second: B.
        over_clips: standard errors of the difference over clips.
        overall: over clips and trainings; as `over_clips` where nothing is known of other trainings.
        half_width_classes: half-width of the 95 % interval of the difference over classes; None where it is not known.
        only_first: number of queries that A alone has right (the mean over seeds).
        only_second: number that B alone has right.
        same_clips: share of the places of the episodes at which both have the same clip.
        classes: every class, the largest difference first.
        episodes: every episode, the largest difference first.
        within: a difference that counts as none, for a verdict whether A and B are equivalent; None: none is asked for.
    """

    board: Board
    first: Row
    second: Row
    over_clips: Difference
    overall: Difference
    half_width_classes: float | None
    only_first: float
    only_second: float
    same_clips: float
    classes: tuple[ClassDifference, ...]
    episodes: tuple[EpisodeDifference, ...]
    within: float | None = None

    @property
    def first_accuracy(self) -> float:
        """Of A."""
        return self.first.accuracy

    @property
    def second_accuracy(self) -> float:
        """Of B."""
        return self.second.accuracy

    @property
    def difference(self) -> float:
        """Accuracy of A minus that of B."""
        return self.first_accuracy - self.second_accuracy

    @property
    def half_width_clips(self) -> float | None:
        """Half-width of the 95 % interval of the difference over clips; None where classes have too few clips."""
        return self.over_clips.half_width()

    @property
    def half_width_episodes(self) -> float:
        """Half-width over episodes alone."""
        return NORMAL95 * self.over_clips.episodes

    @property
    def half_width_all(self) -> float | None:
        """Half-width over clips and trainings; None where one of them is not known."""
        return None if self.of_checkpoints else self.overall.half_width()

    @property
    def of_checkpoints(self) -> bool:
        """Whether A or B was trained, and nothing is known of other trainings."""
        trained = any(row.is_trained for row in (self.first, self.second))
        return trained and self.board.of_checkpoints

    @property
    def p_value(self) -> float:
        """Two-sided, over clips and trainings (over clips where nothing is known of other trainings), of this pair alone."""
        return self.overall.p_value(self.difference)

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p_value < LEVEL

    @property
    def interval90(self) -> tuple[float, float] | None:
        """Ends of the 90 % interval of the difference, by the errors of `overall`; None where these are not known.

        They are not known on fewer than `FEW_EPISODES` episodes.
        """
        width = self.overall.half_width(1 - 2 * LEVEL)
        return (
            None
            if width is None or len(self.episodes) < FEW_EPISODES
            else (self.difference - width, self.difference + width)
        )

    @property
    def is_equivalent(self) -> bool | None:
        """Whether A and B differ by at most `within` (two one-sided tests at 5 %); None where that is not asked or known."""
        if self.within is None or self.interval90 is None:
            return None
        low, high = self.interval90
        return bool(-self.within <= low and high <= self.within)

    @property
    def summary(self) -> str:
        """Accuracies, the difference with its intervals and p-value, and the number of episodes, as text."""
        lines = [
            f"A  {self.first.title}: {self.first_accuracy:.2f} %",
            f"B  {self.second.title}: {self.second_accuracy:.2f} %",
            f"A - B  {self.difference:+.2f} points, p = {self.p_value:.3g}: "
            f"{'significant' if self.is_significant else 'not significant'} at 5 %",
            f"95 % intervals of A - B: {', '.join(self._intervals())}",
        ]
        if self.of_checkpoints:
            which = " and ".join(name for name, row in (("A", self.first), ("B", self.second)) if row.is_trained)
            lines += [
                f"One training of {which}: this compares checkpoints. Other trainings would widen these intervals."
            ]
        if self.within is not None:
            lines += [self._equivalence(self.within)]
        if self.same_clips < 1:
            lines += [
                f"{100 * self.same_clips:.1f} % of the places of the episodes hold the same clip in both: some were missing."
            ]
        lines += [
            f"{len(self.episodes)} episodes; right in A alone: {self.only_first:.0f} queries, in B alone: "
            f"{self.only_second:.0f}. This is one comparison: p is not corrected for others."
        ]
        return "\n".join(lines)

    def _intervals(self) -> Iterator[str]:
        """The interval of the difference over each of its sources, as text."""
        of_clips = "clips, by recording" if self.board.by_recording else "clips"
        if self.half_width_all is not None and self.half_width_all != self.half_width_clips:
            yield self._ends("clips and trainings", self.half_width_all)
        width = self.half_width_clips
        yield "over clips unknown (too few)" if width is None else self._ends(of_clips, width)
        if self.half_width_classes is not None:
            yield self._ends("classes", self.half_width_classes)
        yield self._ends("episodes alone", self.half_width_episodes)

    def _ends(self, source: str, width: float) -> str:
        return f"over {source} {self.difference - width:+.2f} to {self.difference + width:+.2f}"

    def _equivalence(self, within: float) -> str:
        points = "1 point" if within == 1 else f"{within:g} points"
        if self.interval90 is None:
            return f"Within {points}: not known, as there are too few clips or episodes."
        low, high = self.interval90
        verdict = "yes" if self.is_equivalent else "not shown"
        return f"Within {points}: {verdict} (90 % interval {low:+.2f} to {high:+.2f}; two one-sided tests at 5 %)."

    def __str__(self) -> str:
        """The summary, and the classes and episodes that differ most."""
        width = max([len("class"), *(len(c.name) for c in self.classes[:SHOWN])])
        lines = [self.board.title, self.board.note, self.summary, "", "Classes that differ most:"]
        lines += [f"{'class':{width}}    A %    B %  A - B"]
        lines += [
            f"{c.name:{width}}  {c.first:5.1f}  {c.second:5.1f}  {c.difference:+5.1f}" for c in self.classes[:SHOWN]
        ]
        lines += ["", "Episodes that differ most, by right queries:", "episode  A - B  classes"]
        lines += [f"{e.number:7}  {e.difference:+5.0f}  {', '.join(e.classes)}" for e in self.episodes[:SHOWN]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def compare_rows(board: Board, first: Row, second: Row, within: float | None = None) -> Comparison:
    """Compare two rows of a board.

    Args:
        board: the board.
        first: A.
        second: B.
        within: a difference in percent that counts as none.

    Raises:
        ResultError: a plan or predictions are missing or damaged.
    """
    numbers = [next(n for n, row in enumerate(board.rows) if row is wanted) for wanted in (first, second)]
    compared = board.reader.compare(numbers)
    plan, other = compared.plans[0], compared.plans[-1]
    right = np.stack([first.right(), second.right()])
    return Comparison(
        board=board,
        first=first,
        second=second,
        over_clips=compared.over_clips.difference(0, 1),
        overall=compared.overall.difference(0, 1),
        half_width_classes=class_interval(right[0] - right[1], plan.classes),
        only_first=float((right[0] * (1 - right[1])).sum()),
        only_second=float((right[1] * (1 - right[0])).sum()),
        same_clips=_same_clips(plan, other),
        classes=_by_class(right, plan),
        episodes=_by_episode(right, plan),
        within=within,
    )


def _same_clips(plan: EpisodePlan, other: EpisodePlan) -> float:
    """Share of the places at which two plans hold the same clip."""
    same = [a == b for a, b in ((plan.support, other.support), (plan.query, other.query))]
    return float(sum(part.sum() for part in same) / sum(part.size for part in same))


def _by_class(right: np.ndarray, plan: EpisodePlan) -> tuple[ClassDifference, ...]:
    """Accuracies on the queries of each class, the largest difference first; `right` is float `[2, E, Q]`."""
    of_query = np.repeat(plan.classes, plan.query.shape[2], axis=1)
    out = []
    for number in map(int, np.unique(plan.classes)):
        first, second = 100 * right[:, of_query == number].mean(1)
        out.append(ClassDifference(number, plan.name(number), float(first), float(second)))
    return tuple(sorted(out, key=lambda c: (-abs(c.difference), c.number)))


def _by_episode(right: np.ndarray, plan: EpisodePlan) -> tuple[EpisodeDifference, ...]:
    """Differences of each episode, the largest first; `right` is float `[2, E, Q]`."""
    difference = (right[0] - right[1]).sum(1)
    largest = np.argsort(-np.abs(difference), kind="stable")
    return tuple(
        EpisodeDifference(int(i), float(difference[i]), tuple(plan.name(int(number)) for number in plan.classes[i]))
        for i in largest
    )


def find_rows(board: Board, name: str) -> list[Row]:
    """Rows of a board by name.

    Args:
        board: the board.
        name: a method, the title of a row, a config hash or its beginning (`HASH_LENGTH` characters or more), or a folder
            of results. The name of a method means its row without changed settings, where there is one.
    """
    rows = [row for row in board.rows if _is_called(row, name)]
    unchanged = [row for row in rows if row.result.cell.label.row == name or not row.result.cell.label.changed]
    return unchanged if len(unchanged) == 1 else rows


def _is_called(row: Row, name: str) -> bool:
    folder = user_path(name).resolve()
    for seed in row.seeds:
        result = seed.result
        names = (result.name, result.cell.label.row, row.title, seed.folder.name)
        is_hash = len(name) >= HASH_LENGTH and result.config_hash.startswith(name)
        if name in names or is_hash or seed.folder.resolve() == folder:
            return True
    return False


def compare_by_name(all_boards: list[Board], first: str, second: str, within: float | None = None) -> list[Comparison]:
    """Compare two rows by name on every board that has both.

    Args:
        all_boards: where to look.
        first: name of A, see `find_rows`.
        second: name of B.
        within: a difference in percent that counts as none.

    Raises:
        ConfigError: a name matches no row, or several of one board.
        ResultError: no board has both, or a plan or predictions are missing or damaged.
    """
    matches = [(board, find_rows(board, first), find_rows(board, second)) for board in all_boards]
    on_both = [(board, a, b) for board, a, b in matches if a and b]
    if not on_both:
        raise _no_board(all_boards, first, second)
    pairs = [(board, _only(board, first, a), _only(board, second, b)) for board, a, b in on_both]
    return [compare_rows(board, a, b, within) for board, a, b in pairs]


def _only(board: Board, name: str, rows: list[Row]) -> Row:
    if len(rows) > 1:
        hashes = ", ".join(f"{row.result.config_hash[:8]} ({row.title})" for row in rows)
        raise ConfigError(f"{name!r} names {len(rows)} rows of {board.title}: {hashes}. Name one by its hash.")
    return rows[0]


def _no_board(all_boards: list[Board], first: str, second: str) -> ConfigError | ResultError:
    """The error for two names that no board has both of."""
    rows = {name: [row for board in all_boards for row in find_rows(board, name)] for name in (first, second)}
    for name in (first, second):
        if not rows[name]:
            known = {row.result.name for board in all_boards for row in board.rows}
            return ConfigError(f"No result is called {name!r}.{suggest(name, known)}")
    fields = differing(rows[first][0].result, rows[second][0].result) or ["the completeness of the clips"]
    return ResultError(
        f"{first} and {second} share no episodes, so they cannot be compared: {', '.join(fields)} "
        f"{'differs' if len(fields) == 1 else 'differ'}. Run both with the same settings."
    )
