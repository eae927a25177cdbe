"""What is asked of any velocity, a stranger's or one of ours."""

import copy

import torch
from torch import nn
from torch.func import vmap

from .._forward_mode import jvp
from .._held import Held, InSingle

AT_ONCE = 16  # Jacobian-vector products


def exact_divergence(v, t, x):
    """Velocity and trace of its Jacobian by forward-mode differentiation: d Jacobian-vector products.

    Parameters
    ----------
    v : callable
        ``v(t, x)`` of shape ``(n, d)``, whose rows do not depend on each other.
    t : tensor, scalar or (n, 1)
    x : tensor of shape (n, d)

    Returns
    -------
    value : tensor of shape (n, d)
    divergence : tensor of shape (n,)
    """
    d = x.shape[1]

    def column(direction):  # direction (d,) -> j-th column of the Jacobian, dotted with the direction
        _, dv = jvp(lambda y: v(t, y), (x,), (direction.expand_as(x),))
        return (dv * direction).sum(1)

    basis = torch.eye(d, dtype=x.dtype, device=x.device)
    return v(t, x), vmap(column, chunk_size=AT_ONCE)(basis).sum(0)


def velocity_and_divergence(v, t, x):
    """``v(t, x)`` and its divergence: the module's own closed form, else forward mode."""
    if hasattr(v, "value_and_divergence"):
        return v.value_and_divergence(t, x)
    return exact_divergence(v, t, x)


def hold_weights(v, times=()):
    """The velocity for several evaluations at the same weights: what depends on these alone is done once.

    So is what depends on these and on a time, for all of ``times`` together: tensors that broadcast against a
    column of rows.  It is found again by the tensor itself.
    """
    return v.hold_weights(times) if hasattr(v, "hold_weights") else v


def in_single(velocity):
    """The velocity with float32 weights and arithmetic, for points of any dtype; None for a stranger's."""
    networks = getattr(velocity, "networks", [velocity])
    if not all(isinstance(v, nn.Module) and hasattr(v, "hold_weights") for v in networks):
        return None
    return InSingle(_in_dtype(velocity, torch.float32).hold_weights())


def _in_dtype(module, dtype):
    """``copy.deepcopy(module).to(dtype)`` for reading, in an eighth of the time: the rest is shared."""

    def converted(part):
        if isinstance(part, nn.Module):
            return _in_dtype(part, dtype)
        return part.to(dtype) if part is not None and part.is_floating_point() else part

    made = copy.copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        vars(made)[kind] = {name: converted(part) for name, part in vars(module)[kind].items()}
    return made


def is_ours(v):
    """Whether a held velocity, or all that it averages, are networks of this library."""
    return all(isinstance(network, Held | InSingle) for network in getattr(v, "networks", [v]))


def acts_on_x(name, parameter):
    """Whether a named weight is a matrix that acts on x, and none of the network of t."""
    return parameter.ndim == 2 and "time" not in name


def given(v, context=None):
    """The velocity at the context of every row ``(n, k)``; the velocity itself where there is none."""
    return v if context is None else v.given(context)
