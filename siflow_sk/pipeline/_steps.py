"""Steps that a density can be carried through: which are known, and how they are put together."""

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from ..preprocessing import Preprocessor
from ._maps import (
    FullRankPCA,
    Function,
    Known,
    OurPart,
    Power,
    Quantile,
    Scaler,
    as_float,
    is_passthrough,
    name_of,
    take_columns,
    take_rows,
)

_INSTEAD = {
    "use PCA() with all components": ["TruncatedSVD", "FastICA", "KernelPCA", "SparsePCA", "NMF"],
    "use StandardScaler, which keeps the length of a row": ["Normalizer"],
    "fill in missing values before the pipeline": ["SimpleImputer", "KNNImputer", "IterativeImputer"],
    "a coded or binned column has no density; leave it out": [
        "OneHotEncoder",
        "OrdinalEncoder",
        "TargetEncoder",
        "KBinsDiscretizer",
        "Binarizer",
    ],
    "a column that is a function of others has no density; leave it out": [
        "PolynomialFeatures",
        "SplineTransformer",
        "FeatureUnion",
    ],
    "a dropped column has no density; select columns before the pipeline": [
        "VarianceThreshold",
        "SelectKBest",
        "SelectPercentile",
        "SelectFromModel",
    ],
}


class _Blocks(Known):
    """A ColumnTransformer: blocks of columns, every column in one block."""

    def refuse(self, step, name, log_dets):
        for part_name, part, *_ in [*step.transformers, ("remainder", step.remainder)]:
            if isinstance(part, str) and part == "drop":
                if part_name != "remainder":  # which may be empty: only fit can tell
                    raise ValueError(
                        f"Step {name!r} drops the columns of {part_name!r}: a dropped column has no density; "
                        "select columns before the pipeline."
                    )
            elif not is_passthrough(part):
                refuse(part, f"{name}__{part_name}", log_dets)

    def refuse_fitted(self, step, name, X):
        used = np.zeros(step.n_features_in_, dtype=int)
        for part_name, part, columns in self._blocks(step):
            used[columns] += 1
            refuse_fitted(part, f"{name}__{part_name}", take_columns(X, columns))
        wrong = [name_of(X, j) for j in np.flatnonzero(used != 1)]
        if wrong:
            raise ValueError(
                f"Step {name!r}: every column must be used once, which {', '.join(wrong)} is not; "
                "remainder='passthrough' keeps columns as they are."
            )

    @staticmethod
    def _blocks(step):
        """(name, fitted step, indices of its columns)."""
        index = np.arange(step.n_features_in_)
        probe = pd.Series(index, index=getattr(step, "feature_names_in_", index))
        for name, part, columns in step.transformers_:
            if isinstance(part, str) and part == "drop":
                continue
            ends = [columns.start, columns.stop] if isinstance(columns, slice) else np.atleast_1d(columns)
            by_name = any(isinstance(end, str) for end in ends)
            chosen = np.atleast_1d(probe.loc[columns] if by_name else index[columns])
            if len(chosen):
                yield name, part, chosen

    def log_det(self, step, X, name, log_dets):
        value = np.zeros(len(X))
        for part_name, part, columns in self._blocks(step):
            value += log_det(part, take_columns(X, columns), f"{name}__{part_name}", log_dets)
        return value

    def inverse(self, step, Z, name):
        z = as_float(Z)
        x = np.empty((len(z), step.n_features_in_))
        for part_name, part, columns in self._blocks(step):
            x[:, columns] = inverse(part, z[:, step.output_indices_[part_name]], f"{name}__{part_name}")
        return x


