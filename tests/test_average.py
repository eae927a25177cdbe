"""Several networks, one velocity: the mean of theirs."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from oracles import trace_of_jacobian
from sklearn.datasets import load_breast_cancer
from torch import nn

import siflow_sk
from siflow_sk import InterpolantFlow
from siflow_sk._training import Trainer, make_settings
from siflow_sk._training._data import Stretch
from siflow_sk.bases import LearntGaussian
from siflow_sk.exceptions import DataWarning, TrainingWarning
from siflow_sk.velocities import MLP, Average, ResidualMLP, in_single, velocity_and_divergence


def quick(**parameters):
    settings = {"velocity": MLP(width=8, time_width=8), "max_iter": 15, "polish": 15, "random_state": 0}
    return InterpolantFlow(**{**settings, "n_networks": 3, **parameters})


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((200, 3)) * [1.0, 2.0, 0.5] + [0.0, 5.0, 0.0]


class Stranger(nn.Module):
    """Neither a closed-form divergence nor a way to hold its weights."""

    def __init__(self, d, generator):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(d, d, generator=generator, dtype=torch.float64))

    def forward(self, t, x):
        return torch.sin(x @ self.matrix.to(x)) * (1.0 + t)


def networks(kind, n=3, d=4):
    generator = torch.Generator().manual_seed(5)
    if kind == "stranger":
        return [Stranger(d, generator) for _ in range(n)]
    if kind == "of several kinds":
        return [networks(k, 1, d)[0] for k in ("mlp", "stranger", "residual")]
    recipe = {"mlp": MLP(width=11, n_blocks=2, time_width=5), "residual": ResidualMLP(width=11, time_width=5)}
    made = [recipe[kind].build(d, generator).double() for _ in range(n)]
    for p in itertools.chain.from_iterable(network.parameters() for network in made):
        nn.init.normal_(p, 0.0, 0.4, generator=generator)
    return made


@pytest.mark.parametrize("kind", ["mlp", "residual", "stranger", "of several kinds"])
@pytest.mark.parametrize("held", ["as it is", "held", "held for these times"])
def test_value_and_divergence_are_those_of_the_mean(kind, held):
    parts = networks(kind)
    average, t = Average(parts), torch.tensor(0.3, dtype=torch.float64)
    at_work = {
        "as it is": average,
        "held": average.hold_weights(),
        "held for these times": average.hold_weights().at_times([t, t + 0.5]),
    }[held]
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = torch.stack([network(t, x) for network in parts]).mean(0)
    torch.testing.assert_close(at_work(t, x), wanted)
    value, divergence = velocity_and_divergence(at_work, t, x)
    torch.testing.assert_close(value, wanted)
    trace = trace_of_jacobian(lambda t, x: torch.stack([v(t, x) for v in parts]).mean(0), t, x)
    torch.testing.assert_close(divergence, trace)


def test_in_single_precision_it_is_the_mean_of_networks_in_single_precision():
    parts, t = networks("mlp"), torch.tensor(0.3, dtype=torch.float64)
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = in_single(Average(parts)).at_times([t])
    value, divergence = single.value_and_divergence(t, x)
    assert value.dtype == divergence.dtype == torch.float32
    assert all(p.dtype == torch.float64 for network in parts for p in network.state_dict().values())
    for found, exact in zip((value, divergence), Average(parts).value_and_divergence(t, x), strict=True):
        assert 0 < (found - exact).abs().max() < 1e-5 * (1.0 + exact.abs().max())


@pytest.mark.parametrize("held", [False, True])
def test_at_a_context_it_is_the_mean_of_networks_at_that_context(held):
    generator = torch.Generator().manual_seed(2)
    parts = [MLP(width=8, time_width=8).build(3, generator, n_context=2).double() for _ in range(3)]
    t, both = torch.tensor(0.3).double(), torch.randn(6, 5, generator=generator).double()
    x, c = both[:, :3], both[:, 3:]
    average = Average(parts).hold_weights() if held else Average(parts)
    wanted = torch.stack([network.given(c)(t, x) for network in parts]).mean(0)
    torch.testing.assert_close(average.given(c)(t, x), wanted)
    torch.testing.assert_close(average.given(c).value_and_divergence(t, x)[0], wanted)


def test_probes_estimate_the_divergence_of_the_mean():
    generator = torch.Generator().manual_seed(2)
    recipe = ResidualMLP(width=8, depth=1, divergence="hutchinson", n_probes=5)
    average = Average([recipe.build(3, generator).double() for _ in range(3)])
    t, x = torch.tensor(0.3).double(), torch.randn(6, 3, generator=generator).double()
    value, products = average.value_and_probes(t, x)
    assert products.shape == (6, 5)
    torch.testing.assert_close((value, products.mean(1)), average.value_and_divergence(t, x))


def test_a_strangers_network_is_not_rounded_among_ours_either():
    assert in_single(Average(networks("mlp", 2) + networks("stranger", 1))) is None


def test_the_first_of_several_networks_is_the_one_of_a_fit_of_one(rows):
    several, one = (quick(preprocessor="whiten", n_networks=n).fit(rows) for n in (3, 1))
    assert (several.n_networks_, one.n_networks_) == (3, 1)
    first, *others = several.velocity_.networks
    assert not isinstance(one.velocity_, Average)
    for (name, a), b in zip(one.velocity_.named_parameters(), first.parameters(), strict=True):
        assert torch.equal(a, b), name
    for a, b in itertools.pairwise([first, *others]):
        assert (a.blocks[0].w2 - b.blocks[0].w2).abs().max() > 0.1
    assert several.loss_curve_ == one.loss_curve_
    assert several.n_iter_ == one.n_iter_


@pytest.mark.parametrize("parameters", [{}, {"early_stopping": False}, {"velocity": "residual"}])
def test_each_network_was_trained(rows, parameters):
    """Its loss on the rows is far below that of the field zero, the quadratic stage's start."""
    if "velocity" in parameters:
        parameters = {"velocity": ResidualMLP(width=16, depth=1)}
    flow = quick(**{"max_iter": 150, "polish": 0, "preprocessor": "none", **parameters}).fit(rows)
    generator = torch.Generator().manual_seed(0)
    x1 = torch.as_tensor(rows)
    x0 = torch.randn(x1.shape, generator=generator, dtype=torch.float64)
    t = torch.rand((len(rows), 1), generator=generator, dtype=torch.float64)
    path = flow.interpolant_
    x, wanted = path.point(t, x0, x1), path.velocity(t, x0, x1)
    for network in flow.velocity_.networks:
        with torch.no_grad():
            assert ((network(t, x) - wanted) ** 2).sum() < 0.6 * (wanted**2).sum()


