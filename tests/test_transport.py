"""Maps between tables: closed forms between Gaussians, one fit both ways, chains in time, bad input."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import BENT, NORMAL, TILTED, ExactVelocity, between, gaussian
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from siflow_sk import InterpolantTransport
from siflow_sk.couplings import ByCluster
from siflow_sk.exceptions import SolverWarning
from siflow_sk.solvers import DormandPrince
from siflow_sk.velocities import MLP, Velocity

MEAN, STD = np.array([2.0, 0.0]), np.array([0.5, 1.5])
WIDE = gaussian(MEAN, np.diag(STD**2))
TIGHT = DormandPrince(rtol=1e-9, atol=1e-9)


class Exact(Velocity):
    """A recipe whose modules are exact velocities between one law and the next: training cannot move them."""

    def __init__(self, laws, path="linear"):
        self.laws = laws
        self.path = path

    def build(self, n_features, generator):
        self.built = getattr(self, "built", -1) + 1
        return ExactVelocity(self.path, *self.laws[self.built : self.built + 2])


class Law(BaseEstimator):
    """A mixture as a density estimator that has nothing to learn."""

    def __init__(self, law=None):
        self.law = law

    def fit(self, X, y=None):
        self.n_rows_ = len(X)
        return self

    def score_samples(self, X):
        return self.law.logpdf(X)


def quick(**parameters):
    settings = {"max_iter": 20, "velocity": MLP(width=16), "batch_size": 64, "random_state": 0}
    return InterpolantTransport(**{**settings, **parameters})


def exact(*laws, path="linear", **parameters):
    """A transport whose fields are exact; the rows that it is fitted to decide nothing."""
    settings = {"solver": TIGHT, "preprocessor": "none", "max_iter": 1, "interpolant": path}
    return quick(velocity=Exact(laws, path), **{**settings, **parameters})


@pytest.fixture(scope="module")
def tables():
    return NORMAL.sample(300, seed=0), WIDE.sample(400, seed=1)


@pytest.fixture(scope="module")
def fitted(tables):
    """A fit that is good enough to compare with closed forms; tests must not change it."""
    return InterpolantTransport(velocity=MLP(width=32), max_iter=250, batch_size=128, random_state=0).fit(
        NORMAL.sample(3000, seed=0), WIDE.sample(2000, seed=1)
    )


# -- the map --------------------------------------------------------------------------------------------


def test_the_map_is_the_optimal_one(fitted):
    """Between these Gaussians it is m + s x, column by column; rms error in units of the target's."""
    x = NORMAL.sample(1000, seed=2)
    error = (fitted.transform(x) - (MEAN + STD * x)) / STD
    assert np.sqrt((error**2).mean()) < 0.12


def test_both_couplings_reach_the_target_and_the_optimal_one_at_the_least_cost():
    """Between turned Gaussians, whose Wasserstein distance is known."""
    source, target = gaussian([0, 0], [[1.0, 0.7], [0.7, 1.0]]), gaussian([0, 0], [[1.0, -0.7], [-0.7, 1.0]])
    x = source.sample(500, seed=2)
    moved = {
        coupling: InterpolantTransport(
            coupling=coupling, velocity=MLP(width=32), max_iter=400, batch_size=128, random_state=0
        )
        .fit(source.sample(2000, seed=0), target.sample(2000, seed=1))
        .transform(x)
        for coupling in ("independent", "optimal_transport")
    }
    for y in moved.values():
        assert np.corrcoef(y.T)[0, 1] == pytest.approx(-0.7, abs=0.1)
    cost = {name: ((y - x) ** 2).sum(1).mean() for name, y in moved.items()}
    least = 2 * np.trace(source.covariances[0]) - 2 * _fidelity(source.covariances[0], target.covariances[0])
    assert cost["optimal_transport"] == pytest.approx(least, rel=0.1)


