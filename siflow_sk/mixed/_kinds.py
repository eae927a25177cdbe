"""Which kind each column of a mixed table is."""

import numbers

import numpy as np
import pandas as pd
from sklearn.utils.validation import validate_data

from .. import _tensors
from ._columns import are_ends, detect, guess_ends, has_period, says_periodic

_KINDS = ("real", "positive", "interval", "integer", "categorical", "constant")


def check_frame(estimator, X, reset, missing=False):
    """The input as a frame, with the names and the number of columns checked; ``missing`` lets NaN pass."""
    if isinstance(X, pd.DataFrame):
        if not X.columns.is_unique:
            raise ValueError(f"X has two columns of the same name among {list(X.columns)}; rename one.")
        validate_data(estimator, X, reset=reset, skip_check_array=True)
        _tensors.refuse_dates(X)
        for j in range(X.shape[1]):
            if X.iloc[:, j].isna().any() and not missing:
                raise ValueError(
                    f"Input X contains NaN: column {X.columns[j]!r} has missing values; fill them "
                    "(InterpolantImputer does) or drop the rows."
                )
        if reset and len(X) < 2:
            raise ValueError(f"Found array with {len(X)} sample(s) while a minimum of 2 is required.")
        return X
    X = _tensors.check_table(estimator, X, reset=reset, min_samples=2 if reset else 1, missing=missing)
    return pd.DataFrame(X)


def find_kinds(frame, kinds):
    """(column -> kind, what was guessed) from the parameter ``kinds``; missing values are not looked at."""
    names = list(frame.columns)
    given = {} if isinstance(kinds, str) else dict(kinds)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(f"kinds: there is no column {unknown}; the columns are {names}.")
    kinds, whole, guesses = {}, [], []
    for j, name in enumerate(names):
        column = frame.iloc[:, j].dropna()
        kind = given.get(name)
        if kind is None:
            kind, guess = detect(column)
            if guess:
                whole.append(name)
            if kind == "categorical" and column.nunique() > max(2, 0.5 * len(column)):
                raise ValueError(
                    f"column {name!r} has {column.nunique()} levels in {len(column)} rows, like a "
                    "name or a key; drop it, turn it into numbers, or insist with "
                    "kinds={...: 'categorical'}."
                )
        step = isinstance(kind, numbers.Real) and not isinstance(kind, bool) and 0 < kind < np.inf
        if says_periodic(kind) and not has_period(kind):
            raise ValueError(
                f"kinds[{name!r}] is {kind!r}; the period must be said, a finite number > 0 in the units "
                "of the column, such as ('periodic', 360.0)."
            )
        if not step and not are_ends(kind) and not says_periodic(kind) and kind not in _KINDS:
            raise ValueError(
                f"kinds[{name!r}] is {kind!r}; one of {list(_KINDS)}, two ends (low, high), "
                "('periodic', period) or the step of a lattice is needed."
            )
        if kind == "interval":
            kind = guess_ends(column, name)
            guesses.append(f"the ends of column {name!r} are guessed, {kind[0]:g} and {kind[1]:g}; say them")
        kinds[name] = kind
    if whole:
        guesses.append(
            f"column(s) {whole} hold whole numbers that repeat and are taken for integer; say so, or say "
            "'real',"
        )
    return kinds, guesses
