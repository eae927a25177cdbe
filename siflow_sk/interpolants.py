"""Interpolants x_t = alpha(t) x0 + beta(t) x1 between the base (t = 0) and the data (t = 1)."""

import math
from typing import ClassVar

import torch

from ._component import Component, SlotsMixin, check_learning, check_size, resolve
from ._forward_mode import jvp


class Interpolant(Component):
    r"""A spatially linear interpolant, the path that a pair of points is joined by.

    .. math:: x_t = \alpha(t)\, x_0 + \beta(t)\, x_1, \qquad
              \alpha(0) = \beta(1) = 1, \quad \alpha(1) = \beta(0) = 0.

    To write your own, subclass and define ``alpha`` and ``beta``; a path that misses its ends is
    refused by ``fit``.  The derivatives are found by forward-mode differentiation unless ``d_alpha`` and
    ``d_beta`` are given in closed form as well.  A path that is not linear in x0 and x1 defines ``point`` and
    ``velocity`` too; the score does not follow from its velocity then, nor from that of a path whose alpha
    and beta differ from column to column (``(n, d)`` for ``t`` of shape ``(n, 1)``).

    See Albergo & Vanden-Eijnden, arXiv:2209.15571, eq. (5).
    """

    def alpha(self, t):
        """Coefficient of the base point, shape of ``t``."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t).")

    def beta(self, t):
        """Coefficient of the data point, shape of ``t``."""
        raise NotImplementedError(f"{type(self).__name__} must define beta(t).")

    def d_alpha(self, t):
        """Time derivative of ``alpha``."""
        return jvp(self.alpha, (t,), (torch.ones_like(t),))[1]

    def d_beta(self, t):
        """Time derivative of ``beta``."""
        return jvp(self.beta, (t,), (torch.ones_like(t),))[1]

    def point(self, t, x0, x1):
        """The point x_t of the path, ``(n, d)`` for any d, for ``t`` of shape ``(n, 1)`` or scalar."""
        return self.alpha(t) * x0 + self.beta(t) * x1

    def velocity(self, t, x0, x1):
        """The derivative d x_t / dt that the network regresses on, ``(n, d)``."""
        return self.d_alpha(t) * x0 + self.d_beta(t) * x1


def check_ends(interpolant, d):
    """Refuse a path that does not lead from x0 to x1 in ``d`` columns, or that is noisy where it must not be.

    Raises
    ------
    ValueError
        The path is not at x0 at t = 0 or not at x1 at t = 1; its variance does not vanish there, or does
        between.
    """
    t = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    x0, x1 = (torch.linspace(*ends, d, dtype=torch.float64).expand(2, d) for ends in ((1, 2), (-1, -3)))
    found, wanted = interpolant.point(t, x0, x1).detach(), torch.where(t == 0.0, x0, x1)
    if found.shape != wanted.shape:
        raise ValueError(
            f"interpolant={interpolant!r}: point(t, x0, x1) must be of the shape of x0, "
            f"{tuple(wanted.shape)} here, got {tuple(found.shape)}."
        )
    if not torch.allclose(found, wanted, rtol=0.0, atol=1e-5):
        end, column = divmod(int((found - wanted).abs().argmax()), d)
        raise ValueError(
            f"interpolant={interpolant!r} must lead from x0 at t=0 to x1 at t=1: alpha(0)=1, alpha(1)=0, "
            f"beta(0)=0, beta(1)=1 wanted, got {_at_ends(interpolant, t)}column {column} at "
            f"{float(found[end, column]):g} for t={end}, between {float(x0[end, column]):g} and "
            f"{float(x1[end, column]):g}."
        )
    if hasattr(interpolant, "variance"):
        inner = interpolant.variance(torch.linspace(0.0, 1.0, 21, dtype=torch.float64)[1:-1])
        start, end = (float(v) for v in interpolant.variance(t))
        if not (abs(start) < 1e-6 and abs(end) < 1e-6 and (inner > 0).all()):
            raise ValueError(
                f"interpolant={interpolant!r}: variance(t), the square of gamma, must be zero at t=0 and "
                f"t=1, where the path is at its ends, and positive between; got {start:g}, {end:g} and "
                f"between them at least {float(inner.min()):g}."
            )


def _at_ends(interpolant, t):
    """Both coefficients in words; nothing where every column has its own."""
    alpha, beta = interpolant.alpha(t), interpolant.beta(t)
    if not alpha.shape == beta.shape == t.shape:
        return ""
    pairs = (("alpha", alpha), ("beta", beta))
    return "".join(f"{name}({i})={round(float(c[i]), 6):g}, " for name, c in pairs for i in (0, 1))


def is_linear(interpolant, d):
    """Whether the points of the path are alpha x0 + beta x1 in ``d`` columns, with one alpha and one beta.

    A path of one's own may add to them, or have other coefficients in every column.
    """
    t = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)[:, None]
    alpha, beta = interpolant.alpha(t), interpolant.beta(t)
    k = torch.arange(1, d + 1, dtype=torch.float64)
    x0, x1 = torch.sin(3.0 * t + k), torch.cos(5.0 * t - k)
    found = interpolant.point(t, x0, x1)
    one = alpha.shape == beta.shape == t.shape
    return one and torch.allclose(found, alpha * x0 + beta * x1, rtol=0.0, atol=1e-6)


class Linear(Interpolant):
    r"""Straight lines, :math:`\alpha = 1 - t,\ \beta = t` (rectified flow, conditional OT).

    The variance of x_t dips to one half at t = 1/2 when both ends are standardised.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.interpolants import Linear
    >>> Linear().point(torch.tensor(0.25), torch.zeros(1, 2), torch.ones(1, 2))
    tensor([[0.2500, 0.2500]])
    """

    def alpha(self, t):
        """``1 - t``."""
        return 1.0 - t

    def beta(self, t):
        """``t``."""
        return t

    def d_alpha(self, t):
        """-1."""
        return -torch.ones_like(t)

    def d_beta(self, t):
        """1."""
        return torch.ones_like(t)


class Trigonometric(Interpolant):
    r"""Quarter circles, :math:`\alpha = \cos(\pi t / 2),\ \beta = \sin(\pi t / 2)`: the paper's default.

    Since :math:`\alpha^2 + \beta^2 = 1`, zero mean and unit covariance at both ends hold at every time: on
    whitened data the exact velocity of a Gaussian is zero, and the network learns what is not Gaussian.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.interpolants import Trigonometric
    >>> path = Trigonometric()
    >>> t = torch.tensor(0.3, dtype=torch.float64)
    >>> round(float(path.alpha(t) ** 2 + path.beta(t) ** 2), 12)
    1.0
    """

    def alpha(self, t):
        """``cos(pi t / 2)``."""
        return torch.cos(0.5 * math.pi * t)

    def beta(self, t):
        """``sin(pi t / 2)``."""
        return torch.sin(0.5 * math.pi * t)

    def d_alpha(self, t):
        """``-(pi / 2) sin(pi t / 2)``."""
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * t)

    def d_beta(self, t):
        """``(pi / 2) cos(pi t / 2)``."""
        return 0.5 * math.pi * torch.cos(0.5 * math.pi * t)


class Fourier(Interpolant):
    r"""A path that is learnt: quarter circles with Fourier coefficients that ``fit`` chooses.

    .. math:: \alpha = \cos\frac{\pi t}2 + \frac1M\sum_{m=1}^M a_m\sin(\pi m t), \qquad
              \beta = \sin\frac{\pi t}2 + \frac1M\sum_{m=1}^M b_m\sin(\pi m t)

    keep the ends for any coefficients.  They solve the max-min problem

    .. math:: \max_{a, b} \min_v E\left[|v_t(x_t)|^2 - 2\,\dot x_t\cdot v_t(x_t)\right]
              = -\min_{a, b} \int_0^1 E|v_t(x_t)|^2 dt,

    the path with the least kinetic energy (arXiv:2209.15571, prop. 2), by gradient ascent: one step of the
    coefficients, the velocity held, after every ``n_velocity_steps`` steps of the velocity.  Over the last
    third of the quadratic stage they stand still, so that the velocity settles to them.  See
    :meth:`siflow_sk.InterpolantFlow.path_length`.

    Parameters
    ----------
    n_modes : int, default=4
        The number M of sines.
    learning_rate : float, default=0.01
        Of the coefficients (Adam), lowered linearly to zero.
    n_velocity_steps : int, default=2
        Steps of the velocity to one of the path.

    Attributes
    ----------
    coefficients_ : tensor of shape (2, n_modes)
        a and b, zero before ``fit``.

    Raises
    ------
    ValueError
        A parameter that cannot be used; coefficients that grow beyond 10 or are no longer finite while they
        are learnt.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.interpolants import Fourier
    >>> path = Fourier(n_modes=1).start()
    >>> path.coefficients_[:] = torch.tensor([[-0.2], [0.1]])
    >>> path.alpha(torch.tensor([0.0, 0.5, 1.0])).round(decimals=3).abs()
    tensor([1.0000, 0.5070, 0.0000])
    """

    def __init__(self, n_modes=4, learning_rate=0.01, n_velocity_steps=2):
        self.n_modes = n_modes
        self.learning_rate = learning_rate
        self.n_velocity_steps = n_velocity_steps

    def start(self):
        """Coefficients at zero, ready to be learnt; an interpolant that has this method is learnt."""
        if not (self.n_modes >= 1 and self.n_modes == int(self.n_modes)):
            raise ValueError(f"Fourier: n_modes must be a whole number >= 1, got {self.n_modes!r}.")
        check_learning(self)
        self.coefficients_ = torch.zeros(2, int(self.n_modes), dtype=torch.float32)
        return self

    def check(self):
        """Raise ValueError if the coefficients have diverged."""
        check_size(self, "interpolant")

    def _sum(self, wave, row, t, factor=None):
        if not hasattr(self, "coefficients_"):
            return torch.zeros_like(t)
        c = self.coefficients_[row].to(t)
        m = torch.arange(1, len(c) + 1, device=t.device, dtype=t.dtype)
        c = c if factor is None else c * factor * m
        return (wave(math.pi * t[..., None] * m) * c).sum(-1) / len(c)

    def alpha(self, t):
        """Coefficient of the base point."""
        return torch.cos(0.5 * math.pi * t) + self._sum(torch.sin, 0, t)

    def beta(self, t):
        """Coefficient of the data point."""
        return torch.sin(0.5 * math.pi * t) + self._sum(torch.sin, 1, t)

    def d_alpha(self, t):
        """Its time derivative."""
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * t) + self._sum(torch.cos, 0, t, math.pi)

    def d_beta(self, t):
        """Its time derivative."""
        return 0.5 * math.pi * torch.cos(0.5 * math.pi * t) + self._sum(torch.cos, 1, t, math.pi)


_FIXED = {"linear": Linear, "trigonometric": Trigonometric}
INTERPOLANTS = {**_FIXED, "fourier": Fourier}

# gamma(t)^2 for scale = 1: smooth also where gamma itself is not
_VARIANCES = {
    "sqrt": lambda t: t * (1.0 - t),
    "quadratic": lambda t: (t * (1.0 - t)) ** 2,
    "sin2": lambda t: torch.sin(math.pi * t) ** 4,
}


class WithNoise(SlotsMixin, Interpolant):
    r"""A path with latent noise between its ends, :math:`x_t = \alpha x_0 + \beta x_1 + \gamma(t) z`.

    With z standard normal and independent, and :math:`\gamma(0) = \gamma(1) = 0`.  The ends are the same,
    the densities between them smoother.  The field that is learnt is :math:`b = E[\dot x_t + \gamma' z
    \mid x]`; it moves :math:`\rho_t`, so densities and samples come from it as always.  The velocity
    :math:`v = E[\alpha' x_0 + \beta' x_1 \mid x] = b + \gamma\gamma' s` and the denoiser
    :math:`E[z \mid x] = -\gamma s` follow from the score: see
    :meth:`siflow_sk.InterpolantFlow.latent_fields`.  Source: arXiv:2303.08797, definition 2.1 and sec. 3.

    Parameters
    ----------
    interpolant : {"trigonometric", "linear"} or Interpolant, default="trigonometric"
        The path without noise.
    gamma : {"sqrt", "quadratic", "sin2"}, default="sqrt"
        :math:`\sqrt{a t(1-t)}`, :math:`\sqrt a\,t(1-t)` or :math:`\sqrt a\,\sin^2(\pi t)`.
    scale : float, default=1.0
        The factor a > 0, in the space after the preprocessor (columns of about unit variance).

    Raises
    ------
    ValueError
        Unknown ``gamma`` or ``scale`` not positive, when the path is first used.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.interpolants import WithNoise
    >>> path = WithNoise("linear", gamma="sqrt", scale=2.0)
    >>> path.variance(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.5000, 0.0000])
    """

    _slots: ClassVar[dict] = {"interpolant": _FIXED}

    def __init__(self, interpolant="trigonometric", gamma="sqrt", scale=1.0):
        self.interpolant = interpolant
        self.gamma = gamma
        self.scale = scale

    @property
    def _path(self):
        if isinstance(self.interpolant, str):
            return resolve("interpolant", self.interpolant, _FIXED)
        if hasattr(self.interpolant, "start"):
            raise ValueError(
                f"WithNoise: interpolant={self.interpolant!r} is learnt, which is done without noise only; "
                f"pass one of {sorted(_FIXED)} or a path of your own."
            )
        return self.interpolant

    def alpha(self, t):
        """Of the path without noise."""
        return self._path.alpha(t)

    def beta(self, t):
        """Of the path without noise."""
        return self._path.beta(t)

    def point(self, t, x0, x1):
        """The point of the path without noise, ``(n, d)``."""
        return self._path.point(t, x0, x1)

    def velocity(self, t, x0, x1):
        """Its time derivative, ``(n, d)``."""
        return self._path.velocity(t, x0, x1)

    def variance(self, t):
        """gamma(t) squared, shape of ``t``; an interpolant that has this method has noise."""
        if self.gamma not in _VARIANCES:
            raise ValueError(f"WithNoise: gamma={self.gamma!r} is not one of {sorted(_VARIANCES)}.")
        if not 0.0 < self.scale < math.inf:
            raise ValueError(f"WithNoise: scale must be finite and > 0, got {self.scale!r}.")
        return self.scale * _VARIANCES[self.gamma](t)
