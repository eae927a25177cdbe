"""``errors``: how often the error that ``score_samples`` estimates bounds the true one."""

import copy
import functools
import math
import time
import warnings

import numpy as np
import torch
from sklearn import datasets

from .. import InterpolantFlow
from ..solvers import DormandPrince
from ..velocities import MLP
from . import _errors_report
from ._jobs import Job, measure_and_report
from ._options import add_command, names
from ._records import code_of
from ._tables import Table, find_table, load_table, prepare, rows_to_fit

# from files, and bundled with scikit-learn
FILES = ("power_plant", "airfoil", "concrete", "kin8nm", "magic_gamma", "parkinsons_telemonitoring")
BUNDLED = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "breast_cancer_wisconsin": datasets.load_breast_cancer,
}
TABLES = (*FILES, *BUNDLED)

# name -> parameters of the estimator
VARIANTS = {
    "grid": {},
    "grid, float32": {"inference_dtype": "float32"},
    "dopri5": {"solver": "dopri5"},
}
REFERENCE = 1e-10
STRETCH = 3.0

_MOST_ROWS = 256
_BUDGET = {"max_iter": 100, "polish": 100, "velocity": MLP(width=64)}
_QUICK_BUDGET = {"max_iter": 10, "polish": 5, "velocity": MLP(width=16)}

_DESCRIPTION = """\
score_samples(X, return_error=True) beside the same flow solved by adaptive steps at a tolerance of 1e-10, on
ten tables: held-out rows, and the same rows moved to three times their distance from the mean. The fits are
short (a network of width 64, 100 steps of each stage): what is measured is the solver."""
_SUMMARY = "estimated against true errors of log-densities"


def add_parser(commands):
    parser = add_command(commands, "errors", run, summary=_SUMMARY, description=_DESCRIPTION)
    parser.add_argument(
        "--tables", type=names(TABLES), default=TABLES, metavar="A,B", help=f"of {', '.join(TABLES)}"
    )


def codes():
    """The code that the results rest on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    return {"errors": f"{library}-{code_of('benchmarks/_errors.py', 'benchmarks/_tables.py')}"}


def run(*, data, seeds, tables, quick, **options):
    def jobs():
        for name in set(tables) & set(FILES):  # before anything is measured
            find_table(name, data)
        return [
            _job(name, variant, seed, functools.partial(rows_of, name, data), quick)
            for name in tables
            for seed in seeds
            for variant in VARIANTS
        ]

    return measure_and_report(jobs, codes(), _errors_report.page, quick=quick, **options)


def _job(name, variant, seed, rows, quick):
    def line(record):
        held, far = record["held_out"], record["stretched"]
        return (
            f"{name}, {variant}, seed {seed}: bounded {100 * held['coverage']:.1f} % of held-out rows, "
            f"{100 * far['coverage']:.1f} % of stretched ones; largest ratio {held['largest_ratio']:.2g}"
        )

    def measured():
        return measure(*rows(), seed, quick, **VARIANTS[variant])

    return Job({"kind": "errors", "table": name, "variant": variant, "seed": seed}, measured, line)


def rows_of(name, data=None):
    """Rows to fit and held-out rows of a table, prepared as in the league."""
    if name in FILES:
        table = prepare(load_table(name, data))
        return rows_to_fit(name, table), table.test[:_MOST_ROWS]
    rows = BUNDLED[name]().data
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    n = len(rows) // 5
    table = prepare(Table(rows[2 * n :], rows[:n], rows[n : 2 * n]))
    return np.concatenate([table.train, table.valid]), table.test


def measure(train, test, seed, quick=False, **parameters):
    """Fit, and compare the estimated with the true errors of ``test`` and of its stretched rows."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        budget = _QUICK_BUDGET if quick else _BUDGET
        flow = InterpolantFlow(random_state=seed, **budget, **parameters).fit(train)
        centre = train.mean(axis=0)
        found = {
            "held_out": compare(flow, test),
            "stretched": compare(flow, centre + STRETCH * (test - centre)),
        }
    return found | {
        "n_train": len(train),
        "n_features": train.shape[1],
        "n_steps": getattr(flow.solver_, "n_steps_", None),
        "safety": getattr(flow.solver_, "safety_", None),
        "seconds": time.perf_counter() - start,
    }


def reference_of(flow):
    """The same flow, solved in float64 with a step of its own for every row."""
    reference = copy.copy(flow)
    reference.velocity_ = copy.deepcopy(flow.velocity_).double()
    reference._network_dtype = torch.float64
    reference.solver_ = DormandPrince(rtol=REFERENCE, atol=REFERENCE, max_steps=20_000)
    return reference


def compare(flow, X):
    """Estimated against true errors of the rows of ``X``.

    A row counts as bounded if its value lies within its own estimate, and that of the reference, of the
    reference.  Rows that the solver gave up (NaN) or that have density zero are counted apart.
    """
    value, error = flow.score_samples(X, return_error=True)
    true, own = reference_of(flow).score_samples(X, return_error=True)
    known = np.isfinite(true)
    solved = known & np.isfinite(value)
    difference = np.abs(value[solved] - true[solved])
    bounded = difference <= error[solved] + own[solved]
    ratio = np.maximum(0.0, difference - own[solved]) / error[solved]
    return {
        "n_rows": len(X),
        "n_unsolved": int((known & np.isnan(value)).sum()),
        "n_no_reference": int((~known).sum()),
        "coverage": float(bounded.mean()) if len(bounded) else math.nan,
        "median_error": float(np.median(difference)),
        "largest_error": float(difference.max()),
        "median_estimate": float(np.median(error[solved])),
        "largest_ratio": float(ratio.max()),
        "reference_error": float(own[solved].max()),
    }
