"""How far other trainings would move the accuracies of rows, and what that adds to their uncertainty over clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fsar_bench.leaderboard.jackknife import Uncertainty


@dataclass(frozen=True)
class Trainings:
    """Variance over trainings of the mean accuracy of each of R rows.

    s^2 / n for a row of n trainings whose accuracies have the sample variance s^2. A row of one training has the s^2 of the
    rows that have several, pooled by their degrees of freedom. A method that is not trained has 0.

    Attributes:
        variance: in squared percent, `[R]`; NaN for a trained row where no row has several trainings.
        freedom: degrees of freedom of each variance, `[R]`; infinite for a method that is not trained.
        pooled: whether the variance comes from other rows, bool `[R]`.
    """

    variance: np.ndarray
    freedom: np.ndarray
    pooled: np.ndarray

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
        freedom = float((count[several] - 1).sum())
        pooled_variance = float((own * (count - 1))[several].sum()) / freedom if freedom else np.nan
        single = trained & ~several
        return cls(
            variance=np.where(single, pooled_variance, own / count),
            freedom=np.where(single, freedom, np.where(several, count - 1.0, np.inf)),
            pooled=single,
        )

    @property
    def are_unknown(self) -> bool:
        """Whether there are trained rows, and none of them has several trainings."""
        return bool(np.isnan(self.variance).any())

    def of_rows(self, rows: Sequence[int]) -> Trainings:
        """Of some of the rows."""
        chosen = list(rows)
        return Trainings(self.variance[chosen], self.freedom[chosen], self.pooled[chosen])

    def added_to(self, uncertainty: Uncertainty) -> Uncertainty:
        """The uncertainty of these rows over clips and trainings, in the place of that over clips alone.

        The degrees of freedom are those of Welch and Satterthwaite. The pooled variances of two rows are the same estimate,
        which counts once. Unknown variances add nothing. The sum is slightly too large: what a training does to single clips
        is in both.
        """
        known = ~np.isnan(self.variance)
        variance = np.where(known, self.variance, 0.0)
        pooled = np.where(self.pooled & known, variance, 0.0)
        freedom = np.where(known, self.freedom, np.inf)
        whole = replace(uncertainty, clips=uncertainty.clips + np.diag(variance))
        of_rows = variance**2 / freedom
        terms = of_rows[:, None] + of_rows[None, :]
        pool = float(np.max(freedom[self.pooled & known], initial=1.0))
        terms += 2 * pooled[:, None] * pooled[None, :] / pool
        np.fill_diagonal(terms, of_rows)
        terms += uncertainty.errors() ** 4 / uncertainty.degrees_of_freedom
        with np.errstate(divide="ignore", invalid="ignore"):
            combined = whole.errors() ** 4 / terms
        usable = np.isfinite(combined) & (variance[:, None] + variance[None, :] > 0)
        return replace(whole, degrees_of_freedom=np.where(usable, combined, uncertainty.degrees_of_freedom))
