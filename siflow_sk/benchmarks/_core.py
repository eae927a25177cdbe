"""``core``: the figures that the estimator has to show, measured or taken from an earlier run's records."""

import functools
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from threadpoolctl import threadpool_limits

from .. import __version__
from . import _costs
from ._ours import measure_flow
from ._peers import PEERS
from ._records import Records, circumstances, code_of
from ._report import page
from ._scores import summary
from ._tables import TABLES, Table, find_table, load_table, prepare
from ._verdicts import collect, verdicts

SECTIONS = ("divergence", "memory", "tables")

_QUICK_ROWS = (1000, 300, 300)
_QUICK_MEMORY_ROWS = (1000, 10_000)


class Job(NamedTuple):
    """One result: how it is found among the records, how it is measured, how it reads in one line."""

    key: dict
    measure: Callable
    line: Callable


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    shared = ("benchmarks/_tables.py", "benchmarks/_scores.py")
    return {
        "flow": f"{library}-{code_of('benchmarks/_ours.py', *shared)}",
        "peer": code_of("benchmarks/_peers.py", *shared),
        "divergence": f"{library}-{code_of('benchmarks/_costs.py')}",
        "memory": f"{library}-{code_of('benchmarks/_costs.py', 'benchmarks/_memory.py')}",
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
    failures = 0
    if not report_only:
        if "tables" in sections:
            for name in tables:
                find_table(name, data)
        jobs = [
            *(_divergence_jobs(quick) if "divergence" in sections else ()),
            *(_memory_jobs(quick) if "memory" in sections else ()),
            *(_table_jobs(data, tables, seeds, peer_seconds, quick) if "tables" in sections else ()),
        ]
        try:
            for number, job in enumerate(jobs, 1):
                key = job.key | {"version": __version__, "code": code[job.key["kind"]], "quick": quick}
                label = f"[{number}/{len(jobs)}]"
                found = None if fresh else records.find(key)
                if found is not None:
                    _say(f"{label} {job.line(found)} (stored)")
                    continue
                failures += not _measure(job, key, records, label, command)
        finally:
            _write(records, code, report, quick)
    else:
        _write(records, code, report, quick)
    return 1 if failures else 0


def _measure(job, key, records, label, command):
    try:
        around = circumstances()
        record = key | job.measure() | {"circumstances": around | {"command": command}}
    except Exception as error:  # one table must not cost the others
        traceback.print_exc()
        _say(f"{label} {' '.join(str(v) for v in job.key.values())}: FAILED, {type(error).__name__}: {error}")
        return False
    records.add(record)
    _say(f"{label} {job.line(record)}")
    return True


def _say(text):
    print(text, flush=True)


def _write(records, code, report, quick):
    results = collect(records, code, quick)
    if quick:
        _say("with --quick the figures mean nothing:")
    for verdict in verdicts(results):
        _say(f"{verdict.outcome.upper()}: {verdict.demand}: {verdict.figure}")
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page(results), encoding="utf-8")
        _say(f"report: {report.name}")


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
            values, chosen = PEERS[model](splits, seed, cap)
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
