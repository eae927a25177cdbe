"""What is regressed on, in which order rows are seen, and what a fit repeats and keeps."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import quick
from oracles import BENT, NORMAL, OFFSET, PATHS, ExactVelocity
from sklearn.mixture import GaussianMixture

from siflow_sk import _capture
from siflow_sk._capture import Recorded, rounded_products
from siflow_sk._objective import likelihood_loss, quadratic_loss
from siflow_sk._training import Batches, Data, Settings, Trainer
from siflow_sk._training._draws import Draws, jittered_knots, stratified_times
from siflow_sk._training._plan import make_settings
from siflow_sk._training._validation import Validation
from siflow_sk.bases import StandardNormal
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.interpolants import INTERPOLANTS, Linear
from siflow_sk.solvers import with_embedded_error
from siflow_sk.velocities import MLP

# -- rows -----------------------------------------------------------------------------------------------


def weights(*counts):
    counts = torch.tensor(counts, dtype=torch.float64)
    return counts / counts.sum()


def test_equal_weights_give_permutations(generator):
    batches = Batches(weights(*[1] * 50), 50, generator)
    first, second = batches.take(50), batches.take(50)
    assert first.sort().values.tolist() == list(range(50))
    assert second.sort().values.tolist() == list(range(50))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(50))


@pytest.mark.parametrize("size", [1, 7, 50, 64, 200])
def test_the_size_of_a_batch_does_not_change_the_stream(size):
    stream = Batches(weights(*[1] * 50), 50, torch.Generator().manual_seed(3))
    whole = Batches(weights(*[1] * 50), 50, torch.Generator().manual_seed(3)).take(400)
    taken = torch.cat([stream.take(size) for _ in range(400 // size)])
    assert torch.equal(taken, whole[: len(taken)])


def test_whole_weights_repeat_rows_exactly(generator):
    counts = torch.tensor([3, 1, 7, 2, 1, 11, 5])
    batches = Batches(weights(*counts.tolist()), int(counts.sum()), generator)
    for _ in range(20):
        assert torch.bincount(batches.take(30), minlength=7).tolist() == counts.tolist()


def test_many_whole_weights_repeat_rows_exactly(generator):
    """Rounding of the cumulated weights must not lose or double a row."""
    counts = torch.randint(1, 9, (5000,), generator=generator)
    batches = Batches(weights(*counts.tolist()), int(counts.sum()), generator)
    assert torch.equal(torch.bincount(batches.take(int(counts.sum())), minlength=5000), counts)


def test_real_weights_are_kept_to_within_one_row(generator):
    weight = torch.rand(40, dtype=torch.float64, generator=generator)
    weight /= weight.sum()
    batches = Batches(weight, 1000, generator)
    assert ((torch.bincount(batches.take(1000), minlength=40) - 1000 * weight).abs() <= 1.0).all()


def test_a_weight_of_zero_is_never_drawn(generator):
    drawn = Batches(weights(0, 2, 0, 1, 0), 3, generator).take(300)
    assert set(drawn.tolist()) == {1, 3}


# -- times ----------------------------------------------------------------------------------------------


def test_times_are_one_in_each_cell(generator):
    t = stratified_times(torch.rand(64, generator=generator, dtype=torch.float64))
    assert t.shape == (64, 1)
    assert (64 * t[:, 0]).floor().tolist() == list(range(64))
    assert not torch.equal(t, stratified_times(torch.rand(64, generator=generator, dtype=torch.float64)))
    noise = torch.rand(3, 64, generator=generator)
    assert torch.equal(stratified_times(noise)[1], stratified_times(noise[1]))


@pytest.mark.parametrize(
    ("rows", "batch_size", "wanted"),
    [(200, "auto", 64), (600, "auto", 100), (767, 4096, 127), (768, "auto", 128), (5000, 2048, 512)],
)
def test_a_batch_of_the_polish_is_smaller_for_few_rows(rows, batch_size, wanted):
    flow = quick(batch_size=batch_size)
    settings, _ = make_settings(flow, rows, 3, rows, MLP(), torch.device("cpu"))
    assert settings.polish_batch_size == wanted


def test_knots_run_from_1_to_0_and_move_inside(generator):
    for _ in range(50):
        noise = torch.rand(3, 5, generator=generator, dtype=torch.float64)
        knots = jittered_knots(noise[1])
        assert (knots[0], knots[-1]) == (1.0, 0.0)
        assert ((knots - torch.linspace(1.0, 0.0, 5)).abs() <= 0.25 / 4 + 1e-12).all()
        assert (knots.diff() < 0).all()
        assert torch.equal(jittered_knots(noise)[1], knots)
    assert not torch.equal(*jittered_knots(noise[:2]))


# -- the quadratic loss ---------------------------------------------------------------------------------


def uniform(n, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Perturbed:
    """The exact velocity plus ``size * sin(3 x)``."""

    def __init__(self, exact, size):
        self.exact, self.size = exact, size

    def __call__(self, t, x):
        return self.exact(t, x) + self.size * torch.sin(3.0 * x)


def regression(path, velocity, n=20_000, seed=0):
    """Values per block of 500 draws of the loss R, of |v|^2 and of |d_t x_t|^2, (3, n / 500)."""
    a, b, da, db = PATHS[path]
    x0, x1 = torch.tensor(NORMAL.sample(n, seed)), torch.tensor(BENT.sample(n, seed + 1))
    rows = []
    with torch.no_grad():
        for c0, c1 in zip(x0.split(500), x1.split(500), strict=True):
            t = stratified_times(uniform(500, len(rows)))
            xt, speed = a(t) * c0 + b(t) * c1, da(t) * c0 + db(t) * c1
            loss = quadratic_loss(velocity, INTERPOLANTS[path](), t, c0, c1)
            exact = ExactVelocity(path, NORMAL, BENT)(t, xt)
            rows.append(torch.stack([loss, (exact**2).sum(1).mean(), (speed**2).sum(1).mean()]))
    return torch.stack(rows, 1)


def within(values, expected, width=5.0):
    """The mean of independent values is within ``width`` standard errors (level 6e-7 at 5)."""
    return abs(float(values.mean()) - expected) < width * float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("path", PATHS)
def test_the_exact_velocity_has_the_loss_of_the_minimiser(path):
    """R(v) = E|d_t x_t|^2 - E|v|^2: that is G(v) + E|v|^2 = 0, and the floor of the loss is above zero."""
    loss, kinetic, speed = regression(path, ExactVelocity(path, NORMAL, BENT))
    assert within(loss + kinetic - speed, 0.0)
    assert loss.mean() > 0.5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [-0.4, 0.2])
def test_any_other_field_costs_its_distance(path, size):
    """R(v + u) - R(v) = E|u|^2."""
    exact = ExactVelocity(path, NORMAL, BENT)
    extra = regression(path, Perturbed(exact, size))[0] - regression(path, exact)[0]
    a, b = PATHS[path][:2]
    x0, x1 = torch.tensor(NORMAL.sample(20_000, 7)), torch.tensor(BENT.sample(20_000, 8))
    t = stratified_times(uniform(20_000, 9))
    t = t[torch.randperm(20_000, generator=torch.Generator().manual_seed(10))]
    distance = float(((size * torch.sin(3.0 * (a(t) * x0 + b(t) * x1))) ** 2).sum(1).mean())
    assert distance > 0.02
    assert within(extra, distance, 6.0)


def test_the_quadratic_loss_is_the_mean_square():
    x0, x1 = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    loss = quadratic_loss(lambda t, x: torch.ones_like(x), Linear(), torch.full((2, 1), 0.5), x0, x1)
    assert loss.item() == ((0 + 1) + (4 + 4)) / 2


# -- the likelihood loss --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_the_likelihood_loss_is_the_mean_of_the_negative_log_density(path):
    x = BENT.sample(200, seed=1)
    velocity, knots = ExactVelocity(path, NORMAL, BENT), torch.linspace(1.0, 0.0, 81, dtype=torch.float64)
    loss = likelihood_loss(velocity, StandardNormal(), torch.tensor(x), knots, 0.0)
    assert loss.item() == pytest.approx(-BENT.logpdf(x).mean(), abs=1e-6)


def test_the_penalty_falls_with_the_step_and_is_never_a_gain():
    x, velocity = torch.tensor(BENT.sample(200, seed=1)), ExactVelocity("linear", NORMAL, BENT)

    def penalty(n):
        knots = torch.linspace(1.0, 0.0, n + 1, dtype=torch.float64)
        plain, with_it = (likelihood_loss(velocity, StandardNormal(), x, knots, p) for p in (0.0, 1.0))
        return (with_it - plain).item()

    found = [penalty(n) for n in (4, 8, 16, 32)]
    # |h (k2 - k3)|^2 is of the sixth order in h, and there are 1 / h of them
    assert -np.polyfit(np.log([8, 16, 32]), np.log(found[1:]), 1)[0] == pytest.approx(5, abs=0.5)
    assert min(found) > 0


def test_the_gradient_of_the_likelihood_loss():
    """Against finite differences, with the penalty in."""
    generator = torch.Generator().manual_seed(0)
    network = MLP(width=8, time_width=4).build(2, generator).double()
    x, knots = torch.tensor(BENT.sample(20, seed=1)), torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)

    def loss():
        return likelihood_loss(network, StandardNormal(), x, knots, 3.0)

    parameter = next(p for name, p in network.named_parameters() if name.endswith("w1"))
    (gradient,) = torch.autograd.grad(loss(), parameter)
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        parameter.add_(1e-5 * direction)
        above = loss()
        parameter.sub_(2e-5 * direction)
        below = loss()
    assert ((above - below) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


def pretend(monkeypatch, graph):
    """CUDA that is not there; returns the devices that are made the present one."""
    devices = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda d: devices.append(d) or contextlib.nullcontext())
    monkeypatch.setattr(_capture, "_on_cuda", lambda tensor: True)
    monkeypatch.setattr(_capture, "_beside", lambda function, *inputs: function(*inputs))
    return devices


def test_what_cannot_be_recorded_runs_as_on_the_cpu(monkeypatch):
    """Where CUDA refuses a graph every call is a plain one, and recording is tried once."""
    refused = []

    def refuse(*_):
        refused.append(1)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    pretend(monkeypatch, refuse)
    total = torch.zeros(1)
    add = Recorded(lambda x: total.add_(x).clone())
    found = [add(torch.tensor([1.0])).item() for _ in range(6)]
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # no step lost, none done twice
    assert len(refused) == 1


def test_every_shape_has_a_record_of_its_own(monkeypatch):
    calls, graphs = [], []

    class Graph:
        def capture_begin(self, capture_error_mode):
            graphs.append(self)

        capture_end = replay = lambda self: None

    devices = pretend(monkeypatch, Graph)

    def function(x):
        calls.append(x)
        return x.sum(), x

    doubled = Recorded(function)
    one, two = torch.ones(3), torch.full((2,), 2.0, dtype=torch.float64)
    assert doubled(one)[0] == 3.0  # of the plain call
    assert doubled(two)[0] == 4.0
    assert len(graphs) == 2
    assert len(calls) == 4
    # replayed in the memory that was recorded, and what is returned is not that memory
    value = doubled(5.0 * one)[1]
    assert value.tolist() == [5.0, 5.0, 5.0]
    doubled(7.0 * one)
    assert value.tolist() == [5.0, 5.0, 5.0]
    assert doubled(two)[1].tolist() == [2.0, 2.0]
    assert len(graphs) == 2
    assert len(calls) == 4
    assert devices == 5 * [one.device]  # whatever device is the present one


# -- the trainer ----------------------------------------------------------------------------------------


def settings(**changes):
    defaults = {
        "n_quadratic": 1,
        "n_polish": 0,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "ema_decay": 0.9,
        "tol": 1e-3,
        "patience": 5,
    }
    return Settings(**{**defaults, **changes})


def test_validation_is_the_exact_log_density_in_the_units_of_the_data(generator):
    """With the exact velocity: the weighted mean of the true log-density plus the preprocessor's part."""
    x, weight = BENT.sample(300, seed=1), np.random.default_rng(0).random(300)
    weight /= weight.sum()
    log_det = 100.0 * weight
    data = Data(
        torch.tensor(x).float(),
        torch.full((300,), 1 / 300, dtype=torch.float64),
        300,
        torch.tensor(x).float(),
        torch.tensor(weight),
        log_det_valid=torch.tensor(log_det),
    )
    network = ExactVelocity("trigonometric", NORMAL, BENT)
    path = INTERPOLANTS["trigonometric"]()
    trainer = Trainer(network, StandardNormal().fit(torch.tensor(x), None), path, data, settings(), generator)
    trainer.regress()
    # 5 steps in float32
    wanted = BENT.logpdf(x) + log_det
    assert trainer.history.checks[0]["score"] == pytest.approx(weight @ wanted, abs=5e-3)
    np.testing.assert_allclose(trainer.regressed_log_density(), wanted, rtol=0, atol=0.05)
    many = dataclasses.replace(data, x_valid=data.x.repeat(5, 1), log_det_valid=100.0)  # more than at a time
    found = Validation(many, trainer.base, trainer.average).log_density()
    np.testing.assert_allclose(found, np.tile(BENT.logpdf(x), 5) + 100.0, rtol=0, atol=0.05)


