"""``speed``: how the costs of fit, score and sample grow, and how they compare."""

import functools
import sys

import torch

from . import _speed_costs as costs
from ._jobs import Job, measure_missing, say, write_page
from ._options import add_command, names
from ._records import Records, code_of
from ._speed_report import collect, draw, page, verdicts
from ._tables import TABLES, Table, find_table, load_table, prepare
from ._timing import threads as limit_threads

SECTIONS = ("score", "sample", "fit", "same", "search", "rivals")
RIVAL_TABLES = ("parkinsons_telemonitoring", "breast_cancer", "miniboone_partial")

# one of these varies, the others stay in the middle
SIZES = {"d": (4, 8, 16, 32, 64, 128), "width": (64, 128, 256, 512)}
ROWS = {"cpu": (256, 1024, 4096, 16384), "cuda": (1024, 8192, 65536)}
BATCHES = {"cpu": (128, 512, 2048), "cuda": (512, 4096, 32768)}
MIDDLE = {"cpu": {"n": 1024, "d": 16, "width": 256}, "cuda": {"n": 8192, "d": 16, "width": 256}}
_QUICK = {"d": (4, 8), "width": (16, 32), "n": (256, 512)}
_SAME_DIMENSIONS = (6, 20, 43)
_SEARCH_WIDTHS = {"cpu": (16, 64), "cuda": (64, 256)}  # wider ones are not fitted together on a CPU

_DESCRIPTION = """\
Seconds and memory of fit, score_samples and sample against rows, columns, width and batch, with fitted
exponents and the floor that the matrix products alone would take; the same network integrated by zuko,
flow_matching and torchdiffeq; a search whose fits are trained together; and, on the CPU, fitted rivals on
open tables with at least 18 columns. The same network and the rivals need the extra "bench".

Seconds are of the processor with one thread, of the wall otherwise and for the search."""


