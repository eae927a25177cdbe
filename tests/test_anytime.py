"""Densities, scores and stochastic equations at any time, against exact Gaussian mixtures."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import BENT, NORMAL, OFFSET, PATHS, VARIANCES, ExactVelocity, between, gaussian
from sklearn.base import clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from test_likelihood import BENDS, Exact, exact_flow, log_jacobian

from siflow_sk import _likelihood
from siflow_sk._objective import quadratic_loss
from siflow_sk._score import DIFFUSIONS, fields, score_from_velocity
from siflow_sk.bases import Gaussian, StandardNormal, Uniform
from siflow_sk.exceptions import SolverWarning
from siflow_sk.interpolants import INTERPOLANTS, Interpolant, WithNoise
from siflow_sk.solvers import DormandPrince, RungeKutta, integrate_sde
from siflow_sk.velocities import MLP

ROWS = torch.tensor(np.concatenate([BENT.sample(40, seed=1), 2.0 * BENT.sample(10, seed=2)]))
TIGHT = DormandPrince(rtol=1e-9, atol=1e-9)
GAMMAS = [name for name in VARIANCES if name != "none"]


def time(t):
    return torch.tensor(t, dtype=torch.float64)


def moments_of(law):
    return torch.tensor(law.means[0]), torch.tensor(law.covariances[0])


def path_of(name, gamma):
    return INTERPOLANTS[name]() if gamma == "none" else WithNoise(name, gamma=gamma)


class Known:
    """A mixture with the methods of a base and of a scikit-learn density."""

    def __init__(self, law, inverse=lambda x: (x, 0.0)):
        self.law, self.inverse = law, inverse

    def log_prob(self, x):
        return torch.tensor(self.law.logpdf(x.numpy()))

    def score_samples(self, X):
        z, log_det = self.inverse(torch.tensor(X))
        return (torch.tensor(self.law.logpdf(z.numpy())) + log_det).numpy()


# -- densities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", VARIANCES)
@pytest.mark.parametrize("path", PATHS)
def test_the_density_from_either_end_is_the_exact_one(path, gamma):
    """Within 1e-6 of the exact density between, by the formulas that start from the base and the target."""
    velocity = ExactVelocity(path, NORMAL, BENT, gamma)
    for t in (0.3, 0.8):
        expected = between(path, NORMAL, BENT, t, gamma).logpdf(ROWS.numpy())
        for known, at in ((StandardNormal(), 0.0), (Known(BENT), 1.0)):
            found, _ = _likelihood.log_density(velocity, known, TIGHT, ROWS, t, at)
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", ["grid", TIGHT], ids=["grid", "dopri5"])
def test_every_row_may_have_a_time_of_its_own(solver):
    flow, z, x = exact_flow("trigonometric", "bend", solver=solver)
    t = np.linspace(0.0, 1.0, len(x))
    found = flow.score_samples(x, t=t)
    expected = [
        between("trigonometric", NORMAL, BENT, s).logpdf(row[None])[0] for s, row in zip(t, z, strict=True)
    ]
    atol = 1e-6 if solver is TIGHT else 1e-3
    np.testing.assert_allclose(found, expected + log_jacobian("bend", x), rtol=0, atol=atol)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(flow.score_samples(x[order], t=t[order]), found[order])


@pytest.mark.parametrize("preprocessor", BENDS)
def test_the_known_density_of_the_data_may_be_the_start(preprocessor):
    flow, z, x = exact_flow("linear", preprocessor)
    target = Known(BENT, BENDS[preprocessor]().forward)
    expected = between("linear", NORMAL, BENT, 0.4).logpdf(z) + log_jacobian(preprocessor, x)
    np.testing.assert_allclose(flow.score_samples(x, t=0.4, target=target), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [1.1, math.nan, [0.5] * 119, [0.5] * 119 + [2.0]])
def test_a_time_that_is_none_is_refused(t):
    flow, _, x = exact_flow("linear", "none")
    with pytest.raises(ValueError, match=r"^t must "):
        flow.score_samples(x, t=t)
    for call in (flow.sample, lambda t: flow.transport(x, t, 1.0), lambda t: flow.score_function(t, x)):
        if np.ndim(t) == 0:
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
                call(t=t)


# -- scores ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [NORMAL, OFFSET], ids=["normal", "gaussian"])
@pytest.mark.parametrize("gamma", VARIANCES)
@pytest.mark.parametrize("path", PATHS)
def test_score_and_conditional_means_follow_from_the_velocity(path, gamma, source):
    """Against exact mixtures, at the ends too; the means against the two linear equations they solve."""
    velocity = ExactVelocity(path, source, BENT, gamma).requires_grad_(False)
    interpolant = path_of(path, gamma)
    for t in (0.0, 0.05, 0.3, 0.7, 0.95, 1.0):
        law = between(path, source, BENT, t, gamma)
        s = score_from_velocity(velocity, interpolant, moments_of(source), time(t), ROWS)
        np.testing.assert_allclose(s.numpy(), law.score(ROWS.numpy()), rtol=0, atol=1e-9)
        f = fields(velocity, interpolant, moments_of(source), time(t), ROWS)
        a, b, da, db, g2, dg2 = (c(time(t)) for c in (*PATHS[path], *VARIANCES[gamma]))
        x = a * f.base + b * f.data + torch.sqrt(g2) * f.noise
        torch.testing.assert_close(x, ROWS, rtol=0, atol=1e-9)
        torch.testing.assert_close(f.drift, da * f.base + db * f.data, rtol=0, atol=1e-8)
        torch.testing.assert_close(f.velocity, f.drift - 0.5 * dg2 * f.score, rtol=0, atol=1e-12)
        torch.testing.assert_close(f.noise, -torch.sqrt(g2) * f.score, rtol=0, atol=1e-12)


def test_a_flat_end_has_no_first_order_limit():
    class Flat(Interpolant):
        def alpha(self, t):
            return (1.0 - t) ** 3

        def beta(self, t):
            return 1.0 - (1.0 - t) ** 3

    with pytest.raises(ValueError, match=r'no first-order limit .* use method="exact"'):
        score_from_velocity(lambda t, x: 0.0 * x, Flat(), moments_of(NORMAL), time(1.0), ROWS)


@pytest.mark.parametrize("preprocessor", BENDS)
@pytest.mark.parametrize("method", ["exact", "velocity"])
def test_score_function_is_the_gradient_in_the_units_of_the_data(method, preprocessor):
    flow, _, x = exact_flow("trigonometric", preprocessor)
    forward = BENDS[preprocessor]().forward
    for t in (0.4, 1.0):
        law, gradient = between("trigonometric", NORMAL, BENT, t), []
        for j in range(2):
            step = 1e-5 * np.eye(2)[j]
            ahead, behind = (
                law.logpdf(forward(torch.tensor(x + s * step))[0].numpy())
                + forward(torch.tensor(x + s * step))[1].numpy()
                for s in (1, -1)
            )
            gradient.append((ahead - behind) / 2e-5)
        found = flow.score_function(t, x, method=method)
        np.testing.assert_allclose(found, np.stack(gradient, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", ["student_t", "normal"])
def test_the_exact_score_is_the_gradient_of_a_trained_density(base, moons):
    """A polished flow and a base that need not be Gaussian, by differences of ``score_samples``."""
    flow = quick(base=base, solver=TIGHT).fit(moons)
    x = moons[:6] + 0.013
    for t in (0.5, 1.0):
        numbers = [
            (flow.score_samples(x + step, t=t) - flow.score_samples(x - step, t=t)) / 2e-5
            for step in 1e-5 * np.eye(2)
        ]
        np.testing.assert_allclose(flow.score_function(t, x), np.stack(numbers, 1), rtol=1e-3, atol=1e-3)


def test_the_score_leaves_out_constant_columns(moons):
    X = np.insert(moons, 1, 3.0, axis=1)
    flow = quick().fit(X)
    found = flow.score_function(1.0, X[:5])
    np.testing.assert_array_equal(found[:, 1], 0.0)
    assert np.isfinite(found).all()
    assert np.isnan(flow.score_function(1.0, np.add(X[:1], [0.0, 1.0, 0.0]))[:, [0, 2]]).all()


def test_a_base_without_a_score_is_refused(moons):
    flow = quick(base=Uniform(), polish=0).fit(moons)
    calls = {
        "score_function": lambda: flow.score_function(0.5, moons, method="velocity"),
        "sample": lambda: flow.sample(3, method="sde"),
        "transport": lambda: flow.transport(moons, 1.0, 0.5, method="sde"),
        "latent_fields": lambda: flow.latent_fields(0.5, moons),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=r'is not Gaussian.* base="normal"'):
            call()
    flow = quick(base=GaussianMixture(2, random_state=0), polish=0).fit(moons)
    with pytest.raises(ValueError, match="carries no gradient"):
        flow.score_function(0.5, moons)


# -- transport, and stochastic equations ----------------------------------------------------------------


def deviation(y, law):
    """Largest deviation of means and second moments, in standard errors; 5 numbers in two columns."""
    first, second = (y - law.mean()).T
    numbers = np.stack([first, second, first**2, second**2, first * second])
    c = law.covariance()
    expected = np.array([0.0, 0.0, c[0, 0], c[1, 1], c[0, 1]])
    return np.abs((numbers.mean(1) - expected) / (numbers.std(1) / math.sqrt(len(y)))).max()


@pytest.mark.parametrize("diffusion", [*DIFFUSIONS, 0.5, lambda t: 0.3 * t])
def test_marginals_of_the_forward_equation(diffusion):
    """4000 draws at two times, 10 numbers of each diffusion within 5 standard errors: level 6e-6."""
    flow, _, _ = exact_flow("trigonometric", "none")
    for t in (0.5, 1.0):
        y = flow.sample(4000, random_state=0, t=t, method="sde", diffusion=diffusion, n_steps=25)
        assert deviation(y, between("trigonometric", NORMAL, BENT, t)) < 5.0


def test_marginals_after_few_steps():
    """20 steps and a strong noise, where Euler's are off by 11 standard errors; 5 numbers, level 1e-8."""
    law = gaussian([2.0, 0.0], np.diag([0.25, 2.25]))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 2, dtype=torch.float64, generator=generator)
    velocity = ExactVelocity("linear", NORMAL, law)
    path, moments = INTERPOLANTS["linear"](), moments_of(NORMAL)
    y = _likelihood.diffuse(velocity, path, moments, torch.ones_like, x, 0.0, 0.7, 20, generator)
    assert deviation(y.numpy(), between("linear", NORMAL, law, 0.7)) < 6.0


