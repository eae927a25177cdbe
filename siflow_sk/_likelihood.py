"""Push forward, pull back with log-density, error estimate; always in blocks of one fixed shape.

Matrix products may round differently for different numbers of rows.  Rows are therefore worked on in blocks
of exactly ``BLOCK`` rows, the last one padded, so that a row's result is the same to the bit whoever its
neighbours are, and memory does not grow with the number of rows.
"""

import math

import torch

from ._score import score_from_velocity
from .solvers import integrate_sde
from .velocities import hold_weights, velocity_and_divergence

BLOCK = 256


def in_blocks(function, x, *others):
    """Apply ``function`` to blocks of ``BLOCK`` rows and join the tuples of tensors that it returns."""
    results = []
    for start in range(0, len(x), BLOCK):
        rows = min(BLOCK, len(x) - start)
        block = [_padded(a[start : start + rows]) for a in (x, *others)]
        results.append([a[:rows] for a in function(*block)])
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def _padded(x):
    """Repeat the first row until the block is full."""
    missing = BLOCK - len(x)
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x


def _flow(velocity):
    return lambda t, state: (velocity(t, state[0]),)


def _flow_with_divergence(velocity):
    velocity = hold_weights(velocity)
    return lambda t, state: velocity_and_divergence(velocity, t, state[0])


def transport(velocity, solver, x, t0, t1):
    """Points ``x`` ``(n, d)`` carried from time ``t0`` to ``t1``; rows that could not be solved are NaN."""

    def block(points):
        return solver.integrate(_flow(velocity), (points,), t0, t1)

    with torch.no_grad():
        return in_blocks(block, x)[0]


def path_energy(velocity, solver, x):
    r"""The energy :math:`\int_0^1 |v_t(X_t)|^2 dt` of the solutions that start at ``x`` ``(n, d)``, ``(n,)``.

    A third entry of the state, so that the solver's steps see it too.  A solver with a grid chose it for
    the log-density, not for this, and is replaced by its adaptive one.
    """

    def field(t, state):
        value = velocity(t, state[0])
        return value, (value * value).sum(1)

    def block(points):
        return solver.integrate(field, (points, points.new_zeros(len(points))), 0.0, 1.0)

    if hasattr(solver, "fallback"):
        solver = solver.fallback(x.dtype)
    velocity = hold_weights(velocity)
    with torch.no_grad():
        return in_blocks(block, x)[1]


def log_density(velocity, known, solver, x, t=1.0, t_known=0.0):
    r"""Log-density at time ``t`` from the one that is known at ``t_known``, and an error estimate.

    .. math:: \log\rho_t(x) = \log\rho_s(X_{t,s}(x)) - \int_s^t \nabla\cdot v_\tau(X_{t,\tau}(x))\,d\tau

    The pair (x, l) is integrated from t to s with dl/dt = div v, so l(s) is minus the integral, whichever
    of the two times is larger (2303.08797, eq. 2.52 for s = 0 and 2.53 for s = 1).  A solver that chose a
    grid says which rows it did not solve to its tolerance; these are solved again, each with steps of its
    own.

    Parameters
    ----------
    velocity : callable
    known : object with ``log_prob(x)``
    solver : Solver
    x : tensor of shape (n, d)
    t : float, or tensor of shape (n, 1)
        A time for every row: the clocks of all rows then run over [0, 1], each at its own rate.
    t_known : float, default=0.0

    Returns
    -------
    log_density : tensor of shape (n,)
        NaN where the equation could not be solved.
    error : tensor of shape (n,)
        Estimated numerical error in nats; NaN for a solver that makes no estimate.
    """

    def block(points, *times):
        state = (points, points.new_zeros(len(points)))
        if times:
            clock = _on_unit_clock(field, times[0], t_known)
            (latent, change), error = _solve(solver, clock, state, 1.0, 0.0)
        else:
            (latent, change), error = _solve(solver, field, state, t, t_known)
        return known.log_prob(latent) + change, error

    rows = (x, t.to(x)) if isinstance(t, torch.Tensor) else (x,)
    with torch.no_grad():
        field = _flow_with_divergence(velocity)
        value, error = in_blocks(block, *rows)
        if hasattr(solver, "fallback"):
            redo = ~(error <= solver.tol) & torch.isfinite(x).all(1) & ~torch.isneginf(value)
            if redo.any():
                solver = solver.fallback(x.dtype)
                value[redo], error[redo] = in_blocks(block, *(a[redo] for a in rows))
    return value, error


