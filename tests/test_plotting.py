"""Displays: what they draw is what the estimators say, at the right place; nothing else is touched."""

import ast
import itertools
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import quick
from oracles import BENT, NORMAL, TILTED
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from siflow_sk import (
    ConditionalInterpolantFlow,
    InterpolantFlow,
    InterpolantTransport,
    MixedDensity,
    make_density_pipeline,
    plotting,
)
from siflow_sk.datasets import Moons
from siflow_sk.plotting import DensityDisplay, PathDisplay, SamplesDisplay, TrainingDisplay
from siflow_sk.velocities import MLP

COVARIANCE = np.array([[1.0, 0.6, 0.3], [0.6, 2.0, -0.4], [0.3, -0.4, 0.5]])
MEAN = np.array([3.0, -1.0, 10.0])


class Normal(BaseEstimator):
    """A known density with nothing to learn, with the methods of scikit-learn's density estimators."""

    def __init__(self, mean=MEAN, covariance=COVARIANCE):
        self.mean = mean
        self.covariance = covariance

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        return multivariate_normal(self.mean, self.covariance).logpdf(np.asarray(X)).reshape(len(X))

    def sample(self, n_samples=1, random_state=None):
        rng = np.random.default_rng(random_state)
        return rng.multivariate_normal(self.mean, self.covariance, size=n_samples)


@pytest.fixture(autouse=True)
def _figures_closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def known():
    """The density, and rows of it."""
    law = Normal()
    X = law.sample(200, random_state=0)
    return law.fit(X), X


@pytest.fixture(scope="module")
def transport():
    return InterpolantTransport(velocity=MLP(width=8), max_iter=5, batch_size=32, random_state=0).fit(
        np.concatenate([law.sample(40, seed=k) for k, law in enumerate((NORMAL, BENT, TILTED))]),
        np.repeat([0.0, 1.0, 3.0], 40),
    )


# -- matplotlib, imported late ------------------------------------------------------------------------------


def test_matplotlib_is_imported_inside_of_functions_only():
    found = []
    for path in Path(plotting.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom) and "matplotlib" in ast.unparse(node):
                found.append(path.name)
    assert found == []


def test_without_matplotlib_the_extra_is_named(moons_flow, moons, monkeypatch):
    made = [
        TrainingDisplay.from_estimator(moons_flow),
        DensityDisplay.from_estimator(moons_flow, moons, grid_resolution=5),
        SamplesDisplay.from_estimator(moons_flow, moons, n_samples=5),
        PathDisplay.from_estimator(moons_flow, moons[:2], times=3),
    ]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in made:
        name = type(display).__name__
        with pytest.raises(ImportError, match=rf'{name}\.plot requires .*pip install "siflow_sk\[plot\]"'):
            display.plot()
        rows = [] if isinstance(display, TrainingDisplay) else [moons]
        with pytest.raises(ImportError, match=rf"{name}\.from_estimator requires matplotlib"):
            type(display).from_estimator(moons_flow, *rows)


# -- training -----------------------------------------------------------------------------------------------


def points(line):
    return np.column_stack(line.get_data())


def test_the_record_of_training(moons_flow):
    display = TrainingDisplay.from_estimator(moons_flow)
    loss, validation, polish = display.axes_
    n, m = len(moons_flow.loss_curve_), len(moons_flow.polish_loss_curve_)
    np.testing.assert_array_equal(points(loss.lines[0])[:, 1], moons_flow.loss_curve_)
    np.testing.assert_array_equal(points(loss.lines[0])[:, 0], np.arange(1, n + 1))
    np.testing.assert_array_equal(points(polish.lines[0])[:, 1], moons_flow.polish_loss_curve_)
    np.testing.assert_array_equal(points(polish.lines[0])[:, 0], np.arange(n + 1, n + m + 1))
    lines = {line.get_label(): points(line) for line in validation.lines}
    assert set(lines) == {"quadratic", "polish", "kept"}
    checks = moons_flow.history_
    for stage in ("quadratic", "polish"):
        wanted = checks.loc[checks["stage"] == stage, ["iteration", "score"]].to_numpy()
        np.testing.assert_array_equal(lines[stage], wanted)
    best = [[moons_flow.best_iteration_, moons_flow.best_validation_score_]]
    np.testing.assert_array_equal(lines["kept"], best)


