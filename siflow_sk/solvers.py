"""Solvers of dx/dt = f(t, x) for a state that is a tuple of tensors whose rows do not depend on each other.

``f(t, state)`` returns the derivatives as a tuple of the same shapes; ``t`` is a scalar tensor, or has shape
``(n, 1)`` when every row has a clock of its own.  ``t1 < t0`` integrates backwards.  Every solver here gives
each row a result that does not depend on the other rows, except :class:`TorchDiffEq` with an adaptive method.
"""

import itertools
import math
import warnings

import torch

from ._component import Component
from .exceptions import SolverWarning

# Butcher tableaus as data: rows of A, weights b, nodes c
_EULER = ([[]], [1.0], [0.0])
_MIDPOINT = ([[], [1 / 2]], [0.0, 1.0], [0.0, 1 / 2])
_HEUN = ([[], [1.0]], [1 / 2, 1 / 2], [0.0, 1.0])
_RK4 = (
    [[], [1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]],
    [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    [0.0, 1 / 2, 1 / 2, 1.0],
)
TABLEAUS = {"euler": _EULER, "midpoint": _MIDPOINT, "heun": _HEUN, "rk4": _RK4}

# Dormand & Prince, J. Comput. Appl. Math. 6 (1980) 19: 5(4) pair, first same as last
_DP_A = [
    [],
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
_DP_C = [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0]
_DP_B = _DP_A[6]
_DP_E = [  # fifth minus fourth order weights
    35 / 384 - 5179 / 57600,
    0.0,
    500 / 1113 - 7571 / 16695,
    125 / 192 - 393 / 640,
    -2187 / 6784 + 92097 / 339200,
    11 / 84 - 187 / 2100,
    -1 / 40,
]


def _combine(state, h, slopes, weights):
    """``state + h sum_i weights_i slopes_i``, entry by entry of the tuple."""
    result = []
    for j, y in enumerate(state):
        step = _weighted(slopes, weights, j)
        result.append(y if step is None else torch.addcmul(y, step, _clock(h, y)))
    return tuple(result)


def _weighted(slopes, weights, j):
    """``sum_i weights_i slopes_i`` of entry j of the tuples; None where all weights are zero."""
    total = None
    for slope, weight in zip(slopes, weights, strict=False):
        if weight != 0.0:  # so a slope may lack the entry
            total = weight * slope[j] if total is None else total.add_(slope[j], alpha=weight)
    return total


def _clock(h, y):
    """Step ``h``, scalar or (n, 1), in a shape that multiplies ``y`` of shape (n,) or (n, d)."""
    return h.reshape(-1) if h.ndim == 2 and y.ndim == 1 else h


def _on_steps(f, knots, nodes):
    """The field, and a list of the steps between ``knots`` ``(m,)``: the times of the nodes, and the size.

    A field that has ``at_times(times)`` prepares itself for all of them at once; it meets these very tensors.
    """
    h = knots.diff()
    # the nodes stay on the host: no transfer that a device would be waited for
    times = [*zip(*((knots[:-1] + node * h).unbind() for node in nodes), strict=True)]
    f = f.at_times([*itertools.chain.from_iterable(times)]) if hasattr(f, "at_times") and times else f
    return f, [*zip(times, h.unbind(), strict=True)]


def _explicit_step(f, times, h, state, tableau):
    a, b, _ = tableau
    slopes = []
    for row, t in zip(a, times, strict=True):
        slopes.append(f(t, _combine(state, h, slopes, row)))
    return _combine(state, h, slopes, b)


def _dormand_prince_step(f, times, h, state, first):
    """One step: new state, its derivative (used as the next first slope), embedded error.

    ``times`` are those of the nodes after the first.  Where only the first part of the state moves the
    others, and these are integrals, the field has ``motion``, the slope of that part alone: integrals are
    not needed inside the step, and the slope of the second node has no weight in them.
    """
    slopes, motion = [first], getattr(f, "motion", None)
    moving = state if motion is None else state[:1]
    # points at which slopes of less precision are taken need no more than theirs
    moving = tuple(y.to(slope.dtype) for y, slope in zip(moving, first, strict=False))
    slopes.append((motion or f)(times[0], _combine(moving, h, slopes, _DP_A[1])))
    for row, t in zip(_DP_A[2:6], times[1:5], strict=True):
        slopes.append(f(t, _combine(moving, h, slopes, row)))
    new = _combine(state, h, slopes, _DP_B)
    slopes.append(f(times[5], new))
    error = (_clock(h, y) * _weighted(slopes, _DP_E, j) for j, y in enumerate(state))
    return new, slopes[6], tuple(error)


def with_embedded_error(f, state, knots):
    """Dormand-Prince steps on given times: the final state and the summed size of the embedded errors."""
    return _with_embedded_error(*_on_steps(f, knots, _DP_C[:6]), state)


def _with_embedded_error(f, steps, state):
    size = state[0].new_zeros(len(state[0]))
    for new, error in _walk(f, steps, state):
        state, size = new, size + _size(error)
    return state, size


def _walk(f, steps, state):
    """Yield the state and the embedded error after each step."""
    slope = None
    for times, h in steps:
        slope = f(times[0], state) if slope is None else slope
        state, slope, error = _dormand_prince_step(f, [*times[1:], times[5]], h, state, slope)
        yield state, error


def _size(error):
    """Sum of the absolute entries of a row over all parts of the state, ``(n,)``."""
    return sum(e.reshape(len(e), -1).abs().sum(1) for e in error)


class Solver(Component):
    """Base of the solvers; an author writes ``integrate(f, state, t0, t1)``.

    A solver may also have ``fallback(dtype)``, another solver for the rows that it leaves not finite; with
    ``integrate_with_error``, which returns the state and an estimate of the error per row, and ``tol``, for
    those whose estimate is larger as well.  ``finer(dtype)``, the same with much smaller errors, verifies the
    estimate where a user asks for it.  ``prepared(f, t0, t1, like)``, where it is there, returns
    ``integrate_with_error`` as a function of the state alone, for many blocks of rows like the tensor ``like``.
    """

    def integrate(self, f, state, t0, t1):
        """State at time ``t1`` from ``state`` (tuple of tensors) at time ``t0``."""
        raise NotImplementedError(f"{type(self).__name__} must define integrate(f, state, t0, t1).")


class RungeKutta(Solver):
    """Explicit Runge-Kutta method with equal steps.

    Parameters
    ----------
    method : {"euler", "midpoint", "heun", "rk4"}, default="rk4"
        Orders 1, 2, 2 and 4; 1, 2, 2 and 4 evaluations a step.
    n_steps : int, default=20
        Steps over the whole interval from t = 0 to t = 1; a shorter interval gets its share, at least one.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.solvers import RungeKutta
    >>> x, = RungeKutta(n_steps=10).integrate(lambda t, s: (-s[0],), (torch.ones(1, 1),), 0.0, 1.0)
    >>> round(x.item(), 5)
    0.36788
    """

    def __init__(self, method="rk4", n_steps=20):
        self.method = method
        self.n_steps = n_steps

    def integrate(self, f, state, t0, t1):
        """State at time ``t1``.

        Raises
        ------
        ValueError
            Unknown ``method`` or ``n_steps`` below 1.
        """
        if self.method not in TABLEAUS:
            raise ValueError(f"method={self.method!r} is not one of {sorted(TABLEAUS)}.")
        if not self.n_steps >= 1:
            raise ValueError(f"n_steps must be an integer >= 1, got {self.n_steps!r}.")
        steps = max(1, math.ceil(self.n_steps * abs(t1 - t0) - 1e-9))
        knots = torch.linspace(t0, t1, steps + 1, dtype=state[0].dtype, device=state[0].device)
        return on_knots(f, state, knots, self.method)

    def fallback(self, dtype):
        """The adaptive solver for rows on which equal steps blow up."""
        return _adaptive(1e-6, dtype)


def on_knots(f, state, knots, method="rk4"):
    """Explicit Runge-Kutta on given times ``knots`` (m,), differentiable."""
    tableau = TABLEAUS[method]
    f, steps = _on_steps(f, knots, tableau[2])
    for times, h in steps:
        state = _explicit_step(f, times, h, state, tableau)
    return state


class DormandPrince(Solver):
    """Adaptive Dormand-Prince 5(4) in which every row has its own step, clock and acceptance.

    Rows cannot disturb each other: a stiff or failing row neither changes nor stops its neighbours.

    Parameters
    ----------
    rtol, atol : float, default=1e-7, 1e-7
        A step is accepted when the root mean square of ``error / (atol + rtol |state|)`` over a row is at
        most 1.  ``rtol`` below ten rounding errors of the dtype is raised to that, with a warning.
    max_steps : int, default=1000
        Attempted steps per row; a row that needs more, or that meets a non-finite value at the smallest
        step, ends as NaN.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.solvers import DormandPrince
    >>> start = (torch.ones(1, 1, dtype=torch.float64),)
    >>> x, = DormandPrince(rtol=1e-9, atol=1e-9).integrate(lambda t, s: (-s[0],), start, 0.0, 1.0)
    >>> round(x.item(), 8)
    0.36787944
    """

    def __init__(self, rtol=1e-7, atol=1e-7, max_steps=1000):
        self.rtol = rtol
        self.atol = atol
        self.max_steps = max_steps

    def integrate(self, f, state, t0, t1):
        """State at time ``t1``; rows that could not be solved are NaN."""
        return self.integrate_with_error(f, state, t0, t1)[0]

    def integrate_with_error(self, f, state, t0, t1):
        """State at time ``t1`` and, per row, the summed size of the embedded errors of the accepted steps."""
        rtol = self._usable_rtol(state[0].dtype)
        x = state[0]
        n, span = len(x), t1 - t0
        t = x.new_full((n, 1), t0)
        h = x.new_full((n, 1), 0.1 * span)
        running = x.new_full((n, 1), span != 0, dtype=torch.bool)
        failed = torch.zeros_like(running)
        total = x.new_zeros(n)
        first = f(t, state)
        previous = torch.ones_like(h)  # error of the last accepted step, for the PI controller
        smallest = 1e-12 * max(abs(span), 1e-3)
        for _ in range(int(self.max_steps)):
            if not running.any():
                break
            remaining = t1 - t
            last = h.abs() >= remaining.abs()
            h = torch.where(last, remaining, h)
            new, slope, error = _dormand_prince_step(f, [t + c * h for c in _DP_C[1:]], h, state, first)
            norm = self._norm(state, new, error, rtol)
            accept = running & (norm <= 1.0)
            # PI step control, Hairer & Wanner II.4: safety 0.9, exponents 0.7/5 and 0.4/5
            factor = 0.9 * norm.clamp_min(1e-10) ** -0.14 * previous**0.08
            factor = torch.where(accept, factor.clamp(0.2, 5.0), factor.clamp(0.2, 0.9))
            factor = torch.where(torch.isfinite(norm), factor, 0.2)
            state, first = _where(accept, new, state), _where(accept, slope, first)
            total = torch.where(accept[:, 0], total + _size(error), total)
            t = torch.where(accept, torch.where(last, torch.full_like(t, t1), t + h), t)
            previous = torch.where(accept, norm.clamp_min(1e-4), previous)
            running = running & ~(accept & last)
            h = torch.where(running, h * factor, h)
            stuck = running & (h.abs() < smallest)
            failed, running = failed | stuck, running & ~stuck
        failed = failed | running
        nan = tuple(torch.full_like(y, math.nan) for y in state)
        return _where(failed, nan, state), total

    def finer(self, dtype):
        """The same at a thirty-second of the tolerances."""
        floor = 10.0 * torch.finfo(dtype).eps
        rtol, atol = (max(tol / 32.0, floor) for tol in (self.rtol, self.atol))
        return DormandPrince(rtol=rtol, atol=atol, max_steps=4 * int(self.max_steps))

    def _norm(self, state, new, error, rtol):
        """Root mean square over the entries of a row, ``(n, 1)``; NaN counts as infinite."""
        squares, size = 0.0, 0
        for y, z, e in zip(state, new, error, strict=True):
            scale = self.atol + rtol * torch.maximum(y.abs(), z.abs())
            ratio = (e / scale).reshape(len(y), -1)
            squares, size = squares + (ratio * ratio).sum(1, keepdim=True), size + ratio.shape[1]
        norm = torch.sqrt(squares / size)
        return torch.where(torch.isnan(norm), math.inf, norm)

    def _usable_rtol(self, dtype):
        floor = 10.0 * torch.finfo(dtype).eps
        if not self.rtol >= floor:
            warnings.warn(
                f"rtol={self.rtol!r} is below what {dtype} can resolve; {floor:.1e} is used.",
                SolverWarning,
                stacklevel=2,
            )
            return floor
        return self.rtol


def _adaptive(tol, dtype):
    """Dormand-Prince at ``tol``, or at what the dtype can resolve."""
    tol = max(tol, 10.0 * torch.finfo(dtype).eps)
    return DormandPrince(rtol=tol, atol=tol)


def _where(mask, new, old):
    """Rows of ``new`` where ``mask`` (n, 1) holds, else of ``old``."""
    return tuple(
        torch.where(mask if y.ndim == 2 else mask[:, 0], x, y) for x, y in zip(new, old, strict=True)
    )


class Grid(Solver):
    """Dormand-Prince steps on a short grid of times that ``fit`` chooses, the same for every row.

    A trained flow between whitened data and its base is nearly straight, so a handful of well placed steps
    is enough.  ``calibrate`` measures on validation rows where the step error arises, spreads the knots so
    that every step makes an equal share of it, compares grids of growing size with an adaptive solution at
    1e-4 of the tolerance (or with the equal steps of that measurement, where they are as exact), and keeps
    the smallest whose error estimate is below ``tol`` for 99 % of the rows.  The estimate of a row is the
    summed size of its embedded errors times a factor, measured in the same comparison: one and a half times
    what makes it at least the true error for 99.5 % of the rows compared, and not less than 0.1.

    Parameters
    ----------
    tol : float, default=1e-4
        Wanted error of a row's log-density, in nats.  Rows whose estimate is above it are solved again by
        :class:`DormandPrince`.
    max_steps : int, default=64
        Largest number of steps tried; 6 evaluations of the velocity a step.

    Attributes
    ----------
    knots_ : tensor of shape (n_steps + 1,)
        Times from 0 to 1.
    n_steps_ : int
    safety_ : float
        The factor between embedded and true errors.
    single_ : bool
        Whether log-densities evaluate the velocity in float32 and do the rest in float64; an estimator says
        so at ``fit`` where this hardly moves them.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.solvers import Grid
    >>> f = lambda t, s: (-s[0],)
    >>> start = (torch.ones(4, 1, dtype=torch.float64),)
    >>> solver = Grid(tol=1e-6).calibrate(f, start, 1.0, 0.0, lambda s: s[0][:, 0])
    >>> round(solver.integrate(f, start, 0.0, 1.0)[0][0].item(), 5)
    0.36788
    """

    _candidates = (*range(1, 17), 18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128)

    single_ = False

    def __init__(self, tol=1e-4, max_steps=64):
        self.tol = tol
        self.max_steps = max_steps

    def calibrate(self, f, state, t0, t1, outcome):
        """Choose the knots.

        Parameters
        ----------
        f, state, t0, t1
            As for ``integrate``.
        outcome : callable
            Maps a final state to the number per row, shape ``(n,)``, whose error is to be below ``tol``.

        Returns
        -------
        self : object
        """
        if not self.tol > 0:
            raise ValueError(f"tol must be > 0, got {self.tol!r}.")
        adaptive = self.fallback(state[0].dtype)
        density, final, size = self._error_density(f, state, t0, t1)
        if not (size <= len(density) * adaptive.atol).all():  # else as exact as the adaptive solution
            final = adaptive.integrate(f, state, t0, t1)
        truth = outcome(final)

        def trial(n_steps):
            """Whether so many steps are enough; their knots and the factor of their estimate."""
            self.knots_ = _equidistribute(density, n_steps)
            final, size = with_embedded_error(f, state, self._knots(t0, t1, state[0]))
            error = (outcome(final) - truth).abs()
            known = torch.isfinite(error) & torch.isfinite(size)
            if not known.any():
                return False, self.knots_, 1.0
            error, size = error[known], size[known].clamp_min(1e-300)
            # differences at the level of rounding say nothing about the factor
            floor = 100.0 * torch.finfo(size.dtype).eps * truth[known].abs().clamp_min(1.0)
            ratio = torch.where(error > floor, error / size, 0.0)
            safety = max(0.1, 1.5 * float(torch.quantile(ratio, 0.995)))
            return bool(torch.quantile(safety * size, 0.99) <= self.tol), self.knots_, safety

        sizes = [n for n in self._candidates if n <= max(1, int(self.max_steps))]
        # of fifth order, with a factor of a third; if not, a trial more or two
        near = len(density) * (0.3 * float(size.nanquantile(0.99)) / self.tol) ** 0.2
        _, self.knots_, self.safety_ = _least(trial, sizes, near)
        self.n_steps_ = len(self.knots_) - 1
        return self

    def fallback(self, dtype):
        """The adaptive solver for rows that the grid does not solve, at 1e-4 of the tolerance.

        The adaptive solver holds the error of a step, and on a rough field the log-density, to which all
        steps and the divergence contribute, is off by much more than that.
        """
        return _adaptive(1e-4 * self.tol, dtype)

    def finer(self, dtype):
        """The grid with every step halved."""
        finer = type(self)(tol=self.tol, max_steps=self.max_steps)
        middle = 0.5 * (self.knots_[1:] + self.knots_[:-1])
        finer.knots_ = torch.cat([self.knots_, middle]).sort().values
        finer.n_steps_, finer.safety_ = len(finer.knots_) - 1, self.safety_
        return finer

    def _error_density(self, f, state, t0, t1, n_probe=24):
        """Median over rows of the local error on equal steps, as a density in t on (0, 1).

        With it, what these steps end in: the state and the summed size of the embedded errors of every row.
        """
        self.knots_ = torch.linspace(0.0, 1.0, n_probe + 1, dtype=torch.float64)
        sizes, total = [], 0.0
        f, steps = _on_steps(f, self._knots(t0, t1, state[0]), _DP_C[:6])
        for new, error in _walk(f, steps, state):
            size = _size(error)
            sizes.append(size[torch.isfinite(size)].median() if torch.isfinite(size).any() else size[0])
            state, total = new, total + size
        density = torch.stack(sizes).double().cpu() ** 0.2
        density = torch.nan_to_num(density, nan=1.0, posinf=1.0)
        density = density + 0.05 * density.mean() + 1e-12  # no step is more than about 20 times the mean
        return density.flip(0) if t1 < t0 else density, state, total

    def _knots(self, t0, t1, like):
        """The stored knots inside the interval, with its ends, in the direction of travel."""
        low, high = min(t0, t1), max(t0, t1)
        inside = self.knots_[(self.knots_ > low + 1e-9) & (self.knots_ < high - 1e-9)]
        knots = torch.cat([inside.new_tensor([low]), inside, inside.new_tensor([high])])
        return (knots if t1 >= t0 else knots.flip(0)).to(like)

    def integrate(self, f, state, t0, t1):
        """State at time ``t1``."""
        return with_embedded_error(f, state, self._knots(t0, t1, state[0]))[0]

    def integrate_with_error(self, f, state, t0, t1):
        """State at time ``t1`` and, per row, the estimated error of the outcome that was calibrated."""
        return self.prepared(f, t0, t1, state[0])(state)

    def prepared(self, f, t0, t1, like):
        """A function of the state that does as ``integrate_with_error``, for many blocks of rows.

        What depends on the times alone is done here, once.
        """
        f, steps = _on_steps(f, self._knots(t0, t1, like), _DP_C[:6])

        def integrate_with_error(state):
            state, size = _with_embedded_error(f, steps, state)
            return state, self.safety_ * size

        return integrate_with_error


def _least(trial, sizes, near):
    """What ``trial(size)`` returns for the least size that is enough, or for the largest.

    The ascending ``sizes`` are tried from ``near`` on in one direction: a trial says first whether its size
    is enough, and then larger ones are.
    """
    i = next((i for i, size in enumerate(sizes) if size >= near), len(sizes) - 1)
    found = trial(sizes[i])
    if found[0]:
        while i > 0 and (smaller := trial(sizes[i - 1]))[0]:
            i, found = i - 1, smaller
    while not found[0] and i + 1 < len(sizes):
        i, found = i + 1, trial(sizes[i + 1])
    return found


def _equidistribute(density, n_steps):
    """Knots on [0, 1] that give each of ``n_steps`` steps the same share of a piecewise constant density."""
    mass = torch.cat([density.new_zeros(1), density.cumsum(0)]) / density.sum()
    edges = torch.linspace(0.0, 1.0, len(mass), dtype=density.dtype)
    wanted = torch.linspace(0.0, 1.0, n_steps + 1, dtype=density.dtype)
    i = torch.searchsorted(mass, wanted, right=True).clamp(1, len(mass) - 1)
    share = (wanted - mass[i - 1]) / (mass[i] - mass[i - 1])
    knots = edges[i - 1] + share * (edges[i] - edges[i - 1])
    knots[0], knots[-1] = 0.0, 1.0
    return knots


def integrate_sde(drift, diffusion, x, knots, generator, method="heun"):
    r"""Solve :math:`dX = f(t, X)\,dt + \sqrt{2\epsilon(t)}\,dW` on given times, which may decrease.

    The noise of a step has the variance :math:`2\epsilon|h|` with epsilon at its middle.  ``"euler"`` is
    Euler-Maruyama; ``"heun"`` averages the drift of both ends, of weak order 2 since the noise does not
    depend on x (Kloeden & Platen, Numerical Solution of SDEs, sec. 15.1).

    Parameters
    ----------
    drift : callable
        ``f(t, x)`` of shape ``(n, d)``; backwards in time, the drift of the backward equation.
    diffusion : callable
        ``epsilon(t)``, scalar tensor.
    x : tensor of shape (n, d)
    knots : tensor of shape (m,)
    generator : torch.Generator
    method : {"heun", "euler"}, default="heun"

    Returns
    -------
    x : tensor of shape (n, d)
    """
    for t, t_next in itertools.pairwise(knots):
        h = t_next - t
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        noise = torch.sqrt(2.0 * diffusion(t + 0.5 * h) * h.abs()) * noise
        slope = drift(t, x)
        if method == "heun":
            slope = 0.5 * (slope + drift(t_next, x + h * slope + noise))
        x = x + h * slope + noise
    return x


class TorchDiffEq(Solver):
    """A method of torchdiffeq by name.

    Adaptive methods take one step for all rows of a block together, so a row's result depends slightly
    (within the tolerance) on its neighbours; use the default solver where that matters.

    Parameters
    ----------
    method : str, default="dopri5"
        ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"adaptive_heun"``, ``"rk4"``, ``"implicit_adams"`` ...
    rtol, atol : float, default=1e-7, 1e-9
    options : dict, default=None
        Passed on, for example ``{"step_size": 0.05}`` for fixed-step methods.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.solvers import TorchDiffEq
    >>> start = (torch.ones(1, 1, dtype=torch.float64),)
    >>> x, = TorchDiffEq().integrate(lambda t, s: (-s[0],), start, 0.0, 1.0)
    >>> round(x.item(), 6)
    0.367879
    """

    def __init__(self, method="dopri5", rtol=1e-7, atol=1e-9, options=None):
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.options = options

    def integrate(self, f, state, t0, t1):
        """State at time ``t1``.

        Raises
        ------
        ValueError
            torchdiffeq does not know ``method`` or refuses to go on.
        """
        from torchdiffeq import odeint
        from torchdiffeq._impl.odeint import SOLVERS

        if self.method not in SOLVERS:
            raise ValueError(f"method={self.method!r} is not one of {sorted(SOLVERS)}.")
        if t0 == t1:
            return state
        times = torch.tensor([t0, t1], dtype=state[0].dtype, device=state[0].device)
        try:
            path = odeint(
                f, state, times, method=self.method, rtol=self.rtol, atol=self.atol, options=self.options
            )
        except AssertionError as error:  # torchdiffeq asserts on underflow of the step
            raise ValueError(
                f"torchdiffeq's {self.method} stopped: {error}. Loosen rtol and atol, or use solver='grid'."
            ) from error
        return tuple(y[-1] for y in path)

    def fallback(self, dtype):
        """An adaptive solver for rows that are not finite."""
        return _adaptive(1e-6, dtype)


SOLVERS = {"grid": Grid, "dopri5": DormandPrince, "rk4": RungeKutta, "torchdiffeq": TorchDiffEq}
