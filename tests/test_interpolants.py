"""Laws of the interpolants, for every entry of the table and for a user's own class."""

import pytest
import torch
from oracles import PATHS

from siflow_sk.interpolants import INTERPOLANTS, Fourier, Interpolant


class Cubic(Interpolant):
    """A user's own: coefficients only, derivatives left to the base class."""

    def alpha(self, t):
        return (1.0 - t) ** 2 * (1.0 + 2.0 * t)

    def beta(self, t):
        return t**2 * (3.0 - 2.0 * t)


def learnt():
    """A learnable path that has learnt something."""
    path = Fourier(n_modes=3).start()
    path.coefficients_ = torch.tensor([[-0.3, 0.2, 0.05], [0.4, -0.1, 0.02]], dtype=torch.float64)
    return path


CASES = {**INTERPOLANTS, "cubic": Cubic, "learnt": learnt}
TIMES = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)


@pytest.fixture(params=CASES)
def path(request):
    return CASES[request.param]()


@pytest.mark.parametrize(
    ("name", "t", "value"), [("alpha", 0.0, 1.0), ("beta", 0.0, 0.0), ("alpha", 1.0, 0.0), ("beta", 1.0, 1.0)]
)
def test_boundary_values(path, name, t, value):
    t = torch.tensor(t, dtype=torch.float64)
    assert getattr(path, name)(t).item() == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("shape", [(41,), (41, 1)])
def test_derivatives_are_those_of_autograd(path, name, shape):
    t = TIMES.reshape(shape).clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(getattr(path, name)(t).sum(), t)
    actual = getattr(path, f"d_{name}")(t.detach())
    assert actual.shape == shape
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_velocity_is_the_time_derivative_of_the_point(path, generator):
    x0, x1 = (torch.randn(41, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    t = TIMES[:, None]
    _, expected = torch.func.jvp(lambda s: path.point(s, x0, x1), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(path.velocity(t, x0, x1), expected, rtol=0, atol=1e-12)


def test_the_path_runs_from_the_base_to_the_data(path, generator):
    x0, x1 = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    start, end = (path.point(torch.tensor(t, dtype=torch.float64), x0, x1) for t in (0.0, 1.0))
    torch.testing.assert_close(start, x0, rtol=0, atol=1e-14)
    torch.testing.assert_close(end, x1, rtol=0, atol=1e-14)


def test_every_named_interpolant_has_an_oracle():
    """The learnable one has its own, in test_learnable."""
    assert set(INTERPOLANTS) == {*PATHS, "fourier"}


@pytest.mark.parametrize("name", PATHS)
def test_coefficients_against_closed_forms(name):
    path = INTERPOLANTS[name]()
    for actual, expected in zip((path.alpha, path.beta, path.d_alpha, path.d_beta), PATHS[name], strict=True):
        torch.testing.assert_close(actual(TIMES), expected(TIMES), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_an_unfinished_interpolant_says_what_is_missing(name):
    with pytest.raises(NotImplementedError, match=rf"^Interpolant must define {name}\(t\)\.$"):
        getattr(Interpolant(), name)(TIMES)
