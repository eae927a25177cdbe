"""What must hold for any table, tried on tables that hypothesis makes up."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import BENT, NORMAL, ExactVelocity, Mixture

from siflow_sk import InterpolantFlow, _likelihood
from siflow_sk.bases import StandardNormal
from siflow_sk.solvers import DormandPrince, Grid, RungeKutta
from siflow_sk.velocities import MLP, Velocity


def few(n):
    """``n`` examples, the same ones every time."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=quiet
    )


def tiny(**parameters):
    small = {"max_iter": 3, "polish": 2, "velocity": MLP(width=8, time_width=8), "random_state": 0}
    small["solver"] = RungeKutta(n_steps=4)
    return InterpolantFlow(**{"preprocessor": "whiten", **small, **parameters})


@st.composite
def tables(draw, columns=(1, 4), rows=(24, 70)):
    """Rows of columns of several shapes, correlated."""
    n, d = draw(st.integers(*rows)), draw(st.integers(*columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = [
        lambda: rng.standard_normal(n),
        lambda: rng.exponential(size=n),
        lambda: rng.standard_t(4, size=n),
        lambda: np.where(rng.random(n) < 0.5, -2.0, 2.0) + 0.3 * rng.standard_normal(n),
        lambda: rng.random(n),
    ]
    X = np.stack([shapes[draw(st.integers(0, 4))]() for _ in range(d)], axis=1)
    return X @ (np.eye(d) + 0.3 * rng.standard_normal((d, d)))


PREPROCESSORS = ["gaussianize", "whiten", "standardize"]
exponents = st.lists(st.integers(-30, 30), min_size=4, max_size=4)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("preprocessor", PREPROCESSORS)
@few(3)
@given(X=tables(), exponents=exponents)
def test_units_that_are_powers_of_two_shift_the_score_and_change_nothing_else(preprocessor, X, exponents):
    unit = 2.0 ** np.array(exponents[: X.shape[1]])
    flow, scaled = (tiny(preprocessor=preprocessor).fit(table) for table in (X, X * unit))
    np.testing.assert_array_equal(scaled.transform(X * unit), flow.transform(X))
    shift = scaled.score_samples(X * unit) - flow.score_samples(X)
    np.testing.assert_allclose(shift, -np.log(unit).sum(), rtol=0, atol=1e-11)


@few(3)
@given(X=tables(), seed=seeds)
def test_affine_maps_of_the_columns_shift_the_score(X, seed):
    """By minus the sum of log |a|, up to the float32 of training, which rounds the rows differently."""
    rng = np.random.default_rng(seed)
    scale, offset = np.exp(rng.uniform(-8, 8, X.shape[1])), rng.uniform(-3, 3, X.shape[1])
    Y = X * scale + offset * scale
    flow, moved = (tiny(preprocessor="standardize").fit(table) for table in (X, Y))
    shift = moved.score_samples(Y) - flow.score_samples(X)
    np.testing.assert_allclose(shift, -np.log(scale).sum(), rtol=0, atol=1e-3)


class Rest(Velocity):
    """A flow that does not move: the density is that of preprocessor and base."""

    def build(self, n_features, generator):
        return Resting()


class Resting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.idle = torch.nn.Parameter(torch.zeros(()))

    def forward(self, t, x):
        return 0.0 * x * self.idle


@pytest.mark.parametrize("preprocessor", PREPROCESSORS)
@few(3)
@given(X=tables(columns=(2, 4)), seed=seeds)
def test_the_order_of_the_columns_does_not_matter_to_preprocessor_and_base(preprocessor, X, seed):
    order = np.random.default_rng(seed).permutation(X.shape[1])
    still = {"velocity": Rest(), "preprocessor": preprocessor, "max_iter": 1, "polish": 0}
    flow, permuted = tiny(**still).fit(X), tiny(**still).fit(X[:, order])
    np.testing.assert_allclose(
        permuted.score_samples(X[:, order]), flow.score_samples(X), rtol=1e-7, atol=1e-6
    )


def exact(law):
    return ExactVelocity("linear", NORMAL, law)


def density(velocity, x, solver):
    return _likelihood.log_density(velocity, StandardNormal(), solver, torch.tensor(x))[0].numpy()


@few(2)
@given(seed=seeds)
def test_the_order_of_the_columns_does_not_matter_to_the_flow(seed):
    x, swap = BENT.sample(40, seed), [1, 0]
    swapped = Mixture(BENT.weights, BENT.means[:, swap], BENT.covariances[:, swap][:, :, swap])
    solver = RungeKutta(n_steps=40)
    found = density(exact(swapped), x[:, swap], solver)
    np.testing.assert_allclose(found, density(exact(BENT), x, solver), rtol=0, atol=1e-6)


@few(3)
@given(X=tables(), seed=seeds)
def test_whole_weights_are_repetition(X, seed):
    weight = np.random.default_rng(seed).integers(0, 4, len(X))
    weight[:3] = 1
    weighted = tiny().fit(X, sample_weight=weight)
    repeated = tiny().fit(np.repeat(X, weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(X), repeated.score_samples(X), rtol=1e-9, atol=1e-9)


@few(3)
@given(X=tables(), seed=seeds)
def test_the_order_of_the_rows_changes_no_bit(X, seed):
    order = np.random.default_rng(seed).permutation(len(X))
    flow, other = tiny().fit(X), tiny().fit(X[order])
    np.testing.assert_array_equal(other.score_samples(X), flow.score_samples(X))
    np.testing.assert_array_equal(flow.score_samples(X[order]), flow.score_samples(X)[order])


@few(3)
@given(X=tables(), data=st.data())
def test_a_part_of_the_rows_scores_as_in_the_whole(X, data):
    flow = tiny().fit(X)
    start = data.draw(st.integers(0, len(X) - 1))
    stop = data.draw(st.integers(start + 1, len(X)))
    for method in (flow.score_samples, flow.transform):
        np.testing.assert_array_equal(method(X[start:stop]), method(X)[start:stop])


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "reversed twice": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "read-only": lambda X: _read_only(X),
    "big-endian": lambda X: X.astype(">f8"),
    "list": lambda X: X.tolist(),
}


def _read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


@few(3)
@given(X=tables())
def test_the_layout_in_memory_changes_no_bit(X):
    flow = tiny().fit(X)
    expected = flow.score_samples(X)
    for name, layout in LAYOUTS.items():
        np.testing.assert_array_equal(flow.score_samples(layout(X)), expected, err_msg=name)
        np.testing.assert_array_equal(tiny().fit(layout(X)).score_samples(X), expected, err_msg=name)


@few(3)
@given(X=tables(), whole=st.booleans())
def test_the_dtype_of_equal_numbers_changes_no_density(X, whole):
    narrow = np.round(8 * X).astype(np.int16) if whole else X.astype(np.float32)
    wide = narrow.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow, other = tiny().fit(wide), tiny().fit(narrow)
    np.testing.assert_array_equal(other.score_samples(narrow), flow.score_samples(wide))
    assert other.score_samples(narrow).dtype == np.float64
    assert other.transform(narrow).dtype == (np.float64 if whole else np.float32)


@few(1)
@given(seed=seeds)
def test_a_smaller_tolerance_never_costs_accuracy(seed):
    """Tolerances 1e-2, 1e-4, 1e-6: errors fall, grids grow."""
    velocity, x = exact(BENT), BENT.sample(60, seed)
    rows, truth = torch.tensor(BENT.sample(100, seed + 1)), BENT.logpdf(x)
    errors, steps, adaptive = [], [], []
    for tol in (1e-2, 1e-4, 1e-6):
        grid = _likelihood.calibrate(velocity, StandardNormal(), Grid(tol=tol), rows)
        errors.append(np.abs(density(velocity, x, grid) - truth).max())
        adaptive.append(np.abs(density(velocity, x, DormandPrince(tol, tol)) - truth).max())
        steps.append(grid.n_steps_)
        assert errors[-1] <= tol
    assert steps == sorted(steps)
    assert (np.diff(errors) < 0).all()
    assert (np.diff(adaptive) < 0).all()
