"""InterpolantImputer against closed forms: marginals, conditional draws, gaps with a bias; bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, multivariate_normal, norm
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from siflow_sk import InterpolantFlow, InterpolantImputer, MixedDensity, _tensors, load
from siflow_sk.exceptions import DataWarning
from siflow_sk.imputer import _resampled
from siflow_sk.imputer._proposal import Proposal
from siflow_sk.velocities import MLP

MEAN = np.array([0.0, 2.0, -1.0])
COVARIANCE = np.array([[1.0, 0.8, -0.3], [0.8, 2.0, 0.4], [-0.3, 0.4, 0.5]])


class Normal(BaseEstimator):
    """A Gaussian that no data can change."""

    def fit(self, X, y=None):
        assert not np.isnan(X).any()
        return self

    def score_samples(self, X):
        return multivariate_normal(MEAN, COVARIANCE).logpdf(X).reshape(len(X))


class Curved(BaseEstimator):
    """x0 ~ N(0, 1), x1 ~ N(x0^2, 0.3^2): two separate values of x0 for each large x1."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return norm.logpdf(X[:, 0]) + norm(X[:, 0] ** 2, 0.3).logpdf(X[:, 1])


def with_gaps(X, share=0.2, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def given(x):
    """Log-density of what is there, and mean and covariance of what is not, of the Gaussian."""
    o = ~np.isnan(x)
    inner, across = COVARIANCE[np.ix_(o, o)], COVARIANCE[np.ix_(~o, o)]
    gain = across @ np.linalg.inv(inner) if o.any() else np.zeros((3, 0))
    mean = MEAN[~o] + gain @ (x[o] - MEAN[o])
    log_density = multivariate_normal(MEAN[o], inner).logpdf(x[o]) if o.any() else 0.0
    return log_density, mean, COVARIANCE[np.ix_(~o, ~o)] - gain @ across.T


@pytest.fixture(scope="module")
def rows():
    X = with_gaps(multivariate_normal(MEAN, COVARIANCE).rvs(400, random_state=0))
    X[0] = np.nan
    X.setflags(write=False)
    return X


@pytest.fixture(scope="module")
def fitted(rows):
    return InterpolantImputer(Normal(), n_points=64, random_state=0).fit(rows)


@pytest.fixture(scope="module")
def curved():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    X = np.column_stack([x, rng.normal(x**2, 0.3)])
    return InterpolantImputer(Curved(), n_points=128, random_state=0).fit(with_gaps(X))


# -- the marginal of what is there --------------------------------------------------------------------------


def test_the_marginal_of_a_gaussian(rows, fitted):
    exact = np.array([given(x)[0] for x in rows])
    values, errors = fitted.score_samples(rows, return_error=True)
    part = np.isnan(rows).any(axis=1) & ~np.isnan(rows).all(axis=1)
    np.testing.assert_allclose(values[~part], exact[~part], rtol=1e-12)
    np.testing.assert_array_equal(errors[~part], 0.0)
    off = values[part] - exact[part]
    assert (np.abs(off) < 5 * errors[part]).all()
    assert np.sqrt(np.mean(off**2)) < errors[part].mean() < 0.05  # the bar is on the safe side, and short
    assert fitted.score(rows) == pytest.approx(exact.mean(), abs=0.01)


def test_the_error_falls_with_more_points(rows, fitted):
    more = InterpolantImputer(Normal(), n_points=1024, random_state=0).fit(rows)
    exact = np.array([given(x)[0] for x in rows])
    (few, few_error), (many, many_error) = (m.score_samples(rows, return_error=True) for m in (fitted, more))
    assert many_error.mean() < 0.4 * few_error.mean()  # a quarter, if the points were independent
    assert np.abs(many - exact).mean() < 0.4 * np.abs(few - exact).mean()


def test_the_exact_density_corrects_candidates_that_are_unlike_it(curved):
    x1 = np.array([-0.3, 0.1, 1.0, 2.0, 4.0])
    values, errors = curved.score_samples(np.column_stack([np.full(5, np.nan), x1]), return_error=True)
    exact = [
        quad(lambda x, y=y: norm.pdf(x) * norm(x**2, 0.3).pdf(y), -4.0, 4.0, points=[-1.0, 0.0, 1.0])[0]
        for y in x1
    ]
    assert errors.max() < 0.3
    assert (np.abs(values - np.log(exact)) < 4 * errors).all()


def test_units_of_what_is_there(rows):
    scale = np.array([1e3, 1e-3, 10.0])
    X, known = rows[:100], np.isfinite(rows[:100])
    mixture = GaussianMixture(1, reg_covar=0.0, random_state=0)
    values = InterpolantImputer(mixture, n_points=256, random_state=0).fit(X).score_samples(X)
    scaled = InterpolantImputer(mixture, n_points=256, random_state=0).fit(X * scale).score_samples(X * scale)
    np.testing.assert_allclose(scaled, values - known @ np.log(scale), atol=0.05)


def test_a_row_does_not_depend_on_the_others(rows, fitted):
    np.testing.assert_allclose(fitted.score_samples(rows)[:7], fitted.score_samples(rows[:7]), rtol=1e-9)
    np.testing.assert_allclose(fitted.transform(rows)[:7], fitted.transform(rows[:7]), rtol=1e-9)


# -- what is not there --------------------------------------------------------------------------------------


def test_values_are_filled_with_their_conditional_mean(rows, fitted):
    filled = fitted.transform(rows)
    for x, found in zip(rows, filled, strict=True):
        _, mean, covariance = given(x)
        off = (found[np.isnan(x)] - mean) / np.sqrt(np.diag(covariance))
        assert (np.abs(off) < 0.35).all()  # 64 points: 1 / 8 each
    np.testing.assert_array_equal(filled[~np.isnan(rows)], rows[~np.isnan(rows)])


@pytest.mark.parametrize("x", [[np.nan, 3.5, np.nan], [1.5, np.nan, -2.0], [np.nan] * 3])
def test_draws_follow_the_conditional_distribution(x, fitted):
    x = np.array(x)
    draws = fitted.impute(np.tile(x, (1500, 1)), random_state=0)[:, 0, np.isnan(x)]
    _, mean, covariance = given(x)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).T)
    for column in white:
        assert kstest(column, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(white), np.eye(len(white)), atol=0.12)


