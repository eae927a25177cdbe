"""``conditional``: p(y | X) on the tables of the regression literature, beside other models of it."""

import functools
import time
import warnings

import numpy as np
from scipy.stats import kstest

from ..datasets import _files
from . import _conditional_report, _regressors
from ._jobs import Job, measure_and_report, say
from ._options import add_command, names
from ._records import code_of
from ._scores import summary

TABLES = ("concrete", "airfoil", "wine_white", "power_plant", "kin8nm", "protein")
MODELS = tuple(_regressors.MODELS)
COVERAGES = (0.5, 0.8, 0.95)
_MOST_SPLITS = {"protein": 5}  # as in the literature

_DESCRIPTION = """\
The conditional density of the target of six tables: test log-density, coverage of intervals, calibration and
error of the mean, on random splits 90/10, beside a linear Gaussian model, a Gaussian process and
gradient-boosted quantiles from scikit-learn, NGBoost and treeffuser.

The Gaussian process learns its kernel from at most 1,000 rows and is conditioned on at most 4,000. NGBoost
and treeffuser are taken where they are installed (docs/benchmarks/running.rst). On wine_white uniform noise
of one unit's width is added to the rating, for every model alike."""


def add_parser(commands):
    parser = add_command(
        commands, "conditional", run, summary="p(y | X) on six tables", description=_DESCRIPTION
    )
    add = parser.add_argument
    add(
        "--tables",
        type=names(TABLES),
        default=TABLES,
        metavar="A,B",
        help=f"only these of {', '.join(TABLES)}",
    )
    add(
        "--models",
        type=names(MODELS),
        metavar="A,B",
        help=f"of {', '.join(MODELS)} (default: all that are installed)",
    )
    add("--splits", type=int, default=2, metavar="N", help="random splits of each table (default: 2)")


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    rows = code_of("benchmarks/_conditional.py", "benchmarks/_scores.py")
    peers = code_of("benchmarks/_regressors.py")
    return {kind: f"{library if kind == 'ours' else peers}-{rows}" for kind in MODELS}


def run(*, data, seeds, tables, models, splits, quick, **options):
    def jobs():
        found, chosen = [], installed(models)
        for name in tables:
            _files.find_table(name, data)
            table = functools.lru_cache(maxsize=1)(functools.partial(load, name, data))
            for split in range(min(splits, _MOST_SPLITS.get(name, splits))):
                found += [_job(name, model, split, seeds[0], table, quick) for model in chosen]
        return found

    return measure_and_report(jobs, codes(), _conditional_report.page, quick=quick, **options)


def installed(models=None):
    """The models, or all whose package is there; one that was named must be."""
    missing = [model for model in models or MODELS if not _regressors.installed(model)]
    if missing:
        told = f"not installed: {', '.join(missing)}; docs/benchmarks/running.rst says how"
        if models:
            raise ModuleNotFoundError(told)
        say(f"left out, {told}")
    return [model for model in models or MODELS if model not in missing]


def load(name, data=None):
    """All rows of a table: X ``(n, d)`` and the target ``(n,)``, float64."""
    path = _files.find_table(name, data)
    table = _files.load_table(path)
    rows = np.concatenate([table[split] for split in _files.SPLITS]).astype(np.float64)
    with np.load(path) as stored:
        if "y_train" in stored:  # the rating of wine
            y = np.concatenate([stored[f"y_{split}"] for split in _files.SPLITS]).astype(np.float64)
            return rows, y + np.random.default_rng(0).uniform(-0.5, 0.5, len(y))
    return rows[:, :-1], rows[:, -1]


def split_rows(X, y, number):
    """Training and test rows of split ``number``: 90/10, drawn by ``default_rng(number)``."""
    order = np.random.default_rng(number).permutation(len(y))
    test, train = np.split(order, [round(0.1 * len(y))])
    return X[train], y[train], X[test], y[test]


def outcome(log_density, pit, mean, y):
    """What is told of the test rows."""
    inside = {f"coverage_{c:g}": float(np.mean(np.abs(pit - 0.5) <= 0.5 * c)) for c in COVERAGES}
    return (
        summary(log_density)
        | inside
        | {
            "pit_ks": float(kstest(pit, "uniform").statistic),
            "rmse": float(np.sqrt(np.mean((mean - y) ** 2))),
        }
    )


def _job(name, model, split, seed, table, quick):
    def measure():
        X, y = table()
        if quick:
            rows = np.random.default_rng(0).permutation(len(y))[:300]
            X, y = X[rows], y[rows]
        X, y, X_test, y_test = split_rows(X, y, split)
        fit = _regressors.MODELS[model]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start = time.perf_counter()
            predict = fit(X, y, seed, quick)
            fit_seconds = time.perf_counter() - start
            start = time.perf_counter()
            found = outcome(*predict(X_test, y_test), y_test)
        return found | {
            "n_train": len(y),
            "n_features": X.shape[1],
            "fit_seconds": fit_seconds,
            "predict_seconds": time.perf_counter() - start,
            "warnings": sorted({str(w.message) for w in caught}),
        }

    def line(record):
        return (
            f"{name} {model}, split {split}: test NLL {record['mean']:.3f}, coverage of 80 % "
            f"{record['coverage_0.8']:.1%}, KS {record['pit_ks']:.3f}, RMSE {record['rmse']:.4g}; fit "
            f"{record['fit_seconds']:.1f} s"
        )

    return Job({"kind": model, "table": name, "split": split, "seed": seed}, measure, line)
