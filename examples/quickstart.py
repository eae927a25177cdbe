"""The main job on a real table: fit, compare on held-out rows, sample, transform, search, and one picture.

The table: eight measurements of 569 breast tumours, bundled with scikit-learn. Of the ten columns of means
the two with exact zeros are left out: a density has no place for atoms. Run it by ``make demo``.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.neighbors import KernelDensity

from siflow_sk import InterpolantFlow
from siflow_sk.exceptions import DataWarning
from siflow_sk.velocities import MLP

COLUMNS = "radius, texture, perimeter, area, smoothness, compactness, symmetry, fractal dimension".split(", ")
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"  # Okabe & Ito: distinct to colour-blind readers


def load_table():
    """Eight continuous columns as a DataFrame."""
    table = load_breast_cancer(as_frame=True).data[[f"mean {name}" for name in COLUMNS]]
    return table.set_axis(COLUMNS, axis=1)


def fit_rivals(X_train):
    """Name -> (function that returns the log-density of every row in the units of X, what was chosen).

    All three see whitened rows, which suits them better than raw or standardised ones, and the
    log-determinant is counted. Cross-validation on the training rows chooses bandwidth and components.
    """
    whiten = PCA(whiten=True).fit(X_train)
    log_det = -0.5 * np.log(whiten.explained_variance_).sum()
    cv = KFold(5, shuffle=True, random_state=0)
    mixture = GaussianMixture(reg_covar=1e-3, n_init=2, random_state=0)
    searches = {
        "full Gaussian": GridSearchCV(mixture, {"n_components": [1]}, cv=cv),
        "KernelDensity": GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.1, 2.0, 16)}, cv=cv),
        "GaussianMixture": GridSearchCV(mixture, {"n_components": [1, 2, 3, 4, 5, 6, 8]}, cv=cv),
    }
    rivals = {}
    for name, search in searches.items():
        model = search.fit(whiten.transform(X_train)).best_estimator_
        chosen = ", ".join(f"{key}={value:.3g}" for key, value in search.best_params_.items())
        rivals[name] = (lambda X, model=model: model.score_samples(whiten.transform(X)) + log_det, chosen)
    return rivals


def print_comparison(flow, rivals, X_test):
    """Held-out mean log-densities, and how sure the difference to the flow is."""
    ours = flow.score_samples(X_test)
    print(f"\nMean log-density of {len(X_test)} held-out rows, nats per row, higher is better")
    print(f"{'':<17}{'mean':>6}   flow minus it   chosen by cross-validation")
    print(f"{'InterpolantFlow':<17}{ours.mean():6.2f}")
    for name, (log_density, chosen) in rivals.items():
        theirs = log_density(X_test)
        difference = ours - theirs
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        print(f"{name:<17}{theirs.mean():6.2f}   {difference.mean():+5.2f} ± {error:.2f}    {chosen}")
    print("± is one standard error over these rows.")


def search_interpolants(X_train):
    """Short fits are enough to compare paths."""
    search = GridSearchCV(
        InterpolantFlow(max_iter=100, polish=30, velocity=MLP(width=64), random_state=0),
        {"interpolant": ["linear", "trigonometric"]},
        cv=KFold(2, shuffle=True, random_state=0),
        refit=False,
    ).fit(X_train)
    print("\nGridSearchCV over interpolants: short fits, mean log-density of 2 folds")
    results = search.cv_results_
    for parameters, mean in zip(results["params"], results["mean_test_score"], strict=True):
        print(f"{parameters['interpolant']:<17}{mean:6.2f}")


def draw(flow, X, path):
    """Data beside samples, and the training curve."""
    plt.rcParams.update({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", width_ratios=[1, 1, 1.2])
    across, up = COLUMNS.index("radius"), COLUMNS.index("fractal dimension")
    new = flow.sample(len(X), random_state=1)
    for axis, rows, colour, title in [
        (axes[0], X.to_numpy(), BLUE, f"data: {len(X)} rows"),
        (axes[1], new, ORANGE, f"samples: {len(new)} new rows"),
    ]:
        axis.scatter(rows[:, across], rows[:, up], s=14, color=colour, alpha=0.6, linewidths=0)
        axis.set(title=title, xlabel="radius", ylabel="fractal dimension")
    axes[1].sharex(axes[0])
    axes[1].sharey(axes[0])
    axes[1].label_outer()

    history = flow.history_
    start = history.loc[history.stage == "quadratic", "iteration"].max()
    axes[2].plot(history.iteration, history.score, color=BLUE, marker="o", markersize=3.5)
    axes[2].axvline(start, color=GREY, linestyle="--", linewidth=1)
    axes[2].text(start, history.score.min(), " polish\n starts", color=GREY, va="bottom")
    best = flow.best_iteration_, flow.best_validation_score_
    axes[2].plot(
        *best, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=2
    )
    axes[2].annotate("kept", best, (0, 9), textcoords="offset points", color=ORANGE, ha="center")
    axes[2].margins(y=0.12)
    axes[2].set(title="training", xlabel="iteration", ylabel="validation log-density (nats)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "docs" / "images" / "quickstart.png"
    parser.add_argument("--output", type=Path, default=default, help="where the picture goes")
    output = parser.parse_args().output
    begin = time.perf_counter()

    X = load_table()
    X_train, X_test = train_test_split(X, test_size=0.25, random_state=0)
    print(f"breast_cancer: {len(X_train)} training rows, {len(X_test)} test rows, {X.shape[1]} columns")

    flow = InterpolantFlow(random_state=0, verbose=1).fit(X_train)
    print(f"fitted in {time.perf_counter() - begin:.0f} s, {flow.n_iter_} iterations, on {flow.device_}")
    print_comparison(flow, fit_rivals(X_train), X_test)

    print(f"\nThree new rows: {', '.join(COLUMNS)}")
    print(np.array2string(flow.sample(3, random_state=0), precision=3, suppress_small=True))
    back = flow.inverse_transform(flow.transform(X_test))
    error = (np.abs(back - X_test) / X_train.std()).to_numpy().max()
    print(f"\nRound trip data -> latent -> data: largest error {error:.0e} standard deviations")

    search_interpolants(X_train)
    draw(flow, X, output)
    print(f"\nPicture: {os.path.relpath(output)}; {time.perf_counter() - begin:.0f} s in total")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the folds of the search are small, and it says so
        main()
