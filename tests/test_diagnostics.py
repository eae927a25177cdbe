"""The loss taken apart, straightness, the Wasserstein bound: against closed forms with exact velocities."""

import math

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import BENT, NORMAL, OFFSET, PATHS, TILTED, ExactVelocity, Mixture, gaussian
from scipy.stats import binomtest
from sklearn.mixture import GaussianMixture
from torch import nn

from siflow_sk.bases import Gaussian
from siflow_sk.diagnostics import (
    _velocity_to,
    loss_parts,
    simulation_based_calibration,
    straightness,
    wasserstein_bound,
)
from siflow_sk.interpolants import INTERPOLANTS, WithNoise
from siflow_sk.solvers import DormandPrince
from siflow_sk.velocities import Velocity

# N(0, I) to N(MEAN, diag(STD^2)): energies by quadrature, W_2^2 = 4.5
MEAN, STD = np.array([2.0, 0.0]), np.array([0.5, 1.5])
WIDE = gaussian(MEAN, np.diag(STD**2))
ROWS = WIDE.sample(2000, seed=1)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)
TIMES, WEIGHTS = torch.tensor(0.5 * (NODES + 1.0)), 0.5 * WEIGHTS


class Scaled(nn.Module):
    """A field times a factor."""

    def __init__(self, field, factor):
        super().__init__()
        self.field, self.factor = field, factor

    def forward(self, t, x):
        return self.factor * self.field(t, x)


