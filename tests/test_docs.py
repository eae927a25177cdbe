"""Every example that a reader may copy runs: README, pages, docstrings."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from sklearn.datasets import load_wine

import siflow_sk
from siflow_sk import InterpolantFlow
from siflow_sk.benchmarks.__main__ import COMMANDS
from siflow_sk.velocities import MLP

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.rst")
    if not {"_build", "_templates", "auto_examples", "generated"} & set(path.relative_to(ROOT).parts)
)
MODULES = sorted(
    {"siflow_sk"}
    | {
        module.name
        for module in pkgutil.walk_packages(siflow_sk.__path__, "siflow_sk.")
        if not module.name.endswith("__main__")  # importing it runs a command line
    }
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def seeded():
    """torch's global generator at a fixed seed, as it was afterwards; no figure stays open."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
    plt.close("all")


def failures(tests):
    """What doctest reports on the examples of ``tests``; empty when all is as written."""
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name, seeded):
    module = importlib.import_module(name)
    assert failures(doctest.DocTestFinder().find(module, module.__name__)) == ""


@pytest.mark.parametrize("name", PAGES)
def test_examples_of_a_page(name, seeded):
    text = (ROOT / name).read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, name, 0)
    assert failures([test]) == ""


def test_the_pages_and_modules_with_examples_are_found():
    assert {"docs/extending.rst", "docs/quickstart.rst", "docs/choosing.rst"} <= set(PAGES)
    assert {"siflow_sk.flow", "siflow_sk.bases", "siflow_sk.preprocessing._marginal"} <= set(MODULES)


def test_the_code_of_the_readme_runs(seeded, monkeypatch, capsys):
    """In order and in one namespace; every fit is cut short."""

    def short(**parameters):
        return InterpolantFlow(**{**parameters, "max_iter": 10, "polish": 5, "velocity": MLP(width=16)})

    monkeypatch.setattr(siflow_sk, "InterpolantFlow", short)
    wine = load_wine().data[:, :3]
    namespace = {"X": wine[:150], "X_test": wine[150:]}
    blocks = [
        code for language, code in FENCE.findall(README.read_text(encoding="utf-8")) if language == "python"
    ]
    assert len(blocks) == 2
    for code in blocks:
        exec(compile(code, "README.md", "exec"), namespace)
    assert list(namespace["new"].columns) == list(namespace["table"].columns)
    assert (namespace["error"] >= 0).all()
    assert namespace["same"].shape == namespace["X_test"].shape
    assert set(namespace["search"].best_params_) == {"interpolant", "velocity__activation"}


def test_the_commands_of_the_readme_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = set(re.findall(r"\bmake (\w+)", README.read_text(encoding="utf-8")))
    assert {"demo", "test", "docs"} <= commands
    assert commands <= set(re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE))


def test_the_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://)([^)]+)\)", README.read_text(encoding="utf-8"))
    assert "docs/images/quickstart.png" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_public_part_is_in_the_reference():
    page = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
    listed = set()
    for section in page.split(".. currentmodule:: ")[1:]:
        module = section.split("\n", 1)[0]
        listed |= {f"{module}.{name}" for name in re.findall(r"^   (\w+)$", section, re.MULTILINE)}
    rooms = [
        "interpolants",
        "bases",
        "couplings",
        "velocities",
        "preprocessing",
        "solvers",
        "exceptions",
        "datasets",
        "diagnostics",
        "plotting",
    ]
    public = {f"siflow_sk.{name}" for name in siflow_sk.__all__ if not name.startswith("_")}
    for room in rooms:
        module = importlib.import_module(f"siflow_sk.{room}")
        public |= {
            f"siflow_sk.{room}.{name}"
            for name, value in vars(module).items()
            if isinstance(value, type)
            and value.__module__.startswith(f"siflow_sk.{room}")
            and not name.startswith("_")
        }
    assert public - listed == set()
    missing = {
        name
        for name in listed
        if not hasattr(importlib.import_module(name.rpartition(".")[0]), name.split(".")[-1])
    }
    assert missing == set()


def test_every_command_of_the_benchmarks_is_in_its_page():
    names = {module.__name__.rpartition("._")[2] for module in COMMANDS}
    page = (ROOT / "docs" / "benchmarks" / "running.rst").read_text(encoding="utf-8")
    entries = re.findall(r"^``\w+``(?:, ``\w+``)*$", page, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(entries))) == names


def test_the_table_of_faults_is_current():
    """``python docs/faults.py`` writes it from the names of the tests."""
    specification = importlib.util.spec_from_file_location("faults", ROOT / "docs" / "faults.py")
    faults = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(faults)
    assert faults.PAGE.read_text(encoding="utf-8") == faults.page(), "run python docs/faults.py"
    numbers = [row[0] for _, rows in faults.catalogue() for row in rows]
    assert numbers == list(range(1, 78))
    assert set(faults.tests()) <= set(numbers)
    assert "test_faults.py::test_fault_01_nan" in faults.tests()[1]
