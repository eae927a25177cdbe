"""Laws of the bases: normalised, equal to SciPy's densities, and sampled from the given generator alone.

Where draws are tested against a density, the level is the probability of a false alarm over all seeds; the
seed is fixed, so that the outcome is too.
"""

import numpy as np
import pytest
import torch
from conftest import quick
from scipy import integrate, stats
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import distributions as td

from siflow_sk.bases import (
    BASES,
    Base,
    Gaussian,
    SklearnDensity,
    StandardNormal,
    StudentT,
    TorchDistribution,
    Uniform,
    as_base,
)

LEVEL = 1e-6  # of every statistical test
COVARIANCE = np.array([[1.5, 0.6], [0.6, 0.8]])
MEAN = np.array([0.7, -0.3])


def table(n, d, seed=3):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return torch.tensor(x @ (np.eye(d) + 0.3 * np.ones((d, d))) + 0.5)


def skewed(d):
    return td.MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double() + 0.5)


# name -> constructor for d columns
CASES = {
    **{name: lambda d, cls=cls: cls() for name, cls in BASES.items()},
    "student_t_3": lambda d: StudentT(df=3.0),
    "uniform_box": lambda d: Uniform(-1.0, 2.5),
    "gaussian_fixed": lambda d: Gaussian(np.full(d, 0.3), np.eye(d) + 0.5),
    "mixture": lambda d: SklearnDensity(GaussianMixture(2)),
    "kernel": lambda d: SklearnDensity(KernelDensity(bandwidth=0.4)),
    "kernel_tophat": lambda d: SklearnDensity(KernelDensity(bandwidth=0.7, kernel="tophat")),
    "laplace": lambda d: TorchDistribution(td.Laplace(0.2, 0.9)),
    "gamma": lambda d: TorchDistribution(td.Gamma(2.0, 1.5)),
    "batch": lambda d: TorchDistribution(td.Normal(torch.arange(float(d)), 1.0 + torch.arange(float(d)))),
    "multivariate": lambda d: TorchDistribution(skewed(d)),
}


def fitted(name, d):
    return CASES[name](d).fit(table(150, d), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CASES)
def test_integrates_to_one_on_the_line(name):
    base = fitted(name, 1)

    def density(u):  # x = sinh u reaches far into the tails
        x = torch.tensor([[np.sinh(u)]], dtype=torch.float64)
        return float(torch.exp(base.log_prob(x))) * np.cosh(u)

    jumps = np.arcsinh([-3.0, -1.0, 0.0, 0.2, 2.5, 3.0])
    if name == "kernel_tophat":  # a staircase: count its steps instead
        grid = np.linspace(-6, 6, 48001)
        values = torch.exp(base.log_prob(torch.tensor(grid[:, None]))).numpy()
        assert np.mean(values) * 12.0 == pytest.approx(1.0, abs=1e-3)
        return
    total, _ = integrate.quad(density, -16, 16, points=jumps, limit=400, epsabs=1e-9)
    assert total == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"kernel_tophat", "uniform", "uniform_box", "gamma"}))
def test_integrates_to_one_in_the_plane(name):
    base = fitted(name, 2)
    u = np.linspace(-6.0, 6.0, 241)  # x = sinh u
    x, jacobian = np.sinh(u), np.cosh(u)
    points = torch.tensor(np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2))
    density = torch.exp(base.log_prob(points)).numpy().reshape(241, 241)
    total = (u[1] - u[0]) ** 2 * np.sum(density * jacobian[:, None] * jacobian)
    assert total == pytest.approx(1.0, abs=1e-3 if name == "laplace" else 2e-5)  # laplace has kinks


