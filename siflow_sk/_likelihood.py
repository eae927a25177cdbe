"""Push forward, pull back with log-density, error estimate; always in blocks of one fixed shape.

Matrix products may round differently for different numbers of rows.  Rows are therefore worked on in blocks
of one size, the last one padded, so that a row's result is the same to the bit whoever its neighbours are,
and memory does not grow with the number of rows.
"""

import copy
import math

import torch

from ._memory import usable_bytes
from ._score import score_from_velocity
from .solvers import integrate_sde
from .velocities import acts_on_x, given, hold_weights, in_single, is_ours, velocity_and_divergence

# rows of a block: what the caches hold on a CPU, of a network up to so wide; what fills a GPU
BLOCK = {"cpu": 512, "cuda": 16384}
_WIDE = 128

# what a row holds at once, counted in vectors as long as the widest layer (25 were measured)
_VECTORS = 32


def block_size(x, velocity):
    """Rows of a block: halved until they fit into the memory that may be used."""
    network = getattr(velocity, "network", velocity)
    parameters = getattr(network, "named_parameters", list)()
    matrices = [p for name, p in parameters if acts_on_x(name, p)]
    widest = max([x.shape[1], *(max(p.shape) for p in matrices)])
    row = _VECTORS * widest * x.element_size() * getattr(network, "n_directions", 1)
    size, usable = BLOCK[x.device.type], usable_bytes(x.device)
    if widest > _WIDE and not x.is_cuda:
        size //= 2
    while size > 1 and size * row > usable:
        size //= 2
    return size


