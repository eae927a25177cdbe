"""Push forward, pull back with log-density, error estimate; always in blocks of one fixed shape.

Matrix products may round differently for different numbers of rows.  Rows are therefore worked on in blocks
of exactly ``BLOCK`` rows, the last one padded, so that a row's result is the same to the bit whoever its
neighbours are, and memory does not grow with the number of rows.
"""

import math

import torch

from .velocities import velocity_and_divergence

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
    return lambda t, state: velocity_and_divergence(velocity, t, state[0])


def transport(velocity, solver, x, t0, t1):
    """Points ``x`` ``(n, d)`` carried from time ``t0`` to ``t1``; rows that could not be solved are NaN."""

    def block(points):
        return solver.integrate(_flow(velocity), (points,), t0, t1)

    with torch.no_grad():
        return in_blocks(block, x)[0]


def log_density(velocity, base, solver, x, t=1.0):
    r"""Log-density at time ``t``, and an error estimate.

    .. math:: \log\rho_t(x) = \log\rho_0(X_{t,0}(x)) - \int_0^t \nabla\cdot v_\tau(X_{t,\tau}(x))\,d\tau

    The pair (x, l) is integrated from t to 0 with dl/dt = div v, so l(0) is minus the integral
    (2303.08797, eq. 2.52).  A solver that chose a grid says which rows it did not solve to its tolerance;
    these are solved again, each with steps of its own.

    Returns
    -------
    log_density : tensor of shape (n,)
        NaN where the equation could not be solved.
    error : tensor of shape (n,)
        Estimated numerical error in nats; NaN for a solver that makes no estimate.
    """

    def block(points):
        state = (points, points.new_zeros(len(points)))
        if hasattr(solver, "integrate_with_error"):
            (latent, change), error = solver.integrate_with_error(field, state, t, 0.0)
        else:
            latent, change = solver.integrate(field, state, t, 0.0)
            error = torch.full_like(change, math.nan)
        return base.log_prob(latent) + change, error

    field = _flow_with_divergence(velocity)
    with torch.no_grad():
        value, error = in_blocks(block, x)
        if hasattr(solver, "fallback"):
            redo = ~(error <= solver.tol) & torch.isfinite(x).all(1) & ~torch.isneginf(value)
            if redo.any():
                solver = solver.fallback(x.dtype)
                value[redo], error[redo] = in_blocks(block, x[redo])
    return value, error


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
