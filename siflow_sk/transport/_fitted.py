"""What a fitted transport does: maps, paths, densities."""

import math

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .. import _likelihood, _tensors
from .._compat import _check_sample_weight, in_container
from ..flow._rows import KnownDensity, RowsMixin, nan_where
from ._segments import EndOf


def _has_density(self):
    if self.source_density is None:
        raise AttributeError(
            f"{type(self).__name__} knows the density of the target only through that of the source; set "
            "source_density, for example to KernelDensity(), InterpolantFlow() or a FrozenEstimator around a "
            "fitted one, and fit again."
        )
    return True


class FittedMixin(RowsMixin, OneToOneFeatureMixin, TransformerMixin):
    """Of an estimator with ``segments_`` and ``times_``."""

    def transform(self, X):
        """Carry rows of the source, at the first time, to the target, at the last.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features)
            NaN, with a :class:`~siflow_sk.exceptions.SolverWarning`, in rows that could not be solved.
        """
        check_is_fitted(self)
        return self._moved(X, self.times_[0], self.times_[-1:])[0]

    def inverse_transform(self, X):
        """Carry rows of the target, at the last time, back to the source, at the first.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
        """
        check_is_fitted(self)
        return in_container(self, self._moved(X, self.times_[-1], self.times_[:1])[0], self._columns(), X)

    def transport(self, X, t_from, t_to):
        """Carry rows from one time to another, forwards or backwards.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows at ``t_from``.
        t_from, t_to : float
            Times between the first and the last of ``times_``.

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``

        Raises
        ------
        ValueError
            A time outside of the fitted ones.
        """
        check_is_fitted(self)
        start, end = self._check_times([t_from], "t_from"), self._check_times([t_to], "t_to")
        return in_container(self, self._moved(X, start[0], end)[0], self._columns(), X)

    def path(self, X, times):
        """The rows on their way: where each of them is at each of the times.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the source, at the first of ``times_``.
        times : array-like of shape (n_times,)
            Increasing, between the first and the last of ``times_``.

        Returns
        -------
        path : ndarray of shape (n_times, n_samples, n_features)

        Raises
        ------
        ValueError
            Times that do not increase or lie outside of the fitted ones.
        """
        check_is_fitted(self)
        times = self._check_times(times, "times")
        if not (np.diff(times) > 0).all():
            raise ValueError(f"times must increase, got {times.tolist()}.")
        return self._moved(X, self.times_[0], times)

    @available_if(_has_density)
    def score_samples(self, X, t=None):
        r"""Log-density of every row at time ``t``, from that of the source.

        .. math:: \log\rho_t(x) = \log\rho_0(X_{t,0}(x)) - \int_0^t\nabla\cdot v_\tau\,d\tau

        As good as ``source_density_``, which is carried along; there only with ``source_density``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float, default=None
            Between the first and the last of ``times_``; ``None`` is the last, the target.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of X.

        Raises
        ------
        ValueError
            A time outside of the fitted ones.
        """
        X = self._check(X)
        values = self._log_density(X, self.times_[-1] if t is None else self._check_times([t], "t")[0])
        self._report_unsolved(np.isnan(values))
        return values

    def _log_density(self, X, t):
        known, segments = KnownDensity(self, self.source_density_), [s for s in self.segments_ if s.start < t]
        for segment in segments[:-1]:
            known = EndOf(known, segment)
        values = np.empty(len(X))
        for rows in self._chunks(*X.shape):
            z, log_det, outside, far = self._forward(X[rows])
            if segments:
                last = segments[-1]
                value, _ = _likelihood.log_density(last.velocity, known, last.solver, z, last.clock(t))
            else:
                value = known.log_prob(z)
            value = value.double().cpu() + log_det
            value[outside | far] = -math.inf
            values[rows] = _tensors.to_array(value)
        return values

    @available_if(_has_density)
    def score(self, X, y=None, sample_weight=None):
        """Mean log-density of the rows, each at its time; larger is better, for searches.

        There only with ``source_density``.  The loss of the training has a floor that depends on the path and
        the coupling, so it cannot compare them; this can.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
            The time of every row, as in ``fit``; ``None``: all rows are of the target, at the last time.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Nats, units of X.

        Raises
        ------
        ValueError
            A time outside of the fitted ones; a table in the place of the times; a negative weight.
        """
        X = self._check(X)
        times = np.full(len(X), self.times_[-1]) if y is None else self._check_times(y, "y")
        check_consistent_length(X, times)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        values = np.empty(len(X))
        for t in np.unique(times):
            values[times == t] = self._log_density(X[times == t], t)
        self._report_unsolved(np.isnan(values))
        return float(np.average(values, weights=weight))

    # -- helpers ----------------------------------------------------------------------------------------

    def _moved(self, X, start, times):
        """Rows at ``start`` carried to each of ``times`` in turn, ``(n_times, n, d)``."""
        X = self._check(X)
        out = np.empty((len(times), *X.shape), dtype=X.dtype)
        for rows in self._chunks(*X.shape):
            z, _, _, far = self._forward(X[rows])
            z, t = nan_where(far, z), start
            for k, t_next in enumerate(times):
                z, t = self._carried(z, t, t_next), t_next
                out[k, rows] = self._to_rows(z)
        self._report_unsolved(np.isnan(out).any(axis=(0, 2)))
        return out

    def _carried(self, z, t_from, t_to):
        """Latent points from one time to another, through the segments between."""
        for segment in self.segments_ if t_to >= t_from else reversed(self.segments_):
            a, b = segment.clock(t_from), segment.clock(t_to)
            if a != b:
                z = _likelihood.transport(segment.velocity, segment.solver, z, a, b)
        return z

    def _check_times(self, times, name):
        first, last = self.times_[[0, -1]]
        try:
            times = np.asarray(times, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} must be numbers, got {times!r}.") from error
        if times.ndim != 1 or not len(times) or not ((times >= first) & (times <= last)).all():
            raise ValueError(f"{name} must lie in [{first:g}, {last:g}], the fitted times; got {times!r}.")
        return times

    def _columns(self):
        return self.get_feature_names_out()
