"""InterpolantSearchCV beside GridSearchCV, and networks stacked along a leading axis beside each alone."""

import threading
import warnings

import numpy as np
import pytest
import torch
from oracles import PlainVelocity
from sklearn.datasets import make_moons
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import siflow_sk
from siflow_sk import ConditionalInterpolantFlow, InterpolantFlow, InterpolantSearchCV
from siflow_sk._likelihood import FlowWithDivergence
from siflow_sk._objective import guarded_log_density, likelihood_loss, quadratic_loss
from siflow_sk._training import Meeting, Trainer, _meeting, _stack, _together
from siflow_sk._training._optimiser import orthogonalised
from siflow_sk._training._solutions import Solution
from siflow_sk._training._stack import Stack
from siflow_sk.bases import StudentT
from siflow_sk.interpolants import Linear
from siflow_sk.preprocessing import Gaussianize, Whiten
from siflow_sk.solvers import Grid, along
from siflow_sk.velocities import MLP, ConditionalMLP, given, in_single


@pytest.fixture(scope="module")
def X():
    return make_moons(120, noise=0.1, random_state=0)[0]


@pytest.fixture
def together(monkeypatch):
    """How many fits took part in each step that was done together."""
    sizes, step = [], Stack.step

    def counted(stack, group):
        sizes.append(len(group))
        return step(stack, group)

    monkeypatch.setattr(Stack, "step", counted)
    return sizes


def quick(**parameters):
    settings = {"velocity": MLP(width=8), "preprocessor": "whiten", "solver": "rk4", "random_state": 0}
    settings |= {"max_iter": 8, "polish": 6, "early_stopping": True}
    return InterpolantFlow(**{**settings, **parameters})


def both(estimator, grid, X, y=None, **parameters):
    """The two searches, fitted."""
    searches = (cls(estimator, grid, cv=2, **parameters) for cls in (InterpolantSearchCV, GridSearchCV))
    return [search.fit(X, y) for search in searches]


def agree(ours, theirs, atol=1e-5):
    """Equal results, times aside: the same random numbers, another rounding."""
    ours, theirs = ours.cv_results_, theirs.cv_results_
    assert list(ours) == list(theirs)
    assert ours["params"] == theirs["params"]
    for name in ours:
        if "score" in name and "time" not in name and "rank" not in name:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=atol)


# -- the search --------------------------------------------------------------------------------------------


def test_candidates_and_folds_are_trained_together_and_give_what_they_give_alone(X, together):
    grid = {"weight_decay": [0.1, 2.0], "learning_rate_init": [1e-3, 1e-2], "ema_decay": [0.9]}
    ours, theirs = both(quick(), grid, X, return_train_score=True)
    assert max(together) == 8
    agree(ours, theirs)
    assert len(np.unique(ours.cv_results_["mean_test_score"])) == 4
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_array_equal(
        ours.best_estimator_.score_samples(X), theirs.best_estimator_.score_samples(X)
    )


def test_a_preprocessor_is_fitted_once_to_equal_rows(X, monkeypatch):
    rows, fit = [], Gaussianize.fit

    def counted(part, x, weight):
        rows.append(x)
        return fit(part, x, weight)

    monkeypatch.setattr(Gaussianize, "fit", counted)
    flow, weight = quick(preprocessor="gaussianize"), np.arange(len(X)) % 3 + 1.0
    grid = {"weight_decay": [0.1, 1.0], "preprocessor__density": [True, False]}
    search = InterpolantSearchCV(flow, grid, cv=2, refit=False).fit(X, sample_weight=weight)
    assert len(rows) == 2 * 2  # folds and preprocessors
    assert len({x.numpy().tobytes() for x in rows}) == 2
    agree(search, GridSearchCV(flow, grid, cv=2, refit=False).fit(X, sample_weight=weight))


def test_what_is_shared_is_a_copy_and_of_the_same_weights(X):
    x, weight = torch.tensor(X), torch.ones(len(X), dtype=torch.float64)
    other = weight + torch.arange(len(X)) % 2
    with Meeting() as meeting, meeting.attend():
        one, two, heavy = (
            _meeting.fitted(Whiten(), x, w / w.sum()).forward(x)[0] for w in (weight, weight, other)
        )
        assert _meeting.fitted(Whiten(), x, weight) is not _meeting.fitted(Whiten(), x, weight)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert (one - heavy).abs().max() > 1e-3


def test_fits_of_different_lengths_paths_and_bases_share_what_they_can(X, together):
    grid = [
        {"max_iter": [3, 9], "polish": [0, 5]},
        {"interpolant": ["linear", "fourier"], "base": ["student_t"]},
        {"velocity__n_blocks": [2], "velocity__activation": ["silu"], "batch_size": [16]},
    ]
    agree(*both(quick(), grid, X, refit=False))
    assert {2, 8} <= set(together)


