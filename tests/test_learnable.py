"""The learnable path and base: energies of the max-min problem between Gaussians, by quadrature and SciPy."""

import functools
import pickle

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import PATHS, gaussian
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from siflow_sk import InterpolantFlow, InterpolantTransport
from siflow_sk._objective import path_gain
from siflow_sk.bases import LearntGaussian
from siflow_sk.interpolants import Fourier, WithNoise
from siflow_sk.velocities import MLP

# N(0, I) to N(MEAN, diag(STD^2))
MEAN, STD = np.array([2.0, 0.0]), np.array([0.5, 1.5])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)
TIMES, WEIGHTS = 0.5 * (NODES + 1.0), 0.5 * WEIGHTS


def coefficients_at(t, c):
    """a, b, a', b' at the times ``t`` (n,), written anew in NumPy; ``c`` (2, M)."""
    m = np.arange(1, c.shape[1] + 1)
    wave, slope = np.sin(np.pi * np.outer(t, m)), np.pi * m * np.cos(np.pi * np.outer(t, m))
    a, b = (wave @ row / len(m) for row in c)
    da, db = (slope @ row / len(m) for row in c)
    quarter = 0.5 * np.pi * t
    return (
        np.cos(quarter) + a,
        np.sin(quarter) + b,
        -0.5 * np.pi * np.sin(quarter) + da,
        0.5 * np.pi * np.cos(quarter) + db,
    )


def energy(c):
    """Kinetic energy of the path: sum over columns of the integral of (b' m)^2 + (ds/dt)^2."""
    a, b, da, db = coefficients_at(TIMES, c)
    s = np.sqrt(a[:, None] ** 2 + b[:, None] ** 2 * STD**2)
    ds = (a[:, None] * da[:, None] + b[:, None] * db[:, None] * STD**2) / s
    return float(WEIGHTS @ ((db[:, None] * MEAN) ** 2 + ds**2).sum(1))


@functools.cache
def learn(n_modes):
    rows = gaussian(MEAN, np.diag(STD**2)).sample(4000, seed=0)
    return InterpolantFlow(
        interpolant=Fourier(n_modes=n_modes),
        velocity=MLP(width=32),
        preprocessor="none",
        max_iter=400,
        batch_size=256,
        polish=0,
        weight_decay=0.0,
        random_state=0,
    ).fit(rows)