def test_the_thick_line_is_the_mean_of_the_last_twentieth():
    losses = np.random.default_rng(0).normal(size=60).tolist()
    display = TrainingDisplay(losses={"": losses}).plot(color="red")
    thick = display.ax_.lines[1]
    assert thick.get_color() == "red"
    np.testing.assert_allclose(points(thick)[0], [3, np.mean(losses[:3])])
    np.testing.assert_allclose(points(thick)[-1], [60, np.mean(losses[-3:])])


def test_a_transport_has_a_loss_for_every_segment(transport):
    display = TrainingDisplay.from_estimator(transport)
    (axis,) = display.axes_
    drawn = [points(line)[:, 1] for line in axis.lines[::2]]
    np.testing.assert_array_equal(drawn, transport.loss_curves_)
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["t from 0 to 1", "t from 1 to 3"]


def test_training_without_validation_has_one_panel(moons):
    flow = quick(early_stopping=False, max_iter=3).fit(moons)
    assert len(TrainingDisplay.from_estimator(flow).axes_) == 1


def test_a_record_is_wanted(moons, known):
    pipeline = make_density_pipeline(StandardScaler(), quick(max_iter=2, polish=0)).fit(moons)
    assert TrainingDisplay.from_estimator(pipeline.density_).axes_.size == 2
    with pytest.raises(TypeError, match=r"DensityPipeline keeps no record of training; .*pipeline\.density_"):
        TrainingDisplay.from_estimator(pipeline)
    for unfitted in (InterpolantFlow(), ConditionalInterpolantFlow(), InterpolantTransport()):
        with pytest.raises(NotFittedError):
            TrainingDisplay.from_estimator(unfitted)


# -- densities ----------------------------------------------------------------------------------------------


def test_a_density_is_at_its_place(known):
    """Of three columns, the second along the horizontal axis and the first along the vertical one."""
    law, X = known
    at = [0.0, 0.0, 9.5]
    display = DensityDisplay.from_estimator(law, X, features=[1, "x0"], at=at, grid_resolution=7)
    mesh = display.artist_
    places, drawn = mesh.get_coordinates(), np.reshape(mesh.get_array(), (7, 7))
    assert places.shape == (7, 7, 2)
    for i, j in itertools.product(range(7), range(7)):
        x1, x0 = places[i, j]
        wanted = multivariate_normal(MEAN, COVARIANCE).pdf([x0, x1, 9.5])
        assert drawn[i, j] == pytest.approx(wanted, rel=1e-9)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("x1", "x0")
    assert display.held == {"x2": 9.5}
    assert display.figure_ is display.ax_.figure


def test_a_density_of_two_columns_integrates_to_one():
    law = Normal(MEAN[:2], COVARIANCE[:2, :2])
    display = DensityDisplay.from_estimator(law.fit(MEAN[None, :2]), law.sample(500, random_state=0))
    cell = np.prod([values[1] - values[0] for values in display.values])
    assert np.exp(display.log_density).sum() * cell == pytest.approx(1.0, abs=0.01)
    assert display.held == {}


def test_a_density_that_has_nothing_to_fit(moons):
    display = DensityDisplay.from_estimator(Moons(), moons, grid_resolution=5)
    grid = np.column_stack([axis.ravel() for axis in np.meshgrid(*display.values)])
    np.testing.assert_array_equal(display.log_density.ravel(), Moons().score_samples(grid))


def test_one_column_is_a_line(known):
    law, X = known
    display = DensityDisplay.from_estimator(law, X, features=2, grid_resolution=9, color="red")
    middle = [np.sort(X[:, j])[99] for j in range(2)]  # the lower median of 200 rows
    assert display.held == {"x0": middle[0], "x1": middle[1]}
    for x, y in points(display.artist_):
        assert y == pytest.approx(multivariate_normal(MEAN, COVARIANCE).pdf([*middle, x]), rel=1e-9)
    low, high = X[:, 2].min(), X[:, 2].max()
    margin = 0.1 * (high - low)
    np.testing.assert_allclose(points(display.artist_)[[0, -1], 0], [low - margin, high + margin])
    assert display.artist_.get_color() == "red"


