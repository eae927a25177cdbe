"""What fit, score and sample cost: in our estimator, and with the same network in other libraries' hands."""

import copy
import functools
import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from .. import InterpolantFlow, InterpolantSearchCV, _likelihood
from ..solvers import Grid, RungeKutta, TorchDiffEq
from ..velocities import MLP, velocity_and_divergence
from . import _timing
from ._errors import reference_of
from ._flow_peers import cnf, exact_likelihood, flow_matching, standard_normal
from ._ours import fit_default
from ._scores import paired, summary
from ._tables import rows_to_fit

TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # of looser grids, nats
EVALUATIONS = 32  # of the velocity in a scoring or sampling below: 8 steps of RK4
_FLOOR_ROWS = 4096


# -- our costs ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _flow(d, width, device, dtype):
    """A barely trained flow whose scoring is a known amount of work."""
    rows = np.random.default_rng(0).standard_normal((512, d))
    flow = InterpolantFlow(
        velocity=MLP(width=width),
        solver=RungeKutta(n_steps=EVALUATIONS // 4),
        max_iter=5,
        early_stopping=False,
        inference_dtype=dtype,
        device=device,
        random_state=0,
    )
    return flow.fit(rows)


def score_cost(n, d, width, dtype, device, repeats=3):
    """``score_samples`` of n rows, the network's own forward passes, and the floor of the matrix products.

    Returns
    -------
    result : dict
        ``seconds``; ``forward_seconds`` of as many plain evaluations of the velocity; ``floor_seconds``, see
        :func:`matmul_seconds`; ``ratio`` of the first to the second, median of ratios; ``peak_bytes``.
    """
    flow, X = _flow(d, width, device, dtype), np.random.default_rng(1).standard_normal((n, d))
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).to(device, getattr(torch, dtype))
    t = z.new_tensor(0.5)

    def forward():
        with torch.no_grad():
            for _ in range(EVALUATIONS):
                flow.velocity_(t, z)

    return _cost({"seconds": lambda: flow.score_samples(X), "forward_seconds": forward}, repeats, device) | {
        # the trace is one more product between the hidden layers
        "floor_seconds": EVALUATIONS
        * matmul_seconds([(n, d, width), (n, width, width), (n, width, width), (n, width, d)], dtype, device)
    }


def sample_cost(n, d, width, dtype, device, repeats=3):
    """``sample`` of n rows; entries as in :func:`score_cost`."""
    flow = _flow(d, width, device, dtype)
    flow.sample(256, random_state=0)
    return _cost({"seconds": lambda: flow.sample(n, random_state=0)}, repeats, device) | {
        "floor_seconds": EVALUATIONS
        * matmul_seconds([(n, d, width), (n, width, width), (n, width, d)], dtype, device)
    }


