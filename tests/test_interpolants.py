"""Laws of the interpolants, for every entry of the table and for a user's own class."""

import math

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import PATHS, TILTED
from scipy.stats import norm

from siflow_sk import ConditionalInterpolantFlow, InterpolantFlow, InterpolantTransport
from siflow_sk.interpolants import (
    INTERPOLANTS,
    Fourier,
    Interpolant,
    Linear,
    WithNoise,
    check_ends,
    is_linear,
)


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


CASES = {**INTERPOLANTS, "cubic": Cubic, "learnt": learnt, "noisy": lambda: WithNoise("linear")}
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


# -- ends -----------------------------------------------------------------------------------------------


class Late(Interpolant):
    """Leaves its start too late and never arrives."""

    def alpha(self, t):
        return 1.0 - 0.9 * t

    def beta(self, t):
        return 0.9 * t


class Curved(Linear):
    """Right coefficients, and a point of its own that forgets its end."""

    def point(self, t, x0, x1):
        return super().point(t, x0, x1) + t * x0 * x0


class Noisy(Linear):
    """A user's own gamma."""

    def __init__(self, kind="start"):
        self.kind = kind

    def variance(self, t):
        return {"start": 1.0 - t, "end": 0.01 * t, "inside": t * (1.0 - t) - 0.2}[self.kind]


@pytest.mark.parametrize("path", [Late(), Curved()], ids=["coefficients", "point"])
@pytest.mark.parametrize("cls", [InterpolantFlow, InterpolantTransport])
def test_a_path_that_misses_its_ends_is_refused(cls, path, moons):
    message = r"interpolant=\w+\(\) must lead from x0 at t=0 to x1 at t=1: .* got alpha\(0\)=1, alpha\(1\)=0"
    with pytest.raises(ValueError, match=message):
        cls(interpolant=path).fit(moons, moons)


@pytest.mark.parametrize(
    ("kind", "found"), [("start", "got 1, 0"), ("end", "got 0, 0.01"), ("inside", "got -0.2, -0.2")]
)
def test_a_gamma_that_is_not_zero_at_the_ends_is_refused(kind, found, moons):
    with pytest.raises(ValueError, match=rf"variance\(t\), the square of gamma, must be zero .* {found}"):
        InterpolantFlow(interpolant=Noisy(kind)).fit(moons)


class Detour(Linear):
    """One-sided, x_t = (1 - t) x0 + J(t, x1), with a J that is not linear: data come by a detour."""

    def point(self, t, x0, x1):
        return super().point(t, x0, x1) + torch.sin(math.pi * t) * self.aside(x1)

    def velocity(self, t, x0, x1):
        return super().velocity(t, x0, x1) + math.pi * torch.cos(math.pi * t) * self.aside(x1)

    def aside(self, x1):
        return torch.stack([0.5 + 0.0 * x1[:, 0], 0.5 * torch.tanh(x1[:, 0])], 1)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_path_that_bends_in_one_column_is_not_linear(column):
    class Bent(Linear):
        def point(self, t, x0, x1):
            found = super().point(t, x0, x1)
            found[:, column] += torch.sin(math.pi * t[:, 0])
            return found

    assert is_linear(Linear(), 3)
    assert not is_linear(Bent(), 3)


def test_a_path_that_is_not_linear(generator):
    """Its densities are learnt as any other's; the formula of the score does not hold and is refused."""
    X = TILTED.sample(2000, seed=0)
    flow = quick(interpolant=Detour(), preprocessor="none", polish=0, max_iter=300).fit(X)
    path, t = Detour(), torch.full((20_000, 1), 0.5)
    x0, x1 = torch.randn(20_000, 2, generator=generator), torch.tensor(TILTED.sample(20_000, seed=1)).float()
    halfway = path.point(t, x0, x1).numpy()
    draws = flow.sample(4000, random_state=0, t=0.5)
    np.testing.assert_allclose(draws.mean(0), halfway.mean(0), atol=0.12)
    np.testing.assert_allclose(np.cov(draws.T), np.cov(halfway.T), atol=0.12)
    fresh = TILTED.sample(1000, seed=2)
    assert flow.score(fresh) == pytest.approx(TILTED.logpdf(fresh).mean(), abs=0.1)
    assert np.isfinite(flow.score_function(0.5, X[:3])).all()
    for call in (
        lambda: flow.score_function(0.5, X, method="velocity"),
        lambda: flow.sample(3, method="sde"),
        lambda: flow.latent_fields(0.5, X),
    ):
        with pytest.raises(ValueError, match=r"interpolant=Detour\(\) has points that are not alpha x0"):
            call()


