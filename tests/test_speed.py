"""Costs: how they are measured, exponents, verdicts, the command, and the script for a GPU."""

import functools
import json
import re
import subprocess
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from siflow_sk import InterpolantFlow
from siflow_sk._held import Held
from siflow_sk.benchmarks import _speed, _speed_costs, _speed_report, _tables, _timing
from siflow_sk.benchmarks.__main__ import main

SCRIPT = Path(_timing.__file__).parent / "gpu.sh"

# -- timing ------------------------------------------------------------------------------------------------


def test_functions_are_called_in_turn():
    calls = []
    taken = _timing.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in taken.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_ratios():
    taken = {"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}
    assert _timing.ratio(taken, "a", "b") == 3.0


def test_one_slow_call_is_enough():
    calls = []
    _timing.median_seconds(lambda: calls.append(1), enough=-1.0)
    assert len(calls) == 1
    _timing.median_seconds(lambda: calls.append(1))
    assert len(calls) == 4


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with _timing.threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_peak_is_seen_after_it_is_gone():
    assert 60e6 < _timing.peak_bytes(lambda: np.ones(10_000_000).sum()) < 120e6


# -- costs -------------------------------------------------------------------------------------------------


def test_floor_adds_up_products(monkeypatch):
    monkeypatch.setattr(_speed_costs, "_product_seconds", lambda n, k, m, dtype, device: n * k * m * 1e-9)
    found = _speed_costs.matmul_seconds([(10, 2, 3), (100_000, 4, 5)], "float64", "cpu")
    assert found == pytest.approx((60 + 2_000_000) * 1e-9)


def test_scoring_cost_is_that_of_the_known_work(monkeypatch):
    found = _speed_costs.score_cost(256, 3, 16, "float64", "cpu", repeats=1)
    assert 0 < found["floor_seconds"] < found["seconds"]
    assert found["ratio"] == pytest.approx(found["seconds"] / found["forward_seconds"])
    flow = _speed_costs._flow(3, 16, "cpu", "float64")
    calls, evaluate = [], Held.value_and_divergence
    monkeypatch.setattr(Held, "value_and_divergence", lambda *a: calls.append(1) or evaluate(*a))
    flow.score_samples(np.zeros((256, 3)))
    assert len(calls) == _speed_costs.EVALUATIONS


def test_a_search_is_timed_beside_its_rivals():
    found = _speed_costs.search_cost("cpu", 8, steps=3, repeats=1)
    assert set(found["seconds"]) == {"together", "GridSearchCV", "one fit"}
    expected = found["seconds"]["together"] / found["seconds"]["GridSearchCV"]
    assert found["ratios"]["GridSearchCV"] == pytest.approx(expected)
    assert found["largest_difference"] < 1e-3


@pytest.fixture
def no_flow_matching(monkeypatch):
    """Its place is taken by a constant: it is not among the packages of the tests."""
    monkeypatch.setattr(_speed_costs, "exact_likelihood", lambda velocity, x: x.new_zeros(len(x)))


def test_other_hands_agree_on_the_same_network(no_flow_matching):
    found = _speed_costs.same_network(20, 3, 16, "cpu", repeats=1)
    assert set(found["ratios"]) == {"ours", "ours, float32", "torchdiffeq", "zuko", "flow_matching"}
    assert found["ratios"]["ours"] == 1.0
    for name in ("ours, float32", "torchdiffeq", "zuko"):
        assert found["largest_difference"][name] < 5e-3, name


def test_rivals_compare_on_the_same_rows(monkeypatch):
    """A rival half a nat below ours, with errors of 0.05, and one three below, which makes none."""
    rows = np.random.default_rng(0).standard_normal((150, 2))
    table = _tables.Table(rows, rows[:40], rows[:40])
    ours = InterpolantFlow(max_iter=20, polish=10, random_state=0).fit(rows)

    def rival(below, error):
        def score(X):
            return ours.score_samples(X) - below

        score.precisely = lambda X: score(X) + error
        return score

    monkeypatch.setattr(_speed_costs, "fit_default", lambda *_, **__: (ours, []))
    monkeypatch.setattr(_speed_costs, "cnf", lambda *_: (rival(0.5, 0.05), {"capped": True}))
    monkeypatch.setattr(_speed_costs, "flow_matching", lambda *_: (rival(3.0, 0.0), {"capped": False}))
    found = _speed_costs.rivals("airfoil", table, 0, 1.0)
    assert found["better"]["cnf"] == pytest.approx((0.5, 0.0), abs=1e-12)
    assert found["nll"]["flow_matching"] == pytest.approx(3.0 - ours.score(rows[:40]))
    assert found["capped"] == {"cnf": True, "flow_matching": False}
    assert 0.0 < found["numerical_error"]["siflow_sk"] <= ours.solver_.tol
    assert found["numerical_error"]["cnf"] == pytest.approx(0.05)
    assert found["numerical_error"]["flow_matching"] == 0.0
    assert found["as_exact"]["cnf"]["tol"] >= 0.01
    assert found["as_exact"]["flow_matching"]["tol"] == ours.solver_.tol  # nothing is as exact as that


# -- exponents and verdicts --------------------------------------------------------------------------------


def cost(what="score", seconds=1.0, **sizes):
    row = {"kind": "cost", "what": what, "device": "cpu", "threads": 1, "dtype": "float64"}
    row |= {"n": 1024, "d": 16, "width": 256, "seconds": seconds, "ratio": 2.0, "floor_seconds": seconds / 2}
    return row | {"peak_bytes": 2**20, "circumstances": AROUND, "code": "c", "quick": False} | sizes


AROUND = {
    "versions": {"python": "3"},
    "cpu": "none",
    "cores": 1,
    "threads": 1,
    "device": "cpu",
    "load": 0.5,
    "date": "2030-01-01",
    "command": "speed",
}


def rival(matching=60.0, cnf=12.0, nll=1.0, columns=20):
    seconds = {"siflow_sk": 1.0, "cnf": cnf, "flow_matching": matching}
    row = {"kind": "rivals", "table": "breast_cancer", "seed": 0, "threads": 1, "n_features": columns}
    row |= {
        "nll": {"siflow_sk": nll, "cnf": 2.0, "flow_matching": 2.0},
        "seconds": seconds,
        "ratios": seconds,
    }
    row |= {"standard_error": dict.fromkeys(seconds, 0.1), "fit_seconds": seconds, "capped": {"cnf": True}}
    row |= {"better": {"cnf": [1.0, 0.1], "flow_matching": [1.0, 0.1]}}
    row |= {"numerical_error": dict.fromkeys(seconds, 1e-4)}
    row |= {"as_exact": {m: {"tol": 0.003, "seconds": 0.5, "times": 2.0 * seconds[m]} for m in row["better"]}}
    return row | {"circumstances": AROUND, "code": "c", "quick": False}


def search(device="cpu", width=16, ratio=0.5):
    other = "one fit" if device == "cuda" else "GridSearchCV"
    row = {"kind": "search", "device": device, "width": width, "threads": 1, "ratios": {other: ratio}}
    row |= {"seconds": {"together": ratio, other: 1.0}, "circumstances": AROUND}
    return row | {"code": "c", "quick": False}


def speed_of(rows):
    return _speed_report.collect(types.SimpleNamespace(to_show=lambda code, quick: (rows, True)), {}, False)


def measured(power=1.0, growth=0.0, together=0.5, on_cuda=3.0, **rivals):
    rows = [cost(n=n, seconds=(n / 1024) ** power) for n in (256, 1024, 4096)]
    rows += [cost(d=d, ratio=2.0 * (d / 16) ** growth) for d in (8, 32)]
    searches = [search(ratio=together), search("cuda", ratio=on_cuda)]
    return speed_of([*rows, cost(width=128), *searches, rival(**rivals)])


def test_exponent():
    assert _speed_report.exponent([1, 10, 100], [3, 300, 30000]) == pytest.approx(2.0)


def test_sweeps_leave_the_other_sizes_alone():
    found = _speed_report.sweeps(measured(), "score", "cpu", 1)
    assert {axis: [r[axis] for r in rows] for axis, rows in found.items()} == {
        "n": [256, 1024, 4096],
        "d": [8, 16, 32],
        "width": [128, 256],
    }


def test_verdicts_met():
    found = _speed_report.verdicts(measured())
    assert [v.outcome for v in found] == ["met"] * 6
    figure = "breast_cancer (d = 20) 60.0 times, NLL 1.00 against 2.00, at its numerical error 120.0 times"
    assert found[0].figure == figure


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        ({"on_cuda": 4.1}, [*["met"] * 4, "not met", "met"]),
        ({"together": 1.01}, [*["met"] * 5, "not met"]),
        ({"matching": 49.0}, ["not met", "met", "met", "met"]),
        ({"cnf": 9.0}, ["met", "not met", "met", "met"]),
        ({"nll": 2.5}, ["not met", "not met", "met", "met"]),
        ({"columns": 17}, ["open", "open", "met", "met"]),
        ({"power": 1.1}, ["met", "met", "not met", "met"]),
        ({"growth": 0.1}, ["met", "met", "met", "not met"]),
    ],
)
def test_verdicts_not_met(change, outcomes):
    found = [v.outcome for v in _speed_report.verdicts(measured(**change))]
    assert found[: len(outcomes)] == outcomes


