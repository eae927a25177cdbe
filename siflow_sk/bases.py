"""Densities at t = 0, in the space where the flow works (after the preprocessor)."""

import copy
import math

import torch
from sklearn.base import BaseEstimator
from sklearn.base import clone as sk_clone

from ._component import Component, check_learning, check_size, draw_seed, seeded

LOG_2PI = math.log(2.0 * math.pi)


class Base(Component):
    """The density that the flow starts from.

    To write your own, subclass and define ``log_prob(x)`` and ``sample(n, generator)``.
    ``fit(x, generator)`` is called once with the preprocessed training rows (float64, ``(n, d)``);
    override it when something is to be learnt from them, and call ``super().fit(x, generator)`` so that
    ``n_features_`` is set.
    """

    def fit(self, x, generator):
        """Learn the number of columns from the preprocessed training rows ``x`` of shape ``(n, d)``."""
        self.n_features_ = x.shape[1]
        return self

    def log_prob(self, x):
        """Log-density of every row of ``x`` ``(n, d)``, in nats, shape ``(n,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define log_prob(x).")

    def sample(self, n, generator):
        """``n`` draws, float64, shape ``(n, d)``, from ``generator`` alone."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(n, generator).")

    def _noise(self, draw, n, generator):
        return draw(n, self.n_features_, generator=generator, dtype=torch.float64, device=generator.device)


class StandardNormal(Base):
    r"""N(0, I): :math:`\log\rho_0(x) = -\tfrac12 |x|^2 - \tfrac d2 \log 2\pi`.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import StandardNormal
    >>> StandardNormal().log_prob(torch.zeros(1, 2, dtype=torch.float64)).item()
    -1.8378770664093453
    """

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        return -0.5 * (x * x).sum(1) - 0.5 * x.shape[1] * LOG_2PI

    def moments(self, d):
        """Mean and covariance; a base that has them is Gaussian."""
        return torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        return self._noise(torch.randn, n, generator)


class Gaussian(Base):
    r"""N(m, C) with full covariance.

    .. math:: \log\rho_0(x) = -\tfrac12 |L^{-1}(x - m)|^2 - \sum_i \log L_{ii} - \tfrac d2 \log 2\pi,
              \qquad C = L L^\top.

    Parameters
    ----------
    mean : array-like of shape (d,), default=None
        ``None`` takes the mean of the preprocessed training rows.
    covariance : array-like of shape (d, d), default=None
        ``None`` takes the covariance of the preprocessed training rows, eigenvalues floored at ``1e-6``
        of the largest.

    Attributes
    ----------
    mean_ : tensor of shape (d,)
    cholesky_ : tensor of shape (d, d)
        The lower triangular L.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import Gaussian
    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> base = Gaussian(mean=[0.0, 0.0], covariance=[[4.0, 0.0], [0.0, 1.0]]).fit(x, None)
    >>> round(base.log_prob(torch.zeros(1, 2, dtype=torch.float64)).item(), 4)
    -2.531
    """

    def __init__(self, mean=None, covariance=None):
        self.mean = mean
        self.covariance = covariance

    def fit(self, x, generator):
        """Fix mean and covariance from the parameters or from ``x`` ``(n, d)``.

        Raises
        ------
        ValueError
            The shapes do not fit the data or the covariance is not positive definite.
        """
        super().fit(x, generator)
        d = x.shape[1]
        mean = x.mean(0) if self.mean is None else torch.as_tensor(self.mean).to(x)
        if self.covariance is None:
            centred = x - x.mean(0)
            values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
            covariance = (vectors * values.clamp_min(1e-6 * values[-1].clamp_min(1e-300))) @ vectors.T
        else:
            covariance = torch.as_tensor(self.covariance).to(x)
        if mean.shape != (d,) or covariance.shape != (d, d):
            raise ValueError(
                f"Gaussian base: mean of shape ({d},) and covariance of shape ({d}, {d}) wanted, "
                f"got {tuple(mean.shape)} and {tuple(covariance.shape)}."
            )
        cholesky, info = torch.linalg.cholesky_ex(covariance)
        if int(info):
            raise ValueError("Gaussian base: covariance is not positive definite; add to its diagonal.")
        self.mean_, self.cholesky_ = mean, cholesky
        return self

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        return _normal_log_prob(x, self.mean_.to(x), self.cholesky_.to(x))

    def moments(self, d):
        """Mean and covariance; a base that has them is Gaussian."""
        return self.mean_, self.cholesky_ @ self.cholesky_.T

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        noise = self._noise(torch.randn, n, generator)
        return self.mean_.to(noise) + noise @ self.cholesky_.to(noise).T


