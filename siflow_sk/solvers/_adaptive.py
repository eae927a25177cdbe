"""Steps that each row chooses for itself."""

import math
import warnings

import torch

from ..exceptions import SolverWarning
from ._base import Solver
from ._steps import DP_C, dormand_prince_step, on_device, size_of


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
        x, f = state[0], on_device(f, state[0])
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
            new, slope, error = dormand_prince_step(f, [t + c * h for c in DP_C[1:]], h, state, first)
            norm = self._norm(state, new, error, rtol)
            accept = running & (norm <= 1.0)
            # PI step control, Hairer & Wanner II.4: safety 0.9, exponents 0.7/5 and 0.4/5
            factor = 0.9 * norm.clamp_min(1e-10) ** -0.14 * previous**0.08
            factor = torch.where(accept, factor.clamp(0.2, 5.0), factor.clamp(0.2, 0.9))
            factor = torch.where(torch.isfinite(norm), factor, 0.2)
            state, first = _where(accept, new, state), _where(accept, slope, first)
            total = torch.where(accept[:, 0], total + size_of(error), total)
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


def adaptive(tol, dtype):
    """Dormand-Prince at ``tol``, or at what the dtype can resolve."""
    tol = max(tol, 10.0 * torch.finfo(dtype).eps)
    return DormandPrince(rtol=tol, atol=tol)


def _where(mask, new, old):
    """Rows of ``new`` where ``mask`` (n, 1) holds, else of ``old``."""
    return tuple(
        torch.where(mask if y.ndim == 2 else mask[:, 0], x, y) for x, y in zip(new, old, strict=True)
    )