def test_draws_of_two_separate_values(curved):
    draws = curved.impute([[np.nan, 4.0]] * 400, random_state=0)[:, 0, 0]
    assert 0.4 < (draws > 0).mean() < 0.6
    np.testing.assert_allclose(np.abs(draws).mean(), 2.0, atol=0.05)
    assert np.abs(draws).std() == pytest.approx(0.3 / 4.0, rel=0.2)


def test_several_draws_of_one_row_are_as_different_as_those_of_many(fitted):
    x = np.array([np.nan, 3.5, -1.0])
    draws = fitted.impute(np.tile(x, (100, 1)), n_draws=20, random_state=0)
    assert draws.shape == (100, 20, 3)
    _, mean, covariance = given(x)
    np.testing.assert_allclose(
        draws[:, :, 0].std(axis=1, ddof=1).mean(), np.sqrt(covariance[0, 0]), rtol=0.06
    )
    np.testing.assert_allclose(draws[:, :, 0].mean(), mean[0], atol=0.05)


def test_draws_can_be_repeated_and_differ_from_row_to_row(rows, fitted):
    X = np.vstack([rows[1:40], rows[1:40]])
    drawn = fitted.impute(X, 2, random_state=3)
    np.testing.assert_array_equal(drawn, fitted.impute(X, 2, random_state=3))
    gap = np.isnan(X)
    assert (fitted.impute(X, 2)[:, 0][gap] != drawn[:, 0][gap]).all()
    assert (drawn[:39][gap[:39].any(axis=1)] != drawn[39:][gap[39:].any(axis=1)]).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(drawn[:, 1][~gap], X[~gap])


def test_candidates_come_from_the_density_that_is_said():
    rng = np.random.default_rng(0)
    proposal = Proposal(rng.normal(size=(60, 3)), np.ones(60))
    proposal.weights, proposal.means = np.array([0.3, 0.7]), rng.normal(size=(2, 3))
    proposal.covariances = np.stack([COVARIANCE, np.eye(3) + 0.3])
    u = np.array([[0.5, np.nan, 1.0], [np.nan, np.nan, -1.0], [np.nan] * 3])
    made, log_h = proposal.candidates(u, rng.random((3, 5)), rng.standard_normal((3, 5, 3)))

    def mixture(points, columns):
        parts = [
            w * multivariate_normal(m[columns], c[np.ix_(columns, columns)]).pdf(points[..., columns])
            for w, m, c in zip(proposal.weights, proposal.means, proposal.covariances, strict=True)
        ]
        return sum(parts)

    for x, points, found in zip(u, made, log_h, strict=True):
        seen = np.flatnonzero(~np.isnan(x))
        exact = np.log(mixture(points, np.arange(3))) - (np.log(mixture(x, seen)) if len(seen) else 0.0)
        np.testing.assert_allclose(found, exact, rtol=1e-7)
        np.testing.assert_array_equal(points[:, seen], np.tile(x[seen], (5, 1)))