def test_verdicts_open_without_measurements():
    found = _speed_report.verdicts(speed_of([]))
    assert {(v.figure, v.outcome) for v in found} == {("not measured", "open")}


def test_page_points_to_the_report_of_cuda_where_it_has_none():
    where = "Nothing here was measured on CUDA: see ``gpu.md``"
    assert where not in _speed_report.page(measured())
    assert where in _speed_report.page(speed_of([cost()]))


def test_page_tells_slope_and_floor():
    page = _speed_report.page(measured(power=0.5))
    assert "A search whose fits are trained together" in page
    assert "Exponent 0.50, over the last two 0.50; columns 16, width 256." in page
    assert "50 %" in page


# -- the commands ------------------------------------------------------------------------------------------


def test_speed_runs_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_speed, "_QUICK", {"d": (2, 4), "width": (8, 16), "n": (100, 200)})
    monkeypatch.setattr(_speed.costs, "score_cost", functools.partial(_speed_costs.score_cost, repeats=1))
    monkeypatch.setattr(
        _speed.costs, "fit_cost", functools.partial(_speed_costs.fit_cost, repeats=1, steps=8)
    )
    command = ["speed", "--quick", "--sections", "score,fit", "--report", "page.rst"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "% of the rate of plain matrix products" in out
    assert "OPEN: exact log-density of 1,000 rows" in out
    rows = [json.loads(line) for line in Path("benchmarks-speed.jsonl").read_text().splitlines()]
    assert {row["what"] for row in rows} == {"score", "fit"}
    assert main(command) == 0
    assert capsys.readouterr().out.count("(stored)") == len(rows)
    assert "score_samples against rows" in Path("page.rst").read_text(encoding="utf-8")
    assert Path("page.png").stat().st_size > 1000


def test_speed_wants_the_device_it_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["speed", "--device", "cuda"]) == 2
    expected = "error: --device cuda: torch finds no CUDA device; use --device cpu.\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


