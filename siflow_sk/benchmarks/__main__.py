"""Command line of the benchmarks."""

import argparse
import shlex
import sys
from pathlib import Path

from ._core import SECTIONS, run
from ._tables import TABLES

_DESCRIPTION = """\
Measure siflow_sk beside its peers and write what came out as a page of the documentation.

A subcommand appends every result to a file of JSON lines as soon as it is there. Called again it measures
only what is missing for the present code, so an interrupted run goes on where it stopped."""

_CORE = """\
The figures of the default estimator: cost of an exact divergence, memory of scoring, and on thirteen open
tables the test log-density, the time of a fit and the time of scoring beside a Gaussian, a kernel density, a
Gaussian mixture and published flows. With one seed about two minutes a table for the fit, and up to four for
the mixture.

The tables are npz files with x_train, x_val and x_test; they are looked for in --data, then in the folder
that the environment variable SIFLOW_DATA names, then in ../shared/data."""

_REPORT = Path("docs", "benchmarks", "core.rst")
_PATHS = ("--data", "--output", "--report")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m siflow_sk.benchmarks",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    core = commands.add_parser(
        "core",
        help="fit, scoring and memory of the default estimator on the open tables",
        description=_CORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    core.add_argument("--data", type=Path, metavar="DIR", help="folder that holds the tables")
    core.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks-core.jsonl"),
        metavar="FILE",
        help="the results (default: %(default)s)",
    )
    core.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"the page (default: {_REPORT.as_posix()}; with --quick benchmarks-core-quick.rst)",
    )
    core.add_argument(
        "--tables", type=_names(TABLES), default=TABLES, metavar="A,B", help="only these tables"
    )
    core.add_argument(
        "--sections",
        type=_names(SECTIONS),
        default=SECTIONS,
        metavar="A,B",
        help=f"only these of {', '.join(SECTIONS)}",
    )
    core.add_argument("--seeds", type=_seeds, default=(0,), metavar="0,1", help="random states (default: 0)")
    core.add_argument(
        "--peer-seconds",
        type=float,
        default=240.0,
        metavar="S",
        help="cap on the mixture's search, halved below 3,000 training rows (default: %(default)g)",
    )
    core.add_argument("--fresh", action="store_true", help="measure again what is stored already")
    core.add_argument(
        "--quick", action="store_true", help="tiny budgets and few rows, to try the command; kept apart"
    )
    core.add_argument("--report-only", action="store_true", help="measure nothing, only write the page")
    return parser


def _names(known):
    def parse(text):
        chosen = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [name for name in chosen if name not in known]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is not among {', '.join(known)}"
            )
        return chosen

    return parse


def _seeds(text):
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers >= 0, such as 0,1,2")
    return seeds


def _shown(arguments):
    """The command as the page shows it: without the folders of this machine."""
    shown, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _PATHS:
            skip = True
        elif not argument.startswith(tuple(f"{path}=" for path in _PATHS)):
            shown.append(argument)
    return shlex.join(["python", "-m", "siflow_sk.benchmarks", *shown])


def main(arguments=None):
    """Run a subcommand.

    Returns
    -------
    status : int
        0; 1 if a result failed; 2 if a table is missing; 130 after an interrupt.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = vars(_parser().parse_args(arguments))
    options.pop("command")
    if options["report"] is None:
        options["report"] = Path("benchmarks-core-quick.rst") if options["quick"] else _REPORT
    try:
        return run(**options, command=_shown(arguments))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
