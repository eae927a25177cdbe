"""Peers that are flows: zuko's NSF, MAF and CNF, and flow_matching, as a stranger would run them.

They need the extra ``bench``.  Each is trained in float32 by Adam on the training rows, keeps the weights
that are best on the validation rows, and returns a function from rows to their log-density, with what it
chose.
"""

import copy
import itertools
import math

import torch
from torch import nn

from ._peers import subset
from ._timing import clock

_MAX_VALID_ROWS = 4000
_CHUNK = 1000  # rows scored at once: an exact trace holds d Jacobian rows of each
TIGHT = 1e-10  # tolerances that leave no numerical error that counts


def train(module, loss, validation_loss, rows, seconds, *, max_steps=10_000, batch_size=256, patience=20):
    """Adam at 1e-3, lowered along a cosine over the steps or the time, whichever ends first.

    The validation loss is looked at after an epoch or 50 steps, whichever is more, and never for more than a
    fifth of the time; training ends after ``patience`` looks without an improvement.  The best weights are
    restored.

    Parameters
    ----------
    module : torch.nn.Module
    loss : callable
        Mean loss of a batch of rows.
    validation_loss : callable
        Without arguments, a float.
    rows : tensor of shape (n, d)
    seconds : float
        Cap; the fit is marked ``capped`` where it ended training.

    Returns
    -------
    chosen : dict
    """
    now = clock()
    start = now()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    batch_size = min(batch_size, len(rows))
    best, weights, waited, step, looking, looked_at = math.inf, _weights(module), 0, 0, 0.0, 0.0
    order, least = torch.empty(0, dtype=torch.long), max(50, len(rows) // batch_size)
    since = 0
    while waited < patience:
        elapsed = now() - start
        progress = max(step / max_steps, elapsed / seconds)
        if (since >= least and elapsed - looked_at >= 4 * looking) or progress >= 1:
            value = validation_loss()
            waited = 0 if value < best else waited + 1
            if value < best:
                best, weights = value, _weights(module)
            since, looked_at = 0, now() - start
            looking = looked_at - elapsed
        if progress >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = 5e-4 * (1 + math.cos(math.pi * progress))
        if len(order) < batch_size:
            order = torch.randperm(len(rows))
        batch, order = rows[order[:batch_size]], order[batch_size:]
        _step(module, optimiser, loss(batch))
        step, since = step + 1, since + 1
    module.load_state_dict(weights)
    return {"steps": step, "validation": best, "capped": waited < patience and step < max_steps}


def _step(module, optimiser, loss):
    optimiser.zero_grad()
    loss.backward()
    size = nn.utils.clip_grad_norm_(module.parameters(), 5.0)
    if torch.isfinite(size):
        optimiser.step()


def _weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _tensor(rows):
    return torch.as_tensor(rows, dtype=torch.float32)


class Scorer:
    """From rows to their log-density ``(n,)`` in float32; ``precisely`` is the same without numerical error.

    Parameters
    ----------
    log_density : callable
        Of a float32 tensor of rows.
    precise : callable, default=None
        Of a float64 tensor, at tolerances near its rounding; None where there is nothing to solve.
    """

    def __init__(self, log_density, precise=None):
        self.log_density, self.precise = log_density, precise

    def __call__(self, rows):
        return self._in_chunks(self.log_density, _tensor(rows))

    def precisely(self, rows):
        return self._in_chunks(self.precise, torch.as_tensor(rows, dtype=torch.float64))

    def _in_chunks(self, log_density, x):
        return torch.cat([log_density(part) for part in x.split(_CHUNK)]).double().numpy()


def _seeded(fit):
    """Both libraries draw from torch's global generator: it is as before afterwards."""

    def fit_seeded(table, seed=0, seconds=240.0):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return fit(table, seconds)

    return fit_seeded


def _by_likelihood(flow, table, seconds, valid_rows):
    """Train a flow of zuko by maximum likelihood."""
    valid = _tensor(subset(table.valid, valid_rows))

    def log_density(x):
        with torch.no_grad():
            return flow().log_prob(x)

    def validation_loss():
        flow.eval()
        value = -log_density(valid).mean().item()
        flow.train()
        return value if math.isfinite(value) else math.inf

    def loss(x):
        return -flow().log_prob(x).mean()

    flow.train()
    chosen = train(flow, loss, validation_loss, _tensor(table.train), seconds)
    flow.eval()
    return Scorer(log_density), chosen


@_seeded
def maf(table, seconds):
    """Masked autoregressive flow of zuko: 5 transforms, 2 x 128 hidden units."""
    from zuko.flows import MAF

    flow = MAF(table.train.shape[1], transforms=5, hidden_features=(128, 128))
    return _by_likelihood(flow, table, seconds, _MAX_VALID_ROWS)


@_seeded
def nsf(table, seconds):
    """Neural spline flow of zuko: 3 transforms, 8 bins, 2 x 128 hidden units."""
    from zuko.flows import NSF

    flow = NSF(table.train.shape[1], transforms=3, bins=8, hidden_features=(128, 128))
    return _by_likelihood(flow, table, seconds, _MAX_VALID_ROWS)


@_seeded
def cnf(table, seconds):
    """Continuous flow of zuko in its default width; trace by one random probe in training, exact after."""
    from zuko.flows import CNF

    flow = CNF(table.train.shape[1])

    def train_mode(mode=True):
        nn.Module.train(flow, mode)
        flow.transform.exact = not mode
        return flow

    flow.train = train_mode
    score, chosen = _by_likelihood(flow, table, seconds, 256)

    def precise(x):
        exact = copy.deepcopy(flow).double()
        exact.transform.atol = exact.transform.rtol = TIGHT
        with torch.no_grad():
            return exact().log_prob(x)

    return Scorer(score.log_density, precise), chosen


class VelocityMLP(nn.Module):
    """The usual network of flow matching: four hidden layers of 256 units that take t as one more column."""

    def __init__(self, n_features, width=256, depth=4):
        super().__init__()
        sizes = [n_features + 1] + depth * [width]
        layers = [
            layer
            for n_in, n_out in itertools.pairwise(sizes)
            for layer in (nn.Linear(n_in, n_out), nn.SiLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_features))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t.reshape(-1, 1).expand(len(x), 1)], dim=1))


