"""Steps that a density can be carried through, with their Jacobians.

For a fitted step ``z = T(x)`` an entry of the table knows ``log|det dz/dx|`` of every row, ``-inf`` where x
is outside of the region on which T is one to one, and the inverse, NaN where z is outside of the image.
"""

import math

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

from .. import _tensors
from ..preprocessing import Preprocessor

_EDGE = 1e-7  # QuantileTransformer(output_distribution="normal") moves what lies this near to an end onto it

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


def _array(X):
    return np.asarray(X, dtype=np.float64)


def take_rows(X, rows):
    """Rows of an array or a frame."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _take_columns(X, columns):
    return X.iloc[:, columns] if hasattr(X, "iloc") else X[:, columns]


def _name_of(X, j):
    return f"column {X.columns[j]!r}" if hasattr(X, "columns") else f"column {j}"


def is_passthrough(step):
    """Whether the step is the word that leaves its place empty."""
    return step is None or (isinstance(step, str) and step == "passthrough")


# -- entries -----------------------------------------------------------------------------------------------


class _Known:
    """The default entry; ``name`` is the step's path in the pipeline, ``log_dets`` what the user declared."""

    def refuse(self, step, name, log_dets):
        """Raise, before anything is fitted, on what the step's parameters rule out."""

    def refuse_fitted(self, step, name, X):
        """Raise where what was learnt from ``X`` is not invertible."""

    def transform(self, step, X):
        """``z``, in the container that the step returns."""
        return step.transform(X)

    def log_det(self, step, X, name, log_dets):
        """``log|det dz/dx|`` of every row, ``(n,)``."""
        raise NotImplementedError

    def inverse(self, step, Z, name):
        """The rows that the step maps to ``Z``."""
        return _array(step.inverse_transform(Z))


class _Scaler(_Known):
    """z = (x - shift) / scale; in MinMaxScaler ``scale_`` multiplies."""

    def __init__(self, sign=-1.0):
        self.sign = sign

    def refuse(self, step, name, log_dets):
        if getattr(step, "clip", False):
            raise ValueError(
                f"Step {name!r}: {type(step).__name__}(clip=True) is not invertible; set clip=False."
            )

    def log_det(self, step, X, name, log_dets):
        scale = getattr(step, "scale_", None)  # None: only shifted
        return np.full(len(X), 0.0 if scale is None else self.sign * np.log(np.abs(scale)).sum())


class _Power(_Known):
    """Yeo-Johnson or Box-Cox, then perhaps standardised."""

    def log_det(self, step, X, name, log_dets):
        x = _array(X)
        if step.method == "box-cox":
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = (step.lambdas_ - 1.0) * np.log(x)
            value = np.where(x > 0, terms, -np.inf).sum(axis=1)
        else:
            value = ((step.lambdas_ - 1.0) * np.sign(x) * np.log1p(np.abs(x))).sum(axis=1)
        return value - np.log(step._scaler.scale_).sum() if step.standardize else value

    def inverse(self, step, Z, name):
        with np.errstate(all="ignore"):  # the image may end where a power is below 0 or above 2: NaN beyond
            return super().inverse(step, Z, name)


class _Quantile(_Known):
    """z = F(x), linear between the quantiles, then perhaps the normal quantile of that."""

    def refuse_fitted(self, step, name, X):
        for j, q in enumerate(step.quantiles_.T):
            if not (np.diff(q) > 0).all():
                raise ValueError(
                    f"Step {name!r}: {_name_of(X, j)} repeats values, where QuantileTransformer jumps and "
                    "has no "
                    "Jacobian; add uniform noise of one step's width to it, or use PowerTransformer."
                )
            low, high = np.interp([q[0] + _EDGE, q[-1] - _EDGE], q, step.references_)
            if step.output_distribution == "normal" and low + 1.0 - high > 1e-3:
                raise ValueError(
                    f"Step {name!r}: {_name_of(X, j)} spans only {q[-1] - q[0]:.1e}, and "
                    "QuantileTransformer moves "
                    f"all that lies within {_EDGE:g} of an end onto it; put StandardScaler before it."
                )

    def log_det(self, step, X, name, log_dets):
        x, q = _array(X), step.quantiles_
        value = np.zeros(len(x))
        for j in range(x.shape[1]):
            slope = np.diff(step.references_) / np.diff(q[:, j])
            cell = np.searchsorted(q[:, j], x[:, j], side="right") - 1
            within = (x[:, j] >= q[0, j]) & (x[:, j] <= q[-1, j])
            value += np.where(within, np.log(slope[cell.clip(0, len(slope) - 1)]), -np.inf)
        if step.output_distribution == "normal":
            z = _array(step.transform(X))
            value += 0.5 * (z**2 + math.log(2.0 * math.pi)).sum(axis=1)
        return value

    def inverse(self, step, Z, name):
        z = _array(Z)
        end = 5.199337582605575 if step.output_distribution == "normal" else 0.5  # Phi^-1(1 - 1e-7)
        inside = np.abs(z if step.output_distribution == "normal" else z - 0.5) <= end
        return np.where(inside, super().inverse(step, Z, name), np.nan)


class _FullRankPCA(_Known):
    """z = V (x - mean), perhaps divided by the standard deviations."""

    def refuse_fitted(self, step, name, X):
        if step.n_components_ < step.n_features_in_:
            raise ValueError(
                f"Step {name!r}: PCA keeps {step.n_components_} of {step.n_features_in_} directions, and "
                "what is "
                "left of X has no density in X; use n_components=None, with at least as many rows as columns."
            )

    def log_det(self, step, X, name, log_dets):
        value = np.linalg.slogdet(step.components_)[1]
        if step.whiten:
            value -= np.log(np.sqrt(step.explained_variance_).clip(min=np.finfo(np.float64).eps)).sum()
        return np.full(len(X), value)