def test_coefficients_at_zero_are_the_quarter_circle():
    t = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)
    for path in (Fourier(), Fourier().start()):
        found = (path.alpha(t), path.beta(t), path.d_alpha(t), path.d_beta(t))
        for actual, expected in zip(found, PATHS["trigonometric"], strict=True):
            torch.testing.assert_close(actual, expected(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n_modes", [1, 3])
def test_coefficients_against_numpy(n_modes):
    path = Fourier(n_modes=n_modes).start()
    assert path.coefficients_.shape == (2, n_modes)
    some = torch.tensor([[-0.3, 0.2, 0.05], [0.4, -0.1, 0.02]], dtype=torch.float64)
    path.coefficients_ = some[:, :n_modes]
    t = torch.tensor(TIMES)
    expected = coefficients_at(TIMES, path.coefficients_.numpy())
    for actual, wanted in zip(
        (path.alpha(t), path.beta(t), path.d_alpha(t), path.d_beta(t)), expected, strict=True
    ):
        np.testing.assert_allclose(actual.numpy(), wanted, rtol=0, atol=1e-13)


def test_the_gradient_of_the_gain_is_minus_that_of_the_energy():
    """At the exact velocity, by the envelope theorem; 400,000 pairs, each entry within 5 standard errors."""
    path = Fourier(n_modes=2).start()
    c = np.array([[-0.2, 0.1], [0.3, -0.1]])
    path.coefficients_ = torch.tensor(c).requires_grad_(True)
    m, s2 = torch.tensor(MEAN), torch.tensor(STD**2)

    def exact(t, x):
        with torch.no_grad():
            a, b, da, db = path.alpha(t), path.beta(t), path.d_alpha(t), path.d_beta(t)
            rate = (a * da + b * db * s2) / (a**2 + b**2 * s2)
            offset = db * m - rate * b * m
        return offset + rate * x

    rng = np.random.default_rng(0)
    batches = []
    for _ in range(40):
        x0, x1 = (torch.tensor(rng.standard_normal((10_000, 2))) for _ in range(2))
        t = torch.tensor((np.arange(10_000) + rng.uniform(size=10_000))[:, None] / 10_000)
        gain = path_gain(exact, path, t, x0, m + torch.tensor(STD) * x1)
        batches.append(torch.autograd.grad(gain, path.coefficients_)[0].numpy())
    mean, error = np.mean(batches, axis=0), np.std(batches, axis=0, ddof=1) / np.sqrt(40)
    step = 1e-5
    for i in np.ndindex(2, 2):
        ahead, behind = c.copy(), c.copy()
        ahead[i] += step
        behind[i] -= step
        slope = (energy(ahead) - energy(behind)) / (2 * step)
        assert abs(mean[i] + slope) < 5 * error[i]


@pytest.mark.parametrize(("n_modes", "least"), [(1, 4.803), (2, 4.726), (4, 4.695)])
def test_the_energy_of_the_learnt_path(n_modes, least):
    """Within 2 % of the least one, which SciPy finds as well; by quadrature and by path_length."""
    found = minimize(lambda c: energy(c.reshape(2, -1)), np.zeros(2 * n_modes), method="BFGS")
    assert found.fun == pytest.approx(least, abs=1e-3)
    assert energy(np.zeros((2, 1))) == pytest.approx(5.552, abs=1e-3)  # where it starts
    flow = learn(n_modes)
    assert energy(flow.interpolant_.coefficients_.double().numpy()) == pytest.approx(least, rel=0.02)
    length, error = flow.path_length(4000, random_state=0)
    assert error < 0.015 * length
    assert length == pytest.approx(least, rel=0.02)


def test_the_density_does_not_suffer():
    flow, law = learn(2), gaussian(MEAN, np.diag(STD**2))
    x = law.sample(500, seed=1)
    error = flow.score_samples(x) - law.logpdf(x)
    assert abs(error.mean()) < 0.05
    assert error.std() < 0.2


# -- a learnt base --------------------------------------------------------------------------------------


def energy_from(mean, covariance):
    """Kinetic energy of straight lines from N(mean, covariance), independent pairs.

    v = m' + A C_t^-1 (x - m_t) with A = t C1 - (1 - t) C0 and C_t = t^2 C1 + (1 - t)^2 C0.
    """
    c0, c1, t = covariance[None], np.diag(STD**2)[None], TIMES[:, None, None]
    a, c = t * c1 - (1 - t) * c0, t**2 * c1 + (1 - t) ** 2 * c0
    return float(((MEAN - mean) ** 2).sum() + WEIGHTS @ np.trace(a @ np.linalg.solve(c, a), axis1=1, axis2=2))


def test_the_learnt_base_is_the_nearest_by_straight_lines():
    """To the mean of the data, and pi / 4 of their spread: within 5 % of the least energy."""

    def unpacked(p):
        factor = np.array([[np.exp(p[2]), 0.0], [p[3], np.exp(p[4])]])
        return p[:2], factor @ factor.T

    best = minimize(lambda p: energy_from(*unpacked(p)), np.zeros(5), method="BFGS")
    assert energy_from(np.zeros(2), np.eye(2)) == pytest.approx(5.358, abs=1e-3)
    np.testing.assert_allclose(unpacked(best.x)[1], np.diag((np.pi / 4 * STD) ** 2), atol=1e-4)
    start = np.array([1.0, 0.3]), np.array([[0.8, 0.3], [0.3, 1.0]])
    flow = InterpolantFlow(
        interpolant="linear",
        base=LearntGaussian(*start, learning_rate=0.03, n_velocity_steps=3),
        velocity=MLP(width=32),
        preprocessor="none",
        max_iter=450,
        batch_size=256,
        polish=0,
        weight_decay=0.0,
        random_state=0,
    ).fit(gaussian(MEAN, np.diag(STD**2)).sample(4000, seed=0))
    found = energy_from(*(m.numpy() for m in flow.base_.moments(2)))
    assert found < 1.05 * best.fun < 0.5 * energy_from(*start)
    energy, error = flow.path_length(4000, random_state=0)
    assert energy == pytest.approx(found, rel=0.05)
    assert error < 0.03 * energy
    x = gaussian(MEAN, np.diag(STD**2)).sample(500, seed=1)
    wrong = flow.score_samples(x) - gaussian(MEAN, np.diag(STD**2)).logpdf(x)
    assert abs(wrong.mean()) < 0.05
    # the base stays Gaussian, so the score follows from the velocity
    assert np.isfinite(flow.score_function(0.5, x, method="velocity")).all()


def test_where_a_learnt_base_is(generator):
    """Mean, factor and draws against NumPy; one unit of a coefficient is one deviation of the start."""
    m0, c0 = np.array([1.0, -2.0]), np.array([[4.0, 1.0], [1.0, 2.0]])
    base = LearntGaussian(m0, c0).fit(torch.zeros(3, 2, dtype=torch.float64), None)
    base.coefficients_ = torch.tensor([[0.5, -1.0], [0.2, 9.0], [0.3, -0.4]], dtype=torch.float64)
    factor = np.linalg.cholesky(c0)
    mean = m0 + factor @ [0.5, -1.0]
    expected = factor @ np.array([[np.exp(0.2), 0.0], [0.3, np.exp(-0.4)]])
    law, x = gaussian(mean, expected @ expected.T), np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_allclose(base.log_prob(torch.tensor(x)).numpy(), law.logpdf(x), rtol=1e-12)
    draws = base.sample(40_000, generator).numpy()
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.08)
    np.testing.assert_allclose(np.cov(draws.T), expected @ expected.T, rtol=0.1)


def test_a_learnt_base_is_a_part_like_any_other(moons):
    settings = {"max_iter": 12, "polish": 0, "batch_size": 32, "interpolant": "fourier"}
    base = LearntGaussian(learning_rate=0.05, n_velocity_steps=1)
    flow = quick(base=base, coupling="optimal_transport", **settings).fit(moons)
    learnt = flow.base_.coefficients_
    assert learnt.shape == (3, 2)
    assert (learnt != 0).any()
    assert (flow.interpolant_.coefficients_ != 0).any()  # both at once
    assert not learnt.requires_grad
    assert torch.equal(clone(flow).fit(moons).base_.coefficients_, learnt)
    assert torch.equal(pickle.loads(pickle.dumps(flow)).base_.coefficients_, learnt)
    before, fitted = learnt.clone(), flow.base_
    flow.set_params(warm_start=True, max_iter=1).fit(moons)
    assert torch.equal(fitted.coefficients_, before)  # a fit is all or nothing: it moves a copy
    assert (flow.base_.coefficients_ - before).abs().max() < 0.05 < before.abs().max()
    assert not hasattr(base, "coefficients_")  # what the user passed is not changed
    polished = quick(base="learnt_gaussian", max_iter=12, polish=5, batch_size=32).fit(moons)
    assert np.isfinite(polished.score_samples(moons)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_velocity_steps": 0.5}, "LearntGaussian: n_velocity_steps must be a whole number >= 1, got 0.5"),
        ({"learning_rate": -1.0}, "LearntGaussian: learning_rate must be finite and > 0"),
        ({"mean": [0.0]}, r"mean of shape \(2,\)"),
        ({"learning_rate": 300.0}, "base=LearntGaussian.* the coefficients diverged"),
    ],
)
def test_a_learnt_base_that_cannot_be_used(parameters, message, moons):
    with pytest.raises(ValueError, match=message):
        quick(base=LearntGaussian(**parameters)).fit(moons)


