"""Every public estimator under scikit-learn's checks, then inside its tools: search, pipelines, pickles."""

import copy
import inspect
import math
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn.utils.estimator_checks as sklearn_checks
import torch
from discovery import all_estimators, configured, is_around, public_modules
from scipy.stats import laplace, multivariate_normal, norm
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from siflow_sk import InterpolantFlow, InterpolantTransport
from siflow_sk._training._plan import strong_decay
from siflow_sk.bases import BASES, Base
from siflow_sk.couplings import COUPLINGS
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.interpolants import INTERPOLANTS, Interpolant, Linear
from siflow_sk.preprocessing import PREPROCESSORS, Preprocessor, Whiten
from siflow_sk.solvers import SOLVERS, Grid, RungeKutta, TorchDiffEq
from siflow_sk.velocities import MLP, VELOCITIES, ResidualMLP, Velocity

# The checks look at the contract, not at the fit: networks are small, tolerances loose, and "deep" takes few
# fixed steps, for there each evaluation with which a grid is chosen costs d passes forward.
SMALL = {"max_iter": 5, "polish": 2, "velocity": MLP(width=16)}
LOOSE = {**SMALL, "solver": Grid(tol=1e-2)}
CONFIGURATIONS = {
    "default": SMALL,
    "float32": {**LOOSE, "inference_dtype": "float32"},
    "deep": {
        "max_iter": 5,
        "polish": 2,
        "velocity": ResidualMLP(width=16, depth=1),
        "preprocessor": "none",
        "solver": RungeKutta(n_steps=3),
    },
}
# An estimator around another one, or around the same fields, needs a single configuration: what is inside has
# its own checks.
INSTANCES = [
    configured(cls, **params)
    for cls in all_estimators()
    for params in ([LOOSE] if is_around(cls) or cls is InterpolantTransport else CONFIGURATIONS.values())
]

# What parametrize_with_checks runs for scikit-learn's own estimators only.  These look at names, containers
# and messages, not at numbers: one configuration is enough.
CHECKS_BY_HAND = [
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_inplace_ensure_writeable",
    "check_non_transformer_estimators_n_iter",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]
CHECKS_OF_TRANSFORMERS = [
    check for check in CHECKS_BY_HAND if "names_out" in check or "output_transform" in check
]


def quick(**parameters):
    settings = {"max_iter": 10, "polish": 4, "velocity": MLP(width=16), "random_state": 0}
    return InterpolantFlow(**{**settings, **parameters})