# -- fitting ------------------------------------------------------------------------------------------------


def test_values_missing_at_random_leave_no_bias():
    """The second value is rare where the first is large: the values that are there tell another story."""
    X = multivariate_normal([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]]).rvs(3000, random_state=0)
    X[(X[:, 0] > 0) & (np.arange(3000) % 5 > 0), 1] = np.nan
    assert np.nanmean(X[:, 1]) < -0.4
    fitted = InterpolantImputer(GaussianMixture(1, random_state=0), n_rounds=10, random_state=0).fit(X)
    np.testing.assert_allclose(fitted.estimator_.means_[0], 0.0, atol=0.06)
    np.testing.assert_allclose(fitted.estimator_.covariances_[0], [[1.0, 0.9], [0.9, 1.0]], atol=0.08)
    np.testing.assert_allclose(fitted.transform([[2.0, np.nan]])[0, 1], 1.8, atol=0.2)


def test_a_flow_learns_from_incomplete_rows(rows):
    flow = InterpolantFlow(max_iter=60, polish=30, velocity=MLP(width=16), random_state=0)
    fitted = InterpolantImputer(flow, n_points=8, random_state=0).fit(rows)
    new = with_gaps(multivariate_normal(MEAN, COVARIANCE).rvs(300, random_state=5), seed=6)
    exact = np.mean([given(x)[0] for x in new])
    assert fitted.score(new) == pytest.approx(exact, abs=0.12)
    with pytest.raises(ValueError, match=r"(?s)contains NaN.*siflow_sk.InterpolantImputer fits a density to"):
        flow.fit(rows)


def test_the_density_is_fitted_once_where_nothing_is_missing():
    class Counting(Normal):
        fits = 0

        def fit(self, X, y=None):
            Counting.fits += 1
            self.X_ = X
            return self

    X = multivariate_normal(MEAN, COVARIANCE).rvs(50, random_state=0)
    fitted = InterpolantImputer(Counting(), n_rounds=3).fit(X)
    assert Counting.fits == 1
    np.testing.assert_array_equal(fitted.estimator_.X_, X)
    np.testing.assert_array_equal(fitted.transform(X), X)
    InterpolantImputer(Counting(), n_rounds=3).fit(with_gaps(X))
    assert Counting.fits == 4


class Seen(Normal):
    """Of the first two columns; notes the rows, and the weights, that every fit was given."""

    fits = []

    def fit(self, X, y=None, sample_weight=None):
        Seen.fits.append((X, sample_weight))
        return super().fit(X, y)

    def score_samples(self, X):
        return multivariate_normal(MEAN[:2], COVARIANCE[:2, :2]).logpdf(X).reshape(len(X))


@pytest.mark.parametrize(("complete", "alone"), [(20, True), (19, False)])
def test_the_first_fit_is_to_rows_without_gaps_where_there_are_enough(complete, alone, monkeypatch):
    monkeypatch.setattr(Seen, "fits", [])
    X = multivariate_normal(MEAN[:2], COVARIANCE[:2, :2]).rvs(60, random_state=0)
    X[complete:, 1] = np.nan
    weight = np.arange(1.0, 61.0)
    InterpolantImputer(Seen(), random_state=0).fit(X, sample_weight=weight)
    (first, of_first), (last, of_last) = Seen.fits
    if alone:
        np.testing.assert_array_equal(first, X[:complete])
        np.testing.assert_array_equal(of_first, weight[:complete])
    else:
        assert len(first) == len(of_first) == 60
    np.testing.assert_array_equal(last[:, 0], X[:, 0])
    np.testing.assert_array_equal(of_last, weight)
    assert np.isfinite(last).all()