def fit_cost(n, d, width, batch_size, device, repeats=3, steps=40):
    """One optimiser step of the quadratic loss, from the difference of a longer and a shorter fit.

    Returns
    -------
    result : dict
        ``seconds`` of a step; ``fixed_seconds``, what the shorter fit takes beside its steps: checks of the
        table, the preprocessor; ``floor_seconds`` of a step, forward and backward.
    """
    X = np.random.default_rng(0).standard_normal((n, d))

    def fit(max_iter):
        flow = InterpolantFlow(
            velocity=MLP(width=width),
            solver=RungeKutta(n_steps=1),
            max_iter=max_iter,
            early_stopping=False,
            batch_size=batch_size,
            device=device,
            random_state=0,
        )
        return flow.fit(X)

    fit(2)
    functions = {"short": lambda: fit(steps // 4), "long": lambda: fit(steps)}
    taken = _timing.in_turn(functions, repeats, device)
    n_more = steps - steps // 4
    step = statistics.median(
        (long - short) / n_more for long, short in zip(taken["long"], taken["short"], strict=True)
    )
    step = max(step, 1e-9)
    products = [(batch_size, d, width), (batch_size, width, width), (batch_size, width, d)]
    return {
        "seconds": step,
        "fixed_seconds": max(0.0, statistics.median(taken["short"]) - steps // 4 * step),
        # backward is two products for each of forward
        "floor_seconds": 3 * matmul_seconds(products, "float32", device),
        "peak_bytes": _timing.peak_bytes(lambda: fit(2), device),
        "repeats": repeats,
    }


def _cost(functions, repeats, device):
    for function in functions.values():
        function()  # what is loaded at first use does not count
    taken = _timing.in_turn(functions, repeats, device)
    result = {name: statistics.median(values) for name, values in taken.items()}
    if len(functions) > 1:
        first, other = functions
        result["ratio"] = _timing.ratio(taken, first, other)
    peak = _timing.peak_bytes(next(iter(functions.values())), device)
    return result | {"peak_bytes": peak, "repeats": repeats}


def matmul_seconds(products, dtype, device):
    """The least that matrix products can take: their operations over the measured rate of torch's own.

    Parameters
    ----------
    products : list of (int, int, int)
        (n, k, m) for an (n, k) matrix times a (k, m) one.
    """
    total = 0.0
    for n, k, m in products:
        rows = min(n, _FLOOR_ROWS)
        total += n / rows * _product_seconds(rows, k, m, dtype, device)
    return total


@functools.cache
def _product_seconds(n, k, m, dtype, device):
    left, right = (
        torch.ones(shape, dtype=getattr(torch, dtype), device=device) for shape in ((n, k), (k, m))
    )
    calls = max(3, int(2e8 / (2 * n * k * m)))

    def products():
        for _ in range(calls):
            left @ right

    products()
    return statistics.median(_timing.seconds(products, device) for _ in range(5)) / calls


# -- the same network in other hands -------------------------------------------------------------------------


def same_network(n, d, width, device, repeats=3):
    """One network, its exact log-densities by five ways of integrating it, called in turn.

    ours: default solver, closed-form divergence, float64 and float32; ``torchdiffeq``: its dopri5 with our
    divergence; ``zuko``: what its CNF does; ``flow_matching``: ``compute_likelihood`` with the exact
    divergence.  The last three in float32 at relative tolerance 1e-5, as these libraries are used.

    Returns
    -------
    result : dict
        ``seconds``, ``ratios`` to ours in float64 and ``largest_difference`` from it, by name.
    """
    rng = np.random.default_rng(0)
    # skewed and correlated, so that the trained flow has something to do
    mixing = rng.standard_normal((d, d)) / np.sqrt(d)
    X = np.exp(0.5 * rng.standard_normal((2000, d))) @ mixing
    parameters = {"velocity": MLP(width=width), "preprocessor": "standardize", "max_iter": 200, "polish": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = InterpolantFlow(**parameters, device=device, random_state=0).fit(X)
    functions = {name: functools.partial(f, _latent(ours, X[:n])) for name, f in _hands(ours).items()}
    values = {name: function() for name, function in functions.items()}
    taken = _timing.in_turn(functions, repeats, device)
    exact = values["ours"].double()
    return {
        "seconds": {name: statistics.median(v) for name, v in taken.items()},
        "ratios": {name: _timing.ratio(taken, name, "ours") for name in taken},
        "largest_difference": {name: (v.double() - exact).abs().max().item() for name, v in values.items()},
        "n_steps": ours.solver_.n_steps_,
        "repeats": repeats,
    }


def _latent(flow, X):
    z = flow.preprocessor_.forward(torch.as_tensor(X))[0]
    return z.to(flow.device_, torch.float64)


def _hands(flow):
    """Name -> function from latent points (n, d), float64, to their log-density in the flow."""
    exact = flow.velocity_
    single = copy.deepcopy(exact).float()

    def ours(z, network=exact):
        return _likelihood.log_density(network, flow.base_, flow.solver_, z)[0]

    def torchdiffeq(z):
        def field(t, state):
            return velocity_and_divergence(single, t, state[0])

        z = z.float()
        with torch.no_grad():
            start = (z, z.new_zeros(len(z)))
            latent, change = TorchDiffEq(rtol=1e-5, atol=1e-6).integrate(field, start, 1.0, 0.0)
        return standard_normal(latent) + change

    def zuko(z):
        from zuko.transforms import FreeFormJacobianTransform

        transform = FreeFormJacobianTransform(single, t0=1.0, t1=0.0, atol=1e-6, rtol=1e-5, exact=True)
        with torch.no_grad():
            latent, log_det = transform.call_and_ladj(z.float())
        return standard_normal(latent) + log_det

    def matching(z):
        return exact_likelihood(lambda x, t: single(t, x), z.float())

    return {
        "ours": ours,
        "ours, float32": lambda z: ours(z.float(), single),
        "torchdiffeq": torchdiffeq,
        "zuko": zuko,
        "flow_matching": matching,
    }


# -- many fits at once ---------------------------------------------------------------------------------------


def search_cost(device, width, steps=300, repeats=3):
    """A search over 5 candidates and 3 folds whose fits are trained together, and one fit alone.

    On a CPU also scikit-learn's search, both with two processes.

    Returns
    -------
    result : dict
        Of the wall: ``seconds`` by name, ``ratios`` of "together" to the others;
        ``largest_difference`` of mean scores between the two searches, in nats.
    """
    rng = np.random.default_rng(0)
    X = np.exp(0.5 * rng.standard_normal((1500, 8))) @ rng.standard_normal((8, 8))
    flow = InterpolantFlow(
        velocity=MLP(width=width), max_iter=steps, polish=steps, device=device, random_state=0
    )
    settings = {"param_grid": {"weight_decay": [0.1, 0.2, 0.5, 1.0, 2.0]}, "cv": 3, "refit": False}
    searches = {"together": InterpolantSearchCV(flow, **settings, n_jobs=2)}
    if device == "cpu":
        searches["GridSearchCV"] = GridSearchCV(flow, **settings, n_jobs=2)
    functions = {name: functools.partial(search.fit, X) for name, search in searches.items()}
    functions["one fit"] = functools.partial(clone(flow).fit, X[:1000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions["one fit"]()  # what is loaded at first use does not count
        # of the wall: the work is in other processes
        taken = _timing.in_turn(functions, repeats, now=time.perf_counter)
    result = {
        "seconds": {name: statistics.median(values) for name, values in taken.items()},
        "ratios": {name: _timing.ratio(taken, "together", name) for name in taken if name != "together"},
        "repeats": repeats,
    }
    if "GridSearchCV" in searches:
        scores = (search.cv_results_["mean_test_score"] for search in searches.values())
        result["largest_difference"] = float(np.abs(np.subtract(*scores)).max())
    return result


# -- trained rivals ------------------------------------------------------------------------------------------


def rivals(name, table, seed, seconds, quick=False, repeats=3):
    """Our default estimator, zuko's CNF and flow_matching fitted to a table; then 1,000 rows scored in turn.

    Parameters
    ----------
    seconds : float
        Cap on the fit of each of the two peers.

    Returns
    -------
    result : dict
        By model: ``nll`` and ``standard_error`` over the test rows, ``fit_seconds``, ``seconds`` for 1,000
        rows; ``ratios`` of these to ours; ``better``: mean and standard error of our paired advantage;
        ``numerical_error``: what 99 % of at most 100 test rows stay below, nats.  By peer, ``as_exact``: ours
        at a tolerance that makes about as large errors, see :func:`_as_exact`, its ``tol``, ``seconds`` and
        the ``times`` that the peer takes.
    """
    now = _timing.clock()
    X, few = rows_to_fit(name, table), table.test[:100]
    start = now()
    flow, _ = fit_default(X, seed, quick, device="cpu")
    fits, chosen = {"siflow_sk": now() - start}, {}
    scorers = {"siflow_sk": flow.score_samples}
    exact = reference_of(flow).score_samples(few)
    errors = {"siflow_sk": _error(flow.score_samples, few, exact)}
    for model, fit in {"cnf": cnf, "flow_matching": flow_matching}.items():
        start = now()
        scorers[model], chosen[model] = fit(table, seed, seconds)
        fits[model] = now() - start
        errors[model] = _error(scorers[model], few, scorers[model].precisely(few))
    values = {model: score(table.test) for model, score in scorers.items()}
    loose = {model: _as_exact(flow, X, few, exact, errors[model]) for model in chosen}
    functions = scorers | {("as", model): other.score_samples for model, other in loose.items()}
    rows = np.resize(table.test, (1000, table.test.shape[1]))
    taken = _timing.in_turn({k: functools.partial(f, rows) for k, f in functions.items()}, repeats)
    return {
        "n_features": table.test.shape[1],
        "nll": {model: summary(v)["mean"] for model, v in values.items()},
        "standard_error": {model: summary(v)["standard_error"] for model, v in values.items()},
        "better": {model: paired(values["siflow_sk"], values[model]) for model in chosen},
        "fit_seconds": fits,
        "capped": {model: c["capped"] for model, c in chosen.items()},
        "numerical_error": errors,
        "seconds": {model: statistics.median(taken[model]) for model in scorers},
        "ratios": {model: _timing.ratio(taken, model, "siflow_sk") for model in scorers},
        "as_exact": {
            model: {
                "tol": other.solver_.tol,
                "seconds": statistics.median(taken["as", model]),
                "times": _timing.ratio(taken, model, ("as", model)),
            }
            for model, other in loose.items()
        },
        "repeats": repeats,
    }


def _error(score, rows, exact):
    return float(np.quantile(np.abs(score(rows) - exact), 0.99))


def _as_exact(flow, X, rows, exact, error):
    """The flow with the largest of some tolerances of its grid at which it errs by no more than ``error``."""
    z = _latent(flow, X[:512])
    for tol in TOLERANCES:
        other = copy.copy(flow)
        other.solver_ = _likelihood.calibrate(flow.velocity_, flow.base_, Grid(tol=tol), z, may_round=True)
        if _error(other.score_samples, rows, exact) <= error:
            return other
    return flow
