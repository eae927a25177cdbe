"""InterpolantClassifier: Bayes' rule against closed forms, calibration, tiny classes, constant columns."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from siflow_sk import InterpolantClassifier, InterpolantFlow, make_density_pipeline
from siflow_sk.exceptions import DataWarning
from siflow_sk.velocities import MLP

NORMALS = [
    multivariate_normal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]]),
    multivariate_normal([1.5, 0.0], [[0.4, -0.2], [-0.2, 1.5]]),
    multivariate_normal([0.0, 2.0], [[2.0, 0.0], [0.0, 0.3]]),
]
PRIOR = np.array([0.5, 0.3, 0.2])


def draw(n, seed):
    """Rows of three overlapping normal classes, with the exact probabilities of the classes."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, size=n, p=PRIOR)
    X = np.empty((n, 2))
    for k, normal in enumerate(NORMALS):
        X[y == k] = normal.rvs((y == k).sum(), random_state=rng)
    joint = np.column_stack([p * normal.pdf(X) for p, normal in zip(PRIOR, NORMALS, strict=True)])
    return X, y, joint / joint.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def three():
    return *draw(1500, 0), *draw(2000, 1)


@pytest.fixture(scope="module")
def flows(three):
    flow = InterpolantFlow(max_iter=60, polish=10, velocity=MLP(width=16), random_state=0)
    return InterpolantClassifier(flow).fit(three[0], three[1])


@pytest.fixture(scope="module")
def found(three, flows):
    """Probabilities that the flows give to the test rows."""
    return flows.predict_proba(three[3])


def test_with_normal_densities_it_is_quadratic_discriminant_analysis(three):
    X, y, _, X_test, _, _ = three
    ours = InterpolantClassifier(GaussianMixture(1, random_state=0, reg_covar=0.0)).fit(X, y)
    oracle = QuadraticDiscriminantAnalysis().fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X_test), oracle.predict_proba(X_test), atol=0.01)
    np.testing.assert_allclose(ours.class_prior_, np.bincount(y) / len(y))
    assert ours.score(X_test, oracle.predict(X_test)) > 0.99


def test_probabilities_are_near_the_exact_ones(three, flows, found):
    X_test, y_test, exact = three[3:]
    assert log_loss(y_test, found) < log_loss(y_test, exact) + 0.03
    assert np.abs(found - exact).mean() < 0.05
    np.testing.assert_array_equal(flows.predict(X_test[:256]), found[:256].argmax(axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(np.exp(flows.predict_log_proba(X_test[:256])), found[:256])


def test_probabilities_are_calibrated(three, found):
    """Of the rows given about p for a class a share of about p belongs to it: 4 standard errors and 0.04."""
    y_test = three[4]
    for k in range(3):
        bins = np.digitize(found[:, k], np.linspace(0, 1, 11)[1:-1])
        for b in range(10):
            p, hit = found[bins == b, k], y_test[bins == b] == k
            if len(p) >= 50:
                error = 4 * np.sqrt((p * (1 - p)).mean() / len(p)) + 0.04
                assert abs(hit.mean() - p.mean()) < error


def test_the_density_of_a_row_whatever_its_class(three, flows):
    X_test = three[3][:512]
    exact = np.log(sum(p * normal.pdf(X_test) for p, normal in zip(PRIOR, NORMALS, strict=True)))
    assert np.abs(flows.score_samples(X_test) - exact).mean() < 0.15
    assert flows.score_samples([[9.0, -9.0]])[0] < flows.score_samples(X_test).min()


def test_other_priors_shift_the_probabilities(three):
    X, y, _, X_test, _, _ = three
    plain = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X, y)
    flat = clone(plain).set_params(priors=[1 / 3] * 3).fit(X, y)
    expected = plain.predict_proba(X_test) / plain.class_prior_
    np.testing.assert_allclose(
        flat.predict_proba(X_test), expected / expected.sum(axis=1, keepdims=True), rtol=1e-9
    )
    never = clone(plain).set_params(priors=[0.0, 0.5, 0.5]).fit(X, y)
    assert (never.predict_proba(X_test)[:, 0] == 0).all()
    for priors in ([0.5, 0.5], [0.5, 0.5, 0.5], [1.5, -0.5, 0.0], [np.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match=r"priors must be probabilities.*of the 3 classes"):
            clone(plain).set_params(priors=priors).fit(X, y)


# -- classes that are small or flat --------------------------------------------------------------------------


def test_a_tiny_class_gets_the_shared_covariance(three):
    X, y, _, X_test, _, _ = three
    keep = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:3]]
    with pytest.warns(DataWarning, match=r"class\(es\) \[2\] have fewer than min_samples=20 distinct rows"):
        fitted = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X[keep], y[keep])
    assert fitted.tiny_classes_.tolist() == [2]
    assert fitted.estimators_[2] is None
    assert np.isfinite(fitted.predict_log_proba(X_test)).all()
    # the shared normal density and the others are in the same units
    scaled = InterpolantClassifier(GaussianMixture(1, random_state=0, reg_covar=0.0)).fit(
        X[keep] * 1e3, y[keep]
    )
    np.testing.assert_allclose(scaled.predict_proba(X_test * 1e3), fitted.predict_proba(X_test), atol=1e-3)
    # a single row is enough
    one = np.r_[np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:1]]
    fitted = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X[one], y[one])
    assert fitted.predict(X[y == 2][:1])[0] == 2 or fitted.predict_proba(X[y == 2][:1])[0, 2] > 0.01