def scipy_logpdf(name, x):
    """Log-density of ``x`` (n, 2) by SciPy alone."""
    if name == "normal":
        return stats.norm.logpdf(x).sum(1)
    if name == "student_t":
        return stats.t(5.0).logpdf(x).sum(1)
    if name == "student_t_3":
        return stats.t(3.0).logpdf(x).sum(1)
    if name == "uniform":
        return stats.uniform(-3.0, 6.0).logpdf(x).sum(1)
    if name == "uniform_box":
        return stats.uniform(-1.0, 3.5).logpdf(x).sum(1)
    if name in ("gaussian", "learnt_gaussian"):  # which has not learnt anything yet
        rows = table(150, 2).numpy()
        return stats.multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True)).logpdf(x)
    if name == "gaussian_fixed":
        return stats.multivariate_normal([0.3, 0.3], np.eye(2) + 0.5).logpdf(x)
    if name == "kernel":
        centres = table(150, 2).numpy()
        kernels = [stats.multivariate_normal(c, 0.16 * np.eye(2)).pdf(x) for c in centres]
        return np.log(np.mean(kernels, axis=0))
    if name == "laplace":
        return stats.laplace(0.2, 0.9).logpdf(x).sum(1)
    if name == "gamma":
        return stats.gamma(2.0, scale=1 / 1.5).logpdf(x).sum(1)
    if name == "batch":
        return stats.norm([0.0, 1.0], [1.0, 2.0]).logpdf(x).sum(1)
    assert name == "multivariate"
    return stats.multivariate_normal(np.zeros(2), np.eye(2) + 0.5).logpdf(x)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"mixture", "kernel_tophat"}))
def test_log_prob_against_scipy(name):
    x = np.random.default_rng(5).standard_normal((64, 2)) * 2.0
    actual = fitted(name, 2).log_prob(torch.tensor(x))
    assert actual.shape == (64,)
    assert actual.dtype == torch.float64
    # torch.distributions keeps the float32 parameters that it was given; KernelDensity sums along a tree
    tolerance = {"laplace": 1e-6, "gamma": 1e-6, "batch": 1e-6, "kernel": 1e-9}.get(name, 1e-12)
    np.testing.assert_allclose(actual.numpy(), scipy_logpdf(name, x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_draws_have_the_moments_of_the_density(name, generator):
    """Mean of x and of exp(-|x|^2 / 4) over 20,000 draws against the density, 2 z-tests at level 1e-6."""
    base = fitted(name, 1)
    x = base.sample(20_000, generator)
    assert x.shape == (20_000, 1)
    assert x.dtype == torch.float64
    grid = np.linspace(-400, 400, 1_600_001) if "student" in name else np.linspace(-12, 20, 64_001)
    density = torch.exp(
        torch.cat([base.log_prob(c) for c in torch.tensor(grid[:, None]).split(2**16)])
    ).numpy()
    step = grid[1] - grid[0]
    for function in (np.tanh, lambda v: np.exp(-0.25 * v**2)):
        mean = step * np.sum(density * function(grid))
        variance = step * np.sum(density * function(grid) ** 2) - mean**2
        z = (function(x.numpy()).mean() - mean) / np.sqrt(variance / len(x))
        assert abs(z) < stats.norm.isf(0.5 * LEVEL)


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("normal", stats.norm()),
        ("student_t", stats.t(5.0)),
        ("student_t_3", stats.t(3.0)),
        ("uniform_box", stats.uniform(-1.0, 3.5)),
        ("gaussian_fixed", stats.norm(0.3, np.sqrt(1.5))),
        ("laplace", stats.laplace(0.2, 0.9)),
        ("gamma", stats.gamma(2.0, scale=1 / 1.5)),
    ],
)
def test_draws_follow_the_law_of_scipy(name, law, generator):
    x = fitted(name, 2).sample(4000, generator).numpy()
    for column in x.T:
        assert stats.kstest(column, law.cdf).pvalue > LEVEL
    # coordinates that should be independent are: correlation of the probability transforms
    if name != "gaussian_fixed":
        assert stats.spearmanr(*x.T).pvalue > LEVEL


def test_gaussian_draws_have_the_covariance(generator):
    base = Gaussian(MEAN, COVARIANCE).fit(table(10, 2), generator)
    x = base.sample(50_000, generator).numpy()
    # standardised by the known factor, 5 entries within their normal limits at level 1e-6 each
    y = (x - MEAN) @ np.linalg.inv(np.linalg.cholesky(COVARIANCE)).T
    limit = stats.norm.isf(0.5 * LEVEL) / np.sqrt(len(x))
    assert np.abs(y.mean(0)).max() < limit
    products = [np.mean(y[:, 0] ** 2) - 1, np.mean(y[:, 1] ** 2) - 1, np.mean(y[:, 0] * y[:, 1])]
    assert np.abs(products / np.sqrt([2, 2, 1])).max() < limit


