"""
Angles of a protein
===================

The backbone of a protein is described by two angles per residue, phi and psi (Ramachandran, 1963). Both are
periodic: the cluster of extended strands lies across the seam of psi, and a density on the line would cut it
in two. ``periodic`` makes the flow live on the torus.

The angles are those of ``torus/isoleucine_dihedrals.npz`` if a folder named by ``SIFLOW_DATA`` holds it,
otherwise a made-up mixture of the three well-known clusters.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from siflow_sk import InterpolantFlow
from siflow_sk.velocities import MLP

file = Path(os.environ.get("SIFLOW_DATA", ".")) / "torus" / "isoleucine_dihedrals.npz"
if file.is_file():
    angles = np.rad2deg(np.load(file)["x_train"][:2000, :2].astype(float))
else:
    rng = np.random.default_rng(0)
    centres, spreads = np.array([[-63, -43], [-120, 135], [57, 40]]), np.array([[8, 10], [22, 35], [8, 10]])
    cluster = rng.choice(3, size=2000, p=[0.55, 0.4, 0.05])
    angles = rng.normal(centres[cluster], spreads[cluster])
table = pd.DataFrame((angles + 180.0) % 360.0 - 180.0, columns=["phi", "psi"])

flow = InterpolantFlow(
    periodic={"phi": 360.0, "psi": 360.0},
    coupling="optimal_transport",
    batch_size=256,
    velocity=MLP(width=64),
    max_iter=300,
    polish=0,
    random_state=0,
).fit(table)

# %%
# The density, over more than one period
# --------------------------------------
# Whole turns do not count: the picture of 1.5 periods repeats itself without an edge at 180 degrees.

axis = np.linspace(-180.0, 360.0, 109)
phi, psi = np.meshgrid(axis, axis)
grid = pd.DataFrame({"phi": phi.ravel(), "psi": psi.ravel()})
log_density = flow.score_samples(grid).reshape(phi.shape)
figure, panel = plt.subplots(figsize=(6, 5), layout="constrained")
image = panel.imshow(
    log_density, origin="lower", extent=(-180, 360, -180, 360), cmap="cividis", vmin=log_density.max() - 9
)
panel.scatter(table["phi"][::4], table["psi"][::4], s=2, color="white", linewidths=0)
for seam in (panel.axvline, panel.axhline):
    seam(180.0, color="white", linewidth=0.8, linestyle="--")
panel.set(xlabel="phi (degrees)", ylabel="psi (degrees)", title="log-density, rows in one period only")
figure.colorbar(image)
plt.show()

# %%
# New angles
# ----------
# They come back in the turn of the table, here from -180 to 180 degrees, because it has negative values.

rows = flow.sample(1000, random_state=1)
figure, panels = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharex=True, sharey=True)
for panel, points, title in zip(panels, [table.to_numpy()[:1000], rows], ["the table", "drawn"], strict=True):
    panel.scatter(*points.T, s=3, color="#0072B2", linewidths=0)
    panel.set(title=title, xlabel="phi (degrees)", xlim=(-180, 180), ylim=(-180, 180))
panels[0].set_ylabel("psi (degrees)")
plt.show()

# %%
# Across the seam the density is continuous: on both sides of psi = 180 degrees it is the same.

ends = pd.DataFrame({"phi": -120.0, "psi": [179.999999, -179.999999]})
print(flow.score_samples(ends).round(4))