def test_where_all_classes_are_tiny_it_is_linear_discriminant_analysis():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    X = rng.normal(size=(600, 2)) @ [[1.0, 0.5], [0.0, 2.0]] + np.array([[0, 0], [2, 0], [0, 2]])[y]
    fitted = InterpolantClassifier(GaussianMixture(1, random_state=0), min_samples=1000).fit(X, y)
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    grid = rng.normal(size=(200, 2)) * 2
    np.testing.assert_allclose(fitted.predict_proba(grid), oracle.predict_proba(grid), atol=0.01)
    assert fitted.score(grid, oracle.predict(grid)) > 0.97


def test_a_column_that_is_constant_in_one_class_does_not_decide_by_its_units():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 200)
    X = rng.normal(size=(400, 2)) + y[:, None]
    X[y == 0, 1] = 0.25
    for unit in (1e-6, 1.0, 1e6):
        fitted = InterpolantClassifier(GaussianMixture(1, random_state=0, reg_covar=1e-18)).fit(
            X * [1, unit], y
        )
        proba = fitted.predict_proba(X * [1, unit])
        if unit == 1e-6:
            first = proba
        np.testing.assert_allclose(proba, first, atol=1e-4)
    assert np.isfinite(fitted.predict_log_proba(X * 3)).all()


def test_columns_constant_everywhere_say_nothing(three):
    X, y, _, X_test, _, _ = three
    plain = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X, y)
    padded = clone(plain).fit(np.column_stack([X, np.full(len(X), 7.0)]), y)
    other = padded.predict_proba(np.column_stack([X_test, np.full(len(X_test), -1.0)]))
    np.testing.assert_array_equal(other, plain.predict_proba(X_test))


def test_a_column_that_is_the_label():
    y = np.repeat([0, 1], 50)
    X = np.column_stack([y, np.random.default_rng(0).normal(size=100)])
    fitted = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X, y)
    np.testing.assert_array_equal(fitted.predict(X), y)
    assert np.isfinite(fitted.predict_log_proba(X)).all()


def test_digits_whose_pixels_are_constant_in_some_classes():
    X, y = load_digits(n_class=4, return_X_y=True)
    density = GaussianMixture(1, random_state=0, reg_covar=1.0)
    assert cross_val_score(InterpolantClassifier(density), X, y, cv=3, error_score="raise").mean() > 0.9


