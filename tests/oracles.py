"""Densities and velocities known in closed form; nothing here imports the library.

Between the mixtures sum_i p0_i N(m0_i, C0_i) and sum_j p1_j N(m1_j, C1_j), drawn independently, the
interpolant x_t = a x0 + b x1 has the density sum_ij p0_i p1_j N(m_ij, C_ij) with m_ij = a m0_i + b m1_j and
C_ij = a^2 C0_i + b^2 C1_j, and the velocity sum_ij w_ij (m'_ij + 1/2 C'_ij C_ij^{-1} (x - m_ij)) with w_ij
the posterior weights of the components at x (arXiv:2303.08797, appendix A).
"""

import math

import numpy as np
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn

# name -> a, b, a', b' as functions of a float64 tensor
PATHS = {
    "linear": (lambda t: 1 - t, lambda t: t, lambda t: 0 * t - 1, lambda t: 0 * t + 1),
    "trigonometric": (
        lambda t: torch.sin((1 - t) * math.pi / 2),
        lambda t: torch.cos((1 - t) * math.pi / 2),
        lambda t: -torch.cos((1 - t) * math.pi / 2) * math.pi / 2,
        lambda t: torch.sin((1 - t) * math.pi / 2) * math.pi / 2,
    ),
}


class Mixture:
    """A Gaussian mixture: weights (k,), means (k, d), covariances (k, d, d)."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means = np.asarray(weights, float), np.asarray(means, float)
        self.covariances = np.asarray(covariances, float)

    def logpdf(self, x):
        terms = [
            math.log(p) + multivariate_normal(m, c).logpdf(x).reshape(len(x))
            for p, m, c in zip(self.weights, self.means, self.covariances, strict=True)
        ]
        return logsumexp(np.stack(terms), axis=0)

    def score(self, x):
        terms = [
            multivariate_normal(m, c).logpdf(x).reshape(len(x))
            for m, c in zip(self.means, self.covariances, strict=True)
        ]
        terms = np.log(self.weights)[:, None] + np.stack(terms)
        weights = np.exp(terms - logsumexp(terms, axis=0))
        pulls = np.linalg.solve(self.covariances[:, None], (self.means[:, None] - x)[..., None])[..., 0]
        return (weights[..., None] * pulls).sum(0)

    def sample(self, n, seed):
        rng = np.random.default_rng(seed)
        component = rng.choice(len(self.weights), size=n, p=self.weights)
        noise = rng.standard_normal((n, self.means.shape[1]))
        factors = np.linalg.cholesky(self.covariances)
        return self.means[component] + np.einsum("nij,nj->ni", factors[component], noise)

    def mean(self):
        return self.weights @ self.means

    def covariance(self):
        centred = self.means - self.mean()
        spread = np.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return np.einsum("k,kij->ij", self.weights, self.covariances) + spread


def gaussian(mean, covariance):
    return Mixture([1.0], [mean], [covariance])


# name -> gamma^2 and its derivative
VARIANCES = {
    "none": (lambda t: 0 * t, lambda t: 0 * t),
    "sqrt": (lambda t: t * (1 - t), lambda t: 1 - 2 * t),
    "quadratic": (lambda t: (t - t * t) ** 2, lambda t: 2 * (t - t * t) * (1 - 2 * t)),
    "sin2": (
        lambda t: (0.5 - 0.5 * torch.cos(2 * math.pi * t)) ** 2,
        lambda t: (1 - torch.cos(2 * math.pi * t)) * torch.sin(2 * math.pi * t) * math.pi,
    ),
}


def between(path, source, target, t, gamma="none"):
    """The law of x_t, a Mixture."""
    a, b = (float(c(torch.tensor(t, dtype=torch.float64))) for c in PATHS[path][:2])
    weights = np.outer(source.weights, target.weights).ravel()
    means = a * source.means[:, None] + b * target.means[None]
    d = means.shape[-1]
    noise = float(VARIANCES[gamma][0](torch.tensor(t, dtype=torch.float64))) * np.eye(d)
    covariances = a**2 * source.covariances[:, None] + b**2 * target.covariances[None] + noise
    return Mixture(weights, means.reshape(-1, d), covariances.reshape(-1, d, d))


class ExactVelocity(nn.Module):
    """v(t, x) and, in ``value_and_divergence``, its divergence; ``x`` (n, d), ``t`` scalar or (n, 1)."""

    def __init__(self, path, source, target, gamma="none"):
        super().__init__()
        self.gamma = gamma
        self.path, self.source, self.target = path, source, target
        # an optimiser wants a parameter; this one never moves the velocity
        self.idle = nn.Parameter(torch.zeros(()))

    def _components(self, t, like):
        """log p, m, m', C, C' of all pairs; leading dimension 1 or n."""
        t = t.reshape(-1, 1, 1).to(like)
        a, b, da, db = (c(t) for c in PATHS[self.path])
        log_p = np.log(np.outer(self.source.weights, self.target.weights)).ravel()
        k0, k1 = len(self.source.weights), len(self.target.weights)
        m0, m1 = self.source.means.repeat(k1, 0), np.tile(self.target.means, (k0, 1))
        c0, c1 = self.source.covariances.repeat(k1, 0), np.tile(self.target.covariances, (k0, 1, 1))
        log_p, m0, m1, c0, c1 = (torch.as_tensor(v).to(like) for v in (log_p, m0, m1, c0, c1))
        mean, d_mean = a * m0 + b * m1, da * m0 + db * m1
        eye = torch.eye(mean.shape[-1]).to(like)
        noise, d_noise = (v(t)[..., None] * eye for v in VARIANCES[self.gamma])
        a, b, da, db = (v[..., None] for v in (a, b, da, db))
        c, dc = a**2 * c0 + b**2 * c1, 2 * (a * da * c0 + b * db * c1)
        return log_p, mean, d_mean, c + noise, dc + d_noise

    def value_and_divergence(self, t, x):
        log_p, mean, d_mean, c, dc = self._components(t, x)
        precision = torch.linalg.inv(c)  # (1 or n, k, d, d)
        centred = x[:, None] - mean  # (n, k, d)
        score = -(precision @ centred[..., None])[..., 0]
        log_w = log_p + 0.5 * (centred * score).sum(-1) - 0.5 * torch.linalg.slogdet(c)[1]
        w = torch.softmax(log_w, dim=1)[..., None]  # (n, k, 1)
        own = d_mean - 0.5 * (dc @ score[..., None])[..., 0]
        trace = 0.5 * torch.einsum("nkij,nkji->nk", dc, precision)[..., None]
        d_w = w * (score - (w * score).sum(1, keepdim=True))
        divergence = (w * trace).sum((1, 2)) + (d_w * own).sum((1, 2))
        return (w * own).sum(1) + 0.0 * self.idle, divergence

    def forward(self, t, x):
        return self.value_and_divergence(t, x)[0]


class PlainVelocity(nn.Module):
    """The same field without its own divergence."""

    def __init__(self, exact):
        super().__init__()
        self.exact = exact

    def forward(self, t, x):
        return self.exact(t, x)


def trace_of_jacobian(v, t, x):
    """Divergence by d reverse passes, ``(n,)``."""
    x = x.detach().clone().requires_grad_(True)
    value = v(t, x)
    columns = [
        torch.autograd.grad(value[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(x.shape[1])
    ]
    return torch.stack(columns, 1).sum(1)


BENT = Mixture(
    [0.35, 0.65],
    [[-1.0, 0.5], [1.2, -0.4]],
    [[[0.4, 0.15], [0.15, 0.3]], [[0.6, -0.2], [-0.2, 0.5]]],
)
TILTED = gaussian([0.7, -0.3], [[1.5, 0.6], [0.6, 0.8]])
NORMAL = gaussian([0.0, 0.0], np.eye(2))
OFFSET = gaussian([-0.4, 0.2], [[0.9, -0.3], [-0.3, 1.2]])
