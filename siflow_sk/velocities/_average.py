"""The mean of several velocities."""

import functools

import torch
from torch import nn

from .._held import Held
from ._closed_form import MeanOfClosedForms
from ._functions import given, hold_weights, velocity_and_divergence


class _Mean:
    """What networks and held networks share: of ``networks``, the mean of what they say."""

    def _mean(self, function, *inputs):
        """Mean of the tensors that ``function(network, *inputs)`` returns, or of each in its tuples."""
        found = [function(network, *inputs) for network in self.networks]
        if isinstance(found[0], torch.Tensor):
            return functools.reduce(torch.add, found) / len(found)
        return tuple(functools.reduce(torch.add, parts) / len(found) for parts in zip(*found, strict=True))

    def __call__(self, t, x):
        return self._mean(lambda network: network(t, x))

    def value_and_divergence(self, t, x):
        return self._mean(velocity_and_divergence, t, x)

    def given(self, context):
        return HeldAverage([given(network, context) for network in self.networks], self)

    def hold_weights(self, times=()):
        if MeanOfClosedForms.suits(self.networks):
            return Held(MeanOfClosedForms(self.networks)).hold_weights(times)
        return HeldAverage([hold_weights(network, times) for network in self.networks], self)


class HeldAverage(_Mean):
    """An average at a context, or with what depends on weights alone computed once, or both."""

    def __init__(self, networks, average):
        self.networks, self.network = networks, getattr(average, "network", average)

    def at_times(self, times):
        held = [v.at_times(times) if hasattr(v, "at_times") else v for v in self.networks]
        return HeldAverage(held, self)


class Average(nn.Module, _Mean):
    r"""The mean of networks that were trained each by itself.

    .. math:: v_t(x) = \frac1K \sum_k v_{k,t}(x), \qquad
              \nabla\cdot v_t(x) = \frac1K \sum_k \nabla\cdot v_{k,t}(x)

    It is a velocity, with a flow of its own.  What one network learns by heart of few rows another does not.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        Called as ``v(t, x)``, of the same columns.

    Examples
    --------
    >>> import torch
    >>> from siflow_sk.velocities import MLP, Average
    >>> first, second = (MLP(width=16).build(3, torch.Generator().manual_seed(k)) for k in range(2))
    >>> t, x = torch.tensor(0.5), torch.zeros(5, 3)
    >>> torch.allclose(Average([first, second])(t, x), (first(t, x) + second(t, x)) / 2)
    True
    """

    def __init__(self, networks):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, t, x):
        return _Mean.__call__(self, t, x)

    # what some networks have, and then all of one recipe
    probes = property(lambda self: self.networks[0].probes)
    n_directions = property(lambda self: self.networks[0].n_directions)
    polishing = property(lambda self: self.networks[0].polishing)

    @property
    def likeness(self):
        """What networks have that may be stacked: averages of such may be, too."""
        of_each = [network.likeness for network in self.networks]
        return lambda: tuple(likeness() for likeness in of_each)

    def value_and_probes(self, t, x):
        return self._mean(lambda network: network.value_and_probes(t, x))
