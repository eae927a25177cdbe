"""Faults of solving, training, devices and surroundings, one test per row of the fault catalogue."""

import ast
import contextlib
import copy
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quick
from oracles import BENT, NORMAL, ExactVelocity
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted
from tqdm import tqdm

import siflow_sk
from siflow_sk.benchmarks._timing import threads
from siflow_sk.exceptions import DataWarning, SolverWarning, TrainingWarning
from siflow_sk.flow._trained import warn_of_early_end
from siflow_sk.interpolants import Linear
from siflow_sk.solvers import DormandPrince, Grid, RungeKutta
from siflow_sk.velocities import MLP, ResidualMLP, Velocity

# -- rows that cannot be solved ----------------------------------------------------------------------------


class Exact(Velocity):
    """A recipe whose module is an exact velocity: training cannot move it."""

    def build(self, n_features, generator):
        return ExactVelocity("linear", NORMAL, BENT)


class Holed(ExactVelocity):
    """The same field, not a number near some points; no other row comes near them."""

    points = torch.tensor([[8.0, 8.0], [-9.0, 7.0], [10.0, -8.0]], dtype=torch.float64)

    def __init__(self):
        super().__init__("linear", NORMAL, BENT)

    def value_and_divergence(self, t, x):
        value, divergence = super().value_and_divergence(t, x)
        near = (torch.cdist(x, self.points.to(x)) < 0.1).any(1)
        return torch.where(near[:, None], math.nan, value), torch.where(near, math.nan, divergence)


HOLES = [5, 130, 299]


@pytest.fixture(scope="module")
def rows():
    X = BENT.sample(300, seed=1)
    X[HOLES] = Holed.points.numpy()
    X.setflags(write=False)
    return X


def exact_flow(solver="grid", velocity=None):
    flow = quick(
        velocity=Exact(), preprocessor="none", max_iter=1, polish=0, interpolant="linear", solver=solver
    )
    flow.fit(BENT.sample(120, seed=4))
    if velocity is not None:
        flow.velocity_ = velocity
    return flow


def solver_warnings(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in seen if w.category is SolverWarning]


SOLVERS = {"grid": Grid(), "dopri5": DormandPrince(rtol=1e-5, atol=1e-5), "rk4": RungeKutta(n_steps=10)}
REST = np.setdiff1d(np.arange(300), HOLES)


@pytest.mark.parametrize("solver", SOLVERS)
def test_fault_42_a_row_that_is_not_a_number(solver, rows):
    """The row alone is NaN, is counted and named; the others do not change by a bit."""
    whole = exact_flow(SOLVERS[solver])
    holed = copy.copy(whole)
    holed.velocity_ = Holed().double()
    for method in ("score_samples", "transform", "inverse_transform"):
        clean = getattr(whole, method)(rows)
        assert np.isfinite(clean).all()
        found, messages = solver_warnings(getattr(holed, method), rows)
        np.testing.assert_array_equal(found[REST], clean[REST])
        assert np.isnan(found[HOLES]).all()
        (message,) = messages
        assert message.startswith("3 of 300 rows could not be solved and are NaN: rows 5, 130, 299. Try ")
    (found, error), _ = solver_warnings(holed.score_samples, rows, return_error=True)
    assert np.isnan(error[HOLES]).all()
    assert np.isfinite(error[REST]).all() or solver == "rk4"


def test_fault_42_rows_are_named_by_their_place_in_the_whole_table(rows, monkeypatch):
    """Also behind the first chunk, and once for all chunks."""
    module = siflow_sk.flow._tensors
    chunks = module.row_chunks
    monkeypatch.setattr(module, "row_chunks", lambda n, *_: chunks(n, 2**20))  # of 256 rows
    holed = exact_flow(velocity=Holed().double())
    X = np.concatenate([rows[REST], np.tile(rows[HOLES], (4, 1))])
    for method in ("score_samples", "transform", "inverse_transform"):
        _, (message,) = solver_warnings(getattr(holed, method), X)
        assert "12 of 309 rows" in message
        assert "rows 297, 298, 299, 300, 301, 302, 303, 304, 305, 306 ..." in message


