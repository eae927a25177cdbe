"""Candidates for what is missing in a row, given the rest of it, with the density that they come from."""

import numpy as np
import torch
from sklearn import config_context
from sklearn.mixture import GaussianMixture

from .. import _tensors
from ..persistence import own
from ..preprocessing import Gaussianize

_MOST_COMPONENTS = 8
_ENOUGH = 50_000  # rows that the mixture is learnt from: it proposes only
_SPREAD = 1.2  # covariances are larger by this, so that the tails of the candidates are not too short
_BROAD = 0.1  # weight of a component with twice the covariance of all rows, for rows unlike the others
_FLOOR = 1e-4  # added to the variances, which are about 1
_FAR = 40.0  # standard deviations; further out the columns' maps say nothing
_ROOM = 2**21  # numbers that a block of covariances may hold
_LOG_2PI = np.log(2.0 * np.pi)


@own
class Proposal:
    r"""A Gaussian mixture of columns that were made normal one by one.

    With :math:`u_j = g_j(x_j)` the map of a column, learnt from its observed values, the conditional density
    of some u given the others is a Gaussian mixture again, in closed form.
    """

    def __init__(self, X, weight):
        self.maps = []
        for column in X.T:
            seen = ~np.isnan(column)
            share = _tensors.to_tensor(weight[seen] / weight[seen].sum())
            self.maps.append(Gaussianize().fit(_tensors.to_tensor(column[seen, None]), share))

    def forward(self, X):
        """(u, log-derivative of each column's map), both of the shape of X; NaN stays NaN."""
        u, log_slope = np.full(X.shape, np.nan), np.full(X.shape, np.nan)
        for j, g in enumerate(self.maps):
            seen = ~np.isnan(X[:, j])
            if seen.any():
                value, slope = g.forward(_tensors.to_tensor(X[seen, j, None]))
                u[seen, j] = np.clip(_tensors.to_array(value)[:, 0], -_FAR, _FAR)
                log_slope[seen, j] = _tensors.to_array(slope)
        return u, log_slope

    def inverse(self, u):
        """Rows from complete u."""
        columns = [g.inverse(_tensors.to_tensor(u[:, j, None])) for j, g in enumerate(self.maps)]
        return _tensors.to_array(torch.cat(columns, 1))

    def fit(self, u, weight, seed, n_components=None):
        """Learn the mixture from complete u ``(n, d)``; one component alone is used as it is, not widened.

        Scikit-learn's mixture takes no weights: it sees each row as often as its weight says, rounded.
        """
        n = min(len(u), _ENOUGH)
        u = u[np.searchsorted(np.cumsum(weight), (np.arange(n) + 0.5) * (weight.sum() / n))]
        n, d = u.shape
        k = n_components or int(np.clip(n // (20 * d), 1, _MOST_COMPONENTS))
        mixture = GaussianMixture(k, reg_covar=_FLOOR, random_state=seed, max_iter=30, tol=1e-2)
        with config_context(array_api_dispatch=False):  # under which its default start is refused
            mixture.fit(u)
        self.weights, self.means, self.covariances = mixture.weights_, mixture.means_, mixture.covariances_
        if n_components is None:
            broad = 2.0 * np.atleast_2d(np.cov(u.T, bias=True)) + _FLOOR * np.eye(d)
            self.weights = np.append((1.0 - _BROAD) * self.weights, _BROAD)
            self.means = np.concatenate([self.means, u.mean(axis=0)[None]])
            self.covariances = np.concatenate([_SPREAD * self.covariances, broad[None]])
        return self

    def blocks(self, n_rows, n_points):
        """Slices of rows that are worked on together."""
        k, d = self.means.shape
        size = max(1, _ROOM // (d * max(k * d, n_points)))
        return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]

    def candidates(self, u, choice, noise):
        """Complete u around the observed ones.

        Parameters
        ----------
        u : ndarray of shape (n, d)
            NaN where missing.
        choice : ndarray of shape (n, m) or (1, m)
            Uniform numbers that choose the component.
        noise : ndarray of shape (n, m, d) or (1, m, d)
            Standard normal numbers.

        Returns
        -------
        u : ndarray of shape (n, m, d)
        log_density : ndarray of shape (n, m)
            Of the missing ones given the others.
        """
        missing = np.isnan(u)
        log_share, means, roots = self._given(np.where(missing, 0.0, u), ~missing)
        which = (choice[:, :, None] > np.cumsum(np.exp(log_share), axis=1)[:, None, :-1]).sum(axis=2)
        noise = noise * missing[:, None]
        made = np.zeros(np.broadcast_shapes(noise.shape, (len(u), 1, 1)))
        for c in range(len(self.weights)):
            drawn = means[:, None, c] + noise @ np.swapaxes(roots[:, c], 1, 2)
            made = np.where((which == c)[:, :, None], drawn, made)
        parts = []
        for c in range(len(self.weights)):
            off = np.where(missing[:, None], made - means[:, None, c], 0.0)
            white = off @ np.swapaxes(np.linalg.inv(roots[:, c]), 1, 2)
            log_det = np.log(np.diagonal(roots[:, c], axis1=1, axis2=2)).sum(axis=1)
            log_norm = log_det + 0.5 * missing.sum(axis=1) * _LOG_2PI - log_share[:, c]
            parts.append(-0.5 * (white**2).sum(axis=2) - log_norm[:, None])
        made = np.where(missing[:, None], made, u[:, None])
        return made, np.logaddexp.reduce(np.stack(parts), axis=0)

    def _given(self, u, seen):
        """Log-shares ``(n, k)``, means ``(n, k, d)`` and roots of the covariances given what was seen.

        The roots have ones on the diagonal where a column was seen, so that all rows have one shape.
        """
        eye, S = np.eye(u.shape[1]), self.covariances
        pair = seen[:, None, :, None] & seen[:, None, None, :]
        inner = np.where(pair, S, np.where(seen[:, None, :, None], 0.0, eye))
        off = np.where(seen[:, None], u[:, None] - self.means, 0.0)
        across = np.where(seen[:, None, :, None], S, 0.0)  # rows seen, all columns
        solved = np.linalg.solve(inner, np.concatenate([off[..., None], across], axis=3))
        log_det = np.linalg.slogdet(inner)[1]
        log_share = np.log(self.weights) - 0.5 * ((off * solved[..., 0]).sum(axis=2) + log_det)
        log_share -= np.logaddexp.reduce(log_share, axis=1, keepdims=True)
        means = self.means + (np.swapaxes(across, 2, 3) @ solved[..., :1])[..., 0]
        rest = S - np.swapaxes(across, 2, 3) @ solved[..., 1:]
        rest = np.where(~seen[:, None, :, None] & ~seen[:, None, None, :], rest, 0.0)
        rest = 0.5 * (rest + np.swapaxes(rest, 2, 3))
        return log_share, means, np.linalg.cholesky(rest + eye * np.where(seen, 1.0, 1e-9)[:, None, None])