def test_a_batch_has_no_more_rows_than_there_are(moons, monkeypatch):
    sizes, pairs = set(), Draws.pairs
    monkeypatch.setattr(Draws, "pairs", lambda self, n: sizes.add(n) or pairs(self, n))
    quick(batch_size=1000, polish=0, early_stopping=False).fit(moons)
    quick(batch_size=16, polish=0, early_stopping=False).fit(moons)
    assert sizes == {len(moons), 16}


def test_the_weights_with_the_best_validation_are_restored(generator):
    """Validation rows from the base, which training leads away from; SciPy scores the weights again."""
    x, x_valid = (torch.tensor(law.sample(200, seed=1)).float() for law in (BENT, NORMAL))
    even = torch.full((200,), 1 / 200, dtype=torch.float64)
    network = MLP(width=16, time_width=8).build(2, generator)
    data, steps = Data(x, even, 200, x_valid, even), settings(n_quadratic=400, learning_rate=0.01)
    trainer = Trainer(network, StandardNormal().fit(x, None), Linear(), data, steps, generator)
    trainer.regress()
    scores = [check["score"] for check in trainer.history.checks]
    assert len(scores) == 20
    assert np.argmax(scores) < 19  # the last weights are not the best
    state, knots = (x_valid, torch.zeros(200)), torch.tensor([1.0, 0.96, 0.66, 0.33, 0.04, 0.0])
    with torch.no_grad():
        (z, change), error = with_embedded_error(
            lambda t, s: network.value_and_divergence(t, s[0]), state, knots
        )
    found = np.mean(NORMAL.logpdf(z.numpy()) + change.numpy() - error.numpy())
    assert max(scores) - scores[-1] > 1e-4
    assert found == pytest.approx(max(scores), abs=1e-5)
    assert trainer.best_iteration == trainer.history.checks[int(np.argmax(scores))]["iteration"]


