"""Preprocessor, base, interpolant and coupling with a half for the angles and a half for the rest."""

import copy
import math

import torch

from ..bases import Base
from ..couplings import OptimalTransport
from ..interpolants import Interpolant
from ..preprocessing import Preprocessor
from ..preprocessing._circular import CircularMarginals

TURN = 2.0 * math.pi


def wrap(angle):
    """The same angle in [-pi, pi); of a difference, the shorter way round."""
    return torch.remainder(angle + math.pi, TURN) - math.pi


def within_a_turn(angle):
    """The same angle in [0, 2 pi)."""
    angle = torch.remainder(angle, TURN)
    return torch.where(angle < TURN, angle, 0.0)  # a remainder may be rounded up to the whole turn


def take(x, columns):
    """Some columns of ``x``; slices, which a CUDA graph can hold, where a list of numbers could not."""
    return torch.stack([x[:, j] for j in columns], 1) if columns else x[:, :0]


class Halves:
    """Which of d columns are angles, which are not, and how both halves are put together again."""

    def __init__(self, angular, d):
        self.angular = list(angular)
        self.ordinary = [j for j in range(d) if j not in self.angular]
        both = self.ordinary + self.angular
        self.order = [both.index(j) for j in range(d)]

    def split(self, x):
        """``(ordinary, angles)``."""
        return take(x, self.ordinary), take(x, self.angular)

    def join(self, ordinary, angles):
        """All columns in their places."""
        return take(torch.cat([ordinary, angles], 1), self.order)


class Angles(Preprocessor):
    r"""Periodic columns to radians, :math:`\varphi = 2\pi (x - low) / period`; another map for the rest.

    Parameters
    ----------
    rest : Preprocessor
        For the columns that are not periodic, and sees these alone.
    turns : dict
        Column -> (low, period).  Values are taken into [low, low + period), the same place on the circle.
    spread : bool, default=False
        Then spread every angle evenly over the circle, see
        :class:`~siflow_sk.preprocessing._circular.CircularMarginals`.
    """

    def __init__(self, rest, turns, spread=False):
        self.rest = rest
        self.turns = turns
        self.spread = spread

    def candidates(self):
        """One for each candidate of the rest."""
        rest = self.rest.candidates() if hasattr(self.rest, "candidates") else [self.rest]
        return [Angles(part, self.turns, self.spread) for part in rest]

    @property
    def copula_score_(self):
        """That of the rest, if it has one."""
        return getattr(self.rest_, "copula_score_", 0.0)

    def fit(self, x, weight):
        """Let the rest learn from its columns of ``x`` ``(n, d)``, weights ``(n,)``."""
        ordinary, angles = Halves(self.turns, x.shape[1]).split(x)
        self.rest_ = copy.deepcopy(self.rest)
        if ordinary.shape[1]:
            self.rest_.fit(ordinary, weight)
        self.even_ = CircularMarginals().fit(self._in_radians(angles), weight) if self.spread else None
        return self

    def _in_radians(self, angles):
        low, period = self._numbers(angles)
        angles = torch.remainder(angles - low, period) * (TURN / period)
        return torch.where(angles < TURN, angles, 0.0)  # rounded up to a whole turn

    def _numbers(self, like):
        """Starts and periods of the angles, ``(p,)`` each."""
        return (like.new_tensor(values) for values in zip(*self.turns.values(), strict=True))

    def forward(self, x):
        """``(z, log_det)``."""
        halves, (_, period) = Halves(self.turns, x.shape[1]), self._numbers(x)
        ordinary, angles = halves.split(x)
        angles = self._in_radians(angles)
        log_det = (TURN / period).log().sum().expand(len(x))
        if self.even_ is not None:
            angles, more = self.even_.forward(angles)
            log_det = log_det + more
        if halves.ordinary:
            ordinary, more = self.rest_.forward(ordinary)
            log_det = log_det + more
        return halves.join(ordinary, angles), log_det

    def inverse(self, z):
        """``x``, angles in [low, low + period)."""
        halves, (low, period) = Halves(self.turns, z.shape[1]), self._numbers(z)
        ordinary, angles = halves.split(z)
        angles = within_a_turn(angles)
        if self.even_ is not None:
            angles = self.even_.inverse(angles)
        angles = low + angles * (period / TURN)
        angles = torch.where(angles < low + period, angles, low)  # rounded up to the end
        return halves.join(self.rest_.inverse(ordinary) if halves.ordinary else ordinary, angles)