def test_the_density_integrates_to_one():
    X = np.random.default_rng(1).gamma(2.0, size=(200, 1))
    flow = quick(max_iter=60, polish=30).fit(X)
    at = np.linspace(-10.0, 40.0, 4001)
    assert abs(np.trapezoid(np.exp(flow.score_samples(at[:, None])), at) - 1.0) < 2e-4


@pytest.mark.parametrize(
    ("n", "d", "n_networks", "width"),
    [
        (8000, 20, 4, 128),
        (8001, 20, 1, 256),
        (400, 21, 4, 128),
        (401, 21, 1, 256),
        (1001, 21, 2, 128),
        (8000, 21, 2, 128),
        (8001, 21, 1, 256),
    ],
)
def test_auto_is_by_the_numbers_of_distinct_rows_and_columns(n, d, n_networks, width):
    X = np.random.default_rng(0).standard_normal((n, d))
    flow = InterpolantFlow(max_iter=2, polish=0, random_state=0).fit(np.repeat(X, 2, axis=0))
    assert flow.n_networks_ == n_networks
    assert isinstance(flow.velocity_, Average) == (n_networks > 1)
    matrices = {p.shape for name, p in flow.velocity_.named_parameters() if name.endswith("w2")}
    assert matrices == {(width, width)}


@pytest.mark.parametrize(
    ("n", "n_networks", "device", "steps", "of_all"),
    [
        (2000, "auto", "cpu", 5000, 0),
        (2001, "auto", "cpu", 2200, 4400),
        (2001, 4, "cpu", 5000, 0),
        (2001, "auto", "cuda", 5000, 10_000),
    ],
)
def test_several_networks_of_more_rows_share_the_steps_of_a_minute(n, n_networks, device, steps, of_all):
    flow = InterpolantFlow(n_networks=n_networks)
    settings, _ = make_settings(flow, n, 5, n, MLP(width=128), torch.device(device), n_networks=4)
    assert (settings.n_polish, settings.polish_of_all) == (steps, of_all)
    settings, _ = make_settings(flow, n, 5, n, MLP(), torch.device(device), n_networks=1)
    assert settings.n_polish != 2200
    assert settings.polish_of_all == 0


@pytest.mark.parametrize(
    ("n", "polished", "n_networks"),
    [(2001, 6, 2), (2001, 4, 2), (2001, 3, 3), (2001, 2, 4), (2001, 0, 4), (2000, 6, 4)],
)
def test_as_many_networks_follow_as_their_steps_allow(n, polished, n_networks, monkeypatch):
    course = [Stretch("quadratic", 0, 2, 1.0, 2, 0.0)]
    if polished:
        parts = (0, polished - 1), (5, 6)  # the learning rate fell between
        course += [Stretch("polish", first, last, 1.0, 2, 1.0) for first, last in parts]

    def polish(trainer):
        trainer.course, trainer.history.polish_loss = course, [0.0] * 6
        return trainer

    monkeypatch.setattr(Trainer, "polish", polish)
    X = np.random.default_rng(0).standard_normal((n, 2))
    flow = InterpolantFlow(max_iter=2, polish=6, random_state=0, solver="rk4").fit(X)
    assert flow.n_networks_ == n_networks