@pytest.mark.parametrize(("start", "end"), [(0.1, 0.6), (0.6, 0.1)])
def test_between_equal_laws_it_is_the_equation_of_ornstein_and_uhlenbeck(start, end):
    """dX = -2 X dt + 2 dW over a time of one half, from one point; 5 numbers, level 3e-6."""
    velocity, generator = ExactVelocity("trigonometric", NORMAL, NORMAL), torch.Generator().manual_seed(0)
    path, x = INTERPOLANTS["trigonometric"](), torch.full((4000, 2), 3.0, dtype=torch.float64)
    moments, diffusion = moments_of(NORMAL), lambda t: 2.0 * torch.ones_like(t)
    y = _likelihood.diffuse(velocity, path, moments, diffusion, x, start, end, 40, generator)
    fade = math.exp(-1.0)
    assert deviation(y.numpy(), gaussian([3.0 * fade] * 2, (1.0 - fade**2) * np.eye(2))) < 5.0


@pytest.mark.parametrize("t", [0.0, 0.4])
def test_marginals_of_the_backward_equation(t):
    """From data rows back in time; 5 numbers, level 3e-6."""
    flow, _, _ = exact_flow("linear", "none")
    X = BENT.sample(4000, seed=3)
    y = flow.transport(X, 1.0, t, method="sde", diffusion=0.5, n_steps=25, random_state=0)
    assert deviation(y, between("linear", NORMAL, BENT, t)) < 5.0
    assert np.abs(y[:50] - flow.transport(X[:50], 1.0, t)).mean() > 0.1  # not the paths of the flow


