"""One round of ``soak``: an estimator with settings drawn at random, fitted and put to use."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.base import clone
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import PowerTransformer, StandardScaler

from .. import (
    ConditionalInterpolantFlow,
    DensityPipeline,
    InterpolantClassifier,
    InterpolantFlow,
    InterpolantImputer,
    InterpolantOutlierDetector,
    InterpolantTransport,
    MixedDensity,
    load,
)
from ..persistence import Checkpoint
from ..velocities import MLP, ConditionalMLP, ResidualMLP

_MOST_CALLS = 3


def _pick(rng, *values):
    return values[rng.integers(len(values))]


def _settings(rng, mlp=MLP):
    """What all flows share."""
    width = int(rng.integers(4, 25))
    return {
        "interpolant": _pick(rng, "linear", "trigonometric", "fourier"),
        "velocity": _pick(rng, mlp(width=width), mlp(width=width), ResidualMLP(width=8, depth=1)),
        "preprocessor": _pick(rng, "gaussianize", "whiten", "standardize", "none"),
        "solver": _pick(rng, "grid", "grid", "grid", "dopri5", "rk4", "torchdiffeq"),
        "max_iter": int(rng.integers(1, 21)),
        "batch_size": _pick(rng, 32, 100, "auto"),
        "inference_dtype": _pick(rng, "auto", "float64", "float32"),
        "random_state": int(rng.integers(2**31)),
    }


def _flow(rng):
    settings = _settings(rng)
    return InterpolantFlow(
        **settings,
        n_networks=1 if settings["interpolant"] == "fourier" else _pick(rng, 1, 1, 2),
        base=_pick(rng, "normal", "gaussian", "student_t", "uniform", KernelDensity()),
        coupling=_pick(rng, "independent", "independent", "optimal_transport"),
        polish=int(rng.integers(0, 11)),
    )


def _transport(rng):
    source = _pick(rng, None, KernelDensity())
    return InterpolantTransport(**_settings(rng), source_density=source)


def _pipeline(rng):
    step = _pick(rng, StandardScaler(), PowerTransformer())
    return DensityPipeline([("step", step), ("flow", _flow(rng))])


ESTIMATORS = {
    "ConditionalInterpolantFlow": lambda rng: ConditionalInterpolantFlow(
        **_settings(rng, ConditionalMLP), polish=int(rng.integers(0, 11))
    ),
    "DensityPipeline": _pipeline,
    "InterpolantClassifier": lambda rng: InterpolantClassifier(_flow(rng)),
    "InterpolantFlow": _flow,
    "InterpolantImputer": lambda rng: InterpolantImputer(_flow(rng), n_rounds=1, n_points=4, random_state=0),
    "InterpolantOutlierDetector": lambda rng: InterpolantOutlierDetector(_flow(rng)),
    "InterpolantTransport": _transport,
    "MixedDensity": lambda rng: MixedDensity(_flow(rng), n_draws=2, random_state=0),
}


def _table(name, rng):
    """Rows, and what ``fit`` takes beside them: a target, labels, a second table or nothing."""
    n, d = int(rng.integers(60, 151)), int(rng.integers(2, 6))
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 10.0 * rng.standard_normal(d)
    if name == "MixedDensity":
        X[:, 0] = rng.integers(0, 4, n)
    if name == "InterpolantImputer":
        X[rng.random(n) < 0.2, 0] = np.nan
    target = X[:, 0] + rng.standard_normal(n)
    second = {
        "ConditionalInterpolantFlow": target,
        "InterpolantClassifier": (target > np.median(target)).astype(int),
        "InterpolantTransport": 2.0 * rng.standard_normal((n, d)) + 1.0,
    }
    return X, second.get(name)


def _calls(estimator, X, y, rng):
    """Name -> a call of a public method that the estimator has."""
    seed, t, few = int(rng.integers(2**31)), float(rng.random()), X[:12]
    rows, given = (X,), ()
    if isinstance(estimator, ConditionalInterpolantFlow):
        rows, given = (X, y), (few,)
    known = {
        "score_samples": lambda: estimator.score_samples(*rows),
        "sample": lambda: estimator.sample(*given, 20, random_state=seed),
        "transform": lambda: estimator.transform(X),
        "inverse_transform": lambda: estimator.inverse_transform(few),
        "velocity_field": lambda: estimator.velocity_field(t, few),
        "divergence": lambda: estimator.divergence(t, few),
        "path_length": lambda: estimator.path_length(50, random_state=seed),
        "impute": lambda: estimator.impute(few, random_state=seed),
        "path": lambda: estimator.path(few, [0.0, t, 1.0]),
        "predict": lambda: estimator.predict(few),
        "predict_interval": lambda: estimator.predict_interval(few),
        "cdf": lambda: estimator.cdf(*rows),
        "predict_proba": lambda: estimator.predict_proba(X),
        "decision_function": lambda: estimator.decision_function(X),
    }
    if isinstance(estimator, InterpolantFlow):
        known["score_samples, error"] = lambda: estimator.score_samples(X, return_error=True)
        if estimator.base in ("normal", "gaussian", "student_t"):  # others have no gradient
            known["score_function"] = lambda: estimator.score_function(t, few)
    return {name: call for name, call in known.items() if hasattr(estimator, name.partition(",")[0])}


def _equal(found, expected, what):
    for a, b in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
        if not np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f"):
            raise AssertionError(f"{what} answers otherwise")


def _refuse(estimator, X, y, call):
    """A fit on bad rows is refused and changes nothing."""
    before, bad = call(), X.copy()
    bad[3, 0] = np.inf
    try:
        estimator.fit(bad, y)
    except ValueError:
        return _equal(call(), before, "the estimator after a refused fit")
    raise AssertionError("a fit on infinity was not refused")


def play(seed, folder):
    """The round of a seed: fit, a few calls, save, load, and one thing out of the ordinary.

    Parameters
    ----------
    seed : int
        Every whole number is another round; as many in a row as there are estimators use each of them once.
    folder : Path
        For files; they are removed again.

    Returns
    -------
    name : str
        Of the estimator.

    Raises
    ------
    AssertionError
        What was saved and loaded, pickled, or asked by two threads at once, does not answer to the bit as
        the estimator did, or a bad fit was not refused.
    """
    rng = np.random.default_rng(seed)
    name = list(ESTIMATORS)[seed % len(ESTIMATORS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X, y = _table(name, rng)
        estimator = ESTIMATORS[name](rng)
        if isinstance(estimator, InterpolantFlow) and rng.random() < 0.3:
            path = folder / "checkpoint"
            estimator.fit(X, checkpoint=Checkpoint(path, every=0.1))
            path.unlink()
        else:
            estimator.fit(X, y)
        state = int(rng.integers(2**31))

        def calls(of):
            return _calls(of, X, y, np.random.default_rng(state))

        own = calls(estimator)
        chosen = [str(c) for c in rng.permutation(list(own))[:_MOST_CALLS]]
        answers = {call: own[call]() for call in chosen}

        path = folder / "model"
        estimator.save(path)
        woken = load(path)
        path.unlink()
        _equal(calls(woken)[chosen[0]](), answers[chosen[0]], f"after save and load, {chosen[0]} of {name}")

        call = own[chosen[0]]
        extra = rng.integers(5)
        if extra == 0:
            again = calls(pickle.loads(pickle.dumps(estimator)))[chosen[0]]()
            _equal(again, answers[chosen[0]], f"after pickle, {chosen[0]} of {name}")
        elif extra == 1:
            with ThreadPoolExecutor(2) as pool:
                for again in pool.map(lambda _: call(), range(2)):
                    _equal(again, answers[chosen[0]], f"in a thread, {chosen[0]} of {name}")
        elif extra == 2:
            _refuse(estimator, X, y, call)
        elif extra == 3:
            clone(estimator).fit(X, y)
        elif hasattr(estimator, "partial_fit"):
            estimator.partial_fit(X)
    return name