def _where(inside, value):
    return np.where(inside, value, -np.inf)


# function -> (log of its derivative, -inf outside of its domain; its inverse)
_FUNCTIONS = {
    np.log: (lambda x: _where(x > 0, -np.log(x)), np.exp),
    np.log2: (lambda x: _where(x > 0, -np.log(x) - math.log(math.log(2.0))), np.exp2),
    np.log10: (lambda x: _where(x > 0, -np.log(x) - math.log(math.log(10.0))), lambda z: 10.0**z),
    np.log1p: (lambda x: _where(x > -1, -np.log1p(x)), np.expm1),
    np.exp: (lambda x: x, np.log),
    np.expm1: (lambda x: x, np.log1p),
    np.sqrt: (
        lambda x: _where(x > 0, -math.log(2.0) - 0.5 * np.log(x)),
        lambda z: np.where(z > 0, z * z, np.nan),
    ),
    np.cbrt: (lambda x: -math.log(3.0) - np.log(np.cbrt(x) ** 2), lambda z: z**3),
    np.arcsinh: (lambda x: -np.log(np.hypot(1.0, x)), np.sinh),
    np.sinh: (lambda x: np.abs(x) + np.log1p(np.exp(-2.0 * np.abs(x))) - math.log(2.0), np.arcsinh),
    np.arctanh: (lambda x: _where(np.abs(x) < 1, -np.log1p(-(x**2))), np.tanh),
}


class _Function(_Known):
    """The identity, one of NumPy's functions, or any function whose log-determinant was declared."""

    @staticmethod
    def _entry(step):
        return None if step.kw_args else _FUNCTIONS.get(step.func)

    def refuse(self, step, name, log_dets):
        if step.func is not None and name not in log_dets and self._entry(step) is None:
            func = getattr(step.func, "__name__", repr(step.func))
            raise TypeError(
                f"Step {name!r}: the Jacobian of the function {func} is not known. Declare it, "
                f"log_dets={{{name!r}: function}}, where function(X) returns log|det dz/dx| of every row "
                "of the "
                f"step's input; known are {', '.join(f.__name__ for f in _FUNCTIONS)}."
            )

    def log_det(self, step, X, name, log_dets):
        if step.func is None:
            return np.zeros(len(X))
        with np.errstate(all="ignore"):
            return self._entry(step)[0](_array(X)).sum(axis=1)

    def inverse(self, step, Z, name):
        if step.func is None:
            return _array(Z)
        with np.errstate(all="ignore"):
            if self._entry(step) is not None:
                return self._entry(step)[1](_array(Z))
            if step.inverse_func is None:
                raise ValueError(
                    f"Step {name!r}: rows cannot be drawn without an inverse; pass inverse_func."
                )
            return super().inverse(step, Z, name)


class _Blocks(_Known):
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
            refuse_fitted(part, f"{name}__{part_name}", _take_columns(X, columns))
        wrong = [_name_of(X, j) for j in np.flatnonzero(used != 1)]
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
            value += log_det(part, _take_columns(X, columns), f"{name}__{part_name}", log_dets)
        return value

    def inverse(self, step, Z, name):
        z = _array(Z)
        x = np.empty((len(z), step.n_features_in_))
        for part_name, part, columns in self._blocks(step):
            x[:, columns] = inverse(part, z[:, step.output_indices_[part_name]], f"{name}__{part_name}")
        return x


class _Steps(_Known):
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


class _OurPart(_Known):
    """A part of ``siflow_sk.preprocessing``, which works on tensors."""

    def _forward(self, step, X):
        x = _array(X)
        z, log_det = np.empty_like(x), np.empty(len(x))
        for rows in _tensors.row_chunks(*x.shape):
            out = step.forward(_tensors.to_tensor(x[rows]))
            z[rows], log_det[rows] = (_tensors.to_array(value) for value in out)
        return z, log_det

    def transform(self, step, X):
        return self._forward(step, X)[0]

    def log_det(self, step, X, name, log_dets):
        return self._forward(step, X)[1]

    def inverse(self, step, Z, name):
        return _tensors.to_array(step.inverse(_tensors.to_tensor(_array(Z))))


class _Foreign(_Known):
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
    StandardScaler: _Scaler(),
    MinMaxScaler: _Scaler(sign=1.0),
    MaxAbsScaler: _Scaler(),
    RobustScaler: _Scaler(),
    PowerTransformer: _Power(),
    QuantileTransformer: _Quantile(),
    PCA: _FullRankPCA(),
    FunctionTransformer: _Function(),
    ColumnTransformer: _Blocks(),
    Pipeline: _Steps(),
    Preprocessor: _OurPart(),
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
    value = _array(value)
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
    return _array(Z) if is_passthrough(step) else (_entry(step) or _Foreign()).inverse(step, Z, name)


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
    x = _array(rows)
    n, d = x.shape
    width = 1e-5 * np.maximum(_array(X).std(axis=0), 1e-9 * np.abs(x).max(axis=0) + 1e-300)
    sides = []
    for sign in (-1.0, 1.0):
        moved = (x[:, None, :] + sign * np.diag(width)).reshape(n * d, d)  # row i with coordinate j moved
        if hasattr(rows, "columns"):
            moved = pd.DataFrame(moved, columns=rows.columns)
        sides.append(_array(transform(step, moved)).reshape(n, d, -1))
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
