"""Two rows on the episodes that they share: the difference of their accuracies, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from fsar_bench.errors import ConfigError, ResultError, suggest
from fsar_bench.io import user_path
from fsar_bench.leaderboard.boards import Board
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
class PairedDifference:
    """Two rows on their shared episodes. Accuracies and half-widths are in percent.

    Attributes:
        first_accuracy: of the first row.
        second_accuracy: of the second row.
        half_width_clips: half-width of the 95 % interval of the difference over clips; None where classes have too few clips.
        half_width_episodes: half-width over episodes.
        p_value: two-sided, over clips, of this pair alone.
        only_first: number of queries that the first row alone has right (the mean over seeds).
        only_second: number that the second alone has right.
        classes: every class, the largest difference first.
        episodes: every shared episode, the largest difference first.
    """

    first_accuracy: float
    second_accuracy: float
    half_width_clips: float | None
    half_width_episodes: float
    p_value: float
    only_first: float
    only_second: float
    classes: tuple[ClassDifference, ...]
    episodes: tuple[EpisodeDifference, ...]

    @property
    def difference(self) -> float:
        """Accuracy of the first row minus that of the second."""
        return self.first_accuracy - self.second_accuracy

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Comparison(PairedDifference):
    """Two rows of a board, A and B, on the episodes that they share.

    Attributes:
        board: the board.
        first: A.
        second: B.
        episode_count: episodes of the plan, shared or not.
    """

    board: Board
    first: Row
    second: Row
    episode_count: int

    @property
    def summary(self) -> str:
        """Accuracies, the difference with its intervals and p-value, and the number of episodes, as text."""
        shared, total = len(self.episodes), self.episode_count
        of_total = f" of {total}" if shared < total else ""
        return (
            f"A  {self.first.title}: {self.first_accuracy:.2f} %\n"
            f"B  {self.second.title}: {self.second_accuracy:.2f} %\n"
            f"A - B  {self.difference:+.2f} points, {self._over_clips} (over episodes alone: ± "
            f"{self.half_width_episodes:.2f}), p = {self.p_value:.3g}: "
            f"{'significant' if self.is_significant else 'not significant'} at 5 %\n"
            f"Paired on {shared}{of_total} episodes; right in A alone: {self.only_first:.0f} queries, in B alone: "
            f"{self.only_second:.0f}. This is one comparison: p is not corrected for others."
        )

    @property
    def _over_clips(self) -> str:
        width = self.half_width_clips
        if width is None:
            return "interval over clips unknown (too few clips)"
        return f"95 % over clips {self.difference - width:+.2f} to {self.difference + width:+.2f}"

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


def paired_difference(right: np.ndarray, plan: EpisodePlan, shared: np.ndarray) -> PairedDifference:
    """Compare two rows on the episodes that they share.

    Args:
        right: float `[2, E, Q]`, 1 where a row is right (or the share of seeds in which it is).
        plan: the episodes.
        shared: which of them both rows have, bool `[E]`.
    """
    numbers = np.flatnonzero(shared)
    right, classes = right[:, shared], plan.classes[shared]
    uncertainty = jackknife_over_clips(right, classes=classes, support=plan.support[shared], query=plan.query[shared])
    error = uncertainty.difference(0, 1)
    first, second = 100 * right.mean((1, 2))
    of_query = np.repeat(classes, plan.query.shape[2], axis=1)
    by_class = []
    for number in np.unique(classes):
        a, b = 100 * right[:, of_query == number].mean(1)
        by_class.append(ClassDifference(int(number), plan.name(int(number)), float(a), float(b)))
    difference = (right[0] - right[1]).sum(1)
    largest = np.argsort(-np.abs(difference), kind="stable")
    names = [tuple(plan.name(int(number)) for number in classes[i]) for i in largest]
    return PairedDifference(
        first_accuracy=float(first),
        second_accuracy=float(second),
        half_width_clips=error.half_width(),
        half_width_episodes=NORMAL95 * error.episodes,
        p_value=error.p_value(float(first - second)),
        only_first=float((right[0] * (1 - right[1])).sum()),
        only_second=float((right[1] * (1 - right[0])).sum()),
        classes=tuple(sorted(by_class, key=lambda c: (-abs(c.difference), c.number))),
        episodes=tuple(
            EpisodeDifference(int(numbers[i]), float(difference[i]), name)
            for i, name in zip(largest, names, strict=True)
        ),
    )


def compare_rows(board: Board, first: Row, second: Row) -> Comparison:
    """Compare two rows of a board.

    Raises:
        ResultError: they share too few episodes, or a plan or predictions are missing or damaged.
    """
    plan, other = board.plan(first), board.plan(second)
    shared = shared_episodes(plan, other)
    if shared.sum() < min(FEW_EPISODES, len(shared)):
        raise ResultError(
            f"{first.title} and {second.title} share {int(shared.sum())} of {len(shared)} episodes; at least {FEW_EPISODES} "
            "are needed. Run both on the same clips."
        )
    paired = paired_difference(np.stack([first.right(), second.right()]), plan, shared)
    return Comparison(**vars(paired), board=board, first=first, second=second, episode_count=len(shared))


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


def compare_by_name(all_boards: list[Board], first: str, second: str) -> list[Comparison]:
    """Compare two rows by name on every board that has both.

    Args:
        all_boards: where to look.
        first: name of A, see `find_rows`.
        second: name of B.

    Raises:
        ConfigError: a name matches no row, or several of one board.
        ResultError: no board has both, or the rows share too few episodes.
    """
    matches = [(board, find_rows(board, first), find_rows(board, second)) for board in all_boards]
    on_both = [(board, a, b) for board, a, b in matches if a and b]
    if not on_both:
        raise _no_board(all_boards, first, second)
    pairs = [(board, _only(board, first, a), _only(board, second, b)) for board, a, b in on_both]
    return [compare_rows(board, a, b) for board, a, b in pairs]


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
