"""A velocity that sees angles through their cosines and sines, and what its divergence becomes."""

import torch
from torch import nn

from .._held import Held
from .._kernel import product
from ..velocities import ACTIVATIONS, Velocity, exact_divergence
from ..velocities._closed_form import _ClosedFormNetwork
from ._parts import Halves, take

N_HARMONICS = 3  # more of them overfit, fewer are too smooth for the narrow clusters of dihedral angles
# unit of what the network says of an angle, about half a turn: the truth is of this size
UNIT = 3.0


class PeriodicVelocity(Velocity):
    r"""Any network, on :math:`\cos k\varphi, \sin k\varphi` (k = 1, 2, 3) in place of every angle.

    The field has the period of the angles, whatever the network.  Of an :class:`~siflow_sk.velocities.MLP`
    the divergence stays closed-form,

    .. math:: \sum_i \partial_{\varphi_i} v_i = \sum_i (w_{3,i} \circ a'(z_2) \circ s_2)^\top W_2
              \left(a'(z_1) \circ s_1 \circ W_1 \partial_{\varphi_i} e(\varphi)\right)

    with e the features and :math:`w_{3,i}` the row of :math:`W_3` that makes :math:`v_i`: one more matrix
    product for each angle.  Of other networks it is found exactly by d forward-mode products.  The outputs
    for angles are taken times 3, about half a turn.

    Parameters
    ----------
    velocity : Velocity
        Its ``build`` is asked for a network of as many columns as there are features.
    angular : tuple of int
        The columns that are angles.
    """

    def __init__(self, velocity, angular):
        self.velocity = velocity
        self.angular = angular

    def build(self, n_features, generator):
        """The module."""
        halves = Halves(self.angular, n_features)
        network = self.velocity.build(len(halves.ordinary) + 2 * N_HARMONICS * len(halves.angular), generator)
        closed_form = isinstance(network, _ClosedFormNetwork)
        return (_ClosedForm if closed_form else _Embedded)(network, halves)


class _Embedded(nn.Module):
    """A network of the features of x, of whose outputs one is kept for each column of x."""

    # Runge-Kutta steps and penalty of the polish.  A field that draws a circle together has to tear it
    # somewhere, and there two steps are never right: at a penalty of 100 polish only smoothed the tear
    polishing = (4, 10.0)

    def __init__(self, network, halves):
        super().__init__()
        self.network = network
        self.angular, self.ordinary = halves.angular, halves.ordinary
        n, step = len(self.ordinary), 2 * N_HARMONICS
        # the outputs of ordinary columns, then of each angle's first feature, in the order of the columns
        kept = [*range(n), *(n + step * i for i in range(len(self.angular)))]
        self.kept = [kept[i] for i in halves.order]
        unit = [UNIT if j in self.angular else 1.0 for j in range(len(kept))]
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32))

    def features(self, x):
        """Features ``(n, f)`` and the derivatives of those of each angle ``(n, p, 2k)`` by it."""
        k = torch.arange(1, N_HARMONICS + 1, dtype=x.dtype, device=x.device)
        angles = take(x, self.angular)[..., None] * k
        cos, sin = torch.cos(angles), torch.sin(angles)
        waves, rates = torch.cat([cos, sin], -1), torch.cat([-k * sin, k * cos], -1)
        return torch.cat([take(x, self.ordinary), waves.flatten(1)], 1), rates

    def forward(self, t, x):
        return take(self.network(t, self.features(x)[0]), self.kept) * self.unit

    def value_and_divergence(self, t, x):
        return exact_divergence(self, t, x)


class _ClosedForm(_Embedded):
    """Of features of t that the network of t makes, ``time``, as the networks of the line are."""

    def time(self, t, shift=0.0):
        return self.network.time(t, shift)

    def hold_weights(self, times=()):
        return Held(self, held=self._held(), times=times)

    def value_and_divergence(self, t, x):
        return self._value_and_divergence(self._at(self.time(t)), x, self._held())

    def _at(self, features):
        return self.network._at(features)

    def _value(self, at, x):
        return take(self.network._value(at, self.features(x)[0]), self.kept) * self.unit

    def _held(self):
        return [self._matrices(block) for block in self.network.blocks]

    def _matrices(self, block):
        """Kept rows of w3; matrices of the divergence: of ordinary columns, and with w1 of each angle."""
        n, step = len(self.ordinary), 2 * N_HARMONICS
        w3 = torch.stack([block.w3[j] for j in self.kept]) * self.unit[:, None]
        flat = block.w2 * (block.w1[:, :n] @ block.w3[:n]).T if n else None
        first = range(n, len(block.w3), step)  # of the features of each angle
        turning = [(block.w1[:, j : j + step], block.w2 * (UNIT * block.w3[j])[:, None]) for j in first]
        return w3, flat, turning

    def _value_and_divergence(self, at, x, held):
        features, rates = self.features(x)
        n = len(self.ordinary)
        b3, g = at[:2]
        value = take(torch.addcmul(b3, g, features), self.kept) * self.unit
        divergence = g[:, :n].sum(1).expand(len(x))
        for i in range(len(self.angular)):
            divergence = divergence + UNIT * g[:, n + i * rates.shape[2]] * rates[:, i, 0]
        for block, shifts, matrices in zip(
            self.network.blocks, self.network.shifts_of_blocks(at), held, strict=True
        ):
            v, div = _block(block, shifts, features, rates, *matrices)
            value, divergence = value + v, divergence + div
        return value, divergence


def _block(block, shifts, features, rates, w3, flat, turning):
    """Value and divergence of one block."""
    act = ACTIVATIONS[block.activation]
    b1, s1, b2, s2 = shifts
    h1, a1 = act(torch.addcmul(b1, product(features, block.w1), s1))
    h2, a2 = act(torch.addcmul(b2, product(h1, block.w2), s2))
    e1 = a1 * s1
    q = 0.0 if flat is None else product(e1, flat)
    for i, (w1, mixed) in enumerate(turning):
        q = q + product(e1 * product(rates[:, i], w1), mixed)  # the rate of the first layer along the angle
    return product(h2, w3), (q * (a2 * s2)).sum(1)
