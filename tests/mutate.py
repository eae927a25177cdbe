"""Small errors put into the numerical modules, one at a time: does a test notice?

``python tests/mutate.py --sample 150 --seed 3`` tries a random sample, of every module the same share
(without ``--sample`` all that are left, which takes hours), and writes docs/benchmarks/mutation.rst. A sample
takes none that one of another seed has tried. Every result goes to a file of JSON lines; the same command
goes on from there. The tests of a module first run without a mutant, to see what each takes and which lines
it runs. A mutant then runs in a fork of a process that has imported everything but the package, against the
tests that run its line, the quickest first, until the first failure.
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
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "mutation.rst"
NO_ERRORS = ROOT / "tests" / "mutants_without_error.toml"

_OF_SOLVERS = ("_steps", "_equal", "_adaptive", "_grid", "_torchdiffeq")
_OF_VELOCITIES = ("_functions", "_base", "_closed_form", "_residual")

# module -> the files with its tests, or single tests
TESTS = {
    **{f"solvers.{part}": ["test_solvers"] for part in _OF_SOLVERS},
    "solvers._stochastic": ["test_solvers", "test_anytime::test_order_of_the_stochastic_steps"],
    "interpolants": [
        "test_interpolants",
        "test_learnable",
        "test_anytime::test_variance_of_the_noise",
        "test_anytime::test_noise_that_cannot_be_used_is_refused",
    ],
    **{
        f"velocities.{part}": [
            "test_velocities",
            "test_conditional::test_divergence_at_a_context_is_the_trace_of_the_jacobian",
            "test_conditional::test_gradients_reach_the_context",
            "test_conditional::test_held_weights_at_a_context",
            "test_errors::test_a_time_for_every_row_has_its_standard_error",
            "test_memory::test_wide_networks_and_exact_divergences_get_smaller_blocks",
        ]
        for part in _OF_VELOCITIES
    },
    "_held": ["test_velocities", "test_conditional::test_held_weights_at_a_context"],
    **{f"_kernel.{part}": ["test_velocities"] for part in ("_block", "_products")},
    "preprocessing._affine": ["test_preprocessing"],
    "preprocessing._base": ["test_preprocessing"],
    "preprocessing._circular": [
        "test_torus::test_angles_are_spread_evenly",
        "test_torus::test_an_angle_gets_the_bandwidth_of_the_best_left_out_likelihood",
        "test_torus::test_a_narrow_angle_gets_all_the_knots",
    ],
    "preprocessing._marginal": ["test_preprocessing"],
    "_likelihood": [
        "test_likelihood",
        "test_errors",
        "test_memory",
        "test_anytime",
        "test_couplings::test_the_energy_of_every_solution_is_exact",
    ],
}
# of processor time: of all tests for one mutant, and of a test; what is left out can only let more survive
SECONDS, SECONDS_OF_A_TEST = 15, 1.5

_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_ARITHMETIC |= {ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.MatMult: ast.Mult}
_COMPARISON = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq}
_COMPARISON |= {ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
_LOGIC = {ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
_SIGN = {ast.USub: ast.UAdd, ast.Not: None, ast.Invert: None}


# -- mutants -------------------------------------------------------------------------------------------------


def changed(node):
    """What may stand in place of a node: (kind, other node), ..."""
    other = copy.copy(node)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        other.op = _ARITHMETIC[type(node.op)]()
        yield "arithmetic", other
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _LOGIC:
        other.op = _LOGIC[type(node.op)]()
        yield "logic", other
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISON:
        other.ops = [_COMPARISON[type(node.ops[0])](), *node.ops[1:]]
        yield "comparison", other
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _SIGN:
        yield "sign", other.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        value = node.value
        other.value = (not value) if type(value) is bool else value + 1 if value in (0, 1) else 2 * value
        if other.value != value:  # not infinity
            yield "constant", other
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        other.value = ast.Constant(None)
        yield "return", other


_NO_PLACE = ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arguments


def places(tree):
    """Nodes that compute: not messages, annotations, docstrings, defaults of parameters, zip's strict."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, _NO_PLACE) or (isinstance(node, ast.keyword) and node.arg == "strict"):
            continue
        yield node
        yield from places(node)


