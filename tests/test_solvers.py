"""Solvers on problems with a known answer, against SciPy and torchdiffeq, and row by row."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchdiffeq
from oracles import BENT, NORMAL, ExactVelocity, between
from scipy.integrate import RK45, solve_ivp

from siflow_sk.bases import StandardNormal
from siflow_sk.solvers import (
    SOLVERS,
    TABLEAUS,
    DormandPrince,
    Grid,
    RungeKutta,
    Solver,
    TorchDiffEq,
    _grid,
    integrate_sde,
    on_knots,
    with_embedded_error,
)
from siflow_sk.solvers._grid import _least
from siflow_sk.solvers._steps import _OnDevice, on_device

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4}


def swing(t, state):
    """x' = x cos t for x (n, 2); l' = 2 cos t for l (n,): the logarithm of x^2."""
    x, log = state
    clock = torch.cos(t)
    return x * clock, 2.0 * clock.reshape(-1).expand_as(log)


def swing_from(x, t0, t1):
    growth = math.sin(t1) - math.sin(t0)
    return x * math.exp(growth), torch.full((len(x),), 2.0 * growth, dtype=x.dtype)


def logistic(t, state):
    """x' = x (1 - x), not linear, whose solution is known; l' = t^2."""
    x, log = state
    return x * (1.0 - x), (t * t).reshape(-1).expand_as(log)


def logistic_from(x, t0, t1):
    log = torch.full((len(x),), (t1**3 - t0**3) / 3.0, dtype=x.dtype)
    return x / (x + (1.0 - x) * math.exp(t0 - t1)), log


PROBLEMS = {"swing": (swing, swing_from), "logistic": (logistic, logistic_from)}
SPANS = {"forwards": (0.0, 1.0), "backwards": (1.0, 0.0), "part": (0.3, 0.8), "part back": (0.8, 0.1)}


def start(n=4):
    x = torch.linspace(0.2, 0.9, 2 * n, dtype=torch.float64).reshape(n, 2)
    return x, torch.zeros(n, dtype=torch.float64)


def equal_grid(n_steps):
    solver = Grid()
    solver.knots_, solver.n_steps_ = torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64), n_steps
    solver.safety_ = 1.0
    return solver


# name -> solver accurate to at least 1e-7 on the problems here
ACCURATE = {
    "grid": lambda: equal_grid(24),
    "dopri5": lambda: DormandPrince(rtol=1e-10, atol=1e-10),
    "rk4": lambda: RungeKutta(n_steps=60),
    "torchdiffeq": lambda: TorchDiffEq(rtol=1e-9, atol=1e-10),
}


def error(result, expected):
    return max(float((a - b).abs().max()) for a, b in zip(result, expected, strict=True))


def test_every_named_solver_is_covered():
    assert set(ACCURATE) == set(SOLVERS)
    assert set(ORDERS) == set(TABLEAUS)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ACCURATE)
def test_known_solutions(name, problem, span):
    f, exact = PROBLEMS[problem]
    t0, t1 = SPANS[span]
    x, log = start()
    result = ACCURATE[name]().integrate(f, (x, log), t0, t1)
    assert [y.shape for y in result] == [(4, 2), (4,)]
    assert error(result, exact(x, t0, t1)) < 1e-7


@pytest.mark.parametrize("name", ACCURATE)
def test_there_and_back_again(name):
    solver, state = ACCURATE[name](), start()
    there = solver.integrate(logistic, state, 0.0, 1.0)
    assert error(there, state) > 0.1
    assert error(solver.integrate(logistic, there, 1.0, 0.0), state) < 1e-7


@pytest.mark.parametrize("name", ACCURATE)
def test_no_time_no_motion(name):
    state = start()
    assert error(ACCURATE[name]().integrate(logistic, state, 0.5, 0.5), state) == 0.0


def fitted_order(solve, f, exact, steps=(6, 12, 24, 48)):
    """Slope of log error against log step."""
    x, log = start()
    errors = [error(solve(n).integrate(f, (x, log), 0.0, 1.0), exact(x, 0.0, 1.0)) for n in steps]
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("method", ORDERS)
def test_order_of_the_fixed_methods(method, problem):
    order = fitted_order(lambda n: RungeKutta(method, n_steps=n), *PROBLEMS[problem])
    assert order == pytest.approx(ORDERS[method], abs=0.2)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_order_of_the_grid_and_of_its_estimate(problem):
    f, exact = PROBLEMS[problem]
    steps = (3, 6, 12, 24)
    assert fitted_order(equal_grid, f, exact, steps) == pytest.approx(5, abs=0.3)
    estimates = [float(equal_grid(n).integrate_with_error(f, start(), 0.0, 1.0)[1].max()) for n in steps]
    assert -np.polyfit(np.log(steps), np.log(estimates), 1)[0] == pytest.approx(4, abs=0.3)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    ("method", "name"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun", "heun2")]
)
def test_steps_are_those_of_torchdiffeq(method, name, problem):
    field, knots = PROBLEMS[problem][0], torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    ours = on_knots(field, start(), knots, method)
    theirs = [y[-1] for y in torchdiffeq.odeint(field, start(), knots, method=name)]
    assert error(ours, theirs) < 1e-14


def test_rk4_is_the_classical_method():
    """torchdiffeq's rk4 is the 3/8 rule; on x' = t^3 - x x both differ, so the stages are written out."""

    def f(t, x):
        return t**3 - x * x

    x, h = 0.7, 0.5
    k1 = f(0.2, x)
    k2 = f(0.45, x + 0.25 * k1)
    k3 = f(0.45, x + 0.25 * k2)
    k4 = f(0.7, x + 0.5 * k3)
    expected = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    state = (torch.tensor([[0.7]], dtype=torch.float64),)
    knots = torch.tensor([0.2, 0.7], dtype=torch.float64)
    (actual,) = on_knots(lambda t, s: (f(t, s[0]),), state, knots, "rk4")
    assert actual.item() == pytest.approx(expected, rel=1e-15)


def test_steps_over_a_part_of_the_interval_are_its_share():
    calls = []

    def counting(t, state):
        calls.append(float(t))
        return (torch.ones_like(state[0]),)

    RungeKutta("euler", n_steps=10).integrate(counting, (torch.zeros(1, 1),), 0.8, 0.5)
    assert calls == pytest.approx([0.8, 0.7, 0.6])
    calls.clear()
    RungeKutta("euler", n_steps=10).integrate(counting, (torch.zeros(1, 1),), 0.0, 0.01)
    assert calls == [0.0]
    calls.clear()
    RungeKutta("euler", n_steps=1).integrate(counting, (torch.zeros(1, 1),), 0.0, 1.0)
    assert calls == [0.0]


def pendulum(t, state):
    """A forced pendulum, rows of (angle, speed); ``t`` scalar or (n, 1)."""
    angle, speed = state[0].T
    return (torch.stack([speed, -9.0 * torch.sin(angle) + torch.cos(5.0 * t.reshape(-1))], dim=1),)


def test_adaptive_and_grid_against_scipy():
    """DOP853 at 1e-12, row by row."""
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for t0, t1 in ((0.0, 1.0), (1.0, 0.0)):
        expected = np.stack(
            [
                solve_ivp(
                    lambda t, y: [y[1], -9.0 * np.sin(y[0]) + np.cos(5.0 * t)],
                    (t0, t1),
                    row,
                    method="DOP853",
                    rtol=1e-12,
                    atol=1e-12,
                ).y[:, -1]
                for row in x.numpy()
            ]
        )
        for solver in (DormandPrince(rtol=1e-9, atol=1e-9), equal_grid(48)):
            (actual,) = solver.integrate(pendulum, (x,), t0, t1)
            np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=5e-8)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_adaptive_against_torchdiffeq(method):
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (ours,) = DormandPrince(rtol=1e-9, atol=1e-9).integrate(pendulum, (x,), 0.0, 1.0)
    options = {"step_size": 0.002} if method == "rk4" else None
    (theirs,) = TorchDiffEq(method, rtol=1e-11, atol=1e-11, options=options).integrate(
        pendulum, (x,), 0.0, 1.0
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-8)


def test_a_step_is_accepted_up_to_the_tolerance():
    """The embedded error of the first step by SciPy's coefficients, rows of ten sizes of x' = (a t^4, 0)."""
    size = torch.logspace(-1, 1, 10, dtype=torch.float64)[:, None]
    calls = []

    def field(t, state):
        calls.append(t)
        return (torch.cat([size * t**4, torch.zeros_like(t)], 1),)

    h = 0.1  # the first attempt, a tenth of the way
    error = size[:, 0].numpy() * h * abs(float(RK45.E @ np.r_[RK45.C * h, h] ** 4))
    atol = float(np.median(error))
    x = (torch.zeros(10, 2, dtype=torch.float64),)
    DormandPrince(rtol=1e-14, atol=atol).integrate(field, x, 0.0, 1.0)
    assert calls[5].unique().tolist() == [h]
    accepted = calls[7][:, 0].numpy() > h  # the second stage of the next attempt is beyond the first step
    np.testing.assert_array_equal(accepted, error / math.sqrt(2.0) <= atol)
    assert 3 < accepted.sum() < 8


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_as_few_steps_as_scipy_takes(tolerance):
    """SciPy's RK45 is the same pair of formulas with a control of its own."""
    calls = []

    def counting(t, state):
        calls.append(t)
        return pendulum(t, state)

    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    DormandPrince(tolerance, tolerance).integrate(counting, (x,), 0.0, 1.0)
    theirs = solve_ivp(
        lambda t, y: [y[1], -9.0 * np.sin(y[0]) + np.cos(5.0 * t)],
        (0.0, 1.0),
        x[0].numpy(),
        rtol=tolerance,
        atol=tolerance,
    ).nfev
    assert 0.6 * theirs < len(calls) < 1.1 * theirs


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_the_adaptive_error_follows_its_tolerance(tolerance):
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    loose, estimate = DormandPrince(tolerance, tolerance).integrate_with_error(pendulum, (x,), 0.0, 1.0)
    (tight,) = DormandPrince(1e-12, 1e-12).integrate(pendulum, (x,), 0.0, 1.0)
    actual = (loose[0] - tight).abs().max().item()
    assert 0.0 < actual < 20 * tolerance
    assert estimate.shape == (50,)
    assert 0.0 < estimate.max() < 100 * tolerance


