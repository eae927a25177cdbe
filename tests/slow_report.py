"""What ``make test-slow`` runs: the tests that take long, then docs/benchmarks/slow.rst, the report on them.

``python tests/slow_report.py FILE`` writes the report from a file that ``pytest --junitxml=FILE`` left.
"""

import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "slow.rst"

_HEAD = """\
.. Written by make test-slow; changes made here are lost.

The tests that take long
========================

``make test`` leaves out what takes minutes: thousands of damaged files offered to ``load``, fits that are
killed and taken up again, a table of ten million rows, a distributed job. ``make test-slow`` runs it. The
last run began {date}: {n} tests, {passed} passed, {failed} failed, {skipped} skipped because the machine
lacks what they need; {seconds:,.0f} seconds by the clock.

"""


def page(root):
    """The report from the root of a JUnit file."""
    suite = next(root.iter("testsuite"))
    rows = [("Test", "Outcome", "Seconds", "What it counted")]
    outcomes = []
    for case in suite.iter("testcase"):
        if not case.get("classname"):  # a module that was skipped whole, test_cuda
            continue
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcomes.append("skipped" if "skipped" in kinds else "failed" if kinds else "passed")
        counted = "; ".join(f"{p.get('name')}: {_short(p.get('value'))}" for p in case.iter("property"))
        name = f"``{case.get('classname').split('.')[-1]}::{case.get('name')}``"
        rows.append((name, outcomes[-1], f"{float(case.get('time')):.0f}", counted))
    head = _HEAD.format(
        date=suite.get("timestamp", "").partition("T")[0],
        n=len(outcomes),
        seconds=float(suite.get("time")),
        **{kind: outcomes.count(kind) for kind in ("passed", "failed", "skipped")},
    )
    cells = [f"   {'*' if i == 0 else ' '} - {cell}".rstrip() for row in rows for i, cell in enumerate(row)]
    return head + "\n".join([".. list-table::", "   :header-rows: 1", "", *cells]) + "\n"


def _short(value):
    """Numbers with separators, seconds with few digits."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:,.0f}" if number == int(number) else f"{number:.3g}"


def main(arguments):
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        path = arguments[0] if arguments else str(Path(folder) / "slow.xml")
        if not arguments:
            import pytest

            options = ["-m", "slow", f"--junitxml={path}"]
            status = pytest.main([*options, str(ROOT / "tests")])
        PAGE.write_text(page(ElementTree.parse(path).getroot()), encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
