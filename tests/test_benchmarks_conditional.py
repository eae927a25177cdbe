"""The benchmark of conditional densities: laws of quantiles and samples, peers, what is told, the command."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import torch
from scipy.stats import gaussian_kde, norm

from siflow_sk.benchmarks import _conditional, _conditional_report, _regressors
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


def test_a_law_from_samples():
    """Beside SciPy's kernel estimate of every row."""
    rng = np.random.default_rng(0)
    samples, y = rng.gamma(3.0, size=(7, 40)), rng.gamma(3.0, size=7)
    log_density, probability, mean = _regressors.from_samples(samples, y, 1e-9)
    laws = [gaussian_kde(row) for row in samples]
    np.testing.assert_allclose(log_density, [law.logpdf(at)[0] for law, at in zip(laws, y, strict=True)])
    below = [law.integrate_box_1d(-np.inf, at) for law, at in zip(laws, y, strict=True)]
    np.testing.assert_allclose(probability, below)
    np.testing.assert_allclose(mean, samples.mean(axis=1))
    repeated = _regressors.from_samples(np.ones((1, 40)), np.ones(1), 0.1)[0]
    np.testing.assert_allclose(repeated, norm(1.0, 0.1).logpdf(1.0))


class FakeNGBRegressor:
    """Learns a constant mean and deviation; round 2 of 5 is the best one, and only that one is right."""

    def __init__(self, *, n_estimators, random_state, verbose):
        assert not verbose

    def fit(self, X, y, X_val, y_val, early_stopping_rounds):
        assert len(X_val) == len(y_val) == len(X) // 9
        self.law, self.best_val_loss_itr = norm(y.mean(), y.std()), 2
        return self

    def pred_dist(self, X, max_iter=5):
        law = norm(np.full(len(X), self.law.mean()), self.law.std())
        return SimpleNamespace(dist=law if max_iter == 3 else norm(99.0, 1.0))


class FakeTreeffuser:
    """Draws N(x0, 0.5^2)."""

    def __init__(self, *, seed, n_jobs, verbose, **budget):
        assert n_jobs == torch.get_num_threads()

    def fit(self, X, y):
        return self

    def sample(self, X, n_samples, n_steps, seed):
        return X[:, 0] + 0.5 * np.random.default_rng(seed).normal(size=(n_samples, len(X)))


def test_what_is_asked_of_the_peers(monkeypatch):
    monkeypatch.setitem(sys.modules, "ngboost", SimpleNamespace(NGBRegressor=FakeNGBRegressor))
    monkeypatch.setitem(sys.modules, "treeffuser", SimpleNamespace(Treeffuser=FakeTreeffuser))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    y = X[:, 0] + 0.5 * rng.normal(size=500)
    log_density, probability, mean = _regressors.ngboost(X, y, 0)(X, y)
    np.testing.assert_allclose(log_density.mean(), norm(y.mean(), y.std()).logpdf(y).mean(), atol=0.02)
    np.testing.assert_allclose([probability.mean(), mean.mean()], [0.5, y.mean()], atol=0.05)
    log_density, probability, mean = _regressors.treeffuser(X, y, 0)(X, y)
    np.testing.assert_allclose(log_density.mean(), norm(X[:, 0], 0.5).logpdf(y).mean(), atol=0.05)
    np.testing.assert_allclose(probability, norm(X[:, 0], 0.5).cdf(y), atol=0.15)
    np.testing.assert_allclose(mean, X[:, 0], atol=0.3)


def test_peers_that_are_not_installed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_regressors, "find_spec", lambda name: None if name == "treeffuser" else object())
    assert _conditional.installed() == ["linear", "gp", "boosted", "ngboost", "ours"]
    assert capsys.readouterr().out == (
        "left out, not installed: treeffuser; docs/benchmarks/running.rst says how\n"
    )
    command = ["conditional", "--quick", "--models", "linear,treeffuser"]
    command += ["--output", str(tmp_path / "out.jsonl"), "--report", str(tmp_path / "page.rst")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told == "error: not installed: treeffuser; docs/benchmarks/running.rst says how\n"
    assert not (tmp_path / "out.jsonl").exists()


def test_the_page_says_where_a_model_was_measured_on_fewer_splits_or_not_at_all():
    around = dict.fromkeys(("command", "cpu", "cores", "device", "date"), "-") | {
        "versions": {},
        "threads": 1,
    }
    figures = ("pit_ks", "coverage_0.5", "coverage_0.8", "coverage_0.95", "rmse", "fit_seconds")
    same = dict.fromkeys(figures, 0.5) | {
        "n_train": 90,
        "n_test": 10,
        "n_features": 3,
        "seed": 0,
        "code": "c",
    }
    same["circumstances"] = around | {"load": None}

    def record(kind, table, split, mean):
        return same | {"kind": kind, "table": table, "split": split, "mean": mean}

    records = [record("ours", "airfoil", split, 1.0) for split in range(3)]
    records += [record("gp", "airfoil", 0, 2.0), record("ours", "kin8nm", 0, 4.0)]
    page = _conditional_report.page(records, True, False)
    assert "- 3 (Gaussian process 1)" in page
    assert "Not measured: kin8nm (Gaussian process)." in page
    assert "on how many of the 2 tables: Gaussian process 0, ConditionalInterpolantFlow 2." in page