@pytest.fixture(scope="module")
def table():
    """200 rows in three correlated columns of different scales."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 3))
    X = np.column_stack([z[:, 0], 10.0 * (z[:, 0] ** 2 + 0.3 * z[:, 1]), 5.0 + 0.1 * z[:, 2]])
    X.setflags(write=False)
    return X


@pytest.fixture(scope="module")
def frame(table):
    return pd.DataFrame(table, columns=["a", "b", "c"], index=np.arange(1000, 1200))


@pytest.fixture(scope="module")
def flow(table):
    """Fitted once; tests must not change it."""
    return quick().fit(table)


# -- scikit-learn's suite ----------------------------------------------------------------------------------


@parametrize_with_checks(INSTANCES)
def test_estimator_checks(estimator, check):
    legacy = np.random.get_state()  # noqa: NPY002
    check(estimator)
    if check.func is sklearn_checks.check_methods_sample_order_invariance:
        np.random.set_state(legacy)  # noqa: NPY002  # the check itself draws from NumPy's global generator


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")  # these checks call for it
@pytest.mark.parametrize(
    ("cls", "check"),
    [
        (cls, check)
        for cls in all_estimators()
        for check in CHECKS_BY_HAND
        if hasattr(cls, "transform") or check not in CHECKS_OF_TRANSFORMERS
    ],
)
def test_checks_by_hand(cls, check):
    getattr(sklearn_checks, check)(cls.__name__, configured(cls, **LOOSE))


def test_no_check_skips_for_want_of_the_array_api():
    with config_context(array_api_dispatch=True):  # raises unless SCIPY_ARRAY_API=1
        pass


def test_discovery_finds_the_estimators_and_leaves_the_parts_out():
    found = all_estimators()
    parts = {
        cls
        for names in (INTERPOLANTS, BASES, COUPLINGS, VELOCITIES, PREPROCESSORS, SOLVERS)
        for cls in names.values()
    }
    assert InterpolantFlow in found
    assert not parts & set(found)


def test_discovery_misses_no_new_estimator(monkeypatch):
    class Newcomer(BaseEstimator):
        def fit(self, X, y=None):
            return self

    Newcomer.__module__ = "siflow_sk.velocities"
    module = next(m for m in public_modules() if m.__name__ == "siflow_sk.velocities")
    monkeypatch.setattr(module, "Newcomer", Newcomer, raising=False)
    assert Newcomer in all_estimators()


def test_every_module_of_the_package_is_walked():
    names = {m.__name__ for m in public_modules()}
    assert {"siflow_sk", "siflow_sk.flow", "siflow_sk.bases", "siflow_sk.preprocessing"} <= names
    assert not any("._" in name for name in names)


# -- pandas and set_output ---------------------------------------------------------------------------------


def test_a_frame_and_its_array_give_the_same_model(frame, table, flow):
    fitted = quick().fit(frame)
    np.testing.assert_array_equal(fitted.score_samples(frame), flow.score_samples(table))
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    assert not hasattr(flow, "feature_names_in_")


def test_without_set_output_frames_give_arrays(frame):
    fitted = quick().fit(frame)
    for value in (
        fitted.transform(frame),
        fitted.inverse_transform(fitted.transform(frame)),
        fitted.sample(3),
        fitted.score_samples(frame),
    ):
        assert isinstance(value, np.ndarray)


def test_set_output_pandas(frame, table, flow):
    fitted = quick().set_output(transform="pandas").fit(frame)
    Z = fitted.transform(frame)
    assert list(Z.columns) == ["interpolantflow0", "interpolantflow1", "interpolantflow2"]
    assert list(Z.columns) == list(fitted.get_feature_names_out())
    np.testing.assert_array_equal(Z.index, frame.index)
    np.testing.assert_array_equal(Z.to_numpy(), flow.transform(table))

    rows = fitted.sample(7, random_state=3)
    assert isinstance(rows, pd.DataFrame)
    assert list(rows.columns) == ["a", "b", "c"]
    np.testing.assert_array_equal(rows.to_numpy(), flow.sample(7, random_state=3))

    back = fitted.inverse_transform(Z)
    assert isinstance(back, pd.DataFrame)
    assert list(back.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(back.to_numpy(), table, rtol=0.01, atol=0.01)
    # what comes out can go in again without a warning about names
    fitted.score_samples(rows)


def test_inverse_transform_keeps_the_index_of_a_frame(frame):
    fitted = quick().set_output(transform="pandas").fit(frame)
    back = fitted.inverse_transform(fitted.transform(frame))
    np.testing.assert_array_equal(back.index, frame.index)


def test_output_configured_globally(frame):
    fitted = quick().fit(frame)
    with config_context(transform_output="pandas"):
        assert list(fitted.sample(2).columns) == ["a", "b", "c"]
        assert list(fitted.inverse_transform(np.zeros((2, 3))).columns) == ["a", "b", "c"]
    assert isinstance(fitted.sample(2), np.ndarray)


def test_set_output_without_column_names_still_gives_frames(table):
    fitted = quick().set_output(transform="pandas").fit(table)
    assert isinstance(fitted.transform(table), pd.DataFrame)
    assert isinstance(fitted.sample(2), pd.DataFrame)
    assert isinstance(fitted.inverse_transform(np.zeros((2, 3))), pd.DataFrame)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_keep_the_dtype_and_log_densities_are_float64(table, dtype):
    X = table.astype(dtype)
    fitted = quick().fit(X)
    Z = fitted.transform(X)
    assert Z.dtype == dtype
    assert fitted.inverse_transform(Z).dtype == dtype
    assert fitted.sample(3).dtype == dtype
    assert fitted.velocity_field(0.5, X).dtype == dtype
    assert fitted.score_samples(X).dtype == np.float64
    assert type(fitted.score(X)) is float


def test_representations_work(flow):
    assert "InterpolantFlow" in repr(flow)
    assert "InterpolantFlow" in flow._repr_html_()


def test_inverse_transform_makes_no_metadata_request(flow):
    assert list(inspect.signature(flow.inverse_transform).parameters) == ["X"]
    assert not hasattr(flow, "set_inverse_transform_request")


# -- model selection and composition -----------------------------------------------------------------------


@pytest.fixture
def one_thread():
    """One thread here and in the workers: the number of threads may change how a product is rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        yield
    torch.set_num_threads(before)


def test_grid_search_over_interpolants_in_processes(table, one_thread):
    grid = {"interpolant": ["linear", "trigonometric"]}
    search = GridSearchCV(quick(), grid, cv=2, n_jobs=2, error_score="raise").fit(table)
    here = [  # to the bit what this process finds
        [quick(interpolant=name).fit(table[a]).score(table[b]) for a, b in KFold(2).split(table)]
        for name in grid["interpolant"]
    ]
    for split in range(2):
        found = search.cv_results_[f"split{split}_test_score"]
        np.testing.assert_array_equal(found, [s[split] for s in here])
    assert search.best_params_ == {"interpolant": grid["interpolant"][int(np.argmax(np.mean(here, axis=1)))]}
    assert search.score(table) == pytest.approx(search.score_samples(table).mean(), rel=1e-12)