def test_fault_42_the_mean_is_not_a_number_either(rows):
    holed = exact_flow(velocity=Holed().double())
    score, messages = solver_warnings(holed.score, rows)
    assert math.isnan(score)
    assert len(messages) == 1


def test_fault_43_a_row_that_takes_too_many_steps(rows):
    """NaN, with a warning that can be made an error; rows of a grid are tried again in steps of their own."""
    flow = exact_flow(DormandPrince(rtol=1e-7, atol=1e-7, max_steps=16))
    value, messages = solver_warnings(flow.score_samples, rows)
    bad = np.isnan(value)
    assert 0 < bad.sum() < 300
    (message,) = messages
    assert message.startswith(f"{bad.sum()} of 300 rows could not be solved and are NaN: rows ")
    np.testing.assert_allclose(value[~bad], BENT.logpdf(rows)[~bad], rtol=0, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SolverWarning)
        with pytest.raises(SolverWarning, match=f"{bad.sum()} of 300 rows"):
            flow.score_samples(rows)
    coarse = exact_flow()
    coarse.solver_.knots_ = torch.tensor([0.0, 1.0], dtype=torch.float64)
    value, messages = solver_warnings(coarse.score_samples, rows)
    assert messages == []
    np.testing.assert_allclose(value, BENT.logpdf(rows), rtol=0, atol=1e-4)


class Cubic(torch.nn.Module):
    """dx/dt = x^3 / 50: backwards it contracts, which equal steps overshoot far out; forwards it explodes."""

    def value_and_divergence(self, t, x):
        return 0.02 * x**3, 0.06 * (x * x).sum(1)

    def forward(self, t, x):
        return 0.02 * x**3


