"""The methods of torchdiffeq."""

import torch

from ._adaptive import adaptive
from ._base import Solver


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
        return adaptive(1e-6, dtype)
