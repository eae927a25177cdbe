"""The optimiser: against the singular value decomposition and against torch's own."""

import copy
import math
import subprocess
import sys

import pytest
import torch

from siflow_sk._training._optimiser import Optimiser, orthogonalised


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (64, 3)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape, generator):
    matrix = torch.randn(*shape, generator=generator, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalised(matrix) @ vt.T
    values = inner.diagonal()
    torch.testing.assert_close(inner, torch.diag(values), rtol=0.0, atol=1e-10)
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_size_of_the_gradient_does_not_matter(factor, generator):
    matrix = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(orthogonalised(factor * matrix), orthogonalised(matrix))


def test_a_gradient_of_zero_moves_nothing():
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


class Net(torch.nn.Module):
    """One matrix that acts on x, and what belongs to the time."""

    def __init__(self, start):
        super().__init__()
        self.matrix = torch.nn.Parameter(start.clone())
        self.time_weight = torch.nn.Parameter(torch.ones(4, 3))
        self.bias = torch.nn.Parameter(torch.zeros(4))
        self.idle = torch.nn.Parameter(torch.ones(2, 2))


def test_steps_are_those_of_torch(generator):
    """Muon up to bfloat16, Adam up to rounding; a weight without gradient stays."""
    start = torch.randn(8, 12, generator=generator)
    ours = Net(start)
    theirs = copy.deepcopy(ours)
    optimisers = (
        torch.optim.Muon([theirs.matrix], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([theirs.time_weight, theirs.bias], lr=0.1, betas=(0.9, 0.99)),
    )
    ours_optimiser = Optimiser(ours, 0.3)
    for _ in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in ours.parameters()]
        for (name, p), gradient in zip(theirs.named_parameters(), gradients, strict=True):
            p.grad = None if name == "idle" else gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
        ours_optimiser.step([p.grad for p in theirs.parameters()], 0.1)
    moved = (theirs.matrix - start).norm()
    assert (ours.matrix - theirs.matrix).norm() < 0.03 * moved
    torch.testing.assert_close(ours.time_weight, theirs.time_weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.idle.detach(), torch.ones(2, 2))


def test_the_update_has_the_size_of_adamw(generator):
    net = Net(torch.zeros(128, 128))
    Optimiser(net, 0.0).step([torch.randn(128, 128, generator=generator), None, None, None], 1.0)
    assert math.isclose(net.matrix.detach().pow(2).mean().sqrt().item(), 0.2, rel_tol=0.25)


def test_an_optimiser_goes_on_from_the_state_of_another(generator):
    one = Net(torch.zeros(5, 4))
    other, gradients = (
        copy.deepcopy(one),
        [torch.randn(p.shape, generator=generator) for p in one.parameters()],
    )
    first, second = Optimiser(one, 0.1), Optimiser(other, 0.1)
    for optimiser in (first, first, first):
        optimiser.step(gradients, 0.01)
    second.step(gradients, 0.01)
    second.step(gradients, 0.01)
    third = Optimiser(other, 0.1)
    third.load(second.tensors())
    third.step(gradients, 0.01)
    for mine, value in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, value)


def test_a_fit_does_not_import_the_compiler_of_torch():
    """The first optimiser of torch.optim does, and takes longer than a small fit."""
    code = (
        "import sys, numpy as np; from siflow_sk import InterpolantFlow; "
        "X = np.random.default_rng(0).normal(size=(120, 2)); "
        "InterpolantFlow(max_iter=2, polish=2).set_params(velocity__width=8).fit(X).score_samples(X); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
