"""MixedDensity: cells and ends against closed forms, levels that sum to one, weights, dtypes, bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import logit
from scipy.stats import lognorm, norm, poisson
from sklearn.base import BaseEstimator, clone
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KernelDensity

from siflow_sk import InterpolantFlow, MixedDensity, load
from siflow_sk.exceptions import DataWarning
from siflow_sk.velocities import MLP

MEAN, STD = np.array([1.0, 3.0]), np.array([2.0, 1.5])


class Normal(BaseEstimator):
    """Two independent normal columns that no data can change."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        d = X.shape[1]
        return norm(MEAN[-d:], STD[-d:]).logpdf(X).sum(axis=1)

    def sample(self, n_samples=1, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.normal(MEAN, STD, size=(n_samples, 2))[:, -self.n_features_in_ :]


def cell(value, width):
    """Exact log-probability of a cell of the second column."""
    low, high = (norm(MEAN[1], STD[1]).cdf(value + side * width / 2) for side in (-1, 1))
    return np.log(high - low)


@pytest.fixture(scope="module")
def people():
    """A table as people have them: 300 rows of five kinds of column."""
    rng = np.random.default_rng(0)
    city = rng.choice(["Rome", "Oslo", "Lima"], size=300, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {
            "height": rng.normal(170 + 10 * (city == "Oslo"), 5),
            "children": rng.poisson(1.5, size=300),
            "city": pd.Categorical(city, categories=["Oslo", "Lima", "Rome", "Cairo"]),
            "member": rng.random(300) < 0.3,
            "planet": "Earth",
            "dose": rng.integers(5, 20, size=300) / 10,
        },
        index=np.arange(50, 350),
    )


def quick(**parameters):
    flow = InterpolantFlow(max_iter=40, polish=0, velocity=MLP(width=32), random_state=0)
    return MixedDensity(flow, random_state=0, **parameters)


@pytest.fixture(scope="module")
def fitted(people):
    return quick(kinds={"dose": 0.1, "height": (0, 300)}, n_draws=8).fit(people)


# -- probabilities ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1.0, 0.25])
def test_a_lattice_column_has_the_probability_of_its_cells(width):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(1, 2, 100), np.rint(rng.normal(3, 1.5, 100) / width) * width])
    density = MixedDensity(Normal(), kinds={0: "real", 1: width}, n_draws=64, random_state=0).fit(X)
    exact = norm(MEAN[0], STD[0]).logpdf(X[:, 0]) + cell(X[:, 1], width)
    found, error = density.score_samples(X, return_error=True)
    np.testing.assert_allclose(found, exact, atol=2e-3)
    assert (np.abs(found - exact) < 3 * error + 1e-6).all()  # the error bar is on the safe side


def test_the_probabilities_of_all_whole_numbers_add_up_to_one():
    X = np.arange(-5.0, 12.0)[:, None]
    density = MixedDensity(Normal(), kinds={0: "integer"}, n_draws=128, random_state=0).fit(X)
    assert np.exp(density.score_samples(X)).sum() == pytest.approx(1.0, abs=1e-3)


def test_more_draws_raise_the_mean_towards_the_truth():
    X = np.rint(np.random.default_rng(0).normal(3, 1.5, size=(400, 1)) / 4) * 4
    exact = cell(X[:, 0], 4.0).mean()
    scores = [
        np.mean(
            [
                MixedDensity(Normal(), kinds={0: 4.0}, n_draws=k, random_state=s).fit(X).score(X)
                for s in range(20)
            ]
        )
        for k in (1, 4, 64)
    ]
    assert scores[0] < scores[1] - 0.05 < scores[2] - 0.05
    assert scores[2] == pytest.approx(exact, abs=0.01)


def test_counts_get_the_probabilities_of_their_law():
    train, test = (np.random.default_rng(s).poisson(4.0, size=(n, 1)) for s, n in [(0, 1000), (1, 2000)])
    density = MixedDensity(KernelDensity(bandwidth=0.3), kinds={0: "integer"}, random_state=0).fit(train)
    exact = poisson(4.0).logpmf(test[:, 0]).mean()
    assert density.score(test) == pytest.approx(exact, abs=0.05)
    assert np.abs(density.sample(2000, random_state=0).mean() - 4.0) < 0.2


