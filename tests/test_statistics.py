"""Latent points of held-out data against the base, by three tests that do not know the library.

The flows have the closed-form velocity of a mixture, so nothing is trained and the right answer is known.
Each test raises a false alarm with probability ``LEVEL`` on a right model, which is checked, and must notice
models that are wrong in one respect.
"""

import numpy as np
import pytest
from conftest import quick
from oracles import BENT, NORMAL, ExactVelocity, Mixture
from scipy.stats import binomtest, ks_2samp, kstest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from siflow_sk.solvers import RungeKutta
from siflow_sk.velocities import Velocity

LEVEL = 1e-4
UNTRAINED = {"preprocessor": "none", "max_iter": 1, "polish": 0}
THREE = Mixture(
    [0.5, 0.2, 0.3],
    [[0.0, 1.0, -0.5], [2.0, -1.0, 0.3], [-1.5, -0.5, 1.0]],
    [np.diag([0.5, 0.3, 0.8]), 0.3 * np.eye(3) + 0.2, np.diag([0.2, 0.6, 0.4])],
)


class Exact(Velocity):
    """The flow of the normal to a mixture; training cannot move it."""

    def __init__(self, law, path="linear"):
        self.law = law
        self.path = path

    def build(self, n_features, generator):
        normal = Mixture([1.0], [np.zeros(n_features)], [np.eye(n_features)])
        return ExactVelocity(self.path, normal, self.law)


def latents(model, data, n=2000, seed=5, path="linear"):
    """Latent points of rows of ``data`` under the flow of ``model``."""
    part = Exact(model, path)
    flow = quick(velocity=part, interpolant=path, solver=RungeKutta(n_steps=12), **UNTRAINED)
    return flow.fit(data.sample(120, seed=1)).transform(data.sample(n, seed=seed))


# -- the tests: p-values, small where latent points do not follow the base ---------------------------------


def kolmogorov_smirnov(z, seed=0):
    """Each coordinate against the normal law; Bonferroni over the coordinates."""
    return min(1.0, z.shape[1] * min(kstest(column, "norm").pvalue for column in z.T))


def energy(z, seed=0, most=400, permutations=9999):
    """Energy distance to draws of the base (Szekely & Rizzo 2004), by permutation."""
    rng = np.random.default_rng(seed)
    z = z[:most]
    both = np.concatenate([z, rng.standard_normal(z.shape)])
    distance = np.sqrt(((both[:, None] - both[None]) ** 2).sum(-1)).astype(np.float32)
    sign = np.where(np.arange(len(both)) < len(z), 1.0, -1.0).astype(np.float32)

    def statistic(signs):  # (k, n): minus the quadratic form is n^2 times the energy distance
        return -np.einsum("kn,kn->k", signs @ distance, signs)

    found = statistic(sign[None])[0]
    count = 0
    for start in range(0, permutations, 1000):
        rows = min(1000, permutations - start)
        signs = rng.permuted(np.broadcast_to(sign, (rows, len(both))), axis=1)
        count += int((statistic(signs) >= found).sum())
    return (1 + count) / (1 + permutations)


def classifier(z, seed=0):
    """Can cubic logistic regression tell latent points from draws of the base? (Lopez-Paz & Oquab 2017)"""
    rng = np.random.default_rng(seed)
    both = np.concatenate([z, rng.standard_normal(z.shape)])
    label = np.arange(len(both)) < len(z)
    order = rng.permutation(len(both))
    train, test = np.array_split(order, 2)
    model = make_pipeline(PolynomialFeatures(3), StandardScaler(), LogisticRegression(C=1.0, max_iter=200))
    right = model.fit(both[train], label[train]).predict(both[test]) == label[test]
    # labels of the test half are dealt at random among exchangeable rows
    return binomtest(
        int(right.sum()), len(right), max(label[test].mean(), 1 - label[test].mean()), "greater"
    ).pvalue


TESTS = {"Kolmogorov-Smirnov": kolmogorov_smirnov, "energy": energy, "classifier": classifier}


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_keep_their_level(name):
    """Draws of the base: among 150 p-values those below 0.1 are about 15, level 1e-4 twice-sided."""
    test, few = TESTS[name], {"permutations": 99} if name == "energy" else {}
    rng = np.random.default_rng(7)
    n = 60 if name == "energy" else 200
    values = [test(rng.standard_normal((n, 2)), seed=i, **few) for i in range(150)]
    rejected = int(np.sum(np.array(values) <= 0.1))
    assert binomtest(rejected, 150, 0.1, "greater").pvalue > 1e-4


RIGHT = {
    "two components": (BENT, "linear"),
    "two components, trigonometric": (BENT, "trigonometric"),
    "three columns": (THREE, "linear"),
}


@pytest.mark.parametrize("case", RIGHT)
@pytest.mark.parametrize("name", TESTS)
def test_latents_of_a_right_model_follow_the_base(name, case):
    law, path = RIGHT[case]
    assert TESTS[name](latents(law, law, path=path)) > LEVEL


def changed(law, **changes):
    parts = {"weights": law.weights, "means": law.means, "covariances": law.covariances}
    return Mixture(
        **{name: change(parts[name]) for name, change in changes.items()}
        | {name: part for name, part in parts.items() if name not in changes}
    )


# models that are wrong in one respect
WRONG = {
    "a shift of a quarter": changed(BENT, means=lambda m: m + 0.25),
    "too wide": changed(BENT, covariances=lambda c: 3.0 * c),
    "weights": changed(BENT, weights=lambda w: w[::-1]),
    "one component": Mixture([1.0], [BENT.means[1]], [BENT.covariances[1]]),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("name", TESTS)
def test_latents_of_a_wrong_model_are_noticed(name, case):
    assert TESTS[name](latents(WRONG[case], BENT)) <= LEVEL


def test_what_the_marginals_do_not_show():
    """Two columns that are normal each but not jointly: the energy and the classifier notice."""
    data = Mixture([0.5, 0.5], np.zeros((2, 2)), [[[1.0, 0.97], [0.97, 1.0]], [[1.0, -0.97], [-0.97, 1.0]]])
    z = latents(NORMAL, data)
    assert kolmogorov_smirnov(z) > LEVEL
    assert energy(z, most=1000, permutations=9999) <= LEVEL


def test_samples_of_the_flow_follow_the_data():
    """The other direction: rows drawn by the flow, carried back by their own law's flow, and a wrong one."""
    flow = quick(velocity=Exact(THREE), interpolant="linear", solver=RungeKutta(n_steps=12), **UNTRAINED)
    flow.fit(THREE.sample(120, seed=1))
    rows = flow.sample(2000, random_state=0)
    assert np.isfinite(rows).all()
    fresh = THREE.sample(2000, seed=9)
    for j in range(3):
        assert 3 * ks_2samp(rows[:, j], fresh[:, j]).pvalue > LEVEL
        assert ks_2samp(rows[:, j] + 0.3, fresh[:, j]).pvalue < LEVEL