def mutants(source):
    """Every mutant of a module, in order: its place, what it was, what it is, and the changed source.

    ``code`` and ``number`` find a mutant again as long as its function or class computes the same way.
    """
    tree, lines = ast.parse(source), source.splitlines()
    parts = [ast.unparse(top) for top in tree.body]
    for i, top in enumerate(tree.body):
        code, number = hashlib.sha256(_without_docstrings(top).encode()).hexdigest()[:12], 0
        for node in [top, *places(top)]:
            if not hasattr(node, "lineno"):
                continue
            before = dict(vars(node)), type(node)
            for kind, other in changed(node):
                where = {"code": code, "number": number, "kind": kind}
                seen = {"line": node.lineno, "end": node.end_lineno, "text": lines[node.lineno - 1].strip()}
                told = {"was": ast.unparse(node), "is": ast.unparse(other)}
                node.__class__, node.__dict__ = type(other), dict(vars(other))
                text = "\n".join([*parts[:i], ast.unparse(top), *parts[i + 1 :]])
                node.__class__, node.__dict__ = before[1], dict(before[0])
                number += 1
                yield where | seen | told, text


def _without_docstrings(top):
    top = copy.deepcopy(top)
    for node in ast.walk(top):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(top)


def all_mutants():
    """(record, source) of every module."""
    for module in TESTS:
        for where, text in mutants(path_of(module).read_text(encoding="utf-8")):
            yield {"module": module} | where, text


def sampled(known, elsewhere, seed):
    """The mutants that no other sample has tried, at random: any first part has a share of each module."""
    rng, order = random.Random(seed), []
    for module in TESTS:
        own = [m for m in known if m[0]["module"] == module]
        rng.shuffle(own)
        order += [((i + rng.random()) / len(own), m) for i, m in enumerate(own)]
    return [m for _, m in sorted(order, key=lambda pair: pair[0]) if key_of(m[0]) not in elsewhere]


def path_of(module):
    return (ROOT / "siflow_sk" / Path(*module.split("."))).with_suffix(".py")


def key_of(record):
    return tuple(record[k] for k in ("module", "code", "number", "is"))


# -- one run -------------------------------------------------------------------------------------------------


class _Watch:
    """For pytest: what each test that passes takes, and which lines of a file it runs.

    One that takes too long is broken off; it, and what may fail for that, is left out.
    """

    def __init__(self, path):
        self.path, self.tests, self.lines = str(path), {}, set()
        self.inside = self.long = False
        signal.signal(signal.SIGPROF, self._break_off)

    def _break_off(self, *_):
        if self.inside:
            self.long = True
            raise TimeoutError

    def _frame(self, frame, event, argument):
        return self._line if frame.f_code.co_filename == self.path else None

    def _line(self, frame, event, argument):
        self.lines.add(frame.f_lineno)
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.inside = True
        signal.setitimer(signal.ITIMER_PROF, SECONDS_OF_A_TEST)
        try:
            return (yield)
        finally:
            self.inside = False
            signal.setitimer(signal.ITIMER_PROF, 0)

    def pytest_runtest_protocol(self, item, nextitem):
        from _pytest.runner import runtestprotocol

        self.lines, self.long, begun = set(), False, time.process_time()
        sys.settrace(self._frame)
        try:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        finally:
            sys.settrace(None)
        if not self.long and all(report.outcome == "passed" for report in reports):
            self.tests[item.nodeid] = [round(time.process_time() - begun, 3), sorted(self.lines)]
        return True


class _Chosen:
    """For pytest: these tests, in this order, and an end to each."""

    def __init__(self, tests):
        self.tests = tests  # name -> seconds

    def pytest_collection_modifyitems(self, items):
        place = {name: i for i, name in enumerate(self.tests)}
        items[:] = sorted((i for i in items if i.nodeid in place), key=lambda i: place[i.nodeid])

    def pytest_runtest_setup(self, item):
        used = resource.getrusage(resource.RUSAGE_SELF)
        allowed = used.ru_utime + used.ru_stime + 40 + 10 * self.tests[item.nodeid]
        resource.setrlimit(resource.RLIMIT_CPU, (int(allowed), resource.RLIM_INFINITY))


def noticed_by(tests, record):
    """The tests that run the line of a mutant, quickest first; all of them where none is seen to."""
    own = set(range(record["line"], record["end"] + 1))
    return within({name: seen for name, seen in tests.items() if own & set(seen[1])} or tests)


def within(tests):
    """``{name: seconds}``, quickest first, as many as there is time for."""
    total, chosen = 0.0, {}
    for name, (cost, _) in sorted(tests.items(), key=lambda pair: pair[1][0]):
        total += cost
        if total <= SECONDS:
            chosen[name] = cost
    return chosen


def _named(module):
    return [name.split("::") for name in TESTS[module]]