@pytest.mark.parametrize(
    ("scores", "steps"),
    [
        ([-4.0, -3.1], 40),  # 0.9 in 20 steps; 60 are left, and 3.1 are wanted
        ([-4.0, -2.9, -1.9, -0.5, -0.1], 100),
        ([-4.0, -2.0, -1.9, -1.8], 80),
        ([-1.0, -1.5], 40),
        ([1.0, 0.5, -0.1], 60),
        ([-4.0, 0.1, 0.0, 0.0, -0.1], 100),
        ([-4.0, -math.inf], 40),
    ],
    ids=str,
)
def test_a_candidate_that_stays_behind_ends_early(scores, steps, generator, monkeypatch):
    """By the line through its first and its latest distance to the candidate before it, here at 0."""
    x, even = torch.tensor(BENT.sample(50, seed=1)).float(), torch.full((50,), 0.02, dtype=torch.float64)
    trainers = []
    for values in (iter([0.0] * 5), iter(scores)):
        monkeypatch.setattr(Trainer, "_score", lambda _, values=values: next(values))
        network = MLP(width=4, time_width=4).build(2, generator)
        data, base = Data(x, even, 50, x, even), StandardNormal().fit(x, None)
        trainers.append(Trainer(network, base, Linear(), data, settings(n_quadratic=100), generator))
        trainers[-1].regress(*trainers[:-1])
    assert [trainer.iteration for trainer in trainers] == [100, steps]
    assert trainers[1].best_score == max(scores)


