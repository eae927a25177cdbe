"""Solvers of dx/dt = f(t, x) for a state that is a tuple of tensors whose rows do not depend on each other.

``f(t, state)`` returns the derivatives as a tuple of the same shapes; ``t`` is a scalar tensor, or has shape
``(n, 1)`` when every row has a clock of its own.  ``t1 < t0`` integrates backwards.  Every solver here gives
each row a result that does not depend on the other rows, except :class:`TorchDiffEq` with an adaptive method.
"""

from ._adaptive import DormandPrince
from ._base import Solver
from ._equal import RungeKutta
from ._grid import Grid
from ._steps import TABLEAUS, along, on_knots, with_embedded_error
from ._stochastic import integrate_sde
from ._torchdiffeq import TorchDiffEq

SOLVERS = {"grid": Grid, "dopri5": DormandPrince, "rk4": RungeKutta, "torchdiffeq": TorchDiffEq}

__all__ = [
    "SOLVERS",
    "TABLEAUS",
    "DormandPrince",
    "Grid",
    "RungeKutta",
    "Solver",
    "TorchDiffEq",
    "along",
    "integrate_sde",
    "on_knots",
    "with_embedded_error",
]
