"""The steps that led a network to its best weights, and others that follow them."""

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from siflow_sk import InterpolantFlow
from siflow_sk._objective import guarded_log_density
from siflow_sk._training import Trainer
from siflow_sk._training._data import Data, Settings, Stretch
from siflow_sk.bases import StandardNormal
from siflow_sk.interpolants import Linear
from siflow_sk.velocities import MLP

SETTINGS = {
    "batch_size": 16,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "ema_decay": 0.9,
    "tol": 1e-3,
    "patience": 2,
    "polish_batch_size": 4,
}


def trainer_on(x, valid, **settings):
    """A trainer whose first weights and random numbers are always the same."""
    generator = torch.Generator().manual_seed(3)
    network = MLP(width=4, time_width=4).build(2, generator)
    even = torch.full((len(x),), 1.0 / len(x), dtype=torch.float64)
    data = Data(x, even, len(x), *((x, even) if valid else ()))
    base = StandardNormal().fit(x, None)
    return Trainer(network, base, Linear(), data, Settings(**{**SETTINGS, **settings}), generator)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, 2, generator=generator).exp()


def with_scores(monkeypatch, scores):
    values = iter(scores)
    monkeypatch.setattr(Trainer, "_score", lambda self: next(values) if self.validation.n_rows else -math.inf)


def rates_of(monkeypatch):
    """Learning rates, step by step, of each trainer."""
    seen, step = {}, Trainer._step

    def noted(self, update, rate, *inputs):
        seen.setdefault(self, []).append(rate)
        return step(self, update, rate, *inputs)

    monkeypatch.setattr(Trainer, "_step", noted)
    return seen


@pytest.mark.parametrize("best", [4, 2])
def test_a_follower_with_the_same_rows_and_numbers_ends_in_the_same_weights(best, x, monkeypatch):
    """To the bit: two stages, of which the second found its best weights on the way."""
    scores = [*range(5), *range(5, 5 + best), *[-1.0] * 10]
    with_scores(monkeypatch, scores)
    leader = trainer_on(x, valid=True, n_quadratic=25, n_polish=200, checks=4).regress().polish()
    follower = trainer_on(x, valid=False, n_quadratic=25, n_polish=200).follow(leader.course)
    assert [(s.stage, s.first, s.last) for s in leader.course] == [
        ("quadratic", 0, 25),
        ("polish", 0, 50 * best),
    ]
    assert follower.iteration == leader.best_iteration == 25 + 50 * best
    for name, value in leader.network.state_dict().items():
        assert torch.equal(value, follower.network.state_dict()[name]), name


def test_the_course_leaves_out_what_was_given_up(x, monkeypatch):
    """Steps 100 to 200 of the polish are given up, then 250 to 300, and the end."""
    quadratic, polish = [0.0, 1.0, 0.5, 0.2, 0.1], [2.0, 3.0, 2.5, 2.4, 4.0, 3.9, 5.0, 4.9, 4.8, 4.7]
    with_scores(monkeypatch, [*quadratic, *polish])
    seen = rates_of(monkeypatch)
    leader = trainer_on(x, valid=True, n_quadratic=25, n_polish=500, checks=5).regress().polish()
    course = [(s.stage, s.first, s.last, round(s.factor, 6)) for s in leader.course]
    polished = [("polish", 0, 100, 1.0), ("polish", 200, 250, 0.3), ("polish", 300, 350, 0.09)]
    assert course == [("quadratic", 0, 10, 1.0), *polished]
    assert {s.n_steps for s in leader.course[1:]} == {leader.standing.n_steps}
    assert {s.penalty for s in leader.course[1:]} == {leader.standing.penalty}
    follower = trainer_on(x, valid=False, n_quadratic=25, n_polish=500).follow(leader.course)
    led = seen[leader]
    assert_allclose(seen[follower], [*led[:10], *led[25:125], *led[225:275], *led[325:375]])
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(*map(_weights, (leader, follower)), strict=True))


def _weights(trainer):
    return list(trainer.network.parameters())


def test_a_follower_forgets_momentum_and_averages_where_its_leader_did(x):
    course = [Stretch("quadratic", 0, 7, 1.0, 2, 0.0), Stretch("polish", 3, 9, 0.3, 3, 10.0)]
    two = trainer_on(x, valid=False, n_quadratic=20, n_polish=30).follow(course)
    parts = trainer_on(x, valid=False, n_quadratic=20, n_polish=30)
    for stretch in course:
        parts.standing.stage = "start"
        parts.follow([stretch])
    for a, b in zip(_weights(two), _weights(parts), strict=True):
        assert torch.equal(a, b)
    whole = trainer_on(x, valid=False, n_quadratic=20, n_polish=30).follow(
        [Stretch("quadratic", 0, 7, 1.0, 2, 0.0)]
    )
    average = dict(whole.average.named_parameters())
    for name, weight in whole.network.named_parameters():
        assert torch.equal(weight, average[name])


def test_a_score_that_is_not_finite_costs_no_better_weights(x, monkeypatch):
    with_scores(monkeypatch, [0.0, 1.0, -math.inf, -math.inf, -math.inf])
    trainer = trainer_on(x, valid=True, n_quadratic=25, n_polish=0, checks=5).regress()
    assert (trainer.best_score, trainer.best_iteration, trainer.course[0].last) == (1.0, 10, 10)


def test_rows_are_compared_by_the_best_weights(x, monkeypatch):
    with_scores(monkeypatch, [0.0, 1.0, 0.5, 0.4, 0.3])
    trainer = trainer_on(x, valid=True, n_quadratic=25, n_polish=0, checks=5).regress()
    best = guarded_log_density(trainer.network, trainer.base, x).double()
    latest = guarded_log_density(trainer.average, trainer.base, x).double()
    assert (best - latest).abs().max() > 1e-3
    assert_allclose(trainer.regressed_log_density(), best.detach(), rtol=1e-6)


def test_followers_learn_from_every_row_and_are_not_scored(monkeypatch):
    rows = np.random.default_rng(0).gamma(2.0, size=(150, 2))
    followers, follow = [], Trainer.follow
    monkeypatch.setattr(Trainer, "follow", lambda *args: followers.append(args) or follow(*args))
    recipe = MLP(width=8, time_width=8)
    flow = InterpolantFlow(
        velocity=recipe, n_networks=3, max_iter=20, polish=20, preprocessor="whiten", random_state=0
    ).fit(np.repeat(rows, 2, axis=0))
    assert len(followers) == 2
    everything = flow.preprocessor_.forward(torch.tensor(rows))[0].float()
    for follower, course in followers:
        assert follower.data.x_valid is None
        assert follower.data.n_draws == 300
        found = follower.data.x[follower.data.x[:, 0].argsort()]
        torch.testing.assert_close(found, everything[everything[:, 0].argsort()])
        assert follower.iteration == sum(s.last - s.first for s in course) == flow.best_iteration_
    for one, other in itertools.combinations([f.network for f, _ in followers], 2):
        assert (one.blocks[0].w2 - other.blocks[0].w2).abs().max() > 0.1
