"""The benchmark of missing values: the scores against closed forms, the command."""

import json

import numpy as np
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from siflow_sk.benchmarks import _missing
from siflow_sk.benchmarks.__main__ import main


def test_the_score_of_draws():
    truth = np.array([0.3, -2.0])
    exact = [quad(lambda x, y=y: (norm.cdf(x) - (x >= y)) ** 2, -10, 10, points=[y])[0] for y in truth]
    draws = np.random.default_rng(0).normal(size=(20_000, 2, 20))
    found = np.mean([_missing.crps(d, truth) for d in draws[:4000]], axis=0)
    np.testing.assert_allclose(found, exact, atol=0.01)  # 20 draws are not biased
    np.testing.assert_array_equal(_missing.crps(truth[:, None] + 3.0, truth), 3.0)


def test_marginals_of_a_gaussian():
    X = np.random.default_rng(0).multivariate_normal([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]], size=50_000)
    found = _missing.gaussian_marginals(X, np.array([[1.0, np.nan], [1.0, 0.0], [np.nan, np.nan]]))
    both = multivariate_normal([0.0, 1.0], [[1.0, 0.5], [0.5, 2.0]]).logpdf([1.0, 0.0])
    np.testing.assert_allclose(found, [norm.logpdf(1.0), both, 0.0], atol=0.03)


def test_the_gaps_are_a_fifth_and_the_same_for_every_model():
    X = np.zeros((2000, 5))
    gaps = np.isnan(_missing.with_gaps(X, 3))
    np.testing.assert_allclose(gaps.mean(), 0.2, atol=0.02)
    np.testing.assert_array_equal(gaps, np.isnan(_missing.with_gaps(X + 1.0, 3)))


def test_the_command_writes_records_and_goes_on(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "uci").mkdir()
    rows = {f"x_{s}": rng.normal(size=(n, 3)) for s, n in (("train", 120), ("val", 10), ("test", 40))}
    np.savez(tmp_path / "uci" / "airfoil.npz", **rows)
    output, report = tmp_path / "out.jsonl", tmp_path / "page.rst"
    command = ["missing", "--quick", "--tables", "airfoil", "--data", str(tmp_path)]
    command += ["--set", "velocity__activation=silu"]
    command += ["--output", str(output), "--report", str(report)]
    assert main(command) == 0
    assert main(command) == 0
    assert "(stored)" in capsys.readouterr().out
    records = {r["kind"]: r for r in map(json.loads, output.read_text().splitlines())}
    assert set(records) == {"knn", "iterative", "ours"}
    assert all(0.5 < r["rmse"] < 2.0 and 0.3 < r["crps"] < 2.0 for r in records.values())  # noise: 1, 0.56
    assert records["ours"]["error"] > 0
    page = report.read_text()
    assert f"{records['ours']['mean']:.3f}" in page
    assert f"{records['knn']['crps']:.3f}" in page
    assert "not the default, for a shorter run: ``velocity__activation='silu'``" in page
