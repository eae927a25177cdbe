"""What kind of table has the gaps: one of numbers alone, or one with columns of several kinds.

Both turn what is there into numbers ``(n, d)``, NaN where a value is missing, constant columns left out.
"""

import numpy as np
import pandas as pd

from .. import _tensors
from ..mixed._columns import Column
from ..mixed._kinds import check_frame
from ..persistence import own


@own
class Numbers:
    """Columns of numbers, taken as they are."""

    def __init__(self, X, names):
        missing = np.isnan(X)
        first = X[missing.argmin(axis=0), np.arange(X.shape[1])]
        filled = np.where(missing, first, X)
        self.active, self.constant = _tensors.split_constant(filled, names)
        self.spread = np.ptp(filled[:, ~self.active], axis=0)
        self.width = np.zeros(int(self.active.sum()))

    def check(self, estimator, X):
        bad = categories(X)
        if bad:
            raise ValueError(
                f"Column(s) {bad} hold text, truth values or categories, and fit saw numbers there; bring "
                "the columns that fit saw."
            )
        return _tensors.check_table(estimator, X, reset=False, missing=True)

    def encode(self, X):
        """Numbers, log-derivative of the map to them, which rows are possible."""
        possible = ~_tensors.off_constant(X, self.active, self.constant, self.spread)
        return X[:, self.active].astype(np.float64), np.zeros(len(X)), possible

    def fill(self, X, values):
        """The table with its gaps filled by complete numbers ``(n, d)``."""
        made = np.tile(self.constant, (len(X), 1))
        made[:, self.active] = values
        return np.where(np.isnan(X), made, X).astype(X.dtype, copy=False)

    def refuse(self, X, rows):
        """Nothing: another value in a constant column says nothing of the others."""

    def centre(self, values, share):
        """One number for each row of candidates ``(n, k, d)`` and their shares: their mean."""
        return np.einsum("nk,nkd->nd", share, values)

    def inside(self, values):
        """Which numbers the columns can have."""
        return np.ones(values.shape, dtype=bool)

    def to_fit(self, X, values, rows):
        """What the density is fitted to, once the gaps are filled: rows of the table by their numbers."""
        return values[rows]

    def all_in(self, values):
        """Whether rows of numbers show what all rows do: no column constant, no level left out."""
        return bool(len(values) and (np.ptp(values, axis=0) > 0).all())

    def log_density(self, estimator):
        """The log-density of complete numbers."""
        return estimator.score_samples

    def whole(self, estimator, X):
        """Log-density of complete rows, and its error."""
        return estimator.score_samples(X[:, self.active].astype(np.float64)), 0.0


@own
class Mixed:
    """Columns of several kinds, as :class:`~siflow_sk.MixedDensity` takes them.

    The density that it has inside is one of numbers.  A whole number
    or a level stands in the middle of a cell, ``width`` wide; a row says of it which cell.
    """

    def __init__(self, frame, kinds):
        self.columns = [
            Column(frame.iloc[:, j].dropna(), name, kind) for j, (name, kind) in enumerate(kinds.items())
        ]
        self.active = [c for c in self.columns if c.kind != "constant"]
        if not self.active:
            raise ValueError("all columns are constant: there is no density to estimate.")
        self.width = np.array([c.width for c in self.active])

    def check(self, estimator, X):
        return check_frame(estimator, X, reset=False, missing=True)

    def encode(self, frame):
        log_det, possible, values = np.zeros(len(frame)), np.ones(len(frame), dtype=bool), []
        for j, column in enumerate(self.columns):
            seen = frame.iloc[:, j].notna().to_numpy()
            value, log_slope, known = column.encode(frame.iloc[:, j][seen])
            log_det[seen] += log_slope
            possible[seen] &= known
            if column.kind != "constant":
                values.append(np.full(len(frame), np.nan))
                values[-1][seen] = value
        return np.column_stack(values), log_det, possible

    def fill(self, frame, values):
        numbers, filled = iter(values.T), frame.copy()
        for j, column in enumerate(self.columns):
            made = column.decode(len(frame) if column.kind == "constant" else next(numbers))
            if frame.iloc[:, j].isna().any():
                filled.isetitem(j, _filled(frame.iloc[:, j], made, column))
        return filled

    def refuse(self, frame, rows):
        """Values without a probability: nothing can be drawn given them."""
        for j, column in enumerate(self.columns):
            seen = frame.iloc[:, j][rows].dropna()
            known = column.encode(seen)[2]
            if not known.all():
                raise ValueError(
                    f"column {column.name!r} holds {seen[~known].iloc[0]!r}, which has probability zero for "
                    f"what fit saw ({column.kind}), and other values of that row are missing; correct it, or "
                    "make it missing as well."
                )

    def centre(self, values, share):
        return np.column_stack([c.centre(values[:, :, j], share) for j, c in enumerate(self.active)])

    def inside(self, values):
        within = np.empty(values.shape, dtype=bool)
        for j, column in enumerate(self.active):
            value = values[..., j]
            within[..., j] = column.inside(value)
            if column.kind == "periodic":  # the density goes round for ever; one turn of it counts
                start, period = column.turn
                within[..., j] &= (value >= start) & (value < start + period)
        return within

    def to_fit(self, frame, values, rows):
        return self.fill(frame.iloc[rows], values[rows])

    def all_in(self, values):
        pairs = zip(self.active, values.T, strict=True)
        seen = all(c.kind != "categorical" or len(np.unique(v)) == len(c.levels) for c, v in pairs)
        return seen and bool(len(values) and (np.ptp(values, axis=0) > 0).all())

    def log_density(self, estimator):
        return estimator.estimator_.score_samples

    def whole(self, estimator, frame):
        return estimator.score_samples(frame, return_error=True)


def _filled(series, made, column):
    """A column with its gaps filled, of its own dtype where that can hold what was made."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.cat.add_categories([v for v in column.levels if v not in series.cat.categories])
    elif series.dtype.kind in "iu" and made.dtype.kind == "f":  # whole numbers that were said to be real
        series = series.astype(made.dtype)
    gaps = series.isna().to_numpy()
    series = series.copy()
    series[gaps] = made[gaps].astype(series.dtype).array
    return series


def categories(X):
    """Names of the columns of a frame that hold text, truth values or categories."""
    if not (hasattr(X, "columns") and hasattr(X, "iloc")):
        return []
    kinds = pd.CategoricalDtype | pd.BooleanDtype | np.dtypes.BoolDType
    return [
        str(name)
        for j, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True))
        if isinstance(dtype, kinds) or (dtype.kind == "O" and X.iloc[:, j].map(_no_number).any())
    ]


def _no_number(value):
    return isinstance(value, str | bool | np.bool_)