@pytest.mark.parametrize("plot_method", ["pcolormesh", "contourf", "contour"])
def test_ways_to_draw(known, plot_method):
    law, X = known
    _, ax = plt.subplots()
    display = DensityDisplay.from_estimator(
        law, X, features=[0, 1], grid_resolution=9, plot_method=plot_method, ax=ax
    )
    assert display.ax_ is ax
    assert display.artist_ in ax.get_children()
    assert display.artist_.get_cmap().name == "cividis"
    again = display.plot(plot_method="contour", colors="black")
    assert again is display
    assert display.ax_ is not ax


@pytest.mark.parametrize(
    "density",
    [
        GaussianMixture(2, random_state=0),
        KernelDensity(),
        make_density_pipeline(StandardScaler(), GaussianMixture(random_state=0)),
        quick(max_iter=2, polish=0),
    ],
    ids=lambda density: type(density).__name__,
)
def test_any_density_of_frames_and_arrays(density, moons):
    """No warning about column names: a frame is asked with frames, an array with arrays."""
    for X in (moons, pd.DataFrame(moons, columns=["a", "b"])):
        density.fit(X)
        display = DensityDisplay.from_estimator(density, X, grid_resolution=4)
        grid = np.column_stack([axis.ravel() for axis in np.meshgrid(*display.values)])
        rows = grid if X is moons else pd.DataFrame(grid, columns=["a", "b"])
        np.testing.assert_array_equal(display.log_density.ravel(), density.score_samples(rows))
        drawn = SamplesDisplay.from_estimator(density, X, n_samples=6, random_state=3)
        assert drawn.samples.shape == drawn.data.shape == (6, 2)
        assert drawn.names == display.names == (["x0", "x1"] if X is moons else ["a", "b"])


