"""
From noise to data, and two ways to walk
========================================

The density at five times in a row, and rows drawn at the last of them by the flow and by a stochastic
equation that has the same densities.  The score that the second one needs comes from the velocity, which is
right for the field of the quadratic loss: so ``polish=0``.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP

X, _ = make_moons(1000, noise=0.08, random_state=0)
flow = InterpolantFlow(
    preprocessor="standardize", velocity=MLP(width=64), max_iter=800, polish=0, random_state=0
)
flow.fit(X)

# %%
# Densities
# ---------
# The arrows are the scores, the direction in which the log-density rises.

a, b = np.meshgrid(np.linspace(-1.6, 2.6, 60), np.linspace(-1.3, 1.8, 45))
grid = np.column_stack([a.ravel(), b.ravel()])
times = [0.0, 0.25, 0.5, 0.75, 1.0]
figure, axes = plt.subplots(1, 5, figsize=(13, 2.8), layout="constrained", sharey=True)
for axis, t in zip(axes, times, strict=True):
    density = np.exp(flow.score_samples(grid, t=t)).reshape(a.shape)
    axis.imshow(density, origin="lower", extent=(-1.6, 2.6, -1.3, 1.8), cmap="cividis", aspect="auto")
    rows = flow.sample(40, random_state=1, t=t)
    arrows = flow.score_function(t, rows)
    arrows /= 1.0 + np.linalg.norm(arrows, axis=1, keepdims=True)
    axis.quiver(*rows.T, *arrows.T, color="white", scale=14, width=0.006)
    axis.set(title=f"t = {t:g}", xlim=(-1.6, 2.6), ylim=(-1.3, 1.8))
plt.show()

# %%
# The same densities along different paths
# ----------------------------------------
# Five starting points each.  The flow is smooth and repeats; the stochastic equation starts from the same
# points and ends somewhere else every time.

start = flow.sample(5, random_state=3, t=0.0)
marks = np.linspace(0.0, 1.0, 41)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharex=True, sharey=True)
for axis, method in zip(axes, ["ode", "sde"], strict=True):
    path = [start]
    for i, (t, t_next) in enumerate(itertools.pairwise(marks)):
        step = flow.transport(path[-1], t, t_next, method=method, n_steps=2, random_state=i)
        path.append(step)
    draws = flow.sample(600, random_state=4, method=method)
    axis.scatter(*draws.T, s=4, color="#0072B2", alpha=0.5, linewidths=0)
    axis.plot(*np.stack(path).transpose(2, 0, 1), color="#D55E00", linewidth=1.0)
    axis.set_title({"ode": "flow", "sde": "stochastic equation"}[method])
plt.show()