def watched(module):
    """What the tests of a module that pass take and run, ``{name: [seconds, lines]}``."""
    watch, (reader, writer) = _Watch(path_of(module)), os.pipe()

    def work():
        files = ["::".join([f"tests/{file}.py", *one]) for file, *one in _named(module)]
        _pytest(files, watch, module, path_of(module).read_text(encoding="utf-8"))
        with os.fdopen(writer, "w") as pipe:
            json.dump(watch.tests, pipe)
        return 0

    child = _forked(work)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text or "{}")


def tried(module, text, tests):
    """``"killed"``, ``"time"`` or ``"survived"``, and the processor and real seconds that it took."""

    def work():
        resource.setrlimit(resource.RLIMIT_CPU, (60, resource.RLIM_INFINITY))
        files = list(dict.fromkeys(name.split("::")[0] for name in tests))
        # a mutant may change which cases there are: none is left, none has noticed
        return 0 if _pytest(files, _Chosen(tests), module, text) in (0, 5) else 1

    start = time.perf_counter()
    _, status, used = os.wait4(_forked(work), 0)
    ended = "killed"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        ended = "time"
    elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        ended = "survived"
    return ended, used.ru_utime + used.ru_stime, time.perf_counter() - start


def _forked(work):
    child = os.fork()
    if not child:
        try:
            os._exit(work())
        except BaseException:  # a mutant may not even be imported
            os._exit(1)
    return child


def _pytest(files, plugin, module, text):
    """Run test files, with ``text`` in place of the source of a module."""
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
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--assert=plain", "-o", "addopts="]
    return int(pytest.main([*files, *options], plugins=[plugin]))


def warm_up():
    """Import what the tests import, except the package, so that a fork begins at once."""
    os.environ["SCIPY_ARRAY_API"] = "1"
    import hypothesis
    import joblib
    import pandas
    import safetensors.torch
    import scipy.stats
    import sklearn.mixture
    import sklearn.utils.estimator_checks
    import torch
    import torch._dynamo
    import torchdiffeq

    torch.set_num_threads(1)
    return hypothesis, joblib, pandas, safetensors, scipy, sklearn, torchdiffeq


# -- the page ------------------------------------------------------------------------------------------------


def without_error():
    """Survivors that are no errors: ``{(module, text of the line, was, is): why}``."""
    with NO_ERRORS.open("rb") as file:
        listed = tomllib.load(file)["mutant"]
    return {(m["module"], m["line"], m["was"], m["is"]): " ".join(m["why"].split()) for m in listed}


def place_of(record):
    return record["module"], record["text"], record["was"], record["is"]