def test_fits_of_several_networks_each_train_together_too(X, together, monkeypatch):
    courses, follow = [], Trainer.follow
    monkeypatch.setattr(Trainer, "follow", lambda self, c: courses.append(c) or follow(self, c))
    flow = quick(n_networks=2, preprocessor="whiten", learning_rate_init=0.05)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, np.exp(X), refit=False))
    steps = [sum(stretch.last - stretch.first for stretch in course) for course in courses]
    assert len(steps) == 4 + 4  # each fit of either search
    assert sum(together) == 4 * (8 + 6) + sum(steps) // 2
    assert together.count(4) > 8 + 6  # steps of the second networks as well


def test_a_learning_rate_that_falls_begins_anew(X, together, monkeypatch):
    seats, take = [], _together.seat
    monkeypatch.setattr(_together, "seat", lambda *args: seats.append(args) or take(*args))
    # no check counts as an improvement
    flow = quick(n_iter_no_change=1, tol=1e3, polish=60)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, X, refit=False), atol=1e-4)
    assert max(together) == 4
    assert len(seats) > 2 * (4 + 4)  # both searches, both stages


def test_fits_whose_step_error_is_penalised_differently_share_their_steps(X, together, monkeypatch):
    def penalty(trainer):
        return 2, 1.0 + 100.0 * float(trainer.data.x_valid[0, 0].abs())

    monkeypatch.setattr(Trainer, "_steps_and_penalty", penalty)
    flow = quick(max_iter=1, polish=6, learning_rate_init=0.05)
    agree(*both(flow, {"random_state": [0, 1]}, X, refit=False))
    # apart, only the quadratic step is one of four
    assert together.count(4) == 1 + 6


def test_a_stack_outlives_those_who_leave_it(X, monkeypatch):
    """On CUDA, whose rule is tried here, a stack made anew costs as much as hundreds of steps."""
    made, init = [], Stack.__init__

    def counted(stack, *args):
        init(stack, *args)
        made.append(len(stack.seats))

    monkeypatch.setattr(Stack, "__init__", counted)
    # two preprocessors, lengths of all kinds, and learning rates that fall
    flow = quick(preprocessor="gaussianize", weight_decay=1.0)
    grid = {"max_iter": [10, 30], "polish": [10, 40], "n_iter_no_change": [1, 3]}
    scoring = {"score": InterpolantFlow.score, "score of the loss": _last_loss}
    searches, n_stacks = [], []
    for slots in ({}, {"cpu": _stack.SLOTS["cuda"]}):
        monkeypatch.setattr(_stack, "SLOTS", slots)
        searches.append(InterpolantSearchCV(flow, grid, scoring=scoring, cv=2, refit=False).fit(X))
        n_stacks.append(len(made))
        made.clear()
    agree(*searches)
    assert n_stacks[1] <= n_stacks[0] / 3


def _last_loss(flow, X, y=None):
    return flow.polish_loss_curve_[-1]


@pytest.fixture
def solutions(monkeypatch):
    """How many fits took part in each solution that was done together."""
    sizes, serve = [], Solution.serve

    def counted(group, *args):
        sizes.append(len(group))
        return serve(group, *args)

    monkeypatch.setattr(Solution, "serve", staticmethod(counted))
    return sizes


@pytest.mark.parametrize("inference_dtype", ["auto", "float64"])
def test_time_grids_are_chosen_together_and_are_what_each_would_choose(X, solutions, inference_dtype):
    tols = {"solver__tol": [1e-2, 1e-7]}
    flow = quick(solver=Grid(), inference_dtype=inference_dtype, max_iter=30, learning_rate_init=0.02)
    ours, theirs = both(flow, tols, X, scoring=_grid_and_score, refit=False)
    agree(ours, theirs, atol=2e-5)
    steps = theirs.cv_results_["mean_test_n_steps"]
    assert steps[1] > 3 * steps[0]
    assert max(solutions) == 4
    assert len(solutions) < sum(solutions) / 2


def test_conditional_flows_choose_their_grids_together(X, solutions):
    velocity = ConditionalMLP(width=8, context_width=8)
    flow = ConditionalInterpolantFlow(velocity=velocity, max_iter=20, polish=4, random_state=0)
    flow.set_params(early_stopping=True)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, X[:, :1], X[:, 1], scoring=_grid_and_score, refit=False))
    assert max(solutions) == 4


def test_means_of_networks_choose_their_grids_together(X, solutions):
    flow = quick(solver="grid", n_networks=2)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, X, scoring=_grid_and_score, refit=False))
    assert max(solutions) == 4