def test_columns_of_a_mixed_table(moons):
    """Whole numbers are drawn at whole numbers, and a category is held at the most frequent level."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"n": rng.poisson(4.0, 300), "x": moons[:, 0], "kind": ["b", "b", "a"] * 100})
    table = table.astype({"kind": "category"})
    density = MixedDensity(quick(max_iter=2, polish=0), n_draws=2, random_state=0).fit(table)
    display = DensityDisplay.from_estimator(density, table, features=["n", "x"], grid_resolution=30)
    np.testing.assert_array_equal(display.values[0], np.arange(table["n"].max() + 1.0))
    assert np.isfinite(display.log_density).all()
    assert display.held == {"kind": "b"}
    assert SamplesDisplay.from_estimator(density, table, features=["x", "n"], n_samples=5).names == ["x", "n"]
    with pytest.raises(ValueError, match=r"column 'kind' does not hold numbers"):
        SamplesDisplay.from_estimator(density, table)


def test_the_density_at_another_time(moons_flow, moons, known):
    display = DensityDisplay.from_estimator(moons_flow, moons, t=0.25, grid_resolution=5)
    grid = np.column_stack([axis.ravel() for axis in np.meshgrid(*display.values)])
    wanted = moons_flow.score_samples(grid, t=0.25)
    np.testing.assert_array_equal(display.log_density.ravel(), wanted)
    with pytest.raises(TypeError, match=r"Normal has the density of the data only, and none at t=0\.5"):
        DensityDisplay.from_estimator(*known, features=0, t=0.5)


def test_densities_that_cannot_be_drawn(known, moons):
    law, X = known
    cases = [
        ({}, r"X has 3 columns, of which no more than 2 can be drawn at once; pass features"),
        ({"features": [0, 1, 2]}, r"features: 1 to 2 different columns wanted"),
        ({"features": [0, 0]}, r"features: 1 to 2 different columns wanted"),
        ({"features": []}, r"features: 1 to 2 different columns wanted"),
        ({"features": "y"}, r"there is no column 'y'; the columns are \['x0', 'x1', 'x2'\]"),
        ({"features": 3}, r"there is no column 3"),
        ({"features": 0, "at": [1.0, 2.0]}, r"at: one value for each of the 3 columns wanted, got 2"),
        ({"features": 0, "plot_method": "imshow"}, r"plot_method must be one of .*got 'imshow'"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            DensityDisplay.from_estimator(law, X, **arguments)
    with pytest.raises(ValueError, match=r"column 'x0' is constant in X"):
        DensityDisplay.from_estimator(law, np.ones((5, 3)), features=0)
    with pytest.raises(TypeError, match=r"StandardScaler has no method score_samples, which DensityDisplay"):
        DensityDisplay.from_estimator(StandardScaler().fit(X), X)
    with pytest.raises(NotFittedError):
        DensityDisplay.from_estimator(InterpolantFlow(), moons)
    for display in (DensityDisplay, SamplesDisplay):
        with pytest.raises(TypeError, match=r"density of y for given X, not one of X, so \w+ cannot draw it"):
            display.from_estimator(ConditionalInterpolantFlow(), X)


# -- samples ------------------------------------------------------------------------------------------------


def test_data_below_the_diagonal_and_samples_above(known):
    law, X = known
    display = SamplesDisplay.from_estimator(law, X, features=[2, 0], random_state=4, s=9)
    samples = law.sample(200, random_state=4)
    assert display.axes_.shape == (2, 2)
    (below,), (above,) = display.axes_[1, 0].collections, display.axes_[0, 1].collections
    offsets = np.asarray(below.get_offsets())
    assert {tuple(row) for row in offsets} == {tuple(row) for row in X[:, [2, 0]]}
    np.testing.assert_array_equal(np.asarray(above.get_offsets()), samples[:, [0, 2]])
    assert set(below.get_sizes()) == {9}
    assert [axis.get_xlabel() for axis in display.axes_[1]] == ["x2", "x0"]
    assert [axis.get_ylabel() for axis in display.axes_[:, 0]] == ["x2", "x0"]


def test_histograms_are_densities(known):
    law, X = known
    display = SamplesDisplay.from_estimator(law, X, features=1, random_state=0)
    (axis,) = display.axes_.ravel()
    bars = [(p.get_height(), p.get_width()) for p in axis.patches if hasattr(p, "get_height")]
    assert sum(height * width for height, width in bars) == pytest.approx(1.0)


def test_no_more_rows_than_wanted(known):
    display = SamplesDisplay.from_estimator(*known, n_samples=50, random_state=0)
    assert display.data.shape == display.samples.shape == (50, 3)
    again = SamplesDisplay.from_estimator(*known, n_samples=50, random_state=0)
    np.testing.assert_array_equal(again.data, display.data)


def test_a_mixture_is_drawn_from_with_the_seed_and_left_as_it_was(moons):
    mixture = GaussianMixture(2, random_state=0).fit(moons)
    for density in (mixture, FrozenEstimator(mixture)):
        first, same, other = (
            SamplesDisplay.from_estimator(density, moons, random_state=seed).samples for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, same)
        assert (first != other).any()
    assert mixture.random_state == 0


def test_two_tables(transport):
    source, target = NORMAL.sample(30, seed=0), TILTED.sample(20, seed=1)
    display = SamplesDisplay.from_samples(target, transport.transform(source))
    np.testing.assert_array_equal(display.samples, transport.transform(source))
    with pytest.raises(ValueError, match=r"samples: 2 columns as in X wanted, got 1"):
        SamplesDisplay.from_samples(target, source[:, :1])
    with pytest.raises(ValueError, match=r"X has 9 columns, of which no more than 8 can be drawn"):
        SamplesDisplay.from_samples(np.eye(9), np.eye(9))
    with pytest.raises(TypeError, match="InterpolantTransport has no method sample"):
        SamplesDisplay.from_estimator(transport, target)


# -- paths --------------------------------------------------------------------------------------------------


def test_rows_on_their_way(moons_flow, moons):
    times = [0.0, 0.3, 1.0]
    display = PathDisplay.from_estimator(moons_flow, moons[:7], times=times, color="red")
    for t, rows in zip(times, display.paths, strict=True):
        np.testing.assert_allclose(rows, moons_flow.transport(moons[:7], 1.0, t), rtol=0, atol=1e-3)
    lines = [points(line) for line in display.ax_.lines]
    np.testing.assert_array_equal(lines, display.paths.transpose(1, 0, 2))
    assert {line.get_color() for line in display.ax_.lines} == {"red"}
    for marks, k in zip(display.ax_.collections, (0, -1), strict=True):
        np.testing.assert_array_equal(np.asarray(marks.get_offsets()), display.paths[k])


def test_rows_on_their_way_of_a_frame_with_names(moons):
    X = pd.DataFrame(moons[:20], columns=["a", "b"])
    flow = quick(max_iter=2, polish=0).fit(X).set_output(transform="pandas")
    display = PathDisplay.from_estimator(flow, X, times=3, features="b")
    assert display.names == ["b"]
    np.testing.assert_allclose(display.paths[-1, :, 0], X["b"], rtol=0, atol=1e-12)
    line = points(display.ax_.lines[4])
    np.testing.assert_array_equal(line, np.column_stack([[0.0, 0.5, 1.0], display.paths[:, 4, 0]]))


def test_a_transport_goes_from_its_source(transport):
    X = NORMAL.sample(5, seed=3)
    display = PathDisplay.from_estimator(transport, X)
    assert (display.times[0], display.times[-1], len(display.times)) == (0.0, 3.0, 41)
    np.testing.assert_array_equal(display.paths, transport.path(X, display.times))
    with pytest.raises(TypeError, match=r"no method score_samples, which PathDisplay with kind='density'"):
        PathDisplay.from_estimator(transport, X, kind="density")


def test_densities_in_a_strip(moons_flow, moons):
    display = PathDisplay.from_estimator(
        moons_flow, moons[:30], kind="density", times=[0.0, 0.5, 1.0], grid_resolution=6
    )
    assert [axis.get_title() for axis in display.axes_] == ["t = 0", "t = 0.5", "t = 1"]
    low, high = display.paths.min(axis=(0, 1)), display.paths.max(axis=(0, 1))
    for axis, t in zip(display.axes_, display.times, strict=True):
        (mesh,) = axis.collections
        places = mesh.get_coordinates()
        wanted = np.exp(moons_flow.score_samples(places.reshape(-1, 2), t=t))
        np.testing.assert_allclose(np.ravel(mesh.get_array()), wanted, rtol=1e-9)
        np.testing.assert_allclose(places[0, 0], low - 0.1 * (high - low))
        np.testing.assert_allclose(places[-1, -1], high + 0.1 * (high - low))


def test_the_density_of_one_column_over_time(moons):
    flow = quick(max_iter=2, polish=0).fit(moons[:, :1])
    display = PathDisplay.from_estimator(flow, moons[:30, :1], kind="density", times=4, grid_resolution=8)
    (mesh,) = display.ax_.collections
    x = display.densities[0].values[0]
    wanted = [np.exp(flow.score_samples(x[:, None], t=t)) for t in np.linspace(0.0, 1.0, 4)]
    np.testing.assert_array_equal(np.reshape(mesh.get_array(), (8, 4)), np.transpose(wanted))


def test_paths_that_cannot_be_drawn(moons_flow, moons, transport, known):
    for times in ([0.0], [0.5, 0.5], [-0.1, 1.0], [0.0, 1.1], [[0.0, 1.0]], 1):
        with pytest.raises(ValueError, match=r"times: two or more increasing ones in \[0, 1\] wanted"):
            PathDisplay.from_estimator(moons_flow, moons[:3], times=times)
    with pytest.raises(ValueError, match="kind must be 'particles' or 'density', got 'lines'"):
        PathDisplay.from_estimator(moons_flow, moons, kind="lines")
    with pytest.raises(ValueError, match="kind='density' draws all columns of a table of one or two"):
        PathDisplay.from_estimator(moons_flow, moons, kind="density", features=0)
    with pytest.raises(TypeError, match="Normal has no method transport, which PathDisplay needs"):
        PathDisplay.from_estimator(*known)


# -- places -------------------------------------------------------------------------------------------------


def test_panels_lie_inside_the_axes_that_were_given(moons_flow, moons):
    figure, axes = plt.subplots(1, 2)
    for display in (
        TrainingDisplay.from_estimator(moons_flow, ax=axes[0]),
        SamplesDisplay.from_estimator(moons_flow, moons, n_samples=5, ax=axes[1]),
    ):
        assert display.figure_ is figure
        bounds = display.ax_.get_position()
        for axis in display.axes_.ravel():
            place = axis.get_position()
            assert bounds.x0 - 1e-9 <= place.x0 < place.x1 <= bounds.x1 + 1e-9
            assert bounds.y0 - 1e-9 <= place.y0 < place.y1 <= bounds.y1 + 1e-9
    assert figure.legends == []
    free = plt.figure().add_axes((0.1, 0.1, 0.8, 0.8))
    with pytest.raises(ValueError, match=r"ax: TrainingDisplay\.plot draws 1 x 3 panels inside it"):
        TrainingDisplay.from_estimator(moons_flow, ax=free)
    one = TrainingDisplay(losses={"": [1.0, 2.0]}).plot(ax=free)
    assert one.ax_ is free
