r"""What a fitted flow says about itself: the quadratic loss taken apart, straightness, a Wasserstein bound.

These are measured in the space of the flow, after the preprocessor.  Whether a conditional density is
calibrated is seen from its draws alone, in the units of y.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chisquare
from sklearn.utils.validation import check_is_fitted

from . import _likelihood, _tensors
from ._forward_mode import jvp
from ._objective import quadratic_losses
from ._score import coefficients
from .couplings import Independent
from .flow import InterpolantFlow

__all__ = [
    "LossParts",
    "RankCalibration",
    "WassersteinBound",
    "loss_parts",
    "simulation_based_calibration",
    "straightness",
    "wasserstein_bound",
]

_NUMBERS_AT_ONCE = 2**21  # points times rows times columns


class LossParts(NamedTuple):
    """The quadratic loss as a sum of two parts; see :func:`loss_parts`."""

    value: float  #: the loss, value = floor + residual
    floor: float  #: what would be left if the field were the conditional mean
    residual: float  #: zero for the conditional mean
    residual_error: float  #: standard error of ``residual``


class WassersteinBound(NamedTuple):
    """A bound on the squared Wasserstein distance, and what it is made of; see :func:`wasserstein_bound`."""

    bound: float  #: ``exp(1 + 2 * lipschitz) * excess``
    excess: float  #: mean squared distance of the field to the exact one
    lipschitz: float  #: largest norm of its Jacobian that was found


class RankCalibration(NamedTuple):
    """Ranks of the true targets among draws; see :func:`simulation_based_calibration`."""

    ranks: np.ndarray  #: ``(n_samples, n_outputs)``, whole numbers from 0 to ``n_draws``
    pvalue: np.ndarray  #: ``(n_outputs,)``, of the hypothesis that the ranks are uniform


def loss_parts(flow, X, n_draws=16, random_state=None):
    r"""The quadratic loss of a flow on rows X: its floor, and what is left above it.

    With :math:`\hat v` the field of the flow and :math:`\dot x_t` what it regresses on,

    .. math:: E|\hat v_t(x_t) - \dot x_t|^2 = \underbrace{E|\dot x_t|^2 - E|\hat v|^2}_{\text{floor}}
              + \underbrace{2E[\hat v\cdot(\hat v - \dot x_t)]}_{\text{residual}} .

    The residual is :math:`G + E|\hat v|^2` with :math:`G = E[|\hat v|^2 - 2\dot x_t\cdot\hat v]`, the
    objective of arXiv:2209.15571, proposition 1.  It is zero for the exact velocity, the conditional mean
    of :math:`\dot x_t`, and not only for that (also for a field of zero): necessary, not sufficient.  A
    residual beyond a few standard errors says that the field is not that mean, on the whole too weak where
    the residual is negative and too strong where it is positive.  The likelihood polish leaves the mean on
    purpose; then scores and stochastic equations, which rest on it, are biased, while densities are not.

    Parameters
    ----------
    flow : InterpolantFlow
        Fitted.
    X : array-like of shape (n_samples, n_features)
        Rows, best such as the fit has not seen.
    n_draws : int, default=16
        Base points and times for each row.
    random_state : int, RandomState instance or None, default=None
        Draws them.

    Returns
    -------
    parts : LossParts
        ``value``, ``floor``, ``residual``, ``residual_error``: the last from the spread between rows.  With
        latent noise gamma, value and floor lack the mean square of :math:`\gamma' z`, as the loss does.

    Raises
    ------
    TypeError
        Not an :class:`~siflow_sk.InterpolantFlow`.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.diagnostics import loss_parts
    >>> from siflow_sk.velocities import MLP
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=50, polish=0, random_state=0).fit(X)
    >>> parts = loss_parts(flow, X, random_state=0)
    >>> abs(parts.value - parts.floor - parts.residual) < 1e-9
    True
    """
    z = _latent(flow, X)
    generator = _tensors.make_generator(_tensors.draw_seed(random_state), flow.device_)
    value, residual = np.zeros(len(z)), np.zeros(len(z))
    for _ in range(len(_tensors.check_n_samples(n_draws, 1))):
        order = torch.randperm(len(z), generator=generator, device=z.device)
        for rows in order.split(flow.batch_size_):  # what a coupling sees at once
            t, x0, x1, noise = _draw(flow, z[rows], generator)

            def loss(scale, t=t, x0=x0, x1=x1, noise=noise):
                # a parabola in the scale of the field, whose slope at 1 is the residual
                def scaled(t, x):
                    return scale * flow.velocity_(t, x)

                return quadratic_losses(scaled, flow.interpolant_, t, x0, x1, *noise)

            with torch.no_grad():
                one, zero, minus = (loss(scale).double() for scale in (1.0, 0.0, -1.0))
            value[rows.cpu()] += _tensors.to_array(one) / n_draws
            residual[rows.cpu()] += _tensors.to_array(1.5 * one - 2.0 * zero + 0.5 * minus) / n_draws
    error = residual.std(ddof=1) / math.sqrt(len(z)) if len(z) > 1 else math.nan
    value, residual = float(value.mean()), float(residual.mean())
    return LossParts(value, value - residual, residual, float(error))


def straightness(flow, n_samples=4096, random_state=None):
    r"""How straight the solutions of the flow are: 1 for straight lines at constant speed, else less.

    .. math:: \frac{E|X_1 - X_0|^2}{\int_0^1 E|v_t(X_t)|^2\, dt}

    The denominator is :meth:`~siflow_sk.InterpolantFlow.path_length`.  One minus this is the share of the
    energy that is spent on bends and on changes of speed; lines that are straight need one step of a solver
    (arXiv:2209.03003, sec. 2).

    Parameters
    ----------
    flow : InterpolantFlow
        Fitted.
    n_samples : int, default=4096
        Solutions that the means are taken over.
    random_state : int, RandomState instance or None, default=None
        Draws their starting points.

    Returns
    -------
    straightness : float
        In (0, 1].
    standard_error : float
        From the spread between solutions, to first order.

    Raises
    ------
    TypeError
        Not an :class:`~siflow_sk.InterpolantFlow`.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.diagnostics import straightness
    >>> from siflow_sk.velocities import MLP
    >>> X = np.random.default_rng(0).normal(size=(400, 2)) + 3.0
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=50, polish=0, random_state=0).fit(X)
    >>> value, error = straightness(flow, 100, random_state=0)
    >>> 0.0 < value <= 1.0
    True
    """
    _check(flow)
    n = len(_tensors.check_n_samples(n_samples, 1))
    generator = _tensors.make_generator(_tensors.draw_seed(random_state), flow.device_)
    start = flow.base_.sample(n, generator).to(flow.device_, flow._network_dtype)
    end, energy = _likelihood.path_energy(flow.velocity_, flow.solver_, start)
    distance, energy = (_tensors.to_array(a) for a in (((end - start) ** 2).sum(1), energy))
    known = ~np.isnan(distance + energy)
    flow._report_unsolved(~known)
    distance, energy = distance[known], energy[known]
    ratio = distance.mean() / energy.mean()
    spread = (distance - ratio * energy).std(ddof=1) if len(energy) > 1 else math.nan
    error = spread / math.sqrt(len(energy)) / energy.mean()
    return float(ratio), float(error)


def wasserstein_bound(flow, X, n_draws=4096, random_state=None):
    r"""Bound on the squared Wasserstein distance of what the flow draws to the rows X.

    .. math:: W_2^2(\hat\rho_1, \rho_X) \le e^{1 + 2K}\, \int_0^1 E|\hat v_t(x_t) - v_t(x_t)|^2\, dt

    (arXiv:2209.15571, proposition 3, with the constants of a Gronwall argument), where :math:`\rho_X` puts
    the same mass on each row, v is its exact velocity, and K a Lipschitz constant of :math:`\hat v_t` for
    all times.  For a Gaussian base N(m, C) and independent pairs v is known: given the point x, row j has the
    weight :math:`N(x;\, \alpha m + \beta x_j,\, \alpha^2 C + \gamma^2 I)` up to a factor.

    What it says is modest.  It is exponential in K and so mostly far too large.  K is the largest norm of
    the Jacobian at the points that were drawn, so smaller than the true one.  And the rows stand for
    themselves: a flow that smooths between them, as it should, is at a distance from them that grows with
    the number of columns.  The integral, ``excess``, compares flows at the same rows and base.

    Parameters
    ----------
    flow : InterpolantFlow
        Fitted, with a Gaussian base and ``coupling="independent"``.
    X : array-like of shape (n_samples, n_features)
        Rows; each point that is drawn is compared with all of them.
    n_draws : int, default=4096
        Points :math:`(t, x_t)`.
    random_state : int, RandomState instance or None, default=None
        Draws them.

    Returns
    -------
    bound : WassersteinBound
        ``bound``, ``excess``, ``lipschitz``.

    Raises
    ------
    TypeError
        Not an :class:`~siflow_sk.InterpolantFlow`.
    ValueError
        A base that is not Gaussian, or another coupling.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.diagnostics import wasserstein_bound
    >>> from siflow_sk.velocities import MLP
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> flow = InterpolantFlow(velocity=MLP(width=16), max_iter=50, polish=0, random_state=0).fit(X)
    >>> found = wasserstein_bound(flow, X, n_draws=500, random_state=0)
    >>> found.excess < found.bound
    True
    """
    z = _latent(flow, X)
    mean, covariance = (moment.double() for moment in flow._moments())
    generator = _tensors.make_generator(_tensors.draw_seed(random_state), flow.device_)
    n = len(_tensors.check_n_samples(n_draws, 1))
    rows = torch.randint(len(z), (n,), generator=generator, device=z.device)
    t, x0, x1, noise = _draw(flow, z[rows], generator)
    path, rows = flow.interpolant_, z.double()
    x, distances, norms = path.point(t, x0, x1), [], []
    if noise:
        x = x + torch.sqrt(path.variance(t)) * noise[0]
    with torch.no_grad():
        for part in torch.arange(n, device=z.device).split(max(1, _NUMBERS_AT_ONCE // z.numel())):
            at, points = t[part], x[part]
            exact = _velocity_to(rows, path, mean, covariance, at.double(), points.double())
            distances.append(((flow.velocity_(at, points) - exact) ** 2).sum(1))
            norms.append(_jacobian_norm(flow.velocity_, at, points))
    excess, lipschitz = float(torch.cat(distances).mean()), float(torch.cat(norms).max())
    exponent = 1.0 + 2.0 * lipschitz
    return WassersteinBound(math.exp(exponent) * excess if exponent < 700 else math.inf, excess, lipschitz)


def simulation_based_calibration(model, X, y, n_draws=99, random_state=None):
    r"""Are draws from p(y | X) told apart from the truth?  Ranks of y among them, with a test of uniformity.

    For new pairs :math:`(x, y)` and draws :math:`y^1,\dots,y^L` of the model at x, the rank

    .. math:: r_j = \#\{l : y^l_j < y_j\} \in \{0, \dots, L\}

    of each target is uniform if the model is the law of y given x [1]_.  Ranks that pile up at one end mean
    a bias, at both ends too narrow a density, in the middle too wide a one.  The test is that of Pearson on
    at most 20 bins of equal probability, with at least 5 expected pairs in each.

    Uniform ranks are necessary, not sufficient: the density of y whatever x has them as well.  ``score``
    tells such a model from a better one.

    Parameters
    ----------
    model : ConditionalInterpolantFlow
        Fitted; or anything with ``sample(X, n_samples, random_state)`` that returns ``(n_rows, n_samples)``
        or ``(n_rows, n_samples, n_outputs)``.
    X : array-like of shape (n_samples, n_features)
        New rows: simulated for a simulator, otherwise such as the fit has not seen.  At least 10.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Their true targets.
    n_draws : int, default=99
        Draws for each row, L.
    random_state : int, RandomState instance or None, default=None
        Of the draws, and of the order where a draw equals y.

    Returns
    -------
    calibration : RankCalibration
        ``ranks``, ``pvalue``: one column, or entry, for each target.  A right model gives a p-value below c
        with probability c, for each target.

    Raises
    ------
    TypeError
        The model has no ``sample``.
    ValueError
        Fewer than 10 rows, X and y of different length, another number of targets than the model draws.

    References
    ----------
    .. [1] S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, "Validating Bayesian Inference
       Algorithms with Simulation-Based Calibration", arXiv:1804.06788, theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import ConditionalInterpolantFlow
    >>> from siflow_sk.diagnostics import simulation_based_calibration
    >>> from siflow_sk.velocities import MLP
    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=800)
    >>> X = (y + 0.5 * rng.normal(size=800))[:, None]
    >>> model = ConditionalInterpolantFlow(velocity=MLP(width=16), max_iter=100, polish=50, random_state=0)
    >>> model = model.fit(X[:500], y[:500])
    >>> found = simulation_based_calibration(model, X[500:], y[500:], n_draws=19, random_state=0)
    >>> found.ranks.shape
    (300, 1)
    >>> bool(found.pvalue[0] > 0.01)
    True
    """
    if not hasattr(model, "sample"):
        raise TypeError(f"model: {type(model).__name__} has no method sample, so no ranks can be counted.")
    y = _tensors.check_target(model, y, len(X))
    y = y[:, None] if y.ndim == 1 else y
    if len(y) < 10:
        raise ValueError(f"X: at least 10 rows wanted for a test, got {len(y)}.")
    n_draws = len(_tensors.check_n_samples(n_draws, 1, "n_draws"))
    seed = _tensors.draw_seed(random_state)
    draws = np.asarray(model.sample(X, n_draws, random_state=seed))
    draws = draws[:, :, None] if draws.ndim == 2 else draws
    if draws.shape != (len(y), n_draws, y.shape[1]):
        raise ValueError(
            f"y: the model draws {draws.shape[-1]} targets for each of {len(draws)} rows, got y of shape "
            f"{y.shape}."
        )
    below, equal = (draws < y[:, None]).sum(axis=1), (draws == y[:, None]).sum(axis=1)
    ranks = below + np.random.default_rng(seed).integers(0, equal, endpoint=True)
    n_bins = min(20, n_draws + 1, len(y) // 5)
    bin_of = np.arange(n_draws + 1) * n_bins // (n_draws + 1)
    expected = np.bincount(bin_of) * (len(y) / (n_draws + 1))
    counts = np.stack([np.bincount(bin_of[column], minlength=n_bins) for column in ranks.T], axis=1)
    return RankCalibration(ranks, chisquare(counts, expected[:, None]).pvalue)


# -- helpers --------------------------------------------------------------------------------------------


def _check(flow):
    if not isinstance(flow, InterpolantFlow):
        raise TypeError(
            f"flow: a fitted InterpolantFlow wanted, got {type(flow).__name__}; of an estimator around one "
            "pass the flow inside it, for example pipeline.density_."
        )
    check_is_fitted(flow)


def _latent(flow, X):
    """The rows in the space of the flow, on its device."""
    _check(flow)
    z, _, _, far = flow._forward(flow._check(X))
    if far.any():
        raise ValueError(f"X: {int(far.sum())} rows are too far from the data for {flow.inference_dtype}.")
    return z


def _draw(flow, x1, generator):
    """Times, coupled pairs and a list with the latent noise, as in training but at plainly random times."""
    coupling = getattr(flow, "coupling_", Independent())  # older files have none
    x0, x1 = coupling.pair(flow.base_.sample(len(x1), generator).to(x1), x1, generator)
    like = {"device": x1.device, "dtype": x1.dtype, "generator": generator}
    noise = [torch.randn(x1.shape, **like)] if hasattr(flow.interpolant_, "variance") else []
    return torch.rand(len(x1), 1, **like), x0, x1, noise


def _velocity_to(rows, path, mean, covariance, t, x):
    """Exact velocity at ``x`` ``(n, d)``, times ``t`` ``(n, 1)``; the data are ``rows`` ``(m, d)``."""
    a, b, da, db, g2, dg2 = (c[..., None] for c in coefficients(path, t))  # (n, 1, 1)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    spread, rate = a * a * covariance + g2 * eye, 2.0 * a * da * covariance + dg2 * eye  # (n, d, d)
    centred = x[:, None] - a * mean - b * rows  # (n, m, d)
    pull = torch.linalg.solve(spread, centred.mT).mT
    weight = torch.softmax(-0.5 * (centred * pull).sum(2), dim=1)[..., None]
    return (weight * (da * mean + db * rows + 0.5 * pull @ rate)).sum(1)


def _jacobian_norm(velocity, t, x):
    """Largest singular value of the Jacobian in x at every point, ``(n,)``."""

    def column(j):
        direction = torch.zeros_like(x)
        direction[:, j] = 1.0
        return jvp(lambda points: velocity(t, points), (x,), (direction,))[1]

    return torch.linalg.matrix_norm(torch.stack([column(j) for j in range(x.shape[1])], 2), ord=2)
