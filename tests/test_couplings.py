"""Couplings, and the energy of the path: closed forms, brute force, W2 of Gaussians."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import PATHS, ExactVelocity, gaussian
from scipy.integrate import quad
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.model_selection import GridSearchCV

from siflow_sk import InterpolantFlow, _likelihood, load
from siflow_sk.couplings import COUPLINGS, ByCluster, Coupling, Independent, OptimalTransport, Paired
from siflow_sk.diagnostics import loss_parts
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


# -- many rows: POT -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
def test_pot_and_scipy_find_the_same_pairs(d, generator):
    x0, x1 = torch.randn(2, 200, d, generator=generator) + 1e3
    by_pot, by_scipy = (OptimalTransport(scipy_limit=limit).pair(x0, x1, generator)[0] for limit in (10, 200))
    assert torch.equal(by_pot, by_scipy)


def test_without_pot_a_large_batch_is_refused_with_the_ways_out(moons, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    flow = quick(coupling=OptimalTransport(scipy_limit=32), batch_size=32).fit(moons)
    before = dict(vars(flow))
    message = r"batches of 33 rows .* POT, which is not installed.*siflow_sk\[ot\].*batch_size to 32"
    with pytest.raises(ImportError, match=message):
        flow.set_params(batch_size=33).fit(moons)
    assert vars(flow.set_params(batch_size=32)) == before


# -- pairs inside clusters ------------------------------------------------------------------------------


class Column(BaseEstimator):
    """The cluster of a row stands in its first column, as text."""

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.array([f"group {v:g}" for v in X[:, 0]])


def grouped(shares, n, generator):
    """Rows in random order: the number of the group, and a value of its own."""
    counts = [round(n * p) for p in shares]
    group = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(counts))
    values = torch.randn(n, 1, generator=generator)
    return torch.cat([group[:, None], values], 1)[torch.randperm(n, generator=generator)]


def test_as_many_pairs_as_possible_stay_in_their_cluster_and_are_independent_there(generator):
    n = 8000
    x0, x1 = (grouped(p, n, generator) for p in ([0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]))
    coupling = ByCluster(Column()).fit(x0, x1, generator)
    y0, y1 = coupling.pair(x0, x1, generator)
    assert torch.equal(y1, x1)  # random order stays random
    assert sorted(y0.tolist()) == sorted(x0.tolist())
    table = np.zeros((4, 4))
    np.add.at(table, (y0[:, 0].int().numpy(), y1[:, 0].int().numpy()), 1)
    np.testing.assert_array_equal(np.diag(table), [800] * 4)  # the smaller of the two counts
    # what is left over is independent: 2400 rows of the groups 0 and 1 each, 1200 to 2 and to 3, 5 deviations
    deviation = math.sqrt(4800 / 16)  # hypergeometric
    assert np.abs(table[:2, 2:] - 1200).max() < 5 * deviation
    inside = y0[:, 0] == y1[:, 0]
    correlation = np.corrcoef(y0[inside, 1], y1[inside, 1])[0, 1]
    assert abs(correlation) < 5 / math.sqrt(int(inside.sum()))


def test_clusters_are_learnt_from_both_ends(generator):
    """Two clouds far apart at either end: no pair crosses, and the seed of the clusterer is ours."""
    x0, x1 = torch.randn(2, 400, 2, generator=generator)
    x0[::2, 0] += 20.0
    x1[:200, 0] += 20.0
    coupling = ByCluster(KMeans(2)).fit(x0, x1, generator)
    y0, y1 = coupling.pair(x0, x1, generator)
    assert torch.equal(y0[:, 0] > 10, y1[:, 0] > 10)
    assert isinstance(coupling.clusterer_.random_state, int)
    assert coupling.clusterer.random_state is None


def test_a_flow_with_clusters(moons, tmp_path):
    flow = quick(coupling="by_cluster", batch_size=32, preprocessor="whiten").fit(moons)
    scores = flow.score_samples(moons)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(clone(flow).fit(moons).score_samples(moons), scores)
    assert math.isfinite(loss_parts(flow, moons, n_draws=1, random_state=0).value)  # it pairs as in training
    flow.save(tmp_path / "flow.sif")
    again = load(tmp_path / "flow.sif")
    np.testing.assert_array_equal(again.score_samples(moons), scores)
    centres = flow.coupling_.clusterer_.cluster_centers_
    np.testing.assert_array_equal(again.coupling_.clusterer_.cluster_centers_, centres)
    flow.coupling_.clusterer_.cluster_centers_ = centres[:, :1].copy()  # what a forged file would hold
    flow.save(tmp_path / "flow.sif")
    with pytest.raises(ValueError, match="centres with the columns of the rows wanted"):
        load(tmp_path / "flow.sif")
    with pytest.raises(ValueError, match=r"coupling=ByCluster\(\) .* coupling=\"independent\""):
        flow.score_function(0.5, moons, method="velocity")
    with pytest.raises(ValueError, match=r"ByCluster: clusterer=DBSCAN\(\) has no predict"):
        flow.set_params(coupling=ByCluster(DBSCAN())).fit(moons)


def test_given_pairs_need_two_tables(moons):
    with pytest.raises(ValueError, match=r'coupling="paired" joins the rows of two tables'):
        quick(coupling=Paired()).fit(moons)
    with pytest.raises(ValueError, match="coupling"):
        quick(coupling="paired").fit(moons)
