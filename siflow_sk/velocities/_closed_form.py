"""Two hidden layers in x: the divergence is one more product."""

import torch
from torch import nn

from .. import _kernel
from .._kernel import product
from ._base import ACTIVATIONS, TimeDependent, Velocity, check_sizes, linear


class _ClosedFormBlock(nn.Module):
    """Two hidden layers in x, time in biases and scales; see :class:`MLP` for the formula."""

    def __init__(self, n_features, width, n_time, activation, generator):
        super().__init__()
        self.activation = activation
        self.sizes = [width, width, width, width]
        self.w1 = nn.Parameter(linear(n_features, width, generator).weight.detach())  # (h, d)
        self.w2 = nn.Parameter(linear(width, width, generator).weight.detach())  # (h, h)
        self.w3 = nn.Parameter(linear(width, n_features, generator, 0.1).weight.detach())  # (d, h)
        self.time = linear(n_time, 4 * width, generator, 0.3)
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


class _ClosedFormNetwork(TimeDependent):
    def __init__(self, n_features, recipe, generator):
        super().__init__(recipe, generator)
        self.blocks = nn.ModuleList(
            _ClosedFormBlock(n_features, recipe.width, recipe.time_width, recipe.activation, generator)
            for _ in range(recipe.n_blocks)
        )
        # last biases b3(t) and linear term g(t), zero at the start
        self.affine_time = linear(recipe.time_width, 2 * n_features, generator, 0.0)

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


class MeanOfClosedForms:
    """The mean of such networks, as one that has all their blocks: what each does beside them is done once.

    For :class:`~siflow_sk._held.Held`; the networks have no context.
    """

    def __init__(self, networks):
        self.networks = networks
        self.blocks = [block for network in networks for block in network.blocks]

    @staticmethod
    def suits(networks):
        return all(isinstance(n, _ClosedFormNetwork) and n.context is None for n in networks)

    def named_parameters(self):
        for network in self.networks:
            yield from network.named_parameters()

    def time(self, t, shift=0.0):
        """Features of t that each network has."""
        return [network.time(t, shift) for network in self.networks]

    def _at(self, features):
        (b3, g, *shifts), *others = (n._at(f) for n, f in zip(self.networks, features, strict=True))
        for other_b3, other_g, *others_shifts in others:
            b3, g, shifts = b3 + other_b3, g + other_g, [*shifts, *others_shifts]
        return [b3, g, *shifts]

    shifts_of_blocks, _held = _ClosedFormNetwork.shifts_of_blocks, _ClosedFormNetwork._held

    def _value(self, at, x):
        return _ClosedFormNetwork._value(self, at, x) / len(self.networks)

    def _value_and_divergence(self, at, x, held):
        value, divergence = _ClosedFormNetwork._value_and_divergence(self, at, x, held)
        return value / len(self.networks), divergence / len(self.networks)


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
        check_sizes(
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