class Constant(nn.Module):
    """The same velocity everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = torch.tensor(value)
        self.idle = nn.Parameter(torch.zeros(()))  # an optimiser wants one

    def forward(self, t, x):
        return self.value.to(x) + 0.0 * x + 0.0 * self.idle


class Ready(Velocity):
    """A recipe for a field that training cannot move."""

    def __init__(self, field):
        self.field = field

    def build(self, n_features, generator):
        return self.field


def flow_of(field, path="linear", rows=ROWS, gamma="none", **parameters):
    interpolant = path if gamma == "none" else WithNoise(path, gamma=gamma)
    settings = {"preprocessor": "none", "early_stopping": False, "max_iter": 1, "solver": DormandPrince()}
    return quick(velocity=Ready(field), interpolant=interpolant, **{**settings, **parameters}).fit(rows)


def energies(path):
    """(E|dx_t/dt|^2, E|v|^2) between the two Gaussians."""
    a, b, da, db = (c(TIMES).numpy()[:, None] for c in PATHS[path])
    slopes = (da**2 + db**2 * (MEAN**2 + STD**2)).sum(1)
    field = ((db * MEAN) ** 2 + (a * da + b * db * STD**2) ** 2 / (a**2 + b**2 * STD**2)).sum(1)
    return WEIGHTS @ slopes, WEIGHTS @ field


def test_the_energies_are_those_of_the_literature():
    assert energies("linear") == (pytest.approx(8.5), pytest.approx(5.358, abs=5e-4))
    assert energies("trigonometric")[1] == pytest.approx(5.552, abs=5e-4)


# -- the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.5])
@pytest.mark.parametrize("path", PATHS)
def test_the_loss_of_a_field_that_is_known(path, factor):
    """Floor E|dx/dt|^2 - c^2 E|v|^2 and residual 2 c (c - 1) E|v|^2, for c times the exact velocity."""
    flow = flow_of(Scaled(ExactVelocity(path, NORMAL, WIDE), factor), path)
    parts = loss_parts(flow, WIDE.sample(3000, seed=2), random_state=0)
    slopes, field = energies(path)
    assert parts.value == pytest.approx(parts.floor + parts.residual, abs=1e-9)
    assert parts.floor == pytest.approx(slopes - factor**2 * field, abs=0.03 * slopes)
    assert 0.0 < parts.residual_error < 0.15
    assert abs(parts.residual - 2.0 * factor * (factor - 1.0) * field) < 4.0 * parts.residual_error


@pytest.mark.parametrize("gamma", ["sqrt", "sin2"])
def test_the_residual_of_an_exact_field_with_noise_is_zero(gamma):
    flow = flow_of(ExactVelocity("linear", NORMAL, WIDE, gamma), gamma=gamma)
    parts = loss_parts(flow, WIDE.sample(2000, seed=2), random_state=0)
    assert abs(parts.residual) < 4.0 * parts.residual_error < 0.5
    weak = flow_of(Scaled(ExactVelocity("linear", NORMAL, WIDE, gamma), 0.8), gamma=gamma)
    weak = loss_parts(weak, ROWS, random_state=0)
    assert weak.residual < -4.0 * weak.residual_error


def test_the_standard_error_is_that_of_new_rows():
    """The spread of 80 residuals on rows drawn anew is what each of them says, within its own error."""
    flow = flow_of(ExactVelocity("linear", NORMAL, WIDE))
    found = [loss_parts(flow, WIDE.sample(150, seed=k), n_draws=2, random_state=k) for k in range(80)]
    z = [parts.residual / parts.residual_error for parts in found]
    assert abs(np.mean(z)) < 4.0 / math.sqrt(80)
    assert np.std(z) == pytest.approx(1.0, abs=4.0 / math.sqrt(160))


def test_the_loss_is_that_of_training():
    """A flow that was trained has the loss that its last steps had, and pairs as they had."""
    settings = {"max_iter": 60, "polish": 0, "batch_size": 64, "early_stopping": False}
    flow = quick(coupling="optimal_transport", **settings).fit(ROWS[:600])
    value = loss_parts(flow, ROWS[:600], random_state=0).value
    assert value == pytest.approx(np.mean(flow.loss_curve_[-20:]), rel=0.1)
    apart = quick(**settings).fit(ROWS[:600])
    assert loss_parts(apart, ROWS[:600], random_state=0).value > 1.5 * value


# -- straightness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_straightness_between_gaussians(path):
    """The solutions are b MEAN + s x_0 and end at MEAN + STD x_0, at a mean squared distance of 4.5."""
    flow = flow_of(ExactVelocity(path, NORMAL, WIDE), path)
    value, error = straightness(flow, 3000, random_state=0)
    assert abs(value - 4.5 / energies(path)[1]) < 4.0 * error
    a, b, da, db = (c(TIMES).numpy()[:, None] for c in PATHS[path])
    rate = (a * da + b * db * STD**2) / np.sqrt(a**2 + b**2 * STD**2)  # s'
    x0 = np.random.default_rng(0).standard_normal((20_000, 1, 2))
    energy = ((db * MEAN + rate * x0) ** 2).sum(2) @ WEIGHTS
    distance = ((MEAN + (STD - 1.0) * x0[:, 0]) ** 2).sum(1)
    spread = (distance - distance.mean() / energy.mean() * energy).std() / energy.mean()
    assert error == pytest.approx(spread / math.sqrt(3000), rel=0.1)


def test_a_constant_field_is_straight():
    value, error = straightness(flow_of(Constant([1.0, -2.0])), 50, random_state=0)
    assert value == pytest.approx(1.0, abs=1e-6)
    assert error < 1e-6


# -- the bound ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [NORMAL, OFFSET], ids=["normal", "gaussian"])
@pytest.mark.parametrize("gamma", ["none", "quadratic", "sin2"])
@pytest.mark.parametrize("path", PATHS)
def test_the_velocity_to_a_few_rows_is_that_of_a_mixture(path, gamma, source):
    rows = BENT.sample(5, seed=0)
    law = Mixture(np.full(5, 0.2), rows, np.zeros((5, 2, 2)))
    t = torch.linspace(0.02, 0.98, 40, dtype=torch.float64)[:, None]
    x = torch.tensor(1.5 * BENT.sample(40, seed=1))
    interpolant = INTERPOLANTS[path]() if gamma == "none" else WithNoise(path, gamma=gamma)
    moments = torch.tensor(source.means[0]), torch.tensor(source.covariances[0])
    found = _velocity_to(torch.tensor(rows), interpolant, *moments, t, x)
    expected = ExactVelocity(path, source, law, gamma)(t, x).detach()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_bound_for_one_row_and_a_constant_field():
    """K = 0, and the field is at the squared distance |c - p|^2 + 2 from x_1 - x_0: W_2^2 itself."""
    c, p = np.array([1.0, 0.5]), np.array([2.0, -1.0])
    found = wasserstein_bound(flow_of(Constant(c.tolist())), p[None], n_draws=20_000, random_state=0)
    distance = ((c - p) ** 2).sum() + 2.0
    assert found.lipschitz == pytest.approx(0.0, abs=1e-12)
    assert found.excess == pytest.approx(distance, rel=0.03)
    assert found.bound == pytest.approx(math.e * found.excess, rel=1e-12)


def test_the_lipschitz_constant_between_gaussians():
    """The field is linear with the slopes s'/s of each column; the largest over time, from below."""
    a, b, da, db = (
        c(torch.linspace(0, 1, 2001, dtype=torch.float64)).numpy()[:, None] for c in PATHS["linear"]
    )
    slopes = np.abs((a * da + b * db * STD**2) / (a**2 + b**2 * STD**2)).max()
    found = wasserstein_bound(flow_of(ExactVelocity("linear", NORMAL, WIDE)), ROWS[:50], random_state=0)
    assert 0.99 * slopes < found.lipschitz <= slopes * (1 + 1e-6)
    assert found.bound == pytest.approx(math.exp(1 + 2 * found.lipschitz) * found.excess, rel=1e-12)