def test_levels_given_the_other_columns_are_those_of_bayes():
    rng = np.random.default_rng(0)
    kind = rng.choice(["a", "b"], size=800, p=[0.7, 0.3])
    x = rng.normal(np.where(kind == "a", 0.0, 2.0), 1.0)
    table = pd.DataFrame({"kind": kind, "x": x})
    net = {"velocity": MLP(width=64), "preprocessor": "whiten"}
    flow = InterpolantFlow(max_iter=300, polish=0, random_state=0, **net)
    density = MixedDensity(flow, n_draws=8, random_state=0).fit(table)
    table, x = table[:256], x[:256]
    log_proba = density.level_log_proba(table, "kind")
    np.testing.assert_allclose(np.exp(log_proba).sum(axis=1), 1.0)
    joint = np.column_stack([0.7 * norm(0, 1).pdf(x), 0.3 * norm(2, 1).pdf(x)])
    exact = joint / joint.sum(axis=1, keepdims=True)
    assert np.abs(np.exp(log_proba) - exact).mean() < 0.06


def test_the_levels_of_every_categorical_column_sum_to_one(people, fitted):
    for column, n_levels in [("city", 3), ("member", 2)]:
        proba = np.exp(fitted.level_log_proba(people[:20], column))
        assert proba.shape == (20, n_levels)
        np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    with pytest.raises(
        ValueError, match=r"'height' is not a categorical column; those are \['city', 'member'\]"
    ):
        fitted.level_log_proba(people, "height")


# -- columns with ends --------------------------------------------------------------------------------------


def test_the_logarithm_of_a_positive_column_carries_its_jacobian():
    X = lognorm(STD[1], scale=np.exp(MEAN[1])).rvs((100, 1), random_state=0)
    density = MixedDensity(Normal(), kinds={0: "positive"}).fit(X)
    exact = lognorm(STD[1], scale=np.exp(MEAN[1])).logpdf(X[:, 0])
    np.testing.assert_allclose(density.score_samples(X), exact, rtol=1e-12)
    assert density.kinds_ == {0: "positive"}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_end_of_two_may_be_infinite(sign):
    law = lognorm(STD[1], loc=2.0, scale=np.exp(sign * MEAN[1]))
    X = law.rvs((100, 1), random_state=0)
    ends = (2.0, np.inf) if sign > 0 else (-np.inf, -2.0)
    density = MixedDensity(Normal(), kinds={0: ends}).fit(sign * X)
    np.testing.assert_allclose(density.score_samples(sign * X), law.logpdf(X[:, 0]), rtol=1e-12)


def test_one_value_says_nothing_of_ends():
    with pytest.raises(ValueError, match="column 1 has one value, from which no ends can be guessed"):
        MixedDensity(Normal(), kinds={1: "interval"}).fit(np.array([[0.1, 2.0], [0.4, 2.0], [0.2, 2.0]]))


def test_the_density_between_two_ends_gives_parts_of_the_interval_their_probability():
    X = np.linspace(-0.9, 2.9, 30)[:, None]
    density = MixedDensity(Normal(), kinds={0: (-1.0, 3.0)}).fit(X)
    for low, high in [(-1.0, 3.0), (0.0, 1.0), (2.5, 3.0)]:
        found, _ = quad(lambda x: np.exp(density.score_samples([[x]])[0]), low, high, epsabs=1e-9)
        with np.errstate(divide="ignore"):
            ends = logit((np.array([low, high]) + 1.0) / 4.0)
        assert found == pytest.approx(np.diff(norm(MEAN[1], STD[1]).cdf(ends))[0], abs=1e-7)


def test_guessed_ends_are_said():
    X = np.linspace(10.0, 20.0, 21)[:, None]
    with pytest.warns(DataWarning, match=r"the ends of column 0 are guessed, 9.5 and 20.5; say them"):
        density = MixedDensity(Normal(), kinds={0: "interval"}).fit(X)
    assert density.kinds_ == {0: (9.5, 20.5)}
    assert np.isfinite(density.score_samples(X)).all()


