import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from siflow_sk.benchmarks import _paper, _uci_report, _uci_sets
from siflow_sk.benchmarks.__main__ import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small stand-ins of two sets, and a script that draws the third."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    for name, d in (("power_2007h1", 2), ("miniboone_partial", 3)):
        (data / name).mkdir(parents=True)
        splits = {
            f"x_{s}": rng.standard_normal((n, d)) for s, n in (("train", 150), ("val", 40), ("test", 60))
        }
        np.savez(data / name / f"{name}.npz", **splits)
    (data / "bsds300").mkdir()
    (data / "bsds300" / "make_patches.py").write_text(
        "import numpy as np\n"
        "def make():\n"
        "    rng = np.random.default_rng(1)\n"
        "    return {f'x_{s}': rng.normal(size=(100, 2)) for s in ('train', 'val', 'test')}\n"
    )
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SIFLOW_DATA", raising=False)
    return data


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_divergence_of_the_plain_network(activation):
    generator = torch.Generator().manual_seed(0)
    network = _paper.PlainMLP(3, 16, 3, activation, generator).double()
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]):
        value, divergence = network.value_and_divergence(t, x)
        torch.testing.assert_close(value, network(t, x))
        for i in range(5):
            row = t if t.ndim == 0 else t[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(lambda y, s=row: network(s, y[None])[0], x[i])
            torch.testing.assert_close(divergence[i], jacobian.trace())


@pytest.mark.parametrize("b", [0.5, 1.0])
def test_times_follow_the_beta_distribution(b):
    like = torch.zeros(1, dtype=torch.float64)
    times = _paper.beta_times(4000, b, torch.Generator().manual_seed(0), like)
    assert kstest(times[:, 0].numpy(), beta(1.0, b).cdf).pvalue > 1e-6  # false alarms: one in a million


@pytest.mark.parametrize("pairing", ["all", "one"])
def test_training_learns_a_shifted_gaussian(pairing):
    rng = np.random.default_rng(0)
    rows = rng.normal(1.0, 0.5, (2000, 1))
    configuration = _paper.Configuration(64, 2, 0.01, 24, 2, "elu", 1.0)
    network, record = _paper.train(rows[:1500], rows[1500:], configuration, steps=150, pairing=pairing)
    values, error = _paper.score(network, rows[:300])
    exact = -0.5 * ((rows[:300, 0] - 1.0) / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    assert abs(np.mean(values - exact)) < 0.1
    assert error.max() < 1e-2
    assert record["n_iter"] == 150
    network, record = _paper.train(rows, rows, configuration, steps=250, seconds=0.0)
    assert record["n_iter"] == 1


def test_sources(folder, monkeypatch):
    assert _uci_sets.source("gas", folder) is None
    for name in ("power", "miniboone", "bsds300"):
        assert _uci_sets.source(name, folder).caution
    assert _uci_sets.load("bsds300", folder).train.shape == (100, 2)
    drawn = {f"x_{split}": np.zeros((3, 2)) for split in ("train", "val", "test")}
    np.savez(folder / "bsds300.npz", **drawn)  # what the script wrote counts before it is run again
    assert _uci_sets.load("bsds300", folder).train.shape == (3, 2)
    (folder / "miniboone").mkdir()
    np.save(folder / "miniboone" / "data.npy", np.zeros((3, 3)))
    assert _uci_sets.source("miniboone", folder) == ("benchmark", "")


def test_test_rows_are_drawn_once_and_for_all():
    table = _uci_sets.Table(*(np.arange(n * 2.0).reshape(n, 2) for n in (1500, 400, 300)))
    some = _uci_sets.some_rows(table, 20)
    assert len(some.train) == 1500
    assert set(map(tuple, some.test)) < set(map(tuple, table.test))
    np.testing.assert_array_equal(some.test, _uci_sets.some_rows(table, 20).test)
    assert [len(a) for a in _uci_sets.some_rows(table, quick=True)] == [1000, 300, 50]


def test_published_rows():
    rows = {name: cells for name, *cells in _uci_report.PUBLISHED}
    assert rows["InterFlow (the paper)"] == ["-0.57", "-12.35", "14.85", "10.42", "-156.22", "M+"]
    assert {len(cells) for cells in rows.values()} == {6}
    assert len(rows) == 25


def test_quick_run_resumes_and_says_what_the_data_are(folder, capsys):
    command = ["uci", "--data", str(folder), "--quick", "--sets", "gas,power"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "gas: not on this machine, left out; siflow_sk.datasets.fetch_gas() fetches it" in out
    assert "[3/3] power (power_2007h1) paper, seed 0: test NLL" in out
    lines = [json.loads(line) for line in Path("benchmarks-uci.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["gaussian", "ours", "paper"]
    assert lines[2]["steps"] == 20
    page = Path("benchmarks-uci-quick.rst").read_text(encoding="utf-8")
    assert "the figures mean nothing" in page
    assert "* POWER: power_2007h1, January to June 2007" in page
    assert "Not on this machine, so not measured: GAS, HEPMASS, MINIBOONE, BSDS300" in page
    assert page.count(" \\*\n") == 3
    assert "memory, partly corroborated" in page
    assert str(folder) not in page
    assert main(command) == 0
    assert capsys.readouterr().out.count("(stored)") == 3
    assert main(["uci", "--report-only"]) == 0
    assert "Nothing has been measured yet." in Path("docs/benchmarks/uci.rst").read_text(encoding="utf-8")


def test_nothing_there(tmp_path, folder, capsys):
    assert main(["uci", "--data", str(tmp_path / "none"), "--sets", "gas", "--report", "p.rst"]) == 2
    assert "none of the sets gas is on this machine. Fetch one" in capsys.readouterr().err
