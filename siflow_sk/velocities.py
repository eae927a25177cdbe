"""Networks v(t, x) that also know their divergence.

A recipe (:class:`MLP`, :class:`ResidualMLP`) stores what the user asked for; its ``build`` makes the
module that is trained.  Below the door everything is a tensor: ``x`` has shape ``(n, d)``, ``t`` is a
scalar tensor or has shape ``(n, 1)``.  A conditional velocity v(t, x | c) has ``given(c)``, the velocity at
a context ``c`` ``(n, k)``, one for each row of x.
"""

import copy
import itertools
import math

import torch
from torch import nn
from torch.func import vmap

from . import _kernel
from ._component import Component
from ._forward_mode import jvp
from ._held import Held, InSingle
from ._kernel import SMOOTH, product

ACTIVATIONS = {name: value_and_slope for name, (value_and_slope, _) in SMOOTH.items()}

_AT_ONCE = 16  # Jacobian-vector products


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
    return v(t, x), vmap(column, chunk_size=_AT_ONCE)(basis).sum(0)


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
    if not (isinstance(velocity, nn.Module) and hasattr(velocity, "hold_weights")):
        return None
    return InSingle(copy.deepcopy(velocity).float().hold_weights())


def acts_on_x(name, parameter):
    """Whether a named weight is a matrix that acts on x, and none of the network of t."""
    return parameter.ndim == 2 and "time" not in name


def given(v, context=None):
    """The velocity at the context of every row ``(n, k)``; the velocity itself where there is none."""
    return v if context is None else v.given(context)


class _Linear(nn.Linear):
    def reset_parameters(self):
        """Nothing: torch's draws from its global generator."""

    def forward(self, x):
        return product(x, self.weight) + self.bias.unsqueeze(-2)


