"""DensityPipeline: the density in the units of X behind every step, refusals, samples, the two traps."""

import pickle
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, lognorm, multivariate_normal
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from siflow_sk import DensityPipeline, InterpolantFlow, make_density_pipeline
from siflow_sk.pipeline import _maps, _steps
from siflow_sk.preprocessing import Gaussianize, Standardize, Whiten
from siflow_sk.velocities import MLP

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def table():
    """300 positive rows in three correlated columns of different scales."""
    z = np.random.default_rng(0).normal(size=(300, 3))
    return np.column_stack(
        [np.exp(0.5 * z[:, 0]), 3.0 + z[:, 0] ** 2 + 0.1 * z[:, 1] ** 2, 50 + 5.0 * z[:, 2]]
    )


@pytest.fixture(scope="module")
def frame(table):
    return pd.DataFrame(table, columns=NAMES, index=np.arange(1000, 1300))


def columns_of_steps(**kwargs):
    return ColumnTransformer(
        [
            ("power", PowerTransformer(), ["b"]),
            ("log", FunctionTransformer(np.log), ["a"]),
            ("both", make_pipeline(StandardScaler(), MinMaxScaler((-1, 3))), slice("c", "c")),
        ],
        **kwargs,
    )


STEPS = {
    "standard": StandardScaler(),
    "shift only": StandardScaler(with_std=False),
    "minmax": MinMaxScaler(feature_range=(-2, 5)),
    "maxabs": MaxAbsScaler(),
    "robust": RobustScaler(),
    "robust unscaled": RobustScaler(with_scaling=False),
    "yeo-johnson": PowerTransformer(),
    "yeo-johnson raw": PowerTransformer(standardize=False),
    "yeo-johnson of both signs": make_pipeline(StandardScaler(), PowerTransformer()),
    "box-cox": PowerTransformer(method="box-cox"),
    "quantile uniform": QuantileTransformer(n_quantiles=20),
    "quantile normal": QuantileTransformer(n_quantiles=20, output_distribution="normal"),
    "pca": PCA(),
    "pca whitened": PCA(whiten=True),
    "identity": FunctionTransformer(),
    **{
        f"np.{func.__name__}": make_pipeline(
            MinMaxScaler(feature_range=(0.1, 0.9)), FunctionTransformer(func)
        )
        for func in _maps.FUNCTIONS
    },
    "np.sinh of both signs": make_pipeline(StandardScaler(), FunctionTransformer(np.sinh)),
    "columns": columns_of_steps(),
    "columns and remainder": ColumnTransformer([("b", StandardScaler(), [1])], remainder="passthrough"),
    "columns in columns": ColumnTransformer([("all", columns_of_steps(), NAMES)]),
    "remainder scaled": ColumnTransformer([("b", MaxAbsScaler(), ["b"])], remainder=RobustScaler()),
    "mask": ColumnTransformer(
        [("b", PowerTransformer(), [False, True, False]), ("rest", PCA(whiten=True), lambda X: ["a", "c"])]
    ),
    "standardize": Standardize(),
    "whiten": Whiten(),
    "gaussianize": Gaussianize(density=True),
    "passthrough": "passthrough",
}


@pytest.mark.parametrize("name", STEPS)
def test_jacobian_is_that_of_numerical_differentiation(name, frame):
    """log p(x) - log q(z) against the determinant of central differences of the fitted step."""
    pipeline = make_density_pipeline(STEPS[name], GaussianMixture(random_state=0)).fit(frame)
    step = pipeline.steps_[0][1]
    lows, highs = frame.quantile(0.05).to_numpy(), frame.quantile(0.95).to_numpy()
    rng = np.random.default_rng(1)
    rows = pd.DataFrame(rng.uniform(lows, highs, size=(20, 3)), columns=NAMES)

    def transform(x):
        return np.asarray(_steps.transform(step, pd.DataFrame(x, columns=NAMES)))

    latent = pipeline.density_.score_samples(_steps.transform(step, rows))
    found = pipeline.score_samples(rows) - latent
    width = 1e-6 * frame.to_numpy().std(axis=0)
    for row, value in zip(rows.to_numpy(), found, strict=True):
        moved = row + np.vstack([np.diag(width), -np.diag(width)])
        z = transform(moved)
        jacobian = (z[:3] - z[3:]) / (2 * width[:, None])
        assert value == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=2e-4)


