"""The ablation: differences of fits on the same rows, the verdict on a lever, the command."""

import json
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from siflow_sk.benchmarks import _ablation
from siflow_sk.benchmarks.__main__ import main
from siflow_sk.benchmarks._ablation_report import (
    ENSEMBLE,
    Effect,
    counted,
    effects,
    lines,
    overall,
    verdict,
)
from siflow_sk.benchmarks._scores import pack


def record(lever, values, table="a", split=1):
    values = pack(values)
    return {"lever": lever, "table": table, "limit": None, "split": split, "seed": 0, "log_density": values}


def test_differences_are_of_the_same_rows():
    rng = np.random.default_rng(0)
    rows = 100.0 * rng.normal(size=(2, 400))  # unpaired, the error would be 5 nats
    gain = rng.normal(0.5, 0.1, size=(2, 400))
    records = [record("default", rows[i], split=i) for i in (0, 1)]
    records += [record("lever", rows[i] + gain[i], split=i) for i in (0, 1)]
    effect = effects(records)["lever"]["a", None]
    assert effect.mean == pytest.approx(gain.mean(), abs=1e-4)
    assert 0.1 / math.sqrt(800) * 0.9 < effect.error < 0.02


def test_splits_that_disagree_count_more_than_rows():
    records = [record("default", np.zeros(1000), split=i) for i in (0, 1)]
    records += [record("lever", np.full(1000, float(i)), split=i) for i in (0, 1)]
    assert effects(records)["lever"]["a", None] == pytest.approx((0.5, 0.5))


def test_the_ensemble_averages_densities():
    rows = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    found = effects([record("default", rows[0]), record("other seed", rows[1])])
    wanted = logsumexp(rows, axis=0, b=0.5) - rows[0]
    assert found[ENSEMBLE]["a", None].mean == pytest.approx(wanted.mean(), abs=1e-5)


def test_without_the_default_there_is_nothing_to_compare():
    assert effects([record("lever", np.zeros(9))]) == {}


@pytest.mark.parametrize(
    ("means", "error", "wanted"),
    [
        ((0.5, 0.6, 0.4), 0.1, "helps"),
        ((0.5, 0.6, 0.4, -0.05), 0.1, "helps"),  # within its error
        ((0.5, 0.6, 0.5, 0.6, -0.05), 0.01, "open"),  # one table is hurt
        ((0.5, -0.4, 0.1), 0.1, "open"),
        ((-0.5, -0.6, -0.4), 0.1, "hurts"),
        ((0.5,), 0.1, "open"),  # one table is no evidence
        ((0.5, -math.inf), 0.1, "open"),
    ],
)
def test_verdict(means, error, wanted):
    places = {(str(i), None): Effect(mean, error) for i, mean in enumerate(means)}
    assert verdict(places) == wanted


def test_what_stands_apart_in_the_league_counts_in_no_mean():
    rows = np.random.default_rng(0).standard_normal(40)
    tables = {"a": 0.5, "b": 0.6, "c": 0.4, "gas_sensor_drift": -100.0}
    records = [record("default", rows, name) for name in tables]
    records += [record("lever", rows + gain, name) for name, gain in tables.items()]
    assert lines(records)[0].endswith("nats over 3 tables: helps")
    alone = {"lever": {("gas_sensor_drift", None): Effect(1.0, 0.1)}}
    assert counted(alone) == alone


def test_the_error_of_the_mean_is_over_the_tables():
    places = {(str(i), None): Effect(mean, 0.0) for i, mean in enumerate((1.0, 2.0, 3.0))}
    assert overall(places) == pytest.approx((2.0, 1.0 / math.sqrt(3.0)))


def test_the_command_writes_records_and_goes_on(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "uci").mkdir()
    rows = {f"x_{s}": rng.normal(size=(n, 3)) for s, n in (("train", 200), ("val", 20), ("test", 30))}
    np.savez(tmp_path / "uci" / "concrete.npz", **rows)
    output, report = tmp_path / "out.jsonl", tmp_path / "page.rst"
    command = ["ablation", "--quick", "--tables", "concrete", "--levers", "other seed,one of width 64"]
    command += ["--splits", "1", "--data", str(tmp_path), "--output", str(output), "--report", str(report)]
    assert main(command) == 0
    assert main(command) == 0
    assert "(stored)" in capsys.readouterr().out
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [r["lever"] for r in records] == ["default", "other seed", "one of width 64"]
    assert len({r["mean"] for r in records}) == 3  # the levers do something
    assert {(r["n_fit"], r["n_test"], r["rows"]) for r in records} == {(120, 30, records[0]["rows"])}
    page = report.read_text()
    absent = page.split("Not measured: ")[1].split(".\n")[0]
    assert "*no polish*, " in absent.split(" (everywhere)")[0]
    assert "``protein``, " in absent.split(" (everything)")[0]
    assert "concrete" not in absent
    assert "one of width 64" not in absent
    assert ENSEMBLE in page
    assert str(effects(records)["one of width 64"]["concrete", 120]) in page


def test_a_limit_draws_other_rows_for_every_split(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 2))
    np.savez(tmp_path / "concrete.npz", x_train=rows[:240], x_val=rows[240:270], x_test=rows[270:])
    first, test = _ablation.rows_of("concrete", 1, 50, tmp_path)
    second, _ = _ablation.rows_of("concrete", 2, 50, tmp_path)
    assert first.shape == second.shape == (50, 2)
    assert test.shape == (30, 2)
    assert not np.array_equal(first, second)
    assert not set(map(tuple, first)) & set(map(tuple, test))