class _Steps(Known):
    """A scikit-learn Pipeline of known steps."""

    def refuse(self, step, name, log_dets):
        for part_name, part in step.steps:
            refuse(part, f"{name}__{part_name}", log_dets)

    def refuse_fitted(self, step, name, X):
        for part_name, part in step.steps:
            refuse_fitted(part, f"{name}__{part_name}", X)
            X = transform(part, X)

    def log_det(self, step, X, name, log_dets):
        parts = [(f"{name}__{part_name}", part) for part_name, part in step.steps]
        return push(parts, X, log_dets)[2]

    def inverse(self, step, Z, name):
        for part_name, part in reversed(step.steps):
            Z = inverse(part, Z, f"{name}__{part_name}")
        return Z


class _Foreign(Known):
    """A step that brings ``log_det(X)``, or whose log-determinant was declared."""

    def log_det(self, step, X, name, log_dets):
        return step.log_det(X)

    def inverse(self, step, Z, name):
        if not hasattr(step, "inverse_transform"):
            raise ValueError(
                f"Step {name!r}: rows cannot be drawn without an inverse; {type(step).__name__} has no "
                "inverse_transform."
            )
        return super().inverse(step, Z, name)


_TABLE = {
    StandardScaler: Scaler(),
    MinMaxScaler: Scaler(sign=1.0),
    MaxAbsScaler: Scaler(),
    RobustScaler: Scaler(),
    PowerTransformer: Power(),
    QuantileTransformer: Quantile(),
    PCA: FullRankPCA(),
    FunctionTransformer: Function(),
    ColumnTransformer: _Blocks(),
    Pipeline: _Steps(),
    Preprocessor: OurPart(),
}


# -- what the pipeline asks --------------------------------------------------------------------------------


def _entry(step):
    """The entry of the step's class, of a base class whose map it keeps, or None."""
    if hasattr(step, "log_det"):
        return _Foreign()
    for cls in type(step).__mro__:
        if cls in _TABLE:
            same = cls is type(step) or all(
                getattr(type(step), method, None) is getattr(cls, method, None)
                for method in ("transform", "inverse_transform")
            )
            return _TABLE[cls] if same else None
    return None


def _open(step):
    """The fitted estimator inside a FrozenEstimator."""
    return step.estimator if isinstance(step, FrozenEstimator) else step


def refuse(step, name, log_dets):
    """Raise unless the Jacobian of the step is known or declared; ``name`` is its path.

    Raises
    ------
    TypeError
        It is not; the message says what to use instead.
    ValueError
        It is known that the step, with its parameters, has none.
    """
    step = _open(step)
    if is_passthrough(step):
        return
    entry = _entry(step)
    if entry is not None:
        entry.refuse(step, name, log_dets)
    elif name not in log_dets:
        kind = type(step).__name__
        instead = [advice for advice, kinds in _INSTEAD.items() if kind in kinds]
        raise TypeError(
            f"Step {name!r}: the Jacobian of {kind} is not known, so that the density in the units of X "
            "is not "
            + (f"either: {instead[0]}. " if instead else "either. ")
            + "Known are "
            + ", ".join(cls.__name__ for cls in _TABLE)
            + f" (siflow_sk.preprocessing); another invertible step needs log_dets={{{name!r}: function}} "
            "or a "
            "method log_det(X)."
        )


def refuse_fitted(step, name, X):
    """Raise ValueError where the fitted step has no inverse; ``X`` is what it was fitted to."""
    step = _open(step)
    if not is_passthrough(step) and _entry(step) is not None:
        _entry(step).refuse_fitted(step, name, X)


def transform(step, X):
    """``z`` in the container that the step returns."""
    step = _open(step)
    return X if is_passthrough(step) else (_entry(step) or _Foreign()).transform(step, X)


def log_det(step, X, name, log_dets):
    """``log|det dz/dx|`` of every row, ``(n,)``; ``-inf`` where the density is zero.

    Raises
    ------
    ValueError
        NaN, or not one number per row.
    """
    step = _open(step)
    if is_passthrough(step):
        return np.zeros(len(X))
    if name in log_dets:
        value = log_dets[name](X)
    else:
        value = (_entry(step) or _Foreign()).log_det(step, X, name, log_dets)
    value = as_float(value)
    if value.shape != (len(X),) or np.isnan(value).any() or np.isposinf(value).any():
        raise ValueError(
            f"Step {name!r}: its log-determinant must be one number, finite or -inf, for each of {len(X)} "
            "rows; "
            f"got shape {value.shape} with {np.isnan(value).sum()} NaN and {np.isposinf(value).sum()} inf."
        )
    return value


