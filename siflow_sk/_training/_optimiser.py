"""Muon, momentum whose steps are orthogonalised, for matrices; Adam for all else."""

import math

import torch

from .._kernel import add_matmul, matmul
from ..velocities import acts_on_x

_BETAS, _EPS = (0.9, 0.99), 1e-8  # of Adam
# a x + b x^3 + c x^5, whose iteration carries (0, 1] into about [0.7, 1.2]: K. Jordan et al. 2024
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrix):
    """About U V^T for ``matrix = U S V^T``, by Newton-Schulz iterations in the dtype of ``matrix``.

    One matrix, or several with a leading axis.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = matmul(x, x.mT)
        x = add_matmul(x, add_matmul(gram, gram, gram, beta=b, alpha=c), x, beta=a, alpha=1.0)
    return x.mT if tall else x


def muon_step(matrix, gradient, average, lr, weight_decay, momentum=0.95):
    """One step in place, for one matrix, or several with a leading axis as lr and weight decay have it."""
    average.lerp_(gradient, 1.0 - momentum)
    update = orthogonalised(gradient.lerp(average, momentum))
    matrix.mul_(1.0 - lr * weight_decay)
    matrix.sub_(update * (0.2 * math.sqrt(max(matrix.shape[-2:])) * lr))


def adam_step(weight, gradient, moment, square, lr, count):
    """One step of Adam in place; ``count`` is the number of this step, a tensor."""
    moment.lerp_(gradient, 1.0 - _BETAS[0])
    square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
    first, second = (1.0 - beta**count for beta in _BETAS)
    weight.sub_(lr / first * moment / ((square / second).sqrt() + _EPS))


class Optimiser:
    """Muon for the matrices that act on x, Adam for biases and for the network of t, with one learning rate.

    Muon (orthogonalised momentum, K. Jordan et al. 2024) reaches a given likelihood in about half of AdamW's
    steps here.  Its weights decay; its step has the size of AdamW's (root mean square 0.2): Liu et al., "Muon
    is scalable for LLM training", arXiv:2502.16982, eq. (4).  ``torch.optim.Muon`` does the same in bfloat16,
    which CPUs without hardware for it emulate: 293 ms against 7 ms for a 256 x 256 matrix on one thread of a
    CPU with AVX2.  And the first optimiser of ``torch.optim`` in a process imports torch's compiler, which
    takes longer than many a fit: 1.2 s.

    Parameters
    ----------
    network : torch.nn.Module
    weight_decay : float
    """

    def __init__(self, network, weight_decay):
        named = list(network.named_parameters())
        self.weights, self.weight_decay = [p for _, p in named], weight_decay
        self.by_muon = [acts_on_x(name, p) for name, p in named]
        self.moments = [torch.zeros_like(p, requires_grad=False) for p in self.weights]
        self.squares = [
            p.new_zeros(()) if muon else torch.zeros_like(p, requires_grad=False)
            for p, muon in zip(self.weights, self.by_muon, strict=True)
        ]
        self.count = self.moments[0].new_zeros(())

    @torch.no_grad()
    def step(self, gradients, lr):
        """One step; a weight whose gradient is None stays."""
        self.count.add_(1.0)
        state = self.weights, gradients, self.moments, self.squares, self.by_muon
        for weight, gradient, moment, square, by_muon in zip(*state, strict=True):
            if gradient is None:
                continue
            if by_muon:
                muon_step(weight, gradient, moment, lr, self.weight_decay)
            else:
                adam_step(weight, gradient, moment, square, lr, self.count)

    def tensors(self):
        """All that steps change beside the weights."""
        return [*self.moments, *self.squares, self.count]

    def load(self, tensors):
        """Take over what ``tensors()`` of another one returned."""
        for mine, value in zip(self.tensors(), tensors, strict=True):
            mine.copy_(value)
