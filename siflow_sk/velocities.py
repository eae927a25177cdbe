"""Networks v(t, x) that also know their divergence.

A recipe (:class:`MLP`, :class:`ResidualMLP`) stores what the user asked for; its ``build`` makes the
module that is trained.  Below the door everything is a tensor: ``x`` has shape ``(n, d)``, ``t`` is a
scalar tensor or has shape ``(n, 1)``.
"""

import math

import torch
from torch import nn
from torch.func import jvp, vmap

from . import _kernel
from ._component import Component
from ._kernel import SMOOTH, product

ACTIVATIONS = {name: value_and_slope for name, (value_and_slope, _) in SMOOTH.items()}


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
    return v(t, x), vmap(column, chunk_size=16)(basis).sum(0)


def velocity_and_divergence(v, t, x):
    """``v(t, x)`` and its divergence: the module's own closed form, else forward mode."""
    if hasattr(v, "value_and_divergence"):
        return v.value_and_divergence(t, x)
    return exact_divergence(v, t, x)


def hold_weights(v):
    """The velocity for several evaluations at the same weights: what depends on these alone is done once."""
    return v.hold_weights() if hasattr(v, "hold_weights") else v


class _Linear(nn.Linear):
    def forward(self, x):
        return product(x, self.weight) + self.bias


