"""What a step draws: rows, the other end of their paths, times and noise."""

import copy

import torch
from torch import nn


class Draws:
    """All random numbers of a trainer, from one generator."""

    def __init__(self, data, base, coupling, generator):
        self.data, self.base, self.generator = data, base, generator
        self.batches = Batches(data.weight, data.n_draws, generator)
        self.coupling = self._fitted(coupling)

    def _fitted(self, coupling):
        """A coupling that has something to learn from draws of both ends learns it, as a copy."""
        if not hasattr(coupling, "fit"):
            return coupling
        n = min(self.data.n_draws, 5000)
        x1 = self.data.x[self.batches.take(n)]
        x0 = self.base.sample(n, self.generator).to(x1)
        return copy.deepcopy(coupling).fit(x0, x1, self.generator)

    def rows(self, n):
        """Rows, and a list with their context, which is empty where there is none."""
        return self._at(self.batches.take(n))

    def _at(self, rows):
        context = self.data.context
        return self.data.x[rows], [] if context is None else [context[rows]]

    def pairs(self, n):
        """A batch from both ends, coupled, and a list with its context."""
        rows = self.batches.take(n)
        x1, context = self._at(rows)
        if self.data.partner is not None:
            return self.data.partner[rows], x1, context
        x0 = self.base.sample(n, self.generator).to(x1)
        pairs = self.coupling.pair(x0, x1, self.generator)
        shapes = [tuple(getattr(x, "shape", ())) for x in pairs]
        if shapes != 2 * [tuple(x1.shape)]:
            raise ValueError(
                f"coupling={self.coupling!r}: pair(x0, x1, generator) must return two tensors of shape "
                f"{tuple(x1.shape)}, rows that belong together side by side; got {shapes}."
            )
        return *pairs, context

    def uniform(self, n, like):
        """Numbers in [0, 1), of the dtype and on the device of ``like``."""
        return torch.rand(n, generator=self.generator, device=like.device, dtype=like.dtype)

    def normal(self, like):
        """Standard normal numbers in the shape of ``like``."""
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)


class Batches:
    """An endless stream of row numbers: one weighted systematic sample after the other.

    With unit weights every pass is a permutation; integer weights give exactly what repeating the rows would
    give; real weights give a low-variance resample.
    """

    def __init__(self, weight, n_draws, generator):
        edges = weight.cumsum(0)
        points = (torch.arange(n_draws, device=edges.device) + 0.5) / n_draws * edges[-1]
        self.rows = torch.searchsorted(edges, points).clamp_max(len(edges) - 1)  # of a pass
        self.generator, self.rest = generator, self.rows[:0]

    def take(self, size):
        while len(self.rest) < size:
            order = torch.randperm(len(self.rows), generator=self.generator, device=self.rows.device)
            self.rest = torch.cat([self.rest, self.rows[order]])
        batch, self.rest = self.rest[:size], self.rest[size:]
        return batch


def stratified_times(noise):
    """One time in each of n equal cells, in order, ``(..., n, 1)``, from uniform noise ``(..., n)``."""
    n = noise.shape[-1]
    return ((torch.arange(n, device=noise.device) + noise) / n)[..., None]


def jittered_knots(noise):
    """Times from 1 to 0, as many as uniform noise, which moves inner ones by up to a quarter of a step."""
    n_steps = noise.shape[-1] - 1
    knots = torch.linspace(1.0, 0.0, n_steps + 1, device=noise.device, dtype=noise.dtype)
    return knots + 0.5 * nn.functional.pad(noise[..., 1:-1] - 0.5, (1, 1)) / n_steps