def _fidelity(a, b):
    """tr (a^1/2 b a^1/2)^1/2, the cross term of the Wasserstein distance of two centred Gaussians."""
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values) @ vectors.T
    return np.sqrt(np.linalg.eigvalsh(root @ b @ root)).sum()


def test_one_fit_maps_both_ways(fitted):
    x = NORMAL.sample(200, seed=3)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x)), x, atol=1e-2)
    y = WIDE.sample(200, seed=3)
    error = fitted.inverse_transform(y) - (y - MEAN) / STD
    assert np.sqrt((error**2).mean()) < 0.15


def test_the_path_leads_from_the_source_to_the_image(fitted):
    x = NORMAL.sample(200, seed=3)
    path = fitted.path(x, [0.0, 0.5, 1.0])
    assert path.shape == (3, 200, 2)
    np.testing.assert_allclose(path[0], x, atol=1e-12)
    np.testing.assert_allclose(path[2], fitted.transform(x), atol=1e-2)
    straight = 0.5 * (x + MEAN + STD * x)  # optimal transport moves along straight lines
    assert np.sqrt(((path[1] - straight) ** 2).mean()) < 0.12
    np.testing.assert_allclose(fitted.transport(path[1], 0.5, 1.0), path[2], atol=1e-2)
    np.testing.assert_allclose(fitted.transport(path[1], 0.5, 0.0), x, atol=1e-2)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_with_the_exact_velocity_map_and_density_are_exact(path, tables):
    """Between Gaussians with diagonal covariances X_t = m(t) + s(t) x0."""
    transport = exact(NORMAL, WIDE, path=path, source_density=Law(NORMAL)).fit(*tables)
    x = NORMAL.sample(40, seed=2)
    np.testing.assert_allclose(transport.transform(x), MEAN + STD * x, atol=1e-6)
    np.testing.assert_allclose(transport.inverse_transform(MEAN + STD * x), x, atol=1e-6)
    for t in (0.0, 0.3, 1.0):
        law = between(path, NORMAL, WIDE, t)
        rows = law.sample(30, seed=4)
        np.testing.assert_allclose(transport.score_samples(rows, t=t), law.logpdf(rows), atol=1e-6)
    np.testing.assert_array_equal(transport.score_samples(rows), transport.score_samples(rows, t=1.0))


def test_the_density_is_in_the_units_of_X(tables):
    """A factor of 8 in the rows and a preprocessor take 2 log 8 from the log-density."""

    class Own(Law):
        def score_samples(self, X):
            return self.law.logpdf(X / self.law.scale) - 2 * math.log(self.law.scale)

    values = []
    for scale in (1.0, 8.0):
        law = gaussian([0.0, 0.0], np.eye(2))
        law.scale = scale
        transport = quick(source_density=Own(law)).fit(scale * tables[0], scale * tables[1])
        values.append(transport.score_samples(scale * tables[1]))
    np.testing.assert_allclose(values[1], values[0] - 2 * math.log(8.0), atol=1e-6)


def test_a_density_of_the_source_makes_one_of_the_target(fitted, tables):
    """A frozen estimator is taken as it is, another one fitted to the source."""
    mixture = FrozenEstimator(GaussianMixture(random_state=0).fit(NORMAL.sample(20_000, seed=5)))
    transport = clone(fitted).set_params(source_density=mixture)
    transport.fit(NORMAL.sample(3000, seed=0), WIDE.sample(2000, seed=1))
    y = WIDE.sample(200, seed=6)
    error = transport.score_samples(y) - WIDE.logpdf(y)
    assert abs(error.mean()) < 0.1
    assert error.std() < 0.3
    kernel = quick(source_density=KernelDensity(bandwidth=0.3)).fit(*tables)
    own = KernelDensity(bandwidth=0.3).fit(tables[0])
    np.testing.assert_allclose(
        kernel.score_samples(tables[0], t=0.0), own.score_samples(tables[0]), atol=1e-9
    )