def fake_python(tmp_path, body):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def gpu_script(tmp_path, body, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(fake_python(tmp_path, body)), **environment},
        capture_output=True,
        text=True,
    )


def test_gpu_script_reports_every_step(tmp_path):
    body = (
        'case "$*" in *pytest*) echo "61 passed in 3.2s";; *uci*) echo "[1/1] concrete: NLL 1.0";; '
        '*speed*) echo "[9/9] score cuda: 2.00 ms"; exit 3;; -) echo "a card";; esac'
    )
    done = gpu_script(tmp_path, body, REPORT="out/gpu.md")
    assert done.returncode == 1
    page = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
    for line in (
        r"| tests | passed | \d+ | 61 passed in 3.2s |",
        r"| power | passed | \d+ | [1/1] concrete: NLL 1.0 |",
        r"| bsds300 | passed | \d+ | [1/1] concrete: NLL 1.0 |",
        r"| speed | failed (3) | \d+ | [9/9] score cuda: 2.00 ms |",
    ):
        pattern = re.escape(line).replace(re.escape(r"\d+"), r"\d+")
        assert re.search(pattern, page)
        assert re.search(pattern, done.stdout)
    assert "a card" in page


def test_gpu_script_wants_a_gpu(tmp_path):
    done = gpu_script(tmp_path, "exit 1")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "docs").exists()
