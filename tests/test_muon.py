"""The orthogonalised step, against the singular value decomposition and against torch's own in bfloat16."""

import math

import pytest
import torch

from siflow_sk._training._muon import Muon, orthogonalised


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


def test_steps_are_those_of_torch_up_to_bfloat16(generator):
    start = torch.randn(8, 12, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimisers = (
        Muon([ours], lr=0.1, weight_decay=0.3),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        gradient = torch.randn(8, 12, generator=generator)
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.03 * moved


def test_the_update_has_the_size_of_adamw(generator):
    parameter = torch.nn.Parameter(torch.zeros(128, 128))
    parameter.grad = torch.randn(128, 128, generator=generator)
    Muon([parameter], lr=1.0).step()
    assert math.isclose(parameter.detach().pow(2).mean().sqrt().item(), 0.2, rel_tol=0.25)


def test_a_parameter_without_gradient_is_left_alone():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    Muon([parameter], weight_decay=0.5).step()
    assert torch.equal(parameter.detach(), torch.ones(2, 2))
