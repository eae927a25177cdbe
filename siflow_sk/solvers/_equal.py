"""Equal steps."""

import math

import torch

from ._adaptive import adaptive
from ._base import Solver
from ._steps import TABLEAUS, on_knots


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
        return adaptive(1e-6, dtype)
