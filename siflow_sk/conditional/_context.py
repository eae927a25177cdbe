"""From the columns of X to what the network sees: numbers through a preprocessor, one column per category."""

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from .. import _tensors
from ..persistence import own


@own
class Table:
    """Reads X as numbers, with one column of zeros and ones for every level of a categorical column.

    Categorical are the columns of a DataFrame of dtype category or string, and those of dtype object that
    hold text.  The levels are those that ``fit`` saw.
    """

    def fit(self, estimator, X):
        """The numbers, float64, shape ``(n, k)``; sets ``levels`` and ``names``."""
        categorical = _categorical_columns(X)
        if not categorical:
            self.levels = {}
            X = _tensors.check_table(estimator, X, reset=True, min_samples=2).astype(np.float64)
            self.names = _tensors.column_names(estimator, X.shape[1])
            return X
        validate_data(estimator, X, reset=True, skip_check_array=True)
        if len(X) < 2:
            raise ValueError(f"Found array with {len(X)} sample(s) while a minimum of 2 is required.")
        self.levels = {j: _levels(X.columns[j], _text(X, j)) for j in categorical}
        names = _tensors.column_names(estimator, X.shape[1])
        self.names = [name for j, name in enumerate(names) if j not in self.levels]
        self.names += [f"{names[j]} = {level!r}" for j in categorical for level in self.levels[j]]
        return self._encode(estimator, X)

    def read(self, estimator, X):
        """The numbers of new rows.

        Raises
        ------
        ValueError
            A category that fit did not see, columns in another order, or an array where fit saw categories.
        """
        if not self.levels:
            return _tensors.check_table(estimator, X, reset=False).astype(np.float64)
        if not hasattr(X, "iloc"):
            shown = ", ".join(repr(str(estimator.feature_names_in_[j])) for j in self.levels)
            raise ValueError(
                f"X: column(s) {shown} were categories in fit, got {type(X).__name__}; pass a DataFrame with "
                "the columns that fit saw."
            )
        validate_data(estimator, X, reset=False, skip_check_array=True)
        return self._encode(estimator, X)

    def _encode(self, estimator, X):
        import pandas as pd

        numbers = [j for j in range(X.shape[1]) if j not in self.levels]
        parts = [np.empty((len(X), 0))]
        if numbers:
            parts.append(_tensors.check_points(estimator, X.iloc[:, numbers]).astype(np.float64))
        for j, levels in self.levels.items():
            values = _text(X, j)
            _refuse_missing(X.columns[j], values)
            code = pd.Index(levels, dtype=object).get_indexer(values)
            unknown = sorted({repr(v) for v in values[code < 0]})
            if unknown:
                raise ValueError(
                    f"X: column {X.columns[j]!r} holds {', '.join(unknown[:5])}, which fit did not see; it "
                    f"knows {levels}. Leave these rows out, or fit with rows that have them."
                )
            parts.append((code[:, None] == np.arange(len(levels))).astype(np.float64))
        return np.concatenate(parts, axis=1)

    @property
    def n_numbers(self):
        """How many of the columns come first and are numbers."""
        return len(self.names) - sum(map(len, self.levels.values()))


def _categorical_columns(X):
    if not hasattr(X, "iloc") or not hasattr(X, "columns"):
        return []
    import pandas as pd

    def is_categorical(column):
        if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype):
            return True
        return column.dtype == object and any(isinstance(value, str) for value in column)

    return [j for j in range(X.shape[1]) if is_categorical(X.iloc[:, j])]


def _text(X, j):
    """A column as an array of objects."""
    return X.iloc[:, j].to_numpy(dtype=object)


def _levels(name, values):
    _refuse_missing(name, values)
    return sorted(set(values), key=lambda value: (type(value).__name__, value))


def _refuse_missing(name, values):
    missing = sum(value is None or value != value for value in values.tolist() if not isinstance(value, str))
    if missing:
        raise ValueError(
            f"Input X contains NaN: column {name!r} lacks {missing} of {len(values)} values; name them, for "
            "example X[column].astype(object).fillna('missing'), or drop the rows."
        )


@own
class ContextMap:
    """The context of every row, from the numbers of :class:`Table`.

    Numbers go through a preprocessor, categories stay zeros and ones, columns without spread are left out.
    Where nothing is left there is one column of zeros, so that the density does not depend on X.
    """

    def __init__(self, preprocessor, n_numbers):
        self.preprocessor, self.n_numbers = preprocessor, n_numbers

    def fit(self, rows, weight):
        """Learn from distinct ``rows`` ``(n, k)`` with weights ``(n,)`` summing to 1."""
        spread = np.ptp(rows, axis=0)
        # below this the deviations are those of rounding
        self.active = spread > 16 * np.finfo(np.float64).eps * np.abs(rows).max(axis=0)
        self.numbers = np.flatnonzero(self.active[: self.n_numbers])
        self.levels = self.n_numbers + np.flatnonzero(self.active[self.n_numbers :])
        if len(self.numbers):
            self.preprocessor.fit(_tensors.to_tensor(rows[:, self.numbers]), _tensors.to_tensor(weight))
        return self

    def forward(self, rows):
        """Context, float64, shape ``(n, n_context)``."""
        parts = []
        if len(self.numbers):
            parts.append(self.preprocessor.forward(_tensors.to_tensor(rows[:, self.numbers]))[0])
        if len(self.levels):
            parts.append(_tensors.to_tensor(rows[:, self.levels]))
        return torch.cat(parts, 1) if parts else torch.zeros(len(rows), 1, dtype=torch.float64)