@pytest.mark.parametrize("solver", [RungeKutta(n_steps=10), RungeKutta("euler", 20), Grid()], ids=repr)
def test_fault_44_equal_steps_blow_up(solver, rows):
    """What overflows is solved again in small steps: x / sqrt(1 + x^2 / 25), and no density of zero."""
    flow = exact_flow(solver, Cubic())
    X = rows[REST][:40].copy()
    clean = flow.score_samples(X)
    X[7] = 50.0, -70.0
    value, messages = solver_warnings(flow.score_samples, X)
    assert messages == []
    np.testing.assert_array_equal(np.delete(value, 7), np.delete(clean, 7))
    latent = X[7] / np.sqrt(1.0 + X[7] ** 2 / 25.0)
    change = -1.5 * np.log1p(X[7] ** 2 / 25.0).sum()  # log |d latent / dx|
    assert value[7] == pytest.approx(-0.5 * latent @ latent - math.log(2 * math.pi) + change, abs=1e-3)
    np.testing.assert_allclose(flow.transform(X)[7], latent, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", [RungeKutta(n_steps=10), Grid()], ids=repr)
def test_fault_44_an_explosion_is_not_a_number(solver, rows):
    """Forwards no solver can follow beyond the time 25 / x^2, and the row says so."""
    flow = exact_flow(solver, Cubic())
    Z = rows[REST][:50].copy()
    Z[7] = 40.0
    moved, (message,) = solver_warnings(flow.inverse_transform, Z)
    assert np.isnan(moved[7]).all()
    assert np.isfinite(np.delete(moved, 7, axis=0)).all()
    assert "1 of 50 rows could not be solved and are NaN: rows 7." in message


def test_fault_45_a_tolerance_below_rounding(rows):
    flow, messages = solver_warnings(exact_flow, DormandPrince(rtol=1e-18, atol=1e-8))
    assert messages[0] == "rtol=1e-18 is below what torch.float64 can resolve; 2.2e-15 is used."
    start = time.perf_counter()
    value, messages = solver_warnings(flow.score_samples, rows[REST][:100])
    assert time.perf_counter() - start < 30.0
    assert messages[0] == "rtol=1e-18 is below what torch.float64 can resolve; 2.2e-15 is used."
    np.testing.assert_allclose(value, BENT.logpdf(rows[REST][:100]), rtol=0, atol=1e-7)


def test_points_too_far_for_the_dtype_have_no_latent_point():
    flow = quick(preprocessor="none", max_iter=1, polish=0, inference_dtype="float32")
    X = np.random.default_rng(0).standard_normal((120, 2))
    flow.fit(X)
    far = X[:6].copy()
    far[2] = 1e60
    latent, (message,) = solver_warnings(flow.transform, far)
    assert np.isnan(latent[2]).all()
    assert "1 of 6 rows" in message
    np.testing.assert_array_equal(np.delete(latent, 2, axis=0), flow.transform(np.delete(far, 2, axis=0)))
    assert flow.score_samples(far)[2] == -np.inf
    moved, _ = solver_warnings(flow.transport, far, 1.0, 0.5)
    assert np.isnan(moved[2]).all()


# -- training ----------------------------------------------------------------------------------------------


class Spoilt(Linear):
    """Returns targets of size ``value`` at the given calls."""

    def __init__(self, at=(), value=math.nan):
        self.at = at
        self.value = value

    def velocity(self, t, x0, x1):
        self.calls = getattr(self, "calls", 0) + 1
        target = super().velocity(t, x0, x1)
        return torch.full_like(target, self.value) if self.calls in self.at else target


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_fault_46_a_loss_that_is_not_finite(value, moons):
    """The steps are left out and counted; what is learnt is finite and as good as ever."""
    settings = {"preprocessor": "whiten", "max_iter": 60, "polish": 0}
    clean = quick(interpolant="linear", **settings).fit(moons).score(moons)
    with pytest.warns(
        TrainingWarning, match="4 steps had a non-finite loss and were left out; lower learning"
    ):
        flow = quick(interpolant=Spoilt((3, 10, 11, 40), value), **settings).fit(moons)
    assert sum(map(math.isfinite, flow.loss_curve_)) == 56
    assert all(torch.isfinite(p).all() for p in flow.velocity_.parameters())
    assert flow.score(moons) > clean - 0.2


def test_fault_46_a_loss_that_is_never_finite(moons):
    """Nothing is learnt, but there are no weights that are not a number."""
    with pytest.warns(TrainingWarning, match="10 steps had a non-finite loss"):
        flow = quick(interpolant=Spoilt(range(1000)), max_iter=10, polish=0, preprocessor="whiten").fit(moons)
    assert np.isfinite(flow.score_samples(moons)).all()


@pytest.mark.parametrize("value", [1e6, 1e18])
def test_fault_47_an_exploding_gradient(value, moons):
    """A batch whose targets are 1e6 or 1e18 times too large moves the weights no further than any other."""
    settings = {"preprocessor": "whiten", "max_iter": 60, "polish": 0}
    clean = quick(interpolant="linear", **settings).fit(moons).score(moons)
    flow = quick(interpolant=Spoilt((5, 20), value), **settings).fit(moons)
    assert max(flow.loss_curve_) > 1e11
    assert flow.score(moons) > clean - 0.2


def early_ends(function, *args, **kwargs):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        function(*args, **kwargs)
    return [str(w.message) for w in seen if w.category is TrainingWarning]


def test_fault_48_the_steps_end_before_convergence(moons):
    """A number of steps that was asked for and is too small is told; one that suffices is not."""
    settings = {"preprocessor": "whiten", "velocity": MLP(width=16), "tol": 0.05, "n_iter_no_change": 2}
    (message,) = early_ends(quick(max_iter=60, polish=0, preprocessor="whiten").fit, moons)
    assert message.startswith("max_iter=60: the steps ended while the log-density of the validation rows was")
    flow = quick(**settings, max_iter=30, polish=400)
    assert early_ends(flow.fit, moons) == []
    assert len(flow.polish_loss_curve_) < 400  # ended by itself
    # without validation rows nothing is known
    assert early_ends(quick(early_stopping=False, max_iter=3).fit, moons) == []


@pytest.mark.parametrize(
    ("scores", "given", "told"),
    [
        ([1.0, 2.0, 2.5, 2.8, 3.0], {}, "by 0.5 nats in the last 2 validations"),
        ([1.0, 2.0, 3.0, 3.1, 3.19], {}, None),  # less than 0.1 each
        ([1.0, 2.0, 3.0, 2.9, 2.8], {}, None),
        ([1.0, 3.0, 2.0, 2.1, 2.9], {}, None),  # what counts is the best
        ([1.0, 2.0, 2.5, 2.8, 3.0], {"max_iter": "auto", "polish": "auto"}, None),
        ([1.0, 2.0, 2.5, 2.8, 3.0], {"max_iter": "auto"}, "polish=7: the steps ended"),
        ([1.0, 2.0, 2.5, 2.8, 3.0], {"polish": 0}, "max_iter=5: the steps ended"),
        ([1.0, 2.0], {}, "by 1 nats in the last 1 validations"),
        ([1.0], {}, None),
        ([], {}, None),
        ([-math.inf, -math.inf, -math.inf], {}, None),
    ],
)
def test_fault_48_what_counts_as_rising(scores, given, told):
    parameters = {"max_iter": 5, "polish": 7, "tol": 0.1, "n_iter_no_change": 2} | given
    checks = [{"score": score} for score in scores]
    messages = early_ends(warn_of_early_end, checks, SimpleNamespace(**parameters))
    assert len(messages) == (told is not None)
    assert told is None or told in messages[0]


def test_fault_49_too_few_rows_for_validation():
    X = np.random.default_rng(0).standard_normal((9, 2))
    with pytest.warns(TrainingWarning, match="9 distinct rows are too few to keep validation rows aside"):
        flow = quick(early_stopping=True, max_iter=3).fit(X)
    assert flow.early_stopping_ is False
    assert flow.validation_scores_ == []
    assert np.isfinite(flow.score_samples(X)).all()


@pytest.fixture
def keyboard():
    """A process that a shell started in the background ignores the signal, and so would this one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class CtrlC(Linear):
    """The signal itself, at call ``at``."""

    def __init__(self, at):
        self.at = at

    def velocity(self, t, x0, x1):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGINT)
        return super().velocity(t, x0, x1)


class ImpatientGrid(Grid):
    """The second Ctrl-C, while the solver chooses its grid."""

    impatient = False

    def calibrate(self, f, state, t0, t1, value):
        if ImpatientGrid.impatient and len(state[0]) > 1:
            signal.raise_signal(signal.SIGINT)
        return super().calibrate(f, state, t0, t1, value)


@pytest.mark.usefixtures("keyboard")
def test_fault_51_ctrl_c_keeps_the_best_so_far(moons):
    with pytest.warns(TrainingWarning, match="Training interrupted after 7 iterations; the best weights so"):
        flow = quick(interpolant=CtrlC(8), preprocessor="whiten").fit(moons)
    assert flow.n_iter_ == 7
    assert flow.polish_loss_curve_ == []
    assert np.isfinite(flow.score_samples(moons)).all()


@pytest.mark.usefixtures("keyboard")
def test_fault_51_ctrl_c_before_anything_is_learnt(moons):
    """No model, and none that passes for fitted."""
    flow = quick(interpolant=CtrlC(1))
    with pytest.raises(KeyboardInterrupt):
        flow.fit(moons)
    with pytest.raises(NotFittedError):
        check_is_fitted(flow)
    assert vars(flow) == flow.get_params(deep=False)


@pytest.mark.usefixtures("keyboard")
def test_fault_51_the_second_ctrl_c_ends_the_fit(moons, monkeypatch):
    """Whoever presses twice does not wait for the grid; what was there before is still there."""
    before = quick(solver=ImpatientGrid()).fit(moons)
    scores = before.score_samples(moons)
    monkeypatch.setattr(ImpatientGrid, "impatient", True)
    before.set_params(interpolant=CtrlC(8), preprocessor="whiten")
    with pytest.warns(TrainingWarning, match="interrupted after 7"), pytest.raises(KeyboardInterrupt):
        before.fit(moons)
    np.testing.assert_array_equal(before.score_samples(moons), scores)
    fresh = quick(interpolant=CtrlC(8), solver=ImpatientGrid(), preprocessor="whiten")
    with pytest.warns(TrainingWarning, match="interrupted after 7"), pytest.raises(KeyboardInterrupt):
        fresh.fit(moons)
    with pytest.raises(NotFittedError):
        check_is_fitted(fresh)


class Refuses(Linear):
    """Raises at call ``at``."""

    def __init__(self, at):
        self.at = at

    def velocity(self, t, x0, x1):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == self.at:
            raise ZeroDivisionError("mine")
        return super().velocity(t, x0, x1)


def test_fault_53_an_exception_in_a_users_part(moons, capsys):
    """It comes out as it is, with the bars closed and the estimator as it was."""
    flow = quick(interpolant=Refuses(4), verbose=1)
    before = dict(vars(flow))
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        flow.fit(moons)
    assert vars(flow) == before
    assert not list(getattr(tqdm, "_instances", ()))
    capsys.readouterr()


# -- devices -----------------------------------------------------------------------------------------------


def test_fault_56_cuda_without_cuda(moons, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = (
        f"CUDA requested but torch has no CUDA support ({torch.__version__}); use device='cpu' or 'auto'."
    )
    for device in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=r"^CUDA requested") as caught:
            quick(device=device).fit(moons)
        assert str(caught.value) == wanted
    assert quick(device="auto").fit(moons).device_ == "cpu"


def test_fault_57_devices_that_are_not_there(moons, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    there = re.escape("there are 'auto' and ['cpu', 'cuda:0', 'cuda:1']")
    for device in ("gpu", "cuda:7", "", "cuda:x", "mps"):
        with pytest.raises(ValueError, match=f"device={device!r} is not .*{there}"):
            quick(device=device).fit(moons)


def test_fault_58_a_model_of_a_gpu_wakes_on_the_cpu(moons_flow, moons):
    """What a pickle keeps of a flow that says it is on a GPU; tests/test_cuda.py does it with one."""
    flow = copy.copy(moons_flow)
    flow.device_ = "cuda:0"
    woken = pickle.loads(pickle.dumps(flow))
    assert woken.device_ == "cpu"
    np.testing.assert_array_equal(woken.score_samples(moons), moons_flow.score_samples(moons))


# -- seeds, state, environment -----------------------------------------------------------------------------


def test_fault_71_kinds_of_random_state(moons):
    tiny = {"max_iter": 3, "polish": 0, "preprocessor": "standardize"}

    def scores(seed):
        return quick(**tiny, random_state=seed).fit(moons).score_samples(moons)

    np.testing.assert_array_equal(scores(7), scores(np.int64(7)))
    np.testing.assert_array_equal(scores(np.random.RandomState(5)), scores(np.random.RandomState(5)))
    assert not np.array_equal(scores(None), scores(None))
    assert np.isfinite(scores(2**32 - 1)).all()
    for bad in (np.random.default_rng(0), torch.Generator(), -1, 2**32, "0", 1.0):
        with pytest.raises(InvalidParameterError, match=r"random_state.*must be an int in the range"):
            scores(bad)
    flow = quick(**tiny).fit(moons)
    for bad in (np.random.default_rng(0), -1, "0"):
        with pytest.raises(ValueError, match=r"Seed must be between|cannot be used to seed"):
            flow.sample(3, random_state=bad)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": deterministic,
}
PARTS = {
    "default": {},
    "others": {
        "velocity": ResidualMLP(width=8, depth=1, divergence="hutchinson"),
        "base": "student_t",
        "interpolant": "linear",
        "preprocessor": "standardize",
        "solver": RungeKutta(n_steps=4),
    },
}


def everything(X, **parameters):
    """One of each public call; arrays."""
    X = X[:110]
    flow = quick(max_iter=4, polish=2, **parameters).fit(X)
    flow.partial_fit(X)
    Z = flow.transform(X)
    return [
        flow.score_samples(X),
        Z,
        flow.inverse_transform(Z[:5]),
        flow.sample(5, random_state=0),
        flow.velocity_field(0.5, X),
        flow.divergence(0.5, X),
        flow.score_samples(X[:5], t=np.linspace(0, 1, 5), return_error=True)[0],
    ]


@pytest.fixture(scope="module")
def plain(moons):
    return {name: everything(moons, **parts) for name, parts in PARTS.items()}


@pytest.mark.parametrize("parts", PARTS)
def test_fault_72_another_default_dtype(parts, moons, plain):
    """No effect, to the bit."""
    for name in ("float64 by default", "float16 by default"):
        with SURROUNDINGS[name]():
            found = everything(moons, **PARTS[parts])
        for a, b in zip(found, plain[parts], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("parts", PARTS)
def test_fault_73_modes_of_torch_around_every_call(parts, moons, plain):
    """Training needs gradients and finds them; the modes are as they were, which the suite's guard sees."""
    for name in ("no_grad", "inference_mode", "deterministic"):
        with SURROUNDINGS[name]():
            found = everything(moons, **PARTS[parts])
        for a, b in zip(found, plain[parts], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_fault_73_autocast(moons, plain):
    """Under autocast products would be in bfloat16: it is left, so nothing changes."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything(moons)
        assert torch.is_autocast_enabled("cpu")
    for a, b in zip(found, plain["default"], strict=True):
        np.testing.assert_array_equal(a, b)


OPTIMISED = """
import sys
sys.path.insert(0, sys.argv[1])
from conftest import quick
from sklearn.datasets import make_moons
X, _ = make_moons(300, noise=0.1, random_state=0)
import torch
torch.set_num_threads(1)
print(__debug__, quick().fit(X).score(X))
"""


def test_fault_74_python_without_asserts(moons):
    """``python -O`` gives the same number, and no module of the package has an assert."""
    run = subprocess.run(
        [sys.executable, "-O", "-W", "ignore", "-c", OPTIMISED, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with threads(1):
        expected = quick().fit(moons).score(moons)
    assert run.stdout.split() == ["False", repr(expected)]
    package = Path(siflow_sk.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path


@pytest.mark.parametrize("parts", [{}, {"base": "gaussian", "preprocessor": "whiten"}], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e300, 1e-200])
def test_fault_75_numpy_raises_and_warnings_are_errors(size, parts, moons):
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DataWarning)
        flow = quick(max_iter=6, polish=3, **parts).fit(moons * size)
        assert np.isfinite(flow.score_samples(moons * size)).all()
        flow.inverse_transform(flow.transform(moons * size))
        flow.sample(20, random_state=0)


def test_fault_76_names_and_paths_beyond_ascii(moons, tmp_path):
    names = ["größe", "高さ 😀"]
    frame = pd.DataFrame(moons, columns=names)
    flow = quick().fit(frame)
    assert list(flow.feature_names_in_) == names
    assert list(flow.set_output(transform="pandas").sample(3).columns) == names
    with pytest.warns(DataWarning, match="column 'höhe' constant"):
        quick(max_iter=2, polish=0).fit(frame.assign(**{"höhe": 1.0}))
    path = tmp_path / "modèle 😀.pickle"
    path.write_bytes(pickle.dumps(flow))
    np.testing.assert_array_equal(
        pickle.loads(path.read_bytes()).score_samples(frame), flow.score_samples(frame)
    )
