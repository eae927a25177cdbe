"""Periodic columns: the parts of a flow, each with a half for the angles.

A periodic column is an angle, a point of a circle; columns together are a torus, or a torus times a space.
Below the preprocessor every angle is in radians, and means the same after whole turns: the flow moves it on
the line, the network sees its cosines and sines, densities and samples take it back to one turn.
"""

import math
import numbers

from ..bases import StandardNormal
from ..couplings import OptimalTransport
from ..preprocessing import Gaussianize, Identity
from ._network import PeriodicVelocity
from ._parts import Angles, Geodesic, GeodesicTransport, TorusBase, UniformAngles, WrappedNormal

__all__ = [
    "Angles",
    "Geodesic",
    "GeodesicTransport",
    "PeriodicVelocity",
    "TorusBase",
    "UniformAngles",
    "WrappedNormal",
    "on_torus",
    "periods_of",
]


def periods_of(periodic, n_features, names=None):
    """Column number -> period, from what the user said.

    Parameters
    ----------
    periodic : dict or None
        Name or number of a column -> period.
    n_features : int
    names : sequence of str, default=None
        Of the columns, where they have some.

    Returns
    -------
    periods : dict of int to float

    Raises
    ------
    ValueError
        A column that is not there or that is named twice, a period that is not a finite number > 0.
    """
    names = [] if names is None else list(names)
    found = {}
    for key, period in (periodic or {}).items():
        column = names.index(key) if key in names else key
        whole = isinstance(column, numbers.Integral) and not isinstance(column, bool)
        if not whole or not 0 <= column < n_features:
            known = f"{names} or numbers" if names else "numbers"
            raise ValueError(
                f"periodic: there is no column {key!r}; the columns are {known} from 0 to {n_features - 1}."
            )
        if int(column) in found:
            raise ValueError(f"periodic names column {int(column)} twice, also as {key!r}; leave one out.")
        number = isinstance(period, numbers.Real) and not isinstance(period, bool)
        if not number or not 0.0 < period < math.inf:
            raise ValueError(
                f"periodic[{key!r}] must be the period, a finite number > 0 in the units of the column "
                f"(360 for degrees), got {period!r}."
            )
        found[int(column)] = float(period)
    return found


def on_torus(parts, turns, n_features):
    """The parts of a flow on ``n_features`` columns of which some are angles.

    Parameters
    ----------
    parts : dict
        ``interpolant``, ``base``, ``coupling``, ``velocity``, ``preprocessor``, and others, which stay.
    turns : dict
        Column -> (start of the turn, period); none: the parts as they are.
    n_features : int

    Returns
    -------
    parts : dict

    Raises
    ------
    ValueError
        An interpolant with noise; an interpolant or a base that is learnt; a base for ordinary columns where
        there are none.
    """
    if not turns:
        return parts
    angular, mixed = tuple(turns), len(turns) < n_features
    path, base, rest_map = parts["interpolant"], parts["base"], parts["preprocessor"]
    for attribute, what in (("start", "is learnt"), ("variance", "has noise")):
        if hasattr(path, attribute):
            raise ValueError(
                f"interpolant={path!r} {what}, which periodic columns do not allow; take 'linear', "
                "'trigonometric' or a fixed path of your own."
            )
    if hasattr(base, "n_velocity_steps"):
        raise ValueError(
            f"base={base!r} is learnt, which periodic columns do not allow; take 'normal' or another that is "
            "fixed."
        )
    circle = base if isinstance(base, WrappedNormal) else UniformAngles()
    rest = StandardNormal() if isinstance(base, WrappedNormal) else base
    if not mixed and not isinstance(rest, StandardNormal):
        raise ValueError(
            f"base={base!r}: all columns are periodic, and there the base is uniform ('normal', the default) "
            "or 'wrapped_normal'."
        )
    own = {
        "interpolant": Geodesic(path, angular),
        "base": TorusBase(rest, circle, angular),
        "velocity": PeriodicVelocity(parts["velocity"], angular),
        "preprocessor": Angles(rest_map if mixed else Identity(), turns, isinstance(rest_map, Gaussianize)),
    }
    if type(parts["coupling"]) is OptimalTransport:  # and none with a cost of its own
        own["coupling"] = GeodesicTransport(angular, parts["coupling"].scipy_limit)
    return {**parts, **own}
