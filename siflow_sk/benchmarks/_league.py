"""``league``: this library with default settings against its peers, everything measured in one run."""

import functools

import numpy as np

from . import _timing
from ._flow_peers import FLOW_PEERS
from ._jobs import Job, measure_missing, say, write_page
from ._league_report import collect, draw, page, verdicts
from ._league_tables import TABLES, find_table, load_table
from ._options import add_command, names, seeds
from ._ours import fit_default
from ._peers import PEERS, whitened
from ._records import Records, code_of
from ._scores import pack, summary
from ._tables import Table, digest, prepare, resplit, rows_to_fit

OURS = "siflow_sk"
_PLAIN = {**PEERS, **FLOW_PEERS}
# whitening changes nothing for one Gaussian
MODELS = (OURS, *(m for name in _PLAIN for m in ([name] if name == "gaussian" else [name, f"{name}_white"])))
_NOTHING_RANDOM = ("gaussian", "kde", "kde_white")
_SMALL = 3000  # training rows below which the cap is halved
_QUICK_ROWS = (400, 100, 60)

_DESCRIPTION = """\
Mean test log-density on thirteen open tables: the default estimator, a Gaussian, kernel density, Gaussian
mixture, zuko's MAF, NSF and CNF and flow_matching, plain and after PCA whitening; with ranks, times, and the
significance of the differences. Peers need the extra "bench".

Beside the thirteen, in no rank, miniboone_4807: the training and validation rows of miniboone_partial
together, redrawn into 90 and 10 %, and its test rows.

With --seconds 240 all of it takes some twenty hours on one core; name tables and models to do it in parts.
Everything runs on one thread of the CPU. Caps and times are in seconds of the processor.

The tables are npz files with x_train, x_val and x_test; they are looked for in --data, then in the folder
that the environment variable SIFLOW_DATA names, then in ../shared/data."""


def add_parser(commands):
    parser = add_command(
        commands,
        "league",
        run,
        summary="log-density and time on the open tables, beside every peer",
        description=_DESCRIPTION,
    )
    add = parser.add_argument
    add("--tables", type=names(TABLES), default=TABLES, metavar="A,B", help="only these tables")
    add(
        "--models",
        type=names(MODELS),
        default=MODELS,
        metavar="A,B",
        help=f"only these of {', '.join(MODELS)}",
    )
    add(
        "--splits",
        type=seeds,
        default=(0,),
        metavar="0,1",
        help="0: as stored; others redraw the splits from all rows (default: 0)",
    )
    add(
        "--seconds",
        type=float,
        default=240.0,
        metavar="S",
        help=f"cap on the fit of a peer, halved below {_SMALL:,} training rows; where there are results with "
        "several caps, the largest counts (default: %(default)g)",
    )