def test_a_row_of_density_zero_in_all_classes_gets_the_priors(three):
    X, y = three[:2]

    class Box(KernelDensity):
        def score_samples(self, X):
            far = np.abs(np.asarray(X)).max(axis=1) > 50
            return np.where(far, -np.inf, super().score_samples(X))

    fitted = InterpolantClassifier(Box()).fit(X, y)
    np.testing.assert_allclose(fitted.predict_proba([[99.0, 0.0]])[0], fitted.class_prior_)
    assert fitted.score_samples([[99.0, 0.0]])[0] == -np.inf


# -- bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X, np.zeros(len(y))), r"at least two classes; y has the class\(es\) \[0.0\]"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X, np.where(y == 0, np.nan, y)), "Input y contains NaN"),
        (lambda X, y: (X, X[:, 0]), "Unknown label type"),
        (lambda X, y: (np.where(X > 2, np.nan, X), y), "Input X contains NaN"),
    ],
)
def test_bad_input(change, message, three):
    with pytest.raises(ValueError, match=message):
        InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(*change(*three[:2]))


def test_an_error_of_a_density_names_the_class(three):
    X, y = three[:2]
    with pytest.raises(ValueError, match="n_components") as caught:
        InterpolantClassifier(GaussianMixture(10**6, random_state=0)).fit(X, y)
    assert caught.value.__notes__ == ["while fitting the density of class 0"]


def test_a_failed_fit_leaves_the_old_model(three):
    X, y = three[:2]
    fitted = InterpolantClassifier(GaussianMixture(1, random_state=0)).fit(X, y)
    before = fitted.predict_proba(X)
    with pytest.raises(ValueError, match="two classes"):
        fitted.fit(X[:, :1], np.zeros(len(X)))
    np.testing.assert_array_equal(fitted.predict_proba(X), before)


# -- an estimator like others --------------------------------------------------------------------------------


def test_labels_that_are_words_and_frames(three):
    X, y, _, X_test, y_test, _ = three
    words = np.array(["left", "middle", "right"])
    frame = pd.DataFrame(X, columns=["a", "b"])
    pipeline = make_density_pipeline(StandardScaler(), GaussianMixture(1, random_state=0))
    fitted = InterpolantClassifier(pipeline).fit(frame, words[y])
    assert fitted.classes_.tolist() == ["left", "middle", "right"]
    assert list(fitted.feature_names_in_) == ["a", "b"]
    assert fitted.score(pd.DataFrame(X_test, columns=["a", "b"]), words[y_test]) > 0.7
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[["b", "a"]])
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(frame), fitted.predict_proba(frame))


def test_whole_weights_are_repetition(three):
    X, y, _, X_test, _, _ = three
    X, y = X[:300], y[:300]
    weight = np.random.default_rng(0).integers(0, 3, size=len(X))
    classifier = InterpolantClassifier(KernelDensity(bandwidth=0.5), min_samples=70)
    weighted = clone(classifier).fit(X, y, sample_weight=weight)
    repeated = clone(classifier).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict_proba(X_test), repeated.predict_proba(X_test), rtol=1e-8)
    assert len(weighted.tiny_classes_) in (1, 2)
    gone = clone(classifier).fit(X, y, sample_weight=(y != 1).astype(float))
    assert gone.classes_.tolist() == [0, 2]
    with pytest.raises(TypeError, match=r"GaussianMixture.fit takes no sample_weight"):
        InterpolantClassifier(GaussianMixture(random_state=0)).fit(X, y, sample_weight=weight)


def test_search_over_the_densities():
    X, y = load_iris(return_X_y=True)
    grid = {
        "estimator": [GaussianMixture(1, random_state=0), KernelDensity(bandwidth=0.3)],
        "min_samples": [10],
    }
    search = GridSearchCV(InterpolantClassifier(), grid, cv=3, scoring="neg_log_loss", error_score="raise")
    assert search.fit(X, y).best_score_ > -0.3
