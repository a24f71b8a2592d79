"""How far other trainings would move the accuracies of rows, and what that adds to their uncertainty over clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fsar_bench.leaderboard.jackknife import Uncertainty

LEAST_FREEDOM = 2  # degrees of freedom of a variance that other rows may borrow; one is as good as none


@dataclass(frozen=True)
class Trainings:
    """Variance over trainings of the mean accuracy of each of R rows.

    s^2 / n for a row of n trainings whose accuracies have the sample variance s^2. A row of one training, or two, borrows the
    s^2 of all rows that have several, pooled by their degrees of freedom, if these are `LEAST_FREEDOM` or more. A method
    that is not trained has 0.

    Attributes:
        count: n, `[R]`.
        own: s^2 in squared percent, `[R]`; 0 where it is not used.
        pooled: s^2 of the rows that have several trainings; NaN where there are too few.
        pooled_precision: variance of `pooled`, halved: sum of (n - 1) s^4 over these rows / (sum of n - 1)^2.
        pooled_freedom: sum of n - 1 over these rows.
        borrows: whether a row's variance is the pooled one, bool `[R]`.
    """

    count: np.ndarray
    own: np.ndarray
    pooled: float
    pooled_precision: float
    pooled_freedom: int
    borrows: np.ndarray

    @classmethod
    def of(cls, accuracies: Sequence[Sequence[float]], is_trained: Sequence[bool]) -> Trainings:
        """From the accuracy of each training of each row, in percent.

        Args:
            accuracies: one or several of each row.
            is_trained: whether each row's method is trained at all.
        """
        count = np.array([len(of_row) for of_row in accuracies])
        trained = np.array(is_trained, bool)
        several = trained & (count > 1)
        own = np.array([np.var(a, ddof=1) if many else 0.0 for a, many in zip(accuracies, several, strict=True)])
        freedom = int((count[several] - 1).sum())
        may_borrow = freedom >= LEAST_FREEDOM
        return cls(
            count=count,
            own=own,
            pooled=float(((count - 1) * own).sum() / freedom) if may_borrow else np.nan,
            pooled_precision=float(((count - 1) * own**2).sum() / freedom**2) if may_borrow else np.nan,
            pooled_freedom=freedom,
            borrows=trained & ((count == 1) | ((count == 2) & may_borrow)),
        )

    @property
    def variance(self) -> np.ndarray:
        """Variance of each mean in squared percent, `[R]`; NaN for a trained row of one training that can borrow none."""
        return np.where(self.borrows, self.pooled, self.own) / self.count

    @property
    def are_unknown(self) -> bool:
        """Whether there is a trained row of one training, and no variance that it can borrow."""
        return bool(np.isnan(self.variance).any())

    def of_rows(self, rows: Sequence[int]) -> Trainings:
        """Of some of the rows; what they borrow stays that of all."""
        chosen = list(rows)
        return replace(self, count=self.count[chosen], own=self.own[chosen], borrows=self.borrows[chosen])

    def added_to(self, uncertainty: Uncertainty) -> Uncertainty:
        """The uncertainty of these rows over clips and trainings, in the place of that over clips alone.

        The degrees of freedom are those of Welch and Satterthwaite, for the variance as a sum over the s^2 of rows: what a row
        borrows is partly that of the row that it is compared with. Unknown variances add nothing. The sum is slightly too
        large: what a training does to single clips is in both.
        """
        variance = np.nan_to_num(self.variance)
        whole = replace(uncertainty, clips=uncertainty.clips + np.diag(variance))
        of_rows = np.diag(shared := self._shared_terms())
        terms = of_rows[:, None] + of_rows[None, :] + 2 * shared
        np.fill_diagonal(terms, of_rows)
        terms += uncertainty.errors() ** 4 / uncertainty.degrees_of_freedom
        with np.errstate(divide="ignore", invalid="ignore"):
            combined = whole.errors() ** 4 / terms
        usable = np.isfinite(combined) & (variance[:, None] + variance[None, :] > 0)
        return replace(whole, degrees_of_freedom=np.where(usable, combined, uncertainty.degrees_of_freedom))

    def _shared_terms(self) -> np.ndarray:
        """Sum over the s^2 of rows of the product of what two rows have of it, times s^4 / (n - 1), `[R, R]`."""
        own = np.where(self.borrows, 0.0, self.own)
        borrowed = np.where(self.borrows & ~np.isnan(self.pooled), 1 / self.count, 0.0)
        freedom = max(self.pooled_freedom, 1)
        out = np.outer(borrowed, borrowed) * np.nan_to_num(self.pooled_precision)
        between = np.outer(own**2 / self.count / freedom, borrowed)
        out += between + between.T
        out += np.diag(own**2 / self.count**2 / np.maximum(self.count - 1, 1))
        return out
