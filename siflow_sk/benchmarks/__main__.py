"""Command line of the benchmarks: every module named here adds one subcommand."""

import argparse
import sys
from pathlib import Path

from . import (
    _ablation,
    _conditional,
    _core,
    _errors,
    _league,
    _missing,
    _paths,
    _singlecell,
    _soak,
    _speed,
    _torus,
    _uci,
)
from ._options import shown

# each has ``add_parser(commands)``; what ``set_defaults(run=...)`` names there is called with the options
COMMANDS = (
    _core,
    _errors,
    _league,
    _missing,
    _paths,
    _singlecell,
    _soak,
    _speed,
    _uci,
    _conditional,
    _ablation,
    _torus,
)

_DESCRIPTION = """\
Measure siflow_sk beside its peers and write what came out as a page of the documentation.

A subcommand appends every result to a file of JSON lines as soon as it is there. Called again it measures
only what is missing for the present code, so an interrupted run goes on where it stopped."""


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m siflow_sk.benchmarks",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments=None):
    """Run a subcommand.

    Returns
    -------
    status : int
        0; 1 if a result failed; 2 if a table or a peer is missing; 130 after an interrupt.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = vars(_parser().parse_args(arguments))
    name, run = options.pop("name"), options.pop("run")
    if options["report"] is None:
        quick = Path(f"benchmarks-{name}-quick.rst")
        options["report"] = quick if options["quick"] else Path("docs", "benchmarks", f"{name}.rst")
    try:
        return run(**options, command=shown(arguments))
    except (FileNotFoundError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
