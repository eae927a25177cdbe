"""
From one table to another, and back
===================================

Eight clusters are carried into two moons by one fit, and the moons back into the clusters.  Nobody says
which row belongs to which: optimal transport inside each batch pairs them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import BaseEstimator

from siflow_sk import InterpolantTransport
from siflow_sk.datasets import EightGaussians, make_eight_gaussians, make_moons
from siflow_sk.plotting import PathDisplay
from siflow_sk.velocities import MLP

source = make_eight_gaussians(2000, random_state=0)
target = 3.0 * make_moons(1500, random_state=0)


class Known(BaseEstimator):
    """The density of the source, for the last picture; the maps do not need it."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def score_samples(self, X):
        return EightGaussians().score_samples(X)


transport = InterpolantTransport(
    source_density=Known(),
    velocity=MLP(width=64),
    learning_rate_init=0.01,
    weight_decay=0.0,
    max_iter=500,
    random_state=0,
)
transport.fit(source, target)

# %%
# Both maps
# ---------
# Colours stay with the rows: by the angle of the cluster on top, by the moon below.


def panel(axis, X, colour, title):
    axis.scatter(*X.T, c=colour, s=5, cmap="twilight_shifted", linewidths=0)
    axis.set(title=title, aspect="equal")


angle = np.arctan2(source[:, 1], source[:, 0])
side = target[:, 0]
figure, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained")
panel(axes[0, 0], source, angle, "source")
panel(axes[0, 1], transport.transform(source), angle, "transform(source)")
panel(axes[1, 0], target, side, "target")
panel(axes[1, 1], transport.inverse_transform(target), side, "inverse_transform(target)")
plt.show()

# %%
# On the way
# ----------
# The rows of the source, followed to the target.  The lines are nearly straight and do not cross, as those of
# optimal transport do not.

display = PathDisplay.from_estimator(transport, source[:150])
display.ax_.set(aspect="equal")
plt.show()

# %%
# The density of the target from that of the source
# -------------------------------------------------
# The density of the eight Gaussians is known here, so the flow gives one of the moons.

PathDisplay.from_estimator(transport, source[:500], kind="density", times=[0.0, 0.25, 0.5, 0.75, 1.0])
plt.show()