# -- rows -----------------------------------------------------------------------------------------------


def decay(t, state):
    """x' = -k (x - cos t), with the rate k carried along as the second column."""
    x, rate = state[0][:, :1], state[0][:, 1:]
    return (torch.cat([-rate * (x - torch.cos(t)), torch.zeros_like(rate)], dim=1),)


def rows(*special):
    """Ten tame rows of (x, k); ``special`` replaces row 4."""
    x = torch.linspace(-1.0, 2.0, 10, dtype=torch.float64)
    table = torch.stack([x, 0.5 + x.abs()], dim=1)
    for row in special:
        table[4] = torch.tensor(row, dtype=torch.float64)
    return (table,)


STRANGE = {
    "not a number": (math.nan, 1.0),
    "infinite": (math.inf, 1.0),
    "stiff": (5.0, 400.0),
    "huge": (1e200, 1.0),
}
KEEP = [0, 1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("name", ["grid", "dopri5", "rk4"])
def test_a_strange_row_leaves_its_neighbours_alone_to_the_bit(name, strange):
    solver = ACCURATE[name]()
    (tame,) = solver.integrate(decay, rows(), 0.0, 1.0)
    (mixed,) = solver.integrate(decay, rows(STRANGE[strange]), 0.0, 1.0)
    assert torch.equal(tame[KEEP], mixed[KEEP])
    assert torch.isfinite(tame).all()


def test_rows_that_cannot_be_solved_are_nan_and_the_others_are_not():
    start = rows((math.nan, 1.0))
    (x,) = DormandPrince().integrate(decay, start, 0.0, 1.0)
    assert torch.isnan(x).any(1).tolist() == [i == 4 for i in range(10)]

    def explosive(t, state):  # x' = x^2 blows up at t = 1 / x(0)
        return (state[0] ** 2,)

    (x,) = DormandPrince().integrate(
        explosive, (torch.tensor([[0.5], [4.0], [-1.0]], dtype=torch.float64),), 0.0, 1.0
    )
    assert torch.isnan(x[:, 0]).tolist() == [False, True, False]
    torch.testing.assert_close(x[[0, 2], 0], torch.tensor([1.0, -0.5]).double(), rtol=1e-6, atol=0)


def test_a_row_out_of_steps_is_nan():
    solver = DormandPrince(rtol=1e-8, atol=1e-8, max_steps=40)
    (x,) = solver.integrate(decay, rows((5.0, 400.0)), 0.0, 1.0)
    assert torch.isnan(x).any(1).tolist() == [i == 4 for i in range(10)]


def test_a_stiff_row_is_solved():
    (x,) = DormandPrince(rtol=1e-8, atol=1e-8).integrate(decay, rows((5.0, 400.0)), 0.0, 1.0)
    k = 400.0  # particular solution k (k cos t + sin t) / (k^2 + 1), the transient is gone
    assert x[4, 0].item() == pytest.approx(k * (k * math.cos(1.0) + math.sin(1.0)) / (k * k + 1), abs=1e-7)


# -- tolerances and messages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "used"), [(torch.float64, "2.2e-15"), (torch.float32, "1.2e-06")], ids=["float64", "float32"]
)
def test_a_tolerance_below_rounding_is_raised_with_a_warning(dtype, used):
    x = torch.full((2, 1), 0.5, dtype=dtype)
    with pytest.warns(UserWarning, match="rtol") as caught:
        (result,) = DormandPrince(rtol=1e-17, atol=1e-6).integrate(lambda t, s: (-s[0],), (x,), 0.0, 1.0)
    assert str(caught[0].message) == f"rtol=1e-17 is below what {dtype} can resolve; {used} is used."
    assert len(caught) == 1
    torch.testing.assert_close(result, x * math.exp(-1.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (RungeKutta("rk5"), "method='rk5' is not one of ['euler', 'heun', 'midpoint', 'rk4']."),
        (RungeKutta(n_steps=0), "n_steps must be an integer >= 1, got 0."),
    ],
    ids=repr,
)
def test_parameters_that_cannot_be_used(solver, message):
    with pytest.raises(ValueError, match=r"^") as caught:
        solver.integrate(logistic, start(), 0.0, 1.0)
    assert str(caught.value) == message


