"""The columns of a mixed table: their kinds, and their way to numbers and back."""

import numbers

import numpy as np
import pandas as pd

from ..persistence import own

_ON_LATTICE = 1e-6  # how far from the lattice a value may lie, in steps


def detect(column):
    """(kind, whether it is a guess) of a column."""
    dtype = column.dtype
    if column.nunique() == 1:
        return "constant", False
    if isinstance(dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(dtype):
        return "categorical", False
    if pd.api.types.is_bool_dtype(dtype):
        return "categorical", False
    if pd.api.types.is_integer_dtype(dtype):
        return "integer", False
    values = column.to_numpy(dtype=np.float64)
    whole = bool(np.isfinite(values).all() and (values == np.rint(values)).all())
    guess = whole and len(np.unique(values)) < 0.5 * len(values)
    return ("integer" if guess else "real"), guess


@own
class Column:
    """Between a column of the table and numbers: ``encode``, ``inside``, ``decode``."""

    def __init__(self, column, name, kind):
        self.name, self.levels, self.categories = name, None, None
        self.dtype = str(column.dtype)
        if isinstance(column.dtype, pd.CategoricalDtype):
            self.categories, self.ordered = column.cat.categories.tolist(), bool(column.dtype.ordered)
        self.width = (
            float(kind) if isinstance(kind, numbers.Real) else float(kind in ("integer", "categorical"))
        )
        self.kind = "integer" if isinstance(kind, numbers.Real) else kind
        if kind == "constant":
            self.levels = column.unique()[:1].tolist()
            if column.nunique() > 1:
                raise ValueError(
                    f"kinds[{name!r}] is 'constant', but the column has {column.nunique()} values."
                )
        elif kind == "categorical":
            seen = set(column.unique().tolist())
            self.levels = [level for level in self.categories or sorted(seen, key=_key) if level in seen]
        elif self.kind == "integer":
            value, known = self.encode(column)
            if not known.all():
                bad = column[~known].iloc[0]
                raise ValueError(
                    f"column {name!r} is not on the lattice of step {self.width:g}: it holds {bad!r}."
                )
            self.low, self.high = value.min(), value.max()

    def encode(self, column):
        """(numbers, which rows are possible)."""
        if self.kind in ("constant", "categorical"):
            code = pd.Index(self.levels, dtype=object).get_indexer(
                pd.Index(column.astype(object), dtype=object)
            )
            return np.maximum(code, 0).astype(np.float64), code >= 0
        value = _numbers(column, self.name)
        if self.kind == "real":
            return value, np.ones(len(value), dtype=bool)
        cell = np.rint(value / self.width)
        return cell * self.width, np.abs(value / self.width - cell) <= _ON_LATTICE

    def inside(self, value):
        """Which numbers belong to a value that the column can have."""
        if self.kind == "categorical":
            return (value >= -0.5) & (value < len(self.levels) - 0.5)
        return np.isfinite(value)

    def decode(self, value):
        """The column that the numbers stand for, with its dtype; a constant column is given its length."""
        dtype = self.dtype
        if self.categories is not None:
            dtype = pd.CategoricalDtype(self.categories, self.ordered)
        if self.kind == "constant":
            return pd.Series(self.levels * value, dtype=dtype)
        if self.kind == "categorical":
            levels = pd.Index(self.levels, dtype=object)
            return pd.Series(levels.take(np.rint(value).astype(int)).to_numpy()).astype(dtype)
        if self.kind == "integer":
            value = np.rint(value / self.width) * self.width
            if self.dtype.lower().startswith("uint"):
                value = np.maximum(value, 0.0)  # no count below zero in an unsigned column
        return pd.Series(value).astype(dtype)


def _key(level):
    return (type(level).__name__, level)


def _numbers(column, name):
    try:
        value = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"column {name!r} holds {column.iloc[0]!r} where a number is needed; say kinds={{{name!r}: "
            "'categorical'} if its values are categories."
        ) from error
    if not np.isfinite(value).all():
        raise ValueError(f"Input X contains infinity or NaN in column {name!r}.")
    return value
