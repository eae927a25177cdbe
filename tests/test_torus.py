"""Periodic columns: laws of the parts, densities known in closed form, what is refused.

The flow dphi/dt = -a sin(phi) carries the uniform density into a wrapped Cauchy one with the parameter
tanh(a t / 2) (McCullagh, Ann. Statist. 24 (1996) 787: Moebius maps of the circle), so that a network that is
this field tests everything else against ``scipy.stats.wrapcauchy``.
"""

import itertools
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quick
from oracles import trace_of_jacobian
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from siflow_sk import InterpolantFlow, _tensors, load
from siflow_sk._likelihood import log_density
from siflow_sk._objective import likelihood_loss
from siflow_sk._training import _loop
from siflow_sk.bases import StandardNormal
from siflow_sk.interpolants import Linear, Trigonometric, WithNoise
from siflow_sk.preprocessing import Gaussianize, Standardize, Whiten
from siflow_sk.preprocessing._circular import CircularMarginals
from siflow_sk.solvers import DormandPrince, Grid
from siflow_sk.torus import (
    Angles,
    Geodesic,
    GeodesicTransport,
    PeriodicVelocity,
    TorusBase,
    UniformAngles,
    WrappedNormal,
    on_torus,
)
from siflow_sk.torus._parts import within_a_turn
from siflow_sk.velocities import MLP, ResidualMLP, Velocity, hold_weights

TURN = 2.0 * math.pi


def angles(n, d, generator):
    return 20.0 * torch.rand(n, d, dtype=torch.float64, generator=generator) - 10.0


def cells(n, turns):
    """Middles of a grid over a product of turns, and the size of a cell."""
    axes = [low + period * (np.arange(n) + 0.5) / n for low, period in turns]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, len(turns)), math.prod(p / n for _, p in turns)


def turns(*numbers):
    return TURN * torch.tensor(numbers, dtype=torch.float64)


def distance(a, b):
    """Of angles, the shorter way round."""
    return (torch.exp(1j * (a - b))).angle().abs()


# -- the parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
def test_a_wrapped_normal_is_the_normal_wound_up(scale):
    base = WrappedNormal(scale).fit_angles(torch.full((5, 1), 6.0, dtype=torch.float64))
    x = torch.linspace(-9.0, 9.0, 37, dtype=torch.float64)[:, None]
    turns = TURN * np.arange(-50, 51)
    expected = stats.norm(6.0, scale).pdf(x.numpy() + turns).sum(1)
    # where the density underflows the logarithm of the nearest turn is left
    np.testing.assert_allclose(base.log_prob(x).exp().numpy(), expected, rtol=1e-10, atol=1e-300)
    mass = integrate.quad(
        lambda v: float(base.log_prob(torch.tensor([[v]], dtype=torch.float64)).exp()),
        6.0 - math.pi,
        6.0 + math.pi,
        points=[6.0],
    )[0]
    assert mass == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("circle", [WrappedNormal(), UniformAngles()], ids=repr)
def test_draws_follow_the_base(circle, generator):
    """First and second trigonometric moments against quadrature; false alarms below 1e-6."""
    data = torch.remainder(torch.randn(4000, 2, dtype=torch.float64, generator=generator) + 3.0, TURN)
    circle = circle.fit_angles(data)
    draws = circle.sample(20_000, generator)
    assert draws.shape == (20_000, 2)
    assert ((draws >= 0) & (draws < TURN)).all()
    grid = TURN * torch.arange(400, dtype=torch.float64) / 400
    for j in range(2):
        pair = torch.full((400, 2), 1.0, dtype=torch.float64)
        pair[:, j] = grid
        weight = circle.log_prob(pair).exp()
        weight = weight / weight.sum()
        for k in (1, 2):
            expected = (weight * torch.exp(1j * k * grid)).sum()
            found = torch.exp(1j * k * draws[:, j]).mean()
            assert abs(found - expected) < 5.0 / math.sqrt(20_000)


def test_a_wrapped_normal_learns_mean_and_scale(generator):
    """Across the seam, where the arithmetic mean would be off by half a turn."""
    data = torch.remainder(0.5 * torch.randn(20_000, 1, dtype=torch.float64, generator=generator), TURN)
    base = WrappedNormal().fit_angles(data)
    assert abs(float(base.mean_)) < 0.02
    assert float(base.scale_) == pytest.approx(0.5, abs=0.02)
    one = WrappedNormal().fit_angles(torch.full((5, 1), 2.0, dtype=torch.float64))
    assert float(one.scale_) == pytest.approx(0.01)