def test_torchdiffeq_methods_by_name():
    with pytest.raises(ValueError, match=r"^method='dopri7' is not one of \['adaptive_heun', .*'rk4'.*\]\.$"):
        TorchDiffEq("dopri7").integrate(logistic, start(), 0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"^torchdiffeq's dopri5 stopped: underflow in dt .*use solver='grid'\.$"
    ):
        TorchDiffEq().integrate(lambda t, s: (s[0] ** 2,), (torch.full((1, 1), 4.0).double(),), 0.0, 1.0)


def test_an_unfinished_solver_says_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"^Solver must define integrate\(f, state, t0, t1\)\.$"):
        Solver().integrate(logistic, start(), 0.0, 1.0)


# -- the grid chosen at fit ----------------------------------------------------------------------------------


def exact_flow(path):
    """The augmented field, the outcome and calibration rows of a mixture's flow."""
    v, base = ExactVelocity(path, NORMAL, BENT), StandardNormal()

    def field(t, state):
        with torch.no_grad():
            return v.value_and_divergence(t, state[0])

    def outcome(state):
        return base.log_prob(state[0]) + state[1]

    x = torch.tensor(BENT.sample(400, seed=1))
    return field, outcome, (x, torch.zeros(400, dtype=torch.float64))


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_calibration_meets_its_tolerance(path, tol):
    """On 99 % of rows that it has not seen; estimates bound the true errors, and none above it is missed."""
    field, outcome, state = exact_flow(path)
    solver = Grid(tol=tol).calibrate(field, state, 1.0, 0.0, outcome)
    x = BENT.sample(1000, seed=2)
    fresh = (torch.tensor(x), torch.zeros(1000, dtype=torch.float64))
    final, estimate = solver.integrate_with_error(field, fresh, 1.0, 0.0)
    true, estimate = np.abs(outcome(final).numpy() - BENT.logpdf(x)), estimate.numpy()
    assert estimate.shape == (1000,)
    assert np.quantile(true, 0.99) <= tol
    assert np.mean(true <= estimate) >= 0.99
    assert (true[estimate <= tol] <= tol).all()