def add_parser(commands):
    parser = add_command(
        commands, "speed", run, summary="costs of fit, score and sample, and ratios", description=_DESCRIPTION
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where it runs (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="threads of the CPU (default: %(default)s)")
    add("--sections", type=names(SECTIONS), metavar="A,B", help=f"only these of {', '.join(SECTIONS)}")
    add(
        "--tables",
        type=names(TABLES),
        default=RIVAL_TABLES,
        metavar="A,B",
        help=f"tables of the rivals (default: {','.join(RIVAL_TABLES)})",
    )
    add(
        "--seconds",
        type=float,
        default=240.0,
        metavar="S",
        help="cap on the fit of a rival (default: %(default)g)",
    )


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    both = f"{library}-{code_of('benchmarks/_speed_costs.py', 'benchmarks/_timing.py')}"
    peers = code_of("benchmarks/_flow_peers.py")
    return {
        "cost": both,
        "same": f"{both}-{peers}",
        "search": both,
        "rivals": f"{both}-{peers}-{code_of('benchmarks/_ours.py')}",
    }


def run(
    *,
    data=None,
    output="benchmarks-speed.jsonl",
    report=None,
    device="cpu",
    threads=1,
    sections=None,
    tables=RIVAL_TABLES,
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
        0; 1 if anything failed; 2 if there is no CUDA device.

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
    if device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda: torch finds no CUDA device; use --device cpu.", file=sys.stderr)
        return 2
    # rivals are fitted on the CPU, as the demanded figures are
    sections = sections or (SECTIONS if device == "cpu" else SECTIONS[:-1])
    jobs = []
    for section in ("score", "sample", "fit"):
        if section in sections:
            jobs += _cost_jobs(section, device, threads, quick)
    if "same" in sections:
        jobs += _same_jobs(device, threads, quick)
    if "search" in sections:
        widths = _SEARCH_WIDTHS[device][:1] if quick else _SEARCH_WIDTHS[device]
        jobs += [_search_job(width, device, quick) for width in widths]
    if "rivals" in sections:
        for name in tables:
            find_table(name, data)
        jobs += [_rivals_job(name, seed, seconds, data, threads, quick) for name in tables for seed in seeds]
    try:
        with limit_threads(threads):
            failures = measure_missing(jobs, records, code, quick=quick, fresh=fresh, command=command)
    finally:
        _write(records, code, report, quick)
    return 1 if failures else 0


def _points(what, device, quick):
    """What varies, and the sizes: one of them varies, the others stay in the middle."""
    axes = {"n": ROWS[device], **SIZES}
    middle = MIDDLE[device]
    if quick:
        axes, middle = _QUICK, {"n": 256, "d": 4, "width": 16}
    if what == "fit":
        axes = axes | {"batch_size": (64, 128) if quick else BATCHES[device]}
        middle = middle | {"batch_size": 128 if quick else BATCHES[device][1]}
    found = {}
    for axis, values in axes.items():
        for value in values:
            point = middle | {axis: value}
            found.setdefault(tuple(point.items()), point)
    return found.values()


def _cost_jobs(what, device, threads, quick):
    dtypes = ("float64",) if what == "fit" or quick else ("float64", "float32")
    for dtype in dtypes:
        for point in _points(what, device, quick):
            if dtype == "float32" and point != MIDDLE[device]:
                continue
            key = {"kind": "cost", "what": what, "device": device, "threads": threads, **point}
            arguments = dict(point)
            if what != "fit":
                key["dtype"] = arguments["dtype"] = dtype
            measure = functools.partial(
                {"score": costs.score_cost, "sample": costs.sample_cost, "fit": costs.fit_cost}[what],
                **arguments,
                device=device,
            )
            yield Job(key, measure, _cost_line)


def _cost_line(record):
    sizes = ", ".join(f"{k} {record[k]}" for k in ("n", "d", "width", "batch_size", "dtype") if k in record)
    return (
        f"{record['what']} {record['device']} ({sizes}): {1e3 * record['seconds']:.2f} ms, "
        f"{100 * record['floor_seconds'] / record['seconds']:.0f} % of the rate of plain matrix products"
    )


def _same_jobs(device, threads, quick):
    sizes = {"n": 32, "width": 16, "repeats": 1} if quick else {"n": 1000, "width": 256}
    for d in (3,) if quick else _SAME_DIMENSIONS:

        def line(record):
            ratios = ", ".join(f"{k} {v:.1f}" for k, v in record["ratios"].items() if k != "ours")
            return f"the same network, d {record['d']}, {record['device']}: times ours: {ratios}"

        key = {"kind": "same", "d": d, "device": device, "threads": threads}
        yield Job(key, functools.partial(costs.same_network, d=d, device=device, **sizes), line)


def _search_job(width, device, quick):
    def line(record):
        ratios = ", ".join(f"{value:.2f} of {name}" for name, value in record["ratios"].items())
        return f"a search of 15 fits together, {device}, width {width}: times the seconds: {ratios}"

    key = {"kind": "search", "device": device, "width": width, "threads": 1}
    budget = {"steps": 20, "repeats": 1} if quick else {"repeats": 1 if device == "cuda" else 3}
    return Job(key, functools.partial(costs.search_cost, device, width, **budget), line)


def _rivals_job(name, seed, seconds, data, threads, quick):
    def measure():
        table = prepare(load_table(name, data))
        if quick:
            table = Table(*(part[:60] for part in table))
        return costs.rivals(name, table, seed, 1.0 if quick else seconds, quick, 1 if quick else 3)

    def line(record):
        parts = (
            f"{m} {record['seconds'][m]:.2f} s ({record['ratios'][m]:.1f} times), NLL {record['nll'][m]:.2f}"
            for m in record["seconds"]
        )
        return f"1,000 rows of {name}, d {record['n_features']}: {'; '.join(parts)}"

    key = {"kind": "rivals", "table": name, "seed": seed, "seconds_cap": seconds, "threads": threads}
    return Job(key, measure, line)


def _write(records, code, report, quick):
    speed = collect(records, code, quick)
    if quick:
        say("with --quick the figures mean nothing:")
    for verdict in verdicts(speed):
        say(f"{verdict.outcome.upper()}: {verdict.demand}: {verdict.figure}")
    picture = None if report is None else draw(speed, report.with_suffix(".png"))
    write_page(page(speed, picture), report)
