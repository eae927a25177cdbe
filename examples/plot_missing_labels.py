"""
A herbarium that lost some of its labels
========================================

150 irises. Half of the labels of the plants with long petals have fallen off, and some petals were not
measured. How many plants of each species are there? The labels that are left say that *virginica* is rare;
but it is the one with the long petals. :class:`~siflow_sk.InterpolantImputer` draws the species from what
was measured, with :class:`~siflow_sk.MixedDensity` for a category among the numbers.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

from siflow_sk import InterpolantFlow, InterpolantImputer, MixedDensity
from siflow_sk.velocities import MLP

iris = load_iris(as_frame=True)
truth = iris.data.rename(columns=lambda name: name.removesuffix(" (cm)"))
truth["species"] = iris.target.map(dict(enumerate(iris.target_names))).astype("category")
rng = np.random.default_rng(0)
lost = (truth["petal length"] > 4.2) & (rng.random(150) < 0.5)
table = truth.copy()
table.loc[lost, "species"] = np.nan
table.loc[rng.random(150) < 0.1, "petal width"] = np.nan
print(table.isna().sum().to_string())

# %%
# Twenty complete tables, drawn from the density given what is there: frames like the one that came in. A
# plant that looks like either species is one in some tables and the other in the rest.

flow = InterpolantFlow(velocity=MLP(width=64), max_iter=300, polish=150, random_state=0)
imputer = InterpolantImputer(MixedDensity(flow, random_state=0), random_state=0).fit(table)
draws = imputer.impute(table, n_draws=20, random_state=0)
share = np.mean([draw["species"] == "virginica" for draw in draws], axis=0)
right = np.where(share > 0.5, "virginica", "versicolor")[lost] == truth["species"][lost]
print(f"{lost.sum()} labels lost; the species of most tables is the true one for {right.sum()} of them")

# %%
# The plants of each species: by the labels that are left, as shares of 150, and in the twenty tables.

names = list(iris.target_names)
left = table["species"].value_counts()[names]
drawn = np.array([draw["species"].value_counts()[names] for draw in draws])
for name, true, share_left, mean, spread in zip(
    names,
    truth["species"].value_counts()[names],
    150 * left / left.sum(),
    drawn.mean(0),
    drawn.std(0),
    strict=True,
):
    print(f"{name:10} truth {true}, by the labels left {share_left:.0f}, tables {mean:.0f} ± {spread:.0f}")

# %%
# On the left the plants, those without a label in the colour of their share of tables as *virginica*: the
# doubtful ones lie where the two species meet, and rings show those whose true species most tables miss. On
# the right the answers; lines show two standard deviations of the tables.

figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
x, y = truth["petal length"], truth["petal width"]
axes[0].scatter(x[~lost], y[~lost], s=10, color="#bbbbbb", label="with a label")
points = axes[0].scatter(x[lost], y[lost], s=26, c=share[lost], cmap="cividis", vmin=0, vmax=1)
missed = lost.to_numpy().nonzero()[0][~right]
ring = {"s": 90, "facecolors": "none", "edgecolors": "#D55E00"}
axes[0].scatter(x.iloc[missed], y.iloc[missed], **ring, label="another species in most tables")
figure.colorbar(points, ax=axes[0], label="share of tables with virginica")
axes[0].set(xlabel="petal length, cm", ylabel="petal width, cm")
axes[0].legend(loc="upper left")
places = np.arange(3)
axes[1].bar(places - 0.2, 150 * left / left.sum(), 0.4, color="#bbbbbb", label="by the labels left")
axes[1].bar(
    places + 0.2, drawn.mean(0), 0.4, yerr=2 * drawn.std(0), color="#0072B2", label="twenty tables", capsize=3
)
axes[1].axhline(50, color="#222222", label="truth")
axes[1].set(xticks=places, xticklabels=names, ylabel="plants")
axes[1].legend(loc="lower left")
plt.show()
