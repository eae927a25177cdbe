"""What the loop works on: its settings, rows, where it stands, and the draws that it makes."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Settings:
    """Numbers that training runs on; every "auto" has been decided."""

    n_quadratic: int  # optimiser steps on the quadratic loss
    n_polish: int  # optimiser steps on the likelihood
    batch_size: int
    learning_rate: float
    weight_decay: float
    ema_decay: float
    tol: float
    patience: int  # checks without improvement by tol before the learning rate falls
    anneal: bool = True  # warm up and lower the learning rate of the quadratic stage
    polish_batch_size: int = 128
    polish_penalty: float = 100.0  # of the step error, where that is small
    path_share: float = 2.0 / 3.0  # of the quadratic stage in which a learnable path or base moves
    checks: int = 20  # validations per stage, at least, where it is long
    n_reductions: int = 2  # falls of the learning rate before polish ends; those of a divergence not counted
    reduction: float = 0.3
    fall: float = 2.0  # nats below the best score that make the learning rate fall at once
    clip: float = 5.0


@dataclass
class Data:
    """Rows in the space of the flow, with probabilities, and the rows kept for validation."""

    x: torch.Tensor  # (n, d) float32
    weight: torch.Tensor  # (n,) float64, sums to 1
    n_draws: int  # rows of an epoch: the number of rows, repeated ones counted
    x_valid: torch.Tensor | None = None  # (m, d) float32
    weight_valid: torch.Tensor | None = None  # (m,), sums to 1
    log_det_valid: torch.Tensor | float = 0.0  # (m,) float64, of the preprocessor
    context: torch.Tensor | None = None  # (n, k) float32, for a conditional velocity
    context_valid: torch.Tensor | None = None  # (m, k)
    partner: torch.Tensor | None = None  # (n, d) float32, x0 of every row where the pairs are given


@dataclass
class History:
    """Plain lists, one entry per optimiser step or per validation."""

    loss: list = field(default_factory=list)
    polish_loss: list = field(default_factory=list)
    checks: list = field(default_factory=list)  # dicts: stage, iteration, score, learning_rate, seconds


@dataclass
class Standing:
    """Where training stands between two steps."""

    stage: str = "start"  # then quadratic, regressed, and perhaps polish, polished; or follow, followed
    step: int = 0  # steps of this stage that are done
    factor: float = 1.0  # of the learning rate of the polish
    waited: int = 0  # checks without improvement
    reductions: int = 0  # falls of the learning rate
    reference: float = -math.inf  # score that the next one must surpass
    n_steps: int = 2  # Runge-Kutta steps of the likelihood loss
    penalty: float = 0.0  # of their error
    kept: int = 0  # stretches of the course that led to the weights from which the present one began
    first: int = 0  # step at which it began


@dataclass
class Stretch:
    """Steps of a stage, from ``first`` to before ``last``, with one optimiser and one average of weights."""

    stage: str
    first: int
    last: int
    factor: float
    n_steps: int
    penalty: float


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