def test_grid_search_inside_a_named_slot_in_processes(table, one_thread):
    flow = quick(velocity="mlp")
    search = GridSearchCV(flow, {"velocity__width": [8, 12]}, cv=2, n_jobs=2, error_score="raise").fit(table)
    assert flow.velocity == "mlp"
    best = search.best_estimator_.velocity
    assert isinstance(best, MLP)
    assert best.width == search.best_params_["velocity__width"]
    for index, width in enumerate([8, 12]):
        expected = quick(velocity=MLP(width=width)).fit(table[100:]).score(table[:100])
        assert search.cv_results_["split0_test_score"][index] == expected


def test_grid_search_over_slots_and_their_insides_at_once(table):
    grid = [
        {"velocity": ["mlp", MLP(n_blocks=2)], "velocity__width": [8]},
        {"velocity": [ResidualMLP()], "velocity__width": [8], "velocity__depth": [1]},
        {"solver": ["rk4"], "solver__n_steps": [4]},
    ]
    search = GridSearchCV(quick(polish=0, preprocessor="whiten"), grid, cv=2, error_score="raise").fit(table)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_get_and_set_params_reach_into_names():
    flow = InterpolantFlow()
    assert flow.get_params()["velocity"] == "mlp"
    assert flow.get_params()["velocity__width"] == 256
    assert "velocity__width" not in flow.get_params(deep=False)
    assert flow.set_params(velocity__width=32) is flow
    assert isinstance(flow.velocity, MLP)
    assert flow.velocity.width == 32
    assert InterpolantFlow().velocity == "mlp"
    flow.set_params(velocity="residual", velocity__depth=5)
    assert isinstance(flow.velocity, ResidualMLP)
    assert flow.velocity.depth == 5
    with pytest.raises(ValueError, match="Invalid parameter 'colour' for estimator MLP"):
        InterpolantFlow().set_params(velocity__colour=1)
    with pytest.raises(ValueError, match="Invalid parameter 'speed' for estimator InterpolantFlow"):
        InterpolantFlow().set_params(speed=1)


