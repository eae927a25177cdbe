"""The interface of a preprocessor and the composition of maps."""

import copy

import torch

from .._component import Component


class Preprocessor(Component):
    """An invertible map of the data with its log-determinant, fitted in float64.

    To write your own, subclass and define ``fit(x, weight)``, ``forward(x) -> (z, log_det)`` and
    ``inverse(z)``.  All tensors are float64: ``x``, ``z`` ``(n, d)``, ``weight`` ``(n,)`` summing to 1,
    ``log_det`` ``(n,)`` the logarithm of ``|det dz/dx|``.  Rows must not influence each other in ``forward``.
    They are on the CPU, unless there is also ``copy_to(device)``: a copy for tensors on ``device``.
    """

    def fit(self, x, weight):
        """Learn the statistics."""
        return self

    def forward(self, x):
        """``(z, log_det)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x).")

    def inverse(self, z):
        """``x`` with ``forward(x)[0] == z``."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse(z).")


class Chain:
    """Maps applied one after the other; not a parameter-bearing part itself."""

    def __init__(self, *maps):
        self.maps = maps

    def fit(self, x, weight):
        for step in self.maps:
            x = step.fit(x, weight).forward(x)[0]
        return self

    def forward(self, x):
        total = x.new_zeros(len(x))
        for step in self.maps:
            x, log_det = step.forward(x)
            total = total + log_det
        return x, total

    def inverse(self, z):
        for step in reversed(self.maps):
            z = step.inverse(z)
        return z

    def copy_to(self, device):
        return Chain(*(_moved(step, device) for step in self.maps))


def _moved(step, device):
    """A copy of a map with its tensors on ``device``."""
    moved = copy.copy(step)
    for name, value in vars(step).items():
        if isinstance(value, torch.Tensor):
            setattr(moved, name, value.to(device))
    return moved


def moments(x, weight):
    """Weighted mean and standard deviation of the columns."""
    mean = weight @ x
    return mean, torch.sqrt(weight @ (x - mean) ** 2)