def test_calibration_takes_a_small_grid():
    """Half as many steps would miss the tolerance, a looser tolerance takes fewer."""
    field, outcome, state = exact_flow("linear")
    sizes = [
        Grid(tol=tol).calibrate(field, state, 1.0, 0.0, outcome).n_steps_ for tol in (1e-2, 1e-4, 1e-6, 1e-8)
    ]
    assert sizes == sorted(set(sizes))
    half = Grid(tol=1e-4, max_steps=sizes[1] // 2).calibrate(field, state, 1.0, 0.0, outcome)
    assert half.n_steps_ <= sizes[1] // 2
    true = np.abs(outcome(half.integrate(field, state, 1.0, 0.0)).numpy() - BENT.logpdf(state[0].numpy()))
    assert np.quantile(true, 0.99) > 1e-4


def test_calibration_where_small_errors_of_the_state_are_large_errors_of_the_outcome():
    """As on a rough field: the solution that grids are compared with must be better than the grids."""

    def wave(t, state):
        return (5.0 * torch.cos(20.0 * t) * state[0],)

    def outcome(state):
        return 1000.0 * state[0][:, 0]

    x = torch.linspace(0.5, 1.5, 200, dtype=torch.float64)[:, None]
    solver = Grid().calibrate(wave, (x,), 1.0, 0.0, outcome)
    exact = outcome((x * math.exp(-0.25 * math.sin(20.0)),))
    final, estimate = solver.integrate_with_error(wave, (x,), 1.0, 0.0)
    true = (outcome(final) - exact).abs()
    # the errors of a linear field are proportional to x: the factor of two is the same for every row
    torch.testing.assert_close(estimate, 1.5 * true, rtol=0.3, atol=0)
    assert torch.quantile(true, 0.99) <= 1e-4


@pytest.mark.parametrize(
    ("frequency", "finest", "solutions"),
    [
        (7.0, 24, 0),  # equal steps are as good as it takes
        (10.0, 24, 1),  # until the factor of the estimate is known
        (20.0, 53, 0),
        (60.0, 64, 1),  # as many steps as a fine grid would have are tried anyway
    ],
)
def test_grids_are_compared_with_the_cheapest_solution_that_can_tell(
    frequency, finest, solutions, monkeypatch
):
    """With either the factor of the estimate is what the closed form of the field gives."""
    made, integrate, tried, along = [], DormandPrince.integrate, [], _grid.along
    monkeypatch.setattr(
        DormandPrince, "integrate", lambda self, *call: made.append(self) or integrate(self, *call)
    )
    monkeypatch.setattr(
        _grid, "along", lambda f, s, knots: tried.append(len(knots) - 1) or along(f, s, knots)
    )

    def wave(t, state):
        return (torch.cos(frequency * t) * state[0],)

    x = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)[:, None]
    solver = Grid().calibrate(wave, (x,), 1.0, 0.0, lambda s: 100.0 * s[0][:, 0])
    assert len(made) == solutions
    assert max(tried) == finest
    assert len(set(tried)) == len(tried)  # no grid twice, and few
    assert len(tried) <= 12
    exact = x * math.exp(-math.sin(frequency) / frequency)
    final, estimate = solver.integrate_with_error(wave, (x,), 1.0, 0.0)
    true = 100.0 * (final[0] - exact).abs()[:, 0]
    # proportional to x, as the errors
    torch.testing.assert_close(estimate, 1.5 * true, rtol=0.05 if frequency < 60 else 0.1, atol=0)