@pytest.mark.parametrize("name", STEPS)
def test_samples_have_the_units_and_columns_of_the_data(name, frame):
    pipeline = make_density_pipeline(STEPS[name], KernelDensity(bandwidth=1e-6)).fit(frame)
    drawn = pipeline.sample(200, random_state=0)
    assert list(drawn.columns) == NAMES
    # so narrow a kernel gives back the rows of the data, each inverted from its transformed self
    distance = np.abs(drawn.to_numpy()[:, None] - frame.to_numpy()[None]).max(axis=2).min(axis=1)
    assert np.median(distance) < 1e-3
    assert np.isfinite(pipeline.score_samples(drawn)).mean() > 0.98


def mass(step, density, x):
    """Integral of the fitted density of one column, piece by piece."""
    pipeline = make_density_pipeline(step, density).fit(x)
    knots = getattr(pipeline.steps_[0][1], "quantiles_", np.linspace(0.01, 8, 20)).ravel()
    return sum(
        quad(lambda value: np.exp(pipeline.score_samples([[value]])[0]), a, b, limit=20)[0]
        for a, b in pairwise(knots)
    )


@pytest.fixture(scope="module")
def skewed():
    return lognorm(0.4).rvs((200, 1), random_state=0)


@pytest.mark.parametrize(
    "step",
    [
        PowerTransformer(method="box-cox"),
        FunctionTransformer(np.sqrt),
        FunctionTransformer(np.log),
        Gaussianize(density=False),
    ],
    ids=["box-cox", "sqrt", "log", "gaussianize"],
)
def test_a_density_integrates_to_one(step, skewed):
    assert mass(step, GaussianMixture(2, random_state=0), skewed) == pytest.approx(1.0, abs=1e-3)


def test_behind_quantiles_mass_beyond_the_range_is_lost_and_never_gained(skewed):
    step = QuantileTransformer(n_quantiles=30, output_distribution="normal")
    assert mass(step, GaussianMixture(1, random_state=0), skewed) == pytest.approx(1.0, abs=1e-3)
    assert 0.8 < mass(QuantileTransformer(n_quantiles=30), GaussianMixture(1, random_state=0), skewed) < 0.999


def test_a_lognormal_column_has_its_exact_density():
    rng = np.random.default_rng(0)
    x = np.exp(1.0 + 0.5 * rng.normal(size=(4000, 1)))
    steps = FunctionTransformer(np.log), StandardScaler()  # draws must go back through them in reverse
    pipeline = make_density_pipeline(*steps, GaussianMixture(random_state=0)).fit(x)
    at = np.array([[0.5], [2.0], [7.0], [-1.0]])
    exact = lognorm(0.5, scale=np.e).logpdf(at[:, 0])
    np.testing.assert_allclose(pipeline.score_samples(at)[:3], exact[:3], atol=0.1)
    assert pipeline.score_samples(at)[3] == -np.inf
    assert kstest(pipeline.sample(2000, random_state=1)[:, 0], lognorm(0.5, scale=np.e).cdf).pvalue > 1e-3


# -- the two traps ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2500, 2)) * [10.0, 100.0]
    return X[:2000], X[2000:]


def test_the_log_density_behind_a_scaler_is_in_the_units_of_x(wide):
    train, test = wide
    truth = multivariate_normal(np.zeros(2), np.diag([1e2, 1e4])).logpdf(test).mean()
    trap = (
        make_pipeline(StandardScaler(), GaussianMixture(1, random_state=0))
        .fit(train)
        .score_samples(test)
        .mean()
    )
    ours = (
        make_density_pipeline(StandardScaler(), GaussianMixture(1, random_state=0))
        .fit(train)
        .score_samples(test)
        .mean()
    )
    assert trap == pytest.approx(-2.81, abs=0.05)
    assert truth == pytest.approx(-9.71, abs=0.05)
    assert ours == pytest.approx(truth, abs=0.01)


def times(X, factor):
    return X * factor


