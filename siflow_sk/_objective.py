"""What the network regresses on, and the likelihood it is polished with."""

import itertools

import torch

from ._forward_mode import jvp
from .solvers import with_embedded_error
from .velocities import hold_weights, velocity_and_divergence


def quadratic_loss(velocity, interpolant, t, x0, x1, z=None):
    r"""Mean of :math:`|\hat v_t(x_t) - \dot x_t|^2`, arXiv:2209.15571 eq. (9) up to a constant.

    Its minimiser over all fields is the exact velocity; its minimum is not zero, so its value says
    nothing about the quality of the fit.

    An interpolant with noise, :math:`x_t + \gamma(t) z`, is evaluated at z and at -z (antithetic
    sampling, arXiv:2303.08797 sec. 6.2).  The square of :math:`\gamma' z` does not depend on the velocity
    and its mean may be infinite, so it is left out:

    .. math:: \tfrac12\sum_\pm |\hat b(x_t \pm \gamma z) - \dot x_t|^2
              \mp 2\gamma' z\cdot\hat b(x_t \pm \gamma z) .

    Parameters
    ----------
    velocity : callable
    interpolant : Interpolant
    t : tensor of shape (n, 1)
    x0, x1 : tensor of shape (n, d)
    z : tensor of shape (n, d), default=None
        Standard normal, for an interpolant with noise.
    """
    return quadratic_losses(velocity, interpolant, t, x0, x1, z).mean(-1)


def quadratic_losses(velocity, interpolant, t, x0, x1, z=None):
    """Of every pair, ``(n,)``, the loss whose mean is :func:`quadratic_loss`."""
    if z is not None:
        t = t.clamp(1e-4, 1.0 - 1e-4)  # gamma' may be infinite at the ends
        point, target = interpolant.point(t, x0, x1), interpolant.velocity(t, x0, x1)
        gamma, d_gamma = (c * z for c in noise_and_rate(interpolant, t))
        ahead, behind = velocity(t, point + gamma), velocity(t, point - gamma)
        squares = 0.5 * ((ahead - target) ** 2 + (behind - target) ** 2)
        return (squares - d_gamma * (ahead - behind)).sum(-1)
    residual = velocity(t, interpolant.point(t, x0, x1)) - interpolant.velocity(t, x0, x1)
    return (residual * residual).sum(-1)


def path_gain(velocity, interpolant, t, x0, x1):
    r"""Mean of :math:`|v_t(x_t)|^2 - 2\,\dot x_t\cdot v_t(x_t)`, which a learnable path increases.

    At the exact velocity this is minus the kinetic energy, and its gradient in the path is that of the
    minimum over velocities (arXiv:2209.15571, prop. 2).  It differs from :func:`quadratic_loss` by
    :math:`E|\dot x_t|^2`, which depends on the path.
    """
    value, rate = velocity(t, interpolant.point(t, x0, x1)), interpolant.velocity(t, x0, x1)
    return (value * value - 2.0 * value * rate).sum(1).mean()


def noise_and_rate(interpolant, t):
    """The noise gamma and its rate gamma' at times inside (0, 1), from the variance gamma^2."""
    variance, rate = jvp(interpolant.variance, (t,), (torch.ones_like(t),))
    gamma = torch.sqrt(variance)
    return gamma, 0.5 * rate / gamma


