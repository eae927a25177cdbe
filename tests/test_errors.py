"""The estimated error of a log-density bounds the true one; what was not solved is said, and stays alone."""

import json
import warnings

import numpy as np
import pytest
import torch
from oracles import BENT, NORMAL, OFFSET, ExactVelocity, between, gaussian
from sklearn.datasets import make_moons

from siflow_sk import InterpolantFlow, _likelihood
from siflow_sk.bases import Gaussian, StandardNormal
from siflow_sk.benchmarks import _errors
from siflow_sk.benchmarks.__main__ import main
from siflow_sk.solvers import DormandPrince, Grid, RungeKutta
from siflow_sk.velocities import MLP, ResidualMLP

SOLVERS = {
    "grid": lambda: Grid(),
    "tight grid": lambda: Grid(tol=1e-6),
    "loose grid": lambda: Grid(tol=1e-2),
    "dopri5": lambda: DormandPrince(),
    "loose dopri5": lambda: DormandPrince(rtol=1e-4, atol=1e-4),
}
NARROW = gaussian([0.3, -0.2], [[1.0, 0.97], [0.97, 1.0]])
# path, source, target, time
PROBLEMS = {
    "mixture": ("linear", NORMAL, BENT, 1.0),
    "on the way to a mixture": ("trigonometric", NORMAL, BENT, 0.4),
    "narrow": ("trigonometric", OFFSET, NARROW, 1.0),
}


def solved(name, problem, x, verify=True):
    """Log-densities and estimates of a solver that was calibrated on other rows."""
    path, source, target, t = PROBLEMS[problem]
    velocity = ExactVelocity(path, source, target)
    base = StandardNormal() if source is NORMAL else Gaussian(source.means[0], source.covariances[0])
    base.fit(torch.zeros(2, 2, dtype=torch.float64), None)
    rows = torch.tensor(target.sample(200, seed=2)).to(x)
    solver = _likelihood.calibrate(velocity, base, SOLVERS[name](), rows)
    return _likelihood.log_density(velocity, base, solver, x, t, verify=verify)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_estimate_bounds_the_error_against_the_closed_form(name, problem):
    """For 99 % of typical rows and of rows three times as far out; and it is no wild exaggeration."""
    path, source, target, t = PROBLEMS[problem]
    law = between(path, source, target, t)
    near, far = law.sample(156, seed=1), law.sample(100, seed=3)
    x = np.concatenate([near, law.mean() + 3.0 * (far - law.mean())])
    value, error = (a.numpy() for a in solved(name, problem, torch.tensor(x)))
    true = np.abs(value - law.logpdf(x))
    own = 1e-14 * (10.0 + np.abs(law.logpdf(x)))  # of the closed form itself
    assert np.mean(true[:156] <= error[:156] + own[:156]) >= 0.99
    assert np.mean(true[156:] <= error[156:] + own[156:]) >= 0.99
    assert np.median(error) < 20.0 * np.median(true) + 1e-11


def test_verifying_changes_no_value():
    x = torch.tensor(BENT.sample(256, seed=1))
    for name in ("loose grid", "loose dopri5"):
        plain, cheap = solved(name, "mixture", x, verify=False)
        value, error = solved(name, "mixture", x)
        assert torch.equal(value, plain)
        assert not torch.equal(error, cheap)


@pytest.mark.parametrize("name", ["grid", "tight grid"])
def test_the_estimate_knows_of_rounding(name):
    """In float32 most of the error of a tight grid is rounding."""
    x = BENT.sample(256, seed=1)
    value, error = solved(name, "mixture", torch.tensor(x, dtype=torch.float32))
    true = np.abs(value.double().numpy() - BENT.logpdf(x.astype(np.float32).astype(np.float64)))
    assert true.max() > 1e-7
    assert np.mean(true <= error.double().numpy()) >= 0.99


# -- probes -------------------------------------------------------------------------------------------------


def test_the_distance_to_a_better_solution():
    """None between equals, two densities of zero among them; infinite where there is no better solution."""
    value = torch.tensor([1.0, -torch.inf, 2.0, 2.0, -torch.inf])
    better = torch.tensor([1.0, -torch.inf, 2.5, torch.nan, -3.0])
    assert _likelihood._distance(value, better).tolist() == [0.0, 0.0, 1.0, torch.inf, torch.inf]


def probed(n_probes, draw):
    """An untrained network of three columns, its probes drawn afresh."""
    recipe = ResidualMLP(width=8, depth=1, divergence="hutchinson", n_probes=n_probes)
    network = recipe.build(3, torch.Generator().manual_seed(0)).double()
    for p in network.parameters():
        p.data *= 1.5  # a field that bends
    signs = torch.rand(network.probes.shape, generator=torch.Generator().manual_seed(draw)) < 0.5
    network.probes = 2.0 * signs.double() - 1.0
    return network