def test_the_excess_is_smaller_for_the_right_field_and_falls_with_the_rows():
    right, wrong = (flow_of(ExactVelocity("linear", NORMAL, law)) for law in (WIDE, TILTED))
    few, many = WIDE.sample(50, seed=3), WIDE.sample(1500, seed=3)
    excess = [wasserstein_bound(f, rows, 1500, 0).excess for f, rows in ((right, few), (right, many))]
    assert excess[1] < 0.6 * excess[0]
    assert wasserstein_bound(wrong, many, 1500, 0).excess > 2.0 * excess[1]


def test_a_gaussian_base_with_moments_of_its_own():
    """The exact field between OFFSET and TILTED is nearer to the rows of TILTED than that from NORMAL."""
    base = Gaussian(OFFSET.means[0], OFFSET.covariances[0])
    rows = TILTED.sample(1500, seed=0)
    right, wrong = (
        wasserstein_bound(flow_of(ExactVelocity("linear", law, TILTED), rows=rows, base=base), rows, 1500, 0)
        for law in (OFFSET, NORMAL)
    )
    assert right.excess < 0.6 * wrong.excess


# -- bad input ------------------------------------------------------------------------------------------


def test_what_they_are_for(moons, moons_flow):
    for function in (loss_parts, wasserstein_bound, straightness):
        with pytest.raises(TypeError, match="flow: a fitted InterpolantFlow wanted, got GaussianMixture"):
            function(GaussianMixture(), moons)
    with pytest.raises(ValueError, match='fit with coupling="independent"'):
        wasserstein_bound(quick(max_iter=2, polish=0, coupling="optimal_transport").fit(moons), moons)
    with pytest.raises(ValueError, match="base='uniform' is not Gaussian"):
        wasserstein_bound(quick(max_iter=2, polish=0, base="uniform").fit(moons), moons)
    with pytest.raises(ValueError, match="2 rows are too far from the data"):
        loss_parts(quick(max_iter=2, polish=0, inference_dtype="float32").fit(moons), [[1e300, 0.0]] * 2)
    with pytest.raises(ValueError, match="Invalid value for 'n_samples': 0"):
        straightness(moons_flow, 0)
    once = [loss_parts(moons_flow, moons, 1, random_state=0) for _ in range(2)]
    assert once[0] == once[1]


# -- ranks among draws ------------------------------------------------------------------------------------


class Posterior:
    """Of two parameters ~ N(0, I), each seen with noise of 0.5; moved and stretched where a test says so."""

    GAIN, DEVIATION = 0.8, math.sqrt(0.2)  # precisions 1 and 4

    def __init__(self, shift=(0.0, 0.0), stretch=(1.0, 1.0)):
        self.shift, self.stretch = np.array(shift), np.array(stretch)

    def sample(self, X, n_samples=1, random_state=None):
        noise = np.random.default_rng(random_state).normal(size=(len(X), n_samples, 2))
        return self.GAIN * X[:, None] + self.DEVIATION * (self.shift + self.stretch * noise)