def test_folds_of_other_sizes_choose_their_grids_side_by_side(X, solutions):
    searches = both(
        quick(solver="grid"), {"weight_decay": [0.1, 1.0]}, X[:-1], scoring=_grid_and_score, refit=False
    )
    agree(*searches)
    assert max(solutions) == 2


class Bare(PlainVelocity):
    def value_and_divergence(self, t, x):
        return self.exact.value_and_divergence(t, x)


class Unstacked(MLP):
    def build(self, n_features, generator, n_context=None):
        return Bare(super().build(n_features, generator, n_context))


@pytest.mark.parametrize("n_networks", [1, 2])
def test_networks_that_cannot_be_stacked_choose_their_grids_alone(X, solutions, n_networks):
    flow = quick(solver="grid", velocity=Unstacked(width=8), n_networks=n_networks)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, X, scoring=_grid_and_score, refit=False))
    assert not solutions


def _grid_and_score(flow, X, y=None):
    score = flow.score(X) if y is None else flow.score(X, y)
    solver = flow.solver_
    return {"score": score, "n_steps": solver.n_steps_, "single": solver.single_, "safety": solver.safety_}


def test_conditional_flows_and_pipelines(X, together):
    flow = ConditionalInterpolantFlow(
        velocity=ConditionalMLP(width=8, context_width=8), max_iter=6, polish=4, random_state=0
    ).set_params(solver="rk4", early_stopping=True)
    agree(*both(flow, {"weight_decay": [0.1, 1.0]}, X[:, :1], X[:, 1], refit=False))
    assert max(together) == 4
    together.clear()
    agree(*both(make_pipeline(StandardScaler(), quick()), {"interpolantflow__weight_decay": [0.1, 1.0]}, X))
    assert max(together) == 4


def test_in_processes(X):
    agree(*both(quick(), {"weight_decay": [0.1, 1.0]}, X, n_jobs=2, pre_dispatch=3, refit=False))


def test_wide_networks_are_left_to_grid_search(X, together):
    ours, theirs = both(quick(max_iter=2, polish=2), {"velocity__width": [8, 129]}, X, refit=False)
    agree(ours, theirs, atol=0)
    assert not together


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_candidate_that_cannot_be_fitted_costs_only_itself(X, together):
    grid = {"learning_rate_init": [3e-3, -1.0]}
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search = InterpolantSearchCV(quick(), grid, cv=2, refit=False).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1])
    assert max(together) == 2
    with pytest.raises(ValueError, match="learning_rate_init"):
        InterpolantSearchCV(quick(), grid, cv=2, error_score="raise").fit(X)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
@pytest.mark.parametrize("grid", [{"velocity__width": [8, "x"]}, {"device": ["cpu", "gpu7"]}])
def test_a_part_that_is_none_costs_only_its_candidate(X, grid):
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search = InterpolantSearchCV(quick(), grid, cv=2, refit=False).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).tolist() == [True, False]


def test_an_error_in_a_common_step_reaches_those_who_asked(X, monkeypatch):
    def broken(stack, group):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(Stack, "step", broken)
    with pytest.raises(RuntimeError, match="out of everything"):
        InterpolantSearchCV(quick(), {"weight_decay": [0.1, 1.0]}, cv=2, error_score="raise").fit(X)
    assert "siflow_sk meeting" not in {thread.name for thread in threading.enumerate()}


def test_an_interrupt_ends_the_search(X, monkeypatch):
    monkeypatch.setattr(
        "siflow_sk.search.joblib.delayed", lambda function: lambda share: (_interrupted, (share,), {})
    )
    with pytest.raises(KeyboardInterrupt):
        InterpolantSearchCV(quick(max_iter=10**6), {"weight_decay": [0.1, 1.0]}, cv=2).fit(X)


def _interrupted(share):
    """The main thread is interrupted while the fits are under way."""
    with Meeting() as meeting:
        threads = [threading.Thread(target=_attended, args=(meeting, task), daemon=True) for task in share]
        for thread in threads:
            thread.start()
        threads[0].join(0.5)
        assert threads[0].is_alive()
        meeting.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    raise KeyboardInterrupt


def _attended(meeting, task):
    with meeting.attend():
        task()


def test_filters_of_warnings_and_the_random_state_stay(X):
    legacy, filters = np.random.get_state()[1].copy(), list(warnings.filters)  # noqa: NPY002
    state = torch.get_rng_state()
    InterpolantSearchCV(quick(), {"weight_decay": [0.1, 1.0]}, cv=2).fit(X)
    assert warnings.filters == filters
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_rows_reach_the_fits(X):
    weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    searches = (cls(quick(), {"weight_decay": [0.1]}, cv=2) for cls in (InterpolantSearchCV, GridSearchCV))
    agree(*(search.fit(X, sample_weight=weight) for search in searches))