def inverse(step, Z, name):
    """The rows that the step maps to ``Z``, ``(n, d)``; NaN outside of its image."""
    step = _open(step)
    return as_float(Z) if is_passthrough(step) else (_entry(step) or _Foreign()).inverse(step, Z, name)


def push(steps, X, log_dets):
    """Carry rows through fitted steps.

    Returns
    -------
    Z : array or frame of shape (n_inside, d)
        Only the rows on which every step is one to one.
    inside : ndarray of int, shape (n_inside,)
        Which rows these are.
    total : ndarray of shape (n,)
        Sum of the log-determinants, ``-inf`` for the other rows.
    """
    total, inside = np.zeros(len(X)), np.arange(len(X))
    for name, step in steps:
        value = log_det(step, X, name, log_dets)
        total[inside] += value
        keep = np.isfinite(value)
        if not keep.all():
            X, inside = take_rows(X, np.flatnonzero(keep)), inside[keep]
        if not len(inside):
            break
        Z = transform(step, X)
        if np.shape(Z) != np.shape(X):
            raise ValueError(
                f"Step {name!r} turns shape {np.shape(X)} into {np.shape(Z)}: a density needs as many "
                "columns "
                "as before."
            )
        X = Z
    return X, inside, total


def check_declared(step, X, name, log_dets):
    """Compare a declared log-determinant with central differences on a few rows.

    Raises
    ------
    ValueError
        They differ on most of the rows.
    """
    if name not in log_dets and not hasattr(_open(step), "log_det"):
        return
    rows = take_rows(X, np.unique(np.linspace(0, len(X) - 1, 9).astype(int)))
    declared = log_det(step, rows, name, log_dets)
    rows, declared = take_rows(rows, np.flatnonzero(np.isfinite(declared))), declared[np.isfinite(declared)]
    if not len(declared):
        return
    x = as_float(rows)
    n, d = x.shape
    width = 1e-5 * np.maximum(as_float(X).std(axis=0), 1e-9 * np.abs(x).max(axis=0) + 1e-300)
    sides = []
    for sign in (-1.0, 1.0):
        moved = (x[:, None, :] + sign * np.diag(width)).reshape(n * d, d)  # row i with coordinate j moved
        if hasattr(rows, "columns"):
            moved = pd.DataFrame(moved, columns=rows.columns)
        sides.append(as_float(transform(step, moved)).reshape(n, d, -1))
    jacobian = (sides[1] - sides[0]) / (2.0 * width[:, None])
    if jacobian.shape[1] != jacobian.shape[2]:
        return  # push reports it
    found = np.linalg.slogdet(jacobian)[1]
    off = np.abs(found - declared)
    worst = int(np.argsort(off)[len(off) // 2])
    if not off[worst] <= 1e-2 + 1e-3 * np.abs(declared[worst]):
        raise ValueError(
            f"Step {name!r}: the declared log-determinant is not that of the step: {declared[worst]:.4f} "
            "where "
            f"numerical differentiation gives {found[worst]:.4f}. It must be log|det dz/dx|, summed over the "
            "columns, at the step's input."
        )


def named_parts(step, name):
    """(path, step) of the step and of every step inside it."""
    yield name, step
    inside = []
    if isinstance(step, ColumnTransformer):
        inside = [*[(key, part) for key, part, _ in step.transformers], ("remainder", step.remainder)]
    elif isinstance(step, Pipeline):
        inside = step.steps
    for key, part in inside:
        yield from named_parts(part, f"{name}__{key}")
