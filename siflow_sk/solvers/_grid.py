"""Steps that ``fit`` chooses, the same for every row."""

import functools
import math

import torch

from ._adaptive import adaptive
from ._base import Solver
from ._steps import DP_C, along, on_device, on_steps, solution_on

_N_PROBE = 24  # equal steps that show where errors arise


class Grid(Solver):
    """Dormand-Prince steps on a short grid of times that ``fit`` chooses, the same for every row.

    A trained flow between whitened data and its base is nearly straight, so a handful of well placed steps
    is enough.  ``calibrate`` measures with equal steps on validation rows where the error arises, spreads the
    knots so that every step makes an equal share of it, compares grids of growing size with one that is at
    least a hundred times as exact as wanted (the equal steps of the beginning, or a fine grid, or an adaptive
    solution at 1e-4 of the tolerance), and keeps the smallest whose error estimate is below ``tol`` for 99 %
    of the rows.  The estimate of a row is the summed size of its embedded errors times a factor, measured in
    the same comparison: one and a half times what makes it at least the true error for 99.5 % of the rows
    compared, and not less than 0.1.

    Parameters
    ----------
    tol : float, default=1e-4
        Wanted error of a row's log-density, in nats.  Rows whose estimate is above it are solved again with
        a quarter more steps, where that is not enough with every step halved, and then by
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
        Whether log-densities take the velocity in float32, at points inside of a step that are float32 too,
        and add up in float64; an estimator says so at ``fit`` where this hardly moves them.

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

        def solved(knots):
            """The outcome on these knots, and of every step the size of its error."""
            self.knots_ = knots
            final, sizes = along(f, state, self._knots(t0, t1, state[0]))
            return outcome(final), sizes

        @functools.cache
        def on_shares(n_steps):
            """Knots that share the error, and the outcome on them with the summed size of a row's errors."""
            knots = _equidistribute(density, n_steps)
            found, sizes = solved(knots)
            return knots, found, sizes.sum(0)

        truth, sizes = solved(torch.linspace(0.0, 1.0, _N_PROBE + 1, dtype=torch.float64))
        density, doubt = _error_density(sizes, reverse=t1 < t0), sizes.sum(0)
        # of fifth order, with a factor of a third; if not, a trial more or two
        near = _N_PROBE * (0.3 * float(doubt.nanquantile(0.99)) / self.tol) ** 0.2

        def trial(n_steps):
            """Whether so many steps are enough; their knots and the factor of their estimate."""
            knots, found, size = on_shares(n_steps)
            error = (found - truth).abs()
            known = torch.isfinite(error) & torch.isfinite(size)
            if not known.any():
                return False, knots, 1.0
            error, size = error[known], size[known].clamp_min(1e-300)
            # differences at the level of rounding, or of doubts about the truth, say nothing about the factor
            floor = 100.0 * torch.finfo(size.dtype).eps * truth[known].abs().clamp_min(1.0)
            ratio = torch.where(error > torch.maximum(floor, doubt[known]), error / size, 0.0)
            safety = max(0.1, 1.5 * float(torch.quantile(ratio, 0.995)))
            return bool(torch.quantile(safety * size, 0.99) <= self.tol), knots, safety

        sizes = [n for n in self._candidates if n <= max(1, int(self.max_steps))]
        if not self._tells(doubt, 0.01) and near < _N_PROBE:
            _, truth, doubt = on_shares(max(_N_PROBE, math.ceil(5.0 * near)))
        found = _least(trial, sizes, near) if self._tells(doubt, 0.01) else None
        if found is None or not self._tells(found[2] * doubt, 0.02):
            truth = outcome(self.fallback(state[0].dtype).integrate(f, state, t0, t1))
            doubt = torch.zeros_like(doubt)
            found = _least(trial, sizes, near)
        _, self.knots_, self.safety_ = found
        self.n_steps_ = len(self.knots_) - 1
        return self

    def _tells(self, doubt, share):
        """Whether an outcome can be compared with: but for one row in 200 in doubt by a share of ``tol``."""
        doubt = torch.nan_to_num(doubt, nan=math.inf)
        return bool(torch.quantile(doubt, 0.995, interpolation="higher") <= share * self.tol)

    def fallback(self, dtype):
        """The adaptive solver for rows that the grid does not solve, at 1e-4 of the tolerance.

        The adaptive solver holds the error of a step, and on a rough field the log-density, to which all
        steps and the divergence contribute, is off by much more than that.
        """
        return adaptive(1e-4 * self.tol, dtype)

    def finer(self, dtype):
        """The grid with every step halved."""
        return self.refined(2.0)

    def refined(self, factor):
        """The grid with ``factor`` times as many steps, rounded up, every one shorter by that.

        Parameters
        ----------
        factor : float
            More than 1: of an order p the error falls by about its p-th power.

        Returns
        -------
        refined : Grid
            Knots at equal shares of the present steps, and the present ``tol`` and ``safety_``: the factor
            between embedded and true errors falls with the steps, so the estimate stays a bound.
        """
        refined = type(self)(tol=self.tol, max_steps=self.max_steps)
        refined.n_steps_, refined.safety_ = math.ceil(factor * (len(self.knots_) - 1)), self.safety_
        shares = torch.linspace(0.0, 1.0, len(self.knots_), dtype=self.knots_.dtype)
        refined.knots_ = _at_equal_shares(shares, self.knots_, refined.n_steps_)
        return refined

    def _knots(self, t0, t1, like):
        """The stored knots inside the interval, with its ends, in the direction of travel."""
        low, high = min(t0, t1), max(t0, t1)
        inside = self.knots_[(self.knots_ > low + 1e-9) & (self.knots_ < high - 1e-9)]
        knots = torch.cat([inside.new_tensor([low]), inside, inside.new_tensor([high])])
        return (knots if t1 >= t0 else knots.flip(0)).to(like)

    def integrate(self, f, state, t0, t1):
        """State at time ``t1``."""
        return along(f, state, self._knots(t0, t1, state[0]))[0]

    def integrate_with_error(self, f, state, t0, t1):
        """State at time ``t1`` and, per row, the estimated error of the outcome that was calibrated."""
        return self.prepared(f, t0, t1, state[0])(state)

    def prepared(self, f, t0, t1, like):
        """A function of the state that does as ``integrate_with_error``, for many blocks of rows.

        What depends on the times alone is done here, once.
        """
        f, steps = on_steps(on_device(f, like), self._knots(t0, t1, like), DP_C[:6])

        def integrate_with_error(state):
            state, size = solution_on(f, steps, state)
            return state, self.safety_ * size

        return integrate_with_error


def _error_density(sizes, reverse):
    """The local error that 99 % of the rows stay below on equal steps, as a density in t on (0, 1)."""
    sizes = torch.where(torch.isfinite(sizes), sizes, math.nan)
    density = sizes.nanquantile(0.99, dim=1).double().cpu() ** 0.2
    density = torch.nan_to_num(density, nan=1.0, posinf=1.0)
    density = density + 0.05 * density.mean() + 1e-12  # no step is more than about 20 times the mean
    return density.flip(0) if reverse else density


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
    return _at_equal_shares(mass, torch.linspace(0.0, 1.0, len(mass), dtype=density.dtype), n_steps)


def _at_equal_shares(mass, times, n_steps):
    """``n_steps + 1`` knots on [0, 1], equal in the mass that is known, from 0 to 1, at the ``times``."""
    wanted = torch.linspace(0.0, 1.0, n_steps + 1, dtype=mass.dtype)
    i = torch.searchsorted(mass, wanted, right=True).clamp(1, len(mass) - 1)
    share = (wanted - mass[i - 1]) / (mass[i] - mass[i - 1])
    knots = times[i - 1] + share * (times[i] - times[i - 1])
    knots[0], knots[-1] = 0.0, 1.0
    return knots