def test_the_base_is_a_product(generator):
    """Uniform on the circle times a normal on the line."""
    x = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    parts = on_torus(
        {
            "base": StandardNormal(),
            "interpolant": Linear(),
            "velocity": MLP(),
            "preprocessor": Whiten(),
            "coupling": None,
        },
        {1: (0.0, 1.0)},
        3,
    )
    base = parts["base"].fit(x, generator)
    expected = stats.norm.logpdf(x[:, [0, 2]].numpy()).sum(1) - math.log(TURN)
    np.testing.assert_allclose(base.log_prob(x).numpy(), expected, rtol=1e-12)
    draws = base.sample(1000, generator)
    assert (draws < 0).any(0).tolist() == [True, False, True]


@pytest.mark.parametrize("path", [Linear(), Trigonometric()], ids=repr)
def test_geodesics(path, generator):
    x0, x1 = angles(200, 3, generator), angles(200, 3, generator)
    torus = Geodesic(path, (0, 2))
    zero, one = (torch.full((), v, dtype=torch.float64) for v in (0.0, 1.0))
    times = torch.rand(200, 1, dtype=torch.float64, generator=generator)
    middle = torus.point(times, x0, x1)
    for j in (0, 2):
        assert distance(torus.point(zero, x0, x1)[:, j], x0[:, j]).max() < 1e-12
        assert distance(torus.point(one, x0, x1)[:, j], x1[:, j]).max() < 1e-12
        # on the shorter way round: the two parts of the way make the whole
        parts = distance(middle[:, j], x0[:, j]) + distance(middle[:, j], x1[:, j])
        torch.testing.assert_close(parts, distance(x0[:, j], x1[:, j]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(middle[:, 1], path.point(times, x0, x1)[:, 1])
    rate = torch.func.jvp(lambda t: torus.point(t, x0, x1), (times,), (torch.ones_like(times),))[1]
    torch.testing.assert_close(torus.velocity(times, x0, x1), rate, rtol=1e-10, atol=1e-10)
    # nothing depends on where angles are counted from, nor on whole turns
    shift = torch.tensor([1.7, 0.0, -4.0], dtype=torch.float64)
    turned = torus.point(times, x0 + shift, x1 + shift + turns(1, 0, -3)) - shift
    assert distance(turned, middle).max() < 1e-12


NETWORKS = {
    **{
        f"mlp-{activation}-{blocks}": MLP(width=11, n_blocks=blocks, activation=activation, time_width=5)
        for activation, blocks in itertools.product(("tanh", "silu"), (1, 2))
    },
    "residual": ResidualMLP(width=11, depth=2, time_width=5),
}


@pytest.mark.parametrize("shape", [(), (9, 1)], ids=["one time", "a time per row"])
@pytest.mark.parametrize("angular", [(0,), (3, 1), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_field_is_periodic_and_knows_its_divergence(name, angular, shape, generator):
    network = PeriodicVelocity(NETWORKS[name], angular).build(4, generator).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    x, t = angles(9, 4, generator), torch.rand(shape, dtype=torch.float64, generator=generator)
    value, divergence = network.value_and_divergence(t, x)
    expected = trace_of_jacobian(network, t, x)
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(divergence, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(value, network(t, x), rtol=1e-12, atol=1e-12)
    whole = turns(*((-1) ** j * (j + 1) if j in angular else 0 for j in range(4)))
    torch.testing.assert_close(network(t, x + whole), value, rtol=1e-10, atol=1e-10)
    if len(angular) < 4:  # the others are no angles
        other = next(j for j in range(4) if j not in angular)
        moved = x + TURN * torch.eye(4, dtype=torch.float64)[other]
        assert (network(t, moved) - value).abs().max() > 1e-3


@pytest.mark.parametrize("circle", [WrappedNormal(), UniformAngles()], ids=repr)
def test_the_density_of_any_network_integrates_to_one(circle, generator):
    """Over one turn of both angles, wherever it starts; the network is not trained."""
    network = PeriodicVelocity(MLP(width=16), (0, 1)).build(2, generator).double()
    base = TorusBase(StandardNormal(), circle, (0, 1)).fit(angles(50, 2, generator), generator)
    grid, cell = cells(56, [(1.0, TURN), (-7.0, TURN)])
    found = log_density(network, base, DormandPrince(), torch.tensor(grid))[0].exp()
    assert float(found.max() / found.min()) > 1.3
    assert float(found.sum()) * cell == pytest.approx(1.0, abs=1e-6)


def test_the_polish_sees_the_gradient_of_the_divergence(generator):
    """With respect to the weights, against finite differences."""
    network = PeriodicVelocity(MLP(width=7, time_width=5), (0, 2)).build(3, generator).double()
    x, t = angles(4, 3, generator), torch.tensor(0.4, dtype=torch.float64)
    parameters = [p for p in network.parameters() if p.ndim == 2]
    gradients = torch.autograd.grad(network.value_and_divergence(t, x)[1].sum(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
            above = network.value_and_divergence(t, x)[1].sum()
            parameter.sub_(2e-5 * direction)
            below = network.value_and_divergence(t, x)[1].sum()
            parameter.add_(1e-5 * direction)
        torch.testing.assert_close((above - below) / 2e-5, (gradient * direction).sum(), rtol=1e-6, atol=1e-7)


def test_matrices_of_the_weights_are_made_once(generator, monkeypatch):
    """For all steps of a likelihood, with the same numbers and the same gradient."""
    network = PeriodicVelocity(MLP(width=8, n_blocks=2, time_width=5), (0, 2)).build(3, generator)
    x, t = angles(6, 3, generator).float(), torch.tensor(0.3)
    held = hold_weights(network)
    for one, other in zip(held.value_and_divergence(t, x), network.value_and_divergence(t, x), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(held(t, x), network(t, x))

    made, base = [], TorusBase(StandardNormal(), UniformAngles(), (0, 2)).fit(x, generator)
    make = type(network)._held
    monkeypatch.setattr(type(network), "_held", lambda self: made.append(1) or make(self))
    knots, gradients = torch.linspace(1.0, 0.0, 4), []
    every_time = SimpleNamespace(value_and_divergence=network.value_and_divergence)
    for velocity, n_times in ((network, 1), (every_time, 12)):
        made.clear()
        loss = likelihood_loss(velocity, base, x, knots, 1.0)
        gradients.append(torch.autograd.grad(loss, network.network.blocks[1].w2)[0])
        assert len(made) == n_times
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_assignment_counts_the_shorter_way_round(generator):
    x0, x1 = angles(6, 3, generator), angles(6, 3, generator)

    def cost(a, b):
        return (
            distance(a[:, 0], b[:, 0]) ** 2 + (a[:, 1] - b[:, 1]) ** 2 + distance(a[:, 2], b[:, 2]) ** 2
        ).sum()

    paired, same = GeodesicTransport((0, 2)).pair(x0, x1, generator)
    assert torch.equal(same, x1)
    least = min(cost(x0[list(order)], x1) for order in itertools.permutations(range(6)))
    torch.testing.assert_close(cost(paired, x1), least)


@pytest.mark.parametrize("rest", [Gaussianize(density=True), Whiten(), Standardize()], ids=repr)
def test_the_preprocessor_scales_angles_and_leaves_the_rest_to_another(rest, generator):
    x = torch.randn(400, 4, dtype=torch.float64, generator=generator)
    x[:, 1], x[:, 3] = 360.0 * torch.rand(400, dtype=torch.float64, generator=generator) - 180.0, 7.0
    x[:, 3] *= torch.rand(400, dtype=torch.float64, generator=generator)
    weight = torch.full((400,), 1 / 400, dtype=torch.float64)
    map_ = Angles(rest, {1: (-180.0, 360.0), 3: (0.0, 7.0)}).fit(x, weight)
    z, log_det = map_.forward(x)
    alone, log_det_alone = clone(rest).fit(x[:, [0, 2]], weight).forward(x[:, [0, 2]])
    torch.testing.assert_close(z[:, [0, 2]], alone, rtol=0, atol=0)
    torch.testing.assert_close(torch.deg2rad(x[:, 1] + 180.0), z[:, 1])
    torch.testing.assert_close(x[:, 3] * TURN / 7.0, z[:, 3])
    torch.testing.assert_close(log_det, log_det_alone + math.log(math.pi / 180.0) + math.log(TURN / 7.0))
    torch.testing.assert_close(map_.inverse(z), x, rtol=1e-9, atol=1e-9)
    far = map_.inverse(z + turns(0, 4, 0, -2))
    torch.testing.assert_close(far, x, rtol=1e-9, atol=1e-9)
    end = map_.inverse(torch.tensor([[0.0, -1e-20, 0.0, -1e-20]], dtype=torch.float64))
    assert end[0, [1, 3]].tolist() == [-180.0, 0.0]  # never the end of the turn itself


@pytest.mark.parametrize("spread", [0.2, 1.0, 30.0])
def test_angles_are_spread_evenly(spread, generator):
    """A bijection of the circle with the derivative it says, the same slope at both ends of the turn."""
    x = torch.remainder(6.0 + spread * torch.randn(800, 1, dtype=torch.float64, generator=generator), TURN)
    map_ = CircularMarginals().fit(x, torch.full((800,), 1 / 800, dtype=torch.float64))
    assert bool(map_.active) == (spread < 30.0)  # of a uniform column the identity
    z, log_slope = map_.forward(x)
    assert stats.kstest(z[:, 0].numpy() / TURN, "uniform").pvalue > 1e-3
    torch.testing.assert_close(map_.inverse(z), x, rtol=1e-10, atol=1e-10)
    rate = torch.func.jvp(lambda y: map_.forward(y)[0], (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(log_slope, rate[:, 0].log(), rtol=1e-9, atol=1e-9)
    ends = torch.tensor([[0.0], [TURN]], dtype=torch.float64)
    z, log_slope = map_.forward(ends)
    torch.testing.assert_close(z, ends, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope[0], log_slope[1], rtol=0, atol=1e-9)


def test_an_angle_gets_the_bandwidth_of_the_best_left_out_likelihood():
    """Against explicit sums of kernels over the turns; its table is that density."""
    n, share = 400, 0.05
    rng = np.random.default_rng(3)
    y = np.remainder(rng.choice([0.1, 2.5], n) + 0.3 * rng.standard_normal(n), TURN)

    def kernels(x, h):
        apart = x[:, None] - y
        return sum(stats.norm.pdf(apart + turn * TURN, 0.0, h) for turn in range(-2, 3))

    def scores(h):
        pairs = kernels(y, h)
        alone = (pairs.sum(1) - np.diag(pairs)) / (n - 1)
        return [np.log((1 - share) * f + share / TURN).mean() for f in (alone, pairs.mean(1))]

    (left_out, seen), h = max((scores(h), h) for h in 2.0 ** (-0.5 * np.arange(12)))
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    low, step, z, slope, optimism = CircularMarginals()._column(torch.tensor(y), weight)
    assert optimism == pytest.approx(seen - left_out, rel=0.02)
    assert 0.25 * h < step <= 0.5 * h
    knots = float(low) + float(step) * np.arange(len(z))
    assert (knots[0], knots[-1]) == (0.0, pytest.approx(TURN))
    expected = (1 - share) * kernels(knots, h).mean(1) + share / TURN
    np.testing.assert_allclose(slope.numpy() / TURN, expected, rtol=1e-4)
    cumulated = integrate.cumulative_trapezoid(expected, knots, initial=0.0)
    np.testing.assert_allclose(z.numpy() / TURN, cumulated, atol=2e-3)
    few = torch.full((49,), 1 / 49, dtype=torch.float64)
    assert CircularMarginals()._column(torch.tensor(y[:49]), few) is None


def test_a_narrow_angle_gets_all_the_knots():
    """One for every cell, where half of the narrowest bandwidth is less than a cell."""
    n = 400
    y = 1.0 + 1e-3 * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.full((n,), 1 / n, dtype=torch.float64)
    _, step, z, *_ = CircularMarginals()._column(y, weight)
    assert len(z) == 4096 + 1
    assert float(step) == pytest.approx(TURN / 4096)


# -- a flow that is known --------------------------------------------------------------------------------


class Moebius(Velocity):
    """-a sin(phi), from the features cos, cos 2, cos 3, sin, ... of the one angle; in units of 3."""

    def __init__(self, a=1.5):
        self.a = a

    def build(self, n_features, generator):
        return _Moebius(self.a)


class _Moebius(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.a, self.idle = a, nn.Parameter(torch.zeros(()))

    def forward(self, t, x):
        value = torch.zeros_like(x)
        value[:, 0] = -self.a / 3.0 * x[:, 3]
        return value + 0.0 * self.idle


@pytest.fixture(scope="module")
def moebius():
    """Hours of the day, period 24."""
    X = np.linspace(0.0, 23.0, 50)[:, None]
    own = {"velocity": Moebius(), "preprocessor": "none", "solver": Grid(tol=1e-7)}
    return quick(periodic={0: 24.0}, max_iter=1, polish=0, **own).fit(X)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_log_density_of_a_wrapped_cauchy(moebius, t):
    hours = np.linspace(-30.0, 50.0, 321)[:, None]
    law = stats.wrapcauchy(math.tanh(1.5 * t / 2.0))
    expected = np.full(321, -math.log(24.0))
    if t > 0:
        expected = law.logpdf(np.mod(hours[:, 0], 24.0) * TURN / 24.0) + math.log(TURN / 24.0)
    np.testing.assert_allclose(moebius.score_samples(hours, t=t), expected, atol=1e-5)


def test_draws_of_a_wrapped_cauchy(moebius):
    draws = moebius.sample(4000, random_state=0)[:, 0]
    assert ((draws >= 0) & (draws < 24.0)).all()
    law = stats.wrapcauchy(math.tanh(0.75))
    assert stats.kstest(draws * TURN / 24.0, law.cdf).pvalue > 1e-6
    uniform = moebius.transform(law.rvs(4000, random_state=0)[:, None] * 24.0 / TURN)[:, 0]
    assert ((uniform >= 0) & (uniform < TURN)).all()
    assert stats.kstest(uniform / TURN, "uniform").pvalue > 1e-6


def test_score_and_velocity_of_a_wrapped_cauchy(moebius):
    hours, step = np.linspace(0.5, 47.5, 48)[:, None], 1e-4
    slope = moebius.score_samples(hours + step) - moebius.score_samples(hours - step)
    np.testing.assert_allclose(moebius.score_function(1.0, hours)[:, 0], slope / (2 * step), atol=1e-4)
    phi = hours * TURN / 24.0
    np.testing.assert_allclose(
        moebius.velocity_field(0.3, hours), -1.5 * np.sin(phi) * 24.0 / TURN, atol=1e-12
    )
    np.testing.assert_allclose(moebius.divergence(0.3, hours), -1.5 * np.cos(phi[:, 0]), atol=1e-12)


# -- flows that are fitted -------------------------------------------------------------------------------


def mixture(n, seed):
    """Two wrapped normals with correlation on a torus in degrees and turns, one across both seams."""
    rng = np.random.default_rng(seed)
    first = rng.random(n) < 0.6
    one = rng.multivariate_normal([0.0, 0.0], [[0.5, 0.3], [0.3, 0.4]], size=n)
    two = rng.multivariate_normal([3.0, 2.0], [[0.3, -0.1], [-0.1, 0.6]], size=n)
    X = np.where(first[:, None], one, two) / TURN * np.array([360.0, 1.0])
    return np.mod(X, [360.0, 1.0])


def mixture_logpdf(X):
    phi = X * TURN / np.array([360.0, 1.0])
    density = np.zeros(len(X))
    for turn in itertools.product(range(-3, 4), repeat=2):
        at = phi + TURN * np.array(turn)
        density += 0.6 * stats.multivariate_normal([0.0, 0.0], [[0.5, 0.3], [0.3, 0.4]]).pdf(at)
        density += 0.4 * stats.multivariate_normal([3.0, 2.0], [[0.3, -0.1], [-0.1, 0.6]]).pdf(at)
    return np.log(density) + 2 * math.log(TURN) - math.log(360.0)


@pytest.fixture(scope="module")
def torus_flow():
    """Two angles, read-only."""
    flow = quick(
        periodic={0: 360.0, 1: 1.0},
        coupling="optimal_transport",
        batch_size=256,
        max_iter=300,
        polish=0,
        preprocessor="none",  # a smooth density, for quadrature
        inference_dtype="float64",  # without rounding, across the seam
    )
    return flow.fit(mixture(2000, 0))


@pytest.fixture(scope="module")
def cylinder():
    """A height and an angle in degrees from -180 to 180 that it depends on, with names."""
    rng = np.random.default_rng(0)
    phi = np.mod(rng.normal(180.0, 40.0, size=500) + 180.0, 360.0) - 180.0
    height = np.cos(np.deg2rad(phi)) + 0.3 * rng.standard_normal(500)
    return pd.DataFrame({"height": 10.0 + 3.0 * height, "phi": phi})


@pytest.fixture(scope="module")
def cylinder_flow(cylinder):
    return quick(periodic={"phi": 360}).set_output(transform="pandas").fit(cylinder)


def test_a_mixture_of_wrapped_normals_is_learnt(torus_flow):
    """Kullback-Leibler divergence by quadrature, beside that of the uniform density."""
    grid, cell = cells(60, [(0.0, 360.0), (0.0, 1.0)])
    truth, found = mixture_logpdf(grid), torus_flow.score_samples(grid)
    assert np.exp(truth).sum() * cell == pytest.approx(1.0, abs=1e-9)
    divergence, of_uniform = (
        (np.exp(truth) * (truth - other)).sum() * cell for other in (found, -math.log(360.0))
    )
    assert 0.0 < divergence < 0.25 * of_uniform
    # where the flow tears the circle there are ridges that the grid does not resolve
    assert np.exp(found).sum() * cell == pytest.approx(1.0, abs=5e-3)


def test_densities_are_continuous_across_the_seam(torus_flow):
    turn = np.array([360.0, 1.0])
    inside = mixture(40, 1)
    value = torus_flow.score_samples(inside)
    further = np.concatenate([inside + turn * k for k in ([1, 0], [0, -1], [-3, 4])])
    np.testing.assert_allclose(torus_flow.score_samples(further), np.tile(value, 3), atol=1e-9)
    ends = []
    for column, share in itertools.product(range(2), (1e-12, 1.0 - 1e-12)):
        ends.append(inside.copy())
        ends[-1][:, column] = share * turn[column]
    value = torus_flow.score_samples(np.concatenate(ends)).reshape(2, 2, len(inside))
    np.testing.assert_allclose(value[:, 0], value[:, 1], rtol=0, atol=1e-8)
    assert np.ptp(value) > 1.0  # a constant would say little


def test_rows_come_back_within_the_turn(torus_flow):
    X, turn = mixture(300, 2), np.array([360.0, 1.0])
    rows = torus_flow.sample(500, random_state=0)
    assert ((rows >= 0) & (rows < turn)).all()
    Z = torus_flow.transform(X)
    assert ((Z >= 0) & (Z < TURN)).all()
    np.testing.assert_allclose(torus_flow.transform(X + 5 * turn), Z, atol=1e-6)
    gap = (torus_flow.inverse_transform(Z) - X) / turn
    assert np.abs(gap - np.rint(gap)).max() < 1e-4
    assert torus_flow.periodic_ == {0: (0.0, 360.0), 1: (0.0, 1.0)}


def test_angles_beside_ordinary_columns(cylinder, cylinder_flow):
    """The density integrates to one over a turn and a line."""
    turn = cylinder_flow.periodic_
    assert turn == {1: (-180.0, 360.0)}
    rows = cylinder_flow.sample(300, random_state=0)
    assert list(rows.columns) == ["height", "phi"]
    assert rows["phi"].between(-180.0, 180.0, inclusive="left").all()
    assert rows["phi"].lt(-90.0).any()
    whole = cylinder_flow.score_samples(cylinder.assign(phi=cylinder["phi"] + 720.0))
    np.testing.assert_allclose(whole, cylinder_flow.score_samples(cylinder), atol=1e-9)
    grid, cell = cells(64, [(-5.0, 30.0), (-180.0, 360.0)])
    density = np.exp(cylinder_flow.score_samples(pd.DataFrame(grid, columns=rows.columns)))
    assert density.sum() * cell == pytest.approx(1.0, abs=2e-3)


def test_the_columns_that_are_not_periodic_are_preprocessed_as_ever(cylinder, cylinder_flow):
    found = cylinder_flow.preprocessor_.rest_
    assert isinstance(found, Gaussianize)
    assert found.chain_.maps[0].std.shape == (1,)


def test_a_fit_may_say_the_number_or_the_name(cylinder, cylinder_flow):
    again = quick(periodic={1: 360.0}).fit(cylinder)
    np.testing.assert_array_equal(again.score_samples(cylinder), cylinder_flow.score_samples(cylinder))


@pytest.mark.parametrize("periodic", [None, {}], ids=str)
def test_no_periodic_columns_change_nothing(moons, moons_flow, periodic):
    flow = quick(periodic=periodic).fit(moons)
    np.testing.assert_array_equal(flow.score_samples(moons), moons_flow.score_samples(moons))
    assert type(flow.base_).__name__ == "StandardNormal"


@pytest.mark.parametrize(
    "parameters",
    [
        {"base": "wrapped_normal"},
        {"base": WrappedNormal(2.0), "interpolant": "linear"},
        {"base": "student_t", "preprocessor": "whiten"},
        {"coupling": "optimal_transport", "batch_size": 64},
        {"velocity": ResidualMLP(width=8, depth=1), "polish": 0},
        {"solver": "dopri5"},
    ],
    ids=str,
)
def test_parts_by_name_and_by_instance(cylinder, parameters):
    flow = quick(**{"periodic": {"phi": 360.0}, "max_iter": 10, "polish": 3, **parameters}).fit(cylinder)
    rows = cylinder[:20]
    value = flow.score_samples(rows)
    assert np.isfinite(value).all()
    assert (type(flow.coupling_) is GeodesicTransport) == ("coupling" in parameters)
    np.testing.assert_allclose(flow.score_samples(rows.assign(phi=rows["phi"] - 360.0)), value, atol=1e-9)


def test_the_polish_of_angles_takes_four_steps(monkeypatch):
    taken, loss = [], _loop.likelihood_loss

    def spy(velocity, base, x, knots, penalty):
        taken.append((len(knots) - 1, penalty))
        return loss(velocity, base, x, knots, penalty)

    monkeypatch.setattr(_loop, "likelihood_loss", spy)
    quick(periodic={0: 360.0, 1: 1.0}, max_iter=5, polish=3).fit(mixture(200, 0))
    assert taken[-3:] == [(4, 10.0)] * 3


def test_the_default_number_of_steps_counts_the_angles(monkeypatch):
    """Four matrix products in place of two, and four steps in place of two: about a quarter as many."""

    def stop(parts, x, weight, n_draws, settings, **options):
        raise RuntimeError(settings.n_polish)

    monkeypatch.setattr("siflow_sk.flow.fit_parts", stop)
    numbers = []
    for periodic in (None, {0: 360.0, 1: 1.0}):
        with pytest.raises(RuntimeError) as stopped:
            InterpolantFlow(periodic=periodic, n_networks=1).fit(mixture(200, 0))
        numbers.append(stopped.value.args[0])
    assert 0.22 * numbers[0] < numbers[1] < 0.3 * numbers[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_rounding_leads_to_the_end_of_the_turn(dtype):
    X = np.array([[-1e-20, 1.0], [359.99999999999997, 2.0], [-1e-6, 3.0], [np.nan, 4.0]]).astype(dtype)
    found = _tensors.within_turns(X, {0: (0.0, 360.0)})
    assert ((found[:3, 0] >= 0.0) & (found[:3, 0] < 360.0)).all()
    assert np.isnan(found[3, 0])
    np.testing.assert_array_equal(found[:, 1], X[:, 1])
    angle = within_a_turn(torch.tensor([-1e-30, 1.0], dtype=getattr(torch, dtype)))
    assert angle.tolist() == [0.0, 1.0]


def test_rows_of_weight_zero_do_not_say_where_a_turn_starts(cylinder):
    rows = np.vstack([cylinder.to_numpy()[:100] % [1e6, 360.0], [[0.0, -90.0]]])
    flow = quick(periodic={1: 360.0}, max_iter=2, polish=0)
    assert flow.fit(rows, sample_weight=[1.0] * 100 + [0.0]).periodic_ == {1: (0.0, 360.0)}
    assert flow.fit(rows).periodic_ == {1: (-180.0, 360.0)}


def test_a_constant_angle_is_the_same_after_a_turn():
    X = np.column_stack([np.linspace(0.0, 1.0, 60), np.where(np.arange(60) % 2, 0.0, 360.0)])
    with pytest.warns(UserWarning, match="column 1 constant"):
        flow = quick(periodic={1: 360.0, 0: 1.5}, max_iter=5, polish=0).fit(X)
    value = flow.score_samples([[0.3, 0.0], [0.3, 720.0], [1.8, -360.0], [0.3, 1.0]])
    np.testing.assert_allclose(value[:3], value[0], atol=1e-9)
    assert value[3] == -np.inf


def test_clone_search_pickle_and_file(cylinder, tmp_path):
    flow = quick(periodic={"phi": 360.0}, base="wrapped_normal", max_iter=10, polish=0)
    assert clone(flow).get_params()["periodic"] == {"phi": 360.0}
    grid = {"base__scale": [2.0], "velocity__width": [8], "periodic": [{"phi": 360.0}, {"phi": 90.0}]}
    search = GridSearchCV(flow, grid, cv=2).fit(cylinder)
    assert set(search.best_params_) == set(grid)
    assert search.best_estimator_.base_.circle_.scale == 2.0
    best, rows = search.best_estimator_, cylinder[:30]
    best.save(tmp_path / "flow.safetensors")
    for other in (pickle.loads(pickle.dumps(best)), load(tmp_path / "flow.safetensors")):
        np.testing.assert_array_equal(other.score_samples(rows), best.score_samples(rows))
        np.testing.assert_array_equal(other.sample(5, random_state=0), best.sample(5, random_state=0))


def test_a_flow_goes_on_with_its_periods_only(cylinder):
    flow = quick(periodic={"phi": 360.0}, max_iter=5, polish=0, warm_start=True).fit(cylinder)
    before = flow.score_samples(cylinder[:5])
    flow.fit(cylinder + 360.0 * np.array([0.0, 1.0]))
    assert flow.periodic_ == {1: (-180.0, 360.0)}
    assert not np.array_equal(flow.score_samples(cylinder[:5]), before)
    flow.partial_fit(cylinder[:100])
    with pytest.raises(ValueError, match="is not what this flow was fitted with"):
        flow.set_params(periodic=None).fit(cylinder)


def test_a_checkpoint_knows_the_periods(tmp_path):
    X = mixture(100, 4)
    flow = quick(periodic={0: 360.0}, max_iter=5, polish=0).fit(X, checkpoint=tmp_path / "fit")
    again = clone(flow).fit(X, checkpoint=tmp_path / "fit")
    np.testing.assert_array_equal(again.score_samples(X), flow.score_samples(X))
    with pytest.raises(ValueError, match="periodic"):
        clone(flow).set_params(periodic={0: 180.0}).fit(X, checkpoint=tmp_path / "fit")


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("periodic", "message"),
    [
        ({"psi": 360.0}, r"periodic: there is no column 'psi'; the columns are \['height', 'phi'\]"),
        ({2: 360.0}, "there is no column 2"),
        ({-1: 360.0}, "there is no column -1"),
        ({True: 360.0}, "there is no column True"),
        ({"phi": 360.0, 1: 360.0}, "periodic names column 1 twice, also as 1"),
        ({"phi": 0.0}, r"periodic\['phi'\] must be the period, a finite number > 0"),
        ({"phi": -360.0}, "got -360.0"),
        ({"phi": np.inf}, "got inf"),
        ({"phi": np.nan}, "got nan"),
        ({"phi": "turn"}, "got 'turn'"),
        ({"phi": True}, "got True"),
        ([1], "'periodic' parameter of InterpolantFlow must be an instance of 'dict' or None"),
    ],
    ids=str,
)
def test_bad_periods_are_refused(cylinder, cylinder_flow, periodic, message):
    flow = clone(cylinder_flow).set_params(periodic=periodic)
    with pytest.raises(ValueError, match=message):
        flow.fit(cylinder)
    assert not hasattr(flow, "velocity_")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"interpolant": "fourier"}, "is learnt, which periodic columns do not allow"),
        ({"base": "learnt_gaussian"}, "is learnt, which periodic columns do not allow"),
        ({"interpolant": WithNoise()}, "has noise, which periodic columns do not allow"),
        ({"periodic": None, "base": "wrapped_normal"}, "a wrapped normal is a density of angles"),
        ({"base": WrappedNormal(0.0)}, "scale must be > 0 and at most 100, got 0.0"),
    ],
    ids=str,
)
def test_parts_that_have_no_meaning_on_the_circle(cylinder, parameters, message):
    with pytest.raises(ValueError, match=message):
        quick(**{"periodic": {"phi": 360.0}, **parameters}).fit(cylinder)


def test_a_base_for_no_column_is_refused():
    with pytest.raises(ValueError, match="all columns are periodic, and there the base is uniform"):
        quick(periodic={0: 360.0, 1: 1.0}, base="student_t").fit(mixture(100, 0))


def test_what_needs_a_gaussian_base_is_refused(cylinder, cylinder_flow):
    for call in (
        lambda: cylinder_flow.score_function(0.5, cylinder, method="velocity"),
        lambda: cylinder_flow.latent_fields(0.5, cylinder),
        lambda: cylinder_flow.sample(3, method="sde"),
        lambda: cylinder_flow.transport(cylinder, 0.0, 1.0, method="sde"),
    ):
        with pytest.raises(ValueError, match="with periodic columns the base is not Gaussian"):
            call()


def test_nan_in_an_angle_is_refused(cylinder, cylinder_flow):
    broken = cylinder.assign(phi=cylinder["phi"].where(cylinder.index > 0))
    with pytest.raises(ValueError, match="contains NaN"):
        cylinder_flow.score_samples(broken)
    with pytest.raises(ValueError, match="contains NaN"):
        clone(cylinder_flow).fit(broken)
