"""What ``fit`` is given: two tables, or rows and their times."""

import itertools

import numpy as np
from sklearn.utils.validation import check_consistent_length

from .. import _tensors


def snapshots(estimator, X, y):
    """Times, and the table at each of them."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None: pass the target table, or one "
            "time for every row of X."
        )
    if not hasattr(y, "shape"):
        y = np.asarray(y)
    if len(y.shape) == 2:
        if y.shape[1] != X.shape[1]:
            raise ValueError(
                f"y has shape {tuple(y.shape)} and X {X.shape}: a target table needs the {X.shape[1]} "
                "columns of X; for one time per row of X pass y of one dimension."
            )
        try:
            target = _tensors.check_table(estimator, y, reset=False, min_samples=2)
        except (TypeError, ValueError) as error:
            raise type(error)(f"y, the target table: {error}") from error
        return np.array([0.0, 1.0]), [X, target.astype(X.dtype, copy=False)]
    if len(y.shape) != 1:
        raise ValueError(f"y must be a table or one time for every row of X, got the shape {y.shape}.")
    check_consistent_length(X, y)
    try:
        y = np.asarray(y).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"y of one dimension holds the time of every row, a number each; got dtype {y.dtype}."
        ) from error
    if not np.isfinite(y).all():
        raise ValueError("y, the times: contains NaN or infinity; drop these rows.")
    times, counts = np.unique(y, return_counts=True)
    if len(times) == 1:
        raise ValueError(
            f"y, the times: all rows are at time {times[0]:g}, so there is nothing to join; at least two "
            "times are needed."
        )
    if counts.min() < 2:
        raise ValueError(
            f"y, the times: {int((counts < 2).sum())} of the {len(times)} times have a single row, for "
            f"example {times[counts.argmin()]:g}; at least 2 rows are needed at each, so put times that "
            "belong together into one snapshot."
        )
    return times, [X[y == t] for t in times]


def joined(times, tables):
    """Every two neighbouring tables row by row: distinct pairs of rows, their weight, rows of an epoch.

    Raises
    ------
    ValueError
        Tables of different lengths have no pairs of rows.
    """
    counts = [len(table) for table in tables]
    if len(set(counts)) > 1:
        found = ", ".join(f"{n} at {t:g}" for t, n in zip(times, counts, strict=True))
        raise ValueError(
            'coupling="paired" joins row i of every table to row i of the next, so all of them need the same '
            f"number of rows; got {found}. Drop rows without a partner, or let "
            'coupling="optimal_transport" choose the pairs.'
        )
    d = tables[0].shape[1]
    for pair in itertools.pairwise(tables):
        rows, weight, n_draws = _tensors.canonical(np.hstack(pair), np.ones(counts[0]))
        yield (rows[:, :d], weight, n_draws), (rows[:, d:], weight, n_draws)
