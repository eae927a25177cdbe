"""A network for several evaluations: what its weights, a context or a time determine is computed once.

Of a network it takes ``time(t, shift)``, ``context(c)`` and ``_at``, ``_held``, ``_value`` and
``_value_and_divergence``; see :mod:`siflow_sk.velocities`.
"""

import torch


class Held:
    """A network at a context, or with what depends on its present weights alone computed once, or both."""

    def __init__(self, network, shift=0.0, held=None, times=()):
        self.network, self.shift, self.held, self.times = network, shift, held, times
        self._known = self._at_all(times) if len(times) else {}

    def given(self, context):
        return Held(self.network, self.network.context(context), self.held, self.times)

    def hold_weights(self, times=()):
        held = self.network._held() if self.held is None else self.held
        return Held(self.network, self.shift, held, times)

    def at_times(self, times):
        """The same, knowing these times; itself where every row has a context, and so features of its own."""
        if isinstance(self.shift, torch.Tensor):
            return self
        return Held(self.network, self.shift, self.held, times)

    def _at_all(self, times):
        """``id(t)`` of each time -> what the network takes from it; ``times`` keeps the tensors alive."""
        if isinstance(self.shift, torch.Tensor):  # of every row
            return {id(t): self.network._at(self.network.time(t, self.shift)) for t in times}
        column = torch.cat([t.reshape(1, 1) if t.ndim == 0 else t for t in times], -2)
        parts = (part.split(1, -2) for part in self.network._at(self.network.time(column)))
        return dict(zip(map(id, times), zip(*parts, strict=True), strict=True))

    def _at(self, t):
        known = self._known.get(id(t))
        return self.network._at(self.network.time(t, self.shift)) if known is None else known

    def __call__(self, t, x):
        return self.network._value(self._at(t), x)

    def value_and_divergence(self, t, x):
        held = self.network._held() if self.held is None else self.held
        return self.network._value_and_divergence(self._at(t), x, held)


class InSingle:
    """A held network in float32, for points of any dtype; its results are of float32."""

    def __init__(self, held, times=()):
        in_single = [t.float() for t in times]
        self.held, self.times = held.at_times(in_single) if times else held, times
        self._known = dict(zip(map(id, times), in_single, strict=True))

    @property
    def network(self):
        return self.held.network

    def given(self, context):
        return InSingle(self.held.given(context.float()))

    def at_times(self, times):
        return InSingle(self.held, times) if hasattr(self.held, "at_times") else self

    def _at(self, t):
        known = self._known.get(id(t))
        return t.float() if known is None else known

    def __call__(self, t, x):
        return self.held(self._at(t), x.float())

    def value_and_divergence(self, t, x):
        return self.held.value_and_divergence(self._at(t), x.float())
