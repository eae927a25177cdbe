"""``uci``: the five benchmark sets with the paper's configuration and with ours, beside published figures."""

import functools
import time

import torch

from . import _paper, _uci_report, _uci_sets
from ._jobs import Job, measure_missing, say, write_page
from ._options import add_command, names, parameters
from ._ours import fit_and_score
from ._peers import gaussian
from ._records import Records, code_of
from ._scores import summary

MODELS = ("gaussian", "ours", "paper")

_DESCRIPTION = """\
POWER, GAS, HEPMASS, MINIBOONE and BSDS300: test log-densities of our estimator, of the paper's configuration
and of a Gaussian, beside published figures.

The sets are those that siflow_sk.datasets.fetch_power and its like find, or stand-ins: power_2007h1,
miniboone_partial, and patches that bsds300/make_patches.py draws (with pillow). What is on this machine is
measured, nothing is fetched. The paper's configuration in full takes hours on a GPU; --minutes, --steps and
--pairing one shorten it, and the page says so."""


def add_parser(commands):
    parser = add_command(
        commands, "uci", run, summary="the five sets of the literature", description=_DESCRIPTION
    )
    add = parser.add_argument
    sets = _uci_sets.SETS
    add("--sets", type=names(sets), default=sets, metavar="A,B", help=f"only these of {', '.join(sets)}")
    add("--models", type=names(MODELS), default=MODELS, metavar="A,B", help=f"of {', '.join(MODELS)}")
    add("--device", default="auto", help="cpu, cuda or auto (default: %(default)s)")
    add("--max-iter", type=int, metavar="N", help="steps of our quadratic stage (default: the estimator's)")
    add("--polish", type=int, metavar="N", help="steps of our polish (default: the estimator's)")
    add(
        "--parameters",
        type=parameters,
        default={},
        metavar="A=1,B=x",
        help="further parameters of our estimator, for example velocity__width=1024,preprocessor=whiten",
    )
    add(
        "--steps",
        type=int,
        default=_paper.STEPS,
        metavar="N",
        help="steps of the paper's configuration, its decays of the learning rate spread over them "
        "(default: %(default)s)",
    )
    add("--minutes", type=float, metavar="M", help="end a training of the paper's configuration after these")
    add(
        "--pairing",
        choices=("all", "one"),
        default="all",
        help="every base point of a batch with every data point, as in the paper, or one for each "
        "(default: %(default)s)",
    )
    add("--test-rows", type=int, metavar="N", help="score so many test rows, drawn at random (default: all)")


def codes():
    """The code that each kind of result rests on."""
    library = code_of("**/*.py", without=("benchmarks", "datasets"))
    rows = ("benchmarks/_uci_sets.py", "benchmarks/_scores.py", "datasets/_maf.py")
    return {
        "gaussian": code_of("benchmarks/_peers.py", *rows),
        "ours": f"{library}-{code_of('benchmarks/_ours.py', *rows)}",
        "paper": f"{library}-{code_of('benchmarks/_paper.py', *rows)}",
    }


def run(
    *,
    data=None,
    output="benchmarks-uci.jsonl",
    report=None,
    seeds=(0,),
    sets=_uci_sets.SETS,
    models=MODELS,
    device="auto",
    max_iter=None,
    polish=None,
    parameters=None,
    steps=_paper.STEPS,
    minutes=None,
    pairing="all",
    test_rows=None,
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
    FileNotFoundError
        None of the sets is on this machine.
    """
    code, records = codes(), Records(output)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = {"max_iter": max_iter or "auto", "polish": "auto" if polish is None else polish}
    ours |= parameters or {}
    paper = {"steps": steps, "minutes": minutes, "pairing": pairing}
    if quick:
        ours, paper = {"max_iter": 20, "polish": 10}, {"steps": 20, "minutes": None, "pairing": "one"}
    failures = 0
    try:
        if not report_only:
            jobs = []
            for name in sets:
                found = _uci_sets.source(name, data)
                if found is None:
                    say(
                        f"{name}: not on this machine, left out; siflow_sk.datasets.fetch_{name}() fetches it"
                    )
                    continue
                table = functools.lru_cache(maxsize=1)(
                    functools.partial(_table, name, data, test_rows, quick)
                )
                key = {"table": name, "data": found.name, "test_rows": test_rows}
                for model in models:
                    for seed in seeds[:1] if model == "gaussian" else seeds:
                        jobs.append(_job(model, key | {"seed": seed}, table, device, ours, paper, quick))
            if not jobs:
                raise FileNotFoundError(
                    f"none of the sets {', '.join(sets)} is on this machine. Fetch one, for example with "
                    "siflow_sk.datasets.fetch_miniboone(), or name the folder that holds them with --data or "
                    "the environment variable SIFLOW_DATA."
                )
            failures = measure_missing(jobs, records, code, quick=quick, fresh=fresh, command=command)
    finally:
        write_page(_uci_report.page(*records.to_show(code, quick), quick), report)
    return 1 if failures else 0


def _table(name, data, n_test, quick):
    return _uci_sets.some_rows(_uci_sets.load(name, data), n_test, quick)


def _job(model, key, table, device, ours, paper, quick):
    seed = key["seed"]

    def measure_gaussian():
        start = time.perf_counter()
        rows = table()
        log_density, _ = gaussian(rows)
        seconds = time.perf_counter() - start
        return summary(log_density(rows.test)) | {"n_train": len(rows.train), "fit_seconds": seconds}

    def measure_ours():
        rows = table()
        found = fit_and_score(rows.train, rows.test, seed, device=device, **ours)
        return found | {"n_train": len(rows.train)}

    def measure_paper():
        rows, configuration = table(), _paper.CONFIGURATIONS[key["table"]]
        if quick:
            configuration = configuration._replace(width=32, batch=100)
        network, record = _paper.train(
            rows.train,
            rows.valid,
            configuration,
            steps=paper["steps"],
            seconds=None if paper["minutes"] is None else 60.0 * paper["minutes"],
            pairing=paper["pairing"],
            seed=seed,
            device=device,
        )
        values, error = _paper.score(network, rows.test, device)
        return summary(values) | record | {"n_train": len(rows.train), "largest_error": float(error.max())}

    measure = {"gaussian": measure_gaussian, "ours": measure_ours, "paper": measure_paper}[model]
    settings = {"gaussian": {}, "ours": ours, "paper": paper}[model]
    if model != "gaussian":
        settings = settings | {"device": device}

    def line(record):
        return (
            f"{key['table']} ({key['data']}) {model}, seed {seed}: test NLL {record['mean']:.3f} +- "
            f"{record['standard_error']:.3f}; fit {record['fit_seconds']:.1f} s"
        )

    return Job({"kind": model} | key | settings, measure, line)
