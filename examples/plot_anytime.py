"""
From noise to data
==================

Between the base at t = 0 and the data at t = 1 every time has a density of its own, a score (the direction
in which the log-density rises) and a flow that carries each density into the next.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

from siflow_sk import InterpolantFlow
from siflow_sk.datasets import make_moons
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.plotting import PathDisplay
from siflow_sk.velocities import MLP

warnings.simplefilter("ignore", TrainingWarning)  # steps are few here, and fit says so

X = make_moons(1000, random_state=0)
flow = InterpolantFlow(
    preprocessor="standardize",
    velocity=MLP(width=64),
    learning_rate_init=0.01,
    weight_decay=0.0,
    max_iter=500,
    polish=0,
    random_state=0,
)
flow.fit(X)

# %%
# Densities
# ---------
# A strip of them, each panel with colours of its own, and on top some rows that are drawn at that time with
# their scores.

display = PathDisplay.from_estimator(flow, X[:300], kind="density")
for axis, t in zip(display.axes_, display.times, strict=True):
    rows = flow.sample(40, random_state=1, t=t)
    arrows = flow.score_function(t, rows)
    arrows /= 1.0 + np.linalg.norm(arrows, axis=1, keepdims=True)
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # arrows beyond the grid do not widen it
    axis.quiver(*rows.T, *arrows.T, color="white", scale=14, width=0.006)
plt.show()

# %%
# Rows
# ----
# The lines are those of the rows of the table, followed backwards.

PathDisplay.from_estimator(flow, X[:100])
plt.show()

# %%
# One column over time
# --------------------
# Of one column the whole history is one picture: the density over time and value.

column = X[:, :1]
flow.set_params(max_iter=200).fit(column)
display = PathDisplay.from_estimator(flow, column[:300], kind="density", times=31)
display.ax_.set_ylabel("first column")
plt.show()
