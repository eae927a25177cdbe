"""Networks v(t, x) that also know their divergence.

A recipe (:class:`MLP`, :class:`ResidualMLP`) stores what the user asked for; its ``build`` makes the
module that is trained.  Below the door everything is a tensor: ``x`` has shape ``(n, d)``, ``t`` is a
scalar tensor or has shape ``(n, 1)``.  A conditional velocity v(t, x | c) has ``given(c)``, the velocity at
a context ``c`` ``(n, k)``, one for each row of x.
"""

from ._average import Average
from ._base import ACTIVATIONS, Velocity
from ._closed_form import MLP, ConditionalMLP
from ._functions import (
    acts_on_x,
    exact_divergence,
    given,
    hold_weights,
    in_single,
    is_ours,
    velocity_and_divergence,
)
from ._residual import ResidualMLP, probed_divergence

VELOCITIES = {"mlp": MLP, "residual": ResidualMLP}
CONDITIONAL_VELOCITIES = {"mlp": ConditionalMLP, "residual": ResidualMLP}

__all__ = [
    "ACTIVATIONS",
    "CONDITIONAL_VELOCITIES",
    "MLP",
    "VELOCITIES",
    "Average",
    "ConditionalMLP",
    "ResidualMLP",
    "Velocity",
    "acts_on_x",
    "exact_divergence",
    "given",
    "hold_weights",
    "in_single",
    "is_ours",
    "probed_divergence",
    "velocity_and_divergence",
]
