"""
A density that moves
====================

Two moons, the density that is learnt, and the motion that carries the base into it. ``score_samples`` takes
a time: 0 is the base, 1 the data. ``velocity_field`` is the right-hand side of the differential equation; a
few classical Runge-Kutta steps follow it backwards from rows to the base.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP

X, _ = make_moons(1000, noise=0.08, random_state=0)
flow = InterpolantFlow(
    preprocessor="standardize", velocity=MLP(width=64), max_iter=600, polish=200, random_state=0
)
flow.fit(X)

# %%
# The density at three times
# --------------------------
# Columns are only standardised here, so the base is a round Gaussian in the units of the table. (The default
# preprocessor would also make every column normal by itself, and leave less to see.)

a, b = np.meshgrid(np.linspace(-1.6, 2.6, 70), np.linspace(-1.1, 1.6, 50))
grid = np.column_stack([a.ravel(), b.ravel()])
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained", sharey=True)
for axis, t in zip(axes, [0.0, 0.5, 1.0], strict=True):
    density = np.exp(flow.score_samples(grid, t=t)).reshape(a.shape)
    axis.imshow(density, origin="lower", extent=(-1.6, 2.6, -1.1, 1.6), cmap="cividis", aspect="auto")
    axis.set_title(f"t = {t:g}")
axes[2].scatter(*X[::5].T, s=3, color="white", alpha=0.7, linewidths=0)
plt.show()

# %%
# It integrates to one, up to what lies outside of the picture:

print(f"{density.sum() * (a[0, 1] - a[0, 0]) * (b[1, 0] - b[0, 0]):.3f}")

# %%
# The paths of some rows
# ----------------------


def backwards(points, n_steps=16):
    """Positions at times 1, ..., 0 by the classical Runge-Kutta method."""
    path, h = [points], -1.0 / n_steps
    for t in np.linspace(1.0, 0.0, n_steps, endpoint=False):
        x, middle, end = path[-1], t + 0.5 * h, max(t + h, 0.0)
        k1 = flow.velocity_field(t, x)
        k2 = flow.velocity_field(middle, x + 0.5 * h * k1)
        k3 = flow.velocity_field(middle, x + 0.5 * h * k2)
        k4 = flow.velocity_field(end, x + h * k3)
        path.append(x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4))
    return np.stack(path)  # (n_steps + 1, n, 2)


paths = backwards(X[:60])
figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
axis.plot(paths[:, :, 0], paths[:, :, 1], color="#999999", linewidth=0.8)
axis.scatter(*paths[-1].T, s=16, color="#D55E00", label="t = 0, base", zorder=3)
axis.scatter(*paths[0].T, s=16, color="#0072B2", label="t = 1, data", zorder=3)
axis.legend(frameon=False)
plt.show()