def _linear(n_in, n_out, generator, gain=1.0):
    layer = _Linear(n_in, n_out, dtype=torch.float32)
    bound = gain * math.sqrt(3.0 / n_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class _TimeFeatures(nn.Module):
    """A small network of t alone: Fourier features, one hidden layer; what a context adds to that layer."""

    def __init__(self, n_frequencies, n_out, generator):
        super().__init__()
        self.hidden = _linear(1 + 2 * n_frequencies, n_out, generator)
        self.register_buffer("frequencies", math.pi * torch.arange(1, n_frequencies + 1, dtype=torch.float32))

    def forward(self, t, shift=0.0):  # scalar or (n, 1) -> (1, k) or (n, k)
        t = t.reshape(-1, 1) if t.ndim < 2 else t
        angles = t * self.frequencies.to(t)
        features = torch.cat([2.0 * t - 1.0, torch.sin(angles), torch.cos(angles)], dim=-1)
        return nn.functional.silu(self.hidden(features) + shift)


class _Context(nn.Module):
    """A network of the context alone, whose output shifts the hidden layer of the network of t."""

    def __init__(self, n_context, recipe, generator):
        super().__init__()
        sizes = [n_context] + [recipe.context_width] * recipe.context_depth
        self.layers = nn.ModuleList(_linear(a, b, generator) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:  # spread the kinks over the data
            nn.init.uniform_(layer.bias, -1.0, 1.0, generator=generator)
        self.last = _linear(sizes[-1], recipe.time_width, generator)

    def forward(self, c):  # (n, k) -> (n, time_width)
        for layer in self.layers:
            c = nn.functional.silu(layer(c))
        return self.last(c)


class _TimeDependent(nn.Module):
    """What the networks share: features of t, or of t and a context, and the evaluation on them.

    ``_at(features)``, a list of tensors ``(1, k)`` or ``(n, k)``, is all that the network takes from them;
    ``_value(at, x)`` and ``_value_and_divergence(at, x, held)`` are its own; ``_held`` is what it can compute
    from its weights alone.
    """

    def __init__(self, recipe, generator):
        super().__init__()
        self.time = _TimeFeatures(recipe.n_frequencies, recipe.time_width, generator)
        self.context = None

    def add_context(self, n_context, recipe, generator):
        """Let the features depend on a context of ``n_context`` columns as well."""
        if n_context is not None:
            self.context = _Context(n_context, recipe, generator)
        return self

    def given(self, context):
        return Held(self, self.context(context))

    def forward(self, t, x):
        return self._value(self._at(self.time(t)), x)

    def value_and_divergence(self, t, x):
        return self._value_and_divergence(self._at(self.time(t)), x, self._held())

    def divergence(self, t, x):
        return self.value_and_divergence(t, x)[1]

    def hold_weights(self, times=()):
        return Held(self, held=self._held(), times=times)

    def _held(self):
        return None


class _ClosedFormBlock(nn.Module):
    """Two hidden layers in x, time in biases and scales; see :class:`MLP` for the formula."""

    def __init__(self, n_features, width, n_time, activation, generator):
        super().__init__()
        self.activation = activation
        self.sizes = [width, width, width, width]
        self.w1 = nn.Parameter(_linear(n_features, width, generator).weight.detach())  # (h, d)
        self.w2 = nn.Parameter(_linear(width, width, generator).weight.detach())  # (h, h)
        self.w3 = nn.Parameter(_linear(width, n_features, generator, 0.1).weight.detach())  # (d, h)
        self.time = _linear(n_time, 4 * width, generator, 0.3)
        # spread the kinks of the first layer over the data
        nn.init.uniform_(self.time.bias[:width], -1.0, 1.0, generator=generator)

    def shifts(self, features):
        """Biases and scales of both layers."""
        b1, s1, b2, s2 = self.time(features).split(self.sizes, dim=-1)
        return b1, 1.0 + s1, b2, 1.0 + s2

    def forward(self, shifts, x):
        act = ACTIVATIONS[self.activation]
        b1, s1, b2, s2 = shifts
        h1, _ = act(torch.addcmul(b1, product(x, self.w1), s1))
        h2, _ = act(torch.addcmul(b2, product(h1, self.w2), s2))
        return product(h2, self.w3)

    def mixed(self):
        """The matrix of the divergence, (h, h): of the weights alone."""
        return self.w2 * (self.w1 @ self.w3).mT

    def value_and_divergence(self, shifts, x, mixed):
        return _kernel.block(self.activation, x, *shifts, self.w1, self.w2, self.w3, mixed)


class _ClosedFormNetwork(_TimeDependent):
    def __init__(self, n_features, recipe, generator):
        super().__init__(recipe, generator)
        self.blocks = nn.ModuleList(
            _ClosedFormBlock(n_features, recipe.width, recipe.time_width, recipe.activation, generator)
            for _ in range(recipe.n_blocks)
        )
        # last biases b3(t) and linear term g(t), zero at the start
        self.affine_time = _linear(recipe.time_width, 2 * n_features, generator, 0.0)

    def _at(self, features):
        shifts = (part for block in self.blocks for part in block.shifts(features))
        return [*self.affine_time(features).chunk(2, dim=-1), *shifts]

    def shifts_of_blocks(self, at):
        return [at[i : i + 4] for i in range(2, len(at), 4)]

    def _value(self, at, x):
        value = torch.addcmul(at[0], at[1], x)
        for block, shifts in zip(self.blocks, self.shifts_of_blocks(at), strict=True):
            value = value + block(shifts, x)
        return value

    def _value_and_divergence(self, at, x, held):
        b3, g = at[:2]
        value, divergence = torch.addcmul(b3, g, x), g.sum(-1).expand(x.shape[:-1])
        for block, shifts, mixed in zip(self.blocks, self.shifts_of_blocks(at), held, strict=True):
            v, div = block.value_and_divergence(shifts, x, mixed)
            value, divergence = value + v, divergence + div
        return value, divergence

    def _held(self):
        return [block.mixed() for block in self.blocks]

    def likeness(self):
        """Networks that agree in this differ in their weights alone.

        The weights, and t and x, may have a leading axis of models: one evaluation for many networks.
        """
        shapes = tuple((name, p.shape, p.dtype, p.device) for name, p in self.named_parameters())
        return (*shapes, *(block.activation for block in self.blocks))


class Velocity(Component):
    """A recipe for a network; an author writes ``build``.

    ``build(n_features, generator)`` returns a ``torch.nn.Module`` called as ``v(t, x)`` with ``x`` of shape
    ``(n, d)`` and ``t`` a scalar tensor or of shape ``(n, 1)``.  A module that also has
    ``value_and_divergence(t, x) -> (v, div v)`` is asked for both at once; otherwise the divergence is
    found exactly by d forward-mode products.

    For :class:`~siflow_sk.ConditionalInterpolantFlow` ``build`` also takes ``n_context``, the number of
    columns of the context, and the module has ``given(c)`` for ``c`` of shape ``(n, n_context)``, which
    returns the velocity at that context: an object called as ``v(t, x)``, with or without
    ``value_and_divergence``.
    """

    def build(self, n_features, generator):
        """The untrained module, initialised from ``generator`` alone."""
        raise NotImplementedError(f"{type(self).__name__} must define build(n_features, generator).")


class MLP(Velocity):
    r"""Two hidden layers in x, any network of t alone: a velocity whose divergence is closed-form.

    .. math::
        z_1 &= s_1(t) \circ W_1 x + b_1(t), \quad z_2 = s_2(t) \circ W_2\, a(z_1) + b_2(t), \quad
        v = W_3\, a(z_2) + g(t)\circ x + b_3(t), \\
        \nabla\cdot v &= (a'(z_2)\circ s_2)^\top \left(W_2 \circ (W_1 W_3)^\top\right) (a'(z_1)\circ s_1)
        + \sum_j g_j(t).

    Velocity and divergence together cost about two velocities, whatever the number of columns.  With a
    context c the functions of t become functions of (t, c), and nothing else changes: the hidden layer of the
    network of t is shifted by a network of c.

    Parameters
    ----------
    width : int, default=256
        Units of each hidden layer.
    n_blocks : int, default=1
        The velocity is the sum of this many such networks.
    activation : {"tanh", "silu", "softplus"}, default="tanh"
        The bounded one behaves best in the tails.
    n_frequencies : int, default=4
        Sines and cosines of t, of each.
    time_width : int, default=64
        Hidden units of the network of t.
    context_width, context_depth : int, default=128, 2
        Hidden layers of the network of the context, where there is one.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.velocities import MLP
    >>> v = MLP(width=16).build(3, torch.Generator().manual_seed(0))
    >>> value, divergence = v.value_and_divergence(torch.tensor(0.5), torch.zeros(5, 3))
    >>> value.shape, divergence.shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(
        self,
        width=256,
        n_blocks=1,
        activation="tanh",
        n_frequencies=4,
        time_width=64,
        context_width=128,
        context_depth=2,
    ):
        self.width = width
        self.n_blocks = n_blocks
        self.activation = activation
        self.n_frequencies = n_frequencies
        self.time_width = time_width
        self.context_width = context_width
        self.context_depth = context_depth

    def build(self, n_features, generator, n_context=None):
        """The module.

        Raises
        ------
        ValueError
            A size below 1 or an unknown activation.
        """
        _check_sizes(
            self, "width", "n_blocks", "n_frequencies", "time_width", "context_width", "context_depth"
        )
        return _ClosedFormNetwork(n_features, self, generator).add_context(n_context, self, generator)


class ConditionalMLP(MLP):
    """:class:`MLP` in the size for few targets: what depends on the context is in the functions of (t, c).

    Parameters
    ----------
    width : int, default=64
    n_blocks : int, default=1
    activation : {"tanh", "silu", "softplus"}, default="tanh"
    n_frequencies : int, default=4
    time_width : int, default=64
    context_width, context_depth : int, default=128, 2

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.velocities import ConditionalMLP
    >>> v = ConditionalMLP().build(1, torch.Generator().manual_seed(0), n_context=3)
    >>> v.given(torch.zeros(5, 3))(torch.tensor(0.5), torch.zeros(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        width=64,
        n_blocks=1,
        activation="tanh",
        n_frequencies=4,
        time_width=64,
        context_width=128,
        context_depth=2,
    ):
        super().__init__(width, n_blocks, activation, n_frequencies, time_width, context_width, context_depth)


def _check_sizes(recipe, *names):
    for name in names:
        value = getattr(recipe, name)
        if not (isinstance(value, int) or hasattr(value, "__index__")) or value < 1:
            raise ValueError(f"{type(recipe).__name__}: {name} must be an integer >= 1, got {value!r}.")
    if recipe.activation not in ACTIVATIONS:
        raise ValueError(
            f"{type(recipe).__name__}: activation={recipe.activation!r} is not one of {sorted(ACTIVATIONS)}."
        )


class _ResidualNetwork(_TimeDependent):
    def __init__(self, n_features, recipe, generator):
        super().__init__(recipe, generator)
        self.activation = recipe.activation
        width = recipe.width
        self.first = _linear(n_features, width, generator)
        self.inner = nn.ModuleList(_linear(width, width, generator) for _ in range(recipe.depth))
        self.outer = nn.ModuleList(_linear(width, width, generator, 0.3) for _ in range(recipe.depth))
        self.shifts = nn.ModuleList(_linear(recipe.time_width, width, generator) for _ in range(recipe.depth))
        self.last = _linear(width, n_features, generator, 0.1)
        self.affine_time = _linear(recipe.time_width, 2 * n_features, generator, 0.0)
        probes = torch.rand(recipe.n_probes, n_features, generator=generator, dtype=torch.float32) < 0.5
        exact = recipe.divergence == "exact"
        self.register_buffer("probes", None if exact else 2.0 * probes.float() - 1.0)

    @property
    def n_directions(self):
        """Jacobian-vector products that are there at once."""
        return min(_AT_ONCE, self.last.out_features if self.probes is None else len(self.probes))

    def _at(self, features):
        return [*self.affine_time(features).chunk(2, dim=1), *(shift(features) for shift in self.shifts)]

    def _value(self, at, x):
        act = ACTIVATIONS[self.activation]
        h = self.first(x)
        for inner, outer, shift in zip(self.inner, self.outer, at[2:], strict=True):
            h = h + outer(act(inner(act(h)[0]) + shift)[0])
        return torch.addcmul(at[0], at[1], x) + self.last(act(h)[0])

    def _value_and_divergence(self, at, x, held):
        if self.probes is None:
            return exact_divergence(self._value, at, x)
        return probed_divergence(self._value, at, x, self.probes.to(x))

    def value_and_probes(self, t, x):
        """Velocity and one estimate of the divergence per probe, ``(n, m)``."""
        at = self._at(self.time(t))
        return self._value(at, x), probe_products(self._value, at, x, self.probes.to(x))


def probed_divergence(v, t, x, probes):
    r"""Velocity and Hutchinson's estimate of its divergence, :math:`\frac1m\sum_i e_i^\top (\nabla v) e_i`.

    Parameters
    ----------
    v : callable
    t : tensor, scalar or (n, 1)
    x : tensor of shape (n, d)
    probes : tensor of shape (m, d)
        Entries +1 or -1, the same for every row and every time, so that the flow that is integrated is one
        well-defined ordinary differential equation.
    """
    return v(t, x), probe_products(v, t, x, probes).mean(1)


def probe_products(v, t, x, probes):
    r""":math:`e_i^\top (\nabla v) e_i` of every row and probe, ``(n, m)``; see :func:`probed_divergence`."""

    def product(probe):
        _, dv = jvp(lambda y: v(t, y), (x,), (probe.expand_as(x),))
        return (dv * probe).sum(1)

    return vmap(product, out_dims=1, chunk_size=_AT_ONCE)(probes)


class ResidualMLP(Velocity):
    """A deep residual network of (t, x), for densities that two hidden layers cannot hold.

    Parameters
    ----------
    width : int, default=256
    depth : int, default=3
        Residual blocks of two layers each.
    activation : {"silu", "tanh", "softplus"}, default="silu"
    divergence : {"exact", "hutchinson"}, default="exact"
        ``"exact"``: d forward-mode products.  ``"hutchinson"``: ``n_probes`` random products, cheaper for
        many columns; the probes are drawn once, so log-densities repeat but carry a systematic error, whose
        standard error ``score_samples(X, return_error=True)`` counts in.
    n_probes : int, default=4
        Only for ``"hutchinson"``; with a single one the standard error is unknown (NaN).
    n_frequencies : int, default=4
    time_width : int, default=64
    context_width, context_depth : int, default=128, 2
        Hidden layers of the network of the context, where there is one.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.velocities import ResidualMLP
    >>> v = ResidualMLP(width=16, depth=2).build(3, torch.Generator().manual_seed(0))
    >>> v(torch.tensor(0.5), torch.zeros(5, 3)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        width=256,
        depth=3,
        activation="silu",
        divergence="exact",
        n_probes=4,
        n_frequencies=4,
        time_width=64,
        context_width=128,
        context_depth=2,
    ):
        self.width = width
        self.depth = depth
        self.activation = activation
        self.divergence = divergence
        self.n_probes = n_probes
        self.n_frequencies = n_frequencies
        self.time_width = time_width
        self.context_width = context_width
        self.context_depth = context_depth

    def build(self, n_features, generator, n_context=None):
        """The module.

        Raises
        ------
        ValueError
            A size below 1, an unknown activation or divergence.
        """
        _check_sizes(
            self,
            "width",
            "depth",
            "n_probes",
            "n_frequencies",
            "time_width",
            "context_width",
            "context_depth",
        )
        if self.divergence not in ("exact", "hutchinson"):
            raise ValueError(f"divergence={self.divergence!r} is not one of ['exact', 'hutchinson'].")
        return _ResidualNetwork(n_features, self, generator).add_context(n_context, self, generator)


VELOCITIES = {"mlp": MLP, "residual": ResidualMLP}
CONDITIONAL_VELOCITIES = {"mlp": ConditionalMLP, "residual": ResidualMLP}
