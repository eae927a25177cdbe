"""The configuration of the tables in arXiv:2209.15571, as far as it is known: a plain network and no polish.

The hyper-parameters are quoted from memory of the paper's table; what it leaves open is filled in as said at
:func:`train`.
"""

import copy
import itertools
import math
import time
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .._likelihood import log_density
from .._objective import quadratic_loss
from ..bases import StandardNormal
from ..interpolants import Trigonometric
from ..solvers import DormandPrince
from ..velocities._base import linear

STEPS = 100_000
_DECAYS = 25  # times that the learning rate is multiplied by 0.8
_MAX_VALID_ROWS = 4096


class Configuration(NamedTuple):
    """One column of the paper's table."""

    batch: int  # rows of the target
    base_batch: int
    rate: float
    width: int
    layers: int
    activation: str
    beta: float  # times are drawn from Beta(1, beta)


CONFIGURATIONS = {
    "power": Configuration(800, 150, 0.003, 512, 4, "relu", 0.5),
    "gas": Configuration(800, 150, 0.003, 512, 5, "relu", 0.5),
    "hepmass": Configuration(800, 150, 0.003, 512, 4, "relu", 0.5),
    "miniboone": Configuration(800, 150, 0.003, 512, 4, "relu", 1.0),
    "bsds300": Configuration(300, 200, 0.002, 1024, 5, "elu", 0.7),
}


def _relu(z):
    return torch.relu(z), (z > 0).to(z)


def _elu(z):
    y = nn.functional.elu(z)
    return y, torch.where(z > 0, 1.0, y + 1.0)


_ACTIVATIONS = {"relu": _relu, "elu": _elu}


class PlainMLP(nn.Module):
    """A network of (t, x) whose divergence is found by carrying the Jacobian through its layers."""

    def __init__(self, n_features, width, layers, activation, generator):
        super().__init__()
        self.activation = activation
        sizes = [1 + n_features, *[width] * layers, n_features]
        gain = 1.0 / math.sqrt(3.0)  # weights uniform within 1 / sqrt(inputs)
        self.layers = nn.ModuleList(linear(m, n, generator, gain) for m, n in itertools.pairwise(sizes))

    def _input(self, t, x):
        return torch.cat([t.reshape(-1, 1).expand(len(x), 1).to(x), x], dim=1)

    def forward(self, t, x):
        act, h = _ACTIVATIONS[self.activation], self._input(t, x)
        for layer in self.layers[:-1]:
            h = act(layer(h))[0]
        return self.layers[-1](h)

    def value_and_divergence(self, t, x):
        act, h = _ACTIVATIONS[self.activation], self._input(t, x)
        jacobian = self.layers[0].weight[:, 1:].T  # (d, width), from then on (n, d, width)
        for i, layer in enumerate(self.layers[:-1]):
            h, slope = act(layer(h))
            jacobian = (jacobian @ layer.weight.T if i else jacobian) * slope[:, None]
        last = self.layers[-1]
        return last(h), (jacobian * last.weight).sum(dim=(1, 2))


def beta_times(n, beta, generator, like):
    """Times from Beta(1, beta), whose distribution function is 1 - (1 - t)^beta, ``(n, 1)``."""
    uniform = torch.rand(n, 1, generator=generator, device=like.device, dtype=like.dtype)
    return 1.0 - (1.0 - uniform) ** (1.0 / beta)


def train(rows, valid, configuration, *, steps=STEPS, seconds=None, pairing="all", seed=0, device="cpu"):
    """Train by Adam on the quadratic loss.

    The learning rate is multiplied by 0.8 at every 25th part of the steps (4,000 of the paper's 100,000).
    Filled in: every pair of a base and a data point has a time of its own; the weights with the smallest
    quadratic loss on validation rows, at one of a hundred checks with noise that stays the same, are kept.

    Parameters
    ----------
    rows, valid : ndarray of shape (n, d)
    configuration : Configuration
    steps : int
    seconds : float, default=None
        Stop early after so much time.
    pairing : {"all", "one"}
        Every base point of a batch with every data point, or one base point for each data point.
    seed : int
    device : str

    Returns
    -------
    network : PlainMLP
    record : dict
    """
    c = configuration
    rows = torch.as_tensor(rows, dtype=torch.float32, device=device)
    valid = torch.as_tensor(valid[:_MAX_VALID_ROWS], dtype=torch.float32, device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    d = rows.shape[1]
    network = PlainMLP(d, c.width, c.layers, c.activation, torch.Generator().manual_seed(seed)).to(device)
    path = Trigonometric()
    optimiser = torch.optim.Adam(network.parameters(), lr=c.rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, max(1, steps // _DECAYS), gamma=0.8)
    noise = torch.randn(valid.shape, generator=generator, device=device)
    check = beta_times(len(valid), c.beta, generator, valid), noise, valid
    best, best_loss, best_step, start = network.state_dict(), math.inf, 0, time.perf_counter()
    for step in range(1, steps + 1):
        x1 = rows[torch.randint(len(rows), (c.batch,), generator=generator, device=device)]
        x0 = torch.randn(c.base_batch if pairing == "all" else c.batch, d, generator=generator, device=device)
        if pairing == "all":
            x0, x1 = x0.repeat_interleave(len(x1), dim=0), x1.repeat(len(x0), 1)
        loss = quadratic_loss(network, path, beta_times(len(x1), c.beta, generator, x1), x0, x1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        late = seconds is not None and time.perf_counter() - start > seconds
        if late or step % max(1, steps // 100) == 0:
            with torch.no_grad():
                loss = float(quadratic_loss(network, path, *check))
            if loss < best_loss:
                best, best_loss, best_step = copy.deepcopy(network.state_dict()), loss, step
        if late:
            break
    network.load_state_dict(best)
    return network, {"n_iter": step, "best_iteration": best_step, "fit_seconds": time.perf_counter() - start}


def score(network, test, device="cpu"):
    """Log-densities ``(n,)`` and error estimates, by an adaptive solver at 1e-5 in float64."""
    network = network.double().eval().requires_grad_(False)
    base = StandardNormal().fit(torch.zeros(1, test.shape[1], dtype=torch.float64, device=device), None)
    solver = DormandPrince(rtol=1e-5, atol=1e-5)
    parts = []
    for start in range(0, len(test), 2**14):
        x = torch.as_tensor(test[start : start + 2**14], dtype=torch.float64, device=device)
        parts.append([a.cpu().numpy() for a in log_density(network, base, solver, x)])
    return tuple(np.concatenate(a) for a in zip(*parts, strict=True))
