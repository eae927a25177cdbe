"""What is done with a fitted conditional flow: score, draw, mean, quantiles, distribution function."""

import math

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .. import _likelihood, _tensors
from .._compat import _check_sample_weight
from ..flow._rows import RowsMixin

_POINTS_AT_ONCE = 2**15  # points of the base that are carried together
_N_POINTS = 512  # points that stand for N(0, I) in several dimensions


class ConditionalMixin(RowsMixin):
    """Methods of an estimator with ``velocity_``, ``base_``, ``preprocessor_``, ``solver_`` and a context."""

    def score_samples(self, X, y=None, return_error=False):
        r"""Log-density of y given X, for every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            ``None`` gives the log-density that the model expects at each row,
            :math:`E[\log p(Y \mid x) \mid x]`, minus the entropy of y given x: how sure the model is.
        return_error : bool, default=False
            Also return an estimate of the numerical error of each row, in nats.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of y.  NaN, with a :class:`~siflow_sk.exceptions.SolverWarning`, where the equation
            could not be solved.
        error : ndarray of shape (n_samples,)
            Only if ``return_error``.

        Raises
        ------
        ValueError
            Bad input: NaN, another number or order of columns, a category that fit did not see.
        """
        context = self._read(X)
        if y is None:
            values, errors = self._expected(context)
        else:
            values, errors = self._log_density(context, self._check_target(y, len(context)))
        self._report_unsolved(np.isnan(values))
        return (values, errors) if return_error else values

    def score(self, X, y, sample_weight=None):
        """Mean log-density of y given X, the figure that ``GridSearchCV`` maximises.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        score : float
            Weighted mean of ``score_samples(X, y)``, in nats.  Not the coefficient of determination.
        """
        if y is None:
            _tensors.check_target(self, None, 0)  # without y score_samples has another meaning
        values = self.score_samples(X, y)
        if sample_weight is None:
            return float(np.mean(values))
        weight = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
        return float(np.average(values, weights=weight))

    def sample(self, X, n_samples=1, random_state=None):
        """Draw targets for every row of X.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        n_samples : int, default=1
            Draws for each row.
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call.

        Returns
        -------
        y : ndarray of shape (n_rows, n_samples) or (n_rows, n_samples, n_outputs)
            The latter if y had two dimensions in ``fit``.
        """
        context = self._read(X)
        n_draws = len(_tensors.check_n_samples(n_samples, self.n_outputs_))
        generator = _tensors.make_generator(_tensors.draw_seed(random_state), self.device_)

        def draw(n_rows):
            return self.base_.sample(n_rows * n_draws, generator).reshape(n_rows, n_draws, -1)

        return self._as_fitted(self._push(context, draw, n_draws))

    def predict(self, X):
        """The mean of y given X.

        With one target by the trapezoidal rule over the base, 25 points on [-6, 6]; with several the mean of
        512 fixed points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Units of y.
        """
        context = self._read(X)
        points, weight = self._base_points()
        values = self._push(context, points, len(weight))
        return self._as_fitted(np.einsum("nkd,k->nd", values, weight))

    def predict_quantiles(self, X, quantiles=(0.05, 0.5, 0.95)):
        """Quantiles of y given X.

        With one target the map from the base to y is monotone, so these are carried quantiles of N(0, 1);
        with several they are those of each target alone, from 512 fixed points of the base.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        quantiles : float or array-like of shape (k,), default=(0.05, 0.5, 0.95)
            Probabilities inside (0, 1).

        Returns
        -------
        values : ndarray of shape (n_samples, k) or (n_samples, k, n_outputs)
            Units of y; the latter if y had two dimensions in ``fit``.

        Raises
        ------
        ValueError
            A probability outside (0, 1).
        """
        q = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
        if q.ndim != 1 or not ((q > 0) & (q < 1)).all():
            raise ValueError(f"quantiles must lie inside (0, 1), got {quantiles!r}.")
        context = self._read(X)
        if self._n_latent() > 1:
            points, weight = self._base_points()
            values = self._push(context, points, len(weight))
            return self._as_fitted(np.moveaxis(np.quantile(values, q, axis=1), 0, 1))
        z = torch.special.ndtri(torch.as_tensor(q if self._increasing() else 1.0 - q))
        values = self._push(context, lambda n: z[None, :, None].expand(n, -1, -1), len(q))
        return self._as_fitted(values)

    def predict_interval(self, X, coverage=0.9):
        """Central interval that holds y with a given probability.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        coverage : float, default=0.9
            Inside (0, 1); the quantiles (1 - coverage) / 2 and (1 + coverage) / 2 are the ends.

        Returns
        -------
        interval : ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Lower and upper end, units of y; each target alone if there are several.

        Raises
        ------
        ValueError
            ``coverage`` outside (0, 1).
        """
        if not 0.0 < coverage < 1.0:
            raise ValueError(f"coverage must lie inside (0, 1), got {coverage!r}.")
        return self.predict_quantiles(X, (0.5 - 0.5 * coverage, 0.5 + 0.5 * coverage))

    def cdf(self, X, y):
        r"""Probability of at most y given X, for one target: :math:`F(y \mid x) = \Phi(Y_{1,0}(z))`.

        Where the model is right these are uniform on (0, 1) over new rows (the probability integral
        transform).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        probability : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            More than one target.
        """
        context = self._read(X)
        if self._n_latent() > 1:
            raise ValueError(
                f"cdf is for one target, and there are {self._n_latent()}; fit one model for each, or use "
                "sample."
            )
        y = self._check_target(y, len(context))
        u = np.empty(len(y))
        for rows in self._chunks(len(y), context.shape[1]):
            z, _, _, far = self._forward(y[rows])
            base = _likelihood.transport(self.velocity_, self.solver_, z, 1.0, 0.0, context[rows])
            u[rows] = _tensors.to_array(torch.special.ndtr(base.double().cpu()[:, 0]))
            far = np.flatnonzero(_tensors.to_array(far, bool)) + rows.start
            u[far] = (y[far, 0] > 0) == self._increasing()  # beyond every number of the dtype: 0 or 1
        self._report_unsolved(np.isnan(u))
        return u if self._increasing() else 1.0 - u

    # -- helpers ------------------------------------------------------------------------------------------

    def _read(self, X):
        """Context of every row, on the device, in the dtype of the network."""
        check_is_fitted(self)
        return self._to_network(self._context.forward(self._table.read(self, X)))

    def _check_target(self, y, n_rows):
        """``(n, n_outputs)``."""
        y = _tensors.check_target(self, y, n_rows)
        y = y[:, None] if y.ndim == 1 else y
        if y.shape[1] != self.n_outputs_:
            raise ValueError(f"y: {self.n_outputs_} column(s) as in fit wanted, got {y.shape[1]}.")
        return y

    def _n_latent(self):
        return int(self._active.sum())

    def _log_density(self, context, y):
        values, errors = np.empty(len(y)), np.empty(len(y))
        for rows in self._chunks(len(y), context.shape[1] + y.shape[1]):
            z, log_det, outside, far = self._forward(y[rows])
            value, error = _likelihood.log_density(
                self.velocity_, self.base_, self.solver_, z, context=context[rows]
            )
            value = value.double().cpu() + log_det
            value[outside | far] = -math.inf
            values[rows], errors[rows] = _tensors.to_array(value), _tensors.to_array(error)
        return values, errors

    def _expected(self, context):
        """Mean log-density under the model itself, and the largest error."""
        points, weight = self._base_points(256)
        k, values, errors = len(weight), np.empty(len(context)), np.empty(len(context))
        for rows in self._few_rows(len(context), k):
            y = self._push(context[rows], points, k)
            value, error = self._log_density(
                context[rows].repeat_interleave(k, 0), y.reshape(-1, self.n_outputs_)
            )
            values[rows], errors[rows] = value.reshape(-1, k) @ weight, error.reshape(-1, k).max(axis=1)
        return values, errors

    @staticmethod
    def _few_rows(n_rows, n_points):
        size = max(1, _POINTS_AT_ONCE // n_points)
        return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]

    def _push(self, context, draw, n_points):
        """Targets ``(n, k, n_outputs)`` from base points, ``draw(n)`` of shape ``(n, k, d)``."""
        out = np.tile(self._constant, (len(context), n_points, 1))
        for rows in self._few_rows(len(context), n_points):
            z = draw(rows.stop - rows.start)
            repeated = context[rows].repeat_interleave(n_points, 0)
            z = self._to_network(z.reshape(-1, z.shape[2]))
            x = _likelihood.transport(self.velocity_, self.solver_, z, 0.0, 1.0, repeated)
            y = _tensors.to_array(self.preprocessor_.inverse(x.double().cpu()))
            out[rows, :, self._active] = y.reshape(-1, n_points, y.shape[1])
        self._report_unsolved(np.isnan(out).any(axis=(1, 2)))
        return out

    def _base_points(self, n_points=_N_POINTS):
        """Points that stand for N(0, I), the same for every row, and their weights ``(k,)``."""
        d = self._n_latent()
        if d == 1:
            z = torch.linspace(-6.0, 6.0, 25, dtype=torch.float64)
            weight = torch.exp(-0.5 * z * z)
            points, weight = z[:, None], (weight / weight.sum()).numpy()
        else:
            sobol = torch.quasirandom.SobolEngine(d, scramble=True, seed=0)
            u = sobol.draw(n_points, dtype=torch.float64)
            points = torch.special.ndtri(u.clamp(1e-9, 1.0 - 1e-9))
            weight = np.full(n_points, 1.0 / n_points)
        return lambda n: points.expand(n, -1, -1), weight

    def _increasing(self):
        """Whether the preprocessor of the one target is: a user's own may turn the axis."""
        ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        return bool(self.preprocessor_.inverse(ends).diff(dim=0) > 0)

    def _as_fitted(self, values):
        return values[..., 0] if self._one_dimensional else values