def test_a_learnt_base_takes_no_noise(moons):
    with pytest.raises(ValueError, match=r"base=LearntGaussian\(\) is learnt, .* interpolant='linear'"):
        quick(base="learnt_gaussian", interpolant=WithNoise("linear")).fit(moons)


# -- as a part ------------------------------------------------------------------------------------------


def test_the_path_is_a_part_like_any_other(moons):
    flow = quick(interpolant="fourier", max_iter=6, polish=0, batch_size=32).fit(moons)
    learnt = flow.interpolant_.coefficients_
    assert learnt.shape == (2, 4)
    assert (learnt != 0).any()
    assert not learnt.requires_grad
    assert torch.equal(pickle.loads(pickle.dumps(flow)).interpolant_.coefficients_, learnt)
    assert torch.equal(clone(flow).fit(moons).interpolant_.coefficients_, learnt)
    own = Fourier(n_modes=2)
    quick(interpolant=own, max_iter=3, polish=0, batch_size=32).fit(moons)
    assert not hasattr(own, "coefficients_")  # what the user passed is not changed
    search = GridSearchCV(flow, {"interpolant__n_modes": [1, 2]}, cv=2).fit(moons)
    assert search.best_estimator_.interpolant_.n_modes in (1, 2)


def test_the_path_moves_in_the_first_two_thirds_only(moons, monkeypatch):
    seen = []
    check = Fourier.check
    monkeypatch.setattr(Fourier, "check", lambda self: (seen.append(self.coefficients_.clone()), check(self)))
    flow = quick(
        interpolant=Fourier(n_velocity_steps=3), max_iter=90, polish=0, batch_size=32, preprocessor="whiten"
    ).fit(moons)
    assert len(seen) == 20  # 60 steps in which it moves, every third
    assert torch.equal(flow.interpolant_.coefficients_, seen[19])


