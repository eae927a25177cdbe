"""``missing``: a fifth of three tables removed, then filled again, beside scikit-learn's imputers."""

import functools
import time
import warnings

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from ..flow import InterpolantFlow
from ..imputer import InterpolantImputer
from . import _missing_report
from ._jobs import Job, measure_and_report
from ._options import add_command, names, parameters
from ._records import code_of
from ._scores import summary
from ._tables import TABLES as ALL
from ._tables import find_table, load_table, prepare

TABLES = ("power_plant", "wine_white", "breast_cancer")
MODELS = ("knn", "iterative", "ours")
SHARE = 0.2  # of the values, removed completely at random
DRAWS = 20  # of every value that was removed from the test rows

_DESCRIPTION = """\
A fifth of the values of three tables is removed at random, from training and test rows. Told of the test
rows: the log-density of what is left, and for what was removed the error of the mean and the continuous
ranked probability score of 20 draws, beside scikit-learn's IterativeImputer and KNNImputer.

These two have no density: a Gaussian is fitted to the training rows as they fill them."""


def add_parser(commands):
    parser = add_command(
        commands, "missing", run, summary="rows with missing values", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("--tables", type=names(ALL), default=TABLES, metavar="A,B", help=f"of {', '.join(ALL)}")
    add("--models", type=names(MODELS), default=MODELS, metavar="A,B", help=f"of {', '.join(MODELS)}")
    add("--rows", type=int, default=1000, metavar="N", help="training rows at most (default: 1000)")
    add(
        "--set",
        type=parameters,
        default={},
        dest="flow",
        metavar="NAME=VALUE,...",
        help="parameters of the flow that are not the default",
    )


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    rows = code_of("benchmarks/_missing.py", "benchmarks/_scores.py", "benchmarks/_tables.py")
    return {kind: f"{library}-{rows}" if kind == "ours" else rows for kind in MODELS}


def run(*, data, seeds, tables, models, rows, flow, quick, **options):
    def jobs():
        found = []
        for name in tables:
            find_table(name, data)
            table = functools.lru_cache(maxsize=1)(functools.partial(load_table, name, data))
            for seed in seeds:
                found += [_job(name, model, seed, table, rows, flow, quick) for model in models]
        return found

    return measure_and_report(jobs, codes(), _missing_report.page, quick=quick, **options)


def with_gaps(X, seed):
    """The same gaps for every model."""
    return np.where(np.random.default_rng(seed).random(X.shape) < SHARE, np.nan, X)


def crps(draws, truth):
    """Continuous ranked probability score of draws ``(n, m)``, unbiased in m; one draw gives its error."""
    m = draws.shape[1]
    off = np.abs(draws - truth[:, None]).mean(axis=1)
    ordered = np.sort(draws, axis=1) * (2.0 * np.arange(m) - m + 1.0)
    return off - (ordered.sum(axis=1) / (m * (m - 1)) if m > 1 else 0.0)


def gaussian_marginals(filled, X):
    """Log-density of what is there in the rows of X, of a Gaussian fitted to filled rows."""
    mean = filled.mean(axis=0)
    covariance = np.atleast_2d(np.cov(filled.T)) + 1e-6 * np.eye(len(mean))
    seen = ~np.isnan(X)
    return np.array(
        [
            multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(x[o]) if o.any() else 0.0
            for x, o in zip(X, seen, strict=True)
        ]
    )


def fit(model, X, seed, flow):
    """``predict(X)`` -> (log-density, its error, means ``(n, d)``, draws ``(n, m, d)``)."""
    if model == "ours":
        flow = InterpolantFlow(random_state=seed).set_params(**flow)
        imputer = InterpolantImputer(flow, random_state=seed).fit(X)
        return lambda X: (
            *imputer.score_samples(X, return_error=True),
            imputer.transform(X),
            imputer.impute(X, DRAWS, random_state=seed),
        )
    if model == "knn":
        imputer = KNNImputer().fit(X)
        draw, n_draws = imputer, 1
    else:
        imputer = IterativeImputer(random_state=seed).fit(X)
        draw, n_draws = IterativeImputer(sample_posterior=True, random_state=seed).fit(X), DRAWS
    filled = draw.transform(X)

    def predict(X):
        draws = np.stack([draw.transform(X) for _ in range(n_draws)], axis=1)
        return gaussian_marginals(filled, X), np.zeros(len(X)), imputer.transform(X), draws

    return predict


def outcome(log_density, error, means, draws, X, truth):
    """What is told of the test rows."""
    gap = np.isnan(X)
    return summary(log_density) | {
        "error": float(error.mean()),
        "rmse": float(np.sqrt(np.mean((means - truth)[gap] ** 2))),
        "crps": float(crps(np.moveaxis(draws, 1, 2)[gap], truth[gap]).mean()),
    }


def _job(name, model, seed, table, rows, flow, quick):
    budget = flow | ({"max_iter": 20, "polish": 10, "velocity__width": 32} if quick else {})

    def measure():
        prepared = prepare(table())
        limit, rng = (200 if quick else rows), np.random.default_rng(seed)
        train, test = (part[rng.permutation(len(part))] for part in (prepared.train, prepared.test))
        train, test = train[:limit], test[: max(1, limit // 2)]
        X, X_test = with_gaps(train, seed), with_gaps(test, seed + 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = time.perf_counter()
            predict = fit(model, X, seed, budget)
            fit_seconds = time.perf_counter() - start
            start = time.perf_counter()
            found = outcome(*predict(X_test), X_test, test)
        return found | {
            "n_train": len(X),
            "n_features": X.shape[1],
            "n_complete": int((~np.isnan(X).any(axis=1)).sum()),
            "fit_seconds": fit_seconds,
            "predict_seconds": time.perf_counter() - start,
            "warnings": sorted({str(w.message) for w in caught}),
        }

    def line(record):
        return (
            f"{name} {model}: NLL of what is left {record['mean']:.3f}, RMSE {record['rmse']:.3f}, CRPS "
            f"{record['crps']:.3f}; fit {record['fit_seconds']:.1f} s"
        )

    key = {"kind": model, "table": name, "seed": seed, "rows": rows}
    return Job(key | ({"flow": flow} if model == "ours" else {}), measure, line)
