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


transport = InterpolantTransport(source_density=Known(), velocity=MLP(width=64), max_iter=500, random_state=0)
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
# ``path`` gives the rows at any times between.  The lines are nearly straight and do not cross, as those of
# optimal transport do not.

times = np.linspace(0.0, 1.0, 21)
path = transport.path(source[:150], times)
figure, axis = plt.subplots(figsize=(6, 5), layout="constrained")
axis.plot(*path.transpose(2, 0, 1), color="0.7", linewidth=0.7, zorder=0)
axis.scatter(*path[0].T, s=10, color="#0072B2", label="t = 0")
axis.scatter(*path[10].T, s=10, color="#009E73", label="t = 0.5")
axis.scatter(*path[-1].T, s=10, color="#D55E00", label="t = 1")
axis.set(aspect="equal")
axis.legend()
plt.show()

# %%
# The density of the target from that of the source
# -------------------------------------------------
# The density of the eight Gaussians is known here, so the flow gives one of the moons.

a, b = np.meshgrid(np.linspace(-4.5, 7.5, 60), np.linspace(-3.5, 5.0, 42))
grid = np.column_stack([a.ravel(), b.ravel()])
figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained", sharex=True, sharey=True)
for axis, t in zip(axes, [0.0, 0.5, 1.0], strict=True):
    density = np.exp(transport.score_samples(grid, t=t)).reshape(a.shape)
    axis.imshow(density, origin="lower", extent=(-4.5, 7.5, -3.5, 5.0), cmap="cividis")
    axis.set_title(f"t = {t:g}")
plt.show()