def test_the_score_takes_every_row_at_its_time():
    """Mean log-density of a chain whose laws are known; in a search it prefers the fit that is exact."""
    X, t = snapshots(*LAWS, times=[-1.0, 0.0, 3.0])
    transport = exact(*LAWS, source_density=Law(NORMAL)).fit(X, t)
    values = np.concatenate([law.logpdf(X[t == s]) for law, s in zip(LAWS, (-1.0, 0.0, 3.0), strict=True)])
    assert transport.score(X, t) == pytest.approx(values.mean(), abs=1e-6)
    assert transport.score(pd.DataFrame(X), pd.Series(t)) == pytest.approx(values.mean(), abs=1e-6)
    assert transport.score(X[t == 3.0]) == pytest.approx(values[-80:].mean(), abs=1e-6)
    weight = np.concatenate([np.full((t == s).sum(), k) for k, s in enumerate((-1.0, 0.0, 3.0))])
    by_time = np.concatenate([X[t == s] for s in (-1.0, 0.0, 3.0)])
    found = transport.score(by_time, np.sort(t), sample_weight=weight)
    assert found == pytest.approx(np.average(values, weights=weight), abs=1e-6)
    search = GridSearchCV(quick(source_density=KernelDensity()), {"max_iter": [1, 60]}, cv=2).fit(X, t)
    assert search.best_params_ == {"max_iter": 60}
    with pytest.raises(ValueError, match=r"y must lie in \[-1, 3\], the fitted times"):
        transport.score(X, t + 1.0)
    with pytest.raises(ValueError, match="y must lie in"):
        transport.score(X, X)
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        transport.score(X, t, sample_weight=np.append(np.ones(len(X) - 1), -1.0))


def test_without_a_density_there_is_no_likelihood(fitted):
    assert not hasattr(fitted, "score")
    assert not hasattr(fitted, "score_samples")
    with pytest.raises(AttributeError) as info:
        fitted.score_samples([[0.0, 0.0]])
    assert "set source_density" in str(info.value.__cause__ or info.value)


# -- snapshots in time ----------------------------------------------------------------------------------

LAWS = (NORMAL, WIDE, TILTED)


def snapshots(*laws, times, n=60):
    X = np.concatenate([law.sample(n + 10 * k, seed=k) for k, law in enumerate(laws)])
    t = np.concatenate([np.full(n + 10 * k, time) for k, time in enumerate(times)])
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], t[order]


def test_a_chain_of_exact_velocities_passes_through_all_snapshots():
    """Densities at times inside both segments, and maps across the middle one, by their closed forms."""
    X, t = snapshots(*LAWS, times=[-1.0, 0.0, 3.0])
    transport = exact(*LAWS, source_density=Law(NORMAL)).fit(X, t)
    np.testing.assert_array_equal(transport.times_, [-1.0, 0.0, 3.0])
    assert [(s.start, s.end) for s in transport.segments_] == [(-1.0, 0.0), (0.0, 3.0)]
    for time, law in [
        (-0.25, between("linear", NORMAL, WIDE, 0.75)),
        (0.0, WIDE),
        (1.0, between("linear", WIDE, TILTED, 1 / 3)),
        (3.0, TILTED),
    ]:
        rows = law.sample(20, seed=7)
        np.testing.assert_allclose(transport.score_samples(rows, t=time), law.logpdf(rows), atol=1e-6)
    x = NORMAL.sample(20, seed=8)
    path = transport.path(x, [-1.0, -0.5, 0.0, 1.5, 3.0])
    np.testing.assert_allclose(path[2], MEAN + STD * x, atol=1e-6)
    np.testing.assert_allclose(path[4], transport.transform(x), atol=1e-6)
    np.testing.assert_allclose(transport.inverse_transform(path[4]), x, atol=1e-6)
    np.testing.assert_allclose(transport.transport(path[3], 1.5, -0.5), path[1], atol=1e-6)
    np.testing.assert_allclose(transport.transport(path[1], -0.5, 1.5), path[3], atol=1e-6)