def test_sizes_that_are_tried_grow_by_no_more_than_half():
    sizes = Grid._candidates
    assert sizes[0] == 1
    assert all(a < b <= max(a + 1, 1.5 * a) for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("least", [1, 4, 6, 7, 16])
@pytest.mark.parametrize("near", [0.3, 5.2, 6.0, 40.0, math.nan])
def test_the_least_size_is_found_from_wherever_it_is_looked_for(least, near):
    """And none is tried twice; where none is enough the largest is taken."""
    tried = []

    def trial(size):
        tried.append(size)
        return size >= least, f"found {size}"

    sizes = (1, 2, 4, 5, 6, 8, 12)
    found = _least(trial, sizes, near)
    wanted = min([size for size in sizes if size >= least], default=12)
    assert found == (wanted >= least, f"found {wanted}")
    assert len(tried) == len(set(tried))
    if near == 5.2 and least == 6:
        assert tried == [6, 5]


class Swinging:
    """x' = x cos t and the integral of x, which moves nothing; notes what it is asked."""

    def __init__(self):
        self.asked, self.announced = [], []

    def at_times(self, times):
        self.announced += times
        return self

    def __call__(self, t, state):
        self.asked.append((t, "both"))
        return state[0] * torch.cos(t), state[0][:, 0]

    def motion(self, t, state):
        self.asked.append((t, "motion"))
        return (state[0] * torch.cos(t),)


def test_a_field_hears_all_times_beforehand_and_spares_what_moves_nothing():
    """The integral of a Dormand-Prince step has no weight at its second node; the results are the same."""
    x = start()[0]
    state, knots = (x, torch.zeros(len(x), dtype=x.dtype)), torch.tensor([1.0, 0.6, 0.1], dtype=x.dtype)
    field = Swinging()
    spared = with_embedded_error(field, state, knots)
    plain = with_embedded_error(lambda t, state: field(t, state), state, knots)
    torch.testing.assert_close(spared, plain, rtol=1e-13, atol=1e-15)
    asked, (first, *rest) = field.asked[:13], field.asked[13:]
    announced = {id(t) for t in field.announced}
    assert all(id(t) in announced for t, _ in asked)
    assert [float(t) for t, _ in asked] == pytest.approx([float(t) for t, _ in (first, *rest)])
    assert [what for _, what in asked].count("motion") == 2
    assert asked[1][1] == asked[7][1] == "motion"


@pytest.mark.parametrize("solver", [equal_grid(6), DormandPrince(rtol=1e-8, atol=1e-8)])
def test_steps_made_to_be_recorded_are_the_same_steps(solver):
    """As functions of tensors alone: times, step, state and slope; tried here without a device."""
    x = start()[0]
    state, field = (x, torch.zeros(len(x), dtype=x.dtype)), Swinging()
    found = solver.integrate_with_error(_OnDevice(field), state, 1.0, 0.2)
    assert "motion" in [what for _, what in field.asked]
    # rows with clocks of their own have no times to announce
    assert bool(field.announced) == isinstance(solver, Grid)
    torch.testing.assert_close(found, solver.integrate_with_error(Swinging(), state, 1.0, 0.2))
    assert on_device(field, x) is field


@pytest.mark.parametrize("method", ["midpoint", "rk4"])
def test_steps_of_one_size_announce_their_times(method):
    field, x = Swinging(), start()[0]
    RungeKutta(method, n_steps=3).integrate(field, (x, x[:, 0]), 0.0, 1.0)
    assert [id(t) for t, _ in field.asked] == [id(t) for t in field.announced]


def test_the_finer_grid_halves_every_step():
    solver = Grid(tol=1e-3, max_steps=7)
    solver.knots_, solver.n_steps_ = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64), 3
    solver.safety_ = 1.5
    finer = solver.finer(torch.float64)
    torch.testing.assert_close(finer.knots_, torch.tensor([0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0]).double())
    assert (finer.n_steps_, finer.tol, finer.max_steps, finer.safety_) == (6, 1e-3, 7, 1.5)
    x, log = start()
    errors = [error(s.integrate(swing, (x, log), 0.0, 1.0), swing_from(x, 0.0, 1.0)) for s in (solver, finer)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(5, abs=0.7)


@pytest.mark.parametrize(("factor", "n_steps"), [(1.25, 4), (5 / 3, 5), (2.0, 6), (3.0, 9)])
def test_a_refined_grid_shortens_every_step_alike(factor, n_steps):
    """Between two of its knots lies the same share of the old steps, whole ones or a part of each."""
    solver = Grid(tol=1e-3)
    solver.knots_, solver.n_steps_, solver.safety_ = torch.tensor([0.0, 0.1, 0.5, 1.0]).double(), 3, 1.5
    refined = solver.refined(factor)
    assert (refined.n_steps_, refined.tol, refined.safety_) == (n_steps, 1e-3, 1.5)
    wanted = np.interp(np.linspace(0.0, 3.0, n_steps + 1), np.arange(4.0), solver.knots_.numpy())
    np.testing.assert_allclose(refined.knots_.numpy(), wanted, rtol=0, atol=1e-15)


def test_the_finer_adaptive_solver_is_more_exact_and_has_the_steps_for_it():
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (exact,) = DormandPrince(1e-12, 1e-12).integrate(pendulum, (x,), 0.0, 1.0)
    solver = DormandPrince(1e-5, 1e-6, max_steps=25)
    found = [s.integrate(pendulum, (x,), 0.0, 1.0)[0] for s in (solver, solver.finer(torch.float64))]
    coarse, fine = (float((y - exact).abs().max()) for y in found)
    assert 16.0 < coarse / fine < 64.0
    smallest = DormandPrince(1e-7, 1e-7).finer(torch.float32)  # no finer than rounding
    assert smallest.rtol == smallest.atol == pytest.approx(10 * np.finfo(np.float32).eps)


def test_knots_are_times_from_0_to_1_and_crowd_where_the_error_is():
    def late(t, state):  # nothing happens before t = 0.8
        return (torch.where(t > 0.8, torch.sin(60.0 * t), torch.zeros_like(t)) * torch.ones_like(state[0]),)

    x = (torch.ones(8, 1, dtype=torch.float64),)
    solver = Grid(tol=1e-5).calibrate(late, x, 1.0, 0.0, lambda s: s[0][:, 0])
    knots = solver.knots_
    assert knots.shape == (solver.n_steps_ + 1,)
    assert (knots[0], knots[-1]) == (0.0, 1.0)
    assert (knots.diff() > 0).all()
    assert (knots > 0.75).double().mean() > 0.6


def test_calibration_ignores_rows_that_fail():
    field, outcome, state = exact_flow("linear")
    others = torch.arange(len(state[0])) != 7
    clean = Grid().calibrate(field, tuple(part[others] for part in state), 1.0, 0.0, outcome)
    x = torch.where(others[:, None], state[0], math.nan)
    solver = Grid().calibrate(field, (x, state[1]), 1.0, 0.0, outcome)
    torch.testing.assert_close(solver.knots_, clean.knots_, rtol=0, atol=1e-9)
    assert solver.safety_ == pytest.approx(clean.safety_, rel=1e-6)


def test_steps_are_short_where_rows_that_are_few_need_it():
    """One row in fifty turns, and late; the knots are where it is, though the median row needs no step."""

    def field(t, state):
        return (state[0][:, 1:] * torch.exp(-((t - 0.8) ** 2) / 0.001) * torch.tensor([1.0, 0.0]),)

    x = torch.zeros(200, 2, dtype=torch.float64)
    x[::50, 1] = 1.0
    solver = Grid(max_steps=12).calibrate(field, (x,), 0.0, 1.0, lambda s: s[0][:, 0])
    assert solver.n_steps_ > 4
    assert ((solver.knots_[1:-1] > 0.65) & (solver.knots_[1:-1] < 0.95)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_where_no_row_can_be_solved_the_knots_are_times_all_the_same(value):
    def late(t, state):
        return (torch.where(t > 0.5, value, 1.0) * state[0],)

    solver = Grid(max_steps=5).calibrate(late, (torch.ones(1, 1).double(),), 0.0, 1.0, lambda s: s[0][:, 0])
    assert solver.knots_.shape == (solver.n_steps_ + 1,) == (6,)
    assert (solver.knots_.diff() > 0).all()


def test_a_tolerance_of_nothing_is_refused():
    field, outcome, state = exact_flow("linear")
    with pytest.raises(ValueError, match=r"^tol must be > 0, got 0\.0\.$"):
        Grid(tol=0.0).calibrate(field, state, 1.0, 0.0, outcome)


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_a_grid_serves_a_part_of_the_interval(t):
    field, outcome, state = exact_flow("trigonometric")
    solver = Grid(tol=1e-6).calibrate(field, state, 1.0, 0.0, outcome)
    law = between("trigonometric", NORMAL, BENT, t)
    x = law.sample(50, seed=3)
    final = solver.integrate(field, (torch.tensor(x), torch.zeros(50, dtype=torch.float64)), t, 0.0)
    np.testing.assert_allclose(outcome(final).numpy(), law.logpdf(x), rtol=0, atol=1e-6)


def test_one_step_is_a_number_of_steps():
    (x,) = RungeKutta("euler", n_steps=1).integrate(lambda t, s: (-s[0],), (torch.ones(1, 1),), 0.0, 1.0)
    assert float(x) == 0.0


def test_rows_whose_outcome_is_not_finite_ask_for_no_steps():
    """Half of the rows are stiff, and end where the outcome is not a number: the others need few steps."""
    rate = torch.tensor([[1.0]] * 50 + [[40.0]] * 50, dtype=torch.float64)

    def outcome(state):
        return torch.where(rate[:, 0] > 1.0, math.nan, state[0][:, 0])

    def field(t, state):
        return (-rate * state[0],)

    start = (torch.ones(100, 1, dtype=torch.float64),)
    assert Grid(tol=1e-6).calibrate(field, start, 0.0, 1.0, outcome).n_steps_ < 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_solver_for_what_a_grid_leaves_has_the_least_tolerance_that_the_dtype_allows(dtype):
    least = 10.0 * torch.finfo(dtype).eps
    assert Grid(tol=1e-30).fallback(dtype).rtol == least
    assert Grid(tol=1.0).fallback(dtype).rtol == 1e-4


# -- stochastic steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_stochastic_steps_without_noise_have_their_order(method, order, start, end):
    """dx = -(1 + 2 t) x dt, so x(end) = x(start) exp(start + start^2 - end - end^2)."""
    x, generator = torch.tensor([[1.0, -2.0]], dtype=torch.float64), torch.Generator().manual_seed(0)
    exact = x * math.exp(start + start**2 - end - end**2)
    errors = []
    for n in (40, 80):
        knots = torch.linspace(start, end, n + 1, dtype=torch.float64)
        found = integrate_sde(
            lambda t, x: -(1.0 + 2.0 * t) * x, lambda t: 0.0 * t, x, knots, generator, method
        )
        errors.append(float((found - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_noise_of_a_step_has_twice_the_diffusion_for_its_variance(start, end):
    """epsilon(t) = t: the variance is 2 times 1/2, whichever the way; Heun adds what the drift does to it."""
    x, generator = torch.zeros(40_000, 1, dtype=torch.float64), torch.Generator().manual_seed(0)
    knots = torch.linspace(start, end, 5, dtype=torch.float64)
    found = integrate_sde(lambda t, x: 0.0 * x, lambda t: t, x, knots, generator)
    assert float(found.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / 40_000))


def test_slopes_of_less_precision_leave_the_state_its_own():
    """They are taken at points of their precision; what is added up keeps the digits of the state."""
    met = []

    def field(t, state):
        met.append(state[0].dtype)
        return torch.cos(t) * torch.sin(state[0]).float(), torch.ones(len(state[0]))

    x = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)[:, None]
    start = (x, torch.full((50,), 1e6, dtype=torch.float64))
    knots = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    (final, clock), size = with_embedded_error(field, start, knots)
    assert final.dtype == clock.dtype == torch.float64
    assert set(met[1:6]) == {torch.float32}
    exact = 2.0 * torch.atan(torch.tan(0.5 * x) * math.exp(math.sin(1.0)))
    torch.testing.assert_close(final, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(clock, start[1] + 1.0, rtol=0, atol=1e-6)  # float32 holds 1e6 to a sixteenth
    assert size.max() < 1e-3


def test_a_step_grows_no_more_than_fivefold():
    """The first is a tenth of the interval, the second half of it, the third the rest."""
    calls = []

    def field(t, state):
        calls.append(t)
        return (torch.ones_like(state[0]),)  # no error

    DormandPrince().integrate(field, (torch.zeros(1, 1, dtype=torch.float64),), 0.0, 1.0)
    assert len(calls) == 1 + 3 * 6


def test_a_step_that_fails_shrinks_to_a_fifth_at_most():
    """So the second attempt of a row is at least a fifth of the first, whatever its error."""
    times = []

    def field(t, state):
        times.append(t)
        return (1e9 * torch.cos(1e3 * t),)

    DormandPrince(max_steps=2).integrate(field, (torch.zeros(1, 1, dtype=torch.float64),), 0.0, 1.0)
    assert float(times[6]) == pytest.approx(0.1)  # the last node of the first attempt
    assert float(times[12]) == pytest.approx(0.02)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_smallest_tolerance_that_can_be_used_is_used_in_silence(dtype, recwarn):
    tolerance = 10.0 * torch.finfo(dtype).eps
    x = torch.ones(1, 1, dtype=dtype)
    DormandPrince(tolerance, tolerance).integrate(lambda t, s: (-s[0],), (x,), 0.0, 0.01)
    assert not recwarn.list


def test_where_there_is_no_error_a_step_is_no_more_than_twenty_times_the_mean():
    def field(t, state):
        return (torch.where(t > 0.5, torch.cos(40.0 * t), 0.0) * state[0],)

    solver = Grid(tol=1e-8, max_steps=64)
    solver.calibrate(field, (torch.ones(3, 1, dtype=torch.float64),), 0.0, 1.0, lambda s: s[0][:, 0])
    steps = solver.knots_.diff()
    assert (steps > 0).all()
    quiet = (solver.knots_ < 0.45).sum()  # half of the interval has a twentieth of the mean density and more
    assert 2 <= quiet <= 0.1 * solver.n_steps_