@pytest.mark.parametrize(
    "parameters",
    [
        {"velocity": MLP(width=8)},
        {"velocity": "residual"},
        {"velocity": "mlp", "interpolant": "fourier"},
        {"velocity": "mlp", "base": "learnt_gaussian"},
    ],
    ids=str,
)
def test_auto_is_one_where_a_network_or_a_learnt_part_is_asked_for(rows, parameters):
    assert quick(n_networks="auto", max_iter=2, polish=0, **parameters).fit(rows[:60]).n_networks_ == 1


def test_several_networks_cannot_share_what_each_would_learn(rows):
    with pytest.raises(ValueError, match=r"n_networks=3: base=LearntGaussian\(\) is learnt.* n_networks=1"):
        quick(base=LearntGaussian()).fit(rows)
    with pytest.raises(ValueError, match=r"n_networks=3: interpolant=Fourier.*pass n_networks=1"):
        quick(interpolant="fourier").fit(rows)


def test_the_average_goes_on_as_one_network(rows):
    flow = quick(warm_start=True).fit(rows)
    before = flow.score(rows)
    again = flow.set_params(max_iter=60).fit(rows)
    assert again.n_networks_ == len(again.velocity_.networks) == 3
    assert not any(isinstance(network, Average) for network in again.velocity_.networks)
    assert again.score(rows) > before
    assert quick(n_networks=3).partial_fit(rows).n_networks_ == 1


def test_it_is_the_same_after_save_and_load(rows, tmp_path):
    flow = quick(n_networks="auto", velocity="mlp", max_iter=5, polish=5).fit(rows)
    flow.save(tmp_path / "flow")
    loaded = siflow_sk.load(tmp_path / "flow")
    assert loaded.n_networks_ == 4
    np.testing.assert_array_equal(loaded.score_samples(rows), flow.score_samples(rows))


def test_periodic_columns_are_averaged_too(rows):
    flow = quick(periodic={0: 1.0}, n_networks=2).fit(rows)
    assert flow.n_networks_ == 2
    turned = rows + np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(flow.score_samples(turned), flow.score_samples(rows), rtol=0, atol=1e-6)


def test_estimated_divergences_come_with_their_standard_error(rows):
    flow = quick(velocity=ResidualMLP(width=8, depth=1, divergence="hutchinson", n_probes=4)).fit(rows)
    exact = quick(velocity=ResidualMLP(width=8, depth=1), n_networks=1)
    value, error = flow.score_samples(rows, return_error=True)
    assert np.isfinite(value).all()
    assert np.median(error) > 100 * np.median(exact.fit(rows).score_samples(rows, return_error=True)[1])


class _Interrupted:
    """Ctrl-C in step ``at`` of trainer number ``which``."""

    def __init__(self, monkeypatch, which, at):
        self.seen, step = [], Trainer._step

        def interrupted(trainer, *args):
            self.seen += [] if trainer in self.seen else [trainer]
            if trainer is self.seen[-1] and (len(self.seen), trainer.iteration + 1) == (which, at):
                raise KeyboardInterrupt
            return step(trainer, *args)

        monkeypatch.setattr(Trainer, "_step", interrupted)


@pytest.mark.parametrize("at", [1, 5, 20])  # before its first step, on the quadratic loss, in the polish
@pytest.mark.parametrize("which", [2, 3])
def test_of_half_a_training_nothing_is_taken(rows, monkeypatch, which, at):
    rows = np.exp(0.5 * rows)  # the best weights are the last
    wanted = quick(n_networks=which - 1, preprocessor="whiten").fit(rows).score_samples(rows)
    _Interrupted(monkeypatch, which, at)
    with pytest.warns(TrainingWarning, match=r"interrupted after \d+ iterations; the best weights so far"):
        flow = quick(preprocessor="whiten").fit(rows)
    assert flow.n_networks_ == which - 1
    np.testing.assert_array_equal(flow.score_samples(rows), wanted)


def test_an_interrupt_of_the_first_network_is_the_end(rows, monkeypatch):
    _Interrupted(monkeypatch, 1, 10)
    with pytest.warns(TrainingWarning, match="interrupted after 9 iterations"):
        flow = quick(preprocessor="whiten").fit(rows)
    assert flow.n_networks_ == 1


def test_the_mean_of_networks_is_better_than_they_are_on_average():
    """Of few rows each network learns something else by heart."""
    X = load_breast_cancer().data[:, :10]
    X = X[np.random.default_rng(0).permutation(len(X))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        flow = InterpolantFlow(velocity=MLP(width=64), n_networks=3, polish=400, random_state=0).fit(X[:250])
    together = flow.score(X[250:])
    alone = []
    for network in flow.velocity_.networks:
        flow.velocity_ = network
        alone.append(flow.score(X[250:]))
    assert together > np.mean(alone) + 0.05