def test_two_times_are_two_tables(tables):
    X, t = np.concatenate(tables), np.repeat([2018.0, 2024.0], [300, 400])
    in_time, pair = quick().fit(X, t), quick().fit(*tables)
    np.testing.assert_array_equal(in_time.transform(tables[0]), pair.transform(tables[0]))
    np.testing.assert_array_equal(in_time.times_, [2018.0, 2024.0])
    halfway = in_time.path(tables[0], [2021.0])
    np.testing.assert_array_equal(halfway, pair.path(tables[0], [0.5]))


def test_every_pair_of_times_has_a_network_and_randomness_of_its_own():
    X, t = snapshots(BENT, BENT, BENT, times=[0, 1, 2])
    transport = quick().fit(X, t)
    assert len(transport.loss_curves_) == len(transport.segments_) == 2
    assert transport.n_iter_ == 40
    assert transport.loss_curves_[0][0] != transport.loss_curves_[1][0]
    first, second = (dict(s.velocity.named_parameters()) for s in transport.segments_)
    assert any(not torch.equal(first[name], second[name]) for name in first)


# -- who is joined to whom ------------------------------------------------------------------------------


def test_given_pairs_decide_the_map():
    """Rows and themselves turned by 37 degrees: the lines between do not cross, so the map is the turn."""
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    X, x = NORMAL.sample(2000, seed=0), NORMAL.sample(500, seed=2)
    paired = quick(coupling="paired", max_iter=250, batch_size=128, velocity=MLP(width=32))
    assert np.sqrt(((paired.fit(X, X @ turn).transform(x) - x @ turn) ** 2).mean()) < 0.12
    assert np.mean(paired.loss_curves_[0][-20:]) < 0.02  # no floor: the pairs leave nothing open
    nearest = clone(paired).set_params(coupling="optimal_transport").fit(X, X @ turn)
    assert np.sqrt(((nearest.transform(x) - x) ** 2).mean()) < 0.2  # the two laws are the same


def test_given_pairs_keep_together(tables):
    """Rows may be listed in any order, but both tables in the same one; so they may in time."""
    source, target = tables[0], tables[1][:300]
    order = np.random.default_rng(0).permutation(300)
    moved = quick(coupling="paired").fit(source, target).transform(source)
    again = quick(coupling="paired").fit(source[order], target[order])
    np.testing.assert_array_equal(again.transform(source), moved)
    assert np.abs(quick(coupling="paired").fit(source, target[order]).transform(source) - moved).max() > 1e-3
    in_time = quick(coupling="paired").fit(np.stack([source, target], 1).reshape(600, 2), [0, 1] * 300)
    np.testing.assert_array_equal(in_time.transform(source), moved)


def test_tables_of_other_lengths_have_no_pairs(tables):
    with pytest.raises(ValueError, match=r"same number of rows; got 300 at 0, 400 at 1\. Drop rows"):
        quick(coupling="paired").fit(*tables)
    X, t = snapshots(*LAWS, times=[0, 1, 2])
    with pytest.raises(ValueError, match="got 60 at 0, 70 at 1, 80 at 2"):
        quick(coupling="paired").fit(X, t)


def test_groups_keep_together():
    """Two groups, told by the last column, swap sides: near rows are in the other group."""
    rng, group = np.random.default_rng(0), np.repeat([-1.0, 1.0], 500)

    def table(x):
        return np.column_stack([x, group]) + 0.15 * rng.standard_normal((1000, 2))

    source, target = table(1.5 * group), table(-1.5 * group)
    signs = FrozenEstimator(LogisticRegression().fit(source * [0.0, 1.0], group))
    settings = {"max_iter": 350, "batch_size": 128, "velocity": MLP(width=32), "preprocessor": "none"}
    kept = quick(coupling=ByCluster(signs), **settings).fit(source, target).transform(source)
    assert (np.sign(kept) == np.column_stack([-group, group])).mean() > 0.99
    near = quick(**settings).fit(source, target).transform(source)
    assert (np.sign(near) == np.column_stack([group, -group])).mean() > 0.8