def page(records, totals, reasons):
    """The report; of several results of one mutant the first and the last one count."""
    first = {key_of(r): r for r in reversed(records)}
    last = {key_of(r): r for r in records}
    left = [r for r in last.values() if r["ended"] == "survived"]
    holes = [r for r in left if place_of(r) not in reasons]
    lines = [
        ".. Written by python tests/mutate.py; changes made here are lost.",
        "",
        "Errors put in on purpose",
        "========================",
        "",
        "``python tests/mutate.py`` changes one operator, comparison, constant, sign or returned value of a",
        "numerical module at a time and runs the tests of that module: a mutant that no test notices has",
        "survived. Default values of parameters and messages are left as they are. Tests of more than",
        f"{SECONDS_OF_A_TEST} s are left out, and all beyond {SECONDS} s together.",
        "``--sample N --seed S`` tries a random sample, the same share of every module and none that",
        "another sample has tried; ``--again`` tries survivors once more.",
        "",
        f"{len(last)} of {sum(totals.values()):,} mutants were tried, and {_share(left, last)} survive.",
        f"Of these, {len(left) - len(holes)} change no result that is promised, for the reasons given",
        f"below; {_share(holes, last)} are left. Wanted: at most 5 %.",
        "",
        "Tests were written for the survivors of a sample after it had been tried, so that only what",
        "survived *at first* says how many of the mutants that were not tried would survive.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    rows = [("Seed of the sample", "Tried", "Survived at first", "But no errors", "Survive now")]
    for seed in dict.fromkeys(r["seed"] for r in records):
        own = [r for r in first.values() if r["seed"] == seed]
        before = [r for r in own if r["ended"] == "survived"]
        excused = [r for r in before if place_of(r) in reasons]
        now = [r for r in left if r["seed"] == seed]
        rows.append((str(seed), str(len(own)), _share(before, own), str(len(excused)), _share(now, own)))
    lines += [*_cells(rows), "", ".. list-table::", "   :header-rows: 1", ""]
    rows = [("Module", "Mutants", "Tried", "Noticed by a test", "Did not end", "Survive")]
    for module, total in totals.items():
        own = [r["ended"] for r in last.values() if r["module"] == module]
        counts = [own.count(ended) for ended in ("killed", "time", "survived")]
        rows.append((f"``{module}``", f"{total:,}", str(len(own)), *map(str, counts)))
    lines += _cells(rows)
    for title, shown in (
        ("Survivors", holes),
        ("Survivors that are no errors", [r for r in left if place_of(r) in reasons]),
    ):
        if shown:
            lines += ["", title, "-" * len(title), "", ".. list-table::", "   :header-rows: 1", ""]
            lines += _cells(_survivors(shown, reasons))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _survivors(records, reasons):
    yield "Module, line", "Was", "Is", "In", "Why it is no error"
    for r in sorted(records, key=lambda r: (r["module"], r["line"])):
        why = reasons.get(place_of(r), "")
        yield f"{r['module']}, {r['line']}", _code(r["was"]), _code(r["is"]), _code(r["text"]), why


def _share(part, whole):
    return f"{len(part)} ({100 * len(part) / max(1, len(whole)):.1f} %)"


def _cells(rows):
    return [f"   {'*' if i == 0 else ' '} - {cell}" for row in rows for i, cell in enumerate(row)]


def _code(text):
    return f"``{' '.join(text.split())[:120]}``"


# -- the command ---------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sample", type=int, help="how many mutants (default: all)")
    add("--seed", type=int, default=0, help="of the sample (default: 0)")
    add("--modules", default=",".join(TESTS), help="with commas (default: all)")
    add("--output", type=Path, default=Path("mutants.jsonl"))
    add("--again", action="store_true", help="try the survivors that are errors once more")
    add("--report-only", action="store_true")
    options = parser.parse_args()
    known = list(all_mutants())
    totals = {module: sum(r["module"] == module for r, _ in known) for module in TESTS}
    text = options.output.read_text(encoding="utf-8") if options.output.exists() else ""
    records = [json.loads(line) for line in text.splitlines()]
    done, reasons = {key_of(r): r for r in records}, without_error()
    if options.again:
        chosen = [(done[key_of(r)] | r, source) for r, source in known if key_of(r) in done]
        chosen = [m for m in chosen if m[0]["ended"] == "survived" and place_of(m[0]) not in reasons]
    else:
        elsewhere = {key for key, r in done.items() if r["seed"] != options.seed}
        chosen = sampled(known, elsewhere, options.seed)[: options.sample]
        chosen.sort(key=lambda m: list(TESTS).index(m[0]["module"]))
        chosen = [(r | {"seed": options.seed}, source) for r, source in chosen if key_of(r) not in done]
    chosen = [m for m in chosen if m[0]["module"] in options.modules.split(",")]
    if not options.report_only:
        records += _try_all(chosen, options.output, parser)
    present = {key_of(r): r for r, _ in known}
    records = [r | present[key_of(r)] for r in records if key_of(r) in present]
    PAGE.write_text(page(records, totals, reasons), encoding="utf-8")


def _known_tests(module, stored, parser):
    """What :func:`watched` says, stored for as long as neither the module nor its tests change."""
    known = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    source = path_of(module).read_text(encoding="utf-8")
    tests = [(ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8") for file, *_ in _named(module)]
    digest = hashlib.sha256("".join([source, *tests]).encode()).hexdigest()
    if known.get(module, {}).get("of") != digest:
        seen = watched(module)
        if not seen or tried(module, source, within(seen))[0] != "survived":
            parser.error(f"the tests of {module} fail without any mutant")
        known[module] = {"of": digest, "tests": seen}
        stored.write_text(json.dumps(known), encoding="utf-8")
    return known[module]["tests"]


def _try_all(chosen, output, parser):
    warm_up()
    tests = {}
    for number, (record, source) in enumerate(chosen, 1):
        module = record["module"]
        if module not in tests:
            tests[module] = _known_tests(module, output.with_suffix(".tests"), parser)
        ended, cpu, wall = tried(module, source, noticed_by(tests[module], record))
        result = record | {"ended": ended, "seconds": round(cpu, 1), "wall": round(wall, 1)}
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(
            f"[{number} of {len(chosen)}] {ended} in {cpu:.0f} s: {module}, {record['line']}: "
            f"{record['was']!r} -> {record['is']!r}",
            flush=True,
        )
        yield result


if __name__ == "__main__":
    main()
