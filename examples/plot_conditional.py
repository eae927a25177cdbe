"""
How sure can a prognosis be?
============================

The diabetes data of scikit-learn: 442 patients, and how far the disease has progressed after a year. A
regression gives one number for a patient. The doctor wants to know what else may happen: the density of the
progression given body mass index, blood pressure and the logarithm of triglycerides (``s5``).
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from siflow_sk import ConditionalInterpolantFlow
from siflow_sk.velocities import MLP

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X = X[["bmi", "bp", "s5"]]
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)
model = ConditionalInterpolantFlow(velocity=MLP(width=32), max_iter=300, polish=600, random_state=0)
model.fit(X_train, y_train)
print(f"log-density of new patients: {model.score(X_test, y_test):.2f} nats")

# %%
# On the left, what the model says along the body mass index, for a patient with median blood pressure and
# triglycerides: the middle line is the median, the bands hold 50 % and 90 %. The disease progresses further
# with the index, and so does the doubt. In the middle, three patients: at a low index the density leans
# against a small value with a long tail to the right; a symmetric error bar would promise values that do
# not occur. On the right the check on patients that the fit has not seen: the share below each predicted
# quantile, which lies on the diagonal where the model is calibrated; in grey, where 95 of 100 calibrated
# models would be.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")

bmi = np.linspace(X["bmi"].quantile(0.02), X["bmi"].quantile(0.98), 60)
line = X.median().to_frame().T.loc[[0] * len(bmi)].assign(bmi=bmi)
low90, low50, median, high50, high90 = model.predict_quantiles(line, [0.05, 0.25, 0.5, 0.75, 0.95]).T
left.scatter(X["bmi"], y, s=6, color="#BBBBBB")
left.fill_between(bmi, low90, high90, color="#0072B2", alpha=0.2, label="90 %")
left.fill_between(bmi, low50, high50, color="#0072B2", alpha=0.35, label="50 %")
left.plot(bmi, median, color="#0072B2")
left.set(xlabel="body mass index", ylabel="progression after a year")
left.legend(loc="upper left", frameon=False)

grid = np.linspace(0.0, 400.0, 300)
for value, colour in [(20.0, "#009E73"), (27.0, "#0072B2"), (35.0, "#D55E00")]:
    patient = line.iloc[:1].assign(bmi=value)
    density = np.exp(model.score_samples(patient.loc[[0] * len(grid)], grid))
    middle.plot(grid, density, color=colour, label=f"index {value:.0f}")
middle.set(xlabel="progression after a year", ylabel="density")
middle.legend(frameon=False)

u = np.sort(model.cdf(X_test, y_test))
share = (np.arange(len(u)) + 0.5) / len(u)
band = 1.36 / np.sqrt(len(u))  # Kolmogorov and Smirnov, 5 %
right.fill_between([0, 1], [-band, 1 - band], [band, 1 + band], color="#DDDDDD")
right.plot(u, share, color="#D55E00")
right.set(xlabel="predicted probability", ylabel="share of new patients", xlim=(0, 1), ylim=(0, 1))
plt.show()

# %%
# How many of the new patients lie inside the intervals:

for coverage in (0.5, 0.8, 0.95):
    low, high = model.predict_interval(X_test, coverage).T
    print(f"{coverage:.0%} interval: {np.mean((low <= y_test) & (y_test <= high)):.0%}")