def standard_normal(x):
    """Log-density of the base, ``(n,)``."""
    return -0.5 * (x * x).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


def exact_likelihood(velocity, x, tol=1e-5):
    """flow_matching's exact log-density, ``velocity(x=, t=)``, by torchdiffeq's adaptive dopri5."""
    from flow_matching.solver import ODESolver

    solver = ODESolver(velocity_model=velocity)
    return solver.compute_likelihood(
        x_1=x.clone(),
        log_p0=standard_normal,
        step_size=None,
        method="dopri5",
        atol=tol,
        rtol=tol,
        time_grid=x.new_tensor([1.0, 0.0]),
        exact_divergence=True,
    )[1].detach()


@_seeded
def flow_matching(table, seconds):
    """Meta's flow_matching: straight paths, 4 x 256 units, exact likelihood.

    Its own choice on validation rows is by the quadratic loss at fixed times and base points: the likelihood
    costs seconds per thousand rows.
    """
    rows, d = _tensor(table.train), table.train.shape[1]
    network = VelocityMLP(d)
    valid = _tensor(subset(table.valid, _MAX_VALID_ROWS))
    fixed = torch.rand(len(valid), 1), torch.randn(len(valid), d)

    def loss(x1, t=None, x0=None):
        if t is None:
            t, x0 = torch.rand(len(x1), 1), torch.randn_like(x1)
        return (network(t * x1 + (1 - t) * x0, t) - (x1 - x0)).square().mean()

    def validation_loss():
        with torch.no_grad():
            return loss(valid, *fixed).item()

    chosen = train(network, loss, validation_loss, rows, seconds)
    network.requires_grad_(False)

    def precise(x):
        return exact_likelihood(copy.deepcopy(network).double(), x, TIGHT)

    return Scorer(lambda x: exact_likelihood(network, x), precise), chosen


# name -> function of (table, seed, seconds)
FLOW_PEERS = {"maf": maf, "nsf": nsf, "cnf": cnf, "flow_matching": flow_matching}