def _solve(solver, field, state, t0, t1):
    """Final state and the solver's error estimate, NaN if it makes none."""
    if hasattr(solver, "integrate_with_error"):
        return solver.integrate_with_error(field, state, t0, t1)
    return solver.integrate(field, state, t0, t1), state[0].new_full((len(state[0]),), math.nan)


def _on_unit_clock(field, t, t_known):
    """The field on the clock s, where s = 1 is time ``t`` ``(n, 1)`` of every row and s = 0 ``t_known``."""
    rate = t - t_known

    def clock(s, state):
        slopes = field(t_known + rate * s, state)
        return tuple(slope * (rate if slope.ndim == 2 else rate[:, 0]) for slope in slopes)

    return clock


def score_along_the_flow(velocity):
    r"""Right-hand side for the pair (X, s): the score is carried by the flow that carries the density.

    .. math:: \frac{d}{dt} s_t(X_t) = -(\nabla v_t)^\top s_t - \nabla(\nabla\cdot v_t),

    the gradient of the equation of the log-density along a solution (Boffi & Vanden-Eijnden,
    arXiv:2206.04642, eq. 13).  It holds for any field, trained or polished, and any base.
    """

    def field(t, state):
        x, s = state
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_(True)
            value, divergence = velocity_and_divergence(velocity, t, x)
            (pull,) = torch.autograd.grad((value * s).sum() + divergence.sum(), x)
        return value.detach(), -pull

    return field


def gradient(log_prob, x):
    """Gradient of a log-density at the rows of ``x`` ``(n, d)``.

    Raises
    ------
    ValueError
        The log-density carries no gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_(True)
        value = log_prob(x)
        if not value.requires_grad:
            raise ValueError(
                "base: its log_prob carries no gradient, so there is no score; use a base written in torch, "
                'for example base="normal" or base="gaussian".'
            )
        return torch.autograd.grad(value.sum(), x)[0]


def exact_score(velocity, base, solver, x, t):
    r"""Gradient of :func:`log_density` at time ``t``, ``(n, d)``, for any field and a smooth base.

    Points are carried to t = 0, the score of the base is taken there, and the pair (x, s) is carried back;
    see :func:`score_along_the_flow`.
    """

    def block(points):
        (latent,), start = _solve(solver, _flow(velocity), (points,), t, 0.0)
        state = (latent, gradient(base.log_prob, latent))
        (_, score), error = _solve(solver, score_along_the_flow(velocity), state, 0.0, t)
        return score, start + error

    with torch.no_grad():
        score, error = in_blocks(block, x)
        if hasattr(solver, "fallback"):
            redo = ~(error <= solver.tol) & torch.isfinite(x).all(1)
            if redo.any():
                solver = solver.fallback(x.dtype)
                score[redo] = in_blocks(block, x[redo])[0]
    return score


def diffuse(velocity, interpolant, moments, diffusion, x, t0, t1, n_steps, generator):
    """Points carried from ``t0`` to ``t1`` by the SDE with the marginals of the flow; Heun steps.

    The drift is v + epsilon s forwards and v - epsilon s backwards (2303.08797, theorem 2.8).
    """
    sign = 1.0 if t1 >= t0 else -1.0

    def drift(t, points):
        value, epsilon = velocity(t, points), diffusion(t)
        if not epsilon > 0:
            return value
        return value + sign * epsilon * score_from_velocity(velocity, interpolant, moments, t, points)

    knots = torch.linspace(t0, t1, n_steps + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        return integrate_sde(drift, diffusion, x, knots, generator)


def rehearse(solver):
    """Integrate a field at rest on one row, so that a solver's bad parameters are refused before training.

    Raises
    ------
    ValueError
        By the solver itself, or because it cannot even solve dx/dt = 0.
    """

    def rest(t, state):
        return tuple(torch.zeros_like(y) for y in state)

    state = (torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    if hasattr(solver, "calibrate"):
        solver.calibrate(rest, state, 1.0, 0.0, lambda s: s[1])
    if not torch.equal(solver.integrate(rest, state, 1.0, 0.0)[0], state[0]):
        raise ValueError(f"solver={solver!r} cannot solve dx/dt = 0; check its parameters.")


def calibrate(velocity, base, solver, x):
    """Let a solver that has a grid to choose do so on rows ``x``."""
    if hasattr(solver, "calibrate"):
        state = (x, x.new_zeros(len(x)))
        with torch.no_grad():
            solver.calibrate(
                _flow_with_divergence(velocity), state, 1.0, 0.0, lambda s: base.log_prob(s[0]) + s[1]
            )
    return solver