def simulated(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n, 2))
    return y + 0.5 * rng.normal(size=(n, 2)), y


def many_pvalues(n_times, n, n_draws):
    """Of the right posterior."""
    return np.array(
        [
            simulation_based_calibration(
                Posterior(), *simulated(n, s), n_draws=n_draws, random_state=s
            ).pvalue
            for s in range(1, n_times + 1)
        ]
    )


def test_the_right_posterior_is_refused_as_often_as_the_level_says():
    """500 times two parameters, at 5 %: of 1,000 p-values 50 +- 21 (three deviations) may be below."""
    pvalues = np.array(
        [
            simulation_based_calibration(
                Posterior(), *simulated(200, seed), n_draws=19, random_state=seed
            ).pvalue
            for seed in range(1, 501)
        ]
    )
    assert binomtest(int((pvalues < 0.05).sum()), pvalues.size, 0.05).pvalue > 0.0027
    assert binomtest(int((pvalues < 0.5).sum()), pvalues.size, 0.5).pvalue > 0.0027


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"stretch": (1.0, 0.7)}, "both ends"),
        ({"stretch": (1.0, 1.5)}, "middle"),
        ({"shift": (0.0, 0.3)}, "low end"),
    ],
)
def test_a_wrong_posterior_is_seen_in_the_parameter_where_it_is_wrong(wrong, where):
    found = simulation_based_calibration(Posterior(**wrong), *simulated(1000, 0), random_state=1)
    assert found.ranks.shape == (1000, 2)
    assert found.ranks.min() == 0
    assert found.ranks.max() == 99
    assert found.pvalue[0] > 1e-3
    assert found.pvalue[1] < 1e-6
    low, high = (found.ranks[:, 1] < 20).mean(), (found.ranks[:, 1] >= 80).mean()
    fits = {
        "both ends": min(low, high) > 0.23,
        "middle": max(low, high) < 0.17,
        "low end": high < 0.17 < 0.23 < low,
    }
    assert fits[where]


def test_draws_that_equal_the_truth_take_any_rank():
    class Rounded(Posterior):
        def sample(self, X, n_samples=1, random_state=None):
            return np.rint(super().sample(X, n_samples, random_state))

    X, y = simulated(1000, 0)
    found = simulation_based_calibration(Rounded(), X, np.rint(y), random_state=1)
    assert found.pvalue.min() > 1e-3


def test_a_number_of_draws_that_does_not_divide_into_bins():
    """Of 24 ranks some bins hold two, others one: what is expected follows."""
    pvalues = many_pvalues(100, 400, 23)
    assert binomtest(int((pvalues < 0.05).sum()), pvalues.size, 0.05).pvalue > 0.0027


@pytest.mark.parametrize(
    ("model", "y", "kind", "message"),
    [
        (object(), np.zeros((20, 2)), TypeError, "object has no method sample"),
        (Posterior(), np.zeros((9, 2)), ValueError, "y: one entry for each of the 20 rows"),
        (Posterior(), np.zeros(20), ValueError, r"the model draws 2 targets .* got y of shape \(20, 1\)"),
        (Posterior(), np.full((20, 2), np.nan), ValueError, "NaN"),
        (Posterior(), None, ValueError, "requires y"),
    ],
)
def test_ranks_of_bad_input(model, y, kind, message):
    with pytest.raises(kind, match=message):
        simulation_based_calibration(model, np.zeros((20, 2)), y)
    with pytest.raises(ValueError, match="at least 10 rows wanted for a test, got 9"):
        simulation_based_calibration(Posterior(), np.zeros((9, 2)), np.zeros((9, 2)))
    with pytest.raises(ValueError, match="n_draws"):
        simulation_based_calibration(Posterior(), np.zeros((20, 2)), np.zeros((20, 2)), n_draws=0)
