"""InterpolantImputer with categories and whole numbers against a closed form; dtypes; bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm, vonmises
from sklearn.base import BaseEstimator
from sklearn.mixture import GaussianMixture

import siflow_sk.mixed
from siflow_sk import InterpolantFlow, InterpolantImputer, MixedDensity, load
from siflow_sk.exceptions import DataWarning
from siflow_sk.mixed._columns import Column
from siflow_sk.velocities import MLP

SHARES, MEANS = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.5, 3.0])  # of three levels; x is N(mean, 1)


class Cells(BaseEstimator):
    """Spread rows (level, x) of that law, uneven in the cells; what lies beyond the levels must not count."""

    def __init__(self, width=1.0, beyond=0.5):
        self.width = width
        self.beyond = beyond

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        level = np.rint(X[:, 0] / self.width)
        uneven = 0.2 + 9.6 * (X[:, 0] / self.width - level) ** 2  # of mean 1
        inside = (level >= 0) & (level < 3)
        level = np.clip(level, 0, 2).astype(int)
        with np.errstate(divide="ignore"):
            share = np.log(np.where(inside, SHARES[level], self.beyond) * uneven / self.width)
        return share + norm(MEANS[level], 1.0).logpdf(X[:, 1])


LEVELS = {
    "category": (["a", "b", "c"], pd.CategoricalDtype(["c", "unused", "b", "a"], ordered=True)),
    "text": (["a", "b", "c"], object),
    "string": (["a", "b", "c"], "string"),
    "whole numbers": ([0, 1, 2], "Int64"),
    "lattice": ([0.0, 0.5, 1.0], np.float32),
}


def make_table(kind, n_rows=300, seed=0):
    """Rows of the law with a fifth of the values removed; in ``category`` the order of levels is reversed."""
    rng = np.random.default_rng(seed)
    code = rng.choice(3, p=SHARES, size=n_rows)
    values, dtype = LEVELS[kind]
    shown = np.array(values, dtype=object)[2 - code if kind == "category" else code]
    gone = rng.random((n_rows, 2)) < 0.2
    level = pd.Series(np.where(gone[:, 0], None, shown)).astype(dtype)
    x = np.where(gone[:, 1], np.nan, rng.normal(MEANS[code], 1.0))
    return pd.DataFrame({"level": level, "x": x}, index=np.arange(n_rows) + 7)


def code_of(level, kind):
    """0, 1, 2 of the law, NaN where missing."""
    values = LEVELS[kind][0]
    order = dict(zip(values[::-1] if kind == "category" else values, range(3), strict=True))
    return level.astype(object).map(order).astype(float).to_numpy()


@pytest.fixture(scope="module", params=list(LEVELS))
def case(request):
    table = make_table(request.param)
    density = MixedDensity(Cells(), kinds={"x": "real"}, n_draws=64, random_state=0)
    if request.param == "whole numbers":  # can be below zero
        density.set_params(estimator__beyond=0.0)
    if request.param == "lattice":
        density.set_params(kinds={"x": "real", "level": 0.5}, estimator=Cells(0.5, 0.0))
    return request.param, table, InterpolantImputer(density, n_points=128, random_state=0).fit(table)


def test_the_marginal_of_what_is_there(case):
    """Log-probability of a level alone, log-density of x alone: a mixture."""
    kind, table, fitted = case
    code, x = code_of(table["level"], kind), table["x"].to_numpy()
    joint = np.log(SHARES) + norm(MEANS, 1.0).logpdf(np.nan_to_num(x)[:, None])  # (n, 3)
    exact = np.logaddexp.reduce(joint, axis=1)
    known, at = ~np.isnan(code), np.nan_to_num(code).astype(int)
    exact[known] = joint[known, at[known]]
    exact[np.isnan(x)] = np.log(SHARES)[at[np.isnan(x)]]
    exact[np.isnan(x) & ~known] = 0.0
    values, errors = fitted.score_samples(table, return_error=True)
    whole = known & ~np.isnan(x)
    np.testing.assert_allclose(values, exact, atol=0.3)
    assert (np.abs(values - exact) <= 5 * errors + 1e-9).all()
    assert errors[~whole].mean() < 0.12


def test_levels_are_drawn_given_the_rest_of_the_row(case):
    kind, table, fitted = case
    x = np.array([-2.0, 0.2, 1.8])
    asked = table.iloc[[0] * 1800].assign(x=np.repeat(x, 600))
    asked["level"] = pd.Series([None] * 1800, index=asked.index).astype(table["level"].dtype)
    (drawn,) = fitted.impute(asked, random_state=0)
    pd.testing.assert_series_equal(drawn["x"], asked["x"])
    assert drawn["level"].dtype == table["level"].dtype
    posterior = SHARES * norm(MEANS, 1.0).pdf(x[:, None])
    posterior /= posterior.sum(axis=1, keepdims=True)
    code = code_of(drawn["level"], kind).reshape(3, 600)
    found = np.stack([(code == level).mean(axis=1) for level in range(3)], axis=1)
    np.testing.assert_allclose(found, posterior, atol=0.06)


def test_numbers_are_drawn_given_the_level(case):
    kind, table, fitted = case
    for level in range(3):
        row = table[(code_of(table["level"], kind) == level)].iloc[[0] * 800].assign(x=np.nan)
        drawn = fitted.impute(row, random_state=level)[0]["x"]
        assert kstest(drawn, norm(MEANS[level], 1.0).cdf).pvalue > 1e-3


def test_the_most_probable_level_and_the_mean(case):
    kind, table, fitted = case
    filled = fitted.transform(table)
    assert isinstance(filled, pd.DataFrame)
    assert (filled.dtypes == table.dtypes).all()
    assert (filled.index == table.index).all()
    assert filled.notna().all().all()
    for name in table:
        seen = table[name].notna()
        pd.testing.assert_series_equal(filled[name][seen], table[name][seen])
    gap = table["x"].isna() & table["level"].notna()
    level = code_of(table["level"][gap], kind).astype(int)
    np.testing.assert_allclose(filled["x"][gap], MEANS[level], atol=0.2)
    gap = table["level"].isna() & table["x"].notna()
    joint = SHARES * norm(MEANS, 1.0).pdf(table["x"][gap].to_numpy()[:, None])
    joint /= joint.sum(axis=1, keepdims=True)
    found = code_of(filled["level"][gap], kind)
    if kind in ("whole numbers", "lattice"):  # the mean, rounded
        mean = joint @ np.arange(3.0)
        assert (np.abs(found - mean) < 0.5 + 0.15).all()
    else:
        clear = np.sort(joint, axis=1)[:, -1] > 0.6
        assert clear.sum() > 10
        np.testing.assert_array_equal(found[clear], joint.argmax(axis=1)[clear])


def test_the_mean_of_whole_numbers_is_that_of_their_cells():
    column = Column(pd.Series([0, 1, 2]), "count", "integer")
    np.testing.assert_allclose(column.centre(np.array([[0.4, 1.4]]), np.array([[0.6, 0.4]])), [0.4])


# -- what fit learns ----------------------------------------------------------------------------------------


def test_levels_missing_at_random_leave_no_bias():
    """Where x is large the level is mostly missing, and it is mostly b there."""
    rng = np.random.default_rng(0)
    level = rng.random(3000) < 0.4
    x = rng.normal(np.where(level, 2.0, 0.0), 1.0)
    table = pd.DataFrame({"level": np.where(level, "b", "a"), "x": x})
    table.loc[(x > 1.0) & (np.arange(3000) % 5 > 0), "level"] = None
    assert (table["level"].dropna() == "b").mean() < 0.25
    density = MixedDensity(GaussianMixture(6, random_state=0), random_state=0)
    fitted = InterpolantImputer(density, n_rounds=6, random_state=0).fit(table)
    (drawn,) = fitted.impute(table, random_state=1)
    assert (drawn["level"] == "b").mean() == pytest.approx(0.4, abs=0.05)
    asked = pd.DataFrame({"level": [None, None], "x": [-1.0, 3.0]})
    assert fitted.transform(asked)["level"].tolist() == ["a", "b"]


def test_rows_without_gaps_that_lack_a_level_are_not_started_from():
    """Their density would number the levels otherwise."""

    class Counting(Cells):
        fits = []

        def fit(self, X, y=None):
            Counting.fits.append(X)
            return self

    table = make_table("text", 200)
    table.loc[table["level"] == "b", "x"] = np.nan
    InterpolantImputer(MixedDensity(Counting(), random_state=0), random_state=0).fit(table)
    assert [len(X) for X in Counting.fits] == [200 - int(table.isna().all(axis=1).sum())] * 2
    table.loc[table.index[table["level"] == "b"][0], "x"] = 0.5
    InterpolantImputer(MixedDensity(Counting(), random_state=0), random_state=0).fit(table)
    assert len(Counting.fits[2]) == (~table.isna().any(axis=1)).sum()


def test_a_table_with_categories_needs_no_word(monkeypatch):
    small = InterpolantFlow(velocity=MLP(width=8), max_iter=2, polish=0, random_state=0)
    monkeypatch.setattr(siflow_sk.mixed, "InterpolantFlow", lambda random_state: small)
    table = make_table("text", 60)
    fitted = InterpolantImputer(n_rounds=1, n_points=4, random_state=0).fit(table)
    assert isinstance(fitted.estimator_, MixedDensity)
    assert fitted.estimator_.kinds_ == {"level": "categorical", "x": "real"}
    assert fitted.estimator_.levels_ == {"level": ["a", "b", "c"]}
    again = InterpolantImputer(n_rounds=1, n_points=4, random_state=0).fit(table)
    np.testing.assert_array_equal(again.score_samples(table), fitted.score_samples(table))


def test_ends_and_angles_are_kept():
    """Logarithm and Jacobian of a positive column; one turn of an angle counts, wherever it was given."""

    class Known(BaseEstimator):
        def __init__(self, periodic=None):
            self.periodic = periodic

        def fit(self, X, y=None):
            assert self.periodic == {1: 360.0}
            return self

        def score_samples(self, X):
            turn = np.deg2rad(X[:, 1] + 20.0)
            return norm.logpdf(X[:, 0]) + vonmises(1.0).logpdf(turn) + np.log(np.pi / 180.0)

    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"size": np.exp(rng.normal(size=200)), "angle": np.rad2deg(vonmises(1.0).rvs(200, random_state=0))}
    )
    table["angle"] += 700.0  # - 20 degrees
    gone = rng.random((200, 2)) < 0.3
    density = MixedDensity(Known(), kinds={"size": "positive", "angle": ("periodic", 360.0)})
    fitted = InterpolantImputer(density, n_points=512, random_state=0).fit(table.mask(gone))
    exact = np.where(gone[:, 0], 0.0, norm.logpdf(np.log(table["size"])) - np.log(table["size"]))
    exact += np.where(gone[:, 1], 0.0, vonmises(1.0).logpdf(np.deg2rad(table["angle"] + 20.0)))
    exact += np.where(gone[:, 1], 0.0, np.log(np.pi / 180.0))
    np.testing.assert_allclose(fitted.score_samples(table.mask(gone)), exact, atol=0.1)
    filled = fitted.transform(table.mask(gone))
    only = gone[:, 0] & ~gone[:, 1]
    np.testing.assert_allclose(filled["size"][only], np.exp(0.5), rtol=0.15)  # the mean, not that of the logs
    only = gone[:, 1] & ~gone[:, 0]
    np.testing.assert_allclose(filled["angle"][only], 340.0, atol=15.0)
    drawn = fitted.impute(table.mask(gone), random_state=0)[0]
    assert (drawn["size"] > 0).all()
    assert drawn["angle"][gone[:, 1]].between(0.0, 360.0).all()


# -- dtypes -------------------------------------------------------------------------------------------------


def test_truth_values_constants_and_whole_numbers_said_to_be_real():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "flag": pd.Series(rng.random(80) < 0.5).astype("boolean"),
            "same": ["always"] * 80,
            "count": pd.Series(rng.poisson(50.0, 80)).astype("Int64"),
            "x": rng.normal(size=80).astype(np.float32),
        }
    )
    gone = rng.random((80, 4)) < 0.2
    density = MixedDensity(GaussianMixture(1, random_state=0), kinds={"count": "real"}, random_state=0)
    fitted = InterpolantImputer(density, random_state=0).fit(table.mask(gone))
    filled = fitted.transform(table.mask(gone))
    assert filled.dtypes.tolist() == ["boolean", table["same"].dtype, np.float64, np.float32]
    assert (filled["same"] == "always").all()
    tables = fitted.impute(table.mask(gone), n_draws=3, random_state=0)
    assert len(tables) == 3
    assert all(drawn.notna().all().all() for drawn in tables)
    assert not tables[0].equals(tables[1])
    pd.testing.assert_frame_equal(fitted.impute(table.mask(gone), 3, random_state=0)[2], tables[2])


def test_arrays_come_back_as_arrays():
    X = make_table("whole numbers").astype(float).to_numpy()
    density = MixedDensity(Cells(beyond=0.0), kinds={0: "integer", 1: "real"}, random_state=0)
    fitted = InterpolantImputer(density, random_state=0).fit(X)
    filled, drawn = fitted.transform(X), fitted.impute(X, 4, random_state=0)
    assert isinstance(filled, np.ndarray)
    assert drawn.shape == (300, 4, 2)
    assert np.isin(drawn[:, :, 0], [0.0, 1.0, 2.0]).all()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])


def test_saved_and_loaded(tmp_path):
    table = make_table("category", 100)
    density = MixedDensity(GaussianMixture(2, random_state=0), random_state=0)
    fitted = InterpolantImputer(density, random_state=0).fit(table)
    fitted.save(tmp_path / "imputer.safetensors")
    again = load(tmp_path / "imputer.safetensors")
    pd.testing.assert_frame_equal(again.transform(table), fitted.transform(table))
    np.testing.assert_array_equal(again.score_samples(table), fitted.score_samples(table))


# -- bad input ----------------------------------------------------------------------------------------------


def test_a_level_that_fit_did_not_see():
    table = make_table("text")
    fitted = InterpolantImputer(MixedDensity(Cells(), random_state=0), random_state=0).fit(table)
    new = pd.DataFrame({"level": ["d", "d", "a"], "x": [0.5, np.nan, 0.5]})
    np.testing.assert_array_equal(np.isneginf(fitted.score_samples(new)), [True, True, False])
    pd.testing.assert_frame_equal(fitted.transform(new.iloc[[0, 2]]), new.iloc[[0, 2]])  # nothing to fill
    for method in (fitted.transform, fitted.impute):
        with pytest.raises(ValueError, match=r"column 'level' holds 'd', which has probability zero"):
            method(new)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda t: t.assign(level=None), ValueError, "column 'level' without any value; drop"),
        (lambda t: t.assign(x=np.where(t["x"] > 0, np.inf, t["x"])), ValueError, "infinity"),
        (lambda t: t.assign(level=np.arange(len(t)).astype(str)), ValueError, "like a name or a key"),
        (lambda t: t.assign(x=pd.Timestamp("2020")), TypeError, "dates or durations"),
        (lambda t: t.assign(x=0.0, level="a"), ValueError, "all columns are constant"),
        (lambda t: t.iloc[:1], ValueError, "minimum of 2"),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(change, kind, message):
    table = make_table("text", 100)
    fitted = InterpolantImputer(MixedDensity(Cells(), random_state=0), random_state=0).fit(table)
    copy = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(kind, match=message):
        copy.fit(change(table))
    pd.testing.assert_frame_equal(copy.transform(table), fitted.transform(table))


def test_kinds_that_are_none_and_kinds_that_are_guessed():
    table = make_table("whole numbers").astype(float)
    with pytest.raises(ValueError, match="'kinds' parameter of MixedDensity"):
        InterpolantImputer(MixedDensity(Cells(), kinds="none")).fit(table)
    with pytest.warns(DataWarning, match=r"\['level'\] hold whole numbers that repeat"):
        InterpolantImputer(MixedDensity(Cells(), random_state=0), n_rounds=1, random_state=0).fit(table)