class UniformAngles(Base):
    r"""Uniform on the torus: :math:`\log\rho_0 = -p\log 2\pi`."""

    def fit_angles(self, x):
        """Learn the number of angles from ``x`` ``(n, p)``."""
        return super().fit(x, None)

    def log_prob(self, x):
        """Log-density, ``(n,)``, with its gradient, which is zero."""
        return (0.0 * x).sum(1) - x.shape[1] * math.log(TURN)

    def sample(self, n, generator):
        """``n`` draws from [0, 2 pi), ``(n, p)``."""
        return TURN * self._noise(torch.rand, n, generator)


class WrappedNormal(Base):
    r"""Independent normal distributions wound around the circle, for periodic columns.

    .. math:: \log\rho_0(\varphi) = \sum_j \log \sum_m N(\varphi_j + 2\pi m;\ \mu_j, \sigma_j^2)

    The mean :math:`\mu_j` is the circular mean of the column.  On columns that are not periodic the base is
    N(0, I).

    Parameters
    ----------
    scale : float, default=None
        The standard deviation :math:`\sigma`, radians, of every column.  ``None``: of each column the one
        whose mean resultant length :math:`e^{-\sigma^2/2}` is that of the data, between 0.01 and 4.

    Attributes
    ----------
    mean_, scale_ : tensor of shape (p,)
        Radians.

    References
    ----------
    .. [1] K. V. Mardia, P. E. Jupp, "Directional Statistics", Wiley 2000, sec. 3.5.7.

    Examples
    --------
    >>> import numpy as np
    >>> from siflow_sk import InterpolantFlow
    >>> from siflow_sk.velocities import MLP
    >>> hour = np.random.default_rng(0).normal(23.0, 3.0, size=(300, 1)) % 24.0
    >>> flow = InterpolantFlow(
    ...     periodic={0: 24.0}, base="wrapped_normal", velocity=MLP(width=16), max_iter=20, random_state=0
    ... ).fit(hour)
    >>> bool(np.isclose(*flow.score_samples([[0.0], [24.0]])))
    True
    """

    def __init__(self, scale=None):
        self.scale = scale

    def fit(self, x, generator):
        """Refuse columns that are not periodic.

        Raises
        ------
        ValueError
            Always: a flow with periodic columns calls ``fit_angles``.
        """
        raise ValueError(
            "base: a wrapped normal is a density of angles; name the periodic columns, "
            'InterpolantFlow(base="wrapped_normal", periodic={column: period}).'
        )

    def fit_angles(self, x):
        """Learn mean and scale from the angles ``x`` ``(n, p)``.

        Raises
        ------
        ValueError
            ``scale`` is not in (0, 100]; from 4 on the density is uniform to a thousandth.
        """
        super().fit(x, None)
        c, s = torch.cos(x).mean(0), torch.sin(x).mean(0)
        self.mean_ = torch.atan2(s, c)
        if self.scale is None:
            length = torch.hypot(c, s).clamp(1e-12, 1.0)
            self.scale_ = torch.sqrt(-2.0 * length.log()).clamp(0.01, 4.0)
        elif 0.0 < self.scale <= 100.0:
            self.scale_ = torch.full_like(self.mean_, self.scale)
        else:
            raise ValueError(f"WrappedNormal base: scale must be > 0 and at most 100, got {self.scale!r}.")
        self.n_turns_ = math.ceil(10.0 * float(self.scale_.max()) / TURN) + 1  # beyond there is no mass
        return self

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        mean, scale = self.mean_.to(x), self.scale_.to(x)
        m = torch.arange(-self.n_turns_, self.n_turns_ + 1, dtype=x.dtype, device=x.device)
        z = (wrap(x - mean)[..., None] + TURN * m) / scale[:, None]
        terms = torch.logsumexp(-0.5 * z * z, -1) - torch.log(scale) - 0.5 * math.log(TURN)
        return terms.sum(1)

    def sample(self, n, generator):
        """``n`` draws from [0, 2 pi), ``(n, p)``."""
        noise = self._noise(torch.randn, n, generator)
        return within_a_turn(self.mean_.to(noise) + self.scale_.to(noise) * noise)