def test_of_two_preprocessors_the_hopeless_one_is_not_trained_to_the_end(monkeypatch):
    """Columns of two far clusters: without kernel marginals nothing is won soon."""
    trainers, regress = [], Trainer.regress
    monkeypatch.setattr(Trainer, "regress", lambda *a: trainers.append(a[0]) or regress(*a))
    rng = np.random.default_rng(0)
    X = np.sign(rng.normal(size=(400, 2))) + 0.01 * rng.normal(size=(400, 2))
    flow = quick(max_iter=60, polish=0).fit(X)
    assert flow.preprocessor_.density_
    assert trainers[0].iteration == 60
    assert trainers[1].iteration <= 30


@pytest.mark.parametrize(
    ("scores", "wait"),
    [
        ([-0.1, -0.3, -0.6], 3),  # more than half of five
        ([-0.1, -0.3, -0.2, -0.4, -0.7], 5),
        ([-0.1, -0.3, -0.45, -0.5, -0.5], 5),  # ever slower
        ([-0.0005, -0.1, -0.3, -0.6], 4),  # the first is no fall by tol
        ([0.3, 0.2, 0.0, -0.3], 4),  # from a new best
        ([-0.1, -3.0], 2),  # two nats behind the best
        ([-0.3, -0.4, -0.2, -0.1, -0.05, -0.02], 6 + 5),  # out of a dip
        ([-0.3, -0.2995, -0.299, -0.2985, -0.298], 5),  # by less than tol
        ([-0.3, -0.4, -0.35, -0.31, -0.3], 5),  # not out of it
    ],
    ids=str,
)
def test_what_the_learning_rate_of_the_polish_waits_for(scores, wait, generator, monkeypatch):
    rates = rates_of_a_polish(scores, generator, monkeypatch)
    assert min(rates[:wait]) > 0.9 * rates[0]  # the top of a cosine
    assert rates[wait] < 0.35 * rates[wait - 1]