@pytest.mark.parametrize("case", CASES)
def test_paths_that_keep_their_ends_pass(case):
    check_ends(CASES[case](), 1)
    assert is_linear(CASES[case](), 3)
    if case not in ("learnt", "fourier", "noisy"):
        check_ends(WithNoise(CASES[case](), gamma="sin2"), 4)


class Staggered(Interpolant):
    """Every column at a pace of its own, x_j = (1 - t^p_j) x0_j + t^p_j x1_j."""

    def __init__(self, powers=(1.0, 2.0, 3.0)):
        self.powers = powers

    def alpha(self, t):
        return 1.0 - self.beta(t)

    def beta(self, t):
        return t ** torch.tensor(self.powers, dtype=t.dtype)


class Forgetful(Linear):
    """Leaves a column of three behind."""

    def point(self, t, x0, x1):
        return super().point(t, x0, x1) * torch.tensor([1.0, 1.0, 0.5], dtype=t.dtype)


class Pooled(Linear):
    """One number for every row."""

    def point(self, t, x0, x1):
        return super().point(t, x0, x1).sum(1, keepdim=True)


def test_columns_may_go_at_different_paces(generator):
    """The density of such a path is as good as another's; the formula of the score is not its."""
    rows = torch.randn(500, 3, generator=generator).numpy()
    flow = quick(interpolant=Staggered(), preprocessor="none", max_iter=60, polish=0).fit(rows)
    fresh = torch.randn(500, 3, generator=generator).numpy()
    assert flow.score(fresh) == pytest.approx(norm.logpdf(fresh).sum(1).mean(), abs=0.15)
    with pytest.raises(ValueError, match=r"interpolant=Staggered\(\) has points that are not alpha x0"):
        flow.score_function(0.5, fresh, method="velocity")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (Forgetful(), r"alpha\(0\)=1, alpha\(1\)=0, beta\(0\)=0, beta\(1\)=1, column 2 at -1.5 for t=1"),
        (Staggered((1.0, 1.0, 0.0)), r"wanted, got column 2 at -3 for t=0, between 2 and -3\."),
        (Pooled(), r"interpolant=Pooled\(\): point\(t, x0, x1\) must be of the shape of x0, \(2, 3\)"),
    ],
    ids=["point", "coefficients", "shape"],
)
@pytest.mark.parametrize("cls", [InterpolantFlow, InterpolantTransport, ConditionalInterpolantFlow])
def test_every_column_must_arrive(cls, path, message, generator):
    rows = torch.randn(50, 3, generator=generator).numpy()
    with pytest.raises(ValueError, match=message):
        cls(interpolant=path).fit(rows, rows)


@pytest.mark.parametrize(
    ("gamma", "formula"),
    [
        ("sqrt", lambda t: np.sqrt(t * (1 - t))),
        ("quadratic", lambda t: t * (1 - t)),
        ("sin2", lambda t: np.sin(np.pi * t) ** 2),
    ],
)
def test_the_noise_has_the_standard_deviation_of_its_name(gamma, formula):
    t = np.linspace(0.0, 1.0, 21)
    variance = WithNoise("linear", gamma=gamma, scale=3.0).variance(torch.tensor(t))
    np.testing.assert_allclose(variance.numpy(), 3.0 * formula(t) ** 2, rtol=1e-12, atol=1e-28)
