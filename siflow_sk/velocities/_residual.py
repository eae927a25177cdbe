"""A deep residual network, whose divergence is found by forward-mode products."""

import torch
from torch import nn
from torch.func import vmap

from .._forward_mode import jvp
from ._base import ACTIVATIONS, TimeDependent, Velocity, check_sizes, linear
from ._functions import AT_ONCE, exact_divergence


class _ResidualNetwork(TimeDependent):
    def __init__(self, n_features, recipe, generator):
        super().__init__(recipe, generator)
        self.activation = recipe.activation
        width = recipe.width
        self.first = linear(n_features, width, generator)
        self.inner = nn.ModuleList(linear(width, width, generator) for _ in range(recipe.depth))
        self.outer = nn.ModuleList(linear(width, width, generator, 0.3) for _ in range(recipe.depth))
        self.shifts = nn.ModuleList(linear(recipe.time_width, width, generator) for _ in range(recipe.depth))
        self.last = linear(width, n_features, generator, 0.1)
        self.affine_time = linear(recipe.time_width, 2 * n_features, generator, 0.0)
        probes = torch.rand(recipe.n_probes, n_features, generator=generator, dtype=torch.float32) < 0.5
        exact = recipe.divergence == "exact"
        self.register_buffer("probes", None if exact else 2.0 * probes.float() - 1.0)

    @property
    def n_directions(self):
        """Jacobian-vector products that are there at once."""
        return min(AT_ONCE, self.last.out_features if self.probes is None else len(self.probes))

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

    return vmap(product, out_dims=1, chunk_size=AT_ONCE)(probes)


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
        check_sizes(
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