def test_cross_val_score_is_the_held_out_log_density(table):
    scores = cross_val_score(quick(), table, cv=KFold(3), error_score="raise")
    expected = [quick().fit(table[a]).score_samples(table[b]).mean() for a, b in KFold(3).split(table)]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_weights_are_routed_through_cross_validation(table):
    weight = np.random.default_rng(1).integers(1, 4, size=len(table)).astype(float)
    with config_context(enable_metadata_routing=True):
        routed = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        got = cross_validate(
            routed, table, cv=KFold(2), params={"sample_weight": weight}, error_score="raise"
        )["test_score"]
    expected = [
        quick().fit(table[a], sample_weight=weight[a]).score(table[b], sample_weight=weight[b])
        for a, b in KFold(2).split(table)
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_last_step_of_a_pipeline(table):
    pipeline = make_pipeline(StandardScaler(), quick()).fit(table)
    alone = quick().fit(StandardScaler().fit_transform(table))
    rows = StandardScaler().fit(table).transform(table)
    np.testing.assert_array_equal(pipeline.score_samples(table), alone.score_samples(rows))
    assert pipeline.score(table) == alone.score(rows)
    pipeline.set_params(interpolantflow__velocity__width=8)
    assert pipeline[-1].velocity.width == 8


def test_first_step_of_a_pipeline(table, flow):
    pipeline = make_pipeline(quick(), GaussianMixture(1, random_state=0)).fit(table)
    Z = flow.transform(table)
    expected = multivariate_normal(Z.mean(0), np.cov(Z.T, bias=True)).logpdf(Z)
    np.testing.assert_allclose(pipeline.score_samples(table), expected, rtol=1e-4)


# -- clones and copies -------------------------------------------------------------------------------------


def test_clone_copies_parameters_and_nothing_learnt(flow):
    copied = clone(flow)
    assert copied.velocity is not flow.velocity
    assert copied.velocity.get_params() == flow.velocity.get_params()
    assert copied.get_params(deep=False).keys() == flow.get_params(deep=False).keys()
    with pytest.raises(NotFittedError):
        check_is_fitted(copied)


def test_parameters_set_after_fit_wait_for_the_next_fit(table, flow):
    fitted, scores = copy.deepcopy(flow), flow.score_samples(table)
    fitted.set_params(
        inference_dtype="float32",
        solver="rk4",
        velocity="residual",
        base="uniform",
        preprocessor="none",
        interpolant="linear",
        device="cuda",
        max_iter=1,
    )
    np.testing.assert_array_equal(fitted.score_samples(table), scores)
    np.testing.assert_array_equal(fitted.transform(table), flow.transform(table))
    np.testing.assert_array_equal(fitted.sample(3, random_state=0), flow.sample(3, random_state=0))


def test_fit_works_on_copies_of_the_users_parts(table):
    parts = {
        "interpolant": Linear(),
        "base": GaussianMixture(2),
        "velocity": MLP(width=8),
        "preprocessor": Whiten(),
        "solver": Grid(),
    }
    before = {name: dict(vars(part)) for name, part in parts.items()}
    fitted = quick(**parts, polish=0).fit(table)
    for name, part in parts.items():
        assert getattr(fitted, name) is part
        assert vars(part) == before[name]


def dump_and_load(flow, how, path):
    if how == "pickle":
        return pickle.loads(pickle.dumps(flow))
    if how == "deepcopy":
        return copy.deepcopy(flow)
    joblib.dump(flow, path / "flow.joblib")
    return joblib.load(path / "flow.joblib", mmap_mode="r" if how == "joblib, mapped" else None)


def answers(flow, X):
    return [
        flow.score_samples(X),
        flow.transform(X),
        flow.sample(5, random_state=1),
        flow.divergence(0.3, X),
        np.array(flow.loss_curve_ + flow.validation_scores_),
    ]


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def before_and_after(request, frame):
    """A fitted flow, its answers, and its answers after learning on."""
    rows = frame[:5]
    fitted = InterpolantFlow(**CONFIGURATIONS[request.param], random_state=0).fit(frame)
    later = InterpolantFlow(**CONFIGURATIONS[request.param], random_state=0).fit(frame)
    return fitted, rows, answers(fitted, rows), answers(later.partial_fit(frame[:50]), rows)


@pytest.mark.parametrize("how", ["pickle", "joblib", "joblib, mapped", "deepcopy"])
def test_round_trips_are_equal_to_the_bit(how, before_and_after, frame, tmp_path):
    fitted, rows, expected, expected_later = before_and_after
    woken = dump_and_load(fitted, how, tmp_path)
    assert vars(woken).keys() == vars(fitted).keys()
    for got, wanted in zip(answers(woken, rows), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    if how == "joblib, mapped":  # the hardest: weights that cannot be written to
        for got, wanted in zip(answers(woken.partial_fit(frame[:50]), rows), expected_later, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("base", [GaussianMixture(2), torch.distributions.Laplace(0.0, 1.0)], ids=str)
def test_round_trip_with_a_foreign_base(base, table):
    fitted = quick(base=base).fit(table)
    woken = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(woken.score_samples(table), fitted.score_samples(table))


def test_an_unfitted_flow_survives_pickling():
    woken = pickle.loads(pickle.dumps(quick()))
    assert woken.get_params(deep=False).keys() == quick().get_params(deep=False).keys()
    with pytest.raises(NotFittedError):
        check_is_fitted(woken)


# -- parts of the user's own -------------------------------------------------------------------------------


class Cubic(Interpolant):
    """alpha = (1 - t)^3 and beta = 1 - alpha; derivatives are left to the base class."""

    def alpha(self, t):
        return (1.0 - t) ** 3

    def beta(self, t):
        return 1.0 - (1.0 - t) ** 3


class Logistic(Base):
    """Independent logistic coordinates of a given scale."""

    def __init__(self, scale=0.5):
        self.scale = scale

    def log_prob(self, x):
        z = x / self.scale
        return (-z - 2.0 * torch.nn.functional.softplus(-z) - math.log(self.scale)).sum(1)

    def sample(self, n, generator):
        return self.scale * torch.logit(self._noise(torch.rand, n, generator), eps=1e-12)


class _AtRest(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, t, x):
        return x * (0.0 * self.unused)


class AtRest(Velocity):
    """A network that cannot move anything: the flow's density is the base's."""

    def build(self, n_features, generator):
        return _AtRest()


class Shrink(Preprocessor):
    """z = x / factor."""

    def __init__(self, factor=2.0):
        self.factor = factor

    def forward(self, x):
        return x / self.factor, x.new_full((len(x),), -x.shape[1] * math.log(self.factor))

    def inverse(self, z):
        return z * self.factor


class Leap(SOLVERS["rk4"].__mro__[1]):
    """One step of Euler's method."""

    def integrate(self, f, state, t0, t1):
        slope = f(state[0].new_tensor(t0), state)
        return tuple(y + (t1 - t0) * dy for y, dy in zip(state, slope, strict=True))


@pytest.mark.parametrize(
    "part",
    [
        {"interpolant": Cubic()},
        {"base": Logistic(scale=0.7)},
        {"velocity": AtRest()},
        {"preprocessor": Shrink(factor=3.0)},
        {"solver": Leap()},
    ],
    ids=lambda part: next(iter(part)),
)
def test_a_users_own_part_is_plugged_in(part, table):
    ((slot, value),) = part.items()
    fitted = quick(**part).fit(table)
    assert np.isfinite(fitted.score_samples(table)).all()
    assert fitted.sample(5).shape == (5, 3)
    assert fitted.transform(table).shape == (200, 3)
    assert clone(fitted).get_params()[slot] is not value
    if value.get_params():
        (name,) = value.get_params()
        assert fitted.get_params()[f"{slot}__{name}"] == getattr(value, name)


def test_users_parts_are_really_used(table):
    """With a network at rest the answer is closed-form: the base in the units of X."""
    fitted = quick(base=Logistic(0.5), preprocessor=Shrink(4.0), velocity=AtRest()).fit(table)
    z = table / 4.0 / 0.5
    expected = (-z - 2.0 * np.log1p(np.exp(-z)) - math.log(0.5)).sum(1) - 3 * math.log(4.0)
    np.testing.assert_allclose(fitted.score_samples(table), expected, rtol=1e-9)
    np.testing.assert_allclose(fitted.transform(table), table / 4.0, rtol=1e-12)
    np.testing.assert_allclose(fitted.inverse_transform(table / 4.0), table, rtol=1e-12)


def resting(base, X, **parameters):
    return quick(base=base, velocity=AtRest(), preprocessor="none", early_stopping=False, **parameters).fit(X)


def test_a_users_own_interpolant_sets_the_regression(table):
    """A network at rest predicts zero, so its loss is the mean square of the interpolant's velocity."""

    class Still(Cubic):
        def velocity(self, t, x0, x1):
            return torch.full_like(x1, 2.0)

    losses = {
        name: resting("normal", table, interpolant=part).loss_curve_
        for name, part in {"still": Still(), "linear": Linear()}.items()
    }
    assert len(set(losses["still"])) == 1
    assert len(set(losses["linear"])) > 1


# -- any density as the base -------------------------------------------------------------------------------


def mixture_of_two():
    weights = torch.distributions.Categorical(torch.tensor([0.5, 0.5], dtype=torch.float64))
    centres = torch.distributions.Normal(torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64), 1.0)
    parts = torch.distributions.Independent(centres, 1)
    return torch.distributions.MixtureSameFamily(weights, parts)


def centred(table):
    return (table - table.mean(0)) / table.std(0)


@pytest.mark.parametrize(
    ("base", "oracle"),
    [
        (GaussianMixture(1), lambda X: multivariate_normal(X.mean(0), np.cov(X.T, bias=True)).logpdf(X)),
        (KernelDensity(bandwidth=0.4), lambda X: KernelDensity(bandwidth=0.4).fit(X).score_samples(X)),
        (torch.distributions.Laplace(0.0, 1.0), lambda X: laplace.logpdf(X).sum(1)),
        (
            torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), 2.0),
            lambda X: norm(0, 2).logpdf(X).sum(1),
        ),
        (
            torch.distributions.MultivariateNormal(torch.zeros(3).double(), 2.0 * torch.eye(3).double()),
            lambda X: multivariate_normal(np.zeros(3), 2.0).logpdf(X),
        ),
        (
            mixture_of_two(),
            lambda X: np.logaddexp(*(multivariate_normal([m] * 3).logpdf(X) for m in (-1, 1))) - math.log(2),
        ),
    ],
    ids=["GaussianMixture", "KernelDensity", "Laplace", "Normal", "MultivariateNormal", "MixtureSameFamily"],
)
def test_any_density_as_base(base, oracle, table):
    X = centred(table)
    np.testing.assert_allclose(resting(base, X).score_samples(X), oracle(X), rtol=1e-5, atol=1e-6)
    fitted = quick(base=base).fit(table)
    assert np.isfinite(fitted.score_samples(table)).all()
    draws = fitted.sample(400, random_state=0)
    assert np.isfinite(draws).all()
    assert len(np.unique(draws, axis=0)) == 400