# -- what scikit-learn expects --------------------------------------------------------------------------


def test_pandas_in_pandas_out(tables):
    source, target = (pd.DataFrame(table, columns=["u", "v"]) for table in tables)
    transport = quick().set_output(transform="pandas").fit(source, target)
    moved = transport.transform(source)
    assert list(moved.columns) == list(transport.get_feature_names_out()) == ["u", "v"]
    for back in (transport.inverse_transform(moved), transport.transport(moved, 1.0, 0.0)):
        assert list(back.columns) == ["u", "v"]
    np.testing.assert_array_equal(moved.to_numpy(), quick().fit(*tables).transform(tables[0]))
    in_time = quick().fit(pd.concat([source, target]), pd.Series(np.repeat([0, 1], [300, 400])))
    np.testing.assert_array_equal(in_time.transform(source), moved)
    with pytest.raises(ValueError, match="y, the target table: The feature names should match"):
        quick().fit(source, target[["v", "u"]])


def test_the_order_of_the_rows_does_not_matter(tables):
    source, target = tables
    shuffled = quick().fit(source[::-1], target[np.random.default_rng(0).permutation(len(target))])
    np.testing.assert_array_equal(shuffled.transform(source), quick().fit(*tables).transform(source))
    np.testing.assert_array_equal(shuffled.transform(source[:3]), shuffled.transform(source)[:3])


