"""Densities in the plane that can be drawn from and whose log-density is exact."""

import math

import numpy as np
from scipy.special import ive, logsumexp
from sklearn.utils import check_array, check_random_state

_LOG_2PI = math.log(2.0 * math.pi)


class _Planar:
    """A density of two columns; subclasses write ``_draw(n, rng)`` and ``_log_density(x)``."""

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in vars(self).items())})"

    def sample(self, n_samples=1, random_state=None):
        """Independent rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        X : ndarray of shape (n_samples, 2)
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples!r}.")
        return self._draw(int(n_samples), check_random_state(random_state))

    def score_samples(self, X):
        """Exact log-density of every row, nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
        """
        X = check_array(X, dtype=np.float64)
        if X.shape[1] != 2:
            raise ValueError(f"X must have 2 columns, got {X.shape[1]}.")
        return self._log_density(X)

    def score(self, X, y=None):
        """Mean log-density of the rows, nats."""
        return float(self.score_samples(X).mean())


def _positive(**values):
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than zero, got {value!r}.")


def _log_normal(squared, scale):
    """Log-density of N(0, scale^2 I) in the plane at a squared distance from its mean."""
    return -0.5 * squared / scale**2 - _LOG_2PI - 2.0 * math.log(scale)


def _circle(angle):
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


class Checkerboard(_Planar):
    r"""Uniform on the dark squares of a board of 4 x 4 squares over :math:`[-4, 4]^2`.

    .. math:: p(x) = 1/32 \text{ where } \lfloor x_1/2\rfloor + \lfloor x_2/2\rfloor \text{ is even}

    and 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk.datasets import Checkerboard
    >>> np.exp(Checkerboard().score_samples([[1.0, 1.0], [1.0, -1.0]]))
    array([0.03125, 0.     ])
    """

    def _draw(self, n, rng):
        column, row = rng.randint(4, size=n), rng.randint(2, size=n)
        corner = np.stack([column, 2 * row + column % 2], axis=1)
        return 2.0 * (corner + rng.uniform(size=(n, 2))) - 4.0

    def _log_density(self, x):
        dark = np.floor(x / 2.0).sum(axis=1) % 2 == 0
        inside = (np.abs(x) <= 4.0).all(axis=1)
        return np.where(dark & inside, -math.log(32.0), -math.inf)


class EightGaussians(_Planar):
    r"""Eight equal Gaussians on a circle.

    .. math:: p(x) = \tfrac18 \sum_{k=0}^7 N(x;\ r\,(\cos\tfrac{k\pi}4, \sin\tfrac{k\pi}4),\ \sigma^2 I)

    Parameters
    ----------
    radius : float, default=2.0
        The radius r.
    noise : float, default=0.2
        The standard deviation :math:`\sigma`.

    Examples
    --------
    >>> from siflow_sk.datasets import EightGaussians
    >>> density = EightGaussians()
    >>> X = density.sample(1000, random_state=0)
    >>> density.score_samples(X).shape
    (1000,)
    """

    def __init__(self, radius=2.0, noise=0.2):
        _positive(radius=radius, noise=noise)
        self.radius = radius
        self.noise = noise

    def _centres(self):
        return self.radius * _circle(np.arange(8) * (math.pi / 4.0))

    def _draw(self, n, rng):
        return self._centres()[rng.randint(8, size=n)] + self.noise * rng.standard_normal((n, 2))

    def _log_density(self, x):
        squared = ((x[:, None] - self._centres()) ** 2).sum(axis=2)
        return logsumexp(_log_normal(squared, self.noise), axis=1) - math.log(8.0)


class Rings(_Planar):
    r"""Concentric circles of the radii 1, 2, ... with Gaussian noise, equally likely.

    .. math:: p(x) = \frac1m \sum_{k=1}^m \frac1{2\pi\sigma^2}
              \exp\left(-\frac{|x|^2 + k^2}{2\sigma^2}\right) I_0\left(\frac{k|x|}{\sigma^2}\right)

    with the modified Bessel function :math:`I_0`: the uniform density on a circle convolved with
    :math:`N(0, \sigma^2 I)`.

    Parameters
    ----------
    n_rings : int, default=3
        The number m.
    noise : float, default=0.1
        The standard deviation :math:`\sigma`.
    """

    def __init__(self, n_rings=3, noise=0.1):
        _positive(n_rings=n_rings, noise=noise)
        self.n_rings = n_rings
        self.noise = noise

    def _draw(self, n, rng):
        radius = 1.0 + rng.randint(self.n_rings, size=n)
        points = radius[:, None] * _circle(rng.uniform(0.0, 2.0 * math.pi, size=n))
        return points + self.noise * rng.standard_normal((n, 2))

    def _log_density(self, x):
        r = np.hypot(*x.T)[:, None]
        radius = np.arange(1.0, self.n_rings + 1.0)
        bessel = np.log(ive(0, r * radius / self.noise**2))
        return logsumexp(_log_normal((r - radius) ** 2, self.noise) + bessel, axis=1) - math.log(self.n_rings)


class Pinwheel(_Planar):
    r"""Arms of stretched Gaussians, sheared around the origin.

    A point of :math:`N((\rho, 0), \mathrm{diag}(\sigma_r^2, \sigma_t^2))` is turned by the angle of one of
    the arms plus a twist times its own distance from the origin.  The twist keeps areas and distances, so

    .. math:: p(x) = \frac1m \sum_{k=0}^{m-1}
              N\left(R(-2\pi k/m - w |x|)\, x;\ (\rho, 0),\ \mathrm{diag}(\sigma_r^2, \sigma_t^2)\right)

    with the rotation :math:`R` by an angle.

    Parameters
    ----------
    n_arms : int, default=5
        The number m.
    radius : float, default=2.0
        The distance :math:`\rho` of an arm's middle from the origin.
    radial_noise, tangential_noise : float, default=0.6, 0.15
        The standard deviations along and across an arm.
    twist : float, default=0.6
        The angle w per unit of distance, in radians.
    """

    def __init__(self, n_arms=5, radius=2.0, radial_noise=0.6, tangential_noise=0.15, twist=0.6):
        _positive(n_arms=n_arms, radius=radius, radial_noise=radial_noise, tangential_noise=tangential_noise)
        self.n_arms = n_arms
        self.radius = radius
        self.radial_noise = radial_noise
        self.tangential_noise = tangential_noise
        self.twist = twist

    def _draw(self, n, rng):
        z = rng.standard_normal((n, 2)) * [self.radial_noise, self.tangential_noise] + [self.radius, 0.0]
        arm = rng.randint(self.n_arms, size=n) * (2.0 * math.pi / self.n_arms)
        return self._turned(z, arm + self.twist * np.hypot(*z.T))

    def _log_density(self, x):
        arms = np.arange(self.n_arms)[:, None] * (2.0 * math.pi / self.n_arms)
        z = self._turned(x, -(arms + self.twist * np.hypot(*x.T)))  # (m, n, 2)
        scaled = (z - [self.radius, 0.0]) / [self.radial_noise, self.tangential_noise]
        constant = _LOG_2PI + math.log(self.radial_noise * self.tangential_noise * self.n_arms)
        return logsumexp(-0.5 * (scaled**2).sum(axis=2), axis=0) - constant

    @staticmethod
    def _turned(x, angle):
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], axis=-1)


class _NoisyCurves(_Planar):
    """Two curves, equally likely, with Gaussian noise: a line integral by quadrature.

    Subclasses write ``_curves(u)``, the points ``(2, m, 2)`` at ``u`` in [0, 1], ``_weight(u)``, the
    density of u, ``_parameter(rng, n)``, draws of u, and ``_speed``, a bound on the length of the derivative.
    """

    noise: float

    def _draw(self, n, rng):
        which, u = rng.randint(2, size=n), self._parameter(rng, n)
        points = self._curves(u)[which, np.arange(n)]
        return points + self.noise * rng.standard_normal((n, 2))

    def _log_density(self, x, refine=1):
        """Gauss-Legendre on panels so short that the exponent changes by a few units along half of one.

        At a distance D from the curve the exponent changes by up to D / noise^2 per length: rows far away
        are done again on finer panels.  Panels that are e^-30 below the nearest one are left out.
        """
        log_weight, points, middle, reach = self._panels(refine * math.ceil(0.5 * self._speed / self.noise))
        result, nearest = np.empty(len(x)), np.empty(len(x))
        step = max(1, 1_000_000 // log_weight.size)
        for rows in (slice(i, i + step) for i in range(0, len(x), step)):
            distance = np.hypot(*(x[rows, None] - middle).transpose(2, 0, 1))  # (n, panels)
            nearest[rows] = distance.min(axis=1)
            bound = reach + np.sqrt((nearest[rows] + reach) ** 2 + 60.0 * self.noise**2)
            most = (distance <= bound[:, None]).sum(axis=1).max()
            chosen = np.argpartition(distance, most - 1, axis=1)[:, :most]
            squared = ((x[rows, None, None] - points[chosen]) ** 2).sum(axis=3)  # (n, most, order)
            terms = _log_normal(squared, self.noise) + log_weight[chosen]
            result[rows] = logsumexp(terms, axis=(1, 2))
        far = nearest > 10.0 * self.noise * refine
        if far.any() and refine < 1024:
            result[far] = self._log_density(x[far], 2 * refine)
        return result

    def _panels(self, n, order=16):
        """Of the panels of both curves: log-weights ``(2n, order)``, points, middles, half length at most."""
        nodes, weights = np.polynomial.legendre.leggauss(order)
        u = (np.arange(n)[:, None] + 0.5 * (nodes + 1.0)) / n
        weights = 0.25 * weights / n * self._weight(u)  # half of the unit interval, half for each curve
        points = self._curves(u.ravel()).reshape(2 * n, order, 2)
        middle = self._curves((np.arange(n) + 0.5) / n).reshape(2 * n, 2)
        return np.log(np.concatenate([weights, weights])), points, middle, 0.5 * self._speed / n


class Moons(_NoisyCurves):
    r"""Two interleaving half circles with Gaussian noise: those of scikit-learn's ``make_moons``.

    .. math:: p(x) = \frac1{2\pi} \int_0^\pi N(x; (\cos\theta, \sin\theta), \sigma^2 I)
              + N(x; (1 - \cos\theta, \tfrac12 - \sin\theta), \sigma^2 I)\, d\theta

    The integral is taken by Gauss-Legendre quadrature, to ten digits of the density.

    Parameters
    ----------
    noise : float, default=0.1
        The standard deviation :math:`\sigma`.

    Examples
    --------
    >>> from siflow_sk.datasets import Moons
    >>> round(float(Moons(noise=0.1).score_samples([[0.0, 1.0]])[0]), 6)
    -0.452974
    """

    _speed = math.pi

    def __init__(self, noise=0.1):
        _positive(noise=noise)
        self.noise = noise

    def _curves(self, u):
        upper = _circle(math.pi * u)
        return np.stack([upper, [1.0, 0.5] - upper])

    def _weight(self, u):
        return np.ones_like(u)

    def _parameter(self, rng, n):
        return rng.uniform(size=n)


class Spirals(_NoisyCurves):
    r"""Two arms of an Archimedean spiral with Gaussian noise.

    .. math:: p(x) = \frac12 \int_0^1 \left[N(x; c(u), \sigma^2 I) + N(x; -c(u), \sigma^2 I)\right] 2u\, du,
              \qquad c(u) = 3u\,(\cos 3\pi u, \sin 3\pi u)

    so that the points are spread about evenly along an arm.  The integral is taken by Gauss-Legendre
    quadrature, to ten digits of the density.

    Parameters
    ----------
    noise : float, default=0.1
        The standard deviation :math:`\sigma`.
    """

    _speed = 3.0 * math.hypot(1.0, 3.0 * math.pi)

    def __init__(self, noise=0.1):
        _positive(noise=noise)
        self.noise = noise

    def _curves(self, u):
        arm = 3.0 * u[:, None] * _circle(3.0 * math.pi * u)
        return np.stack([arm, -arm])

    def _weight(self, u):
        return 2.0 * u

    def _parameter(self, rng, n):
        return np.sqrt(rng.uniform(size=n))


def make_checkerboard(n_samples=100, *, random_state=None):
    """Rows from the dark squares of a board; :class:`Checkerboard` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return Checkerboard().sample(n_samples, random_state)


def make_eight_gaussians(n_samples=100, *, random_state=None):
    """Rows from eight Gaussians on a circle; :class:`EightGaussians` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return EightGaussians().sample(n_samples, random_state)


def make_moons(n_samples=100, *, random_state=None):
    """Rows from two interleaving half circles with noise; :class:`Moons` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return Moons().sample(n_samples, random_state)


def make_spirals(n_samples=100, *, random_state=None):
    """Rows from two arms of a spiral with noise; :class:`Spirals` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return Spirals().sample(n_samples, random_state)


def make_pinwheel(n_samples=100, *, random_state=None):
    """Rows from arms of stretched Gaussians; :class:`Pinwheel` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return Pinwheel().sample(n_samples, random_state)


def make_rings(n_samples=100, *, random_state=None):
    """Rows from three concentric circles with noise; :class:`Rings` has their exact log-density.

    Parameters
    ----------
    n_samples : int, default=100
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
    """
    return Rings().sample(n_samples, random_state)
