"""Conditional densities of the target: ours, what scikit-learn offers, NGBoost, treeffuser.

Every model is ``fit(X, y, seed, quick) -> predict``, and ``predict(X, y)`` gives the log-density of y, the
probability of at most y and the mean, one entry for each row.
"""

import functools
from importlib.util import find_spec

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from .. import ConditionalInterpolantFlow

ROWS_OF_KERNEL, ROWS_OF_PROCESS = 1000, 4000
ROUNDS, PATIENCE = 2000, 50  # of NGBoost
SAMPLES = 100  # of treeffuser, for every row: what its predict_distribution takes
_TAIL = (0.005, 0.01, 0.025)
LEVELS = np.array([*_TAIL, *np.linspace(0.05, 0.95, 19), *(1.0 - level for level in reversed(_TAIL))])


def ours(X, y, seed, quick=False):
    """ConditionalInterpolantFlow with default settings."""
    budget = {"max_iter": 20, "polish": 10} if quick else {}
    model = ConditionalInterpolantFlow(random_state=seed, **budget).fit(X, y)
    return lambda X, y: (model.score_samples(X, y), model.cdf(X, y), model.predict(X))


def linear(X, y, seed, quick=False):
    """Bayesian ridge regression: a Gaussian around a linear mean."""
    scaler = StandardScaler().fit(X)
    model = BayesianRidge().fit(scaler.transform(X), y)
    return functools.partial(_gaussian, model, scaler)


def gp(X, y, seed, quick=False):
    """Gaussian process, squared-exponential kernel with a length for each column, and noise."""
    scaler = StandardScaler().fit(X)
    X = scaler.transform(X)
    order = np.random.default_rng(seed).permutation(len(y))
    few, many = order[: 100 if quick else ROWS_OF_KERNEL], order[:ROWS_OF_PROCESS]
    kernel = ConstantKernel() * RBF(np.ones(X.shape[1]), (1e-2, 1e3)) + WhiteKernel(0.1)
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(X[few], y[few])
    model = GaussianProcessRegressor(model.kernel_, optimizer=None, normalize_y=True).fit(X[many], y[many])
    return functools.partial(_gaussian, model, scaler)


def _gaussian(model, scaler, X, y):
    mean, deviation = model.predict(scaler.transform(X), return_std=True)
    law = norm(mean, deviation)
    return law.logpdf(y), law.cdf(y), mean


def boosted(X, y, seed, quick=False):
    """Gradient-boosted quantiles at 25 levels; constant densities between them, exponential tails."""
    levels = LEVELS[::6] if quick else LEVELS
    models = [
        HistGradientBoostingRegressor(loss="quantile", quantile=level, random_state=seed).fit(X, y)
        for level in levels
    ]
    narrowest = 1e-3 * y.std()

    def predict(X, y):
        return from_quantiles(levels, np.column_stack([m.predict(X) for m in models]), y, narrowest)

    return predict


def from_quantiles(levels, quantiles, y, narrowest):
    """Log-density, distribution function and mean of a law with given quantiles.

    Between neighbouring quantiles the density is constant, outside it falls exponentially, continuous in
    the distribution function and with the density of the outermost cell.

    Parameters
    ----------
    levels : ndarray of shape (k,)
    quantiles : ndarray of shape (n, k)
        Put in order where they cross.
    y : ndarray of shape (n,)
    narrowest : float
        Least distance of neighbouring quantiles, so that no density is infinite.
    """
    gaps = np.maximum(np.diff(np.sort(quantiles, axis=1), axis=1), narrowest)
    middle = len(levels) // 2
    below = np.cumsum(gaps[:, :middle][:, ::-1], axis=1)[:, ::-1]
    above = np.cumsum(gaps[:, middle:], axis=1)
    centre = np.sort(quantiles, axis=1)[:, [middle]]
    q = np.concatenate([centre - below, centre, centre + above], axis=1)
    density = np.diff(levels) / gaps
    cell = np.clip((y[:, None] >= q).sum(axis=1) - 1, 0, len(levels) - 2)
    rows = np.arange(len(y))
    log_density = np.log(density[rows, cell])
    probability = levels[cell] + density[rows, cell] * (y - q[rows, cell])
    low, high = levels[0], 1.0 - levels[-1]
    first, last = density[:, 0] / low, density[:, -1] / high  # rates of the tails
    left, right = np.minimum(y - q[:, 0], 0.0) * first, np.minimum(q[:, -1] - y, 0.0) * last
    log_density = np.where(left < 0, np.log(density[:, 0]) + left, log_density)
    log_density = np.where(right < 0, np.log(density[:, -1]) + right, log_density)
    probability = np.where(left < 0, low * np.exp(left), probability)
    probability = np.where(right < 0, 1.0 - high * np.exp(right), probability)
    inner = (0.5 * (q[:, 1:] + q[:, :-1])) @ np.diff(levels)
    mean = inner + low * (q[:, 0] - 1.0 / first) + high * (q[:, -1] + 1.0 / last)
    return log_density, probability, mean


def ngboost(X, y, seed, quick=False):
    """NGBoost: a normal law whose two parameters are boosted; rounds chosen on a tenth of the rows."""
    from ngboost import NGBRegressor

    X, X_held, y, y_held = train_test_split(X, y, test_size=0.1, random_state=seed)
    rounds = 20 if quick else ROUNDS
    model = NGBRegressor(n_estimators=rounds, random_state=seed, verbose=False)
    model.fit(X, y, X_held, y_held, early_stopping_rounds=PATIENCE)

    def predict(X, y):
        law = model.pred_dist(X, max_iter=model.best_val_loss_itr + 1).dist  # a scipy.stats.norm
        return law.logpdf(y), law.cdf(y), law.mean()

    return predict


def treeffuser(X, y, seed, quick=False):
    """Treeffuser: diffusion whose score is boosted trees, default settings; a kernel density of samples."""
    from treeffuser import Treeffuser

    budget = {"n_estimators": 20, "n_repeats": 2} if quick else {}
    threads = torch.get_num_threads()  # as many as the other models, not all of the machine
    model = Treeffuser(seed=seed, n_jobs=threads, verbose=-1, **budget).fit(X, y)

    def predict(X, y):
        samples = model.sample(X, n_samples=SAMPLES, n_steps=5 if quick else 50, seed=seed)  # (k, n)
        return from_samples(samples.T, y, 1e-3 * spread)

    spread = y.std()
    return predict


def from_samples(samples, y, narrowest):
    """Log-density, distribution function and mean of a Gaussian kernel estimate, bandwidth by Scott's rule.

    Parameters
    ----------
    samples : ndarray of shape (n, k)
        Of the law of each row.
    y : ndarray of shape (n,)
    narrowest : float
        Least bandwidth, so that no density is infinite.
    """
    k = samples.shape[1]
    width = np.maximum(samples.std(axis=1, ddof=1) * k**-0.2, narrowest)[:, None]
    kernel = norm(samples, width)
    log_density = logsumexp(kernel.logpdf(y[:, None]), axis=1) - np.log(k)
    return log_density, kernel.cdf(y[:, None]).mean(axis=1), samples.mean(axis=1)


MODELS = {
    "linear": linear,
    "gp": gp,
    "boosted": boosted,
    "ngboost": ngboost,
    "treeffuser": treeffuser,
    "ours": ours,
}
_PEERS = ("ngboost", "treeffuser")  # packages of these names, which the extra bench is for


def installed(model):
    """Whether the package that a model needs is there."""
    return model not in _PEERS or find_spec(model) is not None
