"""Peers that are cheap enough to run beside ours: one Gaussian, a kernel density, a Gaussian mixture.

Each is fitted on the training rows, chooses its parameters on the validation rows, and returns a function
from rows to their log-density, with what it chose.  (Our estimator sees training and validation rows together
and keeps a tenth of them for its own choices, so that all models train on about the same number of rows.)
"""

import functools
import warnings

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ._tables import Table
from ._timing import clock

# rows times centres of one block of distances: 2 MB of float64
_ROWS, _CENTRES = 256, 1024
_MAX_VALID_ROWS = 4000
_MAX_MIXTURE_ROWS = 20_000


def gaussian(table, seed=0, seconds=None):
    """Full-covariance Gaussian, ridge chosen on validation rows."""
    mean, covariance = table.train.mean(axis=0), np.cov(table.train.T, bias=True)
    identity = np.eye(len(mean))

    def log_density(ridge, rows):
        return multivariate_normal(mean, covariance + ridge * identity).logpdf(rows)

    # the smallest ridge keeps a singular covariance usable
    ridges = [10.0**k for k in range(-9, 1)]
    scores = {}
    for ridge in ridges:
        try:
            scores[ridge] = float(log_density(ridge, table.valid).mean())
        except np.linalg.LinAlgError:
            continue
    ridge = max(scores, key=scores.get)
    return functools.partial(log_density, ridge), {"ridge": ridge}


def kernel_log_density(centres, rows, widths):
    r"""Exact log-density of a Gaussian kernel estimate, for several bandwidths at once.

    .. math:: \log\frac{1}{n}\sum_i N(x; c_i, h^2 I)

    The sum is shifted by the distance to the nearest centre, so that it is never below 1 and no row
    underflows; scikit-learn's ``KernelDensity`` bounds the sum from a tree instead and overrates outliers.

    Parameters
    ----------
    centres : ndarray of shape (n, d)
    rows : ndarray of shape (m, d)
    widths : sequence of float
        Bandwidths h.

    Returns
    -------
    log_density : ndarray of shape (len(widths), m)
    """
    n, d = centres.shape
    widths = np.asarray(widths, dtype=float)
    result = np.empty((len(widths), len(rows)))
    for start in range(0, len(rows), _ROWS):
        block = slice(start, start + _ROWS)
        nearest = np.min([part.min(axis=1) for part in _squared_distances(centres, rows[block])], axis=0)
        total = np.zeros((len(widths), len(nearest)))
        for part in _squared_distances(centres, rows[block]):
            part -= nearest[:, None]
            for i, width in enumerate(widths):
                total[i] += np.exp(part * (-0.5 / width**2)).sum(axis=1)
        result[:, block] = np.log(total) - 0.5 * nearest / widths[:, None] ** 2
    return result - np.log(n) - d * np.log(widths * np.sqrt(2 * np.pi))[:, None]


def _squared_distances(centres, rows):
    """Blocks (len(rows), at most _CENTRES) of squared distances."""
    square = (rows**2).sum(axis=1)[:, None]
    for start in range(0, len(centres), _CENTRES):
        part = centres[start : start + _CENTRES]
        distance = rows @ (-2.0 * part.T)
        distance += square
        distance += (part**2).sum(axis=1)
        yield np.maximum(distance, 0.0, out=distance)


def kde(table, seed=0, seconds=None):
    """Gaussian kernel, bandwidth chosen on at most 4,000 validation rows: powers of 2, then fifth roots."""
    valid = subset(table.valid, _MAX_VALID_ROWS)

    def best(widths):
        return float(widths[np.argmax(kernel_log_density(table.train, valid, widths).mean(axis=1))])

    coarse = best(2.0 ** np.arange(-7, 3))
    width = best(coarse * 2.0 ** (np.arange(-4, 5) / 5))
    return lambda rows: kernel_log_density(table.train, rows, [width])[0], {"bandwidth": width}


def gmm(table, seed=0, seconds=240.0):
    """Mixture of full-covariance Gaussians; number of components and ridge chosen on validation rows.

    At most 20,000 training rows.  First 1, 2, 4 ... 64 components with one ridge, then from the best pair to
    its neighbours in both directions until none is better; after ``seconds`` no further pair is begun.
    """
    search = _MixtureSearch(table, seed, seconds)
    for n_components in (1, 2, 4, 8, 16, 32, 64):
        search.consider(n_components, -3)
    start = None
    while start != search.best:
        start = n_components, power = search.best
        for step in (-1, 1, -2):
            search.consider(n_components, power + step)
        for factor in (0.75, 1.5, 0.5, 2.0):
            search.consider(round(factor * n_components), power)
    n_components, power = search.best
    chosen = {"n_components": n_components, "reg_covar": 10.0**power}
    chosen |= {"tried": len(search.scores), "capped": search.capped}
    return search.model.score_samples, chosen


class _MixtureSearch:
    """Fit pairs (number of components, power of ten of the ridge) for so long; keep the best."""

    def __init__(self, table, seed, seconds):
        self.train, self.valid = subset(table.train, _MAX_MIXTURE_ROWS), table.valid
        self.seed, self.now = seed, clock()
        self.deadline = self.now() + seconds
        self.scores, self.best, self.model, self.capped = {}, None, None, False

    def consider(self, n_components, power):
        possible = 1 <= n_components <= min(64, len(self.train)) and -6 <= power <= 0
        if not possible or (n_components, power) in self.scores:
            return
        if self.scores and self.now() > self.deadline:
            self.capped = True
            return
        model = GaussianMixture(n_components, reg_covar=10.0**power, max_iter=300, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                score = float(model.fit(self.train).score(self.valid))
            except ValueError:  # a component collapsed: this ridge is too small
                score = -np.inf
        self.scores[n_components, power] = score
        if self.best is None or score > self.scores[self.best]:
            self.best, self.model = (n_components, power), model


def subset(rows, size):
    """At most ``size`` rows, drawn without replacement."""
    if len(rows) <= size:
        return rows
    return rows[np.random.default_rng(0).choice(len(rows), size, replace=False)]


def whitened(fit):
    """The same peer after PCA whitening by the training rows; densities stay in the units of the table."""

    def fit_whitened(table, seed=0, seconds=240.0):
        mean = table.train.mean(axis=0)
        _, scale, axes = np.linalg.svd(table.train - mean, full_matrices=False)
        scale = np.maximum(scale / np.sqrt(len(table.train)), 1e-6 * scale[0] / np.sqrt(len(table.train)))

        def forward(rows):
            return (rows - mean) @ axes.T / scale

        score, chosen = fit(Table(*map(forward, table)), seed, seconds)
        log_det = -np.log(scale).sum()
        return lambda rows: score(forward(rows)) + log_det, chosen

    return fit_whitened


# name -> function of (table, seed, seconds)
PEERS = {"gaussian": gaussian, "kde": kde, "gmm": gmm}
