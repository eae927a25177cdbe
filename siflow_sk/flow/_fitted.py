"""What is done with a fitted flow: score, draw, carry, and the field itself."""

import math
import warnings

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch.func import jvp

from .. import _likelihood, _tensors
from .._compat import _check_sample_weight, in_container
from ..exceptions import SolverWarning
from ..velocities import velocity_and_divergence


class FittedMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin):
    """Methods of an estimator with ``velocity_``, ``base_``, ``preprocessor_`` and ``solver_``."""

    def score_samples(self, X, t=1.0, return_error=False):
        r"""Log-density of every row.

        .. math:: \log\rho_t(x) = \log\rho_0(X_{t,0}(z)) - \int_0^t\nabla\cdot v_\tau\,d\tau
                  + \log|\det dz/dx|

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float, default=1.0
            Time in [0, 1]: 1 is the data, 0 the base carried to the units of X.
        return_error : bool, default=False
            Also return an estimate of the numerical error of each row, in nats.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of X.  ``-inf`` only where the density is zero; NaN, with a
            :class:`~siflow_sk.exceptions.SolverWarning`, where the equation could not be solved.
        error : ndarray of shape (n_samples,)
            Only if ``return_error``.
        """
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"t must lie in [0, 1], got {t!r}.")
        X = self._check(X)
        values, errors = np.empty(len(X)), np.empty(len(X) if return_error else 0)
        for rows in _tensors.row_chunks(*X.shape):
            z, log_det, outside = self._forward(X[rows])
            value, error = _likelihood.log_density(self.velocity_, self.base_, self.solver_, z, float(t))
            value = value.double().cpu() + log_det
            value[outside] = -math.inf
            values[rows] = _tensors.to_array(value)
            if return_error:
                errors[rows] = _tensors.to_array(error)
        self._report_unsolved(np.isnan(values))
        return (values, errors) if return_error else values

    def score(self, X, y=None, sample_weight=None):
        """Mean log-density of the rows, the figure that ``GridSearchCV`` maximises.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Weighted mean of ``score_samples(X)``, in nats.
        """
        values = self.score_samples(X)
        if sample_weight is None:
            return float(np.mean(values))
        weight = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(values, weights=weight))

    def sample(self, n_samples=1, random_state=None):
        """Draw new rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call, whatever the estimator's own ``random_state``.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
        """
        check_is_fitted(self)
        out = _tensors.check_n_samples(n_samples, self.n_features_in_).astype(self._dtype, copy=False)
        generator = _tensors.make_generator(_tensors.draw_seed(random_state), self.device_)
        for rows in _tensors.row_chunks(*out.shape):
            z = self.base_.sample(rows.stop - rows.start, generator)
            out[rows] = self._inverse(z)
        return in_container(self, out, self._columns())

    def transform(self, X):
        """Carry the rows back to the base: latent points at t = 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_latent)
            One column per column of X that is not constant.
        """
        X = self._check(X)
        Z = np.empty((len(X), self._n_features_out), dtype=X.dtype)
        for rows in _tensors.row_chunks(*X.shape):
            z, _, _ = self._forward(X[rows])
            latent = _likelihood.transport(self.velocity_, self.solver_, z, 1.0, 0.0)
            Z[rows] = _tensors.to_array(latent, X.dtype)
        self._report_unsolved(np.isnan(Z).any(axis=1))
        return Z

    def inverse_transform(self, X):
        """Carry latent points at t = 0 to rows of data.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_latent)
            As returned by ``transform``.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
        """
        check_is_fitted(self)
        Z = _tensors.check_points(self, X)
        if Z.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has shape {Z.shape}, but {type(self).__name__} is expecting (n_samples, "
                f"{self._n_features_out}): one column per latent coordinate."
            )
        out = np.empty((len(Z), self.n_features_in_), dtype=Z.dtype)
        for rows in _tensors.row_chunks(*out.shape):
            out[rows] = self._inverse(_tensors.to_tensor(Z[rows]))
        return in_container(self, out, self._columns(), X)

    def velocity_field(self, t, X):
        """The velocity of the flow at time ``t``, in the units of X.

        Parameters
        ----------
        t : float
            Time in [0, 1].
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        V : ndarray of shape (n_samples, n_features)
            dX/dt; zero in constant columns.
        """
        return self._field(t, X)[0]

    def divergence(self, t, X):
        r"""Divergence of :meth:`velocity_field` with respect to X.

        With z the latent point, :math:`\nabla_x\cdot v_x = \nabla_z\cdot v_z -
        \frac{d}{ds}\log|\det dz/dx|` along the motion.

        Parameters
        ----------
        t : float
            Time in [0, 1].
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        divergence : ndarray of shape (n_samples,)
        """
        return self._field(t, X)[1]

    def _field(self, t, X):
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"t must lie in [0, 1], got {t!r}.")
        X = self._check(X)
        V, div = np.zeros((len(X), self.n_features_in_), dtype=X.dtype), np.empty(len(X))
        forward = self.preprocessor_.forward
        for rows in _tensors.row_chunks(*X.shape):
            x = _tensors.to_tensor(X[rows][:, self._active])
            z = forward(x)[0]
            latent = self._to_network(z)

            def block(points):
                time = points.new_tensor(float(t))
                return velocity_and_divergence(self.velocity_, time, points)

            with torch.no_grad():
                v_z, div_z = (a.double().cpu() for a in _likelihood.in_blocks(block, latent))
                v_x = jvp(self.preprocessor_.inverse, (z,), (v_z,))[1]
                drift = jvp(lambda x: forward(x)[1], (x,), (v_x,))[1]
            V[rows, self._active] = _tensors.to_array(v_x)
            div[rows] = _tensors.to_array(div_z - drift)
        return V, div

    # -- helpers ------------------------------------------------------------------------------------------

    def _columns(self):
        names = getattr(self, "feature_names_in_", None)
        return [f"x{j}" for j in range(self.n_features_in_)] if names is None else names

    def _check(self, X):
        check_is_fitted(self)
        return _tensors.check_table(self, X, reset=False)

    def _to_network(self, z):
        return z.to(self.device_, self._network_dtype)

    def _forward(self, X):
        """Latent points, log-determinant of the preprocessing, rows outside of the support."""
        off = ~self._active
        value = self._constant[off]
        # what rounding to this dtype can do, and what the rows that fit saw did
        slack = self._spread + 8 * np.finfo(X.dtype).eps * np.abs(value)
        outside = _tensors.to_tensor((np.abs(X[:, off] - value) > slack).any(axis=1), torch.bool)
        z, log_det = self.preprocessor_.forward(_tensors.to_tensor(X[:, self._active]))
        far = ~torch.isfinite(self._to_network(z)).all(1).cpu()  # beyond what the dtype can hold
        return self._to_network(torch.where(far[:, None], 0.0, z)), log_det, outside | far

    def _inverse(self, latent):
        z = _likelihood.transport(self.velocity_, self.solver_, self._to_network(latent), 0.0, 1.0)
        x = self.preprocessor_.inverse(z.double().cpu())
        self._report_unsolved(np.isnan(_tensors.to_array(x)).any(axis=1))
        out = np.tile(self._constant, (len(x), 1))
        out[:, self._active] = _tensors.to_array(x)
        return out

    def _report_unsolved(self, bad):
        if bad.any():
            shown = ", ".join(map(str, np.flatnonzero(bad)[:10]))
            warnings.warn(
                f"{int(bad.sum())} of {len(bad)} rows could not be solved and are NaN: rows {shown}"
                f"{' ...' if bad.sum() > 10 else ''}. Try solver='dopri5' or a larger tol.",
                SolverWarning,
                stacklevel=3,
            )
