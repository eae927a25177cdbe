"""
Fixed, learnt and coupled paths
===============================

The same data and network with three ways of joining base and data: straight lines between independent
pairs, a path that is learnt, straight lines between optimal pairs.
"""

import warnings

import matplotlib.pyplot as plt
import torch

from siflow_sk import InterpolantFlow
from siflow_sk.datasets import make_eight_gaussians
from siflow_sk.diagnostics import straightness
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.plotting import PathDisplay
from siflow_sk.velocities import MLP

warnings.simplefilter("ignore", TrainingWarning)  # steps are few here, and fit says so

X = make_eight_gaussians(4000, random_state=0)
settings = {
    "straight lines": {"interpolant": "linear"},
    "learnt path": {"interpolant": "fourier"},
    "optimal pairs": {"interpolant": "linear", "coupling": "optimal_transport"},
}
flows = {
    name: InterpolantFlow(
        preprocessor="none",
        velocity=MLP(width=64),
        max_iter=400,
        batch_size=256,
        polish=0,
        random_state=0,
        **parameters,
    ).fit(X)
    for name, parameters in settings.items()
}

# %%
# Kinetic energy and steps
# ------------------------
# ``path_length`` with its standard error, how straight the solutions are (1: lines at constant speed), and
# the number of steps that the grid of the solver took.

for name, flow in flows.items():
    energy, error = flow.path_length(500, random_state=0)
    straight, _ = straightness(flow, 500, random_state=0)
    print(
        f"{name:15s} energy {energy:.2f} +- {error:.2f}, straightness {straight:.3f}, "
        f"{flow.solver_.n_steps_} steps"
    )

# %%
# The same starting points
# ------------------------
# Straight lines between independent pairs cross; the solutions cannot, and bend.  The learnt path bends the
# coefficients, not the lines of every pair; the optimal pairs make the solutions themselves straight.

figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True, sharey=True)
for axis, (name, flow) in zip(axes, flows.items(), strict=True):
    axis.scatter(*X[:1000].T, s=3, color="0.85", linewidths=0)
    PathDisplay.from_estimator(flow, flow.sample(60, random_state=1), ax=axis, color="#0072B2")
    axis.set(title=name, aspect="equal", xlabel=None, ylabel=None)
plt.show()

# %%
# What was learnt
# ---------------
# The coefficients of the path beside the quarter circle that it started from.

t = torch.linspace(0.0, 1.0, 101)
path = flows["learnt path"].interpolant_
figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
axis.plot(t, path.alpha(t), color="#0072B2", label="alpha, learnt")
axis.plot(t, path.beta(t), color="#D55E00", label="beta, learnt")
axis.plot(t, torch.cos(0.5 * torch.pi * t), color="#0072B2", linestyle=":", label="cosine")
axis.plot(t, torch.sin(0.5 * torch.pi * t), color="#D55E00", linestyle=":", label="sine")
axis.set(xlabel="t")
axis.legend()
plt.show()