def _linear(n_in, n_out, generator, gain=1.0):
    layer = nn.utils.skip_init(_Linear, n_in, n_out)
    bound = gain * math.sqrt(3.0 / n_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class _TimeFeatures(nn.Module):
    """A small network of t alone: Fourier features, one hidden layer."""

    def __init__(self, n_frequencies, n_out, generator):
        super().__init__()
        self.hidden = _linear(1 + 2 * n_frequencies, n_out, generator)
        self.register_buffer("frequencies", math.pi * torch.arange(1, n_frequencies + 1))

    def forward(self, t):  # scalar or (n, 1) -> (1, k) or (n, k)
        t = t.reshape(-1, 1)
        angles = t * self.frequencies.to(t)
        features = torch.cat([2.0 * t - 1.0, torch.sin(angles), torch.cos(angles)], dim=1)
        return nn.functional.silu(self.hidden(features))


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

    def _shifts(self, features):
        b1, s1, b2, s2 = self.time(features).split(self.sizes, dim=1)
        return b1, 1.0 + s1, b2, 1.0 + s2

    def forward(self, features, x):
        act = ACTIVATIONS[self.activation]
        b1, s1, b2, s2 = self._shifts(features)
        h1, _ = act(torch.addcmul(b1, product(x, self.w1), s1))
        h2, _ = act(torch.addcmul(b2, product(h1, self.w2), s2))
        return product(h2, self.w3)

    def mixed(self):
        """The matrix of the divergence, (h, h): of the weights alone."""
        return self.w2 * (self.w1 @ self.w3).T

    def value_and_divergence(self, features, x, mixed):
        shifts = self._shifts(features)
        return _kernel.block(self.activation, x, *shifts, self.w1, self.w2, self.w3, mixed)


class _ClosedFormNetwork(nn.Module):
    def __init__(self, n_features, recipe, generator):
        super().__init__()
        self.time = _TimeFeatures(recipe.n_frequencies, recipe.time_width, generator)
        self.blocks = nn.ModuleList(
            _ClosedFormBlock(n_features, recipe.width, recipe.time_width, recipe.activation, generator)
            for _ in range(recipe.n_blocks)
        )
        # last biases b3(t) and linear term g(t), zero at the start
        self.affine_time = _linear(recipe.time_width, 2 * n_features, generator, 0.0)

    def forward(self, t, x):
        features = self.time(t)
        b3, g = self.affine_time(features).chunk(2, dim=1)
        return sum((block(features, x) for block in self.blocks), torch.addcmul(b3, g, x))

    def value_and_divergence(self, t, x, mixed=None):
        features = self.time(t)
        b3, g = self.affine_time(features).chunk(2, dim=1)
        value, divergence = torch.addcmul(b3, g, x), g.sum(1).expand(len(x))
        mixed = [block.mixed() for block in self.blocks] if mixed is None else mixed
        for block, matrix in zip(self.blocks, mixed, strict=True):
            v, div = block.value_and_divergence(features, x, matrix)
            value, divergence = value + v, divergence + div
        return value, divergence

    def divergence(self, t, x):
        return self.value_and_divergence(t, x)[1]

    def hold_weights(self):
        return _Held(self)


class _Held:
    """A closed-form network at its present weights."""

    def __init__(self, network):
        self.network, self.mixed = network, [block.mixed() for block in network.blocks]

    def __call__(self, t, x):
        return self.network(t, x)

    def value_and_divergence(self, t, x):
        return self.network.value_and_divergence(t, x, self.mixed)


class Velocity(Component):
    """A recipe for a network; an author writes ``build``.

    ``build(n_features, generator)`` returns a ``torch.nn.Module`` called as ``v(t, x)`` with ``x`` of shape
    ``(n, d)`` and ``t`` a scalar tensor or of shape ``(n, 1)``.  A module that also has
    ``value_and_divergence(t, x) -> (v, div v)`` is asked for both at once; otherwise the divergence is
    found exactly by d forward-mode products.
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

    Velocity and divergence together cost about two velocities, whatever the number of columns.

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

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.velocities import MLP
    >>> v = MLP(width=16).build(3, torch.Generator().manual_seed(0))
    >>> value, divergence = v.value_and_divergence(torch.tensor(0.5), torch.zeros(5, 3))
    >>> value.shape, divergence.shape
    (torch.Size([5, 3]), torch.Size([5]))
    """

    def __init__(self, width=256, n_blocks=1, activation="tanh", n_frequencies=4, time_width=64):
        self.width = width
        self.n_blocks = n_blocks
        self.activation = activation
        self.n_frequencies = n_frequencies
        self.time_width = time_width

    def build(self, n_features, generator):
        """The module.

        Raises
        ------
        ValueError
            A size below 1 or an unknown activation.
        """
        _check_sizes(self, "width", "n_blocks", "n_frequencies", "time_width")
        return _ClosedFormNetwork(n_features, self, generator)


def _check_sizes(recipe, *names):
    for name in names:
        value = getattr(recipe, name)
        if not (isinstance(value, int) or hasattr(value, "__index__")) or value < 1:
            raise ValueError(f"{type(recipe).__name__}: {name} must be an integer >= 1, got {value!r}.")
    if recipe.activation not in ACTIVATIONS:
        raise ValueError(
            f"{type(recipe).__name__}: activation={recipe.activation!r} is not one of {sorted(ACTIVATIONS)}."
        )


class _ResidualNetwork(nn.Module):
    def __init__(self, n_features, recipe, generator):
        super().__init__()
        self.activation = recipe.activation
        self.time = _TimeFeatures(recipe.n_frequencies, recipe.time_width, generator)
        width = recipe.width
        self.first = _linear(n_features, width, generator)
        self.inner = nn.ModuleList(_linear(width, width, generator) for _ in range(recipe.depth))
        self.outer = nn.ModuleList(_linear(width, width, generator, 0.3) for _ in range(recipe.depth))
        self.shifts = nn.ModuleList(_linear(recipe.time_width, width, generator) for _ in range(recipe.depth))
        self.last = _linear(width, n_features, generator, 0.1)
        self.affine_time = _linear(recipe.time_width, 2 * n_features, generator, 0.0)
        probes = torch.rand(recipe.n_probes, n_features, generator=generator) < 0.5
        exact = recipe.divergence == "exact"
        self.register_buffer("probes", None if exact else 2.0 * probes.float() - 1.0)

    def forward(self, t, x):
        act = ACTIVATIONS[self.activation]
        features = self.time(t)
        b, g = self.affine_time(features).chunk(2, dim=1)
        h = self.first(x)
        for inner, outer, shift in zip(self.inner, self.outer, self.shifts, strict=True):
            h = h + outer(act(inner(act(h)[0]) + shift(features))[0])
        return torch.addcmul(b, g, x) + self.last(act(h)[0])

    def value_and_divergence(self, t, x):
        if self.probes is None:
            return exact_divergence(self.forward, t, x)
        return probed_divergence(self.forward, t, x, self.probes.to(x))

    def value_and_probes(self, t, x):
        """Velocity and one estimate of the divergence per probe, ``(n, m)``."""
        return self.forward(t, x), probe_products(self.forward, t, x, self.probes.to(x))

    def divergence(self, t, x):
        return self.value_and_divergence(t, x)[1]


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

    return vmap(product, out_dims=1, chunk_size=16)(probes)


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
    ):
        self.width = width
        self.depth = depth
        self.activation = activation
        self.divergence = divergence
        self.n_probes = n_probes
        self.n_frequencies = n_frequencies
        self.time_width = time_width

    def build(self, n_features, generator):
        """The module.

        Raises
        ------
        ValueError
            A size below 1, an unknown activation or divergence.
        """
        _check_sizes(self, "width", "depth", "n_probes", "n_frequencies", "time_width")
        if self.divergence not in ("exact", "hutchinson"):
            raise ValueError(f"divergence={self.divergence!r} is not one of ['exact', 'hutchinson'].")
        return _ResidualNetwork(n_features, self, generator)


VELOCITIES = {"mlp": MLP, "residual": ResidualMLP}
