"""What is done with a fitted flow: score, draw, carry, and the field itself."""

import math
import warnings

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .. import _likelihood, _tensors
from .._compat import _check_sample_weight, in_container
from .._forward_mode import jvp
from .._score import Fields, diffusion_of, fields, gaussian_moments, score_from_velocity
from ..couplings import Independent
from ..exceptions import SolverWarning
from ..interpolants import is_linear
from ..velocities import velocity_and_divergence
from ._rows import KnownDensity, RowsMixin, nan_where


class FittedMixin(RowsMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin):
    """Methods of an estimator with ``velocity_``, ``base_``, ``preprocessor_`` and ``solver_``."""

    def score_samples(self, X, t=1.0, return_error=False, target=None):
        r"""Log-density of every row.

        .. math:: \log\rho_t(x) = \log\rho_0(X_{t,0}(z)) - \int_0^t\nabla\cdot v_\tau\,d\tau
                  + \log|\det dz/dx|

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        t : float or array-like of shape (n_samples,), default=1.0
            Time in [0, 1], one for all rows or one for each: 1 is the data, 0 the base carried to the units
            of X.
        return_error : bool, default=False
            Also return an estimate of the numerical error of each row, in nats.  Every row is solved once
            more with smaller steps for it; the log-densities are the same to the bit.
        target : density estimator, default=None
            A fitted estimator whose ``score_samples`` is the known log-density of the data, in the units of
            X.  The density then comes from that end, :math:`\log\rho_t(x) = \log\rho_1(X_{t,1}(x)) +
            \int_t^1\nabla\cdot v_\tau\,d\tau` (arXiv:2303.08797, eq. 2.53), and the difference of the two
            measures how well the flow connects them.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            Nats, units of X.  ``-inf`` only where the density is zero; NaN, with a
            :class:`~siflow_sk.exceptions.SolverWarning`, where the equation could not be solved.
        error : ndarray of shape (n_samples,)
            Only if ``return_error``.  NaN where the log-density is, and for a solver that makes no estimate
            (``"rk4"``, ``"torchdiffeq"``).  A velocity that estimates its divergence by probes
            (``ResidualMLP(divergence="hutchinson")``) adds the standard error of that, which no bound is.

        Raises
        ------
        ValueError
            A time outside of [0, 1], or not one for each row.
        """
        X = self._check(X)
        t = _check_times(t, len(X))
        known, t_known = (self.base_, 0.0) if target is None else (KnownDensity(self, target), 1.0)
        values, errors = np.empty(len(X)), np.empty(len(X) if return_error else 0)
        for rows in self._chunks(*X.shape):
            z, log_det, outside, far = self._forward(X[rows])
            time = t if isinstance(t, float) else _tensors.to_tensor(t[rows, None]).to(z)
            value, error = _likelihood.log_density(
                self.velocity_, known, self.solver_, z, time, t_known, verify=return_error
            )
            value = value.double().cpu() + log_det
            value[outside | far] = -math.inf
            values[rows] = _tensors.to_array(value)
            if return_error:
                error = error + _likelihood.probe_error(self.velocity_, self.solver_, z, time, t_known)
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

    def sample(
        self,
        n_samples=1,
        random_state=None,
        *,
        t=1.0,
        method="ode",
        diffusion="sigma",
        n_steps=100,
    ):
        r"""Draw new rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            ``None`` draws afresh at every call, whatever the estimator's own ``random_state``.
        t : float, default=1.0
            Draw from :math:`\rho_t`: 1 is the data, 0 the base carried to the units of X.
        method : {"ode", "sde"}, default="ode"
            The flow, or the stochastic equation of :meth:`transport`.
        diffusion, n_steps
            For ``method="sde"``, see :meth:`transport`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``
        """
        check_is_fitted(self)
        carry = self._carrier(0.0, _check_time(t, "t"), method, diffusion, n_steps)
        out = _tensors.check_n_samples(n_samples, self.n_features_in_).astype(self._dtype, copy=False)
        generator = _tensors.make_generator(_tensors.draw_seed(random_state), self.device_)
        for rows in self._chunks(*out.shape):
            z = self.base_.sample(rows.stop - rows.start, generator)
            out[rows] = self._to_rows(carry(self._to_network(z), generator))
        out = _tensors.within_turns(out, getattr(self, "periodic_", None))
        self._report_unsolved(np.isnan(out).any(axis=1))
        return in_container(self, out, self._columns())

    def transport(self, X, t_from, t_to, *, method="ode", diffusion="sigma", n_steps=100, random_state=None):
        r"""Carry rows at one time to another time, forwards or backwards.

        With ``method="ode"`` along the flow; ``transport(X, 1, 0)`` is ``transform`` in the units of X.
        With ``method="sde"`` by Heun steps of

        .. math:: dX = (v_t \pm \epsilon s_t)\,dt + \sqrt{2\epsilon(t)}\,dW,

        plus forwards and minus backwards, s the score: the densities at all times are those of the flow, for
        any :math:`\epsilon(t)\ge 0` (arXiv:2303.08797, sec. 2.4).  The score comes from the velocity, as in
        ``score_function(method="velocity")``: after a polish that changed the velocity it is wrong, and a
        :class:`~siflow_sk.exceptions.SolverWarning` says so.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows that follow the density at ``t_from``, units of X.
        t_from, t_to : float
            Times in [0, 1].
        method : {"ode", "sde"}, default="ode"
        diffusion : str, float or callable, default="sigma"
            The noise epsilon(t) of the SDE, in the space of the flow: ``"sigma"`` is alpha(t), ``"linear"``
            1 - t, ``"constant"`` 1, ``"decreasing"`` (cos(pi t) + 1)^2 / 4, ``"bump"`` sin(pi t)^2,
            ``"sbdm"`` that of score-based diffusion (alpha^2 beta'/beta - alpha alpha', cut off at 10), a
            number a constant.
        n_steps : int, default=100
            Steps of the SDE.
        random_state : int, RandomState instance or None, default=None
            Noise of the SDE.

        Returns
        -------
        X_moved : ndarray of shape (n_samples, n_features), or DataFrame after ``set_output``

        Raises
        ------
        ValueError
            A time outside of [0, 1], an unknown method or diffusion, or an SDE with a base that is not
            Gaussian.
        """
        container, X = X, self._check(X)
        t_from, t_to = _check_time(t_from, "t_from"), _check_time(t_to, "t_to")
        carry = self._carrier(t_from, t_to, method, diffusion, n_steps)
        generator = _tensors.make_generator(_tensors.draw_seed(random_state), self.device_)
        out = np.empty_like(X)
        for rows in self._chunks(*X.shape):
            z, _, _, far = self._forward(X[rows])
            out[rows] = self._to_rows(nan_where(far, carry(z, generator)))
        out = _tensors.within_turns(out, getattr(self, "periodic_", None))
        self._report_unsolved(np.isnan(out).any(axis=1))
        return in_container(self, out, self._columns(), container)

    def transform(self, X):
        """Carry the rows back to the base: latent points at t = 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : ndarray of shape (n_samples, n_latent)
            One column per column of X that is not constant; of a periodic one the angle in [0, 2 pi).
        """
        X = self._check(X)
        Z = np.empty((len(X), self._n_features_out), dtype=X.dtype)
        for rows in self._chunks(*X.shape):
            z, _, _, far = self._forward(X[rows])
            latent = _likelihood.transport(self.velocity_, self.solver_, z, 1.0, 0.0)
            if hasattr(self.base_, "within_a_turn"):  # angles come back from anywhere on the line
                latent = self.base_.within_a_turn(latent)
            Z[rows] = _tensors.to_array(nan_where(far, latent), X.dtype)
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
        carry = self._carrier(0.0, 1.0)
        out = np.empty((len(Z), self.n_features_in_), dtype=Z.dtype)
        for rows in self._chunks(*out.shape):
            out[rows] = self._to_rows(carry(self._to_network(_tensors.to_tensor(Z[rows]))))
        out = _tensors.within_turns(out, getattr(self, "periodic_", None))
        self._report_unsolved(np.isnan(out).any(axis=1))
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

    def score_function(self, t, X, method="exact"):
        r"""The score :math:`\nabla_x \log\rho_t(x)`, in the units of X.

        ``"exact"`` is the gradient of :meth:`score_samples`: the score of the base is carried along the flow
        by :math:`\dot s = -(\nabla v)^\top s - \nabla(\nabla\cdot v)`.  ``"velocity"`` is the closed form of
        a Gaussian base, :math:`s = (\beta v - \beta' x) / (\alpha(\alpha\beta' - \alpha'\beta))` for N(0, I):
        one evaluation of the network, but right only where the network is the conditional expectation that
        the quadratic loss asks for.  The likelihood polish leaves that expectation, so the two agree after
        ``polish=0`` up to the error of training, magnified by 1 / alpha near t = 1.

        Parameters
        ----------
        t : float
            Time in [0, 1].
        X : array-like of shape (n_samples, n_features)
        method : {"exact", "velocity"}, default="exact"

        Returns
        -------
        score : ndarray of shape (n_samples, n_features)
            Zero in constant columns; NaN in rows of density zero or that could not be solved.

        Raises
        ------
        ValueError
            Unknown method, a time outside of [0, 1], ``"velocity"`` with a base that is not Gaussian, or
            ``"exact"`` with a base whose ``log_prob`` carries no gradient.
        """
        if method not in ("exact", "velocity"):
            raise ValueError(f"method must be 'exact' or 'velocity', got {method!r}.")
        t, X = _check_time(t, "t"), self._check(X)
        moments = self._moments() if method == "velocity" else None
        score, unsolved = np.zeros((len(X), self.n_features_in_), dtype=X.dtype), np.empty(len(X), dtype=bool)
        for rows in self._chunks(*X.shape):
            z, _, outside, far = self._forward(X[rows])
            if method == "exact":
                s = _likelihood.exact_score(self.velocity_, self.base_, self.solver_, z, t)
            else:
                s = self._in_blocks_at(t, z, lambda *at: (score_from_velocity(*at),), moments)[0]
            with torch.inference_mode(False), torch.enable_grad():
                x = _tensors.to_tensor(X[rows][:, self._active]).requires_grad_(True)
                z, log_det = self.preprocessor_.forward(x)
                (s,) = torch.autograd.grad((z * s.double().cpu()).sum() + log_det.sum(), x)
            unsolved[rows] = _tensors.to_array(torch.isnan(s).any(1), bool)
            s[outside | far] = math.nan
            score[rows, self._active] = _tensors.to_array(s)
        self._report_unsolved(unsolved)
        return score

    def latent_fields(self, t, X):
        r"""Velocity, score and conditional means at the rows, in the space of the flow.

        For a Gaussian base all of them follow from the field b that was learnt, also with gamma; see
        :class:`~siflow_sk.interpolants.WithNoise`.  Exact where b is, so best with ``polish=0``.

        Parameters
        ----------
        t : float
            Time in [0, 1].
        X : array-like of shape (n_samples, n_features)
            Rows, units of X.

        Returns
        -------
        fields : dict of ndarray of shape (n_samples, n_latent)
            ``"velocity"`` b, the right-hand side of the flow; ``"drift"`` v, the mean of
            :math:`\alpha' x_0 + \beta' x_1`; ``"score"``; ``"base"`` :math:`E[x_0\mid x]`; ``"data"``
            :math:`E[x_1\mid x]`; ``"noise"`` the denoiser :math:`E[z\mid x]`, zero without gamma.

        Raises
        ------
        ValueError
            A time outside of [0, 1] or a base that is not Gaussian.
        """
        t, X = _check_time(t, "t"), self._check(X)
        moments, parts = self._moments(), []
        for rows in self._chunks(*X.shape):
            z, _, _, far = self._forward(X[rows])
            parts.append([nan_where(far, a) for a in self._in_blocks_at(t, z, fields, moments)])
        joined = (np.concatenate([_tensors.to_array(p) for p in part]) for part in zip(*parts, strict=True))
        return dict(zip(Fields._fields, joined, strict=True))

    def path_length(self, n_samples=4096, random_state=None):
        r"""Kinetic energy of the flow, :math:`\int_0^1 E|v_t(X_t)|^2 dt` with :math:`X_0\sim\rho_0`.

        At least the squared Wasserstein distance :math:`W_2^2` of base and data, and equal to it for optimal
        transport, whose solutions are straight lines at constant speed (Benamou & Brenier, 2000).  A shorter
        path needs fewer steps of the solver.  Learnable paths and couplings shorten it (arXiv:2209.15571,
        prop. 2).

        Parameters
        ----------
        n_samples : int, default=4096
            Solutions that the mean is taken over.
        random_state : int, RandomState instance or None, default=None
            Draws their starting points.

        Returns
        -------
        energy : float
            In the space of the flow, after the preprocessor, where one unit is about a standard deviation of
            the data; the units of X (squared) with ``preprocessor="none"``.  Nothing is averaged over
            columns.
        standard_error : float
            Of ``energy``, from the spread between solutions; NaN for ``n_samples=1``.
        """
        check_is_fitted(self)
        n = len(_tensors.check_n_samples(n_samples, 1))
        generator = _tensors.make_generator(_tensors.draw_seed(random_state), self.device_)
        energy = np.empty(n)
        for rows in self._chunks(n, self._n_features_out):
            start = self._to_network(self.base_.sample(rows.stop - rows.start, generator))
            energy[rows] = _tensors.to_array(_likelihood.path_energy(self.velocity_, self.solver_, start)[1])
        self._report_unsolved(np.isnan(energy))
        energy = energy[~np.isnan(energy)]
        error = energy.std(ddof=1) / math.sqrt(len(energy)) if len(energy) > 1 else math.nan
        return float(energy.mean()) if len(energy) else math.nan, float(error)

    def _in_blocks_at(self, t, z, function, moments):
        def block(points):
            return function(self.velocity_, self.interpolant_, moments, points.new_tensor(t), points)

        with torch.no_grad():
            return _likelihood.in_blocks(block, z, velocity=self.velocity_)

    def _moments(self):
        like = torch.empty(0, self._n_features_out, dtype=self._network_dtype, device=self.device_)
        moments = gaussian_moments(self.base_, like)
        coupling = getattr(self, "coupling_", Independent())  # older files have none
        if not isinstance(coupling, Independent):
            raise ValueError(
                f"coupling={coupling!r} makes base and data dependent, so the score does not follow "
                'from the velocity; fit with coupling="independent", or use score_function(method="exact").'
            )
        if not is_linear(self.interpolant_, self._n_features_out):
            raise ValueError(
                f"interpolant={self.interpolant!r} has points that are not alpha x0 + beta x1, so the score "
                'does not follow from the velocity; use score_function(method="exact"), or another path.'
            )
        if moments is None:
            raise ValueError(
                f"base={self.base!r} is not Gaussian, so the score does not follow from the velocity; fit "
                'with base="normal" or base="gaussian", or use score_function(method="exact").'
            )
        return moments

    def _field(self, t, X):
        t = _check_time(t, "t")
        X = self._check(X)
        V, div = np.zeros((len(X), self.n_features_in_), dtype=X.dtype), np.empty(len(X))
        forward = self.preprocessor_.forward
        for rows in self._chunks(*X.shape):
            x = _tensors.to_tensor(X[rows][:, self._active])
            z = forward(x)[0]
            latent = self._to_network(z)

            def block(points):
                time = points.new_tensor(float(t))
                return velocity_and_divergence(self.velocity_, time, points)

            with torch.no_grad():
                found = _likelihood.in_blocks(block, latent, velocity=self.velocity_)
                v_z, div_z = (a.double().cpu() for a in found)
                v_x = jvp(self.preprocessor_.inverse, (z,), (v_z,))[1]
                drift = jvp(lambda x: forward(x)[1], (x,), (v_x,))[1]
            V[rows, self._active] = _tensors.to_array(v_x)
            div[rows] = _tensors.to_array(div_z - drift)
        return V, div

    # -- helpers ------------------------------------------------------------------------------------------

    def _columns(self):
        names = getattr(self, "feature_names_in_", None)
        return [f"x{j}" for j in range(self.n_features_in_)] if names is None else names

    def _carrier(self, t_from, t_to, method="ode", diffusion="sigma", n_steps=100):
        """A function that carries latent points from one time to another."""
        if method == "ode":
            return lambda z, generator=None: _likelihood.transport(
                self.velocity_, self.solver_, z, t_from, t_to
            )
        if method != "sde":
            raise ValueError(f"method must be 'ode' or 'sde', got {method!r}.")
        if not n_steps >= 1:
            raise ValueError(f"n_steps must be an integer >= 1, got {n_steps!r}.")
        epsilon, moments = diffusion_of(diffusion, self.interpolant_), self._moments()
        if self.best_iteration_ > len(self.loss_curve_):  # the weights are those of a polish
            warnings.warn(
                "the likelihood polish changed the velocity, which therefore no longer gives the score; "
                "rows of the stochastic equation are biased. Fit with polish=0, or use method='ode'.",
                SolverWarning,
                stacklevel=3,
            )
        return lambda z, generator: _likelihood.diffuse(
            self.velocity_, self.interpolant_, moments, epsilon, z, t_from, t_to, int(n_steps), generator
        )


def _check_time(t, name):
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {t!r}.")
    return float(t)


def _check_times(t, n):
    """One time, a float, or one per row, ``(n,)``."""
    if np.ndim(t) == 0:
        return _check_time(t, "t")
    times = np.asarray(t, dtype=np.float64)
    if times.shape != (n,):
        raise ValueError(f"t must be one time or one for each of the {n} rows, got the shape {times.shape}.")
    if not ((times >= 0.0) & (times <= 1.0)).all():
        raise ValueError(f"t must lie in [0, 1], got values from {times.min()!r} to {times.max()!r}.")
    return times
