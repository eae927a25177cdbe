"""Options that the subcommands share."""

import argparse
import ast
import shlex
from pathlib import Path

_PATHS = ("--data", "--output", "--report")


def add_command(commands, name, run, *, summary, description):
    """A subcommand that calls ``run`` with the options below and with those that the caller adds.

    ``run`` gets data, output, report, seeds, fresh, quick, report_only and command as keywords.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder that holds the tables")
    add(
        "--output",
        type=Path,
        default=Path(f"benchmarks-{name}.jsonl"),
        metavar="FILE",
        help="the results (default: %(default)s)",
    )
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"the page (default: docs/benchmarks/{name}.rst; with --quick benchmarks-{name}-quick.rst)",
    )
    add("--seeds", type=seeds, default=(0,), metavar="0,1", help="random states (default: 0)")
    add("--fresh", action="store_true", help="measure again what is stored already")
    add("--quick", action="store_true", help="tiny budgets and few rows, to try the command; kept apart")
    add("--report-only", action="store_true", help="measure nothing, only write the page")
    return parser


def names(known):
    """Type of an option: some of the known names, with commas between them."""

    def parse(text):
        chosen = tuple(part.strip() for part in text.split(",") if part.strip())
        unknown = [name for name in chosen if name not in known]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is not among {', '.join(known)}"
            )
        return chosen

    return parse


def seeds(text):
    """Type of an option: random states with commas between them."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers >= 0, such as 0,1,2")
    return values


def shown(arguments):
    """The command as the page shows it: without the folders of this machine."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _PATHS:
            skip = True
        elif not argument.startswith(tuple(f"{path}=" for path in _PATHS)):
            kept.append(argument)
    return shlex.join(["python", "-m", "siflow_sk.benchmarks", *kept])


def parameters(text):
    """Type of an option: ``name=value,name=value`` for ``set_params``; a value is a literal or a string."""
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not (equals and name.strip()):
            raise argparse.ArgumentTypeError(f"wanted name=value,name=value, got {part!r}")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found