def test_a_fitted_frozen_density_as_base(table):
    X = centred(table)
    mixture = GaussianMixture(2, random_state=0).fit(X[:100])
    fitted = resting(FrozenEstimator(mixture), X)
    np.testing.assert_allclose(fitted.score_samples(X), mixture.score_samples(X), rtol=1e-6, atol=1e-6)
    assert not np.array_equal(fitted.sample(5, random_state=1), fitted.sample(5, random_state=2))
    np.testing.assert_array_equal(fitted.sample(5, random_state=1), fitted.sample(5, random_state=1))
    assert mixture.random_state == 0


@pytest.mark.parametrize("base", [GaussianMixture(2), quick()], ids=lambda b: type(b).__name__)
def test_sampling_does_not_change_a_foreign_base(base, table):
    fitted = quick(base=base, polish=0).fit(table)
    before = joblib.hash(fitted.base_)
    fitted.sample(5)
    fitted.score_samples(table)
    assert joblib.hash(fitted.base_) == before


def test_another_flow_as_base(table):
    X = centred(table)
    inner = quick(max_iter=10, polish=0)
    fitted = resting(inner, X)
    np.testing.assert_allclose(
        fitted.score_samples(X), fitted.base_.estimator_.score_samples(X), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(NotFittedError):
        check_is_fitted(inner)
    assert np.isfinite(quick(base=inner).fit(table).sample(10)).all()
    assert quick(base=inner).get_params()["base__velocity__width"] == 16


class Remembering(Logistic):
    """Keeps the rows it was fitted to."""

    def fit(self, x, generator):
        self.rows_ = x.numpy().copy()
        return super().fit(x, generator)


@pytest.mark.parametrize("modes", [1, 2])
def test_the_base_is_fitted_in_the_space_of_the_flow(modes):
    """Also when ``fit`` chose among several preprocessors: one is better with one mode, one with two."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) + (6.0 * rng.integers(0, modes, size=(400, 1)))
    fitted = quick(base=Remembering(), velocity=AtRest()).fit(X)
    latent, rows = fitted.transform(X), fitted.base_.rows_
    assert len(rows) == 360  # all but the validation rows
    nearest = np.abs(rows[:, None] - latent[None]).max(axis=2).min(axis=1)
    np.testing.assert_allclose(nearest, 0.0, atol=1e-5)


class Bare:
    """A base that has the methods and is not one of our classes."""

    def fit(self, x, generator):
        return self

    def log_prob(self, x):
        return -x.abs().sum(1) - x.shape[1] * math.log(2.0)

    def sample(self, n, generator):
        u = torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5
        return -u.sign() * torch.log1p(-2.0 * u.abs())


def test_a_base_that_has_the_methods_and_nothing_else(table):
    X = centred(table)
    np.testing.assert_allclose(resting(Bare(), X).score_samples(X), laplace.logpdf(X).sum(1), rtol=1e-9)


@pytest.mark.parametrize("name", sorted(BASES))
def test_every_base_name(name, table):
    fitted = quick(base=name).fit(table)
    values = fitted.score_samples(table)
    assert not np.isnan(values).any()
    assert fitted.sample(5).shape == (5, 3)


# -- solvers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [*sorted(SOLVERS), RungeKutta("midpoint", n_steps=60), TorchDiffEq("rk4", options={"step_size": 0.05})],
    ids=str,
)
def test_every_solver_solves_the_same_flow(solver, table, flow):
    fitted = quick(solver=solver).fit(table)
    np.testing.assert_allclose(fitted.score_samples(table), flow.score_samples(table), atol=2e-3)
    Z = fitted.transform(table)
    np.testing.assert_allclose(fitted.inverse_transform(Z), table, rtol=1e-3, atol=1e-3)


# -- going on: warm_start, partial_fit, interruption -------------------------------------------------------


def weights_of(flow):
    return torch.cat([p.reshape(-1).double() for p in flow.velocity_.parameters()])


def test_warm_start_goes_on_from_the_present_model(table):
    fitted = quick(warm_start=True).fit(table)
    before, preprocessor, base = weights_of(fitted), fitted.preprocessor_, fitted.base_
    fitted.set_params(learning_rate_init=1e-12, polish=0, random_state=1).fit(table)
    torch.testing.assert_close(weights_of(fitted), before, rtol=1e-5, atol=1e-7)
    assert fitted.preprocessor_ is preprocessor
    assert fitted.base_ is base
    cold = quick(learning_rate_init=1e-12, polish=0, random_state=1).fit(table)
    assert not torch.allclose(weights_of(cold), before, atol=0.1)


def test_warm_start_on_a_new_table_of_the_same_columns(table):
    fitted = quick(warm_start=True).fit(table[:150])
    assert np.isfinite(fitted.fit(table[50:]).score_samples(table)).all()
    with pytest.raises(ValueError, match="X has 2 features, but InterpolantFlow is expecting 3 features"):
        fitted.fit(table[:, :2])


def test_without_warm_start_fit_forgets(table, flow):
    again = quick().fit(table[:60, :2]).fit(table)
    np.testing.assert_array_equal(again.score_samples(table), flow.score_samples(table))


def test_partial_fit_learns_chunk_by_chunk(table):
    fitted = quick(batch_size=32, learning_rate_init=1e-2, preprocessor="standardize")
    assert fitted.partial_fit(table[:100]) is fitted
    assert fitted.n_iter_ == math.ceil(100 / 32)
    first, preprocessor = fitted.loss_curve_, fitted.preprocessor_
    fitted.partial_fit(table[100:])
    assert fitted.n_iter_ == 2 * math.ceil(100 / 32)
    assert fitted.loss_curve_[: len(first)] == first
    assert len(fitted.loss_curve_) == fitted.n_iter_
    assert fitted.preprocessor_ is preprocessor
    fitted.partial_fit(table[:1])  # a chunk may be one row
    assert np.isfinite(fitted.score_samples(table)).all()
    start = fitted.score(table)
    for _ in range(6):
        fitted.partial_fit(table)
    assert fitted.score(table) > start + 0.03


class Interrupting(Linear):
    """Ctrl-C in the middle of training: the k-th batch raises KeyboardInterrupt."""

    batches_left = math.inf

    def velocity(self, t, x0, x1):
        Interrupting.batches_left -= 1
        if Interrupting.batches_left < 0:
            raise KeyboardInterrupt
        return super().velocity(t, x0, x1)


def fit_through_an_interrupt(flow, X):
    try:
        return flow.fit(X)
    except KeyboardInterrupt:  # would end the whole test run
        pytest.fail("the interrupt was not caught")


@pytest.mark.parametrize("batches", [1, 7, 10, 13])  # the second preprocessor is tried from batch 11 on
def test_an_interrupted_fit_keeps_the_best_so_far(batches, table, monkeypatch):
    monkeypatch.setattr(Interrupting, "batches_left", batches)
    flow = quick(interpolant=Interrupting())
    with pytest.warns(
        TrainingWarning, match="Training interrupted after .* iterations; the best weights so far are kept"
    ):
        fit_through_an_interrupt(flow, table)
    check_is_fitted(flow)
    assert 1 <= flow.n_iter_ == len(flow.loss_curve_) <= 10
    assert flow.polish_loss_curve_ == []  # who interrupts does not want to wait for the second stage
    assert flow.best_iteration_ <= flow.n_iter_
    assert flow.best_validation_score_ == max(flow.validation_scores_)
    assert np.isfinite(flow.score_samples(table)).all()


class InterruptingBase(Logistic):
    """Ctrl-C during polish: the first likelihood with a gradient raises KeyboardInterrupt."""

    def log_prob(self, x):
        if x.requires_grad and len(x) > 2:
            raise KeyboardInterrupt
        return super().log_prob(x)


def test_an_interrupted_polish_keeps_the_best_so_far(table):
    flow = quick(base=InterruptingBase())
    with pytest.warns(TrainingWarning, match="Training interrupted after 10 iterations"):
        fit_through_an_interrupt(flow, table)
    unpolished = quick(base=Logistic(), polish=0).fit(table)
    np.testing.assert_array_equal(flow.score_samples(table), unpolished.score_samples(table))


def test_an_interrupt_before_anything_was_learnt_leaves_no_model(table, monkeypatch):
    monkeypatch.setattr(Interrupting, "batches_left", 0)
    flow = quick(interpolant=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        flow.fit(table)
    assert vars(flow) == flow.get_params(deep=False)
    with pytest.raises(NotFittedError):
        flow.score_samples(table)


def test_an_interrupt_before_anything_was_learnt_leaves_the_old_model(table, frame, monkeypatch):
    flow = quick(interpolant=Interrupting()).fit(frame)
    before, scores = dict(vars(flow)), flow.score_samples(frame)
    monkeypatch.setattr(Interrupting, "batches_left", 0)
    with pytest.raises(KeyboardInterrupt):
        flow.fit(table[:, :2])
    assert vars(flow) == before
    np.testing.assert_array_equal(flow.score_samples(frame), scores)


# -- fitted attributes -------------------------------------------------------------------------------------


def test_fitted_attributes(frame):
    fitted = quick().fit(frame.assign(d=1.5))
    assert fitted.n_features_in_ == 4
    np.testing.assert_array_equal(fitted.feature_names_in_, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(fitted.constant_features_, [3])
    assert isinstance(fitted.interpolant_, INTERPOLANTS["trigonometric"])
    assert isinstance(fitted.base_, BASES["normal"])
    assert isinstance(fitted.velocity_, torch.nn.Module)
    assert isinstance(fitted.preprocessor_, PREPROCESSORS["gaussianize"])
    assert isinstance(fitted.solver_, Grid)
    assert len(fitted.solver_.knots_) == fitted.solver_.n_steps_ + 1
    assert fitted.max_iter_ == len(fitted.loss_curve_) == 10
    assert fitted.polish_ == 4
    assert fitted.n_iter_ == len(fitted.loss_curve_) + len(fitted.polish_loss_curve_)
    assert all(type(v) is float for v in fitted.loss_curve_ + fitted.polish_loss_curve_)
    assert fitted.early_stopping_ is True
    assert fitted.best_validation_score_ == max(fitted.validation_scores_)
    assert fitted.quadratic_validation_score_ <= fitted.best_validation_score_
    assert 1 <= fitted.best_iteration_ <= fitted.n_iter_
    assert isinstance(fitted.batch_size_, int)
    assert fitted.device_ in ("cpu", "cuda")
    history = fitted.history_
    assert list(history.columns) == ["stage", "iteration", "score", "learning_rate", "seconds"]
    assert list(history["score"]) == fitted.validation_scores_
    assert set(history["stage"]) == {"quadratic", "polish"}
    best = history.loc[history["score"].idxmax(), "iteration"]
    assert best == fitted.best_iteration_


def test_every_fitted_attribute_is_documented(frame):
    fitted = quick().fit(frame)
    public = [name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")]
    assert len(public) > 15
    assert [name for name in public if name not in InterpolantFlow.__doc__] == []


def test_every_parameter_is_documented_and_constrained():
    for cls in all_estimators():
        names = set(configured(cls).get_params(deep=False))
        assert [name for name in names if name not in cls.__doc__] == []
        assert set(cls._parameter_constraints) == names


@pytest.mark.parametrize(
    ("n", "decay"), [(2, 4.0), (353, 4.0), (400, 3.125), (500, 2.0), (1000, 0.5), (10**7, 0.5)]
)
def test_weight_decay_is_strong_for_few_rows(n, decay):
    assert strong_decay(n) == pytest.approx(decay)


def test_weight_decay_auto_is_that_of_the_distinct_rows(table):
    rows = table[:50]
    auto = quick().fit(np.repeat(rows, 9, axis=0))
    assert auto.weight_decay_ == strong_decay(len(rows)) == 4.0
    np.testing.assert_array_equal(
        auto.score_samples(rows), quick(weight_decay=4.0).fit(np.repeat(rows, 9, axis=0)).score_samples(rows)
    )
    weak = quick(weight_decay=0.25).fit(rows)
    assert weak.weight_decay_ == 0.25
    assert not np.array_equal(weak.score_samples(rows), auto.score_samples(rows))


def test_a_stream_has_a_weight_decay_that_its_chunks_do_not_decide(table):
    assert quick().partial_fit(table[:50]).weight_decay_ == 0.5
    assert quick(weight_decay=2.0).partial_fit(table[:50]).weight_decay_ == 2.0


def test_without_early_stopping_there_is_no_validation(table):
    fitted = quick(early_stopping=False).fit(table)
    assert fitted.early_stopping_ is False
    assert fitted.validation_scores_ == []
    assert fitted.best_validation_score_ is None
    assert fitted.polish_ == 0
    assert len(fitted.history_) == 0


# -- randomness --------------------------------------------------------------------------------------------


def test_a_seed_repeats_to_the_bit(table, flow):
    again = quick().fit(table)
    np.testing.assert_array_equal(again.score_samples(table), flow.score_samples(table))
    assert again.loss_curve_ == flow.loss_curve_
    assert again.validation_scores_ == flow.validation_scores_
    other = quick(random_state=1).fit(table)
    assert not np.array_equal(other.score_samples(table), flow.score_samples(table))


def test_fit_does_not_depend_on_the_order_of_rows(table, flow):
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = quick().fit(table[order])
    np.testing.assert_array_equal(shuffled.score_samples(table), flow.score_samples(table))


def test_no_seed_differs_and_a_random_state_is_consumed(table):
    scores = [quick(random_state=None).fit(table).score(table) for _ in range(2)]
    assert scores[0] != scores[1]
    state = np.random.RandomState(0)
    scores = [quick(random_state=state).fit(table).score(table) for _ in range(2)]
    assert scores[0] != scores[1]
    assert quick(random_state=np.random.RandomState(0)).fit(table).score(table) == scores[0]


def test_sample_draws_afresh_unless_it_is_seeded(flow):
    assert flow.random_state == 0
    assert not np.array_equal(flow.sample(5), flow.sample(5))
    np.testing.assert_array_equal(flow.sample(5, random_state=1), flow.sample(5, random_state=1))
    assert not np.array_equal(flow.sample(5, random_state=1), flow.sample(5, random_state=2))
    state = np.random.RandomState(1)
    assert not np.array_equal(flow.sample(5, random_state=state), flow.sample(5, random_state=state))
    assert flow.sample().shape == (1, 3)


# -- weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_whole_weights_are_repetition(configuration, table):
    params = {**CONFIGURATIONS[configuration], "random_state": 0}
    weight = np.random.default_rng(2).integers(0, 4, size=len(table))
    weighted = InterpolantFlow(**params).fit(table, sample_weight=weight)
    repeated = InterpolantFlow(**params).fit(np.repeat(table, weight, axis=0))
    np.testing.assert_allclose(
        weighted.score_samples(table), repeated.score_samples(table), rtol=1e-7, atol=1e-7
    )
    np.testing.assert_allclose(weighted.validation_scores_, repeated.validation_scores_, rtol=1e-7)


def test_equal_weights_are_no_weights(table, flow):
    fitted = quick().fit(table, sample_weight=np.ones(len(table)))
    np.testing.assert_array_equal(fitted.score_samples(table), flow.score_samples(table))


def test_weights_move_the_density_towards_heavy_rows(table):
    heavy = np.where(table[:, 0] > 0, 5.0, 0.2)
    fitted = quick().fit(table, sample_weight=heavy)
    assert fitted.sample(1000, random_state=0)[:, 0].mean() > table[:, 0].mean() + 0.3


def test_score_is_the_weighted_mean(table, flow):
    weight = np.random.default_rng(3).uniform(size=len(table))
    values = flow.score_samples(table)
    assert flow.score(table) == pytest.approx(values.mean(), rel=1e-12)
    got = flow.score(table, sample_weight=weight)
    assert type(got) is float
    assert got == pytest.approx((weight * values).sum() / weight.sum(), rel=1e-12)