class Times(TransformerMixin, BaseEstimator):
    """A user's own step: x times a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        return np.asarray(X) * self.factor

    def inverse_transform(self, X):
        return np.asarray(X) / self.factor

    def log_det(self, X):
        return np.full(len(X), np.shape(X)[1] * np.log(self.factor))


def test_a_grid_over_units_ties(wide):
    grid = {"times__factor": [1.0, 1e-3, 1e3]}
    pipeline = make_density_pipeline(Times(), GaussianMixture(1, random_state=0, reg_covar=1e-12))
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(wide[0])
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, scores[0], atol=1e-6)
    assert scores[0] == pytest.approx(-9.74, abs=0.1)
    assert search.score(wide[1]) == pytest.approx(search.score_samples(wide[1]).mean())


def test_a_grid_over_steps_ties_for_a_density_that_knows_no_units(wide):
    grid = {"scaler": [StandardScaler(), MinMaxScaler(), RobustScaler(), "passthrough", PCA(whiten=True)]}
    pipeline = DensityPipeline(
        [("scaler", StandardScaler()), ("density", GaussianMixture(1, random_state=0, reg_covar=1e-12))]
    )
    scores = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(wide[0]).cv_results_
    np.testing.assert_allclose(scores["mean_test_score"], scores["mean_test_score"][0], atol=1e-6)


def test_a_flow_behind_a_scaler_is_the_flow(table):
    flow = InterpolantFlow(max_iter=10, polish=4, velocity=MLP(width=16), random_state=0)
    pipeline = make_density_pipeline(StandardScaler(), flow).fit(table)
    alone = clone(flow).fit(table)
    assert pipeline.score(table) == pytest.approx(alone.score(table), abs=0.05)
    assert pipeline.sample(5, random_state=0).shape == (5, 3)
    np.testing.assert_array_equal(pipeline.sample(5, random_state=0), pipeline.sample(5, random_state=0))
    assert (pipeline.sample(5) != pipeline.sample(5)).any()


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (
            PolynomialFeatures(),
            TypeError,
            "'step': the Jacobian of PolynomialFeatures is not known.*leave it out",
        ),
        (Normalizer(), TypeError, "Normalizer is not known.*use StandardScaler"),
        (TruncatedSVD(), TypeError, r"TruncatedSVD is not known.*use PCA\(\) with all components"),
        (SimpleImputer(), TypeError, "fill in missing values before the pipeline"),
        (OneHotEncoder(), TypeError, "a coded or binned column has no density"),
        (GaussianMixture(), TypeError, "GaussianMixture is not known.*Known are StandardScaler"),
        (
            FunctionTransformer(np.abs),
            TypeError,
            "function absolute is not known.*log_dets={'step': function}",
        ),
        (FunctionTransformer(times, kw_args={"factor": 2}), TypeError, "function times is not known"),
        (MinMaxScaler(clip=True), ValueError, r"MinMaxScaler\(clip=True\) is not invertible; set clip=False"),
        (PCA(2), ValueError, "'step': PCA keeps 2 of 3 directions.*n_components=None"),
        (FrozenEstimator(Normalizer()), TypeError, "Normalizer is not known"),
        (make_pipeline(StandardScaler(), Normalizer()), TypeError, "'step__normalizer': the Jacobian"),
        (ColumnTransformer([("a", Normalizer(), ["a"])]), TypeError, "'step__a': the Jacobian of Normalizer"),
        (ColumnTransformer([("a", "drop", ["a"])]), ValueError, "drops the columns of 'a'"),
        (ColumnTransformer([("a", StandardScaler(), ["a"])]), ValueError, "column 'b', column 'c' is not"),
        (
            ColumnTransformer([("x", StandardScaler(), NAMES), ("y", "passthrough", ["a"])]),
            ValueError,
            "used once, which column 'a' is not",
        ),
        (StandardScaler, TypeError, r"is a class; pass StandardScaler\(\)"),
    ],
)
def test_a_step_without_a_known_jacobian_is_refused_by_name(step, error, message, frame):
    with pytest.raises(error, match=message):
        DensityPipeline([("step", step), ("density", GaussianMixture(random_state=0))]).fit(frame)


def test_a_subclass_with_another_map_is_not_taken_for_its_parent(table):
    class Half(StandardScaler):
        def transform(self, X, copy=None):
            return 0.5 * super().transform(X)

    class Renamed(StandardScaler):
        pass

    with pytest.raises(TypeError, match="Jacobian of Half is not known"):
        make_density_pipeline(Half(), GaussianMixture(random_state=0)).fit(table)
    ours = make_density_pipeline(Renamed(), GaussianMixture(random_state=0)).fit(table)
    assert ours.score(table) == make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(
        table
    ).score(table)


def test_quantiles_that_jump_are_refused(table):
    rounded = table.round(0)
    with pytest.raises(ValueError, match="column 0 repeats values"):
        make_density_pipeline(QuantileTransformer(n_quantiles=100), GaussianMixture(random_state=0)).fit(
            rounded
        )
    normal = QuantileTransformer(n_quantiles=100, output_distribution="normal")
    with pytest.raises(ValueError, match=r"column 0 spans only .*put StandardScaler before it"):
        make_density_pipeline(normal, GaussianMixture(random_state=0)).fit(table * 1e-9)
    scaled = make_density_pipeline(StandardScaler(), normal, GaussianMixture(random_state=0)).fit(
        table * 1e-9
    )
    plain = make_density_pipeline(StandardScaler(), normal, GaussianMixture(random_state=0)).fit(table)
    assert scaled.score(table * 1e-9) == pytest.approx(plain.score(table) + 3 * np.log(1e9), abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        ([], ValueError, "list of pairs"),
        ([StandardScaler(), GaussianMixture(random_state=0)], ValueError, "list of pairs"),
        ([("a", StandardScaler()), ("a", GaussianMixture(random_state=0))], ValueError, "not unique"),
        ([("steps", GaussianMixture(random_state=0))], ValueError, "conflict with constructor"),
        ([("a__b", GaussianMixture(random_state=0))], ValueError, "must not contain __"),
        ([("a", StandardScaler())], TypeError, "'a': the last step must be a density estimator"),
        ("steps", ValueError, "'steps' parameter of DensityPipeline must be"),
    ],
)
def test_steps_that_are_none(steps, error, message, table):
    with pytest.raises(error, match=message):
        DensityPipeline(steps).fit(table)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_and_infinite_values_are_refused(bad, table):
    X = table.copy()
    X[3, 1] = bad
    with pytest.raises(ValueError, match=r"contains NaN|contains infinity"):
        make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(X)
    with pytest.raises(ValueError, match=r"contains NaN|contains infinity"):
        make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(table).score_samples(X)


def test_a_failed_fit_leaves_the_old_model(table):
    pipeline = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(table)
    before = pipeline.score_samples(table)
    pipeline.set_params(standardscaler=PCA(2))
    with pytest.raises(ValueError, match="PCA keeps 2"):
        pipeline.fit(table[:, ::-1] * 7)
    np.testing.assert_array_equal(pipeline.score_samples(table), before)


def test_a_density_that_cannot_draw(table):
    class Flat(BaseEstimator):
        def fit(self, X, y=None):
            return self

        def score_samples(self, X):
            return np.zeros(len(X))

    pipeline = make_density_pipeline(StandardScaler(), Flat()).fit(table)
    assert np.isfinite(pipeline.score(table))
    with pytest.raises(TypeError, match="Flat has no method sample"):
        pipeline.sample(2)


# -- declared log-determinants ------------------------------------------------------------------------------


def cube(x):
    return x**3


def cube_log_det(x):
    return np.log(3 * np.asarray(x) ** 2).sum(axis=1)


def test_a_declared_log_determinant_is_used(table):
    step = FunctionTransformer(cube, np.cbrt)
    pipeline = DensityPipeline(
        [("cube", step), ("density", GaussianMixture(random_state=0))], log_dets={"cube": cube_log_det}
    ).fit(table)
    expected = pipeline.density_.score_samples(table**3) + cube_log_det(table)
    np.testing.assert_allclose(pipeline.score_samples(table), expected)
    assert pipeline.sample(20, random_state=0).shape == (20, 3)
    copy = clone(pipeline).fit(table)
    np.testing.assert_array_equal(copy.score_samples(table), pipeline.score_samples(table))


def test_a_declared_log_determinant_inside_columns(frame):
    columns = ColumnTransformer(
        [("cube", FunctionTransformer(cube, np.cbrt), ["a", "b"]), ("c", "passthrough", ["c"])]
    )
    pipeline = make_density_pipeline(
        columns, GaussianMixture(random_state=0), log_dets={"columntransformer__cube": cube_log_det}
    ).fit(frame)
    z = pipeline.steps_[0][1].transform(frame)
    expected = pipeline.density_.score_samples(z) + cube_log_det(frame[["a", "b"]])
    np.testing.assert_allclose(pipeline.score_samples(frame), expected)


def test_a_wrong_declaration_is_found_out(table):
    step = FunctionTransformer(cube, np.cbrt)

    def fit(log_det):
        make_density_pipeline(
            step, GaussianMixture(random_state=0), log_dets={"functiontransformer": log_det}
        ).fit(table)

    with pytest.raises(ValueError, match=r"is not that of the step.*numerical differentiation gives"):
        fit(lambda x: -cube_log_det(x))
    with pytest.raises(ValueError, match=r"one number, finite or -inf, for each of \d+ rows; got shape"):
        fit(lambda x: np.log(3 * np.asarray(x) ** 2))
    with pytest.raises(ValueError, match="9 NaN"):
        fit(lambda x: np.full(len(x), np.nan))
    with pytest.raises(
        ValueError, match=r"there is no step \['f'\]; the steps are \['functiontransformer'\]"
    ):
        make_density_pipeline(step, GaussianMixture(random_state=0), log_dets={"f": cube_log_det}).fit(table)


def test_without_an_inverse_rows_can_be_scored_and_not_drawn(table):
    log_dets = {"functiontransformer": cube_log_det}
    pipeline = make_density_pipeline(
        FunctionTransformer(cube), GaussianMixture(random_state=0), log_dets=log_dets
    ).fit(table)
    assert np.isfinite(pipeline.score(table))
    with pytest.raises(ValueError, match="'functiontransformer': rows cannot be drawn without an inverse"):
        pipeline.sample(3)


def test_a_step_that_changes_the_number_of_columns_is_refused(table):
    step = FunctionTransformer(lambda x: x[:, :2])
    with pytest.raises(ValueError, match=r"turns shape \(300, 3\) into \(300, 2\)"):
        make_density_pipeline(
            step,
            GaussianMixture(random_state=0),
            log_dets={"functiontransformer": lambda x: np.zeros(len(x))},
        ).fit(table)


# -- outside of domain and image ----------------------------------------------------------------------------


def test_rows_outside_of_the_domain_have_no_density(table):
    pipeline = make_density_pipeline(PowerTransformer(method="box-cox"), GaussianMixture(random_state=0)).fit(
        table
    )
    rows = table[:4].copy()
    rows[1, 0] = -1.0
    values = pipeline.score_samples(rows)
    assert values[1] == -np.inf
    np.testing.assert_allclose(values[[0, 2, 3]], pipeline.score_samples(table[[0, 2, 3]]))
    assert (pipeline.score_samples(-table) == -np.inf).all()

    pipeline = make_density_pipeline(
        QuantileTransformer(n_quantiles=50), GaussianMixture(random_state=0)
    ).fit(table)
    assert np.isfinite(pipeline.score_samples(table)).all()
    beyond = np.array([table.mean(axis=0)])
    beyond[0, 2] = table[:, 2].max() + 1e-6
    assert pipeline.score_samples(beyond)[0] == -np.inf


def test_draws_outside_of_the_image_are_drawn_again():
    x = np.random.default_rng(0).normal(size=(500, 1))
    pipeline = make_density_pipeline(FunctionTransformer(np.exp), GaussianMixture(random_state=0)).fit(x)
    drawn = pipeline.sample(1000, random_state=0)
    assert np.isfinite(drawn).all()
    uniform = make_density_pipeline(QuantileTransformer(n_quantiles=50), GaussianMixture(random_state=0)).fit(
        x
    )
    drawn = uniform.sample(1000, random_state=0)
    assert len(np.unique(drawn)) == 1000  # none was clipped to an end
    assert drawn.min() > x.min()
    assert drawn.max() < x.max()


def test_a_density_outside_of_the_image_gives_up_and_says_so():
    class Below(GaussianMixture):
        def sample(self, n_samples=1):
            X, labels = super().sample(n_samples)
            return -np.abs(X), labels

    x = np.random.default_rng(0).normal(size=(50, 1))
    pipeline = make_density_pipeline(FunctionTransformer(np.exp), Below(random_state=0)).fit(x)
    with pytest.raises(ValueError, match="only 0 of 5 rows after 100 draws"):
        pipeline.sample(5)


# -- an estimator like others -------------------------------------------------------------------------------


def test_frames_and_arrays_agree(frame, table):
    pipeline = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    of_frame, of_array = clone(pipeline).fit(frame), clone(pipeline).fit(table)
    np.testing.assert_allclose(of_frame.score_samples(frame), of_array.score_samples(table), rtol=1e-12)
    assert list(of_frame.feature_names_in_) == NAMES
    assert isinstance(of_array.sample(3), np.ndarray)
    np.testing.assert_allclose(of_frame.sample(3, random_state=1), of_array.sample(3, random_state=1))
    with pytest.raises(ValueError, match="feature names should match"):
        of_frame.score_samples(frame[["b", "a", "c"]])
    numbered = pd.DataFrame(table)
    assert list(clone(pipeline).fit(numbered).sample(2).columns) == [0, 1, 2]
    assert clone(pipeline).fit(frame.astype(np.float32)).sample(2)["a"].dtype == np.float32


def test_steps_that_return_frames(frame):
    scaler = StandardScaler().set_output(transform="pandas")
    columns = ColumnTransformer([("a", MinMaxScaler(), ["a"])], remainder="passthrough")
    pipeline = make_density_pipeline(scaler, columns, GaussianMixture(random_state=0)).fit(frame)
    expected = make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(frame)
    assert pipeline.score(frame) == pytest.approx(expected.score(frame), abs=0.01)
    assert list(pipeline.sample(4).columns) == NAMES


def test_draws_of_a_flow_that_returns_frames(frame):
    flow = InterpolantFlow(max_iter=3, polish=0, velocity=MLP(width=8), random_state=0)
    flow.set_output(transform="pandas")
    pipeline = make_density_pipeline(StandardScaler(), flow).fit(frame)
    assert list(pipeline.sample(4, random_state=0).columns) == NAMES


def test_parameters_reach_into_the_steps(table):
    pipeline = make_density_pipeline(StandardScaler(), StandardScaler(), InterpolantFlow())
    assert [name for name, _ in pipeline.steps] == ["standardscaler-1", "standardscaler-2", "interpolantflow"]
    pipeline.set_params(interpolantflow__velocity__width=8, **{"standardscaler-2": "passthrough"})
    assert pipeline.get_params()["interpolantflow__velocity__width"] == 8
    pipeline.set_params(interpolantflow=GaussianMixture(random_state=0)).fit(table)
    assert isinstance(pipeline.density_, GaussianMixture)
    assert not hasattr(pipeline.steps[-1][1], "means_")  # clones are fitted
    assert pipeline.named_steps_["standardscaler-2"] == "passthrough"
    assert "StandardScaler" in repr(pipeline)
    assert "StandardScaler" in pipeline._repr_html_()


def test_round_trip_by_pickle(frame):
    pipeline = make_density_pipeline(columns_of_steps(), Whiten(), GaussianMixture(random_state=0)).fit(frame)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.score_samples(frame), pipeline.score_samples(frame))


def test_weights_are_repetition(table):
    weight = np.random.default_rng(0).integers(1, 4, size=len(table))
    pipeline = make_density_pipeline(StandardScaler(), Standardize(), KernelDensity())
    weighted = clone(pipeline).fit(table, sample_weight=weight)
    repeated = clone(pipeline).fit(np.repeat(table, weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(table), repeated.score_samples(table), rtol=1e-9)
    mean = np.average(weighted.score_samples(table), weights=weight)
    assert weighted.score(table, sample_weight=weight) == pytest.approx(mean)
    with pytest.raises(TypeError, match=r"'gaussianmixture': GaussianMixture.fit takes no sample_weight"):
        make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)).fit(
            table, sample_weight=weight
        )
    with pytest.raises(ValueError, match="at least one non-zero"):
        clone(pipeline).fit(table, sample_weight=0 * weight)


def test_frozen_steps_are_not_fitted_again(table):
    frozen = FrozenEstimator(StandardScaler().fit(table * 2))
    pipeline = make_density_pipeline(frozen, GaussianMixture(random_state=0)).fit(table)
    density = make_density_pipeline(GaussianMixture(random_state=0)).fit(table)
    assert pipeline.score(table) == pytest.approx(density.score(table), abs=0.01)
    np.testing.assert_allclose(pipeline.steps_[0][1].mean_, 2 * table.mean(axis=0))


def test_our_map_makes_a_mixture_better(table):
    plain = make_density_pipeline(StandardScaler(), GaussianMixture(1, random_state=0)).fit(table)
    mapped = make_density_pipeline(Gaussianize(density=False), GaussianMixture(1, random_state=0)).fit(table)
    assert mapped.score(table) > plain.score(table) + 0.1
