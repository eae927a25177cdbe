"""Checkpoints: a fit that was killed goes on as if nothing had happened, and never from a wrong file."""

import copy
import itertools
import json
import subprocess
import sys
import time

import kill_fit
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.mixture import GaussianMixture

import siflow_sk
from siflow_sk import ConditionalInterpolantFlow, InterpolantFlow
from siflow_sk._training import Trainer, _loop, _plan
from siflow_sk.exceptions import TrainingWarning
from siflow_sk.flow import _trained
from siflow_sk.persistence import Checkpoint, OpenCheckpoint, _container
from siflow_sk.velocities import MLP, ConditionalMLP


@pytest.fixture(scope="module")
def X():
    return kill_fit.table()[0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.checkpoint"


def quick(**parameters):
    settings = {"velocity": MLP(width=8, time_width=8), "max_iter": 15, "polish": 15, "random_state": 0}
    return InterpolantFlow(**{**settings, **parameters})


class Stop(Exception):
    pass


def stopped(flow, X, checkpoint, monkeypatch, after, name="_step", **kwargs):
    """Fit until call number ``after`` of a method of the trainer, then raise; no need to kill for that."""
    calls, method = [0], getattr(Trainer, name)

    def counted(self, *args):
        calls[0] += 1
        if calls[0] == after:
            raise Stop
        return method(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, name, counted)
        with pytest.raises(Stop):
            flow.fit(X, checkpoint=checkpoint, **kwargs)


def trials(what, timeout):
    command = [sys.executable, kill_fit.__file__, json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(reports):
    for report in reports:
        told = json.dumps(report)
        assert all(report["killed"]), told
        assert report["equal"], told
        assert report["left"] == ["c"], told


def test_fault_52_killed_in_every_phase():
    """One fit, killed again and again; each time it goes on from where it was."""
    kills = [["half written", 4], ["training", 12], ["base", 2], ["validation", 4], ["polish", 3]]
    check(trials([[[*kills, ["grid choice", 1]], 0.0]], 300))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fault_52_killed_at_random_moments(record_property):
    reports = trials(24, 1100)
    record_property("fits", len(reports))
    record_property("kills", sum(sum(report["killed"]) for report in reports))
    record_property("ended in the same bits", sum(report["equal"] for report in reports))
    assert {kill[0] for report in reports for kill in report["kills"]} >= set(kill_fit.PHASES)
    check(reports)


# -- what it goes on with ----------------------------------------------------------------------------------

CONFIGURATIONS = {
    "two candidates": {},
    "adaptive": {"solver": "dopri5", "preprocessor": "whiten", "base": "student_t"},
    "no validation": {"early_stopping": False, "preprocessor": "standardize"},
    "no polish": {"polish": 0, "interpolant": "linear"},
    "learnt path": {"interpolant": "fourier", "coupling": "optimal_transport", "batch_size": 64},
    "learnt base": {"interpolant": "fourier", "base": "learnt_gaussian", "batch_size": 64},
    "base that draws numbers": {"base": GaussianMixture(3, init_params="random")},
    "learning rate falls": {"learning_rate_init": 0.3, "n_iter_no_change": 1, "polish": 60},
}


def learnt(flow, X):
    figures = [flow.score_samples(X), np.array(flow.loss_curve_ + flow.polish_loss_curve_)]
    figures += [p.numpy() for p in flow.velocity_.state_dict().values()]
    figures.append(getattr(flow.interpolant_, "coefficients_", torch.zeros(0)).numpy())
    figures += [np.array(flow.validation_scores_), np.array([flow.n_iter_, flow.best_iteration_])]
    return [*figures, flow.history_.drop(columns="seconds").to_numpy(), flow.sample(3, random_state=0)]


def equal(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_going_on_is_equal_to_the_bit(name, X, path, monkeypatch):
    calls, step = [0], Trainer._step

    def counted(self, *args):
        calls[0] += 1
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", counted)
        wanted = learnt(quick(**CONFIGURATIONS[name]).fit(X), X)
    for after in (
        calls[0] // 3,
        2 * calls[0] // 3,
        calls[0],
    ):  # each from where the last stopped
        flow, before = quick(**CONFIGURATIONS[name]), 0
        if path.exists():
            states = OpenCheckpoint(path).states
            before = sum(state["iteration"] for state in states)
        stopped(flow, X, Checkpoint(path, every=0), monkeypatch, after - before)
        assert not hasattr(flow, "velocity_")
    flow = quick(**CONFIGURATIONS[name]).fit(X, checkpoint=path)
    equal(learnt(flow, X), wanted)


def test_a_finished_checkpoint_gives_the_model_without_a_step(X, path, monkeypatch):
    wanted = learnt(quick().fit(X, checkpoint=path), X)
    monkeypatch.setattr(Trainer, "_step", None)
    equal(learnt(quick().fit(X, checkpoint=path), X), wanted)


def test_the_first_of_two_candidates_goes_on(path, monkeypatch):
    """The second one has drawn numbers in between, and draws them again when training is taken up."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)) * 0.3 + np.sign(rng.normal(size=(200, 2)))
    second, regress = [], Trainer.regress
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "regress", lambda *args: second.append(args[0]) or regress(*args))
        flow = quick().fit(X)
    assert flow.preprocessor_.density_  # that is the first
    stopped(quick(), X, Checkpoint(path, every=0), monkeypatch, 15 + second[1].iteration + 4)
    equal(learnt(quick().fit(X, checkpoint=path), X), learnt(flow, X))


def test_a_fit_without_a_seed_goes_on_with_the_seed_it_had(X, path, monkeypatch):
    flow = quick(random_state=None)
    stopped(flow, X, Checkpoint(path, every=0), monkeypatch, 20)
    seed = OpenCheckpoint(path).seed
    wanted = learnt(quick(random_state=seed).fit(X), X)
    equal(learnt(quick(random_state=None).fit(X, checkpoint=path), X), wanted)


def test_a_random_state_must_be_where_it_was(X, path, monkeypatch):
    stopped(quick(random_state=np.random.RandomState(3)), X, Checkpoint(path, every=0), monkeypatch, 20)
    wanted = learnt(quick(random_state=np.random.RandomState(3)).fit(X), X)
    with pytest.raises(ValueError, match=r"it differs in seed \(\d+ there, \d+ here\)"):
        quick(random_state=np.random.RandomState(4)).fit(X, checkpoint=path)
    equal(learnt(quick(random_state=np.random.RandomState(3)).fit(X, checkpoint=path), X), wanted)


def test_weights_and_a_model_to_go_on_from(X, path, monkeypatch):
    weight = 1.0 + (X[:, 0] > 1)
    first = quick().fit(X[:110])
    wanted = learnt(quick_again(first).fit(X, sample_weight=weight), X)
    stopped(quick_again(first), X, Checkpoint(path, every=0), monkeypatch, 20, sample_weight=weight)
    equal(learnt(quick_again(first).fit(X, sample_weight=weight, checkpoint=path), X), wanted)
    other = quick(random_state=1).fit(X[:110])
    with pytest.raises(ValueError, match="it differs in the model to go on from"):
        quick_again(other).set_params(random_state=0).fit(X, sample_weight=weight, checkpoint=path)


def quick_again(fitted):
    """The same fitted model, about to go on."""
    return copy.deepcopy(fitted).set_params(warm_start=True)


# -- whose checkpoint it is --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def begun(X, tmp_path_factory):
    """The bytes of a checkpoint in the midst of training."""
    path = tmp_path_factory.mktemp("begun") / "c"
    with pytest.MonkeyPatch.context() as patch:
        stopped(quick(), X, Checkpoint(path, every=0), patch, 20)
    return path.read_bytes()


def test_a_checkpoint_of_another_fit_is_refused_with_what_differs(begun, X, path, monkeypatch):
    path.write_bytes(begun)
    weight = np.ones(len(X))
    weight[0] = 2.0
    cases = {
        r"max_iter \(15 there, 16 here\)": (quick(max_iter=16), X, None),
        r"preprocessor \('gaussianize' there, 'whiten' here\); tol \(0\.001 there, 0\.1 here\)": (
            quick(tol=0.1, preprocessor="whiten"),
            X,
            None,
        ),
        r"velocity \(MLP \w+ there, MLP \w+ here\)": (quick(velocity=MLP(width=9, time_width=8)), X, None),
        r"seed \(0 there, 1 here\)": (quick(random_state=1), X, None),
        r"X \(120 x 2 distinct, \w+ there, 119 x 2 distinct": (quick(), X[1:], None),
        r"X \(120 x 2 distinct, (\w+) there, 120 x 2 distinct, (?!\1)": (quick(), X + 1e-9, None),
        r"sample_weight \(120 in all, \w+ there, 121 in all": (quick(), X, weight),
    }
    for message, (flow, rows, weights) in cases.items():
        with pytest.raises(ValueError, match=r"checkpoint of another fit: it differs in (X .*; )?" + message):
            flow.fit(rows, sample_weight=weights, checkpoint=path)
        assert path.read_bytes() == begun
        assert not hasattr(flow, "velocity_")
    monkeypatch.setattr(_trained, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"siflow_sk \(.* there, 99\.0 here\)"):
        quick().fit(X, checkpoint=path)


def test_what_does_not_touch_training_may_differ(begun, X, path):
    path.write_bytes(begun)
    order = np.random.default_rng(0).permutation(len(X))
    flow = quick(inference_dtype="float32", verbose=0).fit(X[order], checkpoint=path)
    np.testing.assert_allclose(flow.score_samples(X), quick().fit(X).score_samples(X), atol=1e-3)


def test_other_files_are_refused(begun, X, path):
    data = bytearray(begun)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"the file is damaged \(checksum\)"):
        quick().fit(X, checkpoint=path)
    path.write_bytes(begun)
    with pytest.raises(ValueError, match="holds 'checkpoint', not 'estimator'"):
        siflow_sk.load(path)
    quick().save(path)
    with pytest.raises(ValueError, match="holds 'estimator', not 'checkpoint'"):
        quick().fit(X, checkpoint=path)
    path.write_bytes(_container.pack("checkpoint", {"$": "dict", "items": []}, {}))
    with pytest.raises(ValueError, match="not that of a checkpoint"):
        quick().fit(X, checkpoint=path)
    with pytest.raises(ValueError, match="every must be a number of seconds >= 0, got -1"):
        Checkpoint(path, every=-1)


# -- when it is written ------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_every_so_many_seconds(X, path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    step, keep = Trainer._step, OpenCheckpoint.keep

    def timed(self, *args):
        now[0] += 1.0
        return step(self, *args)

    def noted(self, take):
        written.append(now[0])
        return keep(self, take)

    monkeypatch.setattr(Trainer, "_step", timed)
    monkeypatch.setattr(OpenCheckpoint, "keep", noted)
    flow = quick(preprocessor="whiten").fit(X, checkpoint=Checkpoint(path, every=7))
    steps = float(flow.n_iter_)
    assert written == [*np.arange(7.0, steps, 7.0), steps]


def test_training_goes_on_where_a_checkpoint_cannot_be_written(X, path, monkeypatch):
    wanted = learnt(quick().fit(X), X)
    missing = path.parent / "missing" / "c"
    with pytest.warns(TrainingWarning, match="could not be written .*training goes on") as seen:
        flow = quick().fit(X, checkpoint=Checkpoint(missing, every=0))
    assert len([w for w in seen if "could not be written" in str(w.message)]) == 1
    equal(learnt(flow, X), wanted)


def test_an_interrupted_fit_can_be_taken_up_again(X, path, monkeypatch):
    wanted = learnt(quick().fit(X), X)
    loss, calls = _loop.likelihood_loss, [0]

    def interrupted(*args, **options):
        calls[0] += 1
        if calls[0] == 5:  # two before the first step choose its grid
            raise KeyboardInterrupt
        return loss(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_loop, "likelihood_loss", interrupted)
        with pytest.warns(TrainingWarning, match="interrupted after"):
            quick().fit(X, checkpoint=Checkpoint(path, every=0))
    equal(learnt(quick().fit(X, checkpoint=path), X), wanted)


@pytest.mark.parametrize("after", [20, 40, 65])  # in the polish of the first, in the second, in the third
def test_a_fit_of_several_networks_goes_on_in_the_one_that_was_reached(X, path, monkeypatch, after):
    flow, steps, step = quick(n_networks=3, preprocessor="whiten"), [], Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda trainer, *args: steps.append(trainer) or step(trainer, *args)
    )
    wanted = learnt(flow.fit(X), X)
    assert list(dict.fromkeys(steps)).index(steps[after - 1]) == [20, 40, 65].index(after)
    left = len(steps) - (after - 1)
    stopped(quick(n_networks=3, preprocessor="whiten"), X, Checkpoint(path, every=0), monkeypatch, after)
    steps.clear()
    again = quick(n_networks=3, preprocessor="whiten").fit(X, checkpoint=path)
    equal(learnt(again, X), wanted)
    assert len(steps) == left


def test_a_checkpoint_leaves_the_callers_generator_alone(X, path):
    before = torch.get_rng_state()
    quick().fit(X, checkpoint=Checkpoint(path, every=0))
    assert torch.equal(torch.get_rng_state(), before)


# -- conditional densities ---------------------------------------------------------------------------------


def conditional(**parameters):
    settings = {"velocity": ConditionalMLP(width=8, time_width=8), "max_iter": 15, "polish": 15}
    return ConditionalInterpolantFlow(**{**settings, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def table(X):
    """Columns with numbers and a category, and a target."""
    frame = pd.DataFrame({"x": X[:, 0], "kind": np.where(X[:, 0] > np.median(X[:, 0]), "a", "b")})
    return frame, X[:, 1]


def known_of(model, frame, y):
    figures = [model.score_samples(frame, y), model.predict(frame), np.array(model.loss_curve_)]
    return [*figures, np.array(model.polish_loss_curve_), np.array(model.validation_scores_)]


@pytest.mark.parametrize("after", [9, 20])
def test_a_conditional_fit_goes_on_to_the_bit(table, path, monkeypatch, after):
    """From the quadratic stage of the first candidate, and from what follows."""
    steps, step = [], Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda self, *args: steps.append(1) or step(self, *args))
    wanted, (frame, y) = known_of(conditional().fit(*table), *table), table
    in_all = len(steps)
    stopped(conditional(), frame, Checkpoint(path, every=0), monkeypatch, after, y=y)
    steps.clear()
    equal(known_of(conditional().fit(*table, checkpoint=path), *table), wanted)
    assert len(steps) == in_all - (after - 1)


def test_a_conditional_fit_refuses_the_checkpoint_of_another(table, path, monkeypatch):
    frame, y = table
    stopped(conditional(), frame, Checkpoint(path, every=0), monkeypatch, 20, y=y)
    cases = {
        r"X and y \(120 x 4 distinct, \w+ there, 119 x 4 distinct": (conditional(), frame[1:], y[1:], None),
        r"X and y \(120 x 4 distinct, (\w+) there, 120 x 4 distinct, (?!\1)": (
            conditional(),
            frame,
            y + 1e-9,
            None,
        ),
        r"tol \(0\.001 there, 0\.1 here\)": (conditional(tol=0.1), frame, y, None),
        r"sample_weight \(120 in all, \w+ there, 240 in all": (conditional(), frame, y, np.full(120, 2.0)),
    }
    for message, (model, rows, target, weight) in cases.items():
        with pytest.raises(ValueError, match=r"checkpoint of another fit: it differs in (.*; )?" + message):
            model.fit(rows, target, sample_weight=weight, checkpoint=path)
        assert not hasattr(model, "velocity_")
    quick().fit(frame[["x"]].to_numpy(), checkpoint=path.with_name("flow"))
    with pytest.raises(ValueError, match="it differs in class"):
        conditional().fit(*table, checkpoint=path.with_name("flow"))


def test_a_conditional_fit_goes_on_from_a_model_and_a_checkpoint(table, path, monkeypatch):
    frame, y = table

    def again():
        return copy.deepcopy(first).set_params(warm_start=True)

    first = conditional().fit(frame[:110], y[:110])
    wanted = known_of(again().fit(*table), *table)
    stopped(again(), frame, Checkpoint(path, every=0), monkeypatch, 20, y=y)
    equal(known_of(again().fit(*table, checkpoint=path), *table), wanted)
    other = conditional(random_state=1).fit(frame[:110], y[:110]).set_params(random_state=0, warm_start=True)
    with pytest.raises(ValueError, match="it differs in the model to go on from"):
        other.fit(*table, checkpoint=path)


def test_of_close_candidates_both_polishes_go_on(path, monkeypatch):
    """Whether they are close was told before the polish, of which the weights know no more."""
    X = np.random.default_rng(0).gamma(3.0, size=(150, 2))
    steps, closeness, step, close = [], [], Trainer._step, _plan._are_close
    monkeypatch.setattr(
        _plan, "_are_close", lambda trained: closeness.append(close(trained)) or closeness[-1]
    )
    monkeypatch.setattr(
        Trainer, "_step", lambda trainer, *args: steps.append(trainer) or step(trainer, *args)
    )
    wanted = learnt(quick(n_networks=2).fit(X), X)
    assert closeness == [True]
    runs = [(trainer, len(list(run))) for trainer, run in itertools.groupby(steps)]
    (one, _), (two, _), third, fourth, (follower, _) = runs  # both stages of either, and who follows
    assert (third[0], fourth[0], len({one, two, follower})) == (one, two, 3)
    total, ends = len(steps), np.cumsum([count for _, count in runs])
    for after in (ends[0] + 5, ends[1] + 1, ends[1] + 4, ends[2] + 1, ends[2] + 4, ends[3] + 5):
        path.unlink(missing_ok=True)
        stopped(quick(n_networks=2), X, Checkpoint(path, every=0), monkeypatch, after)
        steps.clear()
        equal(learnt(quick(n_networks=2).fit(X, checkpoint=path), X), wanted)
        assert len(steps) == total - (after - 1)
