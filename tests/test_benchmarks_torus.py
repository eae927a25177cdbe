"""The benchmark on the torus: the kernel density integrates to one, the command at its smallest."""

import json

import numpy as np
import pytest
from scipy import stats

from siflow_sk.benchmarks import _torus
from siflow_sk.benchmarks.__main__ import main


@pytest.mark.parametrize("h", [0.1, 0.7])
def test_the_kernel_density_is_a_mean_of_von_mises_densities(h):
    rows = np.random.default_rng(0).uniform(0.0, 2 * np.pi, size=(30, 2))
    X = np.random.default_rng(1).uniform(0.0, 2 * np.pi, size=(50, 2))
    model = _torus.EmbeddedKernelDensity((h,)).fit(rows, X)
    kernels = stats.vonmises(1.0 / h**2).pdf(X[:, None] - rows[None]).prod(-1)
    np.testing.assert_allclose(np.exp(model.score_samples(X)), kernels.mean(1), rtol=1e-8)


def test_the_bandwidth_is_the_best_on_validation_rows():
    rng = np.random.default_rng(0)
    rows, others = rng.vonmises(0.0, 20.0, size=(2, 200, 1))
    model = _torus.EmbeddedKernelDensity((0.01, 0.1, 3.0)).fit(rows, others)
    assert model.bandwidth_ == 0.1


def test_the_command_writes_records_and_goes_on(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "torus").mkdir()
    rows = {
        f"x_{s}": rng.uniform(0, 6.28, size=(n, 2)) for s, n in (("train", 80), ("val", 20), ("test", 10))
    }
    np.savez(tmp_path / "torus" / "spike_6vxx_phi_psi.npz", **rows)
    output, report = tmp_path / "out.jsonl", tmp_path / "page.rst"
    command = ["torus", "--quick", "--tables", "spike_6vxx_phi_psi", "--models", "ours,ours_line,kernel"]
    command += ["--data", str(tmp_path), "--output", str(output), "--report", str(report)]
    assert main(command) == 0
    assert main(command) == 0
    assert "(stored)" in capsys.readouterr().out
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [r["kind"] for r in records] == ["ours", "ours_line", "kernel"]
    text = report.read_text()
    assert f"{np.mean(records[2]['values']):.3f} ±" in text
    gap = np.mean(records[0]["values"]) - np.mean(records[2]["values"])
    assert f"({gap:+.3f} ±" in text
