"""The league: peers that are flows, resampled splits, ranks, differences, the command."""

import functools
import itertools
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm, sem
from torch import nn

from siflow_sk.benchmarks import (
    _flow_peers,
    _league,
    _league_report,
    _league_tables,
    _peers,
    _scores,
    _tables,
)
from siflow_sk.benchmarks.__main__ import main

ROWS = 40


def normal_table(rng, d=2, rows=(300, 80, 50)):
    mixing = rng.standard_normal((d, d)) + 2 * np.eye(d)
    return _tables.Table(*(1.0 + rng.standard_normal((n, d)) @ mixing for n in rows))


# -- peers -------------------------------------------------------------------------------------------------


@pytest.fixture
def seeded():
    """The training draws from torch's global generator, as its callers want it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def loss(self, rows):
        return (rows[:, 1] - self.slope * rows[:, 0]).square().mean()


def test_training_keeps_the_best_weights(seeded):
    rows = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([[1.0, 3.0]])
    line = Line()
    seen = []

    def validation_loss():  # best at a slope of 0.1, though training goes on to 3
        seen.append(abs(line.slope.item() - 0.1))
        return seen[-1]

    chosen = _flow_peers.train(line, line.loss, validation_loss, rows, 60.0, max_steps=2000, patience=3)
    assert chosen["capped"] is False
    assert chosen["validation"] == min(seen)
    assert abs(line.slope.item() - 0.1) == pytest.approx(min(seen))
    # three looks without an improvement ended it
    assert seen.index(min(seen)) == len(seen) - 4


def test_training_ends_at_its_caps(seeded):
    rows = torch.linspace(-1, 1, 100)[:, None] * torch.tensor([[1.0, 0.2]])
    line = Line()
    whole = _flow_peers.train(
        line, line.loss, lambda: line.loss(rows).item(), rows, 60.0, max_steps=1500, patience=99
    )
    assert (whole["steps"], whole["capped"]) == (1500, False)
    assert line.slope.item() == pytest.approx(0.2, abs=0.02)
    line = Line()
    cut = _flow_peers.train(line, line.loss, lambda: line.loss(rows).item(), rows, 0.05)
    assert cut["capped"] is True
    assert cut["steps"] < 10_000


@pytest.fixture
def barely(monkeypatch):
    """Peers that train for three steps."""
    monkeypatch.setattr(_flow_peers, "train", functools.partial(_flow_peers.train, max_steps=3))


@pytest.fixture
def stub(monkeypatch):
    """The one class of flow_matching that is used, with the signature of its release 1.0.10.

    What the tests get are the tolerances that it was asked for.
    """
    tolerances = []

    class ODESolver:
        def __init__(self, velocity_model):
            self.velocity = velocity_model

        def compute_likelihood(self, x_1, log_p0, step_size, method, atol, rtol, time_grid, exact_divergence):
            assert (step_size, method, exact_divergence) == (None, "dopri5", True)
            assert time_grid.tolist() == [1.0, 0.0]
            tolerances.append((atol, rtol))
            x, change = x_1, torch.zeros(len(x_1))
            for t in torch.linspace(1, 0, 26)[:-1] - 1 / 50:  # midpoints
                with torch.no_grad():
                    middle = x - self.velocity(x=x, t=t) / 50
                jacobian = torch.func.vmap(
                    torch.func.jacrev(lambda y, t=t: self.velocity(x=y[None], t=t)[0]), randomness="error"
                )(middle)
                with torch.no_grad():
                    x = x - self.velocity(x=middle, t=t) / 25
                    change = change - torch.einsum("njj->n", jacobian) / 25
            return x, log_p0(x) + change

    solver = types.SimpleNamespace(ODESolver=ODESolver)
    monkeypatch.setitem(sys.modules, "flow_matching", types.SimpleNamespace(solver=solver))
    monkeypatch.setitem(sys.modules, "flow_matching.solver", solver)
    return tolerances


def integral(score, low, high, n=ROWS):
    """Of the density over a square."""
    axis = np.linspace(low, high, n)
    points = np.array(list(itertools.product(axis, axis)))
    return np.exp(score(points)).sum() * (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("name", ["maf", "nsf", "cnf", "flow_matching"])
def test_densities_of_the_flows_integrate_to_one(name, barely, stub):
    table = normal_table(np.random.default_rng(0))
    score, chosen = _peers.whitened(_flow_peers.FLOW_PEERS[name])(table, 0, 60.0)
    assert chosen["steps"] == 3
    assert integral(score, -14.0, 16.0) == pytest.approx(1.0, abs=0.02)
    # exact, nothing random is left
    np.testing.assert_array_equal(score(table.test), score(table.test))


@pytest.mark.parametrize("name", ["cnf", "flow_matching"])
def test_a_flow_is_near_its_own_precise_log_density(name, barely, stub):
    """And that is another number: float32 is not float64."""
    table = normal_table(np.random.default_rng(0))
    score, _ = _flow_peers.FLOW_PEERS[name](table, 0, 60.0)
    found, precise = score(table.test), score.precisely(table.test)
    np.testing.assert_allclose(found, precise, rtol=0, atol=0.01)
    assert (found != precise).any()
    np.testing.assert_array_equal(score(table.test), found)


def test_precise_log_densities_are_solved_to_tight_tolerances(barely, stub, monkeypatch):
    table = normal_table(np.random.default_rng(0))
    score, _ = _flow_peers.cnf(table, 0, 60.0)
    precise = score.precisely(table.test)
    monkeypatch.setattr(_flow_peers, "TIGHT", 1e-12)
    np.testing.assert_allclose(score.precisely(table.test), precise, rtol=0, atol=1e-5)
    monkeypatch.setattr(_flow_peers, "TIGHT", 1e-3)
    assert np.abs(score.precisely(table.test) - precise).max() > 1e-4
    _flow_peers.flow_matching(table, 0, 60.0)[0].precisely(table.test)
    assert stub[-1] == (1e-3, 1e-3)


def test_a_seed_repeats_a_flow(barely):
    table = normal_table(np.random.default_rng(0))
    first, again, other = (_flow_peers.nsf(table, seed, 60.0)[0](table.test) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_flow_matching_learns_a_gaussian(stub, monkeypatch):
    table = _tables.Table(
        *(0.5 * np.random.default_rng(i).standard_normal((n, 1)) for i, n in enumerate((800, 200, 50)))
    )
    monkeypatch.setattr(_flow_peers, "train", functools.partial(_flow_peers.train, max_steps=250))
    score, _ = _flow_peers.flow_matching(table, 0, 60.0)
    np.testing.assert_allclose(score(table.test).mean(), norm(0, 0.5).logpdf(table.test).mean(), atol=0.08)


def test_whitening_counts_its_jacobian():
    table = normal_table(np.random.default_rng(3), d=3)

    def standard(table, seed, seconds):
        np.testing.assert_allclose(np.cov(table.train.T, bias=True), np.eye(3), atol=1e-10)
        return lambda rows: norm.logpdf(rows).sum(axis=1), {}

    score, _ = _peers.whitened(standard)(table)
    exact = multivariate_normal(table.train.mean(axis=0), np.cov(table.train.T, bias=True))
    np.testing.assert_allclose(score(table.test), exact.logpdf(table.test))


# -- splits and scores -------------------------------------------------------------------------------------


def test_redrawn_splits_hold_the_same_rows():
    table = normal_table(np.random.default_rng(0))
    assert _tables.resplit(table, 0) is table
    one, two = (_tables.resplit(table, number) for number in (1, 2))
    assert [len(part) for part in one] == [len(part) for part in table]
    for drawn in (one, two):
        np.testing.assert_array_equal(
            np.sort(np.concatenate(drawn), axis=0), np.sort(np.concatenate(table), axis=0)
        )
    assert (one.test != two.test).any()
    assert len({_tables.digest(t) for t in (table, one, two, _tables.resplit(table, 1))}) == 3


@pytest.fixture
def miniboone(tmp_path):
    """Rows in the numbers of the real table, each one told by its first column."""
    rows = np.random.default_rng(5).standard_normal((8455, 2))
    rows[:, 0] = np.arange(len(rows))
    splits = dict(zip(("x_train", "x_val", "x_test"), np.split(rows, [1523, 4807]), strict=True))
    np.savez(tmp_path / "miniboone_partial.npz", **splits)
    return tmp_path


def test_all_rows_of_miniboone_are_split_anew(miniboone):
    few, many, again = (
        _league_tables.load_table(name, miniboone)
        for name in ("miniboone_partial", "miniboone_4807", "miniboone_4807")
    )
    assert [len(part) for part in few] == [1523, 3284, 3648]
    assert [len(part) for part in many] == [4326, 481, 3648]
    np.testing.assert_array_equal(many.test, few.test)
    # every row of the two splits once, and mixed
    np.testing.assert_array_equal(np.sort(np.concatenate(many[:2])[:, 0]), np.arange(4807))
    assert 100 < (many.valid[:, 0] < 1523).sum() < 220
    assert _tables.digest(many) == _tables.digest(again) != _tables.digest(few)
    # ours gets all of them
    assert len(_tables.rows_to_fit("miniboone_4807", many)) == 4807


def test_only_the_league_knows_the_table_made_here(miniboone):
    assert "miniboone_4807" not in _tables.TABLES
    assert (*_tables.TABLES, "miniboone_4807") == _league.TABLES
    assert set(_league_tables.NOT_COUNTED) == {"gas_sensor_drift", "miniboone_4807"}
    assert _league_tables.find_table("miniboone_4807", miniboone).name == "miniboone_partial.npz"


def test_log_densities_of_all_rows_survive_a_record():
    values = np.array([1.5, -np.inf, np.nan, -1e30])
    text = json.loads(json.dumps(_scores.pack(values)))
    np.testing.assert_array_equal(_scores.unpack(text), values.astype(np.float32))


def test_paired_difference():
    ours, theirs = np.random.default_rng(0).standard_normal((2, 100))
    mean, error = _scores.paired(ours, theirs)
    assert mean == pytest.approx((ours - theirs).mean())
    assert error == pytest.approx(sem(ours - theirs))
    theirs[3] = -np.inf
    assert _scores.paired(ours, theirs)[0] == np.inf
    assert _scores.paired(ours, np.where(np.isinf(theirs), np.nan, theirs))[0] == np.inf
    ours[3] = -np.inf
    assert np.isfinite(_scores.paired(ours, theirs)[0])


# -- ranks and verdicts ------------------------------------------------------------------------------------


def record(table, model, values, *, split=0, seed=0, seconds=None):
    kind = "flow" if model == _league.OURS else "flow peer" if model == "nsf" else "peer"
    row = {"kind": kind, "table": table, "model": model, "split": split, "seed": seed, "quick": False}
    row |= _scores.summary(values) | {"log_density": _scores.pack(values), "chosen": {}, "code": kind}
    row |= {"n_train": 10, "n_features": 2, "fit_seconds": 1.0, "score_seconds": 0.1, "circumstances": AROUND}
    return row if seconds is None else row | {"seconds": seconds}


AROUND = {
    "versions": {"python": "3"},
    "cpu": "none",
    "cores": 1,
    "threads": 1,
    "device": "cpu",
    "load": 0.5,
    "date": "2030-01-01",
    "command": "league",
}


def league_of(rows):
    records = types.SimpleNamespace(to_show=lambda code, quick: (rows, True))
    return _league_report.collect(records, {}, False, _league.OURS)


def noise(seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(50)


def full(tables=_league.TABLES, **changes):
    """Ours 1 nat better than the mixture, then the kernel, then the splines, on every table."""
    shifts = {_league.OURS: 1.0, "gmm": 0.0, "kde": -1.0, "nsf": -1.5}
    rows = []
    for table in tables:
        for model, shift in shifts.items():
            shift = changes.get(f"{table}_{model}", shift)
            rows.append(record(table, model, noise() + shift, seconds=30.0))
            seconds = changes.get(f"{table}_seconds_{model}", changes.get(f"seconds_{model}", 1.0))
            rows[-1]["fit_seconds"] = seconds
    return league_of(rows)


def test_all_verdicts_met():
    found = _league_report.verdicts(full())
    assert [v.outcome for v in found] == ["met"] * 5
    assert found[0].figure == "1.00; next 2.00 (gmm)"
    assert found[1].figure == "12 of 12; next 0 (gmm)"
    assert found[2].figure == "better on 12 of 12, worse on 0"
    assert found[3].figure == "1.0 s against 1.0 s of nsf, 0 of whose 12 fits a cap of 30 s ended"
    assert found[4].figure == (
        f"miniboone_partial: {-1 - noise().mean():.2f} against {-noise().mean():.2f} of gmm, "
        f"better by +1.00 ± 0.00. miniboone_4807: {-1 - noise().mean():.2f} against {-noise().mean():.2f} "
        "of gmm, better by +1.00 ± 0.00"
    )


def test_a_small_lead_or_a_slow_fit_is_not_enough():
    close = {f"{table}_gmm": 1.5 for table in _tables.TABLES[:5]}  # of 12 that count
    found = _league_report.verdicts(full(**close, seconds_siflow_sk=1.1))
    assert [v.outcome for v in found] == ["not met"] * 4 + ["met"]
    assert found[0].figure == "1.42; next 1.58 (gmm)"


def test_a_worse_table_is_named_and_the_one_apart_does_not_count():
    changes = {"airfoil_siflow_sk": -0.5, "gas_sensor_drift_siflow_sk": -9.0}
    found = _league_report.verdicts(full(**changes))
    assert [v.outcome for v in found] == ["met", "met", "not met", "met", "met"]
    assert found[0].figure == "1.08; next 1.92 (gmm)"
    # the same noise on both sides: a paired difference without error
    assert found[2].figure == "better on 11 of 12, worse on 1: airfoil (-0.50 ± 0.00)"


def test_ranks_lost():
    lost = {f"{table}_siflow_sk": -2.0 for table in _tables.TABLES}
    found = [v.outcome for v in _league_report.verdicts(full(**lost))]
    assert found == ["not met"] * 3 + ["met", "not met"]
    # the table made here counts in none of the others
    found = _league_report.verdicts(full(miniboone_4807_siflow_sk=-2.0))
    assert [v.outcome for v in found] == ["met"] * 4 + ["not met"]
    assert found[1].figure == "12 of 12; next 0 (gmm)"
    found = _league_report.verdicts(full(tables=_tables.TABLES))
    assert [v.outcome for v in found] == ["met"] * 4 + ["open"]
    assert found[4].figure.endswith("+1.00 ± 0.00. miniboone_4807: not measured")


def test_miniboone_beside_the_best_peer_of_all():
    def found(*more):
        few = [
            record("miniboone_partial", model, noise() + shift)
            for model, shift in ((_league.OURS, 1.0), ("gmm", 0.0), ("nsf", 0.5))
        ]
        verdict = _league_report.verdicts(league_of([*few, *more]))[4]
        return verdict.figure.partition("miniboone_4807: ")[2], verdict.outcome

    ours, gmm, nsf = (
        record("miniboone_4807", model, noise(seed) + shift)
        for model, seed, shift in ((_league.OURS, 1, 1.0), ("gmm", 2, 0.0), ("nsf", 3, 0.5))
    )
    nsf["chosen"]["capped"] = True
    values = {"ours": noise(1) + 1.0, "gmm": noise(2), "nsf": noise(3) + 0.5}
    apart = values["ours"] - values["nsf"]
    lead = f"better by {apart.mean():+.2f} ± {sem(apart):.2f}"
    nll = {model: f"{-array.mean():.2f}" for model, array in values.items()}
    figure = f"{nll['ours']} against {nll['nsf']} of nsf (a cap ended its fit), {lead}"
    assert found(ours, gmm, nsf) == (figure, "met")
    assert found(gmm, nsf) == ("not measured: siflow_sk", "open")
    # whoever is missing may be the best
    some, outcome = found(ours, gmm)
    assert (some.partition("; ")[2], outcome) == ("not measured: nsf", "open")
    # but he does not help where ours is behind already
    behind = record("miniboone_4807", _league.OURS, noise(1) - 1.0)
    assert found(behind, gmm)[1] == "not met"
    # no split that both have
    assert found(ours | {"split": 1}, gmm, nsf)[1] == "open"


def test_times_are_compared_on_the_same_tables():
    # where nobody is ranked, ours takes long and the peer does not
    slow = dict.fromkeys(("gas_sensor_drift_seconds_siflow_sk", "miniboone_4807_seconds_siflow_sk"), 9.0)
    halves = {f"{table}_seconds_{m}": 2.0 for table in _tables.TABLES[:6] for m in (_league.OURS, "nsf")}
    verdict = _league_report.verdicts(full(**slow, **halves))[3]
    assert verdict.figure.startswith("1.5 s against 1.5 s of nsf")
    assert verdict.outcome == "met"


def test_seeds_of_one_table_do_not_outweigh_the_others():
    rows = [
        record(table, model, noise() - (model == "nsf"), seconds=30.0)
        for table in ("protein", "concrete", "airfoil")
        for model in (_league.OURS, "nsf")
    ]
    for seed in range(1, 5):
        rows.append(record("airfoil", _league.OURS, noise(), seed=seed) | {"fit_seconds": 9.0})
    assert _league_report.verdicts(league_of(rows))[3].figure.startswith("1.0 s against 1.0 s of nsf")


def test_every_model_tells_its_cap():
    tables = ("airfoil", "concrete", "protein")
    rows = [record(table, "gaussian", noise()) for table in tables]
    rows += [record(table, "gmm", noise(), seconds=30.0) for table in tables]
    rows += [record(table, "nsf", noise() + 1, seconds=30.0) for table in tables]
    rows += [record("protein", "nsf", noise() + 1, seconds=240.0)]
    league = league_of(rows + [record(table, _league.OURS, noise() + 2) for table in tables])
    page = _league_report.page(league)
    cells = page.partition("Ranks and times")[2].partition("Log-densities")[0].split("   * - ")
    caps = {row.splitlines()[0]: row.splitlines()[5].strip(" -") for row in cells[1:]}
    assert caps == {
        "Model": "Cap, s",
        _league.OURS: "none",
        "nsf": "30 (2), 240 (1)",
        "gmm": "30",
        "gaussian": "none",
    }
    assert "0 of whose 3 fits a cap of 30 or 240 s ended" in page


def test_what_stands_apart_says_why():
    page = _league_report.page(full())
    assert "Apart, in no rank: on gas_sensor_drift a few validation rows" in page
    assert "; miniboone_4807 is the training and validation rows of miniboone_partial" in page
    assert "Apart" not in _league_report.page(full(tables=["airfoil"]))


def test_nothing_is_claimed_of_what_is_missing():
    assert {v.outcome for v in _league_report.verdicts(league_of([]))} == {"open"}
    peers = league_of([record("airfoil", "gmm", noise()), record("airfoil", "kde", noise())])
    assert {v.outcome for v in _league_report.verdicts(peers)} == {"open"}
    assert "has not been run yet" in _league_report.page(peers)
    some = league_of([record("airfoil", _league.OURS, noise() + 1), record("airfoil", "gmm", noise())])
    assert {v.outcome for v in _league_report.verdicts(some)} == {"open"}


def test_the_largest_cap_counts_and_splits_are_averaged():
    rows = [
        record("airfoil", "gmm", noise() + 3, seconds=240.0),
        record("airfoil", "gmm", noise() + 9, seconds=30.0),
        record("airfoil", "gmm", noise() + 1, seconds=240.0, split=1),
        record("airfoil", _league.OURS, noise() + 5, seed=0),
        record("airfoil", _league.OURS, noise() + 3, seed=1),
    ]
    models = league_of(rows).records["airfoil"]
    assert _league_report.nll(models["gmm"])[0] == pytest.approx(-2.0 - noise().mean())
    # only split 0 has both: the mean over the seeds is 4, against 3
    assert _league_report.difference(models[_league.OURS], models["gmm"])[0] == pytest.approx(1.0, abs=1e-6)


def test_significance():
    assert _league_report.outcome(-0.19, 0.1) == "equal"
    assert _league_report.outcome(-0.21, 0.1) == "worse"
    assert _league_report.outcome(0.21, 0.1) == "better"
    assert _league_report.outcome(-np.inf, np.nan) == "worse"


def test_an_infinite_figure_is_last():
    values = noise()
    values[0] = -np.inf
    rows = [record("airfoil", "gmm", values), record("airfoil", "kde", noise() - 5)]
    assert _league_report.ranks(league_of(rows)) == {"gmm": [2.0], "kde": [1.0]}
    assert "infinite" in _league_report.page(league_of(rows))


# -- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    splits = dict(zip(("x_train", "x_val", "x_test"), normal_table(rng, 3), strict=True))
    (tmp_path / "data" / "uci").mkdir(parents=True)
    np.savez(tmp_path / "data" / "uci" / "airfoil.npz", **splits)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "data"


def test_league_runs_resumes_and_adds_models(folder, capsys):
    command = ["league", "--quick", "--data", str(folder), "--tables", "airfoil", "--report", "page.rst"]
    assert main([*command, "--models", "gaussian,gmm_white", "--splits", "0,1", "--seeds", "0,1"]) == 0
    assert capsys.readouterr().out.count("test NLL") == 6  # nothing random in one Gaussian
    assert main([*command, "--models", "gmm_white,siflow_sk"]) == 0
    out = capsys.readouterr().out
    assert out.count("(stored)") == 1
    assert "OPEN: never worse than gmm" in out
    page = Path("page.rst").read_text(encoding="utf-8")
    assert "siflow_sk" in page
    assert ".. image:: page.png" in page
    assert Path("page.png").stat().st_size > 1000
    assert str(folder) not in page
    rows = [json.loads(line) for line in Path("benchmarks-league.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"peer", "flow"}
    assert len({row["rows"] for row in rows}) == 2  # two splits
    assert torch.get_num_threads() > 0


def test_league_takes_the_table_made_here(miniboone, monkeypatch, capsys):
    monkeypatch.chdir(miniboone)
    command = ["league", "--quick", "--data", ".", "--models", "gaussian", "--report", "page.rst"]
    assert main([*command, "--tables", "miniboone_4807,miniboone_partial"]) == 0
    assert capsys.readouterr().out.count("test NLL") == 2
    rows = [json.loads(line) for line in Path("benchmarks-league.jsonl").read_text().splitlines()]
    assert [row["table"] for row in rows] == ["miniboone_4807", "miniboone_partial"]
    assert len({row["rows"] for row in rows}) == 2


def test_other_rows_are_measured_again(folder, capsys):
    command = ["league", "--quick", "--data", str(folder), "--tables", "airfoil", "--models", "gaussian"]
    assert main(command) == 0
    splits = dict(zip(("x_train", "x_val", "x_test"), normal_table(np.random.default_rng(4), 3), strict=True))
    np.savez(folder / "uci" / "airfoil.npz", **splits)
    _league._table.cache_clear()
    _league._digest.cache_clear()
    capsys.readouterr()
    assert main(command) == 0
    assert "(stored)" not in capsys.readouterr().out


def test_league_without_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["league", "--data", str(tmp_path), "--tables", "protein"]) == 2
    message = capsys.readouterr().err
    assert "table 'protein': there is no file" in message
    assert "--data" in message