def test_rows_without_gaps_that_lack_a_value_are_not_started_from(monkeypatch):
    """A column that is constant in them would tell nothing of the others."""
    monkeypatch.setattr(Seen, "fits", [])
    X = multivariate_normal(MEAN[:2], COVARIANCE[:2, :2]).rvs(60, random_state=0)
    X[:30, 0], X[30:, 1] = 1.0, np.nan
    InterpolantImputer(Seen(), random_state=0).fit(X)
    assert [len(rows) for rows, _ in Seen.fits] == [60, 60]


def test_constant_columns_and_rows_without_any_value(rows):
    X = np.insert(rows, 1, 7.0, axis=1)
    X[::3, 1] = np.nan
    X[0] = np.nan
    with pytest.warns(DataWarning, match="column 1 constant"):
        fitted = InterpolantImputer(Normal(), n_points=64, random_state=0).fit(X)
    filled, drawn = fitted.transform(X), fitted.impute(X, 2, random_state=0)
    np.testing.assert_array_equal(filled[:, 1], 7.0)
    np.testing.assert_array_equal(drawn[:, :, 1], 7.0)
    assert np.isfinite(filled).all()
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(filled[0, [0, 2, 3]], MEAN, atol=0.3)
    values, errors = fitted.score_samples(X, return_error=True)
    assert values[0] == errors[0] == 0.0
    exact = [given(x)[0] for x in X[:, [0, 2, 3]]]
    np.testing.assert_allclose(values, exact, atol=0.2)
    assert fitted.score_samples([[0.0, 8.0, np.nan, np.nan]])[0] == -np.inf


# -- weights ------------------------------------------------------------------------------------------------


class Moments(Normal):
    """A Gaussian with the weighted moments of the rows."""

    def fit(self, X, y=None, sample_weight=None):
        self.weight_ = np.ones(len(X)) if sample_weight is None else sample_weight
        self.law_ = multivariate_normal(
            np.average(X, axis=0, weights=self.weight_), np.cov(X.T, aweights=self.weight_, ddof=0)
        )
        return self

    def score_samples(self, X):
        return self.law_.logpdf(X).reshape(len(X))


def test_weights_make_up_for_rows_that_were_left_out():
    """Of the rows with x0 > 0 a fifth was kept, with weight 5: the moments are those of all rows."""
    rng = np.random.default_rng(0)
    X = multivariate_normal(MEAN, COVARIANCE).rvs(6000, random_state=0)
    X = X[(X[:, 0] < 0) | (rng.random(6000) < 0.2)]
    weight = np.where(X[:, 0] > 0, 5.0, 1.0)
    assert X[:, 1].mean() < MEAN[1] - 0.25
    gaps = with_gaps(X)
    fitted = InterpolantImputer(Moments(), n_rounds=4, random_state=0).fit(gaps, sample_weight=weight)
    np.testing.assert_allclose(fitted.estimator_.law_.mean, MEAN, atol=0.08)
    np.testing.assert_allclose(fitted.estimator_.law_.cov, COVARIANCE, atol=0.12)
    found = fitted.score(gaps, sample_weight=weight)
    assert found == pytest.approx(np.average(fitted.score_samples(gaps), weights=weight))
    # what the first round is filled with follows the weights as well, and so do the candidates
    first = InterpolantImputer(Moments(), n_rounds=1, random_state=0)
    first.fit(with_gaps(X, 0.5), sample_weight=weight)
    np.testing.assert_allclose(first.estimator_.law_.mean, MEAN, atol=0.09)
    shares, means = first._proposal.weights[:-1], first._proposal.means[:-1]
    at = [
        _tensors.to_array(g.forward(_tensors.to_tensor(MEAN[j : j + 1, None]))[0]).item()
        for j, g in enumerate(first._proposal.maps)
    ]
    np.testing.assert_allclose(shares @ means / shares.sum(), at, atol=0.12)


def test_rows_without_weight_are_left_out(rows):
    weight = np.ones(len(rows))
    weight[200:] = 0.0
    X = rows.copy()
    X[200:] *= 50.0
    fitted = InterpolantImputer(Moments(), random_state=0).fit(X, sample_weight=weight)
    other = InterpolantImputer(Moments(), random_state=0).fit(rows[:200])
    assert len(fitted.estimator_.weight_) == (~np.isnan(rows[:200]).all(axis=1)).sum()
    np.testing.assert_array_equal(fitted.score_samples(rows), other.score_samples(rows))


