"""
What the default preprocessor does to a column
==============================================

``"gaussianize"`` maps every column to a normal one before the flow sees it: a power map, then
:math:`z = \\Phi^{-1}(F(x))` with F from a kernel density. The map is invertible and its derivative is
known, so the density of the column itself comes out as well: :math:`\\varphi(z)\\, |dz/dx|`.

The column is the area of 569 tumours: skewed, with two groups in it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

from siflow_sk.preprocessing import Gaussianize

column = load_breast_cancer(as_frame=True).data["mean area"].to_numpy()
x = torch.tensor(column)[:, None]
weight = torch.full((len(x),), 1.0 / len(x), dtype=x.dtype)


def normal(z):
    """Density of N(0, 1)."""
    return np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


# %%
# Above, the column with the density that the map implies; below, what the flow gets to see, beside N(0, 1).
# The power map alone takes the skewness away; the kernel density also takes the two groups.

grid = torch.linspace(0.0, float(x.max()) * 1.1, 500, dtype=x.dtype)[:, None]
figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharey="row")
for (above, below), density, title in zip(
    axes.T, [False, True], ["power map alone", "with kernel marginal"], strict=True
):
    preprocessor = Gaussianize(density=density).fit(x, weight)
    z, log_det = preprocessor.forward(grid)
    above.hist(column, bins=40, density=True, color="#BBBBBB")
    above.plot(grid[:, 0], normal(z[:, 0].numpy()) * np.exp(log_det.numpy()), color="#D55E00")
    above.set(title=title, xlabel="area")

    z = preprocessor.forward(x)[0][:, 0].numpy()
    below.hist(z, bins=40, density=True, color="#BBBBBB")
    line = np.linspace(-4.0, 4.0, 200)
    below.plot(line, normal(line), color="#0072B2")
    below.set(xlabel="z")
axes[0, 0].set_ylabel("density")
axes[1, 0].set_ylabel("density")
plt.show()

# %%
# Forward and back, and how much of the rows' log-density the map alone accounts for:

for density in (False, True):
    preprocessor = Gaussianize(density=density).fit(x, weight)
    z, log_det = preprocessor.forward(x)
    error = (preprocessor.inverse(z) - x).abs().max().item()
    mean = np.mean(np.log(normal(z[:, 0].numpy())) + log_det.numpy())
    print(f"density={density!s:<6} round trip {error:.0e}, mean log-density {mean:.3f} nats")
