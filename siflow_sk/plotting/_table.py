"""Columns of a table by name or number, and rows on a grid."""

import numpy as np
import pandas as pd
from sklearn.base import is_regressor
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted


def frame_of(X):
    """X as a DataFrame; columns of an array are x0, x1, ..."""
    if isinstance(X, pd.DataFrame):
        return X
    X = check_array(X, dtype=None)
    return pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])


def like(X, frame):
    """``frame`` as what X is: a DataFrame or an array."""
    return frame if isinstance(X, pd.DataFrame) else frame.to_numpy()


def positions(frame, features, at_most, limit):
    """Numbers of the columns to draw.

    Raises
    ------
    ValueError
        No such column, one without numbers, one named twice; none named and more than ``at_most`` there, or
        more than ``limit`` named.
    """
    names = [str(name) for name in frame.columns]
    if features is None:
        if len(names) > at_most:
            raise ValueError(
                f"X has {len(names)} columns, of which no more than {limit} can be drawn at once; pass "
                "features, their names or numbers."
            )
        features = range(len(names))
    found = []
    for feature in [features] if np.ndim(features) == 0 else features:
        if isinstance(feature, str):
            position = names.index(feature) if feature in names else -1
        else:
            position = int(feature)
        if not 0 <= position < len(names):
            raise ValueError(f"features: there is no column {feature!r}; the columns are {names}.")
        if not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[position]):
            raise ValueError(f"features: column {names[position]!r} does not hold numbers; leave it out.")
        found.append(position)
    if not 1 <= len(set(found)) == len(found) <= limit:
        raise ValueError(f"features: 1 to {limit} different columns wanted, got {features!r}.")
    return found


def axis_of(column, resolution):
    """Values across a column and a tenth beyond; whole numbers inside its range where it holds integers."""
    low, high = column.min(), column.max()
    if not low < high:
        raise ValueError(f"features: column {column.name!r} is constant in X, which leaves nothing to draw.")
    if pd.api.types.is_integer_dtype(column.dtype):
        return np.unique(np.rint(np.linspace(low, high, resolution)))
    margin = 0.1 * (high - low)
    return np.linspace(low - margin, high + margin, resolution)


def middle_of(frame):
    """One value per column that occurs there: the (lower) median of numbers, else the most frequent one."""

    def middle(column):
        if pd.api.types.is_numeric_dtype(column.dtype):
            return column.sort_values().iloc[(len(column) - 1) // 2]
        return column.mode().iloc[0]

    return [middle(column) for _, column in frame.items()]


def rows_on_grid(frame, row, drawn, axes):
    """A row for every point of the grid, dtypes kept: ``axes`` in the columns ``drawn``, else ``row``."""
    mesh = [values.ravel() for values in np.meshgrid(*axes)]
    rows = frame.iloc[np.zeros(len(mesh[0]), dtype=int)].reset_index(drop=True)
    for position, dtype in enumerate(frame.dtypes):
        values = mesh[drawn.index(position)] if position in drawn else [row[position]] * len(rows)
        rows.isetitem(position, pd.Series(values).astype(dtype))
    return rows


def check_density(estimator, method, display):
    """A fitted estimator with ``method``, whose rows are those of X.

    Raises
    ------
    TypeError
        It has no such method, or models y for given X.
    """
    name = type(estimator).__name__
    fits = hasattr(estimator, "fit")  # a density that is known has nothing to fit
    if fits and is_regressor(estimator):
        raise TypeError(
            f"{name} has a density of y for given X, not one of X, so {display} cannot draw it; see "
            "the example of conditional densities for pictures of it."
        )
    if not hasattr(estimator, method):
        raise TypeError(f"{name} has no method {method}, which {display} needs.")
    if fits:
        check_is_fitted(estimator)
