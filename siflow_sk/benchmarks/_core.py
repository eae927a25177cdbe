"""``core``: the figures that the estimator has to show, measured or taken from an earlier run's records."""

import functools
import time

from threadpoolctl import threadpool_limits

from . import _costs
from ._jobs import Job, measure_missing, say, write_page
from ._options import add_command, names
from ._ours import measure_flow
from ._peers import PEERS
from ._records import Records, code_of
from ._report import page
from ._scores import summary
from ._tables import TABLES, Table, find_table, load_table, prepare
from ._verdicts import collect, verdicts

SECTIONS = ("divergence", "memory", "tables")

_DESCRIPTION = """\
The figures of the default estimator: cost of an exact divergence, memory of scoring, and on thirteen open
tables the test log-density, the time of a fit and the time of scoring beside a Gaussian, a kernel density, a
Gaussian mixture and published flows. With one seed about two minutes a table for the fit, and up to four for
the mixture.

The tables are npz files with x_train, x_val and x_test; they are looked for in --data, then in the folder
that the environment variable SIFLOW_DATA names, then in ../shared/data."""

_QUICK_ROWS = (1000, 300, 300)
_QUICK_MEMORY_ROWS = (1000, 10_000)


def add_parser(commands):
    parser = add_command(
        commands,
        "core",
        run,
        summary="fit, scoring and memory of the default estimator on the open tables",
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "--tables", type=names(TABLES), default=TABLES, metavar="A,B", help="only these tables"
    )
    parser.add_argument(
        "--sections",
        type=names(SECTIONS),
        default=SECTIONS,
        metavar="A,B",
        help=f"only these of {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--peer-seconds",
        type=float,
        default=240.0,
        metavar="S",
        help="cap on the mixture's search, halved below 3,000 training rows (default: %(default)g)",
    )


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    shared = ("benchmarks/_tables.py", "benchmarks/_scores.py")
    memory = ("benchmarks/_costs.py", "benchmarks/_memory.py", "benchmarks/_timing.py")
    return {
        "flow": f"{library}-{code_of('benchmarks/_ours.py', *shared)}",
        "peer": code_of("benchmarks/_peers.py", *shared),
        "divergence": f"{library}-{code_of('benchmarks/_costs.py')}",
        "memory": f"{library}-{code_of(*memory)}",
    }


def run(
    *,
    data=None,
    output="benchmarks-core.jsonl",
    report=None,
    tables=TABLES,
    seeds=(0,),
    sections=SECTIONS,
    peer_seconds=240.0,
    fresh=False,
    quick=False,
    report_only=False,
    command="",
):
    """Measure what the records lack, then write the report.

    A result that fails is reported in its line and does not stop the others.

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
    if "tables" in sections:
        for name in tables:
            find_table(name, data)
    jobs = [
        *(_divergence_jobs(quick) if "divergence" in sections else ()),
        *(_memory_jobs(quick) if "memory" in sections else ()),
        *(_table_jobs(data, tables, seeds, peer_seconds, quick) if "tables" in sections else ()),
    ]
    try:
        failures = measure_missing(jobs, records, code, quick=quick, fresh=fresh, command=command)
    finally:
        _write(records, code, report, quick)
    return 1 if failures else 0


def _write(records, code, report, quick):
    results = collect(records, code, quick)
    if quick:
        say("with --quick the figures mean nothing:")
    for verdict in verdicts(results):
        say(f"{verdict.outcome.upper()}: {verdict.demand}: {verdict.figure}")
    write_page(page(results), report)


# -- tables ----------------------------------------------------------------------------------------------


def _table_jobs(data, names, seeds, peer_seconds, quick):
    for name in names:
        table = functools.cache(functools.partial(_table, name, data, quick))
        for model in PEERS:
            # the other peers have nothing random
            for seed in seeds if model == "gmm" else seeds[:1]:
                yield _peer_job(name, table, model, seed, peer_seconds, quick)
        for seed in seeds:
            yield _flow_job(name, table, seed, quick)


def _table(name, data, quick):
    table = prepare(load_table(name, data))
    if quick:
        table = Table(*(split[:rows] for split, rows in zip(table, _QUICK_ROWS, strict=True)))
    return table


def _peer_job(name, table, model, seed, peer_seconds, quick):
    key = {"kind": "peer", "table": name, "model": model}
    if model == "gmm":
        key |= {"seed": seed, "peer_seconds": peer_seconds}

    def measure():
        splits = table()
        # small tables need less, as the page with the published figures says
        cap = 3.0 if quick else peer_seconds * (1.0 if len(splits.train) >= 3000 else 0.5)
        start = time.perf_counter()
        with threadpool_limits(1):  # small matrices: two threads on a busy machine are many times slower
            score, chosen = PEERS[model](splits, seed, cap)
            values = score(splits.test)
        return summary(values) | {"seconds": time.perf_counter() - start, "chosen": chosen}

    def line(record):
        chosen = ", ".join(f"{k} {v:g}" for k, v in record["chosen"].items())
        return f"{name} {model}: {_nll(record)}; {chosen}; {record['seconds']:.0f} s"

    return Job(key, measure, line)


def _flow_job(name, table, seed, quick):
    def line(record):
        return (
            f"{name} InterpolantFlow, seed {seed}: {_nll(record)}; fit {record['fit_seconds']:.1f} s, "
            f"1,000 rows {record['score_seconds']:.2f} s, {record['n_steps']} steps"
        )

    return Job(
        {"kind": "flow", "table": name, "seed": seed}, lambda: measure_flow(name, table(), seed, quick), line
    )


def _nll(record):
    return f"test NLL {record['mean']:.3f} +- {record['standard_error']:.3f}, median {record['median']:.3f}"


# -- costs -----------------------------------------------------------------------------------------------


def _divergence_jobs(quick):
    settings = {"n_rows": 256, "repeats": 3, "trace_repeats": 1} if quick else {}

    def line(record):
        return (
            f"v and div v, d = {record['n_features']}, {record['dtype']}: {record['ratio']:.2f} forward "
            f"passes; autograd trace {record['trace_ratio']:.1f}"
        )

    for dtype in _costs.DTYPES:
        for d in _costs.DIMENSIONS:
            yield Job(
                {"kind": "divergence", "n_features": d, "dtype": dtype},
                functools.partial(_costs.divergence_cost, d, dtype, **settings),
                line,
            )


def _memory_jobs(quick):
    def line(record):
        return f"memory of scoring {record['n_rows']:,} rows: {record['peak_bytes'] / 2**20:.1f} MiB"

    for n_rows in _QUICK_MEMORY_ROWS if quick else _costs.MEMORY_ROWS:
        yield Job(
            {"kind": "memory", "n_rows": n_rows},
            functools.partial(_costs.scoring_memory, n_rows, **({"repeats": 1} if quick else {})),
            line,
        )