@pytest.mark.parametrize(("ends", "beyond"), [("positive", [-1.0, 0.0]), ((0.0, 8.0), [0.0, 8.0, 9.0, -3.0])])
def test_on_and_beyond_the_ends_the_density_is_zero(ends, beyond):
    X = np.linspace(0.5, 7.5, 30)[:, None]
    density = MixedDensity(Normal(), kinds={0: ends}).fit(X)
    values = density.score_samples(np.concatenate([[beyond], X.T], axis=1).T)
    assert (values[: len(beyond)] == -np.inf).all()
    np.testing.assert_array_equal(values[len(beyond) :], density.score_samples(X))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_draws_stay_between_the_ends(dtype):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=50), "y": rng.uniform(0.31, 0.69, 50)}).astype(dtype)

    class Wide(Normal):
        def sample(self, n_samples=1, random_state=None):
            return 60.0 * super().sample(n_samples, random_state)  # nearly all of it on the ends, rounded

    for ends in [(0.3, 0.7), "positive", (-np.inf, 0.7)]:
        density = MixedDensity(Wide(), kinds={"y": ends}).fit(table)
        drawn = density.sample(500, random_state=0)
        assert (drawn.dtypes == dtype).all()
        assert (density.score_samples(drawn) > -np.inf).all()


# -- angles -------------------------------------------------------------------------------------------------


class Circle(BaseEstimator):
    """Uniform over one turn, whatever the rows; the last of its columns is the angle."""

    def __init__(self, periodic=None):
        self.periodic = periodic

    def fit(self, X, y=None):
        (self.column_, self.period_), *_ = self.periodic.items()
        self.shape_ = X.shape[1]
        return self

    def score_samples(self, X):
        return np.full(len(X), -np.log(self.period_))

    def sample(self, n_samples=1, random_state=None):
        rows = np.zeros((n_samples, self.shape_))
        rows[:, self.column_] = self.period_ * np.linspace(-3.0, 3.0, n_samples, endpoint=False)
        rows[::2, self.column_] = self.period_ * (1.0 - 2.0**-40)  # float32 makes a whole turn of it
        return rows