def codes():
    """The code that each kind of result rests on; the tables are told apart by their content."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    return {
        "flow": f"{library}-{code_of('benchmarks/_ours.py')}",
        "peer": code_of("benchmarks/_peers.py"),
        "flow peer": code_of("benchmarks/_flow_peers.py"),
    }


def run(
    *,
    data=None,
    output="benchmarks-league.jsonl",
    report=None,
    tables=TABLES,
    models=MODELS,
    splits=(0,),
    seeds=(0,),
    seconds=240.0,
    fresh=False,
    quick=False,
    report_only=False,
    command="",
):
    """Measure what the records lack, then write the report.

    Returns
    -------
    status : int
        1 if anything failed, else 0.

    Raises
    ------
    FileNotFoundError, ValueError
        A table is not there; nothing has been measured then.
    """
    code = codes()
    records = Records(output)
    if report_only:
        _write(records, code, report, quick)
        return 0
    for name in tables:
        find_table(name, data)
    jobs = [
        _job(name, split, model, seed, seconds, data, quick)
        for name in tables
        for split in splits
        for model in models
        for seed in (seeds[:1] if model in _NOTHING_RANDOM else seeds)
    ]
    try:
        with _timing.threads(1):
            failures = measure_missing(jobs, records, code, quick=quick, fresh=fresh, command=command)
    finally:
        _write(records, code, report, quick)
    return 1 if failures else 0


@functools.lru_cache(maxsize=1)  # the jobs come table by table, split by split
def _table(name, split, data, quick):
    table = prepare(resplit(load_table(name, data), split))
    if quick:
        table = Table(*(part[:rows] for part, rows in zip(table, _QUICK_ROWS, strict=True)))
    return table


@functools.cache
def _digest(name, split, data, quick):
    return digest(_table(name, split, data, quick))


def _job(name, split, model, seed, seconds, data, quick):
    kind = "flow" if model == OURS else "flow peer" if model.removesuffix("_white") in FLOW_PEERS else "peer"
    key = {"kind": kind, "table": name, "rows": _digest(name, split, data, quick), "split": split}
    key |= {"model": model, "seed": seed}
    if model != OURS and model not in _NOTHING_RANDOM:
        key["seconds"] = seconds

    def measure():
        table = _table(name, split, data, quick)
        _warm_up(model)
        fit = _ours(name, quick) if model == OURS else _peer(model)
        cap = 0.2 if quick else seconds / (1 if len(table.train) >= _SMALL else 2)
        return measure_model(fit, table, seed, cap)

    def line(record):
        dagger = " (capped)" if record["chosen"].get("capped") else ""
        return (
            f"{name} split {split} {model}, seed {seed}: test NLL {record['mean']:.3f} +- "
            f"{record['standard_error']:.3f}, median {record['median']:.3f}; fit "
            f"{record['fit_seconds']:.1f} s{dagger}, 1,000 rows {record['score_seconds']:.3f} s"
        )

    return Job(key, measure, line)


def measure_model(fit, table, seed, seconds):
    """Fit a model once, score the test rows once, and time 1,000 rows.

    Parameters
    ----------
    fit : callable
        ``fit(table, seed, seconds)`` returns a function from rows to log-densities, and what was chosen.

    Returns
    -------
    result : dict
    """
    now = _timing.clock()
    start = now()
    score, chosen = fit(table, seed, seconds)
    fit_seconds = now() - start
    values = score(table.test)
    rows = np.resize(table.test, (1000, table.test.shape[1]))  # repeats the rows of a small table
    return summary(values) | {
        "device": "cpu",
        "n_train": len(table.train),
        "n_features": table.train.shape[1],
        "fit_seconds": fit_seconds,
        "score_seconds": _timing.median_seconds(lambda: score(rows)),
        "chosen": chosen,
        "log_density": pack(values),
    }


@functools.cache
def _warm_up(model):
    """What is loaded at first use does not belong to the first table."""
    rows = np.random.default_rng(0).standard_normal((150, 4))
    fit = _ours("", quick=True) if model == OURS else _peer(model)
    fit(Table(rows[:120], rows[120:], rows[120:]), 0, 0.01)[0](rows)


def _peer(model):
    plain = _PLAIN[model.removesuffix("_white")]
    return whitened(plain) if model.endswith("_white") else plain


def _ours(name, quick):
    def fit(table, seed, seconds):
        # the peers have no GPU here
        flow, messages = fit_default(rows_to_fit(name, table), seed, quick, device="cpu")
        chosen = {"n_iter": flow.n_iter_, "best_iteration": flow.best_iteration_, "warnings": messages}
        return flow.score_samples, chosen

    return fit


def _write(records, code, report, quick):
    league = collect(records, code, quick, OURS)
    if quick:
        say("with --quick the figures mean nothing:")
    for verdict in verdicts(league):
        say(f"{verdict.outcome.upper()}: {verdict.demand}: {verdict.figure}")
    picture = None if report is None else draw(league, report.with_suffix(".png"))
    write_page(page(league, picture), report)
