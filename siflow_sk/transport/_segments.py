"""One flow between two neighbouring times, and what it starts from."""

from dataclasses import dataclass

import torch

from .. import _likelihood
from .._training import Batches
from ..persistence import own


@own
@dataclass
class Segment:
    """The flow between two neighbouring times, on a clock of its own that runs from 0 to 1."""

    start: float
    end: float
    interpolant: object
    velocity: torch.nn.Module
    solver: object

    def clock(self, t):
        """Time on the clock of the segment, cut off at its ends."""
        return min(max((t - self.start) / (self.end - self.start), 0.0), 1.0)


class Rows:
    """Draws of the rows of one table, as the base of a segment."""

    def __init__(self, x, weight, n_draws):
        self.x, self.weight, self.n_draws = x, weight, n_draws
        self.batches = None

    def sample(self, n, generator):
        if self.batches is None:
            self.batches = Batches(self.weight, self.n_draws, generator)
        return self.x[self.batches.take(n)]


class Ends:
    """What the time grid of a solver is judged by where no density is known: end points and volume."""

    def log_prob(self, z):
        return z.sum(1)


class EndOf:
    """The density at the end of the segments so far, from which the next one goes on."""

    def __init__(self, known, segment):
        self.known, self.segment = known, segment

    def log_prob(self, z):
        value, _ = _likelihood.log_density(self.segment.velocity, self.known, self.segment.solver, z)
        return value