def around(n, seed=0):
    """Hours around midnight, a kind of day that they depend on, minutes."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["late", "early"], size=n)
    hour = rng.normal(np.where(kind == "late", -2.0, 3.0), 1.5) % 24.0
    return pd.DataFrame({"kind": kind, "hour": hour})


@pytest.fixture(scope="module")
def clock():
    return quick(kinds={"hour": ("periodic", 24.0)}, n_draws=8).fit(around(400))


def test_an_angle_has_a_density_that_integrates_to_one_over_a_period(clock):
    assert clock.kinds_ == {"kind": "categorical", "hour": ("periodic", 24.0)}
    hours = np.arange(0.0, 24.0, 0.1)  # of a smooth periodic function the sum is the integral
    total = 0.0
    for kind in ("late", "early"):
        table = pd.DataFrame({"kind": kind, "hour": hours})
        total += 0.1 * np.exp(clock.score_samples(table)).sum()
        np.testing.assert_allclose(
            clock.score_samples(table.assign(hour=hours - 48.0)), clock.score_samples(table), atol=1e-6
        )
    # some leaks into levels that are none
    leak = np.mean(np.abs(clock.estimator_.sample(2000, random_state=0)[:, 0] - 0.5) > 1.0)
    assert total == pytest.approx(1.0 - leak, abs=0.02)
    ends = pd.DataFrame({"kind": "late", "hour": [0.0, 24.0 - 1e-9]})
    assert abs(np.diff(clock.score_samples(ends))[0]) < 1e-6


def test_an_angle_is_left_to_the_flow():
    table = around(150)[["hour"]].assign(x=np.random.default_rng(0).normal(size=150), planet="Earth")
    table = table[["planet", "x", "hour"]]
    settings = {"max_iter": 5, "polish": 0, "velocity": MLP(width=16), "random_state": 0}
    density = MixedDensity(InterpolantFlow(**settings), kinds={"hour": ("periodic", 24)}).fit(table)
    flow = InterpolantFlow(periodic={1: 24.0}, **settings).fit(table[["x", "hour"]].to_numpy())
    np.testing.assert_array_equal(
        density.score_samples(table), flow.score_samples(table[["x", "hour"]].to_numpy())
    )
    assert density.estimator.periodic is None  # that of the user is not touched


@pytest.mark.parametrize("dtype", ["float32", "float64", "Float32"])
@pytest.mark.parametrize("start", [0.0, -np.pi])
def test_angles_are_drawn_in_their_turn_with_their_dtype(dtype, start):
    angle = start + 2.0 * np.pi * np.random.default_rng(0).random(50)
    table = pd.DataFrame({"x": np.arange(50.0), "planet": "Earth", "phi": angle}).astype({"phi": dtype})
    density = MixedDensity(Circle(), kinds={"phi": ("periodic", 2.0 * np.pi)}).fit(table)
    assert density.estimator_.periodic == {1: 2.0 * np.pi}
    drawn = density.sample(600, random_state=0)["phi"]
    assert str(drawn.dtype) == dtype
    value = drawn.to_numpy(dtype=np.float64)
    assert ((value >= start) & (value < start + 2.0 * np.pi)).all()
    assert (np.histogram(value, bins=6, range=(start, start + 2.0 * np.pi))[0] >= 45).all()


def test_angles_are_saved(clock, tmp_path):
    clock.save(tmp_path / "clock.safetensors")
    again, table = load(tmp_path / "clock.safetensors"), around(20, seed=1)
    assert again.kinds_ == clock.kinds_
    np.testing.assert_array_equal(again.score_samples(table), clock.score_samples(table))
    pd.testing.assert_frame_equal(again.sample(20, random_state=0), clock.sample(20, random_state=0))


@pytest.mark.parametrize(
    "kind", ["periodic", *(("periodic", p) for p in (0.0, -24.0, np.inf, np.nan, "24", True))]
)
def test_a_period_that_is_none(kind):
    with pytest.raises(
        ValueError, match=r"kinds\['hour'\] is .*; the period must be said, a finite number > 0"
    ):
        MixedDensity(Circle(), kinds={"hour": kind}).fit(around(50))


@pytest.mark.parametrize(
    ("estimator", "kind", "message"),
    [
        (
            KernelDensity(),
            TypeError,
            r"KernelDensity has no parameter periodic, and kinds says that \['hour'\]",
        ),
        (Circle({0: 1.0}), ValueError, r"estimator has periodic=\{0: 1.0\}; say in kinds alone"),
    ],
)
def test_estimators_that_take_no_periods(estimator, kind, message):
    with pytest.raises(kind, match=message):
        MixedDensity(estimator, kinds={"hour": ("periodic", 24.0)}).fit(around(50))
    with pytest.raises(ValueError, match="column 'kind' holds 'late' where a number is needed"):
        MixedDensity(Circle(), kinds={"kind": ("periodic", 24.0)}).fit(around(50).sort_values("kind")[::-1])


def test_whole_numbers_that_are_said_to_be_real_are_drawn_as_such(people):
    density = MixedDensity(Normal(), kinds={"children": "real"}).fit(people[["height", "children"]])
    drawn = density.sample(50, random_state=0)["children"]
    assert drawn.dtype == np.float64
    assert (drawn != np.rint(drawn)).all()


# -- weights ------------------------------------------------------------------------------------------------


def test_weights_reach_the_density_and_rows_without_weight_are_left_out(people):
    table = people[["height", "dose", "member"]].assign(height=lambda t: t["height"].round(2))
    weight = np.random.default_rng(0).integers(0, 3, size=len(table)).astype(float)
    weight[table["member"]] = 0.0
    settings = {"kinds": {"height": "positive", "dose": "real"}, "random_state": 0}
    weighted = MixedDensity(KernelDensity(), **settings).fit(table, sample_weight=weight)
    repeated = table.loc[table.index.repeat(weight.astype(int))]
    by_hand = MixedDensity(KernelDensity(), **settings).fit(repeated)
    assert weighted.kinds_["member"] == by_hand.kinds_["member"] == "constant"
    np.testing.assert_allclose(weighted.score_samples(table[:50]), by_hand.score_samples(table[:50]))
    values = weighted.score_samples(repeated)
    assert weighted.score(table[~table["member"]], sample_weight=weight[~table["member"]]) == pytest.approx(
        values.mean()
    )


@pytest.mark.parametrize(
    ("estimator", "weight", "kind", "message"),
    [
        (GaussianMixture(), 1.0, TypeError, "GaussianMixture.fit takes no sample_weight"),
        (KernelDensity(), 0.0, ValueError, "at least one (weight|non-zero)"),
        (KernelDensity(), -1.0, ValueError, "[Nn]egative"),
        (KernelDensity(), np.nan, ValueError, "NaN"),
    ],
)
def test_weights_that_cannot_be_used(estimator, weight, kind, message, people):
    with pytest.raises(kind, match=message):
        MixedDensity(estimator).fit(people, sample_weight=np.full(len(people), weight))


# -- kinds, dtypes, levels ----------------------------------------------------------------------------------


def test_what_was_detected_can_be_read_off(people, fitted):
    assert fitted.kinds_ == {
        "height": (0, 300),
        "children": "integer",
        "city": "categorical",
        "member": "categorical",
        "planet": "constant",
        "dose": 0.1,
    }
    assert fitted.levels_ == {"city": ["Oslo", "Lima", "Rome"], "member": [False, True]}
    with pytest.warns(DataWarning, match=r"column\(s\) \['children'\] hold whole numbers that repeat"):
        guess = MixedDensity(Normal(), n_draws=1).fit(people[["height", "children"]].astype(float))
    assert guess.kinds_["children"] == "integer"
    told = MixedDensity(Normal(), kinds={"children": "real"}).fit(people[["height", "children"]])
    assert told.kinds_["children"] == "real"


def test_draws_look_like_the_table(people, fitted):
    drawn = fitted.sample(400, random_state=0)
    pd.testing.assert_series_equal(drawn.dtypes, people.dtypes)
    assert list(drawn["city"].cat.categories) == ["Oslo", "Lima", "Rome", "Cairo"]
    assert set(drawn["city"].unique()) == {"Oslo", "Lima", "Rome"}
    assert (drawn["planet"] == "Earth").all()
    np.testing.assert_allclose(drawn["dose"] * 10, np.rint(drawn["dose"] * 10), atol=1e-9)
    assert abs(drawn["member"].mean() - people["member"].mean()) < 0.15
    assert abs((drawn["city"] == "Rome").mean() - (people["city"] == "Rome").mean()) < 0.15
    assert np.isfinite(fitted.score_samples(drawn)).all()
    pd.testing.assert_frame_equal(drawn, fitted.sample(400, random_state=0))


def test_the_impossible_has_probability_zero(people, fitted):
    row = people[:1]
    assert np.isfinite(fitted.score(row))
    for column, value in [("city", "Cairo"), ("planet", "Mars"), ("children", 1.5), ("dose", 0.55)]:
        other = row.copy()
        other[column] = pd.Series([value], index=row.index)
        assert fitted.score_samples(other)[0] == -np.inf
    mixed = pd.concat([row, other.astype({"children": float})])
    np.testing.assert_array_equal(np.isfinite(fitted.score_samples(mixed)), [True, False])


def test_dtypes_that_changed_are_read_by_their_values(people, fitted):
    other = people.astype({"city": object, "children": float, "member": object})
    np.testing.assert_array_equal(fitted.score_samples(other), fitted.score_samples(people))


def test_a_row_does_not_depend_on_the_others(people, fitted):
    np.testing.assert_allclose(fitted.score_samples(people)[:7], fitted.score_samples(people[:7]), rtol=1e-9)


def test_arrays_give_arrays():
    X = np.column_stack([np.random.default_rng(0).normal(size=50), np.arange(50) % 4])
    density = MixedDensity(Normal(), kinds={1: "integer"}, random_state=0).fit(X)
    drawn = density.sample(30, random_state=0)
    assert isinstance(drawn, np.ndarray)
    np.testing.assert_array_equal(drawn[:, 1], np.rint(drawn[:, 1]))
    with pytest.raises(ValueError, match="NaN"):
        density.score_samples([[np.nan, 1.0]])


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(height=t["height"].mask(t.index == 60)), "column 'height' has missing values"),
        (lambda t: t.assign(city=t["city"].mask(t.index == 60)), "column 'city' has missing values"),
        (lambda t: t.assign(height=t["height"].mask(t.index == 60, np.inf)), "infinity"),
        (lambda t: t[["planet"]], "all columns are constant"),
        (
            lambda t: t.assign(name=[f"n{i}" for i in range(len(t))]),
            "column 'name' has 300 levels in 300 rows",
        ),
        (lambda t: t[:1], "minimum of 2"),
        (lambda t: pd.concat([t, t[["height"]]], axis=1), "two columns of the same name"),
    ],
)
def test_tables_that_cannot_be_fitted(change, message, people):
    with pytest.raises(ValueError, match=message):
        MixedDensity(Normal()).fit(change(people))


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"age": "real"}, r"there is no column \['age'\]; the columns are"),
        ({"height": "number"}, r"kinds\['height'\] is 'number'; one of \['real'"),
        ({"height": -1.0}, r"kinds\['height'\] is -1.0"),
        ({"height": "integer"}, "column 'height' is not on the lattice of step 1: it holds"),
        ({"children": "constant"}, "'constant', but the column has"),
        ({"city": "real"}, "column 'city' holds 'Oslo' where a number is needed"),
        ({"city": "interval"}, "column 'city' holds 'Oslo' where a number is needed"),
        (
            {"children": "positive"},
            "column 'children' holds .*0.*, which is not between 0 and inf",
        ),
        ({"height": (0, 170)}, r"column 'height' holds .*, which is not between 0 and 170"),
        ({"height": (2.0, 1.0)}, r"kinds\['height'\] is \(2.0, 1.0\)"),
        ({"height": (-np.inf, np.inf)}, r"kinds\['height'\] is \(-inf, inf\)"),
        ({"height": (0.0, np.nan)}, r"kinds\['height'\] is \(0.0, nan\)"),
        ({"height": [0.0, 300.0]}, r"kinds\['height'\] is \[0.0, 300.0\]"),
    ],
)
def test_kinds_that_a_column_cannot_have(kinds, message, people):
    with pytest.raises(ValueError, match=message):
        MixedDensity(Normal(), kinds=kinds).fit(people)


def test_bad_rows_at_scoring(people, fitted):
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.score_samples(people[people.columns[::-1]])
    for column in people:
        with pytest.raises(ValueError, match=f"column '{column}' has missing values"):
            fitted.score_samples(people.assign(**{column: None}))
    with pytest.raises(ValueError, match="column 'height' holds 'tall' where a number is needed"):
        fitted.score_samples(people.assign(height="tall"))
    with pytest.raises(TypeError, match="dates or durations"):
        fitted.score_samples(people.assign(height=pd.Timestamp("2020-01-01")))


def test_a_failed_fit_leaves_the_old_model(people, fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match="missing values"):
        copy.fit(people.assign(height=np.nan))
    np.testing.assert_array_equal(copy.score_samples(people), fitted.score_samples(people))


def test_saved_and_loaded(people, fitted, tmp_path):
    fitted.save(tmp_path / "mixed.safetensors")
    again = load(tmp_path / "mixed.safetensors")
    np.testing.assert_array_equal(again.score_samples(people), fitted.score_samples(people))
    pd.testing.assert_frame_equal(again.sample(20, random_state=0), fitted.sample(20, random_state=0))


def test_cross_validation(people):
    density = MixedDensity(KernelDensity(bandwidth=0.5), random_state=0)
    scores = cross_val_score(
        clone(density), people[["height", "children", "member"]], cv=3, error_score="raise"
    )
    assert np.isfinite(scores).all()
