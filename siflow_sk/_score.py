"""The score of rho_t, the conditional means that belong to it, and how much noise an SDE adds."""

import math
from typing import NamedTuple

import torch

from ._forward_mode import jvp


class Fields(NamedTuple):
    r"""What is known at x when the score is: every entry ``(n, d)``, in the space of the flow."""

    velocity: torch.Tensor  # b, the right-hand side of the ODE
    drift: torch.Tensor  # v = E[alpha' x0 + beta' x1 | x]; equals b without gamma
    score: torch.Tensor  # s = grad log rho_t
    base: torch.Tensor  # E[x0 | x]
    data: torch.Tensor  # E[x1 | x]
    noise: torch.Tensor  # eta = E[z | x] = -gamma s, the denoiser; zero without gamma


def gaussian_moments(base, x):
    """Mean ``(d,)`` and covariance ``(d, d)`` of a Gaussian base; None for another one."""
    moments = base.moments(x.shape[1]) if hasattr(base, "moments") else None
    return None if moments is None else tuple(m.to(x) for m in moments)


def _variance(interpolant, t):
    """gamma^2 and its derivative."""
    if not hasattr(interpolant, "variance"):
        return torch.zeros_like(t), torch.zeros_like(t)
    return jvp(interpolant.variance, (t,), (torch.ones_like(t),))


def coefficients(interpolant, t):
    """alpha, beta and gamma^2 with their derivatives."""
    one = torch.ones_like(t)
    a, da = jvp(interpolant.alpha, (t,), (one,))
    b, db = jvp(interpolant.beta, (t,), (one,))
    return a, b, da, db, *_variance(interpolant, t)


def score_from_velocity(velocity, interpolant, moments, t, x):
    r"""Score of rho_t from the exact velocity, base N(m, C).

    The conditional means solve :math:`\alpha\eta_0 + \beta\eta_1 + \gamma\eta_z = x` and
    :math:`\alpha'\eta_0 + \beta'\eta_1 + \gamma'\eta_z = b`, and a Gaussian has
    :math:`\eta_0 = m - \alpha C s,\ \eta_z = -\gamma s`.  Hence

    .. math:: \left[\alpha(\alpha\beta' - \alpha'\beta)\, C
              + \left(\beta'\gamma^2 - \tfrac12\beta(\gamma^2)'\right) I\right] s
              = \beta b - \beta' x + (\alpha\beta' - \alpha'\beta)\, m .

    Where both sides vanish (t = 1 for most paths) their derivatives in t take their place.

    Parameters
    ----------
    velocity : callable
    interpolant : Interpolant
    moments : tuple of tensors (d,), (d, d)
    t : tensor, scalar
    x : tensor of shape (n, d)

    Returns
    -------
    score : tensor of shape (n, d)

    Raises
    ------
    ValueError
        The coefficients vanish to second order, so that the limit needs more than one derivative.
    """
    mean, covariance = moments

    def sides(t):
        a, b, da, db, g2, dg2 = coefficients(interpolant, t)
        wronskian = a * db - da * b
        right = b * velocity(t, x) - db * x + wronskian * mean
        return a * wronskian, db * g2 - 0.5 * b * dg2, right

    p, q, right = sides(t)
    if abs(p) + abs(q) < 1e-6:
        p, q, right = jvp(sides, (t,), (torch.ones_like(t),))[1]
        if abs(p) + abs(q) < 1e-6:
            raise ValueError(
                f"the score at t={float(t):g} has no first-order limit for {interpolant!r}; use "
                'method="exact" or a time further inside [0, 1].'
            )
    eye = torch.eye(len(mean), dtype=x.dtype, device=x.device)
    return torch.linalg.solve(p * covariance + q * eye, right.T).T


def fields(velocity, interpolant, moments, t, x):
    """All conditional means at ``x`` from the velocity; see :func:`score_from_velocity`."""
    value, s = velocity(t, x), score_from_velocity(velocity, interpolant, moments, t, x)
    a, b, da, db, g2, dg2 = coefficients(interpolant, t)
    mean, covariance = moments
    base = mean - a * (s @ covariance)
    drift = value + 0.5 * dg2 * s
    # of the two equations for E[x1 | x] the one with the larger coefficient
    data = (x - a * base + g2 * s) / b if abs(b) > 0.5 else (drift - da * base) / db
    return Fields(value, drift, s, base, data, -torch.sqrt(g2) * s)


def _sbdm(interpolant, t):
    # infinite at t = 0; any other epsilon is right as well, so it is cut off
    a, b, da, db, *_ = coefficients(interpolant, t)
    return (a * a * db / b.clamp_min(1e-6) - a * da).clamp(0.0, 10.0)


# epsilon(t) of the SDE, by name; the marginals do not depend on it
DIFFUSIONS = {
    "constant": lambda path, t: torch.ones_like(t),
    "sbdm": _sbdm,
    "sigma": lambda path, t: path.alpha(t),
    "linear": lambda path, t: 1.0 - t,
    "decreasing": lambda path, t: 0.25 * (torch.cos(math.pi * t) + 1.0) ** 2,
    "bump": lambda path, t: torch.sin(math.pi * t) ** 2,
}


def diffusion_of(diffusion, interpolant):
    """``epsilon(t)`` from a name, a number or a callable.

    Raises
    ------
    ValueError
        None of these, or a negative number.
    """
    if isinstance(diffusion, str) and diffusion in DIFFUSIONS:
        return lambda t: DIFFUSIONS[diffusion](interpolant, t)
    if callable(diffusion):
        return lambda t: torch.as_tensor(diffusion(t)).to(t)
    try:
        value = float(diffusion)
    except (TypeError, ValueError):
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise ValueError(
            f"diffusion={diffusion!r} is not one of {sorted(DIFFUSIONS)}; pass one of these names, a finite "
            "number >= 0 or a callable epsilon(t)."
        )
    return lambda t: torch.full_like(t, value)
