"""Steps that are a single map: scalers, powers, quantiles, rotations, functions, our own parts.

For a fitted step ``z = T(x)`` an entry knows ``log|det dz/dx|`` of every row, ``-inf`` where x is outside of
the region on which T is one to one, and the inverse, NaN where z is outside of the image.
"""

import math

import numpy as np

from .. import _tensors

_EDGE = 1e-7  # QuantileTransformer(output_distribution="normal") moves what lies this near to an end onto it


def as_float(X):
    return np.asarray(X, dtype=np.float64)


def take_rows(X, rows):
    """Rows of an array or a frame."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def take_columns(X, columns):
    return X.iloc[:, columns] if hasattr(X, "iloc") else X[:, columns]


def name_of(X, j):
    return f"column {X.columns[j]!r}" if hasattr(X, "columns") else f"column {j}"


def is_passthrough(step):
    """Whether the step is the word that leaves its place empty."""
    return step is None or (isinstance(step, str) and step == "passthrough")


class Known:
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
        return as_float(step.inverse_transform(Z))


class Scaler(Known):
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


class Power(Known):
    """Yeo-Johnson or Box-Cox, then perhaps standardised."""

    def log_det(self, step, X, name, log_dets):
        x = as_float(X)
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


class Quantile(Known):
    """z = F(x), linear between the quantiles, then perhaps the normal quantile of that."""

    def refuse_fitted(self, step, name, X):
        for j, q in enumerate(step.quantiles_.T):
            if not (np.diff(q) > 0).all():
                raise ValueError(
                    f"Step {name!r}: {name_of(X, j)} repeats values, where QuantileTransformer jumps and "
                    "has no "
                    "Jacobian; add uniform noise of one step's width to it, or use PowerTransformer."
                )
            low, high = np.interp([q[0] + _EDGE, q[-1] - _EDGE], q, step.references_)
            if step.output_distribution == "normal" and low + 1.0 - high > 1e-3:
                raise ValueError(
                    f"Step {name!r}: {name_of(X, j)} spans only {q[-1] - q[0]:.1e}, and "
                    "QuantileTransformer moves "
                    f"all that lies within {_EDGE:g} of an end onto it; put StandardScaler before it."
                )

    def log_det(self, step, X, name, log_dets):
        x, q = as_float(X), step.quantiles_
        value = np.zeros(len(x))
        for j in range(x.shape[1]):
            slope = np.diff(step.references_) / np.diff(q[:, j])
            cell = np.searchsorted(q[:, j], x[:, j], side="right") - 1
            within = (x[:, j] >= q[0, j]) & (x[:, j] <= q[-1, j])
            value += np.where(within, np.log(slope[cell.clip(0, len(slope) - 1)]), -np.inf)
        if step.output_distribution == "normal":
            z = as_float(step.transform(X))
            value += 0.5 * (z**2 + math.log(2.0 * math.pi)).sum(axis=1)
        return value

    def inverse(self, step, Z, name):
        z = as_float(Z)
        end = 5.199337582605575 if step.output_distribution == "normal" else 0.5  # Phi^-1(1 - 1e-7)
        inside = np.abs(z if step.output_distribution == "normal" else z - 0.5) <= end
        return np.where(inside, super().inverse(step, Z, name), np.nan)


class FullRankPCA(Known):
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
FUNCTIONS = {
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


class Function(Known):
    """The identity, one of NumPy's functions, or any function whose log-determinant was declared."""

    @staticmethod
    def _entry(step):
        return None if step.kw_args else FUNCTIONS.get(step.func)

    def refuse(self, step, name, log_dets):
        if step.func is not None and name not in log_dets and self._entry(step) is None:
            func = getattr(step.func, "__name__", repr(step.func))
            raise TypeError(
                f"Step {name!r}: the Jacobian of the function {func} is not known. Declare it, "
                f"log_dets={{{name!r}: function}}, where function(X) returns log|det dz/dx| of every row "
                "of the "
                f"step's input; known are {', '.join(f.__name__ for f in FUNCTIONS)}."
            )

    def log_det(self, step, X, name, log_dets):
        if step.func is None:
            return np.zeros(len(X))
        with np.errstate(all="ignore"):
            return self._entry(step)[0](as_float(X)).sum(axis=1)

    def inverse(self, step, Z, name):
        if step.func is None:
            return as_float(Z)
        with np.errstate(all="ignore"):
            if self._entry(step) is not None:
                return self._entry(step)[1](as_float(Z))
            if step.inverse_func is None:
                raise ValueError(
                    f"Step {name!r}: rows cannot be drawn without an inverse; pass inverse_func."
                )
            return super().inverse(step, Z, name)


class OurPart(Known):
    """A part of ``siflow_sk.preprocessing``, which works on tensors."""

    def _forward(self, step, X):
        x = as_float(X)
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
        return _tensors.to_array(step.inverse(_tensors.to_tensor(as_float(Z))))
