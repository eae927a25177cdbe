"""The benchmark of conditional densities: the law made of quantiles, what is told of rows, the command."""

import json

import numpy as np
from scipy.stats import norm

from siflow_sk.benchmarks import _conditional, _regressors
from siflow_sk.benchmarks.__main__ import main


def test_a_law_from_quantiles():
    levels = _regressors.LEVELS
    law = norm(2.0, 3.0)
    y = np.linspace(-30.0, 34.0, 20001)
    q = np.tile(law.ppf(levels), (len(y), 1))
    q[:, [3, 4]] = q[:, [4, 3]]  # quantiles that cross are put in order
    log_density, probability, mean = _regressors.from_quantiles(levels, q, y, 1e-9)
    np.testing.assert_allclose(np.trapezoid(np.exp(log_density), y), 1.0, atol=1e-3)
    cumulated = np.cumsum(np.exp(log_density)) * (y[1] - y[0])
    np.testing.assert_allclose(probability, cumulated, atol=2e-3)
    np.testing.assert_allclose(probability, law.cdf(y), atol=0.01)
    np.testing.assert_allclose(mean, 2.0, atol=1e-6)


def test_what_is_told_of_the_rows():
    y = np.random.default_rng(0).normal(size=4000)
    found = _conditional.outcome(norm.logpdf(y), norm.cdf(y), np.zeros(4000), y)
    np.testing.assert_allclose(found["mean"], 0.5 * np.log(2 * np.pi * np.e), atol=0.05)
    np.testing.assert_allclose(
        [found[f"coverage_{c:g}"] for c in (0.5, 0.8, 0.95)], [0.5, 0.8, 0.95], atol=0.03
    )
    assert found["pit_ks"] < 0.04
    np.testing.assert_allclose(found["rmse"], 1.0, atol=0.05)


def test_the_command_writes_records_and_goes_on(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "uci").mkdir()
    rows = {f"x_{s}": rng.normal(size=(n, 3)) for s, n in (("train", 80), ("val", 10), ("test", 10))}
    np.savez(tmp_path / "uci" / "concrete.npz", **rows)
    output, report = tmp_path / "out.jsonl", tmp_path / "page.rst"
    command = [
        "conditional",
        "--quick",
        "--tables",
        "concrete",
        "--models",
        "linear",
        "--data",
        str(tmp_path),
    ]
    command += ["--output", str(output), "--report", str(report)]
    assert main(command) == 0
    assert main(command) == 0
    assert "(stored)" in capsys.readouterr().out
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [r["split"] for r in records] == [0, 1]
    assert {r["n_test"] for r in records} == {10}
    assert f"{np.mean([r['mean'] for r in records]):.3f} ±" in report.read_text()
