"""What the loop works on: its settings, its rows, its record, and where it stands."""

import math
from dataclasses import dataclass, field

import torch


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
    polish_of_all: int = 0  # steps of several networks together, of which there are two at least; 0: any
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


DONE = {"quadratic": "regressed", "polish": "polished", "follow": "followed"}  # a stage, and then


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
