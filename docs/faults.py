"""Write docs/faults.rst: what can go wrong, what is promised then, and the tests that hold it.

``python docs/faults.py`` reads tests/fault_catalogue.txt and finds the tests named ``test_fault_NN_...`` by
their syntax trees; a row without a test says so.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.rst"
CATALOGUE = ROOT / "tests" / "fault_catalogue.txt"

_HEAD = """\
.. Written by python docs/faults.py; changes made here are lost.

What can go wrong, and what is promised
=======================================

{n} faults that a table, a machine or a caller can commit.  Each row names the tests that hold its promise; a
test carries the number of its row in its name.  {tested} rows have tests, {open} do not yet.
"""


def catalogue():
    """(section, [(number, fault, promise), ...]) in order."""
    sections = []
    for line in CATALOGUE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            sections.append((line.strip("[]"), []))
        elif line:
            number, fault, promise = (part.strip() for part in line.split("|"))
            sections[-1][1].append((int(number), fault, promise))
    return sections


def tests():
    """Number of the fault -> ["file::test", ...], functions at the top of a module and in its classes."""
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.FunctionDef) and re.match(r"test_fault_(\d\d)_", node.name)
            if named:
                found.setdefault(int(named[1]), []).append(f"{path.name}::{node.name}")
    return found


def page():
    """The page as reStructuredText."""
    sections, held = catalogue(), tests()
    numbers = [row[0] for _, rows in sections for row in rows]
    tested = sum(number in held for number in numbers)
    parts = [_HEAD.format(n=len(numbers), tested=tested, open=len(numbers) - tested)]
    for title, rows in sections:
        parts += [
            f"{title}\n{'-' * len(title)}\n",
            ".. list-table::\n   :header-rows: 1\n   :widths: 5 30 40 25\n",
        ]
        lines = [_row("Row", "Fault", "Promise", "Tests")]
        for number, fault, promise in rows:
            names = ", ".join(f"``{name}``" for name in held.get(number, [])) or "**no test yet**"
            lines.append(_row(str(number), fault, promise, names))
        parts.append("".join(lines))
    return "\n".join(parts)


def _row(*cells):
    return "".join(f"   {'*' if i == 0 else ' '} - {cell}\n" for i, cell in enumerate(cells))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