@pytest.mark.parametrize(
    ("estimator", "weight", "kind", "message"),
    [
        (GaussianMixture(), 1.0, TypeError, "GaussianMixture.fit takes no sample_weight"),
        (Moments(), 0.0, ValueError, "at least one (weight|non-zero)"),
        (Moments(), -1.0, ValueError, "[Nn]egative"),
        (Moments(), np.nan, ValueError, "NaN"),
    ],
)
def test_weights_that_cannot_be_used(estimator, weight, kind, message, rows):
    with pytest.raises(kind, match=message):
        InterpolantImputer(estimator).fit(rows, sample_weight=np.full(len(rows), weight))


# -- as scikit-learn does -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frames_dtypes_and_what_is_there_to_the_bit(dtype, rows, fitted):
    X = rows.astype(dtype)
    gap = np.isnan(X)
    for filled in (fitted.transform(X), fitted.impute(X, random_state=0)[:, 0]):
        assert filled.dtype == dtype
        assert np.isfinite(filled).all()
        np.testing.assert_array_equal(filled[~gap], X[~gap])
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(50, 450))
    again = pickle.loads(pickle.dumps(fitted)).fit(frame).set_output(transform="pandas")
    filled = again.transform(frame)
    assert list(filled.columns) == ["a", "b", "c"]
    assert (filled.index == frame.index).all()