def _normal_log_prob(x, mean, cholesky):
    y = torch.linalg.solve_triangular(cholesky, (x - mean).T, upper=False)
    return -0.5 * (y * y).sum(0) - cholesky.diagonal().log().sum() - 0.5 * x.shape[1] * LOG_2PI


class LearntGaussian(Base):
    r"""N(m, C) whose mean and covariance are learnt, so that the path to the data is short.

    From :math:`N(m_0, L_0L_0^\top)` with :math:`m = m_0 + L_0u` and :math:`C = LL^\top, L = L_0T`, T lower
    triangular with a positive diagonal.  u and T solve the max-min problem of
    :class:`~siflow_sk.interpolants.Fourier`,

    .. math:: \max_{m, C} \min_v E\left[|v_t(x_t)|^2 - 2\,\dot x_t\cdot v_t(x_t)\right]
              = -\min_{m, C} \int_0^1 E|v_t(x_t)|^2 dt,

    by gradient ascent through the draws of the base: one step, the velocity held, after every
    ``n_velocity_steps`` steps of the velocity.  Over the last third of the quadratic stage they stand still.
    May be combined with a learnt path (arXiv:2209.15571, prop. 2 and sec. 3).

    Parameters
    ----------
    mean : array-like of shape (d,), default=None
        Where it starts; ``None`` is the mean of the preprocessed training rows.
    covariance : array-like of shape (d, d), default=None
        Where it starts; ``None`` is the covariance of these rows, as for :class:`Gaussian`.
    learning_rate : float, default=0.01
        Of u and T (Adam), in standard deviations of the start, lowered linearly to zero.
    n_velocity_steps : int, default=2
        Steps of the velocity to one of the base.

    Attributes
    ----------
    coefficients_ : tensor of shape (d + 1, d)
        u, and below it T with the logarithms of its diagonal; zero where the base starts.
    mean_ : tensor of shape (d,)
    cholesky_ : tensor of shape (d, d)
        The lower triangular L.

    Raises
    ------
    ValueError
        A parameter that cannot be used; coefficients that grow beyond 10 or are no longer finite while they
        are learnt.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import LearntGaussian
    >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> base = LearntGaussian(mean=[1.0, 0.0], covariance=[[4.0, 0.0], [0.0, 1.0]]).fit(x, None)
    >>> base.coefficients_[0, 0] = 0.5  # half a standard deviation of the start, which is 2
    >>> base.mean_
    tensor([2., 0.], dtype=torch.float64)
    """

    def __init__(self, mean=None, covariance=None, learning_rate=0.01, n_velocity_steps=2):
        self.mean = mean
        self.covariance = covariance
        self.learning_rate = learning_rate
        self.n_velocity_steps = n_velocity_steps

    def fit(self, x, generator):
        """Fix the Gaussian to start from, by the parameters or by ``x`` ``(n, d)``.

        Raises
        ------
        ValueError
            Shapes that do not fit the data, a covariance that is not positive definite, a parameter of the
            training that cannot be used.
        """
        check_learning(self)
        self.start_ = Gaussian(self.mean, self.covariance).fit(x, generator)
        self.coefficients_ = x.new_zeros(x.shape[1] + 1, x.shape[1])
        return super().fit(x, generator)

    def check(self):
        """Raise ValueError if the coefficients have diverged."""
        check_size(self, "base")

    @property
    def mean_(self):
        """The mean m, ``(d,)``."""
        start = self.start_
        return start.mean_ + start.cholesky_ @ self.coefficients_[0].to(start.mean_)

    @property
    def cholesky_(self):
        """The factor L, ``(d, d)``."""
        below = self.coefficients_[1:].to(self.start_.mean_)
        return self.start_.cholesky_ @ (below.tril(-1) + below.diagonal().exp().diag())

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        return _normal_log_prob(x, self.mean_.to(x), self.cholesky_.to(x))

    def moments(self, d):
        """Mean and covariance; a base that has them is Gaussian."""
        return self.mean_, self.cholesky_ @ self.cholesky_.T

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        noise = self._noise(torch.randn, n, generator)
        return self.mean_.to(noise) + noise @ self.cholesky_.to(noise).T