def test_a_seed_repeats_and_other_seeds_differ(tables):
    first, same, other = (quick(random_state=s).fit(*tables).transform(tables[0]) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_float32_stays_float32(tables):
    source, target = (table.astype(np.float32) for table in tables)
    transport = quick(inference_dtype="float32").fit(source, tables[1])
    for moved in (transport.transform(source), transport.inverse_transform(target)):
        assert moved.dtype == np.float32
    np.testing.assert_allclose(
        transport.transform(source), quick().fit(*tables).transform(tables[0]), atol=1e-2
    )


def test_constant_columns_stay(tables):
    source, target = (np.column_stack([table, np.full(len(table), 7.0)]) for table in tables)
    transport = quick(source_density=Law(NORMAL)).fit(source, target)
    np.testing.assert_array_equal(transport.constant_features_, [2])
    np.testing.assert_array_equal(transport.transform(source)[:, 2], 7.0)
    np.testing.assert_array_equal(
        transport.transform(source)[:, :2], quick().fit(*tables).transform(tables[0])
    )


def test_a_column_that_is_constant_in_one_table_only_moves(tables):
    source = np.column_stack([tables[0], np.full(300, 7.0)])
    target = np.column_stack([tables[1], np.linspace(8.0, 9.0, 400)])
    moved = quick(max_iter=200).fit(source, target).transform(source)
    assert moved[:, 2].mean() == pytest.approx(8.5, abs=0.2)


def test_pickle_clone_and_pipeline(tables):
    transport = quick(source_density=KernelDensity()).fit(*tables)
    again = pickle.loads(pickle.dumps(transport))
    np.testing.assert_array_equal(again.transform(tables[0]), transport.transform(tables[0]))
    np.testing.assert_array_equal(again.score_samples(tables[1]), transport.score_samples(tables[1]))
    assert not hasattr(clone(transport), "segments_")
    X, t = np.concatenate(tables), np.repeat([0, 1], [300, 400])
    assert make_pipeline(StandardScaler(), quick()).fit(X, t).transform(X).shape == X.shape
    inside = quick().set_params(velocity__width=8, source_density=KernelDensity())
    assert inside.set_params(source_density__bandwidth=0.5).velocity.width == 8


def test_a_failed_refit_leaves_the_old_model(tables):
    transport = quick().fit(*tables)
    before = dict(vars(transport))
    with pytest.raises(ValueError, match="y has shape"):
        transport.fit(tables[0], tables[1][:, :1])
    assert vars(transport) == before


# -- bad input ------------------------------------------------------------------------------------------

ROWS = NORMAL.sample(20, seed=0)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed, but the target y is None: pass the target table"),
        (ROWS[:, :1], r"y has shape \(20, 1\) and X \(20, 2\): a target table needs the 2 columns"),
        (np.zeros((2, 2, 2)), r"y must be a table or one time for every row of X, got the shape"),
        (np.arange(3), "inconsistent numbers of samples"),
        (["a", "b"] * 10, "y of one dimension holds the time of every row, a number each; got dtype"),
        (np.full(20, math.nan), "y, the times: contains NaN"),
        (np.ones(20), "y, the times: all rows are at time 1, so there is nothing to join"),
        (np.arange(20.0), "y, the times: 20 of the 20 times have a single row"),
        (np.where(ROWS > 1, np.nan, ROWS), "y, the target table: Input X contains NaN"),
        (ROWS[:1], "y, the target table: Found array with 1 sample"),
    ],
)
def test_a_target_that_is_none_is_refused(y, message):
    with pytest.raises(ValueError, match=message):
        quick().fit(ROWS, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"coupling": "sinkhorn"}, "coupling"),
        ({"interpolant": "quadratic"}, "interpolant"),
        ({"source_density": "normal"}, "source_density"),
        ({"max_iter": 0}, "max_iter"),
        ({"preprocessor": MLP()}, "preprocessor"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(parameters, message, tables):
    with pytest.raises(ValueError, match=message):
        quick(**parameters).fit(*tables)


def test_times_that_are_none_are_refused(fitted):
    for times, message in [
        ([0.0, 1.1], r"times must lie in \[0, 1\], the fitted times"),
        ([], "times must lie in"),
        ([0.5, 0.5], "times must increase"),
        ([0.9, 0.1], "times must increase"),
        (["now"], "times must be numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            fitted.path(ROWS, times)
    with pytest.raises(ValueError, match="t_to must lie in"):
        fitted.transport(ROWS, 0.0, math.nan)
    with pytest.raises(NotFittedError):
        quick().path(ROWS, [0.0])


def test_rows_that_cannot_be_solved_are_nan_and_said_so(tables):
    transport = quick(solver="dopri5", source_density=Law(NORMAL), max_iter=2).fit(*tables)
    transport.segments_[0].solver.max_steps = 1
    with pytest.warns(SolverWarning, match="20 of 20 rows could not be solved"):
        assert np.isnan(transport.transform(ROWS)).all()
    with pytest.warns(SolverWarning, match="20 of 20 rows could not be solved"):
        assert np.isnan(transport.score_samples(ROWS)).all()


def test_a_row_off_a_constant_column_has_no_density(tables):
    source, target = (np.column_stack([table, np.full(len(table), 7.0)]) for table in tables)

    class First(Law):
        def score_samples(self, X):
            return multivariate_normal(np.zeros(2)).logpdf(X[:, :2])

    transport = quick(source_density=First()).fit(source, target)
    target[0, 2] = 6.0
    assert transport.score_samples(target)[0] == -math.inf
    assert np.isfinite(transport.score_samples(target)[1:]).all()


def test_rows_beyond_the_dtype_are_nan_and_named():
    """Not the image of some other row: such a row cannot be carried."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 2)), rng.normal(3.0, size=(60, 2))
    maps = InterpolantTransport(
        velocity=MLP(width=16), max_iter=20, inference_dtype="float32", random_state=0
    ).fit(X, Y)
    with pytest.warns(SolverWarning, match="1 of 2 rows could not be solved and are NaN: rows 0"):
        moved = maps.transform(np.array([[1e60, 0.0], X[0]]))
    assert np.isnan(moved[0]).all()
    assert np.isfinite(moved[1]).all()
