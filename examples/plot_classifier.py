"""
A wine that is neither
======================

178 wines from three growers, with their chemistry.  A classifier that knows two of the growers has to name
one of them for every bottle, also for one from the third.  :class:`~siflow_sk.InterpolantClassifier` has a
density for each grower: by Bayes' rule it gives probabilities as well, and the density itself says when a
bottle looks like neither.  Beside it logistic regression, and the simplest density there is for each class, a
single normal one (quadratic discriminant analysis).
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from siflow_sk import InterpolantClassifier, InterpolantFlow
from siflow_sk.exceptions import DataWarning, TrainingWarning
from siflow_sk.preprocessing import Gaussianize
from siflow_sk.velocities import MLP

for kind in (DataWarning, TrainingWarning):  # few rows and few steps, and fit says so
    warnings.simplefilter("ignore", kind)

wine = load_wine(as_frame=True)
known = wine.target > 0  # the second and the third grower


def models():
    """Unfitted, by name."""
    flow = InterpolantFlow(
        preprocessor=Gaussianize(density=False),  # the values repeat, so no kernel density of each column
        velocity=MLP(width=32),
        max_iter=100,
        polish=0,
        random_state=0,
    )
    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression()),
        "normal densities": InterpolantClassifier(GaussianMixture(random_state=0)),
        "flows": InterpolantClassifier(flow),
    }


# %%
# Two columns, for the eye. Colours are the probability of the third grower; the wines of the first, which no
# model has seen, are the crosses. Logistic regression is sure of them. Of the flows only the region is drawn
# where the density is above that of 95 % of the training wines: the others look like neither.

columns = ["flavanoids", "color_intensity"]
X, y, strange = wine.data[known][columns], wine.target[known], wine.data[~known][columns]
fitted = {name: model.fit(X, y) for name, model in models().items()}
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharex=True, sharey=True)
for axis, name in zip(axes, ["logistic regression", "flows"], strict=True):
    display = DecisionBoundaryDisplay.from_estimator(
        fitted[name],
        wine.data[columns],
        response_method="predict_proba",
        class_of_interest=2,
        plot_method="pcolormesh",
        cmap="coolwarm",
        alpha=0.6,
        grid_resolution=80,
        ax=axis,
    )
    axis.set_title(name)
grid = pd.DataFrame(np.column_stack([display.xx0.ravel(), display.xx1.ravel()]), columns=columns)
log_density = fitted["flows"].score_samples(grid).reshape(display.xx0.shape)
limit = np.quantile(fitted["flows"].score_samples(X), 0.05)
axes[1].contourf(display.xx0, display.xx1, log_density, levels=[-np.inf, limit], colors="white")
for axis in axes:
    for rows, style in [
        (X[y == 1], {"color": "#0072B2", "label": "second grower"}),
        (X[y == 2], {"color": "#D55E00", "label": "third grower"}),
        (strange, {"color": "black", "marker": "x", "label": "first grower, not in the fit"}),
    ]:
        axis.scatter(*rows.to_numpy().T, s=14, **style)
axes[0].legend(loc="upper right")
axes[0].set(xlim=display.xx0[0, [0, -1]], ylim=display.xx1[[0, -1], 0])
plt.show()

# %%
# Now all thirteen columns, and each grower once in the part of the stranger.  Half of the wines of the two
# others are kept aside.  How many of those are given to the right grower; and, of a wine kept aside and one
# of the stranger, how often the stranger looks the stranger: by the probability that logistic regression
# gives to its choice, by the log-density of the two others.

X, y = wine.data, wine.target
print(f"{'stranger':<10}{'model':<22}{'right':>7}{'stranger found':>17}")
for stranger in range(3):
    known = y != stranger
    X_train, X_test, y_train, y_test = train_test_split(
        X[known], y[known], test_size=0.5, stratify=y[known], random_state=0
    )
    for name, model in models().items():
        model.fit(X_train, y_train)
        rows = pd.concat([X_test, X[~known]])
        if isinstance(model, InterpolantClassifier):
            familiar = model.score_samples(rows)
        else:
            familiar = model.predict_proba(rows).max(axis=1)
        found = roc_auc_score(np.arange(len(rows)) >= len(X_test), -familiar)
        print(f"{stranger:<10}{name:<22}{model.score(X_test, y_test):7.3f}{found:17.3f}")

# %%
# What finds the stranger is that there are densities at all: logistic regression knows a boundary, and far
# from it is sure. Which density is a second question: with some thirty training wines of a grower neither
# kind is the better one for every stranger. More in :doc:`the guide </classification>`.
