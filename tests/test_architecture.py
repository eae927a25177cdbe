"""The floors of the house, checked on the import statements of every module, lazy ones included."""

import ast
import sys
from pathlib import Path

import pytest

import siflow_sk

PACKAGE = "siflow_sk"
ROOT = Path(siflow_sk.__file__).parent

# A room imports only from rooms on strictly lower floors; a package is one room with its own inside.
FLOORS = {
    "__init__": 7,
    "imputer": 6,
    "outlier": 5,
    "classifier": 5,
    "mixed": 5,
    "search": 5,
    "conditional": 5,
    "transport": 5,
    "flow": 4,
    "pipeline": 4,
    "_training": 3,
    "_tensors": 3,
    "persistence": 3,
    "_likelihood": 2,
    "_objective": 2,
    "torus": 2,
    "_score": 1,
    "interpolants": 1,
    "bases": 1,
    "couplings": 1,
    "velocities": 1,
    "solvers": 1,
    "preprocessing": 1,
    "_component": 0,
    "_kernel": 0,
    "_held": 0,
    "_forward_mode": 0,
    "_memory": 0,
    "_capture": 0,
    "_compat": 0,
    "exceptions": 0,
    "_version": 0,
    "_about": 0,
}
# They may use every floor, and no floor uses them.
BESIDE = {"benchmarks", "datasets", "diagnostics", "plotting", "__main__"}

# The lowest floor that may import a library; one that is not here may be imported nowhere.
FIRST_FLOOR = {"torch": 0, "sklearn": 0, "tqdm": 3, "numpy": 3, "pandas": 3, "safetensors": 3, "joblib": 5}
ONLY_IN = {"torchdiffeq": {"solvers"}, "scipy": {"couplings"}, "ot": {"couplings"}}


def imported(source, package):
    """Absolute dotted names that a module of ``package`` imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def modules():
    """room -> absolute names imported by its files."""
    rooms = {}
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT).with_suffix("").parts
        package = ".".join([PACKAGE, *inside[:-1]])
        rooms.setdefault(inside[0], set()).update(imported(path.read_text(encoding="utf-8"), package))
    return rooms


def own_rooms(names):
    """Rooms of the package among absolute names; ``from . import __version__`` is about ``__init__``."""
    found = {name.split(".")[1] for name in names if name.split(".")[0] == PACKAGE and "." in name}
    return {room if room in {*FLOORS, *BESIDE} else "__init__" for room in found}


def offences(rooms):
    """One line per import that breaks the rules."""
    lines = []
    for room, names in rooms.items():
        if room in BESIDE:
            continue
        if room not in FLOORS:
            lines.append(f"{room} has no place")
            continue
        floor = FLOORS[room]
        for other in own_rooms(names) - {room}:
            if other in BESIDE:
                lines.append(f"{room} imports {other}, which stands beside the floors")
            elif FLOORS[other] >= floor:
                lines.append(f"{room} (floor {floor}) imports {other} (floor {FLOORS[other]})")
        for library in {name.split(".")[0] for name in names} - {PACKAGE}:
            if library in ONLY_IN:
                allowed = room in ONLY_IN[library]
            else:
                allowed = library in sys.stdlib_module_names or floor >= FIRST_FLOOR.get(library, 99)
            if not allowed:
                lines.append(f"{room} (floor {floor}) imports {library}")
    return sorted(lines)


def test_every_import_points_to_a_lower_floor():
    assert offences(modules()) == []


def test_every_floor_is_inhabited():
    assert set(FLOORS) - set(modules()) == set()


def test_private_names_of_scikit_learn_are_imported_in_one_place():
    def private(name):
        return name.startswith("sklearn.") and any(part.startswith("_") for part in name.split("."))

    assert {room for room, names in modules().items() if any(map(private, names))} == {"_compat"}


def test_forward_mode_is_entered_in_one_place():
    """torch counts its levels for the whole process; that place lets in one thread at a time."""
    assert [room for room, names in modules().items() if "torch.func.jvp" in names] == []


@pytest.mark.parametrize(
    ("room", "line", "offence"),
    [
        ("solvers", "from .flow import InterpolantFlow", "solvers (floor 1) imports flow (floor 4)"),
        ("bases", "from . import velocities", "bases (floor 1) imports velocities (floor 1)"),
        ("bases", "import numpy as np", "bases (floor 1) imports numpy"),
        ("bases", "import siflow_sk.solvers", "bases (floor 1) imports solvers (floor 1)"),
        ("_likelihood", "import pandas", "_likelihood (floor 2) imports pandas"),
        (
            "_training",
            "def f():\n    from ._tensors import to_array",
            "_training (floor 3) imports _tensors (floor 3)",
        ),
        ("flow", "from . import plotting", "flow imports plotting, which stands beside the floors"),
        ("flow", "from torchdiffeq import odeint", "flow (floor 4) imports torchdiffeq"),
        ("flow", "import matplotlib.pyplot as plt", "flow (floor 4) imports matplotlib"),
        ("attic", "import math", "attic has no place"),
    ],
)
def test_the_check_sees_a_wrong_import(room, line, offence):
    assert offences({room: imported(line, PACKAGE)}) == [offence]


def test_the_check_sees_imports_inside_a_package():
    names = imported(
        "from .._component import Component\nfrom ._base import Chain", f"{PACKAGE}.preprocessing"
    )
    assert names == {"siflow_sk._component.Component", "siflow_sk.preprocessing._base.Chain"}
    assert offences({"preprocessing": names}) == []
