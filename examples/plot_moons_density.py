"""
A density in the plane
======================

Two moons: how training went, the density that was learnt beside a mixture and a kernel density, and rows that
are drawn from it.  All pictures come from :mod:`siflow_sk.plotting`; the density and the samples of any
scikit-learn estimator can be drawn in the same way.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from siflow_sk import InterpolantFlow
from siflow_sk.datasets import Moons, make_moons
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.plotting import DensityDisplay, SamplesDisplay, TrainingDisplay
from siflow_sk.velocities import MLP

warnings.simplefilter("ignore", TrainingWarning)  # steps are few here, and fit says so

X, X_test = make_moons(1000, random_state=0), make_moons(1000, random_state=1)
flow = InterpolantFlow(
    preprocessor="standardize",
    velocity=MLP(width=64),
    learning_rate_init=0.01,
    weight_decay=0.0,
    max_iter=800,
    polish=300,
    random_state=0,
)
flow.fit(X)

# %%
# How training went
# -----------------
# Columns are only standardised here, so the base is a round Gaussian and the flow has all of the work to do.
# The quadratic loss has a floor, and its height says nothing; what counts is the panel in the middle. The
# polish goes on where the regression ends: its rate is too high at first, and falls when the validation score
# does; the best weights of all are kept.

TrainingDisplay.from_estimator(flow)
plt.show()

# %%
# Three densities
# ---------------
# Cross-validation chose the components of the mixture and the bandwidth. The moons have a density that is
# known, and the mean log-density of new rows has it as its limit: what is missing to it is the
# Kullback-Leibler divergence, in nats. In two columns and with so many rows the simpler ones are hard to
# beat; a flow is for tables where they are not.

rivals = {
    "mixture": GridSearchCV(GaussianMixture(random_state=0), {"n_components": [2, 4, 8, 12]}),
    "kernel density": GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.05, 0.5, 8)}),
}
densities = {name: search.fit(X).best_estimator_ for name, search in rivals.items()}
densities |= {"flow": flow, "truth": Moons()}
best = Moons().score(X_test)
figure, axes = plt.subplots(1, 4, figsize=(12, 2.9), layout="constrained", sharex=True, sharey=True)
for axis, (name, density) in zip(axes, densities.items(), strict=True):
    DensityDisplay.from_estimator(density, X, ax=axis, vmin=0.0, vmax=0.7)
    missing = best - density.score_samples(X_test).mean()
    axis.set_title(name if name == "truth" else f"{name}, {missing:.3f} nats short")
    axis.label_outer()
plt.show()

# %%
# Rows that were drawn
# --------------------
# Data below the diagonal, rows from the flow above it; where the model is right the picture is its own mirror
# image.

SamplesDisplay.from_estimator(flow, X, random_state=0)
plt.show()
