import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal, trim_mean

from siflow_sk.benchmarks import _costs, _memory, _peers, _records, _rst, _scores, _tables, _verdicts
from siflow_sk.benchmarks.__main__ import main
from siflow_sk.benchmarks._published import PUBLISHED, best_published, published_mean


def random_table(rng, d=3, rows=(200, 60, 50)):
    return _tables.Table(*(rng.standard_normal((n, d)) for n in rows))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with one table under a known name, and the working directory beside it."""
    rng = np.random.default_rng(3)
    splits = dict(zip(("x_train", "x_val", "x_test"), random_table(rng), strict=True))
    (tmp_path / "data" / "uci").mkdir(parents=True)
    np.savez(tmp_path / "data" / "uci" / "airfoil.npz", **splits)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("SIFLOW_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "data"


# -- tables ------------------------------------------------------------------------------------------


def test_preparation_drops_spreads_and_standardises():
    rng = np.random.default_rng(0)

    def split(n):
        smooth = rng.standard_normal(n)
        return np.column_stack([smooth, rng.integers(0, 20, n), smooth, 3.0 * rng.integers(0, 40, n)])

    stored = _tables.Table(split(400), split(50), split(50))
    done = _tables.prepare(stored)
    # 20 distinct values and the exact repeat are gone
    assert [a.shape[1] for a in done] == [2, 2, 2]
    np.testing.assert_allclose(done.train.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(done.train.std(axis=0), 1.0)
    mean, scale = stored.train[:, 0].mean(), stored.train[:, 0].std()
    np.testing.assert_allclose(done.test[:, 0] * scale + mean, stored.test[:, 0])
    # the lattice of step 3 is spread over cells of width 3, by one generator, split by split
    draws = np.random.default_rng(0)
    expected = [draws.uniform(v - 1.5, v + 1.5) for v in (a[:, 3] for a in stored)]
    mean, scale = expected[0].mean(), expected[0].std()
    for a, b in zip(done, expected, strict=True):
        np.testing.assert_allclose(a[:, 1] * scale + mean, b)


def test_tables_are_found_in_order(folder, monkeypatch):
    assert _tables.find_table("airfoil", folder) == folder / "uci" / "airfoil.npz"
    monkeypatch.setenv("SIFLOW_DATA", str(folder))
    assert _tables.find_table("airfoil") == folder / "uci" / "airfoil.npz"
    assert _tables.load_table("airfoil").test.dtype == np.float64


def test_missing_table_says_which_file_and_where(folder, capsys):
    assert main(["core", "--data", str(folder), "--tables", "protein,airfoil"]) == 2
    assert capsys.readouterr().err == (
        "error: table 'protein': there is no file uci/protein or protein/protein or protein with the ending "
        f".npz or .csv or .parquet in {folder}, ../shared/data, {folder.parent}/siflow_sk_data. Name the "
        "folder that holds it with data_home (--data on a command line) or the environment variable "
        "SIFLOW_DATA.\n"
    )


def test_missing_split_is_named(folder):
    path = folder / "uci" / "concrete.npz"
    np.savez(path, x_train=np.zeros((2, 2)), x_test=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"there is no array x_val; a table needs"):
        _tables.load_table("concrete", folder)


# -- peers -------------------------------------------------------------------------------------------


def test_kernel_density_is_the_exact_sum():
    rng = np.random.default_rng(1)
    centres, rows = rng.standard_normal((1500, 2)), rng.standard_normal((300, 2))
    ours = _peers.kernel_log_density(centres, rows, [0.3, 0.7])
    for width, values in zip([0.3, 0.7], ours, strict=True):
        slow = [np.exp(-((centres - x) ** 2).sum(1) / (2 * width**2)).mean() for x in rows]
        np.testing.assert_allclose(values, np.log(slow) - 2 * np.log(width) - np.log(2 * np.pi), rtol=1e-10)
    # far away the nearest centre alone counts: no underflow
    far = _peers.kernel_log_density(np.zeros((1, 1)), np.array([[1e4]]), [0.1])
    assert far[0, 0] == pytest.approx(multivariate_normal(0.0, 0.01).logpdf(1e4), rel=1e-12)


def test_peers_recover_a_gaussian():
    rng = np.random.default_rng(2)
    table = random_table(rng, d=2, rows=(3000, 400, 400))
    exact = multivariate_normal(np.zeros(2)).logpdf(table.test).mean()
    for name, slack in (("gaussian", 0.02), ("gmm", 0.03), ("kde", 0.1)):
        score, chosen = _peers.PEERS[name](table, 0, 60.0)
        values = score(table.test)
        assert values.shape == (400,)
        assert abs(values.mean() - exact) < slack, name
    assert chosen["bandwidth"] > 0


def test_mixture_search_ends_at_its_cap():
    table = random_table(np.random.default_rng(2))
    _, chosen = _peers.gmm(table, seconds=0.0)
    assert chosen["tried"] == 1
    assert chosen["capped"] is True


def test_published_figures():
    assert set(PUBLISHED) == set(_tables.TABLES)
    assert published_mean("skillcraft", "gmm") == 124.90
    assert best_published("gas_sensor_drift") == ("maf_white", -210.81)
    assert PUBLISHED["protein"]["maf_white"] == "-2.27 ± 0.29†"


# -- scores, records, costs --------------------------------------------------------------------------


def test_summary():
    values = np.random.default_rng(0).standard_normal(200)
    found = _scores.summary(values)
    assert found["mean"] == pytest.approx(-values.mean())
    assert found["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(200))
    assert found["trimmed"] == pytest.approx(trim_mean(-values, 0.05))
    for bad in (np.nan, -np.inf):
        assert _scores.summary([*values, bad])["mean"] == np.inf
        assert _scores.summary([*values, bad])["n_not_finite"] == 1


def test_records_outlive_an_interrupted_write(tmp_path):
    path = tmp_path / "a" / "results.jsonl"
    _records.Records(path).add({"kind": "flow", "seed": 0, "mean": 1.0})
    with path.open("a") as file:
        file.write('{"kind": "fl')
    records = _records.Records(path)
    records.add({"kind": "flow", "seed": 0, "mean": 2.0})
    assert _records.Records(path).find({"kind": "flow", "seed": 0})["mean"] == 2.0
    assert _records.Records(path).find({"kind": "flow", "seed": 1}) is None


def test_code_changes_with_meaning_only():
    plain = _records._meaning("def f(x):\n    return x\n")
    assert _records._meaning('def f(x):\n    """Say."""\n    return x  # so\n') == plain
    assert _records._meaning("def f(x):\n    return -x\n") != plain
    assert _records.code_of("*.py") != _records.code_of("*.py", "benchmarks/*.py")


def test_code_does_not_change_with_the_version_of_python():
    """Newer versions know fields of the syntax that the code does not use."""
    tree = ast.parse("def f(x):\n    return x\n")
    plain = _records._filled(tree)
    tree.body[0]._fields = (*tree.body[0]._fields, "of_a_later_version")
    tree.body[0].of_a_later_version = []
    assert _records._filled(tree) == plain
    tree.body[0].of_a_later_version = [ast.parse("1")]
    assert _records._filled(tree) != plain


def test_divergence_cost():
    found = _costs.divergence_cost(5, "float64", n_rows=8, width=16, repeats=3, trace_repeats=1)
    assert found["largest_difference"] < 1e-14
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["trace_ratio"] > 0


def test_autograd_trace_of_a_linear_field():
    import torch

    matrix = torch.tensor([[2.0, 1.0], [3.0, -0.5]])
    value, trace = _costs.autograd_trace(lambda t, x: x @ matrix.T * t, torch.tensor(2.0), torch.ones(3, 2))
    assert value.tolist() == [[6.0, 5.0]] * 3
    assert trace.tolist() == [3.0] * 3


def test_memory_counts_what_scoring_keeps():
    found = _costs.scoring_memory(2000, repeats=1)
    assert found["input_bytes"] == 2000 * 6 * 8
    assert found["answer_bytes"] == 2000 * 8
    assert found["peak_bytes"] >= 0


def test_memory_sees_an_array_that_is_let_go(monkeypatch):
    class Greedy(_memory.InterpolantFlow):
        def fit(self, X):
            np.ones(30_000_000)  # a peak that came before does not count
            return self

        def score_samples(self, X):
            return np.ones((len(X), 2000)).sum(axis=1)

    monkeypatch.setattr(_memory, "InterpolantFlow", Greedy)
    megabytes = _memory.scoring_growth(5000)["peak_bytes"] / 1e6
    assert 60 < megabytes < 120  # 80 held at once, less what the 1,000 rows before left behind


# -- the command -------------------------------------------------------------------------------------


def test_quick_run_resumes_and_stays_apart(folder, capsys):
    command = ["core", "--data", str(folder), "--tables", "airfoil", "--sections", "tables"]
    assert main([*command, "--quick"]) == 0
    first = capsys.readouterr().out
    assert "[4/4] airfoil InterpolantFlow, seed 0: test NLL" in first
    assert "(stored)" not in first
    lines = Path("benchmarks-core.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line).get("model") for line in lines] == ["gaussian", "kde", "gmm", None]
    page = Path("benchmarks-core-quick.rst").read_text(encoding="utf-8")
    assert "the figures mean nothing" in page
    assert str(folder) not in page
    assert "``python -m siflow_sk.benchmarks core --tables airfoil --sections tables --quick``" in page

    assert main([*command, "--quick"]) == 0
    assert capsys.readouterr().out.count("(stored)") == 4
    assert Path("benchmarks-core.jsonl").read_text(encoding="utf-8").splitlines() == lines
    assert main([*command, "--quick", "--fresh", "--report-only"]) == 0
    assert main(["core", "--report-only"]) == 0
    assert "airfoil:" not in capsys.readouterr().out
    assert "Nothing has been measured yet." in Path("docs/benchmarks/core.rst").read_text(encoding="utf-8")


def test_failed_table_does_not_stop_the_others(folder, capsys):
    np.savez(folder / "uci" / "concrete.npz", x_train=np.zeros((2, 2)))
    options = ["--sections", "tables", "--quick", "--report", "page.rst"]
    assert main(["core", "--data", str(folder), "--tables", "concrete,airfoil", *options]) == 1
    out = capsys.readouterr().out
    assert "[4/8] flow concrete 0: FAILED, ValueError: " in out
    assert "[8/8] airfoil InterpolantFlow" in out


def test_help_without_a_subcommand():
    done = subprocess.run(
        [sys.executable, "-m", "siflow_sk.benchmarks", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: python -m siflow_sk.benchmarks" in done.stdout
    assert "core" in done.stdout


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--tables", "iris"], "iris is not among power_plant"),
        (["--sections", ","], "nothing is not among divergence, memory, tables"),
        (["--seeds", "0,x"], "'0,x' is not a list of whole numbers >= 0"),
    ],
)
def test_bad_options(option, message, capsys):
    with pytest.raises(SystemExit):
        main(["core", *option])
    assert message in capsys.readouterr().err


# -- verdicts ----------------------------------------------------------------------------------------


def results(**changes):
    """Everything measured and every demand met."""
    flow = {"mean": -1e3, "fit_seconds": 10.0, "score_seconds": 1.0, "n_features": 5}
    full = {
        "flows": {name: [dict(flow)] for name in _tables.TABLES},
        "peers": {(name, model): [{"mean": 50.0}] for name in _tables.TABLES for model in ("kde", "gmm")},
        "divergence": {(d, p): {"ratio": 2.0} for d in _costs.DIMENSIONS for p in _costs.DTYPES},
        "memory": {n: {"peak_bytes": 10 * 2**20} for n in _costs.MEMORY_ROWS},
        "current": True,
        "quick": False,
    }
    return _verdicts.Results(**(full | changes))


def test_verdicts_all_met():
    assert [v.outcome for v in _verdicts.verdicts(results())] == ["met"] * 7


def test_verdicts_open_without_measurements():
    empty = results(flows={}, peers={}, divergence={}, memory={})
    assert {(v.figure, v.outcome) for v in _verdicts.verdicts(empty)} == {("not measured", "open")}


def test_verdicts_not_met_each():
    full = results()
    full.divergence[18, "float32"]["ratio"] = 2.51
    full.memory[1_000_000]["peak_bytes"] += 5 * 2**20
    full.flows["breast_cancer"][0]["fit_seconds"] = 15.2
    full.flows["protein"][0]["fit_seconds"] = 121.0
    full.flows["gas_sensor_drift"][0]["score_seconds"] = 2.1
    for name in ("power_plant", "protein", "airfoil"):  # worse than kernel density or mixture
        full.flows[name][0]["mean"] = 3.2
    for name, mean in (("kin8nm", 11.0), ("skillcraft", 10.0), ("magic_gamma", 4.7)):  # than a flow only
        full.flows[name][0]["mean"] = mean
    found = _verdicts.verdicts(full)
    assert [v.outcome for v in found] == ["not met"] * 7
    assert found[0].figure == "at most 2.51 (d = 18, float32)"
    assert found[1].figure == (
        "better on 7 of 10; not on power_plant (3.20 against 3.16, kde, published), "
        "protein (3.20 against -1.87, gmm, published), airfoil (3.20 against 2.15, gmm, published)"
    )
    assert found[2].figure.startswith("better on 4 of 10; not on power_plant (3.20 against 3.16, kde), ")


def test_best_peer_needs_half_and_gas_sensor_drift_does_not_count():
    full = results()
    lost = ("power_plant", "kin8nm", "airfoil", "skillcraft", "protein")
    for name in (*lost, "gas_sensor_drift"):
        full.flows[name][0]["mean"] = 1e3
    verdict = _verdicts.verdicts(full)[2]
    assert verdict.outcome == "met"
    assert verdict.figure.startswith("better on 5 of 10; not on power_plant (1000.00 against 3.16, kde), ")
    assert verdict.figure.endswith("; with the smaller tables 7 of 12")


def test_report_takes_one_code_and_the_last_line(tmp_path):
    records = _records.Records(tmp_path / "r.jsonl")
    row = {"kind": "flow", "table": "airfoil", "seed": 0, "quick": False}
    for code, mean in (("old", 1.0), ("new", 2.0), ("new", 3.0), ("old", 4.0)):
        records.add(row | {"code": code, "mean": mean})
    records.add(row | {"code": "new", "quick": True, "mean": 9.0})
    found = _verdicts.collect(records, {"flow": "new"}, quick=False)
    assert [r["mean"] for r in found.flows["airfoil"]] == [3.0]
    assert found.current
    found = _verdicts.collect(records, {"flow": "newest"}, quick=False)
    assert [r["mean"] for r in found.flows["airfoil"]] == [4.0]
    assert not found.current


def test_commands_of_many_processes_are_shown_as_one():
    found = [
        "go --seconds 3 --tables a --models x",
        "go --tables b --models x,y --seconds 3",
        "go --seconds 3",
    ]
    assert _rst.merged([*found, found[0], "go --tables c --quick"]) == [
        "go --seconds 3 --tables a,b --models x,y",
        "go --seconds 3",
        "go --tables c --quick",
    ]