def likelihood_loss(velocity, base, x, knots, penalty):
    r"""Negative log-likelihood through Runge-Kutta steps on ``knots``, with the step error penalised.

    .. math:: -\log\rho_0(X_{1,0}(x)) + \int_0^1 \nabla\cdot v\,dt
              + p \sum_{steps} \left(|h(k_2 - k_3)|^2 + |h(\delta_2 - \delta_3)|^2
              + \tfrac1{40} |h(k_1 + k_4 - k_2 - k_3)|^2
              + \tfrac1{40} |h(\delta_1 + \delta_4 - \delta_2 - \delta_3)|^2\right)

    with k the slopes of x and delta those of the log-density in a classical fourth-order step.  The first
    two terms charge what two midpoint slopes disagree on, the last two (the difference of the trapezoidal
    and the midpoint rule) a field that is bent in time, for example a thin layer at t = 1 that is hit by
    every grid.  Without the penalty a short grid is exploited: the reported likelihood rises while the
    true one falls.

    Parameters
    ----------
    velocity : callable
    base : Base
    x : tensor of shape (n, d)
        Data in the space of the flow.
    knots : tensor of shape (m,)
        Times, decreasing from 1 to 0.  With a leading axis of models, as ``x`` and the velocity have then,
        the loss has it as well.
    penalty : float or tensor of shape (1,)
        The factor p; with a leading axis of models where ``x`` has it.

    Returns
    -------
    loss : tensor, scalar
    """
    log_det, roughness = x.new_zeros(x.shape[:-1]), x.new_zeros(x.shape[:-1])
    times = knots.unbind() if knots.ndim == 1 else knots[..., None, None].unbind(1)
    middles = [0.5 * (t + t_next) for t, t_next in itertools.pairwise(times)]
    velocity = hold_weights(velocity, [*times, *middles])
    for (t, t_next), middle in zip(itertools.pairwise(times), middles, strict=True):
        h = t_next - t  # of a row of x
        s = h if h.ndim == 0 else h[..., 0]  # of its log-density
        k1, d1 = velocity_and_divergence(velocity, t, x)
        k2, d2 = velocity_and_divergence(velocity, middle, torch.add(x, k1 * (0.5 * h)))
        k3, d3 = velocity_and_divergence(velocity, middle, torch.add(x, k2 * (0.5 * h)))
        k4, d4 = velocity_and_divergence(velocity, t_next, torch.add(x, k3 * h))
        roughness = roughness + s * s * (((k2 - k3) ** 2).sum(-1) + (d2 - d3) ** 2)
        bend = 0.5 * h * (k1 + k4 - k2 - k3), 0.5 * s * (d1 + d4 - d2 - d3)
        roughness = roughness + 0.1 * ((bend[0] ** 2).sum(-1) + bend[1] ** 2)
        x = x + (h / 6.0) * (k1 + 2.0 * (k2 + k3) + k4)
        log_det = log_det + (s / 6.0) * (d1 + 2.0 * (d2 + d3) + d4)
    return (penalty * roughness - _log_prob(base, x) - log_det).mean(-1)


def guarded_log_density(velocity, base, x):
    """Log-density of the rows by five Dormand-Prince steps, less the error that they report.

    A field that the steps cannot follow must not pass for a good one.  The first and the last step are short,
    for layers at the ends.  ``x``, velocity and result may have a leading axis of models.
    """
    velocity = hold_weights(velocity)
    # made on the device: a transfer cannot be recorded
    knots = torch.stack([x.new_full((), t) for t in (1.0, 0.96, 0.66, 0.33, 0.04, 0.0)])
    rows = x.flatten(0, -2)

    state = (rows, rows.new_zeros(len(rows)))
    (z, log_det), error = with_embedded_error(StackedField(velocity, x.shape), state, knots)
    return (base.log_prob(z) + log_det - error).reshape(x.shape[:-1])


class StackedField:
    """Velocity and divergence, of rows that have a leading axis of models inside."""

    def __init__(self, velocity, shape):
        self.velocity, self.shape = velocity, shape

    def at_times(self, times):
        known = hasattr(self.velocity, "at_times")
        return StackedField(self.velocity.at_times(times), self.shape) if known else self

    def __call__(self, t, state):
        value, divergence = velocity_and_divergence(self.velocity, t, state[0].reshape(self.shape))
        return value.flatten(0, -2), divergence.flatten()

    def motion(self, t, state):
        return (self.velocity(t, state[0].reshape(self.shape)).flatten(0, -2),)


def _log_prob(base, x):
    return base.log_prob(x.flatten(0, -2)).reshape(x.shape[:-1])
