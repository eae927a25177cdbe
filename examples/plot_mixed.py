"""
A table of patients: ages, sexes, body mass
===========================================

The columns of a real table are seldom real numbers all. Here are 442 patients with diabetes: age in whole
years, sex a category, body mass index rounded to a tenth, HDL cholesterol (s3) to a half, and the logarithm
of triglycerides (s5). A density has no place for values that repeat; :class:`~siflow_sk.MixedDensity` gives
them probabilities. Two questions: do the rows that it draws look like patients, and what does it know of one
column given the others?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.metrics import roc_auc_score

from siflow_sk import InterpolantFlow, MixedDensity
from siflow_sk.velocities import MLP

patients = load_diabetes(as_frame=True, scaled=False).data[["age", "sex", "bmi", "s3", "s5"]]
patients = patients.astype({"age": int, "sex": int}).astype({"sex": "category"})
train, test = patients[::2], patients[1::2]

flow = InterpolantFlow(velocity=MLP(width=64), max_iter=200, polish=100, random_state=0)
density = MixedDensity(flow, kinds={"bmi": 0.1, "s3": 0.5}, random_state=0).fit(train)
print("kinds:", density.kinds_)

# %%
# The rows that are drawn have the dtypes of the table, whole years, and an index with one digit.

drawn = density.sample(1000, random_state=0)
print(drawn.head(5))
print(drawn.dtypes)

# %%
# Ages of the patients who were kept aside, beside ages that were drawn: bars, since an age is a whole
# number. On the right, age and body mass of both.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
years = np.arange(15, 85)
for ages, color, label, shift in [
    (test["age"], "#999999", "kept aside", 0.0),
    (drawn["age"], "#0072B2", "drawn", 0.4),
]:
    share = np.array([(ages // 5 * 5 == year).mean() for year in years[::5]])
    axes[0].bar(years[::5] + 5 * shift, share, width=2.0, color=color, label=label)
axes[0].set(xlabel="age, by five years", ylabel="share")
axes[0].legend()
axes[1].scatter(drawn["age"], drawn["bmi"], s=4, color="#0072B2", alpha=0.4)
axes[1].scatter(test["age"], test["bmi"], s=8, color="#444444")
axes[1].set(xlabel="age", ylabel="body mass index")
plt.show()

# %%
# The probability of each sex given the rest of the row, for patients that the model has not seen. It was
# not trained to tell the sexes apart; this is what the joint distribution knows.

proba = np.exp(density.level_log_proba(test, "sex"))
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for level, color in zip(density.levels_["sex"], ["#D55E00", "#009E73"], strict=True):
    axis.hist(
        proba[test["sex"] == level, 1],
        bins=np.linspace(0, 1, 16),
        color=color,
        alpha=0.6,
        label=f"sex {level}",
    )
axis.set(xlabel="probability of sex 2 given the other columns", ylabel="patients")
axis.legend()
plt.show()

truth = (test["sex"] == 2).to_numpy()
log_density, error = density.score_samples(test, return_error=True)
print(f"area under the ROC curve {roc_auc_score(truth, proba[:, 1]):.3f}")
print(f"mean probability of sex 2: {proba[:, 1].mean():.3f}, its share: {truth.mean():.3f}")
print(f"mean log-density of new patients {log_density.mean():.3f}, error of a row at most {error.max():.2f}")
