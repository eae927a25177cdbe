"""Couplings, and the energy of the path: closed forms, brute force, W2 of Gaussians."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import PATHS, ExactVelocity, gaussian
from scipy.integrate import quad
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from siflow_sk import InterpolantFlow, _likelihood
from siflow_sk.couplings import COUPLINGS, Coupling, Independent, OptimalTransport
from siflow_sk.exceptions import SolverWarning
from siflow_sk.solvers import DormandPrince, Grid
from siflow_sk.velocities import MLP, Velocity

# N(0, I) to N(MEAN, diag(STD^2)): W2^2 = |MEAN|^2 + |STD - 1|^2
MEAN, STD = np.array([2.0, 0.0]), np.array([0.5, 1.5])
SOURCE, TARGET = gaussian([0.0, 0.0], np.eye(2)), gaussian(MEAN, np.diag(STD**2))
W2_SQUARED = 4.5


class Exact(Velocity):
    """A recipe whose module is the exact velocity between the two Gaussians."""

    def __init__(self, path="linear"):
        self.path = path

    def build(self, n_features, generator):
        return ExactVelocity(self.path, SOURCE, TARGET)


def moments_of_the_rates(path):
    """Integrals over time of m'^2, m' s' and s'^2, per column, by quadrature: X_t = m(t) + s(t) x0."""
    a, b, da, db = (lambda t, c=c: float(c(torch.tensor(t, dtype=torch.float64))) for c in PATHS[path])

    def rates(t, j):
        s = math.sqrt(a(t) ** 2 + b(t) ** 2 * STD[j] ** 2)
        return db(t) * MEAN[j], (a(t) * da(t) + b(t) * db(t) * STD[j] ** 2) / s

    def integral(function):
        return np.array([quad(lambda t, j=j: function(*rates(t, j)), 0, 1)[0] for j in range(2)])

    return integral(lambda m, s: m * m), integral(lambda m, s: m * s), integral(lambda m, s: s * s)


def energy_of(path, x0):
    m2, ms, s2 = moments_of_the_rates(path)
    return (m2 + 2 * ms * x0 + s2 * x0**2).sum(1)


@pytest.fixture(scope="module")
def rows():
    return TARGET.sample(4000, seed=0)


@pytest.fixture(scope="module")
def transported(rows):
    """A short fit with the optimal coupling, in the units of X."""
    return InterpolantFlow(
        interpolant="linear",
        coupling="optimal_transport",
        velocity=MLP(width=32),
        preprocessor="none",
        max_iter=250,
        polish=0,
        batch_size=256,
        weight_decay=0.0,
        random_state=0,
    ).fit(rows)


# -- couplings ------------------------------------------------------------------------------------------


def test_the_independent_coupling_leaves_the_batches_alone(generator):
    x0, x1 = torch.randn(2, 6, 3, generator=generator)
    assert Independent().pair(x0, x1, generator) == (x0, x1)


@pytest.mark.parametrize("offset", [0.0, 1e5], ids=["centred", "far from the origin"])
def test_the_assignment_has_the_least_sum_of_squares_of_all(offset, generator):
    x0, x1 = torch.randn(2, 6, 3, generator=generator) + offset
    y0, y1 = OptimalTransport().pair(x0, x1, generator)
    assert torch.equal(y1, x1)
    least = min(
        float(((x0[list(order)] - x1).double() ** 2).sum()) for order in itertools.permutations(range(6))
    )
    assert float(((y0 - y1).double() ** 2).sum()) == pytest.approx(least, rel=1e-12)
    assert sorted(y0.tolist()) == sorted(x0.tolist())  # a permutation: the marginals stay


def test_in_one_column_the_assignment_is_by_rank(generator):
    x0, x1 = torch.randn(2, 200, 1, generator=generator)
    y0, y1 = OptimalTransport().pair(x0, x1, generator)
    assert torch.equal(y0[:, 0].argsort(), y1[:, 0].argsort())


def test_an_unfinished_coupling_says_what_is_missing(generator):
    with pytest.raises(NotImplementedError, match=r"^Coupling must define pair\(x0, x1, generator\)\.$"):
        Coupling().pair(None, None, generator)


def test_a_coupling_of_ones_own(moons):
    class Reversed(Coupling):
        def pair(self, x0, x1, generator):
            return x0.flip(0), x1

    flow = quick(coupling=Reversed()).fit(moons)
    assert isinstance(flow.coupling_, Reversed)
    assert not np.array_equal(flow.score_samples(moons), quick().fit(moons).score_samples(moons))


def test_the_coupling_is_a_slot(moons):
    flow = quick(coupling="optimal_transport", batch_size=32)
    assert isinstance(flow.fit(moons).coupling_, OptimalTransport)
    assert isinstance(quick().fit(moons).coupling_, Independent)
    assert clone(flow).coupling == "optimal_transport"
    search = GridSearchCV(quick(max_iter=3, polish=0), {"coupling": list(COUPLINGS)}, cv=2).fit(moons)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("coupling", "message"),
    [
        ("sinkhorn", "coupling"),
        (object(), "coupling"),
        (OptimalTransport, "coupling"),
    ],
)
def test_what_is_no_coupling_is_refused(coupling, message, moons):
    with pytest.raises(ValueError, match=message):
        quick(coupling=coupling).fit(moons)


@pytest.mark.parametrize("answer", [lambda x0, x1: (x0[:-1], x1), lambda x0, x1: (x0.T, x1)])
def test_a_coupling_that_loses_rows_is_refused(answer, moons):
    class Lossy(Coupling):
        def pair(self, x0, x1, generator):
            return answer(x0, x1)

    with pytest.raises(ValueError, match=r"coupling=Lossy\(\): pair\(x0, x1, generator\) must return two"):
        quick(coupling=Lossy()).fit(moons)


def test_without_independent_pairs_the_velocity_gives_no_score(transported, rows):
    """The formula needs x0 to be Gaussian given x1; with the optimal pairs it is far off the true score."""
    for call in (
        lambda: transported.score_function(0.5, rows[:3], method="velocity"),
        lambda: transported.latent_fields(0.5, rows[:3]),
        lambda: transported.sample(3, method="sde"),
    ):
        with pytest.raises(ValueError, match=r"coupling=OptimalTransport\(\) .* coupling=\"independent\""):
            call()
    assert np.isfinite(transported.score_function(0.5, rows[:3])).all()


# -- energy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Grid(), DormandPrince()], ids=["grid", "dopri5"])
@pytest.mark.parametrize("path", PATHS)
def test_the_energy_of_every_solution_is_exact(path, solver, generator):
    velocity = ExactVelocity(path, SOURCE, TARGET)
    x0 = torch.randn(300, 2, generator=generator, dtype=torch.float64)
    _, found = _likelihood.path_energy(velocity, solver, x0)
    np.testing.assert_allclose(found.numpy(), energy_of(path, x0.numpy()), rtol=1e-5)


@pytest.mark.parametrize(("path", "energy"), [("linear", 5.358), ("trigonometric", 5.552)])
def test_path_length_with_the_exact_velocity(path, energy, rows):
    """Within 4 standard errors (level 6e-5) of the closed form, which is the published figure."""
    m2, _, s2 = moments_of_the_rates(path)
    assert (m2 + s2).sum() == pytest.approx(energy, abs=5e-4)
    flow = quick(velocity=Exact(path), interpolant=path, preprocessor="none", max_iter=1, polish=0)
    found, error = flow.fit(rows[:200]).path_length(8000, random_state=0)
    assert abs(found - energy) < 4 * error
    draws = energy_of(path, np.random.default_rng(0).standard_normal((100_000, 2)))
    assert error == pytest.approx(draws.std() / math.sqrt(8000), rel=0.05)


def test_optimal_pairs_bring_the_energy_down_to_the_wasserstein_distance(transported):
    """Within 3 % of W2^2; independent pairs need 19 % more."""
    energy, error = transported.path_length(4000, random_state=0)
    assert error < 0.015 * energy
    assert energy == pytest.approx(W2_SQUARED, rel=0.03)


def test_optimal_pairs_leave_the_density_right(transported):
    """The law of the data does not depend on how it was paired."""
    x = TARGET.sample(500, seed=1)
    error = transported.score_samples(x) - TARGET.logpdf(x)
    assert abs(error.mean()) < 0.05
    assert error.std() < 0.2


def test_path_length_of_a_preprocessed_flow_is_in_the_space_of_the_flow(moons):
    """The unit of the columns drops out."""
    flow, scaled = quick().fit(moons), quick().fit(1024.0 * moons)
    energy, error = flow.path_length(500, random_state=3)
    assert (energy, error) == pytest.approx(scaled.path_length(500, random_state=3), rel=1e-6)
    assert flow.path_length(500, random_state=3) == (energy, error)
    assert flow.path_length(500, random_state=4) != (energy, error)
    assert math.isnan(flow.path_length(1, random_state=0)[1])


def test_path_length_refuses_and_warns(moons_flow, rows):
    with pytest.raises(ValueError, match="n_samples"):
        moons_flow.path_length(0)
    flow = quick(velocity=Exact(), solver="dopri5", preprocessor="none", max_iter=1, polish=0).fit(rows)
    flow.solver_.max_steps = 1
    with pytest.warns(SolverWarning, match="could not be solved"):
        energy, _ = flow.path_length(10, random_state=0)
    assert math.isnan(energy)
