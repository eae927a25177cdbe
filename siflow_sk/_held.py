"""A network for several evaluations: what its weights, a context or a time determine is computed once.

Of a network it takes ``time(t, shift)``, ``context(c)`` and ``_at``, ``_held``, ``_value`` and
``_value_and_divergence``; see :mod:`siflow_sk.velocities`.
"""

import torch

_MOST_TIMES = 1024  # kept by value: an adaptive solver passes others with every block


class Held:
    """A network at a context, or with what depends on its present weights alone computed once, or both."""

    def __init__(self, network, shift=0.0, held=None, times=()):
        self.network, self.shift, self.held, self.times = network, shift, held, times
        self._known = self._at_all(times) if len(times) else {}

    def given(self, context):
        return Held(self.network, self.network.context(context), self.held, self.times)

    def hold_weights(self, times=()):
        return Held(self.network, self.shift, self.network._held(), times)

    def _at_all(self, times):
        """``id(t)`` of each time -> what the network takes from it; ``times`` keeps the tensors alive."""
        if isinstance(self.shift, torch.Tensor):  # of every row
            return {id(t): self.network._at(self.network.time(t, self.shift)) for t in times}
        column = torch.cat([t.reshape(1, 1) if t.ndim == 0 else t for t in times], -2)
        parts = (part.split(1, -2) for part in self.network._at(self.network.time(column)))
        return dict(zip(map(id, times), zip(*parts, strict=True), strict=True))

    def _at(self, t):
        known = self._known.get(id(t))
        if known is not None:
            return known
        if self.held is None or isinstance(self.shift, torch.Tensor) or not _is_number(t):
            return self.network._at(self.network.time(t, self.shift))
        # the blocks of a table pass the same times
        key = float(t)
        known = self._known.get(key)
        if known is None:
            known = self.network._at(self.network.time(t, self.shift))
            if len(self._known) < _MOST_TIMES:
                self._known[key] = known
        return known

    def __call__(self, t, x):
        return self.network._value(self._at(t), x)

    def value_and_divergence(self, t, x):
        held = self.network._held() if self.held is None else self.held
        return self.network._value_and_divergence(self._at(t), x, held)


def _is_number(t):
    """Whether a time can be read without waiting for a device or losing a gradient."""
    return t.ndim == 0 and t.device.type == "cpu" and not torch.is_grad_enabled()


class InSingle:
    """A held network in float32, for points of another dtype, in which its results come back."""

    def __init__(self, held):
        self.held = held

    @property
    def network(self):
        return self.held.network

    def given(self, context):
        return InSingle(self.held.given(context.float()))

    def value_and_divergence(self, t, x):
        value, divergence = self.held.value_and_divergence(t.float(), x.float())
        return value.to(x), divergence.to(x)
