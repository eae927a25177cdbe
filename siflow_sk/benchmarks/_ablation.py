"""``ablation``: one change of the default estimator at a time, on resampled splits of the open tables."""

import functools

import numpy as np

from . import _ablation_report, _timing
from ._jobs import Job, measure_and_report, say
from ._options import add_command, names, seeds
from ._ours import fit_default
from ._records import code_of
from ._scores import pack, summary
from ._tables import TABLES, digest, find_table, load_table, prepare, resplit, rows_to_fit

# name -> what differs from the default; the first is the default itself
LEVERS = {
    "default": {},
    "other seed": {},  # how much two fits differ; with the first it is an ensemble of two
    "no polish": {"polish": 0},
    "no kernel marginals": {"preprocessor__density": False},
    "no marginal map": {"preprocessor": "whiten"},
    "no whitening": {"preprocessor": "standardize"},
    "Student-t base": {"base": "student_t"},
    "one network": {"n_networks": 1},
    "two networks": {"n_networks": 2},
    # a velocity that is given is one network
    "one of width 128": {"velocity__width": 128},
    "one of width 64": {"velocity__width": 64},
    "one of two blocks": {"velocity__n_blocks": 2},
    "one with silu": {"velocity__activation": "silu"},
    "no weight decay": {"weight_decay": 0.0},
    "weight decay 0.5": {"weight_decay": 0.5},
    "weight decay 2": {"weight_decay": 2.0},
    "no average of weights": {"ema_decay": 0.0},
    "learning rate 1e-3": {"learning_rate_init": 1e-3},
    "a third of the steps": {"max_iter": 100, "polish": 800},
    "validation 0.2": {"validation_fraction": 0.2},
    "linear path": {"interpolant": "linear"},
    "optimal transport": {"coupling": "optimal_transport"},
}
OTHER_SEED = 1_000  # added to the seed
_MOST_TEST_ROWS = 2000
_QUICK_ROWS = 120

_DESCRIPTION = """\
What each default is worth: the default estimator and the same with one thing changed, fitted to the same rows
and compared on the same test rows, over the open tables and resampled splits. For every lever the mean
difference of the test log-density and its standard error; and the average of the densities of two fits that
differ in their seed.

With --rows 500 every table is a small one, with the test rows of a large one. Everything runs on one thread
of the CPU."""


def add_parser(commands):
    parser = add_command(
        commands, "ablation", run, summary="what each default is worth", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("--tables", type=names(TABLES), default=TABLES, metavar="A,B", help="only these tables")
    add(
        "--levers",
        type=names(LEVERS),
        default=tuple(LEVERS),
        metavar="A,B",
        help=f"the default and only these of {', '.join(LEVERS)}",
    )
    add(
        "--splits",
        type=seeds,
        default=(1, 2),
        metavar="1,2",
        help="numbers of resampled splits (default: 1,2)",
    )
    add("--rows", type=int, metavar="N", help="fit to at most this many rows (default: all)")


def codes():
    """The code that the results rest on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    return {"ablation": f"{library}-{code_of('benchmarks/_ours.py', 'benchmarks/_tables.py')}"}


def run(*, data, seeds, tables, levers, splits, rows, quick, **options):
    def jobs():
        for name in tables:  # before anything is measured
            find_table(name, data)
        limit = _QUICK_ROWS if quick else rows
        return [
            _job(name, split, lever, seed, limit, data, quick)
            for split in splits
            for name in tables
            for seed in seeds
            for lever in dict.fromkeys(["default", *levers])
        ]

    def page(kept, current, quick):
        for line in _ablation_report.lines(kept):
            say(line)
        return _ablation_report.page(kept, current, quick, TABLES, LEVERS)

    with _timing.threads(1):
        return measure_and_report(jobs, codes(), page, quick=quick, **options)


@functools.lru_cache(maxsize=1)  # the jobs come split by split, table by table
def rows_of(name, split, limit=None, data=None):
    """Rows to fit, at most ``limit``, and at most 2,000 test rows; prepared as in the league."""
    table = prepare(resplit(load_table(name, data), split))
    rows = rows_to_fit(name, table)
    if limit is not None:
        rows = rows[np.sort(np.random.default_rng(split).permutation(len(rows))[:limit])]
    return rows, table.test[:_MOST_TEST_ROWS]


def _job(name, split, lever, seed, limit, data, quick):
    parameters = LEVERS[lever]
    key = {"kind": "ablation", "table": name, "split": split, "lever": lever, "seed": seed}
    key |= {"parameters": parameters, "limit": limit}

    def measure():
        rows, test = rows_of(name, split, limit, data)
        now = _timing.clock()
        start = now()
        used = seed + OTHER_SEED * (lever == "other seed")
        flow, messages = fit_default(rows, used, quick, device="cpu", **_with_budget(parameters, quick))
        seconds = now() - start
        values = flow.score_samples(test)
        return summary(values) | {
            "rows": digest((rows, test)),
            "n_fit": len(rows),
            "n_features": rows.shape[1],
            "fit_seconds": seconds,
            "n_iter": flow.n_iter_,
            "warnings": messages,
            "log_density": pack(values),
        }

    def line(record):
        return (
            f"{name} split {split}, {lever}, seed {seed}: test NLL {record['mean']:.3f} +- "
            f"{record['standard_error']:.3f}; fit {record['fit_seconds']:.1f} s"
        )

    return Job(key, measure, line)


def _with_budget(parameters, quick):
    """Without the budgets of the lever where --quick sets its own."""
    return {k: v for k, v in parameters.items() if not (quick and k in ("max_iter", "polish"))}
