"""The benchmarks of paths and snapshots: distances against closed forms, the commands at their smallest."""

import json
from pathlib import Path

import numpy as np
import pytest

from siflow_sk.benchmarks import _paths, _paths_report, _singlecell
from siflow_sk.benchmarks.__main__ import main
from siflow_sk.benchmarks._rst import not_measured


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three snapshots of a moving cloud."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "singlecell").mkdir(parents=True)
    parts = {}
    for split, n in (("train", 90), ("val", 30), ("test", 30)):
        t = np.arange(n) % 3
        parts[f"x_{split}"] = rng.normal(size=(n, 2)) + np.column_stack([4.0 * t, 0.0 * t])
        parts[f"t_{split}"] = t.astype(np.float32)
    np.savez(tmp_path / "data" / "singlecell" / "mouse_hematopoiesis.npz", **parts)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SIFLOW_DATA", raising=False)
    return tmp_path / "data"


def test_the_distance_of_a_shift_is_its_length():
    a = np.random.default_rng(0).normal(size=(50, 3))
    assert _singlecell.wasserstein(a, a + np.array([3.0, 0.0, 4.0])) == pytest.approx(5.0)
    assert _singlecell.wasserstein(a, a[::-1]) == 0.0


def test_in_one_column_the_distance_is_that_of_sorted_values():
    a, b = np.random.default_rng(0).normal(size=(2, 80, 1))
    expected = np.abs(np.sort(a[:, 0]) - np.sort(b[:, 0])).mean()
    assert _singlecell.wasserstein(a, b) == pytest.approx(expected, rel=1e-12)