def test_nullable_columns_are_read(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"]).convert_dtypes()
    fitted = InterpolantImputer(Normal(), random_state=0).fit(frame)
    other = InterpolantImputer(Normal(), random_state=0).fit(frame.astype(float))
    np.testing.assert_array_equal(fitted.transform(frame), other.transform(frame.astype(float)))


def test_a_step_of_a_pipeline_and_a_search(rows):
    y = np.nansum(rows, axis=1)
    model = make_pipeline(
        InterpolantImputer(GaussianMixture(1, random_state=0), random_state=0), LinearRegression()
    )
    assert model.fit(rows, y).score(rows, y) > 0.5
    imputer = InterpolantImputer(GaussianMixture(random_state=0), random_state=0)
    grid = {"estimator__n_components": [1, 30]}
    search = GridSearchCV(imputer, grid, cv=2, error_score="raise").fit(rows[1:])
    assert search.best_params_ == {"estimator__n_components": 1}


def test_saved_and_loaded(rows, tmp_path):
    fitted = InterpolantImputer(GaussianMixture(1, random_state=0), random_state=0).fit(rows)
    fitted.save(tmp_path / "imputer.safetensors")
    again = load(tmp_path / "imputer.safetensors")
    np.testing.assert_array_equal(again.transform(rows), fitted.transform(rows))
    np.testing.assert_array_equal(again.impute(rows, random_state=0), fitted.impute(rows, random_state=0))


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda X: np.where([False, True, False], np.nan, X), ValueError, "column 1 without any value; drop"),
        (lambda X: np.where(X > 0, np.inf, X), ValueError, "infinity"),
        (lambda X: np.full_like(X, np.nan), ValueError, "column 0, column 1, column 2 without any value"),
        (lambda X: np.where(np.isnan(X), X, 1.0), ValueError, "all samples are identical"),
        (lambda X: np.vstack([X[1:2] * 0, 0 * X[:9] + np.nan]), ValueError, "1 row.* with a value"),
        (lambda X: X[:1], ValueError, "minimum of 2"),
        (lambda X: X[:, 0], ValueError, "Expected 2D array"),
        (lambda X: np.ma.masked_invalid(X), ValueError, "masked array"),
        (lambda X: pd.DataFrame(X, columns=["a", "b", "c"]).assign(name="a"), ValueError, "hold text"),
        (lambda X: pd.DataFrame({"t": pd.to_datetime(["2020", None])}), TypeError, "dates or durations"),
    ],
)
def test_bad_input_leaves_the_model_as_it_was(change, kind, message, rows, fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(kind, match=message):
        copy.fit(change(rows))
    np.testing.assert_array_equal(copy.transform(rows), fitted.transform(rows))


@pytest.mark.parametrize(
    "values",
    [
        pd.Categorical([1, 2, None] * 10),  # whose codes would pass for numbers
        np.arange(30) % 2 == 0,
        pd.array([True, None, False] * 10, dtype="boolean"),
        np.array([True, None, False] * 10, dtype=object),
        np.array(["a", None, "b"] * 10, dtype=object),
        pd.array(["1", "2", None] * 10, dtype="string"),
    ],
    ids=["category", "bool", "boolean", "object bool", "object text", "string"],
)
def test_categories_are_refused_by_name_where_the_density_takes_numbers(values, rows):
    frame = pd.DataFrame(rows[:30], columns=["a", "b", "c"])
    message = r"Column\(s\) \['b'\] hold text, truth values or categories, and "
    with pytest.raises(ValueError, match=message + r"Normal .* InterpolantImputer\(MixedDensity\(Normal\("):
        InterpolantImputer(Normal()).fit(frame.assign(b=values))
    fitted = InterpolantImputer(Normal(), random_state=0).fit(frame)
    for method in (fitted.transform, fitted.impute, fitted.score_samples):
        with pytest.raises(ValueError, match=message + "fit saw numbers there"):
            method(frame.assign(b=values))
    # numbers that came as objects are numbers
    np.testing.assert_array_equal(
        fitted.transform(frame.astype(object).where(frame.notna(), None)), fitted.transform(frame)
    )


def test_bad_rows_and_draws(rows, fitted):
    for method in (fitted.transform, fitted.impute, fitted.score_samples):
        with pytest.raises(ValueError, match="2 features, but InterpolantImputer is expecting 3"):
            method(rows[:, :2])
        with pytest.raises(ValueError, match="infinity"):
            method([[np.inf, 0.0, np.nan]])
    with pytest.raises(ValueError, match="Invalid value for 'n_draws': 0"):
        fitted.impute(rows, n_draws=0)
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    named = InterpolantImputer(Normal(), random_state=0).fit(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        named.transform(frame[["b", "a", "c"]])


@pytest.mark.parametrize("parameters", [{"n_rounds": 0}, {"n_points": 1}, {"estimator": LinearRegression()}])
def test_parameters_that_cannot_be_used(parameters, rows):
    with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter of InterpolantImputer"):
        InterpolantImputer(**parameters).fit(rows)


def test_angles_need_kinds(rows):
    """Beyond one turn a periodic density goes on for ever: its integral over the line is no marginal."""
    message = r"periodic=\{1: 360.0\}.*\(MixedDensity\(InterpolantFlow\("
    with pytest.raises(ValueError, match=message):
        InterpolantImputer(InterpolantFlow(periodic={1: 360.0})).fit(rows)


def test_candidates_without_weight_are_reported(rows):
    class Narrow(Normal):
        def score_samples(self, X):
            return 1e4 * super().score_samples(X)

    fitted = InterpolantImputer(Narrow(), n_rounds=1, random_state=0).fit(rows)
    for method in (fitted.transform, fitted.impute):
        with pytest.warns(DataWarning, match="has nearly all of the weight; raise n_points=32"):
            method(rows)


def test_a_density_of_zero_at_all_candidates(rows):
    class Nowhere(Normal):
        def score_samples(self, X):
            return np.where(X[:, 0] > 100.0, -np.inf, super().score_samples(X))

    fitted = InterpolantImputer(Nowhere(), random_state=0).fit(rows)
    far = [[200.0, np.nan, np.nan], [200.0, 0.0, 0.0]]
    assert (fitted.score_samples(far) == -np.inf).all()
    assert np.isfinite(fitted.transform(far)).all()
    assert np.isfinite(fitted.impute(far, random_state=0)).all()
    assert fitted.score_samples([[1e150, np.nan, 0.0]])[0] == -np.inf


def test_tables_of_mixed_columns_point_to_the_imputer(rows):
    with pytest.raises(ValueError, match=r"column 'a' has missing values.*InterpolantImputer"):
        MixedDensity().fit(pd.DataFrame(rows, columns=["a", "b", "c"]))


def test_candidates_are_taken_as_often_as_their_weight_says():
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(6, 0.5), size=50)
    share[0] = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    chosen = _resampled(share, 400, rng)
    found = np.stack([np.bincount(row, minlength=6) for row in chosen])
    assert np.abs(found - 400 * share).max() < 1.0 + 1e-9
    single = np.concatenate([_resampled(share, 1, rng) for _ in range(400)], axis=1)
    np.testing.assert_allclose(np.stack([np.bincount(r, minlength=6) for r in single]) / 400, share, atol=0.1)