def test_a_probed_log_density_reports_its_standard_error():
    """Over draws of 8 probes, deviations from the exact value over the reported error have the size 1."""
    x = torch.randn(256, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    solver, base, ratios = RungeKutta(n_steps=3), StandardNormal(), []
    exact = probed(8, 0)
    exact.probes = None
    truth, _ = _likelihood.log_density(exact, base, solver, x)
    assert (_likelihood.probe_error(exact, solver, x) == 0.0).all()
    for draw in range(12):
        network = probed(8, draw)
        value, _ = _likelihood.log_density(network, base, solver, x)
        ratios.append((value - truth) / _likelihood.probe_error(network, solver, x))
    # the mean square of Student's t with 7 degrees is 7/5; rows share their probes, so the bounds are wide
    assert 0.7 < torch.stack(ratios).square().mean().sqrt() < 1.8


def test_one_probe_has_no_standard_error():
    error = _likelihood.probe_error(probed(1, 0), RungeKutta(n_steps=2), torch.zeros(2, 3).double())
    assert torch.isnan(error).all()


def test_a_time_for_every_row_has_its_standard_error():
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t, solver, network = torch.tensor([[0.0], [0.2], [0.7], [1.0]]), RungeKutta(n_steps=8), probed(4, 0)
    together = _likelihood.probe_error(network, solver, x, t)
    for i in range(4):
        alone = _likelihood.probe_error(network, solver, x[i : i + 1], float(t[i]))
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=1e-12)


def test_score_samples_counts_the_standard_error_in():
    X, _ = make_moons(60, noise=0.1, random_state=0)
    velocity = ResidualMLP(width=4, depth=1, divergence="hutchinson", n_probes=6)
    tiny = {"max_iter": 2, "polish": 0, "preprocessor": "standardize", "random_state": 0}
    flow = InterpolantFlow(velocity=velocity, **tiny).fit(X)
    _, error = flow.score_samples(X, return_error=True)
    with torch.no_grad():
        z = flow.preprocessor_.forward(torch.tensor(X))[0]
    spread = _likelihood.probe_error(flow.velocity_, flow.solver_, z).numpy()
    assert (spread > 0).all()
    assert (error >= spread).all()
    np.testing.assert_allclose(error, spread, rtol=0, atol=1e-3)


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "uci").mkdir()
    sizes = {"x_train": 120, "x_val": 40, "x_test": 30}
    np.savez(tmp_path / "uci" / "airfoil.npz", **{k: rng.standard_normal((n, 3)) for k, n in sizes.items()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIFLOW_DATA", str(tmp_path))
    return tmp_path


def test_the_command_measures_writes_and_goes_on(folder, monkeypatch, capsys):
    loose = {"solver": DormandPrince(1e-4, 1e-4), "weight_decay": 0.5}
    monkeypatch.setattr(_errors, "VARIANTS", {"grid": {}, "loose": loose})
    arguments = ["errors", "--quick", "--tables", "airfoil", "--report", "page.rst"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in (folder / "benchmarks-errors.jsonl").read_text().splitlines()]
    assert len(lines) == len(_errors.VARIANTS)
    for line in lines:
        for part in ("held_out", "stretched"):
            assert line[part]["coverage"] >= 0.95
            assert line[part]["n_unsolved"] == 0
            assert line[part]["reference_error"] < 1e-6
    page = (folder / "page.rst").read_text()
    assert "Solver: loose" in page
    assert "airfoil" in page
    monkeypatch.setattr(_errors, "measure", None)  # what is stored is not measured again
    assert main(arguments) == 0
    assert main(["errors", "--quick", "--tables", "iris,concrete", "--report", "page.rst"]) == 2
    assert "concrete" in capsys.readouterr().err


def test_the_comparison_sees_an_estimate_that_is_too_small(monkeypatch):
    X, _ = make_moons(100, noise=0.1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = InterpolantFlow(max_iter=5, polish=0, velocity=MLP(width=8), random_state=0).fit(X)
    assert _errors.compare(flow, X)["coverage"] >= 0.99
    score = InterpolantFlow.score_samples

    def off(self, X, return_error):
        value, error = score(self, X, return_error=True)
        return (value if self is not flow else value + 1e-3), error

    monkeypatch.setattr(InterpolantFlow, "score_samples", off)
    found = _errors.compare(flow, X)
    assert found["coverage"] < 0.5
    assert found["largest_ratio"] > 1.0