def test_every_baseline_goes_its_share_of_the_way():
    """Times 0 and 3 are known and 1 is wanted: a third of the shift between the two clouds."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(220, 2)) + np.array([9.0, 0.0])])
    t = np.repeat([0.0, 3.0], [200, 220])
    for name, shift in [("optimal_lines", 3.0), ("random_lines", 3.0), ("before", 0.0), ("after", 9.0)]:
        predicted = _singlecell.MODELS[name](X, t, 1.0, 0)
        np.testing.assert_allclose(predicted.mean(axis=0), [shift, 0.0], atol=0.3)
    straight = _singlecell.MODELS["optimal_lines"](X, t, 1.0, 0)
    assert straight.std(axis=0) == pytest.approx([1.0, 1.0], abs=0.15)  # random pairs would give 0.75


def test_mappings_of_pot_go_their_share_of_the_way():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(100, 2)), rng.normal(size=(120, 2)) + np.array([9.0, 0.0])])
    t = np.repeat([0.0, 3.0], [100, 120])
    for name in ("pot_emd", "pot_sinkhorn", "pot_linear"):
        predicted = _singlecell.MODELS[name](X, t, 1.0, 0)
        np.testing.assert_allclose(predicted.mean(axis=0), [3.0, 0.0], atol=0.3)


def test_singlecell_at_its_smallest(folder, capsys):
    arguments = ["singlecell", "--quick", "--data", str(folder), "--tables", "mouse_hematopoiesis"]
    assert main(arguments) == 0
    page = Path("benchmarks-singlecell-quick.rst").read_text(encoding="utf-8")
    for name in ("InterpolantTransport", "Straight lines, optimal pairs", "*Floor*", "t = 1"):
        assert name in page
    records = [json.loads(line) for line in Path("benchmarks-singlecell.jsonl").read_text().splitlines()]
    assert {r["time"] for r in records} == {1.0}
    found = {r["kind"]: r["distance"] for r in records}
    assert found["optimal_lines"] < found["before"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("(stored)") == len(records)


def test_a_missing_table_is_named(folder, capsys):
    assert main(["singlecell", "--data", str(folder), "--tables", "emt"]) == 2
    assert "error: there is no file singlecell/emt.npz" in capsys.readouterr().err


def test_the_gaussian_of_the_paths_is_the_density_of_its_rows():
    rows = _paths.Gaussian().sample(200_000, random_state=0)
    assert rows.mean(axis=0) == pytest.approx([2.0, 0.0], abs=0.02)
    assert rows.var(axis=0) == pytest.approx([0.25, 2.25], rel=0.02)
    entropy = np.log(2 * np.pi * np.e) + np.log(0.5 * 1.5)
    assert -_paths.Gaussian().score_samples(rows).mean() == pytest.approx(entropy, abs=0.01)


def falling(rate=1.0):
    """Errors of 1 / (rate n)^4 nats."""
    return [(n, (rate * n) ** -4.0) for n in _paths.STEPS]


def test_evaluations_at_one_level_of_log_density():
    """An error of 1 / n^4 nats falls below the room of 0.0016 at n = 5: 20 evaluations."""
    count = _paths_report.evaluations
    assert count(0.1, falling(), 0.1 + 0.2**4) == pytest.approx(20.0, rel=1e-9)
    assert count(0.1, falling(), 0.1 + 4.5**-4) == pytest.approx(18.0, rel=1e-9)
    assert count(0.1, falling(), 2.0) == 4.0
    assert np.isnan(count(0.2, falling(), 0.1))


def figures(kind, energy, rate, seed=0, excess=0.3):
    record = {"kind": kind, "table": "checkerboard", "max_iter": 1000, "seed": seed, "energy": energy}
    record |= {"energy_error": 0.1, "steps": 8, "excess": excess, "excess_error": 0.1, "fit_seconds": 1.0}
    around = {"date": "", "load": None, "versions": {}, "cpu": "", "cores": 1, "threads": 1, "device": "cpu"}
    around |= {"command": ""}
    return record | {"n_train": 50, "numerical": falling(rate), "code": "", "circumstances": around}


@pytest.mark.parametrize(
    ("energies", "rate", "excess", "words"),
    [
        ((3.0, 3.2), 2.0, 0.3, "shorter, and takes fewer evaluations"),
        ((3.0, 3.2), 1.0, 0.3, "shorter, but takes no fewer evaluations"),
        ((4.0, 4.0), 1.0, 0.3, "no shorter, and takes no fewer evaluations"),
        ((3.0, 5.0), 2.0, 0.3, "no shorter, but takes fewer evaluations"),  # not by two standard errors
        (
            (3.0, 3.2),
            2.0,
            0.5,
            "shorter, but takes no fewer evaluations at one log-density, fewer for 0.001 nats",
        ),
    ],
)
def test_the_page_says_whether_the_learnt_path_is_better(energies, rate, excess, words):
    """Than the better of the fixed ones, model by model of one seed; a model that is worse has less room."""
    records = []
    for seed, energy in enumerate(energies):
        records += [figures("trigonometric", 9.0, 1.0, seed), figures("linear", 4.0, 1.0, seed)]
        records.append(figures("fourier_4", energy, rate, seed, excess))
    text = _paths_report.page(records, True, False)
    mean, error = np.mean(energies) / 4.0, np.std(energies, ddof=1) / 4.0 / np.sqrt(2.0)
    assert f"energy {mean:.2f} ± {error:.2f}, evaluations at one log-density " in text
    assert f"for 0.001 nats {1 / rate:.2f} ± 0.00." in text
    assert f"The path is {words}." in text
    assert "50 training rows" in text


def test_one_seed_gives_no_verdict():
    records = [figures("linear", 4.0, 1.0), figures("fourier_4", 1.0, 9.0)]
    text = _paths_report.page(records, True, False)
    assert "energy 0.25, evaluations" in text
    assert "The path is" not in text


def test_the_page_knows_every_path_and_table():
    assert set(_paths_report._NAMES) == set(_paths.MODELS)
    assert set(_paths_report.TABLES) == set(_paths.TABLES)


def test_what_is_absent_is_named():
    rows, columns = {"a": "A", "b": "B", "c": "C"}, {"x": "X", "y": "Y", "z": "Z"}
    every = {(row, column) for row in rows for column in columns}
    assert not_measured(rows, columns, every) == ""
    assert not_measured(rows, columns, every - {("b", "z"), ("b", "x")}) == "Not measured: B (X, Z).\n"
    found = {("a", "x"), ("a", "y"), ("b", "y")}
    assert not_measured(rows, columns, found) == "Not measured: Z (everywhere); C (everything); B (X).\n"


def test_paths_at_their_smallest(folder):
    assert main(["paths", "--quick", "--tables", "gaussian", "--models", "linear,fourier_2,transport"]) == 0
    page = Path("benchmarks-paths-quick.rst").read_text(encoding="utf-8")
    for name in (
        "Straight lines",
        "Learnt, 2 sines",
        "optimal pairs",
        "Exact energies",
        "Evaluations",
        "Gaussian, 1,000 steps of training",
        "Not measured: *Quarter circles*, *Learnt, 1 sine*, *Learnt, 4 sines*, ",
        "; Eight gaussians at 1,000 steps, Checkerboard at 1,000 steps (everything).",
        "``--quick``",
    ):
        assert name in page
