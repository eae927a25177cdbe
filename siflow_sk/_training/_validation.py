"""How good the averaged weights are, by rows that no step sees."""

import functools
import math

import torch

from .._capture import Recorded
from .._objective import guarded_log_density
from ..velocities import given
from ._together import MOST_ROWS


class Validation:
    """Log-densities of the validation rows, in the units of X, less the error that their steps report.

    On CUDA they are recorded, where no stack of several trainers may move the weights.
    """

    def __init__(self, data, base, velocity):
        self.data, self.base, self.velocity = data, base, velocity
        self.forget()

    def forget(self):
        """Make records anew: the weights have moved to another place."""
        self.recorded = Recorded(functools.partial(_guarded_log_densities, self.velocity, self.base))

    @property
    def n_rows(self):
        """How many: stages check so seldom that they add a tenth to the polish, a third before it."""
        return 0 if self.data.x_valid is None else len(self.data.x_valid)

    def log_density(self, seat=None):
        """Of every row, ``(n_rows,)``, float64; beside those of others for a trainer that has a seat."""
        x, context = self.data.x_valid, self.data.context_valid
        values = None if seat is None else seat.score(self.base, x, context)
        if values is None:
            tables = [x] if context is None else [x, context]
            with torch.no_grad():
                values = (self.recorded if seat is None else self.recorded.function)(*tables)
        return values.double() + self.data.log_det_valid

    def score(self, seat=None):
        """Their mean; minus infinity where there are none."""
        return float(self.data.weight_valid @ self.log_density(seat)) if self.n_rows else -math.inf


def _guarded_log_densities(velocity, base, *tables):
    """Of so many rows at a time, each at its context."""
    blocks = zip(*(a.split(MOST_ROWS) for a in tables), strict=True)
    return torch.cat([guarded_log_density(given(velocity, *at), base, x) for x, *at in blocks])