@pytest.mark.parametrize("gamma", GAMMAS)
def test_marginals_with_gamma(gamma):
    """The flow and the stochastic equation between the same ends; 10 numbers, level 6e-6."""
    velocity, path = ExactVelocity("linear", NORMAL, BENT, gamma), WithNoise("linear", gamma=gamma)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 2, dtype=torch.float64, generator=generator)
    arguments = (velocity, path, moments_of(NORMAL), torch.ones_like, x, 0.0)
    for t in (0.5, 1.0):
        y = _likelihood.diffuse(*arguments, t, 25, generator)
        assert deviation(y.numpy(), between("linear", NORMAL, BENT, t, gamma)) < 5.0


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_the_stochastic_steps(method, order):
    """Variance of dX = -X dt + sqrt(2) dW from X = 0, by the recursion that linear steps obey."""

    def variance(n):
        # one step is X -> r X + s xi; measured on two unit vectors of (X, noise)
        knots = time([0.0, 1.0 / n])
        one, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        generator = torch.Generator().manual_seed(0)
        rate = integrate_sde(lambda t, x: -x, lambda t: 0.0 * t, one, knots, generator, method)
        generator = torch.Generator().manual_seed(0)
        xi = torch.randn(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        kick = integrate_sde(lambda t, x: -x, torch.ones_like, zero, knots, generator, method)
        r, s = float(rate), float(kick / xi)
        return s**2 * (1 - r ** (2 * n)) / (1 - r**2)

    errors = [abs(variance(n) - (1.0 - math.exp(-2.0))) for n in (10, 20, 40)]
    slopes = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(slopes, order, atol=0.15)


def test_transport_composes_and_agrees_with_transform(moons):
    flow = quick(preprocessor="none", solver=RungeKutta(n_steps=50)).fit(moons)
    back = flow.transport(moons, 1.0, 0.0)
    np.testing.assert_allclose(back, flow.transform(moons), rtol=0, atol=1e-7)
    half = flow.transport(moons, 1.0, 0.4)
    np.testing.assert_allclose(flow.transport(half, 0.4, 0.0), back, rtol=0, atol=1e-6)
    np.testing.assert_allclose(flow.transport(half, 0.4, 1.0), moons, rtol=0, atol=1e-6)
    draws = flow.sample(50, random_state=0, t=0.4)
    np.testing.assert_allclose(
        flow.transport(draws, 0.4, 1.0), flow.sample(50, random_state=0), rtol=0, atol=1e-6
    )


def test_a_polished_flow_warns_of_the_stochastic_equation(moons, moons_flow):
    flow = copy.copy(moons_flow)
    flow.best_iteration_ = len(flow.loss_curve_)
    assert flow.sample(3, method="sde", n_steps=2).shape == (3, 2)
    flow.best_iteration_ += 1
    with pytest.warns(SolverWarning, match="Fit with polish=0"):
        flow.sample(3, method="sde", n_steps=2)
    flow.sample(3)


def test_noise_comes_from_random_state_alone(moons):
    flow = quick(polish=0).fit(moons)
    first, again, other = (flow.sample(20, random_state=seed, method="sde", n_steps=4) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    named = flow.set_output(transform="pandas").transport(moons[:3], 1.0, 0.5, method="sde", n_steps=2)
    assert list(named.columns) == ["x0", "x1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "pde"}, "method must be 'ode' or 'sde', got 'pde'"),
        ({"diffusion": "large"}, "diffusion='large' is not one of"),
        ({"diffusion": -0.5}, "diffusion=-0.5 is not one of"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1, got 0"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message, moons_flow, moons):
    with pytest.raises(ValueError, match=message):
        moons_flow.sample(3, **{"method": "sde", **arguments})
    with pytest.raises(ValueError, match="method must be 'exact' or 'velocity', got 'both'"):
        moons_flow.score_function(0.5, moons, method="both")


# -- gamma ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
def test_variance_of_the_noise(gamma):
    t = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    path = WithNoise(gamma=gamma, scale=2.0)
    torch.testing.assert_close(path.variance(t), 2.0 * VARIANCES[gamma][0](t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_exact_field_minimises_the_loss(gamma):
    """The derivative of the loss at b, along three directions, is zero within 5 standard errors: level 5e-6.

    Along a direction h it is the mean of 2 h.(b - target), and the same at v, which is not the minimiser,
    is not zero.
    """
    n, generator = 40_000, torch.Generator().manual_seed(0)
    draws = torch.randn(2, n, 2, dtype=torch.float64, generator=generator)
    x1 = torch.tensor(BENT.sample(n, seed=5))
    t = torch.rand(n, 1, dtype=torch.float64, generator=generator)
    path = WithNoise("linear", gamma=gamma)
    exact = ExactVelocity("linear", NORMAL, BENT, gamma)
    directions = [lambda t, x: x, lambda t, x: torch.sin(3 * t) * x.flip(1), lambda t, x: torch.tanh(x) * t]
    plain = ExactVelocity("linear", NORMAL, BENT)
    largest = 0.0
    for h in directions:
        slopes = {}
        for name, b in (("b", exact), ("v", plain)):
            weight = torch.zeros(n, 1, dtype=torch.float64, requires_grad=True)  # one per row

            def field(t, x, b=b, h=h, weight=weight):
                return b(t, x).detach() + weight * h(t, x)

            loss = quadratic_loss(field, path, t, draws[0], x1, draws[1])
            slopes[name] = n * torch.autograd.grad(loss, weight)[0]
        z = {name: float(s.mean() / (s.std() / math.sqrt(n))) for name, s in slopes.items()}
        assert abs(z["b"]) < 5.0
        largest = max(largest, abs(z["v"]))
    assert largest > 5.0


def test_antithetic_noise_keeps_the_loss_finite_at_the_ends():
    """At t = 1e-4 gamma' is about 50; the gradient of a pair does not know."""
    t, x = torch.full((4000, 1), 1e-4), torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    weight = torch.ones(4000, 1, requires_grad=True)
    loss = quadratic_loss(lambda t, y: weight * y, WithNoise("linear"), t, x, x, z)
    spread = (4000 * torch.autograd.grad(loss, weight)[0]).std()
    assert spread < 20.0
    ends = quadratic_loss(
        lambda t, y: weight * y, WithNoise("linear"), (torch.arange(4000) % 2)[:, None].float(), x, x, z
    )
    assert torch.isfinite(ends)


def test_gamma_can_be_searched_and_cloned(moons):
    flow = quick(interpolant=WithNoise("linear"), max_iter=3, polish=0, solver="rk4")
    grid = {"interpolant__gamma": GAMMAS, "interpolant__interpolant": ["linear"], "interpolant__scale": [0.5]}
    search = GridSearchCV(flow, grid, cv=2).fit(moons)
    assert search.best_estimator_.interpolant_.gamma in GAMMAS
    assert len(set(search.cv_results_["mean_test_score"])) == 3  # gamma reaches the loss
    twin = clone(search.best_estimator_).fit(moons)
    np.testing.assert_array_equal(twin.score_samples(moons), search.best_estimator_.score_samples(moons))


@pytest.mark.parametrize(("name", "value"), [("gamma", "cubic"), ("scale", 0.0), ("scale", math.inf)])
def test_noise_that_cannot_be_used_is_refused(name, value, moons):
    with pytest.raises(ValueError, match=f"WithNoise: {name}"):
        quick(interpolant=WithNoise(**{name: value})).fit(moons)


def test_latent_fields_of_a_flow():
    flow, z, x = exact_flow("trigonometric", "bend")
    found = flow.latent_fields(0.4, x)
    law = between("trigonometric", NORMAL, BENT, 0.4)
    np.testing.assert_allclose(found["score"], law.score(z), rtol=0, atol=1e-9)
    a, b = (float(c(time(0.4))) for c in PATHS["trigonometric"][:2])
    np.testing.assert_allclose(a * found["base"] + b * found["data"], z, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found["noise"], 0.0)
    assert set(found) == {"velocity", "drift", "score", "base", "data", "noise"}


def test_a_gaussian_base_knows_its_moments():
    base = Gaussian(OFFSET.means[0], OFFSET.covariances[0]).fit(ROWS, None)
    for found, expected in zip(base.moments(2), moments_of(OFFSET), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert Exact("linear").build(2, None)(time(0.5), ROWS).shape == ROWS.shape


def test_a_short_fit_with_gamma_learns_a_density():
    """Held-out mean log-density within 0.15 of the truth."""
    X, fresh = BENT.sample(1000, seed=1), BENT.sample(1000, seed=2)
    flow = quick(
        interpolant=WithNoise("trigonometric", scale=0.5), max_iter=120, polish=30, velocity=MLP(width=32)
    ).fit(X)
    assert BENT.logpdf(fresh).mean() - 0.15 < flow.score(fresh) < BENT.logpdf(fresh).mean() + 0.03
