"""The estimators on CUDA: scikit-learn's checks, agreement with the CPU, models that change places.

Runs where a CUDA device is.  ``SIFLOW_DEVICE=cpu`` runs the same tests on the CPU, to try them.
"""

import functools
import os
import pickle

import numpy as np
import pytest
import sklearn.utils.estimator_checks as sklearn_checks
import torch
from discovery import all_estimators, configured
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import siflow_sk
from siflow_sk import InterpolantFlow, InterpolantSearchCV, _capture, _likelihood
from siflow_sk._capture import rounded_products
from siflow_sk._objective import likelihood_loss, quadratic_loss
from siflow_sk._training import Data, Settings, Trainer, _validation
from siflow_sk._training._solutions import Solution
from siflow_sk.bases import StandardNormal
from siflow_sk.interpolants import Linear
from siflow_sk.velocities import MLP, Velocity

DEVICE = os.environ.get("SIFLOW_DEVICE", "cuda")

pytestmark = pytest.mark.gpu
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)


def on_device(**parameters):
    settings = {"max_iter": 50, "polish": 20, "velocity": MLP(width=32), "random_state": 0, "device": DEVICE}
    return InterpolantFlow(**{**settings, **parameters})


@parametrize_with_checks([configured(cls, max_iter=5, polish=2, device=DEVICE) for cls in all_estimators()])
def test_estimator_checks(estimator, check):
    if check.func is sklearn_checks.check_estimators_pickle:
        # a pickle wakes on the CPU, and the check allows less than products of float32 differ by between two
        # devices: an absolute 1e-9
        names = (n for n in estimator.get_params() if n.split("__")[-1] == "inference_dtype")
        estimator = clone(estimator).set_params(**dict.fromkeys(names, "float64"))
    legacy = np.random.get_state()  # noqa: NPY002
    check(estimator)
    if check.func is sklearn_checks.check_methods_sample_order_invariance:
        np.random.set_state(legacy)  # noqa: NPY002  # the check itself draws from NumPy's global generator


@pytest.fixture(scope="module")
def fitted():
    X = np.random.default_rng(0).normal(size=(400, 3)) ** 3
    return on_device().fit(X), X


@pytest.fixture(scope="module")
def woken(fitted):
    """The same model on the CPU."""
    return pickle.loads(pickle.dumps(fitted[0]))


def test_a_fit_says_where_it_is(fitted):
    assert fitted[0].device_ == DEVICE
    assert next(fitted[0].velocity_.parameters()).device.type == DEVICE


def test_a_pickle_wakes_on_the_cpu_with_the_same_densities(fitted, woken):
    flow, X = fitted
    assert woken.device_ == "cpu"
    np.testing.assert_allclose(woken.score_samples(X), flow.score_samples(X), rtol=1e-8, atol=1e-8)


