"""Our estimator on one table: default settings, fitted once, scored once."""

import statistics
import time
import warnings

import numpy as np

from .. import InterpolantFlow
from ._scores import summary
from ._tables import rows_to_fit


def fit_default(X, seed, quick=False, **parameters):
    """Fit with default settings, but for ``parameters``, for example a device.

    Returns
    -------
    flow : InterpolantFlow
    messages : list of str
        Of the warnings.

    Raises
    ------
    KeyboardInterrupt
        Also where ``fit`` kept its best so far: half a fit is no result.
    """
    budget = {"max_iter": 20, "polish": 10} if quick else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow = InterpolantFlow(random_state=seed, **budget).set_params(**parameters).fit(X)
    messages = sorted({str(w.message) for w in caught})
    if any(message.startswith("Training interrupted") for message in messages):
        raise KeyboardInterrupt
    return flow, messages


def measure_flow(name, table, seed, quick=False):
    """Fit with default settings, score the test rows once, and time 1,000 rows.

    Returns
    -------
    result : dict
        Negative log-likelihoods in nats, seconds, and what the fit chose.
    """
    found = fit_and_score(rows_to_fit(name, table), table.test, seed, quick)
    return found | {"n_train": len(table.train)}


def fit_and_score(X, test, seed, quick=False, **parameters):
    """As :func:`measure_flow`, for given rows and parameters."""
    start = time.perf_counter()
    flow, messages = fit_default(X, seed, quick, **parameters)
    fit_seconds = time.perf_counter() - start
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log_density, error = flow.score_samples(test, return_error=True)
        rows = np.resize(test, (1000, X.shape[1]))  # repeats the rows of a small table
        score_seconds = statistics.median(_seconds(flow.score_samples, rows) for _ in range(3))
    messages = sorted({*messages, *(str(w.message) for w in caught)})
    return summary(log_density) | {
        "quadratic_validation": _negative(flow.quadratic_validation_score_),
        "polished_validation": _negative(flow.best_validation_score_),
        "n_fit": len(X),
        "n_features": X.shape[1],
        "fit_seconds": fit_seconds,
        "score_seconds": score_seconds,
        "n_steps": flow.solver_.n_steps_,
        "largest_error": float(np.max(error)),
        "n_iter": flow.n_iter_,
        "best_iteration": flow.best_iteration_,
        "warnings": messages,
    }


def _seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _negative(score):
    return None if score is None else -score