class TorusBase(Base):
    """The product of a density of the angles and a base of the other columns.

    Parameters
    ----------
    rest : Base
    circle : UniformAngles or WrappedNormal
    angular : tuple of int
        The columns that are angles.
    """

    def __init__(self, rest, circle, angular):
        self.rest = rest
        self.circle = circle
        self.angular = angular

    def fit(self, x, generator):
        """Let both factors learn from their columns of ``x`` ``(n, d)``."""
        super().fit(x, generator)
        ordinary, angles = Halves(self.angular, x.shape[1]).split(x)
        self.rest_, self.circle_ = copy.deepcopy(self.rest), copy.deepcopy(self.circle).fit_angles(angles)
        if ordinary.shape[1]:
            self.rest_.fit(ordinary, generator)
        return self

    def log_prob(self, x):
        """Log-density, ``(n,)``."""
        ordinary, angles = Halves(self.angular, x.shape[1]).split(x)
        value = self.circle_.log_prob(angles)
        return value + self.rest_.log_prob(ordinary) if ordinary.shape[1] else value

    def sample(self, n, generator):
        """``n`` draws, ``(n, d)``."""
        halves, angles = Halves(self.angular, self.n_features_), self.circle_.sample(n, generator)
        if not halves.ordinary:
            return halves.join(angles[:, :0], angles)
        return halves.join(self.rest_.sample(n, generator).to(angles), angles)

    def within_a_turn(self, x):
        """The same points with angles in [0, 2 pi)."""
        halves = Halves(self.angular, x.shape[1])
        ordinary, angles = halves.split(x)
        return halves.join(ordinary, within_a_turn(angles))

    def moments(self, d):
        """Refuse what needs a Gaussian base.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "periodic: with periodic columns the base is not Gaussian, so the score does not follow from "
            'the velocity; use score_function(method="exact"), or method="ode" for rows.'
        )


class Geodesic(Interpolant):
    r"""The shorter way round for angles, another interpolant for the rest.

    .. math:: \varphi_t = \varphi_0 + \beta(t)\,\Delta, \qquad
              \Delta = (\varphi_1 - \varphi_0) \bmod 2\pi \in [-\pi, \pi),

    in which nothing depends on where an angle is counted from.  The velocity :math:`\beta'(t)\Delta` is
    regressed on as in the plane: flow matching on a flat torus (Chen & Lipman, arXiv:2302.03660, sec. 3.2).

    Parameters
    ----------
    interpolant : Interpolant
    angular : tuple of int
        The columns that are angles.
    """

    def __init__(self, interpolant, angular):
        self.interpolant = interpolant
        self.angular = angular

    def alpha(self, t):
        """Coefficient of the base point, for the other columns."""
        return self.interpolant.alpha(t)

    def beta(self, t):
        """Coefficient of the data point; for angles, the share of the way."""
        return self.interpolant.beta(t)

    def _ends(self, x0, x1):
        """Which columns are angles, and the pair with angles counted from x0."""
        columns = torch.arange(x0.shape[1], device=x0.device)
        angular = sum(columns == j for j in self.angular) > 0
        return angular, torch.where(angular, 0.0, x0), torch.where(angular, wrap(x1 - x0), x1)

    def point(self, t, x0, x1):
        """The point of the path, ``(n, d)``, angles not reduced."""
        angular, start, end = self._ends(x0, x1)
        return self.interpolant.point(t, start, end) + torch.where(angular, x0, 0.0)

    def velocity(self, t, x0, x1):
        """Its time derivative, ``(n, d)``."""
        return self.interpolant.velocity(t, *self._ends(x0, x1)[1:])


class GeodesicTransport(OptimalTransport):
    """:class:`~siflow_sk.couplings.OptimalTransport` with the shorter way round as distance of angles.

    Parameters
    ----------
    angular : tuple of int
        The columns that are angles.
    scipy_limit : int, default=1024
        As there.
    """

    def __init__(self, angular, scipy_limit=1024):
        super().__init__(scipy_limit)
        self.angular = angular

    def cost(self, x0, x1):
        """Sum of squares of the ways from every x0 to every x1, ``(n, n)``, up to a constant."""
        halves = Halves(self.angular, x0.shape[1])
        (flat0, angles0), (flat1, angles1) = halves.split(x0), halves.split(x1)
        round_ = sum(wrap(b[:, None] - a[None]) ** 2 for a, b in zip(angles0.T, angles1.T, strict=True))
        return (0.5 * round_).double() + super().cost(flat0, flat1)
