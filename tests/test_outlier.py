"""InterpolantOutlierDetector: the threshold, labels, weights, and what it finds."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from siflow_sk import InterpolantFlow, InterpolantOutlierDetector, make_density_pipeline
from siflow_sk.velocities import MLP


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(400, 2)) * [1.0, 100.0]


@pytest.fixture(scope="module")
def detector(rows):
    flow = InterpolantFlow(max_iter=30, polish=10, velocity=MLP(width=16), random_state=0)
    return InterpolantOutlierDetector(flow, contamination=0.05).fit(rows)


def test_the_share_of_outliers_is_exact_in_training(rows, detector):
    assert (detector.predict(rows) == -1).sum() == 20
    np.testing.assert_array_equal(clone(detector).fit_predict(rows), detector.predict(rows))


def test_scores_are_log_densities_less_the_threshold(rows, detector):
    np.testing.assert_array_equal(detector.score_samples(rows), detector.estimator_.score_samples(rows))
    np.testing.assert_array_equal(
        detector.decision_function(rows), detector.score_samples(rows) - detector.offset_
    )
    np.testing.assert_array_equal(detector.predict(rows) == -1, detector.decision_function(rows) < 0)


def test_the_threshold_is_the_ellipse_of_a_normal_density():
    """For N(0, I) in two dimensions -2 log p - 2 log(2 pi) is chi-squared with two degrees of freedom."""
    X = np.random.default_rng(1).normal(size=(20000, 2))
    fitted = InterpolantOutlierDetector(GaussianMixture(1, random_state=0), contamination=0.02).fit(X)
    radius = chi2(2).isf(0.02)
    assert fitted.offset_ == pytest.approx(-0.5 * radius - np.log(2 * np.pi), abs=0.1)


def test_new_rows_far_away_are_found(rows, detector):
    odd = np.array([[6.0, 0.0], [0.0, 700.0], [-4.0, 400.0]])
    assert (detector.predict(odd) == -1).all()
    fresh = np.random.default_rng(5).normal(size=(1000, 2)) * [1.0, 100.0]
    truth = np.r_[np.ones(1000), np.zeros(3)]
    assert roc_auc_score(truth, detector.decision_function(np.vstack([fresh, odd]))) > 0.99


def test_a_ring_that_a_normal_density_cannot_see():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 600)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.normal(size=(600, 2))
    flow = InterpolantFlow(max_iter=200, polish=0, velocity=MLP(width=32), random_state=0)
    assert InterpolantOutlierDetector(flow).fit(ring).predict([[0.0, 0.0]])[0] == -1
    assert (
        InterpolantOutlierDetector(GaussianMixture(1, random_state=0)).fit(ring).predict([[0.0, 0.0]])[0] == 1
    )


def test_rows_of_density_zero_and_unsolved_rows_are_outliers(rows):
    X = np.column_stack([rows, np.full(len(rows), 3.0)])
    flow = InterpolantFlow(max_iter=3, polish=0, velocity=MLP(width=8), random_state=0)
    fitted = InterpolantOutlierDetector(flow).fit(X)
    other = [[0.0, 0.0, 4.0]]
    assert fitted.decision_function(other)[0] == -np.inf
    assert fitted.predict(other)[0] == -1

    class Unsolved(KernelDensity):
        def score_samples(self, X):
            values = super().score_samples(X)
            return np.where(np.asarray(X)[:, 0] > 50, np.nan, values)

    assert InterpolantOutlierDetector(Unsolved()).fit(rows).predict([[99.0, 0.0]])[0] == -1


def test_weights_are_repetition(rows):
    weight = np.random.default_rng(2).integers(1, 4, size=len(rows))
    detector = InterpolantOutlierDetector(KernelDensity(bandwidth=0.5), contamination=0.07)
    weighted = clone(detector).fit(rows, sample_weight=weight)
    repeated = clone(detector).fit(np.repeat(rows, weight, axis=0))
    assert weighted.offset_ == pytest.approx(repeated.offset_, rel=1e-9)
    scaled = clone(detector).fit(rows, sample_weight=weight / 1000)
    assert scaled.offset_ == pytest.approx(weighted.offset_, rel=1e-9)
    with pytest.raises(TypeError, match=r"GaussianMixture.fit takes no sample_weight"):
        InterpolantOutlierDetector(GaussianMixture(random_state=0)).fit(rows, sample_weight=weight)


@pytest.mark.parametrize("contamination", [0.0, 0.6, -0.1, "auto"])
def test_a_share_that_is_none(contamination, rows):
    with pytest.raises(ValueError, match="'contamination' parameter of InterpolantOutlierDetector must be"):
        InterpolantOutlierDetector(KernelDensity(), contamination=contamination).fit(rows)


def test_an_estimator_without_density_is_refused(rows):
    with pytest.raises(ValueError, match="'estimator' parameter of InterpolantOutlierDetector must be"):
        InterpolantOutlierDetector(StandardScaler()).fit(rows)


def test_a_failed_fit_leaves_the_old_model(rows, detector):
    copy = pickle.loads(pickle.dumps(detector))
    with pytest.raises(ValueError, match="NaN"):
        copy.fit([[0.0, np.nan], [1.0, 1.0]])
    np.testing.assert_array_equal(copy.decision_function(rows), detector.decision_function(rows))


def test_frames_pipelines_and_search(rows):
    frame = pd.DataFrame(rows, columns=["a", "b"])
    pipeline = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    fitted = InterpolantOutlierDetector(pipeline).fit(frame)
    assert list(fitted.feature_names_in_) == ["a", "b"]
    fitted.set_params(estimator__gaussianmixture__n_components=2)
    y = np.where(chi2(2).cdf(((rows / [1, 100]) ** 2).sum(axis=1)) > 0.9, -1, 1)
    scores = cross_val_score(fitted, rows, y, scoring="roc_auc", error_score="raise")
    assert scores.shape == (5,)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(frame[["b", "a"]])


def test_the_default_density_is_a_flow(monkeypatch, rows):
    seen = []

    class Recorder(BaseEstimator):
        def __init__(self, random_state=None):
            self.random_state = random_state

        def fit(self, X, y=None):
            seen.append(self.random_state)
            self.n_features_in_ = 2
            return self

        def score_samples(self, X):
            return np.arange(len(X), dtype=float)

    monkeypatch.setattr("siflow_sk.outlier.InterpolantFlow", Recorder)
    InterpolantOutlierDetector(random_state=7).fit(rows)
    assert seen == [7]
