"""The recipe, and what the networks share."""

import itertools
import math

import torch
from torch import nn

from .._component import Component
from .._held import Held
from .._kernel import SMOOTH, product

ACTIVATIONS = {name: value_and_slope for name, (value_and_slope, _) in SMOOTH.items()}


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


def check_sizes(recipe, *names):
    for name in names:
        value = getattr(recipe, name)
        if not (isinstance(value, int) or hasattr(value, "__index__")) or value < 1:
            raise ValueError(f"{type(recipe).__name__}: {name} must be an integer >= 1, got {value!r}.")
    if recipe.activation not in ACTIVATIONS:
        raise ValueError(
            f"{type(recipe).__name__}: activation={recipe.activation!r} is not one of {sorted(ACTIVATIONS)}."
        )


class _Linear(nn.Linear):
    def reset_parameters(self):
        """Nothing: torch's draws from its global generator."""

    def forward(self, x):
        return product(x, self.weight) + self.bias.unsqueeze(-2)


def linear(n_in, n_out, generator, gain=1.0):
    layer = _Linear(n_in, n_out, dtype=torch.float32)
    bound = gain * math.sqrt(3.0 / n_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class _TimeFeatures(nn.Module):
    """A small network of t alone: Fourier features, one hidden layer; what a context adds to that layer."""

    def __init__(self, n_frequencies, n_out, generator):
        super().__init__()
        self.hidden = linear(1 + 2 * n_frequencies, n_out, generator)
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
        self.layers = nn.ModuleList(linear(a, b, generator) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:  # spread the kinks over the data
            nn.init.uniform_(layer.bias, -1.0, 1.0, generator=generator)
        self.last = linear(sizes[-1], recipe.time_width, generator)

    def forward(self, c):  # (n, k) -> (n, time_width)
        for layer in self.layers:
            c = nn.functional.silu(layer(c))
        return self.last(c)


class TimeDependent(nn.Module):
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