def test_after_a_fall_of_the_learning_rate_a_climb_counts_anew(generator, monkeypatch):
    scores = [-0.1, -0.3, -0.6, *[-0.5, -0.4, -0.3, -0.2, -0.2, -0.2]]
    rates = rates_of_a_polish(scores, generator, monkeypatch)
    assert rates[3] < 0.35 * rates[2]
    assert min(rates[3:9]) > 0.9 * rates[3]
    assert rates[9] < 0.35 * rates[8]


def rates_of_a_polish(scores, generator, monkeypatch):
    """Learning rates at the checks of a polish that begins at a score of 0."""
    x, even = torch.tensor(BENT.sample(50, seed=1)).float(), torch.full((50,), 0.02, dtype=torch.float64)
    values = iter([0.0, *scores, *[-0.5] * 20])
    monkeypatch.setattr(Trainer, "_score", lambda _: next(values))
    network = MLP(width=4, time_width=4).build(2, generator)
    data, base = Data(x, even, 50, x, even), StandardNormal().fit(x, None)
    steps = settings(n_polish=4000, patience=5, polish_batch_size=4)  # checked every 50 steps
    trainer = Trainer(network, base, Linear(), data, steps, generator).regress().polish()
    return [check["learning_rate"] for check in trainer.history.checks[1:]]