class StudentT(Base):
    r"""Independent Student-t coordinates: heavier tails than the normal.

    .. math:: \log\rho_0(x) = \sum_j \left[\log\Gamma(\tfrac{\nu+1}2) - \log\Gamma(\tfrac\nu2)
              - \tfrac12\log(\nu\pi) - \tfrac{\nu+1}2 \log(1 + x_j^2/\nu)\right]

    Parameters
    ----------
    df : float, default=5.0
        Degrees of freedom nu, > 0.

    Notes
    -----
    Draws use the polar method of Bailey, Math. Comp. 62 (1994) 779: with U, V uniform on (0, 1),
    ``sqrt(nu (U^(-2/nu) - 1)) cos(2 pi V)`` is Student-t.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import StudentT
    >>> round(StudentT(df=3).log_prob(torch.zeros(1, 1)).item(), 4)
    -1.0009
    """

    def __init__(self, df=5.0):
        self.df = df

    def fit(self, x, generator):
        """Check ``df`` and record the number of columns.

        Raises
        ------
        ValueError
            ``df`` is not positive.
        """
        if not self.df > 0:
            raise ValueError(f"StudentT base: df must be > 0, got {self.df!r}.")
        return super().fit(x, generator)

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        nu = float(self.df)
        constant = math.lgamma(0.5 * (nu + 1)) - math.lgamma(0.5 * nu) - 0.5 * math.log(nu * math.pi)
        return (constant - 0.5 * (nu + 1) * torch.log1p(x * x / nu)).sum(1)

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        nu = float(self.df)
        u = 1.0 - self._noise(torch.rand, n, generator)  # in (0, 1]
        v = self._noise(torch.rand, n, generator)
        return torch.sqrt(nu * (u ** (-2.0 / nu) - 1.0)) * torch.cos(2.0 * math.pi * v)


class Uniform(Base):
    r"""Uniform on the box :math:`[low, high]^d`; log-density ``-inf`` outside.

    Parameters
    ----------
    low, high : float, default=-3.0, 3.0
        Bounds of every coordinate, in the space after the preprocessor (roughly standard deviations).

    Notes
    -----
    A flow is a homeomorphism: rows whose latent point falls outside the box get log-density ``-inf``, and
    the likelihood polish, which needs a gradient everywhere, is left out when that happens on validation
    rows.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import Uniform
    >>> Uniform(0.0, 2.0).log_prob(torch.tensor([[1.0], [3.0]]))
    tensor([-0.6931,    -inf])
    """

    def __init__(self, low=-3.0, high=3.0):
        self.low = low
        self.high = high

    def fit(self, x, generator):
        """Check the bounds and record the number of columns.

        Raises
        ------
        ValueError
            ``low`` is not below ``high``.
        """
        if not self.low < self.high:
            raise ValueError(f"Uniform base: low < high wanted, got {self.low!r} and {self.high!r}.")
        return super().fit(x, generator)

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        inside = ((x >= self.low) & (x <= self.high)).all(1)
        value = x.new_full((), -x.shape[1] * math.log(self.high - self.low))
        return torch.where(inside, value, -math.inf)

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        return self.low + (self.high - self.low) * self._noise(torch.rand, n, generator)