def test_going_on_keeps_what_was_learnt(moons):
    """Warm start and partial_fit start from the coefficients, not from zero."""
    path = Fourier(learning_rate=0.05)
    flow = quick(interpolant=path, max_iter=60, polish=0, warm_start=True, batch_size=32).fit(moons)
    before = flow.interpolant_.coefficients_.clone()
    flow.set_params(max_iter=1).fit(moons)
    assert (flow.interpolant_.coefficients_ - before).abs().max() < 0.06 < before.abs().max()
    flow.partial_fit(moons)
    assert (flow.interpolant_.coefficients_ - before).abs().max() < 0.12 < before.abs().max()


def test_between_two_tables():
    source, target = np.random.default_rng(1).standard_normal((2, 200, 2))
    transport = InterpolantTransport(
        interpolant="fourier",
        coupling="independent",
        velocity=MLP(width=16),
        max_iter=10,
        random_state=0,
    ).fit(source, 3.0 * target)
    assert (transport.segments_[0].interpolant.coefficients_ != 0).any()


# -- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_modes": 0}, "Fourier: n_modes must be a whole number >= 1, got 0"),
        ({"n_modes": 1.5}, "Fourier: n_modes must be a whole number"),
        ({"n_velocity_steps": -1}, "Fourier: n_velocity_steps must be a whole number"),
        ({"learning_rate": 0.0}, "Fourier: learning_rate must be finite and > 0"),
        ({"learning_rate": float("nan")}, "Fourier: learning_rate must be finite and > 0"),
    ],
)
def test_parameters_that_cannot_be_used(parameters, message, moons):
    with pytest.raises(ValueError, match=message):
        quick(interpolant=Fourier(**parameters)).fit(moons)


def test_coefficients_that_diverge_are_an_error_and_no_nan(moons):
    flow = quick(interpolant="fourier").fit(moons)
    before = dict(vars(flow))
    message = r"coefficients diverged, the largest is .* Lower its learning_rate, or raise n_velocity_steps"
    with pytest.raises(ValueError, match=message):
        flow.set_params(interpolant__learning_rate=50.0).fit(moons)
    assert {k: v for k, v in vars(flow).items() if k != "interpolant"} == {
        k: v for k, v in before.items() if k != "interpolant"
    }
    path = Fourier().start()
    path.coefficients_[0, 0] = float("nan")
    with pytest.raises(ValueError, match="diverged, the largest is nan"):
        path.check()


def test_a_learnable_path_takes_no_noise(moons):
    with pytest.raises(ValueError, match=r"WithNoise: interpolant=Fourier\(\) is learnt"):
        quick(interpolant=WithNoise(Fourier())).fit(moons)
    with pytest.raises(ValueError, match="interpolant"):
        quick(interpolant=WithNoise("fourier")).fit(moons)
