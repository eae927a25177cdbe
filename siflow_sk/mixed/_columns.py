"""The columns of a mixed table: their kinds, and their way to numbers and back."""

import numbers

import numpy as np
import pandas as pd

from .. import _tensors
from ..persistence import own

_ON_LATTICE = 1e-6  # how far from the lattice a value may lie, in steps
_POSITIVE = (0.0, np.inf)


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


def are_ends(kind):
    """Whether a kind is a pair of ends, low < high, at least one of them finite."""
    if not isinstance(kind, tuple) or len(kind) != 2:
        return False
    if not all(isinstance(end, numbers.Real) and not isinstance(end, bool) for end in kind):
        return False
    return kind[0] < kind[1] and bool(np.isfinite(kind).any())


def says_periodic(kind):
    """Whether a kind is meant to be a periodic one."""
    head = kind[0] if isinstance(kind, tuple) and kind else kind
    return isinstance(head, str) and head == "periodic"


def has_period(kind):
    """Whether a periodic kind says its period, a finite number > 0."""
    period = kind[1] if isinstance(kind, tuple) and len(kind) == 2 else None
    return isinstance(period, numbers.Real) and not isinstance(period, bool) and 0 < period < np.inf


def guess_ends(column, name):
    """The ends of an interval that the values come from, if they spread evenly over it."""
    values = np.unique(_numbers(column, name))
    if len(values) < 2:
        raise ValueError(
            f"column {name!r} has one value, from which no ends can be guessed; say 'constant', or the ends."
        )
    gap = (values[-1] - values[0]) / (len(values) - 1)
    return float(values[0] - gap), float(values[-1] + gap)


@own
class Column:
    """Between a column of the table and numbers: ``encode``, ``inside``, ``decode``."""

    def __init__(self, column, name, kind):
        self.name, self.levels, self.categories = name, None, None
        self.dtype = str(column.dtype)
        self.ends = _POSITIVE if kind == "positive" else kind if are_ends(kind) else None
        if isinstance(column.dtype, pd.CategoricalDtype):
            self.categories, self.ordered = column.cat.categories.tolist(), bool(column.dtype.ordered)
        self.width = (
            float(kind) if isinstance(kind, numbers.Real) else float(kind in ("integer", "categorical"))
        )
        self.kind = "integer" if isinstance(kind, numbers.Real) else "bounded" if self.ends else kind
        if says_periodic(kind):
            self.kind, (_, period) = "periodic", kind
            self.turn = _tensors.turns_of(_numbers(column, name)[:, None], {0: float(period)})[0]
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
            known = self.encode(column)[2]
            if not known.all():
                bad = column[~known].iloc[0]
                raise ValueError(
                    f"column {name!r} is not on the lattice of step {self.width:g}: it holds {bad!r}."
                )
        elif self.ends:
            known = self.encode(column)[2]
            if not known.all():
                bad = column[~known].iloc[0]
                raise ValueError(
                    f"column {name!r} holds {bad!r}, which is not between {self.ends[0]:g} and "
                    f"{self.ends[1]:g}, the ends left out; say kinds={{{name!r}: (low, high)}} with ends "
                    "that no value reaches, or 'real'."
                )

    def encode(self, column):
        """(numbers, log-derivative of the map to them, which rows are possible)."""
        if self.kind in ("constant", "categorical"):
            code = pd.Index(self.levels, dtype=object).get_indexer(
                pd.Index(column.astype(object), dtype=object)
            )
            return np.maximum(code, 0).astype(np.float64), 0.0, code >= 0
        value = _numbers(column, self.name)
        if self.kind == "periodic":
            value = _tensors.within_turns(value[:, None], {0: self.turn})[:, 0]
        if self.kind in ("real", "periodic"):
            return value, 0.0, np.ones(len(value), dtype=bool)
        if self.ends:
            inside = (value > self.ends[0]) & (value < self.ends[1])
            number, log_slope = (np.where(inside, part, 0.0) for part in _to_line(value, *self.ends))
            return number, log_slope, inside
        cell = np.rint(value / self.width)
        return cell * self.width, 0.0, np.abs(value / self.width - cell) <= _ON_LATTICE

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
            code = np.clip(np.rint(value).astype(int), 0, len(levels) - 1)
            return pd.Series(levels.take(code).to_numpy()).astype(dtype)
        if self.kind == "integer":
            value = np.rint(value / self.width) * self.width
            if self.dtype.lower().startswith("uint"):
                value = np.maximum(value, 0.0)  # no count below zero in an unsigned column
            return pd.Series(value).astype(dtype)
        if not self.dtype.lower().startswith("float"):  # whole numbers that were said to be real ones
            dtype = np.dtype(np.float64)
        precision = np.dtype(str(dtype).lower()).type
        if self.kind == "periodic":  # rounded first, which may lead out of the turn
            value = _tensors.within_turns(precision(value)[:, None], {0: self.turn})[:, 0]
        if self.ends:
            low, high = (precision(end) for end in self.ends)
            with np.errstate(over="ignore"):
                value = precision(_from_line(value, *self.ends))
            # rounding must not take a row to an end, where its density would be zero
            value = np.clip(value, np.nextafter(low, high), np.nextafter(high, low))
        return pd.Series(value).astype(dtype)

    def centre(self, value, share):
        """One number for each row of numbers ``(n, k)`` with shares that sum to 1.

        The level that has most of them, the mean direction of an angle, else the mean in the column's units.
        """
        if self.kind == "categorical":
            code = np.rint(value)
            of_level = [np.where(code == level, share, 0.0).sum(axis=1) for level in range(len(self.levels))]
            return np.argmax(of_level, axis=0).astype(np.float64)
        if self.kind == "periodic":
            start, period = self.turn
            angle = np.angle((share * np.exp(2j * np.pi * value / period)).sum(axis=1))
            return start + np.mod(angle * period / (2 * np.pi) - start, period)
        if self.kind == "integer":
            value = np.rint(value / self.width) * self.width
        if self.ends:
            with np.errstate(over="ignore"):
                mean = (share * _from_line(value, *self.ends)).sum(axis=1)
            return _to_line(mean, *self.ends)[0]
        return (share * value).sum(axis=1)


def _to_line(x, low, high):
    """Logarithm or logit of values between two ends, and the logarithm of its derivative."""
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.log(x - low) if np.isfinite(low) else 0.0
        below = np.log(high - x) if np.isfinite(high) else 0.0
    length = high - low
    return above - below, (np.log(length) if np.isfinite(length) else 0.0) - above - below


def _from_line(y, low, high):
    """The inverse of ``_to_line``."""
    if np.isfinite(low) and np.isfinite(high):
        return low + (high - low) * np.exp(-np.logaddexp(0.0, -y))
    return low + np.exp(y) if np.isfinite(low) else high - np.exp(-y)


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