def test_what_was_found_can_be_saved(X, tmp_path):
    search = InterpolantSearchCV(quick(), {"weight_decay": [0.1, 1.0]}, cv=2).fit(X)
    search.best_estimator_.save(tmp_path / "best.safetensors")
    loaded = siflow_sk.load(tmp_path / "best.safetensors")
    np.testing.assert_array_equal(loaded.score_samples(X), search.score_samples(X))


# -- a leading axis of models ------------------------------------------------------------------------------

NETWORKS = {
    "tanh": MLP(width=7),
    "silu, two blocks": MLP(width=6, n_blocks=2, activation="silu"),
    "softplus": MLP(width=5, activation="softplus", n_frequencies=2),
}


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_stacked_networks_are_each_of_them(name, with_context):
    generator = torch.Generator().manual_seed(0)
    extra = {"n_context": 2} if with_context else {}
    networks = [NETWORKS[name].build(3, generator, **extra).double() for _ in range(4)]
    for network in networks:  # nothing of them is zero
        for p in network.parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    t, x0, x1, context = (
        torch.rand(4, 10, k, generator=generator, dtype=torch.float64) for k in (1, 3, 3, 2)
    )
    knots = torch.linspace(1.0, 0.0, 3, dtype=torch.float64) + 0.0 * t[:, :1, 0]
    knots[:, 1] += torch.tensor([0.0, 0.1, -0.1, 0.05])
    base = StudentT().fit(x0[0], None)
    losses = (
        lambda v, i: quadratic_loss(v, Linear(), t[i], x0[i], x1[i]),
        lambda v, i: likelihood_loss(v, base, x1[i], knots[i], 3.0),
        lambda v, i: guarded_log_density(v, base, x1[i]).mean(-1),
    )
    weights = [torch.stack(ws).detach() for ws in zip(*(n.parameters() for n in networks), strict=True)]
    stack = _stack.with_weights(networks[0], weights)

    def at(network, i):
        return network.given(context[i]) if with_context else network

    for loss in losses:
        found = loss(at(stack, slice(None)), slice(None))
        gradients = torch.autograd.grad(found.sum(), list(stack.parameters()), materialize_grads=True)
        for i, network in enumerate(networks):
            alone = loss(at(network, i), i)
            torch.testing.assert_close(found[i], alone, rtol=1e-12, atol=1e-12)
            wanted = torch.autograd.grad(alone, list(network.parameters()), materialize_grads=True)
            for g, w in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(g[i], w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("with_context", [False, True])
def test_solutions_of_a_stack_are_each_of_them(with_context, single):
    generator = torch.Generator().manual_seed(0)
    extra = {"n_context": 2} if with_context else {}
    requests, alone = [], []
    for n_steps in (3, 7, 1):
        network = MLP(width=6, n_blocks=2).build(3, generator, **extra).double()
        for p in network.parameters():
            p.data += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        x, change = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 3), (5,)))
        tables = [x, change, torch.randn(5, 2, generator=generator, dtype=torch.float64)]
        tables = tables if with_context else tables[:2]
        knots = torch.rand(n_steps + 1, generator=generator, dtype=torch.float64).sort(descending=True).values
        requests.append(Solution(network, single, tables, knots))
        velocity = in_single(network) if single else network
        with torch.no_grad():
            alone.append(along(FlowWithDivergence(given(velocity, *tables[2:])), (x, change), knots))
    assert len({request.key for request in requests}) == 1
    Solution.serve(requests, None, 3)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if single else {"rtol": 1e-10, "atol": 1e-12}
    for request, ((end, change), sizes) in zip(requests, alone, strict=True):
        torch.testing.assert_close(request.answer[0], (end, change), **tolerance)
        torch.testing.assert_close(request.answer[1], sizes, **tolerance)
    assert alone[0][1].max() > 1e-3
    assert Solution(network, not single, tables, knots).key != requests[0].key


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 4, 5), (3, 4, 4)])
def test_stacked_matrices_are_orthogonalised_each_by_itself(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices[1] *= 1e3
    for one, alone in zip(orthogonalised(matrices), map(orthogonalised, matrices), strict=True):
        torch.testing.assert_close(one, alone, rtol=1e-12, atol=1e-12)


def test_a_part_whose_state_is_not_numbers_steps_alone():
    class Own(Linear):
        pass

    assert _meeting.likeness(Linear()) == _meeting.likeness(Linear())
    assert _meeting.likeness(StudentT(3.0)) != _meeting.likeness(StudentT(4.0))
    assert _meeting.likeness(Own()) is None  # of another module
    tabulated = Linear()
    tabulated.table = torch.zeros(3)
    assert _meeting.likeness(tabulated) is None