def in_blocks(function, x, *others, velocity=None, few=False):
    """Apply ``function`` to blocks of one size and join the tuples of tensors that it returns.

    :func:`block_size` says how many rows for the network at work; a sixteenth of them where they are the few
    of many that are solved again: padding would be most of the work.  A device that runs out of memory all
    the same gets blocks of half the size from there on.  Their products may round differently.

    Raises
    ------
    MemoryError
        Not even one row fits.
    """
    size, start, results = block_size(x, velocity), 0, None
    size = min(size, BLOCK[x.device.type] // 16) if few else size
    while start < len(x):
        parts = [a[start : start + size] for a in (x, *others)]
        try:
            with torch.autocast(x.device.type, enabled=False):
                found = function(*(_padded(a, size) for a in parts))
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise MemoryError(
                    f"a single row of {x.shape[1]} columns does not fit into the memory of {x.device}; take "
                    "a smaller velocity, or device='cpu'."
                ) from error
            found = None
        if found is None:  # outside of the handler, whose traceback holds on to tensors
            size //= 2
            if x.is_cuda:
                torch.cuda.empty_cache()
            continue
        if results is None:
            results = tuple(a.new_empty((len(x), *a.shape[1:])) for a in found)
        for result, a in zip(results, found, strict=True):
            result[start : start + size] = a[: len(parts[0])]
        start += size
    return results


def _padded(x, size):
    """Repeat the first row until there are ``size`` rows."""
    missing = size - len(x)
    return torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x


class _Flow:
    """dx/dt = v_t(x), as solvers take it."""

    def __init__(self, velocity):
        self.velocity = velocity

    def __call__(self, t, state):
        return (self.velocity(t, state[0]),)

    def at_times(self, times):
        return type(self)(self.velocity.at_times(times)) if hasattr(self.velocity, "at_times") else self


class FlowWithDivergence(_Flow):
    """dx/dt = v_t(x), dl/dt = div v_t(x)."""

    def __call__(self, t, state):
        return velocity_and_divergence(self.velocity, t, state[0])

    def motion(self, t, state):
        return (self.velocity(t, state[0]),)


def transport(velocity, solver, x, t0, t1, context=None):
    """Points ``x`` ``(n, d)`` carried from time ``t0`` to ``t1``; rows that could not be solved are NaN.

    Rows that a solver with a fallback leaves without a finite result are tried once more by that.  A
    conditional velocity takes the context of every row, ``(n, k)``.
    """
    rows = (x,) if context is None else (x, context)

    def carried(solver, rows, few=False):
        def at(*context):
            return _solution(solver, _Flow(given(held, *context)), t0, t1, rows[0])

        everywhere = at() if context is None else None  # one for all blocks

        def block(points, *context):
            (moved,), _ = (everywhere or at(*context))((points,))
            return (torch.where(torch.isfinite(moved).all(1, keepdim=True), moved, math.nan),)

        return in_blocks(block, *rows, velocity=velocity, few=few)[0]

    with torch.no_grad():
        held = hold_weights(velocity)
        moved = carried(solver, rows)
        if hasattr(solver, "fallback"):
            redo = torch.isnan(moved).any(1) & torch.isfinite(x).all(1)
            if redo.any():
                moved[redo] = carried(solver.fallback(x.dtype), [a[redo] for a in rows], few=True)
    return moved


def path_energy(velocity, solver, x):
    r"""The energy :math:`\int_0^1 |v_t(X_t)|^2 dt` of the solutions that start at ``x`` ``(n, d)``.

    Returns their ends ``(n, d)`` and the energies ``(n,)``.  The energy is one more entry of the state, so
    that the solver's steps see it too.  A solver with a grid chose it for the log-density, not for this, and
    is replaced by its adaptive one.
    """

    def field(t, state):
        value = velocity(t, state[0])
        return value, (value * value).sum(1)

    def block(points):
        return solver.integrate(field, (points, points.new_zeros(len(points))), 0.0, 1.0)

    if hasattr(solver, "fallback"):
        solver = solver.fallback(x.dtype)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        velocity = hold_weights(velocity)
        return in_blocks(block, x, velocity=velocity)


def log_density(velocity, known, solver, x, t=1.0, t_known=0.0, *, verify=False, context=None):
    r"""Log-density at time ``t`` from the one that is known at ``t_known``, and an error estimate.

    .. math:: \log\rho_t(x) = \log\rho_s(X_{t,s}(x)) - \int_s^t \nabla\cdot v_\tau(X_{t,\tau}(x))\,d\tau

    The pair (x, l) is integrated from t to s with dl/dt = div v, so l(s) is minus the integral, whichever
    of the two times is larger (2303.08797, eq. 2.52 for s = 0 and 2.53 for s = 1).  A solver that chose a
    grid says which rows it did not solve to its tolerance; these are solved again with a quarter more
    steps, where that is not enough with every step halved, and then each with steps of its own.

    Parameters
    ----------
    velocity : callable
    known : object with ``log_prob(x)``
    solver : Solver
    x : tensor of shape (n, d)
    t : float, or tensor of shape (n, 1)
        A time for every row: the clocks of all rows then run over [0, 1], each at its own rate.
    t_known : float, default=0.0
    verify : bool, default=False
        Estimate the error by a second solution with smaller steps, which takes about twice as long again.
    context : tensor of shape (n, k), default=None
        Of every row, for a conditional velocity.

    Returns
    -------
    log_density : tensor of shape (n,)
        NaN where the equation could not be solved.
    error : tensor of shape (n,)
        Estimated numerical error in nats; NaN for a solver that makes no estimate.
    """
    others = {"times": t.to(x)} if isinstance(t, torch.Tensor) else {}
    others |= {} if context is None else {"context": context}
    rows = (x, *others.values())

    def attempt(solver, rows, velocity, few=False):
        def at(times=None, context=None):
            field = FlowWithDivergence(given(velocity, context))
            if times is None:
                return _solution(solver, field, t, t_known, rows[0])
            return _solution(solver, _on_unit_clock(field, times, t_known), 1.0, 0.0, rows[0])

        everywhere = None if others else at()  # one for all blocks

        def block(points, *values):
            solution = everywhere or at(**dict(zip(others, values, strict=True)))
            (latent, change), error = solution((points, points.new_zeros(len(points))))
            # a step that overflowed is not a density of zero
            solved = torch.isfinite(latent).all(1) & torch.isfinite(change)
            latent = torch.where(solved[:, None], latent, 0.0)
            value = known.log_prob(latent) + change
            if velocity is single:
                error = error + _rounding_in_single(latent)
            return torch.where(solved, value, math.nan), torch.where(solved, error, math.nan)

        return in_blocks(block, *rows, velocity=velocity, few=few)

    def verified(solver, rows, value, error, few):
        if not hasattr(solver, "finer"):
            return error
        better, _ = attempt(solver.finer(rows[0].dtype), rows, held, few)
        return _distance(value, better) + error / 32.0 + _rounding(value)

    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        held = hold_weights(velocity)
        single = in_single(velocity) if getattr(solver, "single_", False) else None
        value, error, index = x.new_empty(len(x)), x.new_empty(len(x)), torch.arange(len(x), device=x.device)
        attempts, few = _attempts(solver, single, held, x.dtype), False
        for solver, at_work in attempts:  # each for the rows that those before it did not solve
            found, bound = attempt(solver, rows, at_work, few)
            redo = torch.zeros_like(found, dtype=torch.bool)
            if (solver, at_work) != attempts[-1]:
                redo = _to_redo(solver, rows[0], found, bound)
            if verify and not redo.all():
                bound = torch.where(redo, bound, verified(solver, rows, found, bound, few))
            value[index], error[index] = found, bound
            if not redo.any():
                break
            rows, index, few = [a[redo] for a in rows], index[redo], True
        return value, error


def _distance(value, better):
    """Twice the distance to a better solution; infinite where that failed, zero between two -inf."""
    distance = torch.where(value == better, 0.0, 2.0 * (value - better).abs())
    return torch.where(torch.isnan(better), math.inf, distance)


def _rounding(value):
    """What the rounding of the dtype does to a log-density, at least."""
    size = 10.0 + torch.where(torch.isfinite(value), value.abs(), 0.0)
    return 8.0 * torch.finfo(value.dtype).eps * size


def _rounding_in_single(latent):
    """What velocities in float32 do to a log-density: points are off by their rounding, each by its size."""
    return torch.finfo(torch.float32).eps * latent.square().sum(1)


def probe_error(velocity, solver, x, t=1.0, t_known=0.0):
    r"""Standard error of a log-density whose divergence is estimated by probes, ``(n,)``; else zero.

    The motion of a row does not depend on the probes, so its log-density is the mean of one integral per
    probe, :math:`\int e_i^\top (\nabla v) e_i\,dt`, and the spread of these over :math:`\sqrt m` is the
    standard error over draws of the probes.  NaN for a single probe.
    """
    if getattr(velocity, "probes", None) is None:
        return x.new_zeros(len(x))

    def block(points, *times):
        start = field(points.new_tensor(t_known), (points,))[1]
        state = (points, torch.zeros_like(start))
        if times:
            (_, integrals), _ = _solve(solver, _on_unit_clock(field, times[0], t_known), state, 1.0, 0.0)
        else:
            (_, integrals), _ = _solve(solver, field, state, t, t_known)
        m = integrals.shape[1]
        return (integrals.std(1) / math.sqrt(m) if m > 1 else torch.full_like(integrals[:, 0], math.nan),)

    def field(at, state):
        return velocity.value_and_probes(at, state[0])

    rows = (x, t.to(x)) if isinstance(t, torch.Tensor) else (x,)
    with torch.no_grad():
        return in_blocks(block, *rows, velocity=velocity)[0]


def _attempts(solver, single, held, dtype):
    """Solvers, each with the velocity it takes, for rows that those before it do not solve.

    Most rows that a grid misses it misses by little, and a quarter more steps solve them; the next is every
    step halved, in the dtype of ``held``, which takes far less time than an adaptive solution.
    """
    found = [(solver, single or held)]
    if hasattr(solver, "fallback"):
        if hasattr(solver, "refined"):
            found.append((solver.refined(1.25), single or held))
        if hasattr(solver, "finer") and hasattr(solver, "tol"):
            found.append((solver.finer(dtype), held))
        found.append((solver.fallback(dtype), held))
    return found


def _to_redo(solver, x, value, error):
    """Rows for the fallback: not solved, or not to the tolerance of a solver that has one."""
    redo = torch.isnan(value)
    if hasattr(solver, "tol"):
        redo = redo | ~((error <= solver.tol) | torch.isneginf(value))
    return redo & torch.isfinite(x).all(1) if redo.any() else redo


def _solution(solver, field, t0, t1, like):
    """State -> final state and the solver's error estimate, for many blocks of rows like ``like``.

    Small kernels take a tenth less time in inference mode.  A stranger's velocity may differentiate, which is
    not possible in there; and CUDA replays records.
    """
    if not hasattr(solver, "prepared"):
        return lambda state: _solve(solver, field, state, t0, t1)
    quick = is_ours(getattr(field, "velocity", None)) and not like.is_cuda
    mode = torch.inference_mode if quick else torch.no_grad
    with mode():
        return mode()(solver.prepared(field, t0, t1, like))


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
        (latent,), start = _solve(solver, _Flow(velocity), (points,), t, 0.0)
        state = (latent, gradient(base.log_prob, latent))
        (_, score), error = _solve(solver, score_along_the_flow(velocity), state, 0.0, t)
        return score, start + error

    with torch.no_grad():
        score, error = in_blocks(block, x, velocity=velocity)
        if hasattr(solver, "fallback"):
            redo = _to_redo(solver, x, score.sum(1), error)
            if redo.any():
                solver = solver.fallback(x.dtype)
                score[redo] = in_blocks(block, x[redo], velocity=velocity, few=True)[0]
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


def calibrate(velocity, base, solver, x, context=None, may_round=False, share=None):
    """Let a solver that has a grid to choose do so on rows ``x``, each at its context.

    In float64, whatever the dtype of the velocity: errors of rounding say nothing about steps.  With
    ``may_round`` it also notes, in ``single_``, whether log-densities are to take the velocity in float32:
    where that moves 99.5 % of the rows by at most a tenth of its ``tol``.  ``share(field, velocity, context,
    single)`` is what the solver meets instead of the field of a velocity, in float32 or not.
    """
    if hasattr(solver, "calibrate"):
        x, context = x.double(), None if context is None else context.double()
        if isinstance(velocity, torch.nn.Module):
            velocity = copy.deepcopy(velocity).double()
        state = (x, x.new_zeros(len(x)))

        def outcome(s):
            return base.log_prob(s[0]) + s[1]

        def field(at_work, single):
            plain = FlowWithDivergence(given(at_work, context))
            return plain if share is None else share(plain, velocity, context, single)

        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            held = field(hold_weights(velocity), False)
            solver.calibrate(held, state, 1.0, 0.0, outcome)
            single = in_single(velocity) if may_round and hasattr(solver, "single_") else None
            if single is not None:
                value, rounded = (
                    outcome(solver.integrate(f, state, 1.0, 0.0)) for f in (held, field(single, True))
                )
                moved = torch.nan_to_num((value - rounded).abs()[torch.isfinite(value)], nan=math.inf)
                few = len(moved) and torch.quantile(moved, 0.995) <= 0.1 * solver.tol
                solver.single_ = bool(few)
    return solver