@pytest.mark.parametrize("name", CASES)
def test_draws_depend_on_the_generator_alone(name):
    """The same seed gives the same draws, another seed others; the global state is watched by a fixture."""
    base = fitted(name, 2)
    first, again, other = (base.sample(7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    shared = torch.Generator().manual_seed(1)
    assert torch.equal(first, base.sample(7, shared))
    assert not torch.equal(first, base.sample(7, shared))


@pytest.mark.parametrize("name", ["mixture", "kernel"])
def test_a_scikit_learn_base_repeats_with_its_generator(name):
    x = table(50, 2)
    bases = [CASES[name](2).fit(x, torch.Generator().manual_seed(4)) for _ in range(2)]
    draws = [base.sample(5, torch.Generator().manual_seed(1)) for base in bases]
    assert torch.equal(*draws)
    np.testing.assert_array_equal(bases[0].log_prob(x).numpy(), bases[0].estimator_.score_samples(x.numpy()))


def test_mixture_draws_are_not_grouped_by_component(generator):
    """Any stretch of the draws must be a sample: half of a two-cluster draw lies on each side."""
    x = torch.cat([table(100, 1) * 0.1 - 5.0, table(100, 1) * 0.1 + 5.0])
    draws = SklearnDensity(GaussianMixture(2)).fit(x, generator).sample(400, generator)
    first = int((draws[:200] > 0).sum())
    assert stats.binomtest(first, 200, 0.5).pvalue > LEVEL


def test_a_base_does_not_change_the_estimator_it_was_given(generator):
    mixture = GaussianMixture(2)
    SklearnDensity(mixture).fit(table(50, 2), generator).sample(3, generator)
    assert mixture.random_state is None
    assert not hasattr(mixture, "means_")


@pytest.mark.parametrize("name", ["normal", "gaussian", "student_t", "laplace", "multivariate"])
def test_log_prob_has_the_right_gradient(name):
    x = table(6, 2).requires_grad_(True)
    assert torch.autograd.gradcheck(fitted(name, 2).log_prob, x)


def test_outside_of_the_support():
    x = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [0.5, 3.5]], dtype=torch.float64)
    for base in (Uniform(0.0, 3.0), TorchDistribution(td.Uniform(0.0, 3.0))):
        value = base.fit(x, None).log_prob(x)
        np.testing.assert_allclose(value.numpy(), [-2 * np.log(3.0), -np.inf, -np.inf])
    value = TorchDistribution(td.Gamma(2.0, 1.0)).fit(x, None).log_prob(x)
    assert torch.isneginf(value).tolist() == [False, True, False]


def test_as_base_wraps_what_is_not_one():
    kernel, normal, own = KernelDensity(), td.Normal(0.0, 1.0), StandardNormal()
    assert as_base(kernel).estimator is kernel
    assert as_base(normal).distribution is normal
    assert as_base(own) is own
    assert as_base("normal") == "normal"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (StudentT(df=0.0), "StudentT base: df must be > 0, got 0.0."),
        (StudentT(df=float("nan")), "StudentT base: df must be > 0, got nan."),
        (Uniform(1.0, 1.0), "Uniform base: low < high wanted, got 1.0 and 1.0."),
        (
            Gaussian(mean=[0.0]),
            "Gaussian base: mean of shape (2,) and covariance of shape (2, 2) wanted, got (1,) and (2, 2).",
        ),
        (
            Gaussian(covariance=[[1.0, 2.0], [2.0, 1.0]]),
            "Gaussian base: covariance is not positive definite; add to its diagonal.",
        ),
        (
            TorchDistribution(td.Normal(torch.zeros(3), 1.0)),
            "base: a distribution over () or (2,) wanted, got batch shape (3,) and event shape (); "
            "torch.distributions.Independent or expand may help.",
        ),
    ],
    ids=repr,
)
def test_parameters_that_cannot_be_used(base, message, generator):
    with pytest.raises(ValueError, match=r"^") as caught:
        base.fit(table(20, 2), generator)
    assert str(caught.value) == message


def test_an_unfinished_base_says_what_is_missing(generator):
    with pytest.raises(NotImplementedError, match=r"^Base must define log_prob\(x\)\.$"):
        Base().log_prob(table(2, 2))
    with pytest.raises(NotImplementedError, match=r"^Base must define sample\(n, generator\)\.$"):
        Base().sample(2, generator)


class Draws:
    """Rows can be drawn from it, and nothing is known of their density."""

    def fit(self, x, generator):
        return self

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def test_a_base_without_a_density_is_refused(moons):
    message = r"base=<.*Draws.*> lacks log_prob; pass one of \['gaussian', .*methods fit, log_prob, sample\."
    with pytest.raises(ValueError, match=message):
        quick(base=Draws()).fit(moons)