def test_maps_and_fields_agree_with_the_cpu(fitted, woken):
    flow, X = fitted
    Z = woken.transform(X)
    np.testing.assert_allclose(flow.transform(X), Z, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(flow.inverse_transform(Z), woken.inverse_transform(Z), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(flow.velocity_field(0.3, X), woken.velocity_field(0.3, X), rtol=1e-8)
    np.testing.assert_allclose(flow.divergence(0.3, X), woken.divergence(0.3, X), rtol=1e-8, atol=1e-8)


def test_single_precision_agrees_with_the_cpu():
    X = np.random.default_rng(0).normal(size=(400, 3)) ** 3
    flow = on_device(inference_dtype="float32").fit(X)
    there, here = flow.score_samples(X), pickle.loads(pickle.dumps(flow)).score_samples(X)
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-3)


def test_a_row_does_not_feel_its_neighbours(fitted):
    flow, X = fitted
    np.testing.assert_array_equal(flow.score_samples(X[100:107]), flow.score_samples(X)[100:107])


def test_two_fits_agree():
    X = np.random.default_rng(1).normal(size=(300, 2))
    first, second = (on_device().fit(X).score_samples(X) for _ in range(2))
    # products on a GPU may add up in another order
    np.testing.assert_allclose(first, second, rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(DEVICE != "cuda", reason="graphs are CUDA's")
@pytest.mark.parametrize("stage", ["quadratic", "likelihood"])
def test_recorded_steps_train_as_plain_ones(stage):
    """Ten updates, one before the record and nine replayed, against ten updates of plain calls."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).cuda()
    data = Data(x, torch.full((500,), 1 / 500, dtype=torch.float64, device="cuda"), 500)
    found = []
    for recordable in (True, False):
        generator = torch.Generator("cuda").manual_seed(1)
        network = MLP(width=32).build(3, torch.Generator().manual_seed(0)).cuda()
        trainer = Trainer(
            network, StandardNormal(), Linear(), data, Settings(1, 1, 64, 1e-3, 0.5, 0.9, 1e-3, 5), generator
        )
        trainer.optimiser = trainer.new_optimiser()
        if stage == "quadratic":
            update = trainer._update(functools.partial(quadratic_loss, network, Linear()))
        else:
            update = trainer._update(
                functools.partial(likelihood_loss, network, StandardNormal(), penalty=1.0)
            )
        update.recordable = recordable
        losses = []
        for k in range(10):
            rows, other = (torch.randn(64, 3, generator=generator, device="cuda") for _ in range(2))
            times = torch.rand(64, 1, generator=generator, device="cuda")
            knots = torch.tensor([1.0, 0.4, 0.0], device="cuda")
            inputs = (times, other, rows) if stage == "quadratic" else (rows, knots)
            with rounded_products():
                losses.append(trainer._step(update, 1e-3 * (k + 1), *inputs))
        assert bool(update.records) == recordable
        found.append([torch.stack(losses), *network.parameters(), *trainer.average.parameters()])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.fixture
def records(monkeypatch):
    """Functions of which a graph was made."""
    made, init = [], _capture._Record.__init__

    def counted(record, function, inputs):
        init(record, function, inputs)
        made.append(function)

    monkeypatch.setattr(_capture._Record, "__init__", counted)
    return made


@pytest.mark.parametrize("method", ["score_samples", "transform", "score_function"])
def test_recorded_steps_solve_as_plain_ones(fitted, records, monkeypatch, method):
    flow, X = fitted
    call = functools.partial(getattr(flow, method), *([0.7] if method == "score_function" else []))
    recorded = call(X)
    assert bool(records) == (DEVICE == "cuda")
    monkeypatch.setattr(_capture, "_on_cuda", lambda tensor: False)
    np.testing.assert_allclose(recorded, call(X), rtol=1e-9, atol=1e-9)


def test_a_row_does_not_feel_the_number_of_blocks(fitted):
    """The first step of the first block is a plain call, all others are replayed."""
    flow, X = fitted
    many = np.resize(X, (_likelihood.BLOCK[DEVICE] + 50, X.shape[1]))
    np.testing.assert_array_equal(flow.score_samples(many)[-50:], flow.score_samples(many[-50:]))


def test_a_field_that_looks_at_numbers_is_solved_all_the_same(records):
    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.zeros(()))

        def forward(self, t, x):
            assert self.rate.isfinite()
            return self.rate * x

    class Recipe(Velocity):
        def build(self, n_features, generator):
            return Looking()

    X = np.random.default_rng(0).normal(size=(200, 2))
    flow = on_device(velocity=Recipe(), max_iter=5, polish=2).fit(X)
    assert np.isfinite(flow.score_samples(X)).all()
    assert not records


def test_validations_are_recorded_and_say_the_same(records, monkeypatch):
    X = np.random.default_rng(0).normal(size=(400, 3)) ** 3
    flow = on_device(polish=40).fit(X)
    of_validations = [f for f in records if getattr(f, "func", None) is _validation._guarded_log_densities]
    assert bool(of_validations) == (DEVICE == "cuda")
    records.clear()
    monkeypatch.setattr(_capture, "_on_cuda", lambda tensor: False)
    plain = on_device(polish=40).fit(X)
    assert not records
    np.testing.assert_allclose(flow.validation_scores_, plain.validation_scores_, rtol=1e-2, atol=1e-2)


def test_a_search_trains_together_what_grid_search_trains_alone(monkeypatch):
    """And all of its fits choose their time grids at once."""
    sizes, serve = [], Solution.serve
    monkeypatch.setattr(
        Solution, "serve", staticmethod(lambda group, *args: sizes.append(len(group)) or serve(group, *args))
    )
    X = np.random.default_rng(0).normal(size=(300, 3)) ** 3
    grid = {"weight_decay": [0.1, 0.5, 1.0], "learning_rate_init": [3e-3, 1e-2]}
    found = [
        cls(on_device(), grid, cv=2, refit=False).fit(X).cv_results_["mean_test_score"]
        for cls in (InterpolantSearchCV, GridSearchCV)
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=0.05)
    assert len(np.unique(found[0])) == 6
    assert max(sizes) == 12


def test_samples_and_latent_points_round_trip(fitted):
    flow, X = fitted
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(X)), X, rtol=1e-2, atol=1e-2)
    assert flow.sample(10, random_state=0).shape == (10, 3)


if hasattr(siflow_sk, "load"):

    def test_saved_there_loaded_here(fitted, woken, tmp_path):
        flow, X = fitted
        flow.save(tmp_path / "there")
        woken.save(tmp_path / "here")
        for name in ("there", "here"):
            for device in ("cpu", DEVICE):
                loaded = siflow_sk.load(tmp_path / name, device=device)
                assert loaded.device_ == device
                np.testing.assert_allclose(
                    loaded.score_samples(X), flow.score_samples(X), rtol=1e-8, atol=1e-8
                )
