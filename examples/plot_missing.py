"""
A laboratory that measured the small tumours
============================================

569 breast tumours, four measurements each. Suppose that concavity takes an hour at the microscope, and that
for large tumours, about which nobody doubted, it was mostly left out. What is the mean concavity of all
tumours? The values that are there give the answer for small ones. Each row with a gap still says something
about it, through its radius, texture and symmetry; :class:`~siflow_sk.InterpolantImputer` uses that, and says
how sure it is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

from siflow_sk import InterpolantFlow, InterpolantImputer
from siflow_sk.velocities import MLP

columns = ["mean radius", "mean texture", "mean symmetry", "mean concavity"]
truth = load_breast_cancer(as_frame=True).data[columns]
large = truth["mean radius"] > truth["mean radius"].median()
rng = np.random.default_rng(0)
gap = large & (rng.random(len(truth)) < 0.8)
table = truth.copy()
table.loc[gap, "mean concavity"] = np.nan
print(f"concavity is missing in {gap.sum()} of {len(table)} rows")

flow = InterpolantFlow(velocity=MLP(width=64), max_iter=200, polish=100, random_state=0)
imputer = InterpolantImputer(flow, random_state=0).fit(table)

# %%
# Twenty complete tables, drawn from the density given what was measured. The mean of each is an estimate; the
# estimates differ by what the gaps hide, and each has its own sampling error. Rubin's rule adds the two
# variances. Beside it the mean of the values that are there.

draws = imputer.impute(table, n_draws=20, random_state=0)[:, :, 3]
means, n = draws.mean(axis=0), len(table)
between, within = means.var(ddof=1), draws.var(axis=0, ddof=1).mean() / n
error = np.sqrt(within + (1 + 1 / len(means)) * between)
there = table["mean concavity"].dropna()
print(f"truth                     {truth['mean concavity'].mean():.4f}")
print(f"the values that are there {there.mean():.4f} ± {there.std() / np.sqrt(len(there)):.4f}")
print(f"twenty tables             {means.mean():.4f} ± {error:.4f}")

# %%
# On the left one of the twenty tables: the draws (blue) scatter as the true values (black) do. The means that
# ``transform`` fills in (orange) are the best guess of each single value, but as a table they keep too close
# to the trend. On the right the estimates of the mean of all tumours: the truth lies among those of the
# twenty tables, and far from the values that are there.

filled = imputer.transform(table)[:, 3]
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
radius = table["mean radius"]
for values, color, label, size in [
    (truth["mean concavity"], "#222222", "true value, missing", 14),
    (draws[:, 0], "#0072B2", "drawn", 14),
    (filled, "#E69F00", "mean", 6),
]:
    axes[0].scatter(radius[gap], values[gap], s=size, color=color, label=label, alpha=0.7, linewidths=0)
axes[0].scatter(radius[~gap], table["mean concavity"][~gap], s=6, color="#bbbbbb", label="measured", zorder=0)
axes[0].set(xlabel="mean radius", ylabel="mean concavity")
axes[0].legend()
axes[1].hist(means, bins=8, color="#0072B2", alpha=0.7, label="each of twenty tables")
axes[1].axvspan(
    means.mean() - 2 * error, means.mean() + 2 * error, color="#0072B2", alpha=0.15, label="two errors"
)
axes[1].axvline(truth["mean concavity"].mean(), color="#222222", label="truth")
axes[1].axvline(there.mean(), color="#999999", linestyle="--", label="values that are there")
axes[1].set(xlabel="mean concavity of all tumours", ylabel="tables", ylim=(0, 11))
axes[1].legend()
plt.show()

spread = {"true": truth["mean concavity"][gap], "drawn": draws[gap, 0], "mean": filled[gap]}
print("standard deviation of what was missing:", {k: round(float(np.std(v)), 4) for k, v in spread.items()})

# %%
# How likely is a row, where only some of it was measured? The marginal log-density comes with its error.

log_density, error = imputer.score_samples(table, return_error=True)
odd = table.assign(log_density=log_density, error=error.round(3)).sort_values("log_density").head(5)
print(odd.round(3).to_string())
