"""The main job on a real table: fit, compare on held-out rows, sample, transform, search, and one picture.

The table: eight measurements of 569 breast tumours, bundled with scikit-learn (of the ten columns of means, the two
with exact zeros are left out: a density has no place for atoms).  Run from the repository: ``make demo``.
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
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.neighbors import KernelDensity

from siflow_sk import InterpolantFlow
from siflow_sk.exceptions import DataWarning
from siflow_sk.velocities import MLP

COLUMNS = [
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "symmetry",
    "fractal dimension",
]
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"  # Okabe & Ito: distinct to colour-blind readers


def load_table():
    """Eight continuous columns as a DataFrame."""
    table = load_breast_cancer(as_frame=True).data
    return table[[f"mean {name}" for name in COLUMNS]].rename(columns=lambda name: name.removeprefix("mean "))


def fit_rivals(X_train):
    """Name -> (function that returns the log-density of every row, in the units of X; what was chosen).

    All three work on whitened rows, which suits them better than raw or standardised ones; the
    log-determinant is counted.  Cross-validation on the training rows chooses bandwidth and components.
    """
    whiten = PCA(whiten=True).fit(X_train)
    log_det = -0.5 * np.log(whiten.explained_variance_).sum()
    Z = whiten.transform(X_train)
    cv = KFold(5, shuffle=True, random_state=0)
    mixture = GaussianMixture(reg_covar=1e-3, n_init=2, random_state=0)
    searches = {
        "full Gaussian": GridSearchCV(mixture, {"n_components": [1]}, cv=cv),
        "KernelDensity": GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.1, 2.0, 16)}, cv=cv),
        "GaussianMixture": GridSearchCV(mixture, {"n_components": [1, 2, 3, 4, 5, 6, 8]}, cv=cv),
    }
    rivals = {}
    for name, search in searches.items():
        model = search.fit(Z).best_estimator_
        chosen = (
            ""
            if name == "full Gaussian"
            else ", ".join(f"{k} {v:.3g}" for k, v in search.best_params_.items())
        )
        rivals[name] = (lambda X, model=model: model.score_samples(whiten.transform(X)) + log_det, chosen)
    return rivals


def print_comparison(flow, rivals, X_test):
    """Held-out mean log-densities, and how sure the difference to the flow is."""
    ours = flow.score_samples(X_test)
    print(f"\nHeld-out mean log-density, nats per row, {len(X_test)} rows (higher is better)")
    print(f"{'':<18}{'mean':>8}   {'flow ahead by':<16}chosen by cross-validation")
    print(f"{'InterpolantFlow':<18}{ours.mean():8.2f}")
    for name, (log_density, chosen) in rivals.items():
        ahead = ours - log_density(X_test)
        error = ahead.std(ddof=1) / np.sqrt(len(ahead))
        print(
            f"{name:<18}{log_density(X_test).mean():8.2f}   {f'{ahead.mean():.2f} ± {error:.2f}':<16}{chosen}"
        )
    print("(± is one standard error over these rows; another split moves the figures by about as much)")


def search_interpolants(X_train):
    """Short fits are enough to compare paths."""
    search = GridSearchCV(
        InterpolantFlow(max_iter=150, polish=50, velocity=MLP(width=64), random_state=0),
        {"interpolant": ["linear", "trigonometric"]},
        cv=KFold(3, shuffle=True, random_state=0),
        refit=False,
    )
    search.fit(X_train)
    print("\nGridSearchCV over interpolants, short fits, mean log-density of 3 folds")
    results = search.cv_results_
    for parameters, mean in zip(results["params"], results["mean_test_score"], strict=True):
        print(f"{parameters['interpolant']:<18}{mean:8.2f}")


def draw(flow, X, path):
    """Data beside samples, and the training curve."""
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.0), layout="constrained", width_ratios=[1, 1, 1.15])
    new = flow.sample(len(X), random_state=1)
    for axis, rows, colour, title in [
        (axes[0], X.to_numpy(), BLUE, f"data: {len(X)} rows"),
        (axes[1], new, ORANGE, f"samples: {len(new)} new rows"),
    ]:
        j, k = COLUMNS.index("radius"), COLUMNS.index("fractal dimension")
        axis.scatter(rows[:, j], rows[:, k], s=12, color=colour, alpha=0.6, linewidths=0)
        axis.set(title=title, xlabel="radius")
    axes[0].set_ylabel("fractal dimension")
    axes[1].sharex(axes[0])
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)

    history = flow.history_
    start = history.loc[history.stage == "quadratic", "iteration"].max()
    axes[2].plot(history.iteration, history.score, color=BLUE, marker="o", markersize=3)
    axes[2].axvline(start, color=GREY, linestyle="--", linewidth=1)
    axes[2].annotate(
        "polish starts",
        (start, 0.05),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        color=GREY,
    )
    axes[2].set(
        title="training",
        xlabel="iteration",
        ylabel="validation log-density (nats)",
        ylim=np.quantile(history.score, [0.1, 1.0]) + [-0.5, 0.2],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main():
    """Run all of it; about a minute on two cores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "docs" / "images" / "quickstart.png"
    parser.add_argument("--output", type=Path, default=default, help="where the picture goes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: more threads gain little and quarrel on a busy machine
    begin = time.perf_counter()

    X = load_table()
    X_train, X_test = train_test_split(X, test_size=0.25, random_state=0)
    print(f"breast_cancer: {len(X_train)} training rows, {len(X_test)} test rows, {X.shape[1]} columns")

    # half the default width and fewer steps, so that the demo takes a minute; InterpolantFlow() does a little better
    flow = InterpolantFlow(velocity=MLP(width=128), max_iter=300, polish=300, random_state=0, verbose=1).fit(
        X_train
    )
    print(f"fitted in {time.perf_counter() - begin:.0f} s, {flow.n_iter_} iterations, on {flow.device_}")
    print_comparison(flow, fit_rivals(X_train), X_test)

    new = flow.sample(3, random_state=0)
    print("\nThree new rows:", ", ".join(COLUMNS))
    print(np.array2string(new, precision=3, suppress_small=True))
    back = flow.inverse_transform(flow.transform(X_test))
    error = np.abs(back - X_test.to_numpy()).max(axis=0) / X_train.std().to_numpy()
    print(f"\nRound trip data -> latent -> data: largest error {error.max():.1e} standard deviations")

    search_interpolants(X_train)
    draw(flow, X, arguments.output)
    print(f"\nPicture: {os.path.relpath(arguments.output)}; {time.perf_counter() - begin:.0f} s in total")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        main()
