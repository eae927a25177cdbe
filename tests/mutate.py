"""Small errors put into the numerical modules, one at a time: does a test notice?

``python tests/mutate.py --sample 60`` tries a seeded sample (without ``--sample`` all of them, which takes
hours) and writes docs/benchmarks/mutation.rst. Every result goes to a file of JSON lines; the same command
goes on from there. A mutant runs in a fork of a process that has imported everything but the package, against
the tests of its module, until the first failure or the end of its processor time.
"""

import argparse
import ast
import copy
import hashlib
import importlib.machinery
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "mutation.rst"

# module -> the tests that are to notice, the quickest first
TESTS = {
    "_likelihood": ["test_likelihood", "test_errors"],
    "solvers": ["test_solvers"],
    "interpolants": ["test_interpolants", "test_learnable"],
    "velocities": ["test_velocities"],
    "preprocessing._affine": ["test_preprocessing"],
    "preprocessing._base": ["test_preprocessing"],
    "preprocessing._marginal": ["test_preprocessing"],
}
SECONDS = 600  # of processor time; what takes longer does not end

_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_ARITHMETIC |= {ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.MatMult: ast.Mult}
_COMPARISON = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
_COMPARISON |= {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
_LOGIC = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
_SIGN = {ast.USub: ast.UAdd, ast.Not: None, ast.Invert: None}


# -- mutants -------------------------------------------------------------------------------------------------


def changed(node):
    """What may stand in place of a node: (kind, other node), ..."""
    other = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        other.op = _ARITHMETIC[type(node.op)]()
        yield "arithmetic", other
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _LOGIC:
        other.op = _LOGIC[type(node.op)]()
        yield "logic", other
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISON:
        other.ops[0] = _COMPARISON[type(node.ops[0])]()
        yield "comparison", other
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _SIGN:
        yield "sign", other.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        value = node.value
        other.value = (not value) if type(value) is bool else value + 1 if value in (0, 1) else 2 * value
        if other.value != value:  # not infinity
            yield "constant", other
    elif isinstance(node, ast.Return) and node.value is not None:
        other.value = ast.Constant(None)
        yield "return", other


_NO_PLACE = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments


def places(tree):
    """Nodes that compute: not messages, annotations, docstrings, default values of parameters."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _NO_PLACE):
            continue
        yield node
        yield from places(node)


def mutants(source):
    """Every mutant of a module, in order: its place, what it was, what it is, and the changed source."""
    tree = ast.parse(source)
    for node in list(places(tree)):
        if not hasattr(node, "lineno"):
            continue
        before = dict(vars(node)), type(node)
        for kind, other in changed(node):
            where = {"line": node.lineno, "column": node.col_offset, "kind": kind}
            told = {"was": ast.unparse(node), "is": ast.unparse(other)}
            node.__class__, node.__dict__ = type(other), dict(vars(other))
            text = ast.unparse(ast.fix_missing_locations(tree))
            node.__class__, node.__dict__ = before[1], dict(before[0])
            yield where | told, text


def all_mutants():
    """(record, source) of every module; a record is found again as long as its module stays as it is."""
    for module in TESTS:
        source = path_of(module).read_text(encoding="utf-8")
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        for where, text in mutants(source):
            yield {"module": module, "code": digest} | where, text


def path_of(module):
    return (ROOT / "siflow_sk" / Path(*module.split("."))).with_suffix(".py")


# -- one run -------------------------------------------------------------------------------------------------


def tried(module, text, tests=None, seconds=SECONDS):
    """``"killed"``, ``"time"`` or ``"survived"``, and the processor seconds that it took."""
    start, child = time.perf_counter(), os.fork()
    if not child:
        try:
            os._exit(_in_the_fork(module, text, tests or TESTS[module], seconds))
        except BaseException:  # a mutant may not even be imported
            os._exit(1)
    _, status, used = os.wait4(child, 0)
    ended = "killed"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        ended = "time"
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        ended = "survived"
    return ended, used.ru_utime + used.ru_stime, time.perf_counter() - start


def _in_the_fork(module, text, tests, seconds):
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    path, load = str(path_of(module)), importlib.machinery.SourceFileLoader.get_code

    def get_code(loader, name):
        if name == f"siflow_sk.{module}":
            return compile(text, path, "exec", dont_inherit=True)
        return load(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.chdir(ROOT)
    import pytest

    files = [str(ROOT / "tests" / f"{name}.py") for name in tests]
    return pytest.main(
        [*files, "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--assert=plain", "-o", "addopts="]
    )


def warm_up():
    """Import what the tests import, except the package, so that a fork begins at once."""
    os.environ["SCIPY_ARRAY_API"] = "1"
    import hypothesis
    import joblib
    import pandas
    import pytest
    import safetensors.torch
    import scipy.stats
    import sklearn.mixture
    import sklearn.utils.estimator_checks
    import torch
    import torch._dynamo
    import torchdiffeq

    torch.set_num_threads(1)
    return hypothesis, joblib, pandas, pytest, safetensors, scipy, sklearn, torchdiffeq


# -- the page ------------------------------------------------------------------------------------------------


def page(records, totals):
    """The report; of several results of one mutant the last one counts."""
    last = {tuple(r[k] for k in _KEY): r for r in records}
    shown = [r for r in last.values() if r["module"] in totals]
    left = [r for r in shown if r["ended"] == "survived"]
    n, share = len(shown), 100 * len(left) / max(1, len(shown))
    lines = [
        ".. Written by python tests/mutate.py; changes made here are lost.",
        "",
        "Errors put in on purpose",
        "========================",
        "",
        "``python tests/mutate.py`` changes one operator, comparison, constant, sign or returned value of a",
        "numerical module at a time and runs the tests of that module: a mutant that no test notices has",
        "survived. Some are no errors at all (a tolerance doubled, the same in other words). Default values",
        "of parameters are left as they are. ``--sample N --seed S`` tries a random part.",
        "",
        f"{n} of {sum(totals.values()):,} mutants were tried: {len(left)} survived, {share:.1f} %. This is",
        "the share of those tried, some of them again after new tests were written, and not of every module",
        "alike: it says little of the mutants that were not tried. Wanted: at most 5 %.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    rows = [("Module", "Mutants", "Tried", "Noticed by a test", "Did not end", "Survived")]
    for module, total in totals.items():
        own = [r["ended"] for r in shown if r["module"] == module]
        counts = [own.count(ended) for ended in ("killed", "time", "survived")]
        rows.append((f"``{module}``", f"{total:,}", str(len(own)), *map(str, counts)))
    lines += _cells(rows)
    if left:
        lines += ["", "Survivors", "---------", "", ".. list-table::", "   :header-rows: 1", ""]
        order = sorted(left, key=lambda r: (r["module"], r["line"]))
        lines += _cells(
            [("Module, line", "Was", "Is")]
            + [(f"{r['module']}, {r['line']}", _code(r["was"]), _code(r["is"])) for r in order]
        )
    return "\n".join(lines) + "\n"


def _cells(rows):
    return [f"   {'*' if i == 0 else ' '} - {cell}" for row in rows for i, cell in enumerate(row)]


def _code(text):
    return f"``{' '.join(text.split())[:120]}``"


# -- the command ---------------------------------------------------------------------------------------------

_KEY = ("module", "code", "line", "column", "kind", "is")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sample", type=int, help="how many mutants (default: all)")
    add("--seed", type=int, default=0, help="of the sample (default: 0)")
    add("--modules", default=",".join(TESTS), help="with commas (default: all)")
    add("--output", type=Path, default=Path("mutants.jsonl"))
    add("--again", action="store_true", help="try the survivors once more")
    add("--report-only", action="store_true")
    options = parser.parse_args()
    known = list(all_mutants())
    totals = {module: sum(r["module"] == module for r, _ in known) for module in TESTS}
    chosen = [m for m in known if m[0]["module"] in options.modules.split(",")]
    random.Random(options.seed).shuffle(chosen)
    text = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    records = [json.loads(line) for line in text.splitlines()]
    done = {tuple(r[k] for k in _KEY): r["ended"] for r in records}
    if not options.report_only:
        warm_up()
        for module in dict.fromkeys(record["module"] for record, _ in chosen[: options.sample]):
            if tried(module, path_of(module).read_text(encoding="utf-8"))[0] != "survived":
                parser.error(f"the tests of {module} fail without any mutant")
        for number, (record, source) in enumerate(chosen[: options.sample], 1):
            key = tuple(record[k] for k in _KEY)
            if key in done and not (options.again and done[key] == "survived"):
                continue
            ended, cpu, wall = tried(record["module"], source)
            records.append(record | {"ended": ended, "seconds": round(cpu, 1), "wall": round(wall, 1)})
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
            print(
                f"[{number}] {ended} in {cpu:.0f} s: {record['module']}, {record['line']}: "
                f"{record['was']!r} -> {record['is']!r}",
                flush=True,
            )
    present = {tuple(r[k] for k in _KEY) for r, _ in known}
    PAGE.write_text(
        page([r for r in records if tuple(r[k] for k in _KEY) in present], totals), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