def test_training_lowers_the_loss_to_its_floor(generator):
    """A short regression ends nearer to the floor E|d_t x_t|^2 - E|v|^2 than to where it started."""
    flow = quick(max_iter=300, polish=0, preprocessor="none", velocity=MLP(width=64)).fit(
        BENT.sample(2000, 1)
    )
    exact, kinetic, _ = regression("trigonometric", ExactVelocity("trigonometric", NORMAL, BENT)).mean(1)
    curve = np.array(flow.loss_curve_)
    assert curve.shape == (300,)
    start, end = curve[:10].mean(), curve[-60:].mean()
    assert start > float(exact) + 0.7 * float(kinetic)  # the field starts near zero
    assert end < float(exact) + 0.25 * float(kinetic)


# -- what a fit repeats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [{}, {"base": "student_t"}, {"preprocessor": "whiten", "interpolant": "linear"}, {"polish": 0}],
    ids=str,
)
def test_an_int_random_state_repeats_to_the_bit(parameters, moons):
    first, second = (quick(**parameters).fit(moons) for _ in range(2))
    assert first.loss_curve_ == second.loss_curve_
    assert first.polish_loss_curve_ == second.polish_loss_curve_
    assert first.validation_scores_ == second.validation_scores_
    for a, b in zip(first.velocity_.parameters(), second.velocity_.parameters(), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(first.score_samples(moons), second.score_samples(moons))
    np.testing.assert_array_equal(first.sample(9, random_state=3), second.sample(9, random_state=3))


def test_seeds_matter(moons):
    first, second = quick(random_state=0).fit(moons), quick(random_state=1).fit(moons)
    assert first.loss_curve_ != second.loss_curve_
    assert not np.array_equal(first.sample(3, random_state=0), first.sample(3, random_state=1))
    assert not np.array_equal(first.sample(3), first.sample(3))


def test_whole_weights_are_repeated_rows_to_the_bit(moons):
    counts = 1 + np.arange(300) % 3
    weighted = quick().fit(moons, sample_weight=counts)
    repeated = quick().fit(np.repeat(moons, counts, axis=0))
    scaled = quick().fit(moons, sample_weight=counts * 4.0)
    np.testing.assert_array_equal(weighted.score_samples(moons), repeated.score_samples(moons))
    assert weighted.loss_curve_ == repeated.loss_curve_
    assert scaled.loss_curve_ != quick().fit(moons).loss_curve_


def test_a_weight_of_zero_is_an_absent_row(moons):
    weight = np.ones(300)
    weight[::3] = 0.0
    np.testing.assert_array_equal(
        quick().fit(moons, sample_weight=weight).score_samples(moons),
        quick().fit(moons[weight > 0]).score_samples(moons),
    )


# -- what a fit keeps -----------------------------------------------------------------------------------


def test_the_best_validation_is_the_model(moons):
    flow = quick(max_iter=40, polish=20).fit(moons)
    assert flow.best_validation_score_ == max(flow.validation_scores_)
    history = flow.history_
    assert history["score"].tolist() == flow.validation_scores_
    best = history.loc[history["score"].idxmax()]
    assert best["iteration"] == flow.best_iteration_
    assert set(history["stage"]) == {"quadratic", "polish"}
    quadratic = history[history["stage"] == "quadratic"]
    assert flow.quadratic_validation_score_ == quadratic["score"].max()
    assert history["iteration"].is_monotonic_increasing
    assert flow.n_iter_ == len(flow.loss_curve_) + len(flow.polish_loss_curve_)


def test_without_validation_there_is_no_polish(moons):
    flow = quick(early_stopping=False).fit(moons)
    assert flow.polish_loss_curve_ == []
    assert flow.validation_scores_ == []
    assert flow.best_validation_score_ is None
    assert flow.early_stopping_ is False
    assert flow.n_iter_ == 20


def test_a_base_without_gradient_is_not_polished(moons):
    flow = quick(base=GaussianMixture(2)).fit(moons)
    assert flow.polish_loss_curve_ == []
    assert len(flow.validation_scores_) > 0


class Interrupting(Linear):
    """Raises KeyboardInterrupt in step ``at``."""

    def __init__(self, at=1):
        self.at = at

    def velocity(self, t, x0, x1):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().velocity(t, x0, x1)


def test_an_interrupt_keeps_the_best_so_far(moons):
    message = r"^Training interrupted after 14 iterations; the best weights so far are kept\.$"
    with pytest.warns(TrainingWarning, match=message):
        flow = quick(interpolant=Interrupting(at=15), preprocessor="whiten").fit(moons)
    assert len(flow.loss_curve_) == 14
    assert flow.polish_loss_curve_ == []
    assert np.isfinite(flow.score(moons))


def test_an_interrupt_before_the_first_validation_is_an_interrupt(moons):
    flow = quick(interpolant=Interrupting(at=1))
    with pytest.raises(KeyboardInterrupt):
        flow.fit(moons)
    assert not hasattr(flow, "velocity_")


def test_polish_raises_the_validation_score():
    """On a mixture, from a short regression, with another base."""
    rows = BENT.sample(600, seed=3)
    flow = quick(max_iter=40, polish=60, preprocessor="none", base="student_t").fit(rows)
    assert flow.best_validation_score_ > flow.quadratic_validation_score_ + 0.02


def test_a_gaussian_base_is_fitted_to_the_latent_rows():
    rows = OFFSET.sample(400, seed=1)
    flow = quick(base="gaussian", preprocessor="none", early_stopping=False).fit(rows)
    np.testing.assert_allclose(flow.base_.mean_.numpy(), rows.mean(axis=0), rtol=0, atol=1e-6)
    covariance = (flow.base_.cholesky_ @ flow.base_.cholesky_.T).numpy()
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 12.0, 60.0])
def test_a_stiff_field_is_polished_with_more_steps_and_less_penalty(generator, rate):
    """dx/dt = rate x: two classical steps follow the slow one, more a faster one, none the fastest."""

    class Growth(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(rate))

        def forward(self, t, x):
            return self.rate * x

        def value_and_divergence(self, t, x):
            return self.rate * x, (self.rate * x.shape[1]).expand(len(x))

    x = torch.randn(100, 2, generator=generator)
    even = torch.full((100,), 0.01, dtype=torch.float64)
    data = Data(x, even, 100, x, even)
    trainer = Trainer(Growth(), StandardNormal(), Linear(), data, settings(), generator)
    n_steps, penalty = trainer._steps_and_penalty()
    assert (n_steps == 2, n_steps == 8) == (rate == 0.5, rate == 60.0)
    assert (penalty == 100.0) == (rate < 60.0)
    assert penalty > 0
    trainer.network.polishing = (3, 7.0)  # a network may ask for more steps and another penalty
    assert trainer._steps_and_penalty() == (max(3, n_steps), pytest.approx(0.07 * penalty))


def test_products_are_rounded_for_a_moment_only():
    before = torch.get_float32_matmul_precision()
    with rounded_products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