class SklearnDensity(Base):
    """Any scikit-learn density estimator with ``score_samples`` and ``sample`` as the base.

    A clone of it is fitted to the preprocessed training rows.  Passing the estimator itself as ``base`` does
    the same.  Log-densities come back through NumPy and carry no gradient, so the likelihood polish is
    left out.

    Parameters
    ----------
    estimator : estimator
        GaussianMixture, KernelDensity, another InterpolantFlow, a FrozenEstimator around a fitted one ...

    Attributes
    ----------
    estimator_ : estimator
        The fitted clone.

    Examples
    --------
    >>> import torch
    >>> from sklearn.mixture import GaussianMixture
    >>> from siflow_sk.bases import SklearnDensity
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 2, generator=generator, dtype=torch.float64)
    >>> SklearnDensity(GaussianMixture(2)).fit(x, generator).sample(3, generator).shape
    torch.Size([3, 2])
    """

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, x, generator):
        """Fit a clone of the estimator to the preprocessed rows ``x`` ``(n, d)``."""
        estimator = seeded(sk_clone(self.estimator), generator)
        self.estimator_ = estimator.fit(x.cpu().numpy(), None)  # FrozenEstimator insists on y
        return super().fit(x, generator)

    def log_prob(self, x):
        """Log-density, ``(n,)``, without gradient."""
        rows = x.detach().double().cpu().numpy()
        return torch.as_tensor(self.estimator_.score_samples(rows)).to(x)

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``; the estimator's own seed is drawn from ``generator``."""
        try:
            draws = self.estimator_.sample(n, random_state=draw_seed(generator))
        except TypeError:  # GaussianMixture takes its seed as a parameter
            inner = getattr(self.estimator_, "estimator", self.estimator_)  # of a FrozenEstimator
            draws = seeded(copy.copy(inner), generator).sample(n)
        if isinstance(draws, tuple):  # GaussianMixture returns (X, component) grouped by component
            draws = draws[0]
        if hasattr(draws, "to_numpy"):  # a frame, after set_output; its array may be read-only
            draws = draws.to_numpy(copy=True)
        draws = torch.as_tensor(draws).to(generator.device, torch.float64)
        return draws[torch.randperm(n, generator=generator, device=generator.device)]


class TorchDistribution(Base):
    """Any ``torch.distributions.Distribution`` with event shape ``()`` or ``(d,)`` as the base.

    Passing the distribution itself as ``base`` does the same.  A distribution of scalar events is used for
    every column independently.

    Parameters
    ----------
    distribution : torch.distributions.Distribution

    Notes
    -----
    ``Distribution.sample`` takes no generator; draws are made inside ``torch.random.fork_rng`` seeded from
    ours, so the global state is as before afterwards.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.bases import TorchDistribution
    >>> base = TorchDistribution(torch.distributions.Laplace(0.0, 1.0))
    >>> round(base.log_prob(torch.zeros(1, 2, dtype=torch.float64)).item(), 4)
    -1.3863
    """

    def __init__(self, distribution):
        self.distribution = distribution

    def fit(self, x, generator):
        """Check the shape of an event against the columns of ``x``.

        Raises
        ------
        ValueError
            The distribution's batch and event shapes do not describe a row of ``x``.
        """
        batch, event = tuple(self.distribution.batch_shape), tuple(self.distribution.event_shape)
        if batch + event not in ((), (x.shape[1],)):
            raise ValueError(
                f"base: a distribution over () or ({x.shape[1]},) wanted, got batch shape {batch} and event "
                f"shape {event}; torch.distributions.Independent or expand may help."
            )
        return super().fit(x, generator)

    def log_prob(self, x):
        """Log-density, ``(n,)``; ``-inf`` outside the support."""
        inside = self.distribution.support.check(x)
        # a value outside the support raises or gives NaN: replace it by one from inside
        safe = torch.where(inside if inside.ndim == 2 else inside[:, None], x, self._inside(x))
        value = self.distribution.log_prob(safe)
        value = torch.where(inside, value, -math.inf)
        return (value.sum(1) if value.ndim == 2 else value).to(x)

    def _inside(self, x):
        return self._draw(1, 0).to(x).expand_as(x)

    def _draw(self, n, seed):
        shape = tuple(self.distribution.batch_shape) + tuple(self.distribution.event_shape)
        columns = getattr(self, "n_features_", 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.distribution.sample((n,) if shape else (n, columns))

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        return self._draw(n, draw_seed(generator)).to(generator.device, torch.float64)


BASES = {
    "normal": StandardNormal,
    "gaussian": Gaussian,
    "learnt_gaussian": LearntGaussian,
    "student_t": StudentT,
    "uniform": Uniform,
}


def as_base(value):
    """Wrap a scikit-learn estimator or a torch distribution given directly as ``base``."""
    if isinstance(value, torch.distributions.Distribution):
        return TorchDistribution(value)
    if isinstance(value, BaseEstimator) and hasattr(value, "score_samples") and hasattr(value, "sample"):
        return SklearnDensity(value)
    return value
