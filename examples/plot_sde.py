"""
One family of densities, many ways to walk
==========================================

The flow is an ordinary differential equation: a starting point decides everything.  For any amount of noise
:math:`\\epsilon(t) \\ge 0` there is a stochastic equation, :math:`dX = (v + \\epsilon s)\\,dt +
\\sqrt{2\\epsilon}\\,dW`, whose solutions have the *same* density at every time.  What differs is the way of a
single row: the noise forgets where it came from.  The score s comes from the velocity, which is right for the
field of the quadratic loss: so ``polish=0``.
"""

import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

from siflow_sk import InterpolantFlow
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.plotting import PathDisplay
from siflow_sk.velocities import MLP

warnings.simplefilter("ignore", TrainingWarning)  # steps are few here, and fit says so

rng = np.random.default_rng(0)
centres, widths = np.array([-2.0, 0.5, 2.5]), np.array([0.5, 0.25, 0.4])
X = rng.normal(*np.stack([centres, widths])[:, rng.choice(3, size=3000, p=[0.5, 0.2, 0.3])])[:, None]
flow = InterpolantFlow(
    preprocessor="standardize",
    velocity=MLP(width=64),
    weight_decay=0.0,
    max_iter=400,
    polish=0,
    random_state=0,
)
flow.fit(X)

# %%
# Twelve rows from the same starting points, over the densities of the flow. Without noise the lines cannot
# cross. The more noise, the more often a row changes sides, and still the lines fill each place in proportion
# to its density.

times = np.linspace(0.0, 1.0, 41)
background = PathDisplay.from_estimator(flow, X[:200], kind="density", times=times, grid_resolution=100)
plt.close(background.figure_)

start = flow.sample(1500, random_state=1, t=0.0)
settings = {
    "no noise: the flow": {"method": "ode"},
    "noise that dies away": {"method": "sde", "diffusion": "sigma"},
    "about five times as much": {"method": "sde", "diffusion": lambda t: 5.0 * (1.0 - t)},
}
ends = {}
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", sharex=True, sharey=True)
for axis, (name, setting) in zip(axes, settings.items(), strict=True):
    path = [start]
    for i, (t, t_next) in enumerate(itertools.pairwise(times)):
        path.append(flow.transport(path[-1], t, t_next, n_steps=2, random_state=i, **setting))
    ends[name] = path[-1]
    background.plot(ax=axis)
    axis.plot(times, np.stack(path)[:, :12, 0], color="white", linewidth=0.7)
    axis.set(title=name, ylabel="x" if axis is axes[0] else None, ylim=(-5.0, 5.0))
plt.show()

# %%
# Where they end
# --------------
# The same three histograms, up to the error of training, which the score inherits. The rank correlation of
# start and end says what is left of the starting point.

grid = np.linspace(-4.0, 4.5, 300)[:, None]
figure, axes = plt.subplots(1, 3, figsize=(12, 2.8), layout="constrained", sharey=True)
for axis, end in zip(axes, ends.values(), strict=True):
    axis.hist(end[:, 0], bins=60, range=(-4.0, 4.5), density=True, color="#BBBBBB")
    axis.plot(grid, np.exp(flow.score_samples(grid)), color="#D55E00")
    axis.set(title=f"rank correlation with the start {spearmanr(start, end).statistic:.2f}", xlabel="x")
axes[0].set_ylabel("density")
plt.show()
